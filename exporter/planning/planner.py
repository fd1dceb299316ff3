"""Partitions -> a plan: read, check, remove duplicates, fill batches. Sends nothing and changes nothing.

    bytes --reading--> pieces of clean CSV --staging (SQL)--> rows-*.parquet --keys--> duplicates --sizes--> batches

Memory stays flat: a piece is at most 12 MB, two are staged at a time, DuckDB spills beyond its limit. What grows with
the rows is on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb

from exporter.definitions.mapped_fields import MappedField, ResolvedMapping, resolve
from exporter.definitions.mapping import MappingDocument
from exporter.errors import SnapshotUnreadable
from exporter.planning.batches import Block, fill_batches
from exporter.planning.plan import (
    DUPLICATES_CSV,
    DUPLICATES_NAME,
    IDENTIFIER,
    PLAN_NAME,
    REJECTED_CSV,
    Plan,
    PlannedPiece,
    SourceNote,
    rows_name,
)
from exporter.planning.request_bodies import locate
from exporter.planning.row_lists import (
    DUPLICATES_COLUMNS,
    REJECTED_COLUMNS,
    ROW_COLUMN,
    csv_writer,
    rejected_row,
    safe_cell,
)
from exporter.planning.staged_rows import RawPiece, stage
from exporter.planning.typed_values import UNREADABLE
from exporter.reading import partition
from exporter.reading.good_records import RejectedLine
from exporter.reading.parquet import PARQUET_ROWS, damaged_parquet, save_parquet
from exporter.reading.pieces import read_csv_call
from exporter.reading.source import PartitionSource, open_partition
from exporter.rejection_reasons import RejectReason
from exporter.sql import literal, open_database, within_memory

NEWEST_BY = (
    "newest_by"  # what is counted under this name was left out of a comparison, not of a profile
)

_STAGERS = 2  # pieces staged at a time: reading keeps two busy, a third only takes memory
_MOST_FIELDS_BESIDE = 40  # with more, a piece is staged by itself: DuckDB takes 0.8 MB for each field, and 0.2 a column
_MOST_COLUMNS_BESIDE = 120
_BLOCK_PROFILES = 100  # batches are filled by blocks of profiles: 100 blocks are a full batch
_KEYS_A_PASS = 2_000_000  # keys compared at a time: bounds the memory that finding duplicates takes
MAX_EXAMPLES = 3


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
        is_parquet, chunks = open_partition(source)
        if is_parquet:
            self._stage_parquet(number, source.name, chunks, work / f"{number:05d}.parquet")
        else:
            self._stage_csv(number, source, chunks, work)

    def _stage_csv(
        self, number: int, source: PartitionSource, chunks: Iterable[bytes], work: Path
    ) -> None:
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
                resolved = self._resolve(
                    read.columns, source.name, may_show=not read.header.is_guess, culture=culture
                )
                columns = [f"c{position}" for position in range(len(read.columns))]
                raw = RawPiece(
                    table=read_csv_call(piece, columns),
                    columns=len(columns),
                    lines=piece.lines,
                    path=piece.path,
                    has_huge_rows=piece.has_huge_records,
                    line_breaks=piece.line_breaks,
                )
                self._stage_piece(number, raw, resolved)
        if read.columns:
            self._resolve(
                read.columns, source.name, may_show=not read.header.is_guess, culture=culture
            )
        self._wait_for_staging(0)
        rows = (
            sum(piece.rows for piece in self.pieces[pieces_before:])
            + self.rejected.total()
            - rejected_before
        )
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
        file = save_parquet(self.database.cursor(), name, chunks, path)
        columns, rows = file.columns, file.rows
        try:
            resolved = self._resolve(columns, name)
            for first in range(0, rows, PARQUET_ROWS):
                raw = RawPiece(
                    table=file.slice_as_text(first, PARQUET_ROWS),
                    columns=len(columns),
                    lines=min(rows - first, PARQUET_ROWS),
                    line_breaks=((1, first + 1),),
                )
                self._stage_piece(number, raw, resolved)
            self._wait_for_staging(0)
        except duckdb.Error as exc:
            if isinstance(exc, duckdb.OutOfMemoryException) or os.strerror(errno.ENOSPC) in str(
                exc
            ):
                raise
            raise damaged_parquet(name) from exc
        path.unlink()
        header = "A Parquet file names its columns itself."
        self.notes.append(
            SourceNote(
                name=name,
                lines=rows,
                rows=rows,
                delimiter="",
                columns=columns,
                header=header,
            )
        )

    def _resolve(
        self,
        columns: Sequence[str],
        source: str,
        *,
        may_show: bool = True,
        culture: str | None = None,
    ) -> ResolvedMapping:
        """The mapping for this partition; its columns may stand in another order than in the one before."""
        resolved = resolve(self.mapping, columns, may_show=may_show, culture=culture)
        order = {
            (one.group, one.name): position
            for position, one in enumerate(self.fields or resolved.fields)
        }
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
        is_alone = (
            raw.has_huge_rows
            or raw.columns > _MOST_COLUMNS_BESIDE
            or len(mapping.fields) > _MOST_FIELDS_BESIDE
        )
        self._wait_for_staging(0 if is_alone else _STAGERS - 1)
        self._staging.append(self._pool.submit(self._stage_file, number, raw, mapping))
        self._wait_for_staging(0 if is_alone else _STAGERS)

    def _stage_file(self, number: int, raw: RawPiece, mapping: ResolvedMapping) -> int:
        """Stage one piece, and delete its file; runs in a thread of the pool. Returns its rows."""
        target = self.folder / rows_name(number)
        with contextlib.closing(self.database.cursor()) as cursor:
            rows = stage(
                cursor, raw, mapping, number=number, keep_rows=self.keep_rows, target=target
            )
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
        batches = tuple(fill_batches(self._blocks(), self._single_rows))
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
                self.database.execute(
                    _duplicates(self._all_rows(), IDENTIFIER, number=number, of=passes)
                )
        target = literal(str(self.folder / DUPLICATES_NAME))
        self.database.execute(
            f"COPY (SELECT * FROM duplicates ORDER BY piece, row) TO {target} (FORMAT parquet)"
        )
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
                    writer.writerow(
                        [safe_cell(place[0]), place[1], safe_cell(kept_place[0]), kept_place[1]]
                    )

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

    def _reject_line(self, source: str, rejected: RejectedLine) -> None:
        self._reject(source, rejected.line, rejected.reason, rejected.text, detail=rejected.detail)

    def _reject(
        self, source: str, line: int, reason: RejectReason, text: str, **cells: str
    ) -> None:
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
        unreadable = f"FROM {self._all_rows()} WHERE reason IS NULL AND newest = {UNREADABLE}"
        found = self.database.execute(f"SELECT count(*) {unreadable}").fetchone()
        return {NEWEST_BY: int(found[0])} if found and found[0] else {}

    def _blocks(self) -> Iterator[Block]:
        """Blocks of 100 profiles in order, counted through the pieces, so that a full batch ends with a block."""
        before = 0
        for piece in range(len(self.pieces)):
            numbered = f"SELECT *, (row_number() OVER () - 1 + {before}) // {_BLOCK_PROFILES} AS block FROM {self._fit(piece)}"
            blocks = self.database.execute(
                "SELECT min(row), max(row) + 1, count(*), sum(size)::BIGINT"
                f" FROM ({numbered}) GROUP BY block ORDER BY block"
            ).fetchall()
            for first, last, profiles, size in blocks:
                before += profiles
                yield Block(piece, first, last, profiles, size)

    def _single_rows(self, block: Block) -> Iterator[Block]:
        rows = self.database.execute(
            f"SELECT row, size FROM {self._fit(block.piece)}"
            f" WHERE row >= {block.first} AND row < {block.last} ORDER BY 1"
        ).fetchall()
        for row, size in rows:
            yield Block(block.piece, row, row + 1, 1, size)

    def _fit(self, piece: int) -> str:
        """SQL: row and size of the profiles of a piece that are sent."""
        rows = literal(str(self.folder / rows_name(piece)))
        return (
            f"(SELECT file_row_number AS row, size FROM read_parquet({rows}, file_row_number = true)"
            f" WHERE reason IS NULL AND file_row_number NOT IN (SELECT row FROM duplicates WHERE piece = {piece}))"
        )

    def _all_rows(self) -> str:
        names = ", ".join(
            literal(str(self.folder / rows_name(piece))) for piece in range(len(self.pieces))
        )
        return f"read_parquet([{names}], file_row_number = true)"

    def _locate(self, rows: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, int]]:
        return locate(
            self.database, self.pieces, [note.name for note in self.notes], self.folder, rows
        )


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
            SELECT id, arg_max(place, {{'newest': coalesce(newest, {UNREADABLE}), 'place': place}}) AS kept
            FROM candidates GROUP BY id HAVING count(*) > 1
        )
        SELECT place.piece, place.row, kept.piece, kept.row FROM candidates JOIN winners USING (id) WHERE place <> kept
    """
