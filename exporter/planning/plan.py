"""A plan: every row of a snapshot, checked and staged, and the batches to be sent.

A plan is a folder:

    plan.json             this document, written last: a plan without it does not exist
    rows-00000.parquet    the staged rows of one piece (a stretch of one partition) in order:
                          key (hash of the identifier), reason, refused_id, source_row (of rejected
                          rows, where they are kept), breaks, size, dropped (attributes left out),
                          left_out (why), newest, date_orders, doubtful, unusual_profile,
                          f0 (the identifier), f1, ...
    duplicates.parquet    piece, row, kept_piece, kept_row of every row that gives way to another
    rejected.csv          source, line, column, reason, message, identifier of every row that is not
                          sent, and the row itself where the export keeps it
    duplicates.csv        the duplicates by source and line
    left_out.csv          source, line, attribute, reason, message of every cell that is left out of
                          a profile that is sent

A row is addressed by piece and position in it. A batch is a range of rows, minus those with a
reason and duplicates.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.definitions.mapped_fields import MappedField

PLAN_NAME = "plan.json"
DUPLICATES_NAME = "duplicates.parquet"
REJECTED_CSV = "rejected.csv"
LEFT_OUT_CSV = "left_out.csv"
DUPLICATES_CSV = "duplicates.csv"
LINE_BREAKS = "line_breaks"  # metadata of a file of staged rows, see `pieces.Piece`
IDENTIFIER = "f0"  # the staged column of the identifier, which is the first of the fields
NEWEST_BY = "newest_by"  # in `dropped`: cells left out of a comparison of rows, not of a profile
MAX_EXAMPLES = 3  # rows that are named of each kind


def rows_name(piece: int) -> str:
    """Name the file of a piece's staged rows."""
    return f"rows-{piece:05d}.parquet"


class PlannedPiece(BaseModel):
    """One stretch of a partition. `source` is its position in `Plan.sources`."""

    model_config = ConfigDict(frozen=True)

    source: int
    rows: int
    fields: int | None = None  # staged, if later partitions have more; None: all of the plan


class Span(BaseModel):
    """Rows `first` to `last` (not included) of a piece."""

    model_config = ConfigDict(frozen=True)

    piece: int
    first: int
    last: int


class PlannedBatch(BaseModel):
    """One import job to be: at most 10,000 profiles and 4.5 MB. `number` counts from 0."""

    model_config = ConfigDict(frozen=True)

    number: int
    profiles: int
    size_bytes: int
    spans: tuple[Span, ...]
    doubtful: bool | None = None  # only rows that Klaviyo may refuse, only others, or both


class SourceNote(BaseModel):
    """How a partition was read, for the report: nothing in it comes from a cell."""

    name: str
    lines: int = 0
    rows: int = 0
    delimiter: str = ","
    encoding: str = ""
    columns: tuple[str, ...] = ()
    header: str = ""
    culture: str = ""  # of dates and numbers; "": ISO 8601, en-US dates and decimal points


class DateOrder(BaseModel):
    """In which order the dates of an attribute were read, and why. Nothing in it is a cell."""

    model_config = ConfigDict(frozen=True)

    attribute: str
    order: Literal["day first", "month first", "undecided"]
    why: str
    ambiguous: int = 0  # cells left out, since the order is undecided


class Plan(BaseModel):
    """What a run will send, and what became of every row that it will not."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    sources: list[SourceNote]
    fields: list[MappedField]
    identifier: str
    pieces: list[PlannedPiece]
    batches: list[PlannedBatch]
    rows: int  # every row of every partition, however it ended
    profiles: int  # fit to send
    duplicates: int
    rejected: dict[str, int]  # by reason
    dropped: dict[str, int]  # cells left out of profiles that are sent, by attribute
    dropped_examples: dict[str, list[str]] = Field(default_factory=dict)  # their first rows
    dropped_reasons: dict[str, dict[str, int]] = Field(default_factory=dict)  # by attribute
    date_orders: list[DateOrder] = Field(default_factory=list)
    cleared: dict[str, int] = Field(default_factory=dict)  # values that are removed, by attribute
    not_cleared: list[str] = Field(default_factory=list)  # `empty: clear`, but blank in every row
    doubtful: int = 0  # profiles whose address Klaviyo may refuse
    examples: dict[str, list[str]]  # reason -> the first rows, as "source:line"
    keeps_rows: bool = False  # rejected.csv holds the rejected rows themselves

    def adds_up(self) -> bool:
        """Tell whether every row ended in exactly one way."""
        planned = sum(batch.profiles for batch in self.batches)
        return (
            self.rows == self.profiles + self.duplicates + sum(self.rejected.values())
            and planned == self.profiles
        )
