"""Cells as numbers, booleans, dates and lists, in SQL. Pure."""

from __future__ import annotations

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import ValueType
from exporter.planning.row_rules import trimmed
from exporter.reading.dialect import UNKNOWN, Culture
from exporter.sql import literal

UNREADABLE = "'-infinity'::DOUBLE"  # what cells that are neither moment nor number sort as
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"  # RFC 8259


def staged_value(field: MappedField, column: str, culture: Culture = UNKNOWN) -> str:
    """SQL: a non-blank cell as it is staged; NULL where it cannot be read as the field's type."""
    match field.type:
        case ValueType.STRING:
            return column
        case ValueType.NUMBER:
            return _number(column, culture)
        case ValueType.BOOLEAN:
            return _boolean(column)
        case ValueType.DATE:
            return _date(column, culture)
        case ValueType.LIST:
            return _list(column)


def sortable(column: str, culture: Culture = UNKNOWN) -> str:
    """SQL: a DOUBLE by which dates and times sort as they follow each other, and numbers by their size.

    A cell that is neither comes before all others; a blank one has none.
    """
    cell = trimmed(column)
    moment = f"CAST(epoch_us(coalesce({_day(cell, culture)}, {_time(cell, culture)})) AS DOUBLE)"
    number = f"CAST({_number(column, culture)} AS DOUBLE)"
    return f"coalesce({moment}, {number}, CASE WHEN {cell} <> '' THEN {UNREADABLE} END)"


def _list(column: str) -> str:
    """The parts between semicolons, or the elements of a JSON array (as a Parquet list is staged), all as texts."""
    is_array = f"starts_with({column}, '[') AND json_valid({column})"
    elements = f"CASE WHEN {is_array} THEN from_json({column}, '[\"VARCHAR\"]') ELSE string_split({column}, ';') END"
    texts = f"list_filter(list_transform({elements}, lambda x: {trimmed('x')}), lambda x: x <> '')"
    return f"nullif(CAST(to_json({texts}) AS VARCHAR), '[]')"


def _number(column: str, culture: Culture) -> str:
    """A JSON number as it stands; other spellings (+5, 1., .5) through DOUBLE; NaN and Infinity are none.

    Grouped thousands and decimal commas only where they are the culture's.
    """
    cell = trimmed(column)
    usual = f"WHEN {_is_number(column)} THEN {column} WHEN {_is_number(cell)} THEN {cell}"  # trimming is dear
    if culture.decimal is None:
        return f"CASE {usual} {_through_double(cell)} END"
    digits = f"replace(translate({cell}, {literal(_GROUPING[culture.decimal])}, ''), ',', '.')"
    own = f"regexp_full_match({cell}, {literal(_grouped(culture.decimal))})"
    local = f"WHEN {own} THEN CASE WHEN {_is_number(digits)} THEN {digits} {_through_double(digits)} END"
    # In a culture with a decimal comma, 1.234 looks like a usual number and is a thousand.
    clauses = (local, usual) if culture.decimal == "," else (usual, local)
    return f"CASE {' '.join(clauses)} {_through_double(cell)} END"


def _through_double(cell: str) -> str:
    parsed = f"try_cast({cell} AS DOUBLE)"
    return f"WHEN isfinite({parsed}) THEN CAST({parsed} AS VARCHAR)"


_GROUPING = {
    ",": ".'\u2019 \u00a0\u202f",
    ".": ",'\u2019 \u00a0\u202f",
}  # between thousands, by the decimal sign


def _grouped(decimal: str) -> str:
    """A pattern: digits, maybe in groups (India has groups of two), maybe with decimals."""
    group = f"[{_GROUPING[decimal]}]"
    size = "3" if decimal == "," else "2,3"
    grouped = f"[1-9][0-9]{{0,2}}(?:{group}[0-9]{{{size}}})*{group}[0-9]{{3}}"
    return f"[+-]?(?:{grouped}|[0-9]+)(?:[{decimal}][0-9]+)?"


def _is_number(cell: str) -> str:
    return f"regexp_full_match({cell}, {literal(_NUMBER)}) AND isfinite(try_cast({cell} AS DOUBLE))"


def _boolean(column: str) -> str:
    cell = f"lower({trimmed(column)})"
    return (
        f"CASE WHEN {cell} IN ('true', '1', 'yes', 'y', 't') THEN 'true'"
        f" WHEN {cell} IN ('false', '0', 'no', 'n', 'f') THEN 'false' END"
    )


def _date(column: str, culture: Culture) -> str:
    """ISO 8601 where the cell is a date or a time, ISO or as the culture has it; times as UTC."""
    cell = trimmed(column)
    day, time = _day(cell, culture), _time(cell, culture)
    return f"'\"' || coalesce(strftime({day}, '%Y-%m-%d'), strftime({time}, '%Y-%m-%dT%H:%M:%SZ')) || '\"'"


def _day(cell: str, culture: Culture) -> str:
    """SQL: the TIMESTAMP of a date without time, else NULL. Times are longer, and not tried in every form."""
    forms = ", ".join(literal(form) for form in ("%Y-%m-%d", *_date_forms(culture)))
    return _sensible(
        cell, f"CASE WHEN strlen({cell}) <= 10 THEN try_strptime({cell}, [{forms}]) END"
    )


def _time(cell: str, culture: Culture) -> str:
    """SQL: the TIMESTAMP in UTC of a date with time, else NULL."""
    forms = ", ".join(literal(f"{day} {time}") for day in _date_forms(culture) for time in _TIMES)
    plain = f"replace({cell}, chr(8239), ' ')"  # the narrow blank that .NET puts before AM and PM since version 8
    written = f"try_strptime({plain}, [{forms}])"
    return _sensible(
        cell, f"coalesce(try_cast(try_cast({cell} AS TIMESTAMPTZ) AS TIMESTAMP), {written})"
    )


_TIMES = ("%H:%M:%S", "%I:%M:%S %p", "%H:%M", "%I:%M %p")


def _date_forms(culture: Culture) -> tuple[str, ...]:
    """How dates are written beside ISO 8601. With points the day comes first everywhere."""
    slashed = ("%d/%m/%Y", "%d-%m-%Y") if culture.day_first else ("%m/%d/%Y",)
    return (*slashed, "%d.%m.%Y", "%Y/%m/%d")


def _sensible(cell: str, moment: str) -> str:
    """SQL: not what DuckDB makes of "infinity" or "epoch", years of two digits, and .NET's 0001-01-01 for "none"."""
    return f"CASE WHEN {cell} BETWEEN '0' AND ':' AND year({moment}) BETWEEN 1000 AND 9999 THEN {moment} END"
