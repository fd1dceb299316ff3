"""Partitions -> a plan: read, check, remove duplicates, fill batches. Sends nothing and changes nothing.

    bytes --reading--> pieces of clean CSV --staging (SQL)--> rows-*.parquet --keys--> duplicates --sizes--> batches

Memory stays flat: a piece is at most 12 MB, two are staged at a time, DuckDB spills beyond its limit. What grows with
the rows is on disk.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import duckdb

from exporter.definitions.mapping import MappedField, MappingDocument, ResolvedMapping, resolve
from exporter.errors import SnapshotUnreadable
from exporter.planning import profiles as payload
from exporter.planning import row_rules
from exporter.planning.plan import (
    DUPLICATES_CSV,
    DUPLICATES_NAME,
    IDENTIFIER,
    PLAN_NAME,
    REJECTED_CSV,
    Plan,
    PlannedBatch,
    PlannedPiece,
    SourceNote,
    Span,
    locate,
    open_database,
    rows_name,
    within_memory,
)
from exporter.planning.row_rules import RejectReason, literal
from exporter.planning.staged_rows import RawPiece, stage
from exporter.reading import partition, text_encoding
from exporter.snapshots.model_json import Dialect

MAX_BATCH_PROFILES = 10_000  # Klaviyo, bulk import, revision 2026-07-15
MAX_BATCH_BYTES = 4_500_000  # Klaviyo takes 5 MB, decimal or binary is not said; others keep 4.5 to 4.7 MB
_ENVELOPE_BYTES = 300  # more than payload.envelope needs

REJECTED_COLUMNS = ("source", "line", "column", "reason", "message", "identifier")
ROW_COLUMN = "row"  # behind them, where rejected rows are kept
DUPLICATES_COLUMNS = ("source", "line", "kept_source", "kept_line")

NEWEST_BY = "newest_by"  # what is counted under this name was left out of a comparison, not of a profile

_STAGERS = 2  # pieces staged at a time: reading keeps two busy, a third only takes memory
_MOST_FIELDS_BESIDE = 40  # with more, a piece is staged by itself: DuckDB takes 0.8 MB for each field, and 0.2 a column
_MOST_COLUMNS_BESIDE = 120
_BLOCK_PROFILES = 100  # batches are filled by blocks of profiles: 100 blocks are a full batch
_KEYS_A_PASS = 2_000_000  # keys compared at a time: bounds the memory that finding duplicates takes
_PARQUET_ROWS = 102_400  # rows of a Parquet partition that make one piece
MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSource:
    """One partition to read: `open` gives its bytes from the start, in chunks."""

    name: str
    open: Callable[[], Iterable[bytes]]
    dialect: Dialect = field(default_factory=Dialect)


Progress = Callable[[int], None]


def make_plan(
    sources: Sequence[PartitionSource],
    mapping: MappingDocument,
    folder: Path,
    *,
    memory_mb: int = 96,
    keep_rows: bool = False,
    progress: Progress = lambda _: None,
    finished_file: Callable[[Path], None] = lambda _: None,
) -> Plan:
    """Plan the snapshot made of `sources` into `folder`, which must be empty.

    keep_rows: put the rejected rows themselves into rejected.csv; they are personal data.
    progress: told the rows staged so far. finished_file: called for each file of the plan when it is whole, from
    several threads, plan.json last and after all others (to put them where they are safe while planning goes on).
    Raises SnapshotUnreadable, MappingError, ConfigError for want of memory, and whatever opening a source raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        within_memory(),
        contextlib.closing(open_database(folder, memory_mb=memory_mb)) as database,
        _Planner(database, folder, mapping, keep_rows, progress, finished_file) as planner,
    ):
        for number, source in enumerate(sources):
            planner.stage(number, source)
        plan = planner.finish()
    for unneeded in ("spill", "work"):
        shutil.rmtree(folder / unneeded, ignore_errors=True)
    return plan


