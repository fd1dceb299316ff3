"""A plan: every row of a snapshot, checked and staged, and the batches to be sent. Read here, made in planning.

A plan is a folder:

    plan.json             this document, written last: a plan without it does not exist
    rows-00000.parquet    the staged rows of one piece (a stretch of one partition), in source order:
                          key (hash of the identifier), reason, refused_id, source_row (of rejected rows, where they
                          are kept), breaks, size, dropped, newest, unusual_profile, f0 (the identifier), f1, ...
    duplicates.parquet    piece, row, kept_piece, kept_row of every row that gives way to another
    rejected.csv          source, line, column, reason, message, identifier of every row that is not sent, and the row
                          itself where the export keeps it
    duplicates.csv        the duplicates by source and line

A row is addressed by piece and position in it. A batch is a range of rows, minus those with a reason and duplicates.
"""

from __future__ import annotations

import bisect
import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from pydantic import BaseModel, ConfigDict, Field

from exporter.definitions.mapping import MappedField
from exporter.errors import ConfigError, RowsLost
from exporter.planning import profiles as payload
from exporter.planning.row_rules import literal
from exporter.reading.partition import source_line

PLAN_NAME = "plan.json"
DUPLICATES_NAME = "duplicates.parquet"
REJECTED_CSV = "rejected.csv"
DUPLICATES_CSV = "duplicates.csv"
LINE_BREAKS = "line_breaks"  # metadata of the file of a piece's staged rows, see `reading.Piece`
IDENTIFIER = "f0"  # the staged column of the identifier, which is the first of the fields


def rows_name(piece: int) -> str:
    """File name of a piece's staged rows."""
    return f"rows-{piece:05d}.parquet"


class PlannedPiece(BaseModel):
    """One stretch of a partition. `source` is its position in `Plan.sources`."""

    model_config = ConfigDict(frozen=True)

    source: int
    rows: int


class Span(BaseModel):
    """Rows `first` to `last` (not included) of a piece."""

    model_config = ConfigDict(frozen=True)

    piece: int
    first: int
    last: int


class PlannedBatch(BaseModel):
    """One import job to be: at most 10,000 profiles and 4.5 MB. `number` counts from 0 within the run."""

    model_config = ConfigDict(frozen=True)

    number: int
    profiles: int
    size_bytes: int
    spans: tuple[Span, ...]


class SourceNote(BaseModel):
    """How a partition was read, for the report: nothing in it comes from a cell."""

    name: str
    lines: int = 0
    rows: int = 0
    delimiter: str = ","
    encoding: str = ""
    columns: tuple[str, ...] = ()
    header: str = ""
    culture: str = ""  # by which dates and numbers were read; "" for ISO 8601, en-US dates and decimal points


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
    dropped: dict[str, int]  # cells left out of profiles that are sent, by attribute; see also planning.NEWEST_BY
    dropped_examples: dict[str, list[str]] = Field(default_factory=dict)  # attribute -> the first rows
    examples: dict[str, list[str]]  # reason -> the first rows, as "source:line"
    keeps_rows: bool = False  # rejected.csv holds the rejected rows themselves

    def adds_up(self) -> bool:
        """Whether every row ended in exactly one way."""
        planned = sum(batch.profiles for batch in self.batches)
        return self.rows == self.profiles + self.duplicates + sum(self.rejected.values()) and planned == self.profiles


@dataclass(frozen=True, slots=True)
class RowPosition:
    """Where a row is staged, and its identifier (personal data: never logged)."""

    piece: int
    row: int
    identifier: str
    profile: str = ""  # as it was sent, if asked for

    def __repr__(self) -> str:
        return f"RowPosition({self.piece}, {self.row})"


def open_database(folder: Path, *, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that may read and write in `folder` only, and spills there.

    One thread a query: parallelism comes from our own threads, each with a cursor, which keeps memory predictable and
    the order of rows certain.
    """
    spill = folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    database = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": str(spill),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": True,
            # Joins stay as written, the large table first: swapping them would lose the order of rows.
            "disabled_optimizers": "join_order,build_side_probe_side",
        },
    )
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    # Else a row group is held as a whole, and other programs write them of a million rows.
    database.execute("SET GLOBAL disable_parquet_prefetching = true")
    database.execute("SET GLOBAL enable_external_file_cache = false")
    # As it is by default: what is known of row groups would be kept for good, 10 MB of it a million rows and the heap
    # in fragments between. To read it anew for each batch costs no more.
    database.execute("SET GLOBAL parquet_metadata_cache = false")
    database.execute(f"SET allowed_directories = [{literal(str(folder))}]")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Raises ConfigError where DuckDB needs more memory than it was given, and cannot spill."""
    try:
        yield
    except duckdb.OutOfMemoryException as exc:
        raise ConfigError(
            "the snapshot needs more memory than MEMORY_MB allows",
            hint="Raise MEMORY_MB: each mapped column takes about 1 MB, and the largest row group of a Parquet file "
            "has to fit. Or map fewer columns.",
        ) from exc


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
        self._database.execute(f"CREATE TABLE duplicates AS SELECT piece, row FROM read_parquet({duplicates})")

    def close(self) -> None:
        self._database.close()

    def body(
        self, batch: PlannedBatch, *, first: int = 0, last: int | None = None, without: Collection[int] = ()
    ) -> bytes:
        """The request body for the profiles `first` to `last` (not included) of a batch, some left out.

        Positions count the batch's profiles from 0. What Klaviyo's error pointers count is the profiles of the body.
        """
        sent: Sequence[int] = range(batch.profiles)[first:last]
        if first == 0 and last is None and not without:
            rows, is_plain = self._rows(batch), not any(self._has_duplicates(span) for span in batch.spans)
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
            raise RowsLost(f"{found[0]:,} of {len(sent):,} profiles of batch {batch.number} came out of the plan")
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
        return locate(self._database, self.plan.pieces, [note.name for note in self.plan.sources], self.folder, rows)

    def sample(self, count: int) -> list[str]:
        """The first profiles as Klaviyo would get them, for a dry run."""
        if not self.plan.batches:
            return []
        rows = self._rows(self.plan.batches[0])
        return [
            text for (text,) in self._database.execute(f"SELECT {self._profile} FROM ({rows}) LIMIT {count}").fetchall()
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
        return self._database.execute(f"SELECT row {self._duplicates_of(span)} LIMIT 1").fetchone() is not None

    def _duplicates_of(self, span: Span) -> str:
        return f"FROM duplicates WHERE piece = {span.piece} AND row >= {span.first} AND row < {span.last}"

    def _numbered(self, batch: PlannedBatch) -> str:
        return (
            f"SELECT *, row_number() OVER (ORDER BY piece, file_row_number) - 1 AS position FROM ({self._rows(batch)})"
        )

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


def _local_lines(database: duckdb.DuckDBPyConnection, rows: Path, wanted: Sequence[int]) -> Iterator[tuple[int, int]]:
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
