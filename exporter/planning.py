"""Partitions -> a plan: read, check, remove duplicates, fill batches. Sends nothing and changes nothing.

    bytes --reading--> pieces of clean CSV --staging (SQL)--> rows-*.parquet --keys--> duplicates --sizes--> batches

Memory stays flat: a piece is at most 32 MB, two are staged at a time, DuckDB spills beyond its limit. What grows with
the rows is on disk.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import duckdb

from exporter import payload, phones, reading, rules
from exporter.errors import SnapshotUnreadable
from exporter.mapping import MappedField, MappingDocument, ResolvedMapping, ValueType, resolve
from exporter.model_json import Dialect
from exporter.plans import (
    DUPLICATES_CSV,
    DUPLICATES_NAME,
    PLAN_NAME,
    REJECTED_CSV,
    Plan,
    PlannedBatch,
    PlannedPiece,
    SourceNote,
    Span,
    identifier_position,
    locate,
    open_database,
    rows_name,
)
from exporter.rules import RejectReason, literal

MAX_BATCH_PROFILES = 10_000  # Klaviyo, bulk import, revision 2026-07-15
MAX_BATCH_BYTES = 4_500_000  # Klaviyo takes 5 MB, decimal or binary is not said; others keep 4.5 to 4.7 MB
_ENVELOPE_BYTES = 300  # more than payload.envelope needs

REJECTED_COLUMNS = ("source", "line", "column", "reason", "message", "identifier")
DUPLICATES_COLUMNS = ("source", "line", "kept_source", "kept_line")

_STAGERS = 2  # pieces staged at a time: reading keeps two busy, a third only takes memory
_BLOCK_ROWS = 100  # batches are filled by blocks of rows: 100 blocks are a full batch
_ROW_GROUP = 10_240  # rows that are read back together; DuckDB wants multiples of 2,048
_KEYS_A_PASS = 2_000_000  # keys compared at a time: bounds the memory that finding duplicates takes
_EXAMPLES = 3


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
    progress: Progress = lambda _: None,
    finished_file: Callable[[Path], None] = lambda _: None,
) -> Plan:
    """Plan the snapshot made of `sources` into `folder`, which must be empty.

    progress: told the rows staged so far. finished_file: called for each file of the plan when it is whole, from
    several threads, plan.json last and after all others (to put them where they are safe while planning goes on).
    Raises SnapshotUnreadable, MappingError, and whatever opening a source raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(open_database(folder, memory_mb=memory_mb)) as database,
        _Planner(database, folder, mapping, progress, finished_file) as planner,
    ):
        for number, source in enumerate(sources):
            planner.stage(number, source)
        plan = planner.finish()
    shutil.rmtree(folder / "spill", ignore_errors=True)
    return plan


