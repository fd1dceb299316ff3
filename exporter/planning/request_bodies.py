"""A plan opened for sending: request bodies by batch, rows by position, lines by row."""

from __future__ import annotations

import bisect
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from exporter.errors import RowsLost
from exporter.planning import profiles as payload
from exporter.planning.plan import (
    DUPLICATES_NAME,
    IDENTIFIER,
    LINE_BREAKS,
    Plan,
    PlannedBatch,
    PlannedPiece,
    Span,
    rows_name,
)
from exporter.reading.pieces import source_line
from exporter.sql import literal, open_database, within_memory


@dataclass(frozen=True, slots=True)
class RowPosition:
    """Where a row is staged, and its identifier (personal data: never logged)."""

    piece: int
    row: int
    identifier: str
    profile: str = ""  # as it was sent, if asked for

    def __repr__(self) -> str:
        return f"RowPosition({self.piece}, {self.row})"


class PlanReader:
    """The plan of a run, open for sending: bodies by batch, rows by position, lines by row. One thread at a time."""

    def __init__(self, plan: Plan, folder: Path, *, list_id: str, memory_mb: int) -> None:
        self.plan = plan
        self.folder = folder
        self._database = open_database(folder, memory_mb=memory_mb)
        self._before, self._after = (part.encode() for part in payload.envelope(list_id))
        # A snapshot of empty files has no fields, and nothing to be read from it either.
        self._profile = payload.profile(plan.fields) if plan.fields else "NULL"
        duplicates = _path(folder / DUPLICATES_NAME)
        self._database.execute(
            f"CREATE TABLE duplicates AS SELECT piece, row FROM read_parquet({duplicates})"
        )

    def close(self) -> None:
        self._database.close()

    def body(
        self,
        batch: PlannedBatch,
        *,
        first: int = 0,
        last: int | None = None,
        without: Collection[int] = (),
    ) -> bytes:
        """The request body for the profiles `first` to `last` (not included) of a batch, some left out.

        Positions count the batch's profiles from 0. What Klaviyo's error pointers count is the profiles of the body.
        """
        sent: Sequence[int] = range(batch.profiles)[first:last]
        if first == 0 and last is None and not without:
            rows, is_plain = (
                self._rows(batch),
                not any(self._has_duplicates(span) for span in batch.spans),
            )
        else:
            sent = sorted(set(sent).difference(without))
            rows, is_plain = self._rows_at(batch, sent), False
        # A plain scan keeps the order. Else it must be asked for: DuckDB 2.0 keeps a chunk of fewer than 64 rows back
        # behind the join that removes duplicates, and then Klaviyo's pointers would name the wrong people.
        order = "" if is_plain else " ORDER BY piece, file_row_number"
        profiles = f"encode(string_agg({self._profile}, ','{order}))"
        with within_memory():
            found = self._database.execute(f"SELECT count(*), {profiles} FROM ({rows})").fetchone()
        assert found is not None
        if found[0] != len(sent):
            raise RowsLost(
                f"{found[0]:,} of {len(sent):,} profiles of batch {batch.number} came out of the plan"
            )
        return b"".join((self._before, found[1] or b"", self._after))

    def rows_at(self, batch: PlannedBatch, positions: Collection[int]) -> dict[int, RowPosition]:
        """Where the profiles at these positions of a batch are staged; with what was sent where rows are kept."""
        profile = self._profile if self.plan.keeps_rows else "''"
        rows = self._database.execute(
            f"SELECT position, piece, file_row_number, {IDENTIFIER}, {profile} FROM ({self._rows_at(batch, positions)})"
        ).fetchall()
        return {position: RowPosition(*found) for position, *found in rows}

    def positions_of(self, batch: PlannedBatch, identifiers: Collection[str]) -> dict[str, int]:
        """The positions in a batch of the profiles with these identifiers."""
        rows = self._database.execute(
            f"SELECT {IDENTIFIER}, position FROM ({self._numbered(batch)}) WHERE list_contains($ids, {IDENTIFIER})",
            {"ids": list(identifiers)},
        ).fetchall()
        return dict(rows)

    def locate(self, rows: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, int]]:
        """Source file and line of rows given by piece and position in it."""
        return locate(
            self._database,
            self.plan.pieces,
            [note.name for note in self.plan.sources],
            self.folder,
            rows,
        )

    def sample(self, count: int) -> list[str]:
        """The first profiles as Klaviyo would get them, for a dry run."""
        if not self.plan.batches:
            return []
        rows = self._rows(self.plan.batches[0])
        return [
            text
            for (text,) in self._database.execute(
                f"SELECT {self._profile} FROM ({rows}) LIMIT {count}"
            ).fetchall()
        ]

    def _rows(self, batch: PlannedBatch) -> str:
        """SQL: the batch's staged rows in order."""
        return " UNION ALL ".join(
            f"SELECT * FROM read_parquet({_path(self.folder / rows_name(span.piece))}, file_row_number = true)"
            f" WHERE file_row_number >= {span.first} AND file_row_number < {span.last} AND reason IS NULL"
            f"{self._no_duplicates(span)}"
            for span in batch.spans
        )

    def _no_duplicates(self, span: Span) -> str:
        """SQL: the condition that leaves out a span's duplicates; "" where it has none."""
        if not self._has_duplicates(span):
            return ""
        return f" AND file_row_number NOT IN (SELECT row {self._duplicates_of(span)})"

    def _has_duplicates(self, span: Span) -> bool:
        if not self.plan.duplicates:
            return False
        return (
            self._database.execute(f"SELECT row {self._duplicates_of(span)} LIMIT 1").fetchone()
            is not None
        )

    def _duplicates_of(self, span: Span) -> str:
        return f"FROM duplicates WHERE piece = {span.piece} AND row >= {span.first} AND row < {span.last}"

    def _numbered(self, batch: PlannedBatch) -> str:
        return f"SELECT *, row_number() OVER (ORDER BY piece, file_row_number) - 1 AS position FROM ({self._rows(batch)})"

    def _rows_at(self, batch: PlannedBatch, positions: Iterable[int]) -> str:
        """SQL: the staged rows at some positions of the batch."""
        chosen = ", ".join(map(str, positions)) or "NULL"
        return f"SELECT * FROM ({self._numbered(batch)}) WHERE position IN ({chosen})"


