"""A snapshot given as files, planned and read back: for the tests of planning and plans."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exporter.definitions.mapping import parse_mapping
from exporter.planning.plan import Plan, PlannedBatch
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.reading.dialect import Dialect
from exporter.reading.source import PartitionSource

Place = tuple[str, int]


@dataclass(frozen=True)
class Planned:
    """A plan in its folder."""

    plan: Plan
    folder: Path

    @functools.cached_property
    def reader(self) -> PlanReader:
        return PlanReader(self.plan, self.folder, list_id="Y6nRLr", memory_mb=64)

    def body(self, batch: PlannedBatch, **part: Any) -> list[Any]:
        """The profiles of a body, which must be strict JSON."""
        document = strict_json(self.reader.body(batch, **part))
        assert document["data"]["type"] == "profile-bulk-import-job"
        assert document["data"]["relationships"] == {
            "lists": {"data": [{"type": "list", "id": "Y6nRLr"}]}
        }
        profiles = document["data"]["attributes"]["profiles"]["data"]
        assert isinstance(profiles, list)
        return profiles

    def profiles(self) -> list[Any]:
        return [profile for batch in self.plan.batches for profile in self.body(batch)]

    def attributes(self) -> list[dict[str, Any]]:
        return [profile["attributes"] for profile in self.profiles()]

    def rejected(self) -> list[dict[str, str]]:
        return self._rows("rejected.csv")

    def rejections(self) -> list[tuple[str, int, str]]:
        """Source, line and reason, sorted."""
        return sorted((row["source"], int(row["line"]), row["reason"]) for row in self.rejected())

    def left_out(self) -> list[tuple[str, int, str, str]]:
        """Source, line, attribute and reason of each cell that is left out."""
        rows = self._rows("left_out.csv")
        return [(row["source"], int(row["line"]), row["attribute"], row["reason"]) for row in rows]

    def duplicates(self) -> list[tuple[Place, Place]]:
        """Where each duplicate stands, and the row it gave way to."""
        rows = self._rows("duplicates.csv")
        return [
            ((row["source"], int(row["line"])), (row["kept_source"], int(row["kept_line"])))
            for row in rows
        ]

    def places(self, batch: PlannedBatch) -> list[Place]:
        """Source and line of each profile of a batch, in order."""
        found = self.reader.rows_at(batch, range(batch.profiles))
        rows = [(found[position].piece, found[position].row) for position in range(batch.profiles)]
        lines = self.reader.locate(rows)
        return [lines[row] for row in rows]

    def _rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, strict=True))


@contextlib.contextmanager
def planned(
    files: Mapping[str, bytes | str | Iterable[bytes]],
    mapping: Mapping[str, Any] | None = None,
    *,
    dialects: Mapping[str, Dialect] | None = None,
    **options: Any,
) -> Iterator[Planned]:
    """Plan files as one snapshot, and open the plan."""
    known = dialects or {}
    sources = [
        PartitionSource(
            name=name, open=lambda data=data: _chunks(data), dialect=known.get(name, Dialect())
        )  # type: ignore[misc]
        for name, data in files.items()
    ]
    with TemporaryDirectory() as name:
        folder = Path(name) / "it's a plan"
        plan = make_plan(
            sources, parse_mapping(dict(mapping or {"email": "EMail"})), folder, **options
        )
        assert plan.adds_up()
        assert plan.rows == sum(note.rows for note in plan.sources)
        assert Plan.model_validate_json((folder / "plan.json").read_bytes()) == plan
        opened = Planned(plan, folder)
        try:
            yield opened
        finally:
            if "reader" in vars(opened):
                opened.reader.close()


def _chunks(data: bytes | str | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(data, str):
        return [data.encode()]
    return [data] if isinstance(data, bytes) else data


def as_csv(rows: Iterable[Sequence[str]], *, delimiter: str = ",", line_end: str = "\n") -> str:
    """Write as csv.writer does, but quote every field with a line break.

    csv.writer does so only from Python 3.13 on.
    """

    def field(value: str, width: int) -> str:
        special = any(one in value for one in ('"', delimiter, "\r", "\n")) or (
            width == 1 and not value
        )
        return '"' + value.replace('"', '""') + '"' if special else value

    return "".join(
        delimiter.join(field(value, len(row)) for value in row) + line_end for row in rows
    )


def strict_json(text: str | bytes) -> Any:
    """Parse JSON as its RFC has it: no NaN, no name twice."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), [name for name, _ in pairs]
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