class _Planner:
    """The work in progress on one plan."""

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        folder: Path,
        mapping: MappingDocument,
        progress: Progress,
        finished_file: Callable[[Path], None],
    ) -> None:
        self.database = database
        self.folder = folder
        self.mapping = mapping
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
        self._rejected_csv = _csv_writer(self._rejected_file, REJECTED_COLUMNS)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._rejected_file.close()

    # One partition

    def stage(self, number: int, source: PartitionSource) -> None:
        """Read a partition and stage its pieces, two at a time, while reading goes on."""
        rejected_before = self.rejected.total()
        pieces_before = len(self.pieces)
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        read = reading.read_partition(
            source.open(),
            folder=work,
            name=source.name,
            declared=source.dialect,
            expected=self.mapping.named_columns(),
            on_rejected=lambda line: self._reject(source.name, line.line, "", RejectReason(line.reason), ""),
        )
        for piece in read:
            resolved = self._resolve(read.columns, source.name)
            self._stage_piece(number, piece, resolved, read)
        if read.columns:
            self._resolve(read.columns, source.name)
        self._wait_for_staging(0)
        rows = sum(piece.rows for piece in self.pieces[pieces_before:]) + self.rejected.total() - rejected_before
        self.notes.append(
            SourceNote(
                name=source.name,
                lines=read.lines,
                rows=rows,
                delimiter=read.delimiter,
                columns=read.columns,
                header=read.header.why,
            )
        )

    def _resolve(self, columns: Sequence[str], source: str) -> ResolvedMapping:
        """The mapping for this partition; its columns may stand in another order than in the one before."""
        resolved = resolve(self.mapping, columns)
        shape = tuple((one.group, one.name) for one in resolved.fields)
        if self.fields and shape != tuple((one.group, one.name) for one in self.fields):
            raise SnapshotUnreadable(
                f"the columns of {source} differ from those of the partitions before it",
                hint='Partitions of one snapshot must have the same columns when properties are "*".',
            )
        self.fields = self.fields or resolved.fields
        return resolved

    def _stage_piece(self, source: int, piece: reading.Piece, mapping: ResolvedMapping, read: reading.Reading) -> None:
        number = len(self.pieces)
        self.pieces.append(PlannedPiece(source=source, rows=0, line_breaks=piece.line_breaks))
        table = reading.read_csv_call(piece, [f"c{position}" for position in range(len(read.columns))])
        self._staging.append(
            self._pool.submit(self._stage_file, number, piece.path, table, mapping, columns=len(read.columns))
        )
        self._wait_for_staging(_STAGERS)

    def _stage_file(self, number: int, path: Path, table: str, mapping: ResolvedMapping, *, columns: int) -> int:
        """Stage one piece; runs in a thread of the pool. Returns its rows."""
        target = self.folder / rows_name(number)
        with contextlib.closing(self.database.cursor()) as cursor:
            rows = _stage(cursor, table, mapping, Lookup(), number=number, columns=columns, target=target)
            if _has_odd_cells(cursor, target):
                lookup = _look_up(cursor, table, mapping)
                _stage(cursor, table, mapping, lookup, number=number, columns=columns, target=target)
        path.unlink(missing_ok=True)
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
            dropped=self._dropped(),
            examples=self.examples,
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
                self.database.execute(_duplicates(self._all_rows(), self._identifier(), number=number, of=passes))
        target = literal(str(self.folder / DUPLICATES_NAME))
        self.database.execute(f"COPY (SELECT * FROM duplicates ORDER BY piece, row) TO {target} (FORMAT parquet)")
        found = self.database.execute("SELECT count(*) FROM duplicates").fetchone()
        self._list_duplicates()
        return int(found[0]) if found else 0

    def _list_duplicates(self) -> None:
        with (self.folder / DUPLICATES_CSV).open("w", encoding="utf-8", newline="") as file:
            writer = _csv_writer(file, DUPLICATES_COLUMNS)
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
            f"SELECT piece, file_row_number, reason, coalesce(refused_id, {self._identifier()})"
            f" FROM {self._all_rows()} WHERE reason IS NOT NULL ORDER BY 1, 2"
        )
        while chunk := rows.fetchmany(10_000):
            lines = self._locate([(piece, row) for piece, row, _, _ in chunk])
            for piece, row, reason, identifier in chunk:
                name, line = lines[piece, row]
                self._reject(name, line, self._identifier_column(), RejectReason(reason), identifier or "")

    def _reject(self, source: str, line: int, column: str, reason: RejectReason, identifier: str) -> None:
        self.rejected[reason] += 1
        self._example(reason, source, line)
        self._rejected_csv.writerow(rejected_row(source, line, column, reason, identifier))

    def _example(self, reason: str, source: str, line: int) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{source}:{line}")

    def _identifier(self) -> str:
        """SQL: the staged column of the identifier."""
        return f"f{identifier_position(self.fields, self.mapping.identified_by)}"

    def _identifier_column(self) -> str:
        return str(getattr(self.mapping, self.mapping.identified_by))

    def _dropped(self) -> dict[str, int]:
        if not self.pieces:
            return {}
        rows = self.database.execute(
            f"SELECT attribute, count(*) FROM (SELECT unnest(string_split(dropped, chr(31))) AS attribute"
            f" FROM {self._all_rows()} WHERE reason IS NULL AND dropped IS NOT NULL) GROUP BY 1 ORDER BY 1"
        ).fetchall()
        return {str(name): int(count) for name, count in rows}

    def _blocks(self) -> Iterator[_Block]:
        """Blocks of 100 rows with what they hold, in order."""
        for piece in range(len(self.pieces)):
            blocks = self.database.execute(
                f"SELECT row // {_BLOCK_ROWS}, count(*), sum(size)::BIGINT FROM {self._fit(piece)}"
                " GROUP BY 1 ORDER BY 1"
            ).fetchall()
            for block, count, size in blocks:
                first = block * _BLOCK_ROWS
                yield _Block(piece, first, first + _BLOCK_ROWS, count, size)

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
        for part in [block] if fits or block.profiles == 1 else single_rows(block):
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


