"""Read partitions, and stage their rows while reading goes on.

    bytes --reading--> pieces of clean CSV --staged_rows (SQL)--> rows-00000.parquet, rows-00001...

A piece is at most 12 MB, and two are staged at a time, so memory stays flat.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from exporter.definitions.mapped_fields import MappedField, ResolvedMapping, bundle, resolve
from exporter.definitions.mapping import MappingDocument
from exporter.names import comparable, positions_of
from exporter.planning.limits import PlanLimits
from exporter.planning.plan import PlannedPiece, SourceNote, rows_name
from exporter.planning.row_lists import RejectedRows
from exporter.planning.staged_rows import RawPiece, stage
from exporter.reading.parquet import ParquetFile, damaged_parquet, save_parquet
from exporter.reading.partition import read_partition
from exporter.reading.pieces import MANY_FIELDS, Piece, read_csv_call
from exporter.reading.source import PartitionSource, open_partition
from exporter.sql import open_database

# Pieces staged at a time: reading keeps two busy, a third only takes memory.
_STAGERS = 2
# Of more columns DuckDB takes more than its share: 0.1 MB for reading each, and as much for what is
# made of it. The process has that much besides, also on the smallest instance.
_MOST_COLUMNS_IN_SHARE, _MB_A_COLUMN = 150, 0.2
# More text properties are staged in one column. Fewer cost less one by one.
MOST_SINGLE_TEXTS = 24


class Staging:
    """Stages the partitions of a snapshot, one after the other.

    Afterwards `pieces`, `notes` and `fields` say what was staged, and `unread_rows` how many rows
    could not be read at all.
    """

    def __init__(
        self,
        mapping: MappingDocument,
        pool: StagingPool,
        rejected: RejectedRows,
        *,
        database: duckdb.DuckDBPyConnection,
        work: Path,
        limits: PlanLimits,
    ) -> None:
        """work: a folder for what is only needed while staging."""
        self.notes: list[SourceNote] = []
        self.unread_rows = 0
        self._culture = mapping.culture
        self._encoding = mapping.encoding
        self._named_columns = mapping.named_columns()
        self._mapping = SnapshotMapping(mapping)
        self._pool = pool
        self._rejected = rejected
        self._database = database
        self._work = work
        self._limits = limits
        work.mkdir(exist_ok=True)

    @property
    def pieces(self) -> list[PlannedPiece]:
        return self._pool.pieces

    @property
    def fields(self) -> tuple[MappedField, ...]:
        return self._mapping.fields

    def stage(self, source: PartitionSource) -> None:
        """Stage one partition; it is the next one of the plan's sources."""
        is_parquet, chunks = open_partition(source)
        note = self._parquet(source, chunks) if is_parquet else self._csv(source, chunks)
        self.notes.append(note)

    def _csv(self, source: PartitionSource, chunks: Iterable[bytes]) -> SourceNote:
        culture = self._culture or source.dialect.culture
        pieces_before = len(self.pieces)
        read = read_partition(
            chunks,
            folder=self._work,
            name=source.name,
            declared=replace(source.dialect, culture=culture),
            encoding=self._encoding,
            expected=self._named_columns,
            on_rejected=lambda line: self._rejected.add(
                source.name, line.line, line.reason, line.text, detail=line.detail
            ),
            piece_bytes=self._limits.piece_bytes,
        )
        notes = [read.header.why]
        with contextlib.closing(read):
            if read.columns:
                mapping = self._mapping.resolve(
                    read.columns,
                    source.name,
                    repeated=read.header.repeated,
                    may_show=not read.header.is_guess,
                    culture=culture,
                    nameless=not (read.header.has_header or source.dialect.columns),
                )
                notes.append(mapping.note)
                for piece in read:
                    raw = _raw_csv(piece, mapping.columns)
                    self._pool.submit(len(self.notes), raw, mapping.resolved)
            self._pool.wait()
        notes += read.notes
        staged_rows = sum(piece.rows for piece in self.pieces[pieces_before:])
        unread_rows = read.rejected.total()
        self.unread_rows += unread_rows
        return SourceNote(
            name=source.name,
            lines=read.lines,
            rows=staged_rows + unread_rows,
            delimiter=read.delimiter,
            encoding=read.encoding,
            columns=read.columns,
            header=" ".join(filter(None, notes)),
            culture=culture or "",
        )

    def _parquet(self, source: PartitionSource, chunks: Iterable[bytes]) -> SourceNote:
        """Stage a Parquet partition in slices. Its rows are its lines: the first is line 1."""
        path = self._work / f"{len(self.notes):05d}.parquet"
        file = save_parquet(self._database.cursor(), source.name, chunks, path)
        mapping = self._mapping.resolve(file.columns, source.name, repeated=file.repeated)
        with _damage_is_named(source.name):
            for first in range(0, file.rows, self._limits.parquet_rows):
                raw = _raw_slice(file, mapping.columns, first, self._limits.parquet_rows)
                self._pool.submit(len(self.notes), raw, mapping.resolved)
            self._pool.wait()
        path.unlink()
        return SourceNote(
            name=source.name,
            lines=file.rows,
            rows=file.rows,
            delimiter="",
            columns=file.columns,
            header=f"A Parquet file names its columns itself. {mapping.note}".strip(),
        )