def locate(
    database: duckdb.DuckDBPyConnection,
    pieces: Sequence[PlannedPiece],
    sources: Sequence[str],
    folder: Path,
    rows: Iterable[tuple[int, int]],
) -> dict[tuple[int, int], tuple[str, int]]:
    """Source file and line of rows given by piece and position in it.

    A row's line is its position plus the line breaks inside the cells of the rows before it, which are staged as
    `breaks`, plus whatever was left out of the piece, which its `line_breaks` know.
    """
    by_piece: dict[int, list[int]] = {}
    for piece, row in rows:
        by_piece.setdefault(piece, []).append(row)
    found = {}
    for piece, wanted in by_piece.items():
        path = folder / rows_name(piece)
        line_breaks = _line_breaks(database, path)
        for row, local in _local_lines(database, path, wanted):
            found[piece, row] = (sources[pieces[piece].source], source_line(line_breaks, local))
    return found


def _line_breaks(database: duckdb.DuckDBPyConnection, rows: Path) -> list[tuple[int, int]]:
    found = database.execute(
        f"SELECT decode(value) FROM parquet_kv_metadata({_path(rows)}) WHERE decode(key) = {literal(LINE_BREAKS)}"
    ).fetchone()
    assert found is not None
    return [(local, source) for local, source in json.loads(found[0])]


def _local_lines(
    database: duckdb.DuckDBPyConnection, rows: Path, wanted: Sequence[int]
) -> Iterator[tuple[int, int]]:
    breaks = database.execute(
        "SELECT file_row_number, sum(breaks) OVER (ORDER BY file_row_number)"
        f" FROM read_parquet({_path(rows)}, file_row_number = true) WHERE breaks > 0 ORDER BY 1"
    ).fetchall()
    after = [row for row, _ in breaks]
    for row in wanted:
        at = bisect.bisect_left(after, row)
        yield row, row + 1 + (int(breaks[at - 1][1]) if at else 0)


def _path(path: Path) -> str:
    return literal(str(path))