def _stage(
    cursor: duckdb.DuckDBPyConnection,
    table: str,
    mapping: ResolvedMapping,
    lookup: Lookup,
    *,
    number: int,
    columns: int,
    target: Path,
) -> int:
    """Write the staged rows of one piece. Returns their number."""
    fields = mapping.fields
    values = ", ".join(
        f"{_value(one, mapping, lookup)} AS f{position}, {rules.blank_to_null(f'c{one.column}')} AS r{position}"
        for position, one in enumerate(fields)
    )
    newest = f"c{mapping.newest_by}" if mapping.newest_by is not None else "NULL::VARCHAR"
    valued = f"SELECT {_breaks(columns)} AS breaks, {newest} AS newest, {values} FROM {table}{lookup.joins}"
    identifier = next(
        position for position, one in enumerate(fields) if one.name == mapping.identifier and not one.group
    )
    texted = f"SELECT *, {payload.texts(fields)} AS texts FROM ({valued})"
    checked = (
        f"SELECT *, {_reason(mapping, identifier)} AS reason0, {payload.profile_size(fields)} AS size FROM ({texted})"
    )
    too_large = f"CASE WHEN size > {rules.MAX_PROFILE_BYTES} THEN {literal(RejectReason.PROFILE_TOO_LARGE)} END"
    query = (
        f"SELECT {number}::INTEGER AS piece, hash(f{identifier}) AS key, coalesce(reason0, {too_large}) AS reason,"
        f" CASE WHEN reason0 IS NOT NULL THEN r{identifier} END AS refused_id, breaks::INTEGER AS breaks,"
        f" size::INTEGER AS size, {_dropped(mapping)} AS dropped, newest,"
        f" {', '.join(f'f{position}' for position in range(len(fields)))} FROM ({checked})"
    )
    written = cursor.execute(
        f"COPY ({query}) TO {literal(str(target))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
    ).fetchone()
    return int(written[0]) if written else 0


def _value(one: MappedField, mapping: ResolvedMapping, lookup: Lookup) -> str:
    """SQL: the staged value of a field."""
    cell = f"c{one.column}"
    if one.group == "" and one.name == "email":
        email = lookup.email(cell)
        # Beside another identifier a bad address is left out like any cell that cannot be read.
        return (
            email
            if mapping.identifier == "email"
            else f"CASE WHEN {rules.email_reason(email)} IS NULL THEN {email} END"
        )
    if one.group == "" and one.name == "phone_number":
        return lookup.phone(cell)
    return payload.staged_value(one, rules.blank_to_null(cell))


def _reason(mapping: ResolvedMapping, identifier: int) -> str:
    value, raw = f"f{identifier}", f"r{identifier}"
    match mapping.identifier:
        case "email":
            return rules.email_reason(value)
        case "phone_number":
            return rules.phone_reason(raw, value)
        case _:
            return rules.external_id_reason(value)


def _dropped(mapping: ResolvedMapping) -> str:
    """SQL: the attributes whose cells were not blank and could not be sent, joined; NULL for none."""
    drops = [
        f"CASE WHEN f{position} IS NULL AND r{position} IS NOT NULL THEN {literal(one.name)} END"
        for position, one in enumerate(mapping.fields)
        if one.type is not ValueType.STRING or (one.group == "" and one.name in ("phone_number", "email"))
    ]
    return f"nullif(concat_ws(chr(31), {', '.join(drops)}), '')" if drops else "NULL::VARCHAR"