def count_rows(source: PartitionSource, folder: Path, *, memory_mb: int = 96) -> int:
    """The rows of a partition, damaged ones included: as many as a plan of it has. Leaves nothing in `folder`.

    Raises SnapshotUnreadable, and whatever opening the source raises.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        is_parquet, chunks = _looked_at(source)
        with contextlib.closing(open_database(work, memory_mb=memory_mb)) as database:
            if is_parquet:
                return _open_parquet(database, source.name, chunks, work / "partition.parquet")[2]
            rows = 0
            read = partition.read_partition(chunks, folder=work, name=source.name, declared=source.dialect)
            with contextlib.closing(read):
                for piece in read:
                    columns = [f"c{position}" for position in range(len(read.columns))]
                    found = database.execute(
                        f"SELECT count(*) FROM {partition.read_csv_call(piece, columns)}"
                    ).fetchone()
                    rows += int(found[0]) if found else 0
                    piece.path.unlink()
            return rows + read.rejected.total()


def read_columns(source: PartitionSource) -> tuple[str, ...]:
    """The columns of a partition, empty if it is. A CSV file is read up to its header, a Parquet file to its end.

    Raises SnapshotUnreadable, and whatever opening the source raises.
    """
    with tempfile.TemporaryDirectory() as name:
        is_parquet, chunks = _looked_at(source)
        if not is_parquet:
            with contextlib.closing(
                partition.read_partition(chunks, folder=Path(name), name=source.name, declared=source.dialect)
            ) as read:
                return read.columns
        path = Path(name) / "partition.parquet"
        with contextlib.closing(open_database(Path(name), memory_mb=64)) as database:
            return tuple(_open_parquet(database, source.name, chunks, path)[0])


class _Planner:
    """The work in progress on one plan."""

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        folder: Path,
        mapping: MappingDocument,
        keep_rows: bool,
        progress: Progress,
        finished_file: Callable[[Path], None],
    ) -> None:
        self.database = database
        self.folder = folder
        self.mapping = mapping
        self.keep_rows = keep_rows
        self.progress = progress
        self.finished_file = finished_file
        self.notes: list[SourceNote] = []
        self.pieces: list[PlannedPiece] = []
        self.fields: tuple[MappedField, ...] = ()
        self.staged_rows = 0
        self.rejected: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self._staging: list[Future[int]] = []

    def __enter__(self) -> _Planner:
        self._pool = ThreadPoolExecutor(_STAGERS, thread_name_prefix="stage")
        self._rejected_file = (self.folder / REJECTED_CSV).open("w", encoding="utf-8", newline="")
        self._rejected_csv = csv_writer(self._rejected_file)
        self._rejected_csv.writerow((*REJECTED_COLUMNS, *([ROW_COLUMN] if self.keep_rows else [])))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._rejected_file.close()

    # One partition

    def stage(self, number: int, source: PartitionSource) -> None:
        """Read a partition and stage its pieces, two at a time, while reading goes on."""
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        is_parquet, chunks = _looked_at(source)
        if is_parquet:
            self._stage_parquet(number, source.name, chunks, work / f"{number:05d}.parquet")
        else:
            self._stage_csv(number, source, chunks, work)

    def _stage_csv(self, number: int, source: PartitionSource, chunks: Iterable[bytes], work: Path) -> None:
        rejected_before = self.rejected.total()
        pieces_before = len(self.pieces)
        culture = self.mapping.culture or source.dialect.culture
        read = partition.read_partition(
            chunks,
            folder=work,
            name=source.name,
            declared=source.dialect,
            expected=self.mapping.named_columns(),
            on_rejected=lambda line: self._reject_line(source.name, line),
        )
        with contextlib.closing(read):
            for piece in read:
                resolved = self._resolve(read.columns, source.name, may_show=not read.header.is_guess, culture=culture)
                columns = [f"c{position}" for position in range(len(read.columns))]
                raw = RawPiece(
                    table=partition.read_csv_call(piece, columns),
                    columns=len(columns),
                    lines=piece.lines,
                    path=piece.path,
                    has_huge_rows=piece.has_huge_records,
                    line_breaks=piece.line_breaks,
                )
                self._stage_piece(number, raw, resolved)
        if read.columns:
            self._resolve(read.columns, source.name, may_show=not read.header.is_guess, culture=culture)
        self._wait_for_staging(0)
        rows = sum(piece.rows for piece in self.pieces[pieces_before:]) + self.rejected.total() - rejected_before
        self.notes.append(
            SourceNote(
                name=source.name,
                lines=read.lines,
                rows=rows,
                delimiter=read.delimiter,
                encoding=read.encoding,
                columns=read.columns,
                header=read.header.why,
                culture=culture or "",
            )
        )

    def _stage_parquet(self, number: int, name: str, chunks: Iterable[bytes], path: Path) -> None:
        """Stage a Parquet partition in slices. Its rows are its lines: the first is line 1."""
        columns, texts, rows = _open_parquet(self.database.cursor(), name, chunks, path)
        try:
            resolved = self._resolve(columns, name)
            for first in range(0, rows, _PARQUET_ROWS):
                raw = RawPiece(
                    table=_parquet_slice(path, texts, first),
                    columns=len(texts),
                    lines=min(rows - first, _PARQUET_ROWS),
                    line_breaks=((1, first + 1),),
                )
                self._stage_piece(number, raw, resolved)
            self._wait_for_staging(0)
        except duckdb.Error as exc:
            if isinstance(exc, duckdb.OutOfMemoryException) or os.strerror(errno.ENOSPC) in str(exc):
                raise
            raise _no_parquet(name) from exc
        path.unlink()
        header = "A Parquet file names its columns itself."
        self.notes.append(
            SourceNote(name=name, lines=rows, rows=rows, delimiter="", columns=tuple(columns), header=header)
        )

    def _resolve(
        self, columns: Sequence[str], source: str, *, may_show: bool = True, culture: str | None = None
    ) -> ResolvedMapping:
        """The mapping for this partition; its columns may stand in another order than in the one before."""
        resolved = resolve(self.mapping, columns, may_show=may_show, culture=culture)
        order = {(one.group, one.name): position for position, one in enumerate(self.fields or resolved.fields)}
        shape = {(one.group, one.name) for one in resolved.fields}
        if shape != set(order):
            raise SnapshotUnreadable(
                f"the columns of {source} differ from those of the partitions before it",
                hint='Partitions of one snapshot must have the same columns when properties are "*".',
            )
        self.fields = self.fields or resolved.fields
        fields = sorted(resolved.fields, key=lambda one: order[one.group, one.name])
        return replace(resolved, fields=tuple(fields))

    def _stage_piece(self, source: int, raw: RawPiece, mapping: ResolvedMapping) -> None:
        number = len(self.pieces)
        self.pieces.append(PlannedPiece(source=source, rows=0))
        is_alone = raw.has_huge_rows or raw.columns > _MOST_COLUMNS_BESIDE or len(mapping.fields) > _MOST_FIELDS_BESIDE
        self._wait_for_staging(0 if is_alone else _STAGERS - 1)
        self._staging.append(self._pool.submit(self._stage_file, number, raw, mapping))
        self._wait_for_staging(0 if is_alone else _STAGERS)

    def _stage_file(self, number: int, raw: RawPiece, mapping: ResolvedMapping) -> int:
        """Stage one piece, and delete its file; runs in a thread of the pool. Returns its rows."""
        target = self.folder / rows_name(number)
        with contextlib.closing(self.database.cursor()) as cursor:
            rows = stage(cursor, raw, mapping, number=number, keep_rows=self.keep_rows, target=target)
        if raw.path:
            raw.path.unlink()
        self.pieces[number] = self.pieces[number].model_copy(update={"rows": rows})
        self.finished_file(target)
        self.staged_rows += rows
        self.progress(self.staged_rows)
        return rows

    def _wait_for_staging(self, allowed: int) -> None:
        while len(self._staging) > allowed:
            self._staging.pop(0).result()

    # All of them

    def finish(self) -> Plan:
        """What needs all rows: duplicates, batches, the lists of what is not sent, the document."""
        if not self.fields:
            self.fields = ()
        duplicates = self._find_duplicates()
        self._list_rejected()
        batches = tuple(_fill(self._blocks(), self._single_rows))
        dropped, dropped_examples = self._dropped()
        plan = Plan(
            sources=self.notes,
            fields=list(self.fields),
            identifier=self.mapping.identified_by,
            pieces=self.pieces,
            batches=list(batches),
            rows=sum(piece.rows for piece in self.pieces) + self._left_out_by_reading,
            profiles=sum(batch.profiles for batch in batches),
            duplicates=duplicates,
            rejected=dict(self.rejected),
            dropped=dropped,
            dropped_examples=dropped_examples,
            examples=self.examples,
            keeps_rows=self.keep_rows,
        )
        self._rejected_file.close()
        for name in (DUPLICATES_NAME, DUPLICATES_CSV, REJECTED_CSV):
            self.finished_file(self.folder / name)
        target = self.folder / PLAN_NAME
        target.write_text(plan.model_dump_json(by_alias=True), encoding="utf-8")
        self.finished_file(target)
        return plan

    def _find_duplicates(self) -> int:
        """Write every row that gives way to another with the same identifier. Returns their number.

        The row that stays: the newest by the mapping's `newest_by` column, else the last in file order.
        """
        self.database.execute(
            "CREATE TABLE duplicates (piece INTEGER, row BIGINT, kept_piece INTEGER, kept_row BIGINT)"
        )
        passes = sum(piece.rows for piece in self.pieces) // _KEYS_A_PASS + 1
        if self.pieces:
            for number in range(passes):
                self.database.execute(_duplicates(self._all_rows(), IDENTIFIER, number=number, of=passes))
        target = literal(str(self.folder / DUPLICATES_NAME))
        self.database.execute(f"COPY (SELECT * FROM duplicates ORDER BY piece, row) TO {target} (FORMAT parquet)")
        found = self.database.execute("SELECT count(*) FROM duplicates").fetchone()
        self._list_duplicates()
        return int(found[0]) if found else 0

    def _list_duplicates(self) -> None:
        with (self.folder / DUPLICATES_CSV).open("w", encoding="utf-8", newline="") as file:
            writer = csv_writer(file)
            writer.writerow(DUPLICATES_COLUMNS)
            rows = self.database.cursor().execute(
                "SELECT piece, row, kept_piece, kept_row FROM duplicates ORDER BY 1, 2"
            )
            while chunk := rows.fetchmany(10_000):
                lines = self._locate([(piece, row) for piece, row, _, _ in chunk])
                kept = self._locate([(piece, row) for _, _, piece, row in chunk])
                for piece, row, kept_piece, kept_row in chunk:
                    place, kept_place = lines[piece, row], kept[kept_piece, kept_row]
                    self._example("duplicate", *place)
                    writer.writerow([safe_cell(place[0]), place[1], safe_cell(kept_place[0]), kept_place[1]])

    def _list_rejected(self) -> None:
        self._left_out_by_reading = self.rejected.total()
        if not self.pieces:
            return
        rows = self.database.cursor().execute(
            f"SELECT piece, file_row_number, reason, coalesce(refused_id, {IDENTIFIER}), source_row"
            f" FROM {self._all_rows()} WHERE reason IS NOT NULL ORDER BY 1, 2"
        )
        while chunk := rows.fetchmany(10_000):
            lines = self._locate([(piece, row) for piece, row, *_ in chunk])
            for piece, row, reason, identifier, text in chunk:
                name, line = lines[piece, row]
                cells = {"column": self._identifier_column(), "identifier": identifier or ""}
                self._reject(name, line, RejectReason(reason), text or "", **cells)

    def _reject_line(self, source: str, rejected: partition.RejectedLine) -> None:
        self._reject(source, rejected.line, rejected.reason, rejected.text, detail=rejected.detail)

    def _reject(self, source: str, line: int, reason: RejectReason, text: str, **cells: str) -> None:
        """Count a rejected row and list it. text: the row itself, for those who keep it; cells: see `rejected_row`."""
        self.rejected[reason] += 1
        self._example(reason, source, line)
        kept = [safe_cell(text)] if self.keep_rows else []
        self._rejected_csv.writerow([*rejected_row(source, line, reason, **cells), *kept])

    def _example(self, reason: str, source: str, line: int) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(f"{source}:{line}")

    def _identifier_column(self) -> str:
        return str(getattr(self.mapping, self.mapping.identified_by))

    def _dropped(self) -> tuple[dict[str, int], dict[str, list[str]]]:
        """The cells left out of rows that are sent, by attribute: their number, and the first of them."""
        if not self.pieces:
            return {}, {}
        rows = self.database.execute(
            f"SELECT attribute, count(*), min([rows.piece, file_row_number], {MAX_EXAMPLES})"
            " FROM (SELECT *, unnest(string_split(dropped, chr(31))) AS attribute"
            f" FROM {self._all_rows()} AS rows ANTI JOIN duplicates"
            " ON rows.piece = duplicates.piece AND file_row_number = duplicates.row"
            " WHERE reason IS NULL AND dropped IS NOT NULL) AS rows GROUP BY 1 ORDER BY 1"
        ).fetchall()
        examples = {}
        for name, _, first in rows:
            places = [(piece, row) for piece, row in first]
            lines = self._locate(places)
            examples[str(name)] = ["{}:{}".format(*lines[place]) for place in places]
        counts = {str(name): int(count) for name, count, _ in rows}
        return {**counts, **self._unreadable_moments()}, examples

    def _unreadable_moments(self) -> dict[str, int]:
        """Cells of the `newest_by` column that are neither moment nor number, of all rows that are compared by them."""
        if self.mapping.newest_by is None:
            return {}
        unreadable = f"FROM {self._all_rows()} WHERE reason IS NULL AND newest = {payload.UNREADABLE}"
        found = self.database.execute(f"SELECT count(*) {unreadable}").fetchone()
        return {NEWEST_BY: int(found[0])} if found and found[0] else {}

    def _blocks(self) -> Iterator[_Block]:
        """Blocks of 100 profiles in order, counted through the pieces, so that a full batch ends with a block."""
        before = 0
        for piece in range(len(self.pieces)):
            numbered = (
                f"SELECT *, (row_number() OVER () - 1 + {before}) // {_BLOCK_PROFILES} AS block FROM {self._fit(piece)}"
            )
            blocks = self.database.execute(
                "SELECT min(row), max(row) + 1, count(*), sum(size)::BIGINT"
                f" FROM ({numbered}) GROUP BY block ORDER BY block"
            ).fetchall()
            for first, last, profiles, size in blocks:
                before += profiles
                yield _Block(piece, first, last, profiles, size)

    def _single_rows(self, block: _Block) -> Iterator[_Block]:
        rows = self.database.execute(
            f"SELECT row, size FROM {self._fit(block.piece)}"
            f" WHERE row >= {block.first} AND row < {block.last} ORDER BY 1"
        ).fetchall()
        for row, size in rows:
            yield _Block(block.piece, row, row + 1, 1, size)

    def _fit(self, piece: int) -> str:
        """SQL: row and size of the profiles of a piece that are sent."""
        rows = literal(str(self.folder / rows_name(piece)))
        return (
            f"(SELECT file_row_number AS row, size FROM read_parquet({rows}, file_row_number = true)"
            f" WHERE reason IS NULL AND file_row_number NOT IN (SELECT row FROM duplicates WHERE piece = {piece}))"
        )

    def _all_rows(self) -> str:
        names = ", ".join(literal(str(self.folder / rows_name(piece))) for piece in range(len(self.pieces)))
        return f"read_parquet([{names}], file_row_number = true)"

    def _locate(self, rows: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, int]]:
        return locate(self.database, self.pieces, [note.name for note in self.notes], self.folder, rows)


# Batches


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring rows of a piece that are batched together."""

    piece: int
    first: int
    last: int
    profiles: int
    size_bytes: int


