"""Stage a piece: from raw cells to mapped values, or to the reason to reject the row. In SQL.

    c0, c1, ...  cells as text, in the order of the source's columns
    f0, f1, ...  values in the order of the mapping's fields, and beside them reason, size and more

One statement reads, checks and writes a piece. The order of rows is kept, since a row's position
gives its line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb

from exporter.definitions.mapped_fields import MappedField, ResolvedMapping
from exporter.definitions.mapping import ValueType
from exporter.errors import RowsLost
from exporter.planning import profiles, row_rules
from exporter.planning.lookups import Lookup, look_up
from exporter.planning.plan import LINE_BREAKS
from exporter.planning.typed_values import date_order, is_no_date, sortable, staged_value
from exporter.reading.dialect import UNKNOWN
from exporter.reading.good_records import MAX_SHOWN_CHARS
from exporter.rejection_reasons import MAX_PROFILE_BYTES, LeftOutReason, RejectReason
from exporter.sql import literal

# Rows of a group are read back together; DuckDB wants multiples of 2,048. Measured: with these the
# files cost the least CPU to write and read. At its default level zstd took 7% more CPU than lz4 in
# one run of each, and 36% less disk,
# of which there is little: see disk_space.py.
_PARQUET = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1,"
    " WRITE_BLOOM_FILTER false, ROW_GROUP_SIZE 10240"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPiece:
    """The rows of a piece as they were read.

    table: SQL of a table with `columns` columns c0, c1, ... of text.
    lines: as counted when the piece was written; of Parquet, the rows.
    line_breaks: see `pieces.Piece`.
    path: the file of a piece of CSV, which is not needed after staging.
    has_huge_rows: some rows have megabytes.
    """

    table: str
    columns: int
    lines: int
    line_breaks: Sequence[tuple[int, int]]
    path: Path | None = None
    has_huge_rows: bool = False

    def cells(self, *, joined: bool) -> tuple[str, str]:
        """SQL: the table, and the number of line breaks inside a row's cells.

        joined: whether they are in a column `joined` as well, see `profiles.joined_cells`. Huge
        cells are cut to what a profile can hold and one character more.
        """
        if self.path is None:
            return self.table, "0"
        if not self.has_huge_rows:
            return self.table, _line_breaks("joined" if joined else _all_cells(self.columns))
        cells = _names(self.columns)
        short = ", ".join(f"left({cell}, {MAX_PROFILE_BYTES + 1}) AS {cell}" for cell in cells)
        in_cell = _count_line_breaks("cell")
        breaks = f"list_sum(list_transform([{', '.join(cells)}], lambda cell: {in_cell}))"
        breaks = f"coalesce({breaks}, 0)"
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
    """Write the staged rows of one piece to `target`, see `plan`. Returns their number.

    keep_rows: keep rejected rows as they were read.
    Raises RowsLost if not all rows that were read are staged.
    """
    lookup = Lookup(has_region=mapping.phone_region is not None)
    _write(cursor, _staged(raw, mapping, lookup, number, keep_rows), raw, target)
    written = _look_back(cursor, target)
    if written.has_odd_cells:
        lookup = look_up(cursor, raw.table, mapping)
        _write(cursor, _staged(raw, mapping, lookup, number, keep_rows), raw, target)
        written = _look_back(cursor, target)
    if written.rows + written.breaks != raw.lines:
        raise RowsLost(
            f"{written.rows:,} rows with {written.breaks:,} line breaks were staged"
            f" of {raw.lines:,} lines"
        )
    return written.rows


def _write(cursor: duckdb.DuckDBPyConnection, query: str, raw: RawPiece, target: Path) -> None:
    write_rows(cursor, query, raw.line_breaks, target)


def write_rows(
    cursor: duckdb.DuckDBPyConnection,
    query: str,
    line_breaks: Sequence[tuple[int, int]],
    target: Path,
) -> None:
    """Write the staged rows that a query gives."""
    metadata = f"KV_METADATA {{{LINE_BREAKS}: {literal(json.dumps(line_breaks))}}}"
    cursor.execute(f"COPY ({query}) TO {literal(str(target))} ({_PARQUET}, {metadata})")


class _Written(NamedTuple):
    """What is found in a file of staged rows."""

    rows: int
    breaks: int
    has_odd_cells: bool  # cells left out or refused that Python may be able to read; rare


def _look_back(cursor: duckdb.DuckDBPyConnection, rows: Path) -> _Written:
    has_dropped = "contains(dropped, 'email') OR contains(dropped, 'phone_number')"
    has_refused = (
        f"refused_id IS NOT NULL AND (reason = {literal(RejectReason.PHONE_IMPOSSIBLE)}"
        f" OR NOT {row_rules.is_ascii('refused_id')})"
    )
    found = cursor.execute(
        "SELECT count(*), coalesce(sum(breaks), 0)::BIGINT,"
        f" coalesce(bool_or({has_dropped} OR ({has_refused})), false)"
        f" FROM read_parquet({literal(str(rows))})"
    ).fetchone()
    assert found is not None
    return _Written(*found)


# The statement


def _staged(
    raw: RawPiece, mapping: ResolvedMapping, lookup: Lookup, number: int, keep_rows: bool
) -> str:
    """SQL: the staged rows. Each level uses columns of the one below; none is computed twice."""
    fields = mapping.fields
    has_bundle = any(field.members is not None for field in fields)
    table, breaks = raw.cells(joined=has_bundle)
    joined = profiles.joined_cells(_names(raw.columns)) if has_bundle else "NULL"
    columns = [f"f{position}" for position in range(len(fields))]
    values = ", ".join(
        f"{_value(field, mapping, lookup)} AS {column}"
        for field, column in zip(fields, columns, strict=True)
    )
    source_row = _as_csv(raw.columns) if keep_rows else "NULL::VARCHAR"
    is_too_large = f"size > {MAX_PROFILE_BYTES}"
    too_large = f"CASE WHEN {is_too_large} THEN {literal(RejectReason.PROFILE_TOO_LARGE)} END"
    cells = f"""
        SELECT *, {joined} AS joined, {row_rules.is_usual_email(_email_cell(mapping))}
            AS is_usual_email FROM {table}{lookup.joins}"""
    valued = f"""
        SELECT *, {breaks} AS breaks, {_newest(mapping)} AS newest, {values} FROM ({cells})"""
    measured = f"""
        SELECT *, {_dropped(mapping, lookup)} AS dropped, {_date_orders(mapping)} AS date_orders,
            {_is_doubtful(mapping)} AS doubtful, {profiles.measures(fields)} FROM ({valued})"""
    built = f"""
        SELECT *, {_left_out(mapping, lookup)} AS left_out,
            {profiles.unusual_profile(fields)} AS unusual_profile FROM ({measured})"""
    checked = f"""
        SELECT *, {_reason(mapping)} AS reason0, {profiles.profile_size(fields)} AS size
        FROM ({built})"""
    return f"""
        SELECT {number}::INTEGER AS piece, hash(f0) AS key,
            coalesce(reason0, {too_large}) AS reason,
            CASE WHEN reason0 IS NOT NULL THEN {_raw(fields[0])} END AS refused_id,
            CASE WHEN reason0 IS NOT NULL OR {is_too_large} THEN {source_row} END AS source_row,
            breaks::INTEGER AS breaks, size::INTEGER AS size, dropped, left_out, newest,
            date_orders, doubtful, unusual_profile, {", ".join(columns)}
        FROM ({checked})"""


def _email_cell(mapping: ResolvedMapping) -> str:
    """SQL: the cell of the address, which nearly all rows have as Klaviyo takes it."""
    for field in mapping.fields:
        if (field.group, field.name) == ("", "email"):
            return f"c{field.column}"
    return "NULL"


def _newest(mapping: ResolvedMapping) -> str:
    """SQL: by what the newest of several rows is found."""
    if mapping.newest_by is None:
        return "NULL::DOUBLE"
    return sortable(f"c{mapping.newest_by}", mapping.culture)


def _value(field: MappedField, mapping: ResolvedMapping, lookup: Lookup) -> str:
    """SQL: the staged value of a field."""
    if field.members is not None:
        members = [(name, f"c{column}") for name, column in field.members]
        return profiles.bundled(members, "joined")
    cell = f"c{field.column}"
    is_identifier = mapping.identifier == field.name
    # Beside another identifier a bad one is left out, like any cell that cannot be read.
    match (field.group, field.name):
        case ("", "email"):
            email = lookup.email(cell)
            reason = row_rules.email_reason(email, "is_usual_email")
            return email if is_identifier else row_rules.only_good(email, reason)
        case ("", "external_id"):
            value = row_rules.blank_to_null(row_rules.trimmed(cell))
            reason = row_rules.external_id_reason(value)
            return value if is_identifier else row_rules.only_good(value, reason)
        case ("", "phone_number"):
            return lookup.phone(cell)
    given = row_rules.blank_to_null(cell) if field.type is ValueType.STRING else cell
    return staged_value(field, given, mapping.culture)


def _raw(field: MappedField) -> str:
    """SQL: the cell of a field, NULL if it is blank."""
    cell = f"c{field.column}"
    if field.type is ValueType.DATE:
        return f"CASE WHEN NOT ({is_no_date(cell)}) THEN {row_rules.blank_to_null(cell)} END"
    return row_rules.blank_to_null(cell)


def _reason(mapping: ResolvedMapping) -> str:
    """SQL: why the row cannot be sent, NULL if it can."""
    match mapping.identifier:
        case "email":
            return row_rules.email_reason("f0", "is_usual_email")
        case "phone_number":
            return row_rules.phone_reason(_raw(mapping.fields[0]), "f0")
        case _:
            return row_rules.external_id_reason("f0")


def _is_doubtful(mapping: ResolvedMapping) -> str:
    """SQL: whether Klaviyo may refuse the row's address."""
    for position, field in enumerate(mapping.fields):
        if (field.group, field.name) == ("", "email"):
            return row_rules.is_doubtful_email(f"f{position}", "is_usual_email")
    return "false"


