"""What a snapshot is to be: everything that can be chosen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from sandbox.snapshots.columns import Column
from sandbox.snapshots.kinds import Kind
from sandbox.snapshots.spoiling import NEEDED_COLUMNS

ENCODINGS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "windows-1252"}


class Layout(StrEnum):
    """Where an export puts its files; see layouts.py."""

    DATED = "dated"
    DATED_NO_MODEL = "dated-no-model"
    UNDATED = "undated"
    MAPPED = "mapped"
    SINGLE = "single"


ONE_FILE = frozenset({Layout.MAPPED, Layout.SINGLE})


def _all_columns() -> dict[Column, str]:
    return {column: column.value for column in Column}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to make. Raises ValueError for what cannot be made.

    columns: each column, in order, and its name in the file; Extra1, Extra2, ... come after them.
    first: number of the first person. Snapshots of one seed share people with the same number.
    changed_every: every k-th person has another last name.
    exported_at: written without its zone.
    """

    rows: int
    partitions: int = 1
    seed: int = 1
    first: int = 0
    changed_every: int = 0
    segment: str = "HighValue"
    destination: str = "KlaviyoFeed"
    instance_id: str = "0f3c1a52-7d1e-4b0a-9c55-2f6a9b7e1d10"
    exported_at: datetime = datetime(2026, 3, 14, 6, 15, tzinfo=UTC)
    columns: Mapping[Column, str] = field(default_factory=_all_columns)
    extra_columns: int = 0
    cell_length: int = 12  # of the extra columns
    bad: Mapping[Kind, int] = field(default_factory=dict)
    layout: Layout = Layout.DATED
    header: bool = True
    delimiter: str = ","
    encoding: str = "utf-8"
    line_ending: str = "\n"
    container_url: str = "https://examplestorage.blob.core.windows.net/klaviyo-feed"
    format_settings: bool = True  # whether model.json says how the files are written

    def __post_init__(self) -> None:
        for is_wrong, why in (
            (self.partitions < 1, "a snapshot has at least one partition"),
            (self.rows < 0, "a snapshot cannot have a negative number of rows"),
            (
                self.partitions > 1 and self.layout in ONE_FILE,
                f"layout {self.layout} is one file, so it has one partition",
            ),
            (
                self.encoding not in ENCODINGS,
                f"encoding is one of {', '.join(ENCODINGS)}, not {self.encoding}",
            ),
            (
                Kind.INVALID_UTF8 in self.bad and not self.encoding.startswith("utf-8"),
                f"{Kind.INVALID_UTF8} cannot be planted in {self.encoding}",
            ),
            (
                Kind.RAGGED_SHORT in self.bad and len(self.columns) == 1,
                f"{Kind.RAGGED_SHORT} needs two columns",
            ),
            (self.extra_columns < 0, "the number of extra columns cannot be negative"),
            (self.cell_length < 1, "an extra cell needs at least one character"),
        ):
            if is_wrong:
                raise ValueError(why)
        for column, kinds in NEEDED_COLUMNS.items():
            if column not in self.columns and (wanted := sorted(kinds & set(self.bad))):
                raise ValueError(f"the kinds {', '.join(wanted)} need column {column}")

    def bounds(self) -> list[range]:
        """The rows of each partition, counted from 0 over the snapshot and as even as can be.

        With fewer rows than partitions some are empty.
        """
        share, rest = divmod(self.rows, self.partitions)
        starts = [share * part + min(part, rest) for part in range(self.partitions + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(starts)]

    def column_names(self) -> list[str]:
        """The names of all columns, as the header has them."""
        extra = (f"Extra{number}" for number in range(1, self.extra_columns + 1))
        return [*self.columns.values(), *extra]