def _fill(blocks: Iterable[_Block], single_rows: Callable[[_Block], Iterable[_Block]]) -> Iterator[PlannedBatch]:
    """Fill batches in order, each as full as the limits allow. A block that does not fit is taken row by row."""
    number, profiles, size = 0, 0, _ENVELOPE_BYTES
    spans: list[list[int]] = []  # piece, first, last
    for block in blocks:
        fits = profiles + block.profiles <= MAX_BATCH_PROFILES and size + block.size_bytes <= MAX_BATCH_BYTES
        # The next batch takes a block as it is, when this one is full to the last profile.
        is_full = profiles == MAX_BATCH_PROFILES >= block.profiles
        begins_next = is_full and _ENVELOPE_BYTES + block.size_bytes <= MAX_BATCH_BYTES
        for part in [block] if fits or begins_next or block.profiles == 1 else single_rows(block):
            if spans and (profiles + part.profiles > MAX_BATCH_PROFILES or size + part.size_bytes > MAX_BATCH_BYTES):
                yield _batch(number, profiles, size, spans)
                number, profiles, size, spans = number + 1, 0, _ENVELOPE_BYTES, []
            profiles += part.profiles
            size += part.size_bytes
            _extend(spans, part)
    if spans:
        yield _batch(number, profiles, size, spans)