def _dropped(mapping: ResolvedMapping, lookup: Lookup) -> str:
    """SQL: the attributes whose cells hold something that cannot be sent, joined.

    NULL for none, as in most rows.
    """
    names, empty = [], []
    for value, field, _ in _left_out_of(mapping, lookup):
        is_left_out = f"{value} IS NULL AND {_raw(field)} IS NOT NULL"
        names.append(f"CASE WHEN {is_left_out} THEN {literal(field.name)} END")
        empty.append(f"{value} IS NULL")
    joined = f"nullif(concat_ws(chr(31), {', '.join(names)}), '')"
    return f"CASE WHEN {' OR '.join(empty)} THEN {joined} END"


def _left_out(mapping: ResolvedMapping, lookup: Lookup) -> str:
    """SQL: the reasons of what is in `dropped`, in the same order."""
    reasons = [
        f"CASE WHEN {value} IS NULL AND {_raw(field)} IS NOT NULL THEN {reason} END"
        for value, field, reason in _left_out_of(mapping, lookup)
    ]
    return f"CASE WHEN dropped IS NOT NULL THEN concat_ws(chr(31), {', '.join(reasons)}) END"


def _left_out_of(
    mapping: ResolvedMapping, lookup: Lookup
) -> Iterator[tuple[str, MappedField, str]]:
    """Give the value, the field and the reason (SQL) of all that may be left out."""
    for position, field in enumerate(mapping.fields):
        if reason := _reason_left_out(field, mapping, lookup):
            yield f"f{position}", field, reason


