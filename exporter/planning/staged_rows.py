"""A piece of raw cells -> staged rows, in SQL: mapped values, or the reason to reject the row.

    c0, c1, ... cells as text  ->  f0, f1, ... values in the order of the mapping's fields  ->  reason, size

One statement reads, checks and writes a piece; the order of rows is kept, since a row's position gives its line. Cells
that SQL cannot judge (domains that are not ASCII, phone numbers that are not E.164 yet) go through Python, once for
each distinct text, and only in pieces that have any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from exporter.definitions.mapped_fields import MappedField, ResolvedMapping
from exporter.definitions.mapping import IDENTIFIERS, ValueType
from exporter.errors import RowsLost
from exporter.planning import emails, phones, profiles, row_rules
from exporter.planning.plan import LINE_BREAKS
from exporter.planning.typed_values import sortable, staged_value
from exporter.reading.good_records import MAX_SHOWN_CHARS
from exporter.rejection_reasons import MAX_PROFILE_BYTES, RejectReason
from exporter.sql import literal

# Rows of a group are read back together; DuckDB wants multiples of 2,048. Measured: the least CPU to write and read.
_PARQUET = "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION lz4_raw, WRITE_BLOOM_FILTER false, ROW_GROUP_SIZE 10240"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPiece:
    """The rows of a piece as they were read.

    table: SQL of a table with the columns c0, c1, ..., `columns` of them, as text. lines: of the piece, as they were
    counted when it was written; the rows of a slice of Parquet. line_breaks: see `reading.Piece`. path: the file of a
    piece of CSV, not needed thereafter. has_huge_rows: some have megabytes.
    """

    table: str
    columns: int
    lines: int
    line_breaks: Sequence[tuple[int, int]]
    path: Path | None = None
    has_huge_rows: bool = False

    def cells(self) -> tuple[str, str]:
        """SQL: the table, and the line breaks in a row's cells. Of huge cells what no profile can hold is cut off."""
        if self.path is None:
            return self.table, "0"
        if not self.has_huge_rows:
            return self.table, _line_breaks(self.columns)
        cells = [f"c{position}" for position in range(self.columns)]
        short = ", ".join(f"left({cell}, {MAX_PROFILE_BYTES + 1}) AS {cell}" for cell in cells)
        breaks = " + ".join(
            f"coalesce(length({cell}) - length(replace({cell}, chr(10), '')), 0)" for cell in cells
        )
        return f"(SELECT {short}, {breaks} AS all_breaks FROM {self.table})", "all_breaks"


def stage(
    cursor: duckdb.DuckDBPyConnection,
    raw: RawPiece,
    mapping: ResolvedMapping,
    *,
    number: int,
    keep_rows: bool,
    target: Path,
) -> int:
    """Write the staged rows of one piece to `target`, see `plans`. Returns their number.

    keep_rows: keep what is rejected as it was read. Raises RowsLost when the rows staged are not all that there are.
    """
    source_row = _as_csv(raw.columns) if keep_rows else "NULL::VARCHAR"
    staged = partial(_staged, *raw.cells(), mapping, number=number, source_row=source_row)
    _write(cursor, staged(Lookup()), raw, target)
    written = _look_back(cursor, target)
    if written.has_odd_cells:
        _write(cursor, staged(_look_up(cursor, raw.table, mapping)), raw, target)
        written = _look_back(cursor, target)
    if written.rows + written.breaks != raw.lines:
        raise RowsLost(
            f"{written.rows:,} rows with {written.breaks:,} line breaks were staged of {raw.lines:,} lines"
        )
    return written.rows


def _line_breaks(columns: int) -> str:
    """SQL: the line breaks inside the row's cells. Looked for before they are counted: most rows have none."""
    text = f"concat({', '.join(f'c{position}' for position in range(columns))})"
    return f"CASE WHEN contains({text}, chr(10)) THEN length({text}) - length(replace({text}, chr(10), '')) ELSE 0 END"


def _as_csv(columns: int) -> str:
    """SQL: the row's cells as a record of a CSV file, cut off where it is very long."""
    cells = (
        f"CASE WHEN regexp_matches(c{position}, '[\",\\r\\n]')"
        f" THEN concat('\"', replace(c{position}, '\"', '\"\"'), '\"') ELSE coalesce(c{position}, '') END"
        for position in range(columns)
    )
    return f"left(concat_ws(',', {', '.join(cells)}), {MAX_SHOWN_CHARS})"