def _extend(spans: list[list[int]], block: _Block) -> None:
    if spans and spans[-1][0] == block.piece:
        spans[-1][2] = block.last
    else:
        spans.append([block.piece, block.first, block.last])


def _batch(number: int, profiles: int, size_bytes: int, spans: list[list[int]]) -> PlannedBatch:
    made = tuple(Span(piece=piece, first=first, last=last) for piece, first, last in spans)
    return PlannedBatch(number=number, profiles=profiles, size_bytes=size_bytes, spans=made)


# SQL


def _duplicates(rows: str, identifier: str, *, number: int, of: int) -> str:
    """SQL: add one pass's losers. Keys are compared first (8 bytes a row), identifiers only where keys are equal."""
    share = f" AND key % {of} = {number}" if of > 1 else ""
    return f"""
        INSERT INTO duplicates
        WITH repeated AS (SELECT key FROM {rows} WHERE reason IS NULL{share} GROUP BY key HAVING count(*) > 1),
        candidates AS (
            SELECT {identifier} AS id, newest, {{'piece': piece, 'row': file_row_number}} AS place
            FROM {rows} WHERE reason IS NULL{share} AND key IN (SELECT key FROM repeated)
        ),
        winners AS (
            SELECT id, arg_max(place, {{'newest': coalesce(newest, {payload.UNREADABLE}), 'place': place}}) AS kept
            FROM candidates GROUP BY id HAVING count(*) > 1
        )
        SELECT place.piece, place.row, kept.piece, kept.row FROM candidates JOIN winners USING (id) WHERE place <> kept
    """