def _reason_left_out(field: MappedField, mapping: ResolvedMapping, lookup: Lookup) -> str | None:
    """SQL: why a cell that is not blank has no value; None if it always has one."""
    cell = f"c{field.column}"
    match (field.group, field.name):
        case ("", name) if name == mapping.identifier:
            return literal(RejectReason.NO_IDENTIFIER)  # never read: the row is rejected
        case ("", "email"):
            return row_rules.email_reason(lookup.email(cell), "is_usual_email")
        case ("", "external_id"):
            return row_rules.external_id_reason(row_rules.trimmed(cell))
        case ("", "phone_number"):
            no_region = literal(LeftOutReason.PHONE_NO_REGION)
            is_local = "false" if lookup.has_region else row_rules.lacks_country_code(cell)
            impossible = literal(LeftOutReason.PHONE_IMPOSSIBLE)
            return f"CASE WHEN {is_local} THEN {no_region} ELSE {impossible} END"
    reason = _UNREADABLE_AS.get(field.type)
    return literal(reason) if reason else None


_UNREADABLE_AS = {
    ValueType.NUMBER: LeftOutReason.NUMBER_UNREADABLE,
    ValueType.BOOLEAN: LeftOutReason.BOOLEAN_UNREADABLE,
    ValueType.DATE: LeftOutReason.DATE_UNREADABLE,
    ValueType.LIST: LeftOutReason.LIST_EMPTY,
}


def _date_orders(mapping: ResolvedMapping) -> str:
    """SQL: for each date, and then for `newest_by`, what `date_order` says; NULL if nothing."""
    if mapping.culture != UNKNOWN:
        return "NULL::VARCHAR"
    cells = [
        (f"f{position} IS NOT NULL", f"c{field.column}")
        for position, field in enumerate(mapping.fields)
        if field.type is ValueType.DATE
    ]
    if mapping.newest_by is not None:
        cells.append(("isfinite(newest)", f"c{mapping.newest_by}"))
    if not cells:
        return "NULL::VARCHAR"
    orders = ", ".join(
        f"CASE WHEN {known} THEN {date_order(cell)} ELSE '.' END" for known, cell in cells
    )
    return f"nullif(concat({orders}), {literal('.' * len(cells))})"


# Cells


def _names(columns: int) -> list[str]:
    return [f"c{position}" for position in range(columns)]


def _all_cells(columns: int) -> str:
    return f"concat({', '.join(_names(columns))})"


def _line_breaks(text: str) -> str:
    """SQL: the line breaks inside the row's cells, looked for before counted: most have none."""
    return f"CASE WHEN contains({text}, chr(10)) THEN {_count_line_breaks(text)} ELSE 0 END"


def _count_line_breaks(text: str) -> str:
    return f"length({text}) - length(replace({text}, chr(10), ''))"


def _as_csv(columns: int) -> str:
    """SQL: the row's cells as a record of a CSV file, cut off where it is very long."""
    cells = ", ".join(_names(columns))
    quoted = "concat('\"', replace(cell, '\"', '\"\"'), '\"')"
    needs_quotes = "regexp_matches(cell, '[\",\\r\\n]')"
    written = f"CASE WHEN {needs_quotes} THEN {quoted} ELSE coalesce(cell, '') END"
    record = f"array_to_string(list_transform([{cells}], lambda cell: {written}), ',')"
    return f"left({record}, {MAX_SHOWN_CHARS})"