def _write(cursor: duckdb.DuckDBPyConnection, query: str, raw: RawPiece, target: Path) -> None:
    metadata = f"KV_METADATA {{{LINE_BREAKS}: {literal(json.dumps(raw.line_breaks))}}}"
    cursor.execute(f"COPY ({query}) TO {literal(str(target))} ({_PARQUET}, {metadata})")


def _staged(
    table: str,
    breaks: str,
    mapping: ResolvedMapping,
    lookup: Lookup,
    *,
    number: int,
    source_row: str,
) -> str:
    """SQL: the staged rows. Each level uses the columns of the one below; nothing is computed twice."""
    fields = mapping.fields
    values = ", ".join(
        f"{_value(one, mapping, lookup)} AS f{position}" for position, one in enumerate(fields)
    )
    newest = (
        sortable(f"c{mapping.newest_by}", mapping.culture)
        if mapping.newest_by is not None
        else "NULL::DOUBLE"
    )
    email = next(
        (f"c{one.column}" for one in fields if (one.group, one.name) == ("", "email")), "NULL"
    )
    is_usual = row_rules.is_usual_email(email)
    cells = f"SELECT *, {breaks} AS breaks, {is_usual} AS is_usual_email FROM {table}{lookup.joins}"
    valued = f"SELECT *, {newest} AS newest, {values} FROM ({cells})"
    measured = (
        f"SELECT *, {_dropped(mapping)} AS dropped, {profiles.measures(fields)} FROM ({valued})"
    )
    built = f"SELECT *, {profiles.unusual_profile(fields)} AS unusual_profile FROM ({measured})"
    checked = f"SELECT *, {_reason(mapping)} AS reason0, {profiles.profile_size(fields)} AS size FROM ({built})"
    too_large = (
        f"CASE WHEN size > {MAX_PROFILE_BYTES} THEN {literal(RejectReason.PROFILE_TOO_LARGE)} END"
    )
    return (
        f"SELECT {number}::INTEGER AS piece, hash(f0) AS key, coalesce(reason0, {too_large}) AS reason,"
        f" CASE WHEN reason0 IS NOT NULL THEN {_raw(fields[0])} END AS refused_id,"
        f" CASE WHEN reason0 IS NOT NULL OR size > {MAX_PROFILE_BYTES} THEN {source_row} END AS source_row,"
        f" breaks::INTEGER AS breaks, size::INTEGER AS size, dropped, newest, unusual_profile,"
        f" {', '.join(f'f{position}' for position in range(len(fields)))} FROM ({checked})"
    )


def _value(one: MappedField, mapping: ResolvedMapping, lookup: Lookup) -> str:
    """SQL: the staged value of a field."""
    cell = f"c{one.column}"
    # Beside another identifier a bad one is left out like any cell that cannot be read.
    match (one.group, one.name):
        case ("", "email"):
            email = lookup.email(cell)
            is_identifier = mapping.identifier == "email"
            return (
                email
                if is_identifier
                else row_rules.only_good(email, row_rules.email_reason(email, "is_usual_email"))
            )
        case ("", "external_id"):
            value = row_rules.blank_to_null(row_rules.trimmed(cell))
            is_identifier = mapping.identifier == "external_id"
            return (
                value
                if is_identifier
                else row_rules.only_good(value, row_rules.external_id_reason(value))
            )
        case ("", "phone_number"):
            return lookup.phone(cell)
    given = row_rules.blank_to_null(cell) if one.type is ValueType.STRING else cell
    return staged_value(one, given, mapping.culture)


def _raw(one: MappedField) -> str:
    """SQL: the cell of a field, NULL where it is blank."""
    return row_rules.blank_to_null(f"c{one.column}")


def _reason(mapping: ResolvedMapping) -> str:
    """SQL: why the row cannot be sent, NULL if it can."""
    match mapping.identifier:
        case "email":
            return row_rules.email_reason("f0", "is_usual_email")
        case "phone_number":
            return row_rules.phone_reason(_raw(mapping.fields[0]), "f0")
        case _:
            return row_rules.external_id_reason("f0")