# Parquet


def _looked_at(source: PartitionSource) -> tuple[bool, Iterator[bytes]]:
    """Whether a partition is a Parquet file, and its bytes."""
    first_bytes, chunks = text_encoding.peek(iter(source.open()))
    return source.name.lower().endswith(".parquet") or text_encoding.is_parquet(first_bytes), chunks


def _open_parquet(
    cursor: duckdb.DuckDBPyConnection, name: str, chunks: Iterable[bytes], path: Path
) -> tuple[list[str], list[str], int]:
    """Write a Parquet partition to `path`; see `_parquet_columns`. Raises SnapshotUnreadable."""
    with path.open("wb") as file:
        file.writelines(chunks)
    try:
        return _parquet_columns(cursor, path)
    except duckdb.Error as exc:
        raise _no_parquet(name) from exc


def _no_parquet(name: str) -> SnapshotUnreadable:
    hint = "Export or upload the file again."
    return SnapshotUnreadable(f"{name} is no Parquet file, or a damaged one", hint=hint)


def _parquet_columns(cursor: duckdb.DuckDBPyConnection, path: Path) -> tuple[list[str], list[str], int]:
    """The names of a Parquet file's columns, the SQL that makes texts of them, and the number of rows."""
    file = f"read_parquet({literal(str(path))})"
    described = cursor.execute(f"DESCRIBE SELECT * FROM {file}").fetchall()
    rows = cursor.execute(f"SELECT count(*) FROM {file}").fetchone()
    names = [str(name) for name, *_ in described]
    return names, [_as_text(str(name), str(kind)) for name, kind, *_ in described], int(rows[0]) if rows else 0