def _breaks(columns: int) -> str:
    """SQL: the line breaks inside the row's cells. Looked for before they are counted: most rows have none."""
    text = f"concat({', '.join(f'c{position}' for position in range(columns))})"
    return f"CASE WHEN contains({text}, chr(10)) THEN length({text}) - length(replace({text}, chr(10), '')) ELSE 0 END"


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
            SELECT id, arg_max(place, {{'newest': coalesce(newest, ''), 'place': place}}) AS kept
            FROM candidates GROUP BY id HAVING count(*) > 1
        )
        SELECT place.piece, place.row, kept.piece, kept.row FROM candidates JOIN winners USING (id) WHERE place <> kept
    """


# Cells that SQL cannot judge: domains that are not ASCII, phone numbers that are not E.164 yet


@dataclass(frozen=True, slots=True)
class Lookup:
    """What Python made of the few cells that SQL cannot judge, as joins to small tables."""

    joins: str = ""
    has_emails: bool = False
    has_phones: bool = False

    def email(self, cell: str) -> str:
        email = rules.normalized_email(cell)
        return f"coalesce(emails_value, {email})" if self.has_emails else email

    def phone(self, cell: str) -> str:
        """E.164 as it stands, E.164 once blanks and punctuation are gone, or what the library made of it."""
        pattern, digits = phones.e164_pattern(), _digits(cell)
        return (
            f"CASE WHEN {rules.matches(cell, pattern)} THEN {cell}"
            f" WHEN {rules.matches(digits, pattern)} THEN {digits}{' ELSE phones_value' if self.has_phones else ''} END"
        )


def _has_odd_cells(cursor: duckdb.DuckDBPyConnection, rows: Path) -> bool:
    """Whether staging left out or refused cells that Python may make something of. Most pieces have none."""
    found = cursor.execute(
        f"SELECT count(*) FROM read_parquet({literal(str(rows))})"
        " WHERE contains(dropped, 'email') OR contains(dropped, 'phone_number')"
        f" OR (refused_id IS NOT NULL AND (reason = {literal(RejectReason.PHONE_IMPOSSIBLE)}"
        " OR NOT regexp_full_match(refused_id, '[\\x00-\\x7f]*')))"
    ).fetchone()
    return bool(found and found[0])


def _look_up(cursor: duckdb.DuckDBPyConnection, table: str, mapping: ResolvedMapping) -> Lookup:
    cells = {one.name: f"c{one.column}" for one in mapping.fields if one.group == ""}
    joins = ""
    if email := cells.get("email"):
        odd = f"NOT regexp_full_match({email}, '[\\x00-\\x7f]*') AND contains({email}, '@')"
        _fill_lookup(cursor, "emails", table, email, odd, _punycode)
        joins += f" LEFT JOIN emails ON emails_cell = {email}"
    if phone := cells.get("phone_number"):
        pattern, region = phones.e164_pattern(), mapping.phone_region
        odd = f"NOT {rules.matches(phone, pattern)} AND NOT {rules.matches(_digits(phone), pattern)}"
        _fill_lookup(cursor, "phones", table, phone, odd, lambda cell: phones.to_e164(cell, region))
        joins += f" LEFT JOIN phones ON phones_cell = {phone}"
    return Lookup(joins, has_emails="email" in cells, has_phones="phone_number" in cells)


def _fill_lookup(
    cursor: duckdb.DuckDBPyConnection,
    name: str,
    table: str,
    column: str,
    condition: str,
    convert: Callable[[str], str | None],
) -> None:
    """Make a small table of the distinct cells that meet a condition and what becomes of them."""
    cursor.execute(f"CREATE OR REPLACE TEMP TABLE {name} ({name}_cell VARCHAR, {name}_value VARCHAR)")
    cells = cursor.cursor().execute(f"SELECT DISTINCT {column} FROM {table} WHERE {condition}")
    while chunk := cells.fetchmany(10_000):
        converted: list[Any] = [[cell for (cell,) in chunk], [convert(cell) for (cell,) in chunk]]
        cursor.execute(f"INSERT INTO {name} SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[])", converted)


def _digits(cell: str) -> str:
    return f"translate({cell}, {literal(phones.PUNCTUATION)}, '')"


def _punycode(cell: str) -> str | None:
    """The address with its domain in ASCII, or None when the domain has no such form."""
    local, _, domain = cell.strip(rules.WHITESPACE).lower().rpartition("@")
    try:
        return f"{local}@{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return None


# CSV files for people


def rejected_row(source: str, line: int | str, column: str, reason: RejectReason, identifier: str) -> list[str | int]:
    """A line of rejected.csv."""
    cells = (source, line, column, str(reason), rules.MESSAGES[reason], identifier[:200])
    return [safe_cell(cell) if isinstance(cell, str) else cell for cell in cells]


def safe_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula. Source: OWASP, "CSV Injection"."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _csv_writer(file: IO[str], columns: Sequence[str]) -> Any:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    return writer