def _dropped(mapping: ResolvedMapping) -> str:
    """SQL: the attributes whose cells were not blank and could not be sent, joined; NULL for none, as in most rows."""
    checked = [
        (position, one)
        for position, one in enumerate(mapping.fields)
        if one.type is not ValueType.STRING or (one.group == "" and one.name in IDENTIFIERS)
    ]
    names = ", ".join(
        f"CASE WHEN f{position} IS NULL AND {_raw(one)} IS NOT NULL THEN {literal(one.name)} END"
        for position, one in checked
    )
    empty = " OR ".join(f"f{position} IS NULL" for position, _ in checked)
    return f"CASE WHEN {empty} THEN nullif(concat_ws(chr(31), {names}), '') END"


# Cells that SQL cannot judge: domains that are not ASCII, phone numbers that are not E.164 yet


@dataclass(frozen=True, slots=True)
class Lookup:
    """What Python made of the few cells that SQL cannot judge, as joins to small tables."""

    joins: str = ""
    has_emails: bool = False
    has_phones: bool = False

    def email(self, cell: str) -> str:
        email = row_rules.normalized_email(cell, "is_usual_email")
        return f"coalesce(emails_value, {email})" if self.has_emails else email

    def phone(self, cell: str) -> str:
        """E.164 as it stands, E.164 once blanks and punctuation are gone, or what the library made of it."""
        pattern, digits, closed_up = (
            phones.e164_pattern(),
            _digits(cell),
            f"replace({cell}, ' ', '')",
        )
        return (
            f"CASE WHEN {row_rules.matches(closed_up, pattern)} THEN {closed_up}"  # cheaper than translate
            f" WHEN {row_rules.matches(digits, pattern)} THEN {digits}"
            f"{' ELSE phones_value' if self.has_phones else ''} END"
        )


class _Written(NamedTuple):
    """What is found in a file of staged rows."""

    rows: int
    breaks: int
    has_odd_cells: (
        bool  # left out or refused ones that Python may make something of; most pieces have none
    )


def _look_back(cursor: duckdb.DuckDBPyConnection, rows: Path) -> _Written:
    found = cursor.execute(
        "SELECT count(*), coalesce(sum(breaks), 0)::BIGINT,"
        " coalesce(bool_or(contains(dropped, 'email') OR contains(dropped, 'phone_number')"
        f" OR (refused_id IS NOT NULL AND (reason = {literal(RejectReason.PHONE_IMPOSSIBLE)}"
        " OR NOT regexp_full_match(refused_id, '[\\x00-\\x7f]*')))), false)"
        f" FROM read_parquet({literal(str(rows))})"
    ).fetchone()
    assert found is not None
    return _Written(*found)


def _look_up(cursor: duckdb.DuckDBPyConnection, table: str, mapping: ResolvedMapping) -> Lookup:
    cells = {one.name: f"c{one.column}" for one in mapping.fields if one.group == ""}
    joins = ""
    if email := cells.get("email"):
        odd = f"NOT regexp_full_match({email}, '[\\x00-\\x7f]*') AND contains({email}, '@') AND length({email}) < 1000"
        _fill_lookup(cursor, "emails", table, email, odd, emails.to_ascii)
        joins += f" LEFT JOIN emails ON emails_cell = {email}"
    if phone := cells.get("phone_number"):
        pattern, region = phones.e164_pattern(), mapping.phone_region
        odd = f"NOT {row_rules.matches(phone, pattern)} AND NOT {row_rules.matches(_digits(phone), pattern)}"
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
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} ({name}_cell VARCHAR, {name}_value VARCHAR)"
    )
    cells = cursor.cursor().execute(f"SELECT DISTINCT {column} FROM {table} WHERE {condition}")
    while chunk := cells.fetchmany(10_000):
        converted: list[Any] = [[cell for (cell,) in chunk], [convert(cell) for (cell,) in chunk]]
        cursor.execute(
            f"INSERT INTO {name} SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[])", converted
        )


def _digits(cell: str) -> str:
    return f"translate({cell}, {literal(phones.PUNCTUATION)}, '')"