def _parquet_slice(path: Path, texts: Sequence[str], first: int) -> str:
    """SQL: some rows of a Parquet file as texts c0, c1, ..."""
    cells = ", ".join(f"{text} AS c{position}" for position, text in enumerate(texts))
    return (
        f"(SELECT {cells} FROM read_parquet({literal(str(path))}, file_row_number = true)"
        f" WHERE file_row_number >= {first} AND file_row_number < {first + _PARQUET_ROWS})"
    )


def _as_text(name: str, kind: str) -> str:
    """SQL: a column of any type as a CSV file would hold it: dates as ISO 8601, nested values as JSON."""
    column = '"' + name.replace('"', '""') + '"'
    text = f"CAST({column} AS VARCHAR)"
    match kind.partition("(")[0]:
        case "DOUBLE" | "FLOAT":  # whole numbers stand here too, when some are missing; NaN is how pandas says so
            whole = f"{column} = trunc({column}) AND abs({column}) < 1e15"
            plain = f"CASE WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE {text} END"
            return f"CASE WHEN NOT isnan({column}) THEN {plain} END"
        case "TIMESTAMP WITH TIME ZONE":
            return f"replace(CAST(CAST({column} AS TIMESTAMP) AS VARCHAR), ' ', 'T') || 'Z'"
        case kind if kind.startswith("TIMESTAMP") and not kind.endswith("]"):
            return f"replace({text}, ' ', 'T')"
        case "BLOB":
            text = f"TRY(decode({column}))"
        case kind if kind.startswith(("STRUCT", "MAP", "UNION", "VARIANT")) or kind.endswith("]"):
            text = f"CAST(to_json({column}) AS VARCHAR)"
    return f"replace({text}, chr(0), '')"


# CSV files for people


def rejected_row(
    source: str, line: int | str, reason: RejectReason, *, column: str = "", identifier: str = "", detail: str = ""
) -> list[str | int]:
    """A line of rejected.csv. detail: what else is to be said of the row."""
    message = row_rules.MESSAGES[reason] + (f": {detail}" if detail else "")
    cells = (source, line, column, str(reason), message, identifier[:200])
    return [safe_cell(cell) if isinstance(cell, str) else cell for cell in cells]


def safe_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula. Source: OWASP, "CSV Injection".

    An apostrophe goes before what would be calculated: where the cell begins, and behind what a spreadsheet of
    another country takes for the end of a cell. Blanks and quotes before the formula do not hide it.
    """
    return _FORMULA.sub("'", text)


# The last four: = + - @ in full width. A comma ends a cell only where quotes do what they should.
_FORMULA = re.compile(r"(?:^|(?<=[;|\t\r\n]))(?=[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r\n])")


def csv_writer(file: IO[str]) -> Any:
    """A writer of these files. Every cell is quoted: one that is not would be split at another separator."""
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