def _raw_slice(file: ParquetFile, columns: int, first: int, most: int) -> RawPiece:
    return RawPiece(
        table=file.slice_as_text(first, most, columns=columns),
        columns=columns,
        lines=min(file.rows - first, most),
        line_breaks=((1, first + 1),),
    )


def _raw_csv(piece: Piece, columns: int) -> RawPiece:
    return RawPiece(
        table=read_csv_call(piece, [f"c{position}" for position in range(columns)]),
        columns=columns,
        lines=piece.lines,
        path=piece.path,
        has_huge_rows=piece.has_huge_records,
        line_breaks=piece.line_breaks,
    )


@contextlib.contextmanager
def _damage_is_named(source: str) -> Iterator[None]:
    """Raise SnapshotUnreadable for what DuckDB cannot read, but not for want of memory or disk."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as exc:
        if os.strerror(errno.ENOSPC) in str(exc):
            raise
        raise damaged_parquet(source) from exc


@dataclass(frozen=True, slots=True)
class PartitionMapping:
    """A snapshot's mapping resolved for one partition.

    columns: of the partition, and behind them one empty column for each that it lacks. note: a
    sentence about columns that only some partitions have.
    """

    resolved: ResolvedMapping
    columns: int
    note: str = ""


class SnapshotMapping:
    """A mapping resolved for one partition after the other, to the same fields in each of them.

    With `properties: "*"` a partition may lack columns of those before it, or have more: the fields
    are those of all partitions so far.
    """

    def __init__(self, document: MappingDocument) -> None:
        self._document = document
        self._found: tuple[MappedField, ...] = ()  # in all partitions so far
        self._slots: list[int] = []  # for each of these: the place of its staged field
        self._staged = 0
        self._bundle: int | None = None  # the place of the bundle, if there is one

    @property
    def fields(self) -> tuple[MappedField, ...]:
        """The staged fields of all partitions so far."""
        return self._staged_of(self._found)

    def resolve(
        self,
        columns: Sequence[str],
        source: str,
        *,
        repeated: Collection[str] = (),
        may_show: bool = True,
        culture: str | None = None,
        nameless: bool = False,
    ) -> PartitionMapping:
        """Resolve the mapping for a partition, whose columns may stand in an order of their own."""
        resolved = resolve(
            self._document,
            columns,
            file=source,
            repeated=repeated,
            may_show=may_show,
            culture=culture,
            nameless=nameless,
        )
        left: dict[tuple[str, str], MappedField] = {
            (field.group, field.name): field for field in resolved.fields
        }
        fields: list[MappedField | None] = []
        for wanted in self._found:
            found = left.pop(self._key_of(wanted, left), None)
            fields.append(found and replace(found, name=wanted.name))
        new = tuple(left.values())
        is_first = not self._found
        self._add(new)
        empty = 0
        for place, wanted in enumerate(self._found[: len(fields)]):
            if fields[place] is None and self._slots[place] != self._bundle:
                fields[place] = replace(wanted, column=len(columns) + empty)
                empty += 1
        note = "" if is_first else _describe(fields.count(None) + empty, len(new))
        staged = self._staged_of((*fields, *new))
        return PartitionMapping(replace(resolved, fields=staged), len(columns) + empty, note)

    def _add(self, new: Sequence[MappedField]) -> None:
        """Give new fields a place: text properties in a bundle, if there are many of them."""
        has_many = [field.may_be_bundled for field in new].count(True) > MOST_SINGLE_TEXTS
        for field in new:
            if field.may_be_bundled and (has_many or self._bundle is not None):
                if self._bundle is None:
                    self._bundle, self._staged = self._staged, self._staged + 1
                self._slots.append(self._bundle)
            else:
                self._slots.append(self._staged)
                self._staged += 1
        self._found += tuple(new)

    def _staged_of(self, fields: Sequence[MappedField | None]) -> tuple[MappedField, ...]:
        """Give the staged fields of a partition; None is a member of the bundle that it lacks."""
        staged: list[MappedField | None] = [None] * self._staged
        for field, slot in zip(fields, self._slots, strict=True):
            if slot != self._bundle:
                staged[slot] = field
        members = [
            field
            for field, slot in zip(fields, self._slots, strict=True)
            if field is not None and slot == self._bundle
        ]
        return tuple(field or bundle(members) for field in staged)

    def _key_of(self, wanted: MappedField, left: Collection[tuple[str, str]]) -> tuple[str, str]:
        """Name the field of a partition that is the wanted one: it may differ in form if no other
        fits.
        """
        exact = (wanted.group, wanted.name)
        if exact in left:
            return exact
        here = [name for group, name in left if group == wanted.group]
        before = [field.name for field in self._found if field.group == wanted.group]
        found = positions_of(wanted.name, here)
        if len(found) != 1 or here[found[0]] in before:
            return exact
        is_only_one = [comparable(name) for name in before].count(comparable(wanted.name)) == 1
        return (wanted.group, here[found[0]]) if is_only_one else exact


def _describe(lacking: int, new: int) -> str:
    """Give a sentence for the report on columns that not all partitions have."""
    sentences = []
    if lacking:
        sentences.append(f"It lacks {lacking:,} of the columns before it: they were left empty.")
    if new:
        sentences.append(f"It has {new:,} columns more than the partitions before it.")
    return " ".join(sentences)


class StagingPool:
    """Stages pieces in threads of its own, two at a time.

    `pieces` holds those that were waited for. progress: told the rows staged so far.
    finished_file: called for each file of staged rows. Both are called from several threads.
    """

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        folder: Path,
        *,
        memory_mb: int,
        keep_rows: bool,
        progress: Callable[[int], None],
        finished_file: Callable[[Path], None],
    ) -> None:
        self.pieces: list[PlannedPiece] = []
        self._database = database
        self._folder = folder
        self._memory_mb = memory_mb
        self._keep_rows = keep_rows
        self._progress = progress
        self._finished_file = finished_file
        self._staged_rows, self._counting = 0, threading.Lock()
        self._threads = ThreadPoolExecutor(_STAGERS, thread_name_prefix="stage")
        self._staging: deque[tuple[int, int, Future[int]]] = deque()  # source, fields, rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def submit(self, source: int, raw: RawPiece, mapping: ResolvedMapping) -> None:
        """Stage a piece of a source as soon as there is room for it."""
        is_wide = raw.columns > MANY_FIELDS
        is_alone = raw.has_huge_rows or is_wide
        self.wait(until=0 if is_alone else _STAGERS - 1)
        number = len(self.pieces) + len(self._staging)
        rows = self._threads.submit(self._stage, number, raw, mapping)
        self._staging.append((source, len(mapping.fields), rows))
        if is_alone:
            self.wait()

    def wait(self, *, until: int = 0) -> None:
        """Wait until so many pieces are being staged at most. Raises what staging raised."""
        while len(self._staging) > until:
            source, fields, rows = self._staging.popleft()
            piece = PlannedPiece(source=source, rows=rows.result(), fields=fields)
            self.pieces.append(piece)

    def _stage(self, number: int, raw: RawPiece, mapping: ResolvedMapping) -> int:
        """Stage a piece and delete its file. Returns its rows."""
        target = self._folder / rows_name(number)
        with contextlib.closing(self._connect(raw.columns)) as connection:
            rows = stage(
                connection, raw, mapping, number=number, keep_rows=self._keep_rows, target=target
            )
        if raw.path:
            raw.path.unlink()
        self._finished_file(target)
        with self._counting:
            self._staged_rows += rows
            self._progress(self._staged_rows)
        return rows

    def _connect(self, columns: int) -> duckdb.DuckDBPyConnection:
        if columns <= _MOST_COLUMNS_IN_SHARE:
            return self._database.cursor()
        more_mb = _MB_A_COLUMN * (columns - _MOST_COLUMNS_IN_SHARE)
        return open_database(self._folder, memory_mb=self._memory_mb + round(more_mb))
