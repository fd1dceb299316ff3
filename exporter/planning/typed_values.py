"""Cells as numbers, booleans, dates and lists. In SQL."""

from __future__ import annotations

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import ValueType
from exporter.planning.row_rules import matches, trimmed
from exporter.reading.dialect import UNKNOWN, Culture
from exporter.sql import literal

UNREADABLE = "'-infinity'::DOUBLE"  # what cells that are neither moment nor number sort as
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"  # RFC 8259
_GROUPING = {  # between thousands, by the decimal sign
    ",": ".'\u2019 \u00a0\u202f",
    ".": ",'\u2019 \u00a0\u202f",
}
_TIMES = ("%H:%M:%S", "%I:%M:%S %p", "%H:%M", "%I:%M %p", "%H:%M:%S.%f")
# How .NET and what is made with it write "no date": 0001-01-01, with midnight or without.
_NO_DATE = (
    r"(?:0001-0?1-0?1|0?1[/.-]0?1[/.-]0001)"
    r"(?:[T ](?:0?0:00|12:00)(?::00(?:\.0+)?)?(?:[ \x{202F}]?AM)?(?:Z|[+-]00:?00)?)?"
)


def staged_value(field: MappedField, column: str, culture: Culture = UNKNOWN) -> str:
    """SQL: a cell as it is staged; NULL if it cannot be read as the field's type."""
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
    """SQL: a DOUBLE by which dates and times sort as they follow each other, numbers by size.

    A cell that is neither comes before all others; a blank one has none.
    """
    cell = trimmed(column)
    moment = f"coalesce({_day(cell, culture)}, {_time(cell, culture)})"
    moment_us = f"CAST(epoch_us({moment}) AS DOUBLE)"
    number = f"CAST({_number(column, culture)} AS DOUBLE)"
    is_blank = f"{cell} = '' OR {is_no_date(column)}"
    unreadable = f"CASE WHEN NOT ({is_blank}) THEN {UNREADABLE} END"
    return f"coalesce({moment_us}, {number}, {unreadable})"


def _list(column: str) -> str:
    """SQL: the parts between semicolons as texts, or the elements of a JSON array.

    A Parquet list is read as a JSON array.
    """
    is_array = f"starts_with({column}, '[') AND json_valid({column})"
    array, parts = f"from_json({column}, '[\"VARCHAR\"]')", f"string_split({column}, ';')"
    elements = f"CASE WHEN {is_array} THEN {array} ELSE {parts} END"
    texts = f"list_transform({elements}, lambda x: {trimmed('x')})"
    filled = f"list_filter({texts}, lambda x: x <> '')"
    return f"nullif(CAST(to_json({filled}) AS VARCHAR), '[]')"


# Numbers


def _number(column: str, culture: Culture) -> str:
    """SQL: a JSON number as it stands, other spellings (+5, 1., .5) as DuckDB writes them.

    NaN and infinity are no numbers. Grouped thousands and decimal commas only where they are the
    culture's.
    """
    cell = trimmed(column)
    # Trimming costs more than looking first whether it is needed.
    usual = f"WHEN {_is_number(column)} THEN {column} WHEN {_is_number(cell)} THEN {cell}"
    if culture.decimal is None:
        return f"CASE {usual} {_through_double(cell)} END"
    grouping = literal(_GROUPING[culture.decimal])
    digits = f"replace(translate({cell}, {grouping}, ''), ',', '.')"
    read = f"CASE WHEN {_is_number(digits)} THEN {digits} {_through_double(digits)} END"
    local = f"WHEN {matches(cell, _grouped(culture.decimal))} THEN {read}"
    # In a culture with a decimal comma, 1.234 looks like a usual number and is a thousand.
    clauses = f"{local} {usual}" if culture.decimal == "," else f"{usual} {local}"
    return f"CASE {clauses} {_through_double(cell)} END"


def _is_number(cell: str) -> str:
    return f"{matches(cell, _NUMBER)} AND isfinite(try_cast({cell} AS DOUBLE))"


def _through_double(cell: str) -> str:
    parsed = f"try_cast({cell} AS DOUBLE)"
    return f"WHEN isfinite({parsed}) THEN CAST({parsed} AS VARCHAR)"


def _grouped(decimal: str) -> str:
    """A pattern: digits, maybe in groups (India has groups of two), maybe with decimals."""
    group = f"[{_GROUPING[decimal]}]"
    size = "3" if decimal == "," else "2,3"
    grouped = f"[1-9][0-9]{{0,2}}(?:{group}[0-9]{{{size}}})*{group}[0-9]{{3}}"
    return f"[+-]?(?:{grouped}|[0-9]+)(?:[{decimal}][0-9]+)?"


def _boolean(column: str) -> str:
    cell = f"lower({trimmed(column)})"
    return (
        f"CASE WHEN {cell} IN ('true', '1', 'yes', 'y', 't') THEN 'true'"
        f" WHEN {cell} IN ('false', '0', 'no', 'n', 'f') THEN 'false' END"
    )


# Dates


def is_no_date(column: str) -> str:
    """SQL: whether the cell says "no date", as .NET does with 0001-01-01: it counts as blank."""
    cell = trimmed(column)
    return f"contains({cell}, '0001') AND {matches(cell, _NO_DATE)}"


def date_order(column: str) -> str:
    """SQL: what a date that was read without a culture says of the order of day and month.

    "d" or "m" if the day or the month comes first, "?" if it may be either, "." if the cell is
    written in a form that has one order only.
    """
    cell = trimmed(column)
    first, second = (
        f"try_cast(split_part(replace({cell}, '-', '/'), '/', {part}) AS INTEGER)"
        for part in (1, 2)
    )
    is_open = f"regexp_matches({cell}, '^[0-9]{{1,2}}[/-][0-9]{{1,2}}[/-][0-9]{{4}}')"
    return (
        f"CASE WHEN NOT {is_open} THEN '.' WHEN {first} > 12 THEN 'd' WHEN {second} > 12 THEN 'm'"
        f" WHEN {first} = {second} THEN '.' ELSE '?' END"
    )


def with_day_first(value: str) -> str:
    """SQL: a staged date that was read with the month first, read the other way."""
    year, month, day, rest = (
        f"left({value}, 6)",
        f"substr({value}, 7, 2)",
        f"substr({value}, 10, 2)",
        f"substr({value}, 12)",
    )
    return f"concat({year}, {day}, '-', {month}, {rest})"


def moment_with_day_first(moment: str) -> str:
    """SQL: the same for what `sortable` gives."""
    time = f"make_timestamp(CAST({moment} AS BIGINT))"
    seconds = f"second({time}) + (microsecond({time}) % 1000000) / 1e6"
    return (
        f"CAST(epoch_us(make_timestamp(year({time}), day({time}), month({time}), hour({time}),"
        f" minute({time}), {seconds})) AS DOUBLE)"
    )


def _date(column: str, culture: Culture) -> str:
    """SQL: a date or a time, ISO or as the culture writes it, in ISO 8601; times in UTC."""
    cell = trimmed(column)
    day = f"strftime({_day(cell, culture)}, '%Y-%m-%d')"
    # Said once: what is said twice, DuckDB would work out for dates without time, too.
    time = f"strftime({_time(cell, culture)}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    without_zeros = f"regexp_replace({time}, '\\.?0*Z$', 'Z')"
    return f"'\"' || coalesce({day}, {without_zeros}) || '\"'"


def _day(cell: str, culture: Culture) -> str:
    """SQL: the TIMESTAMP of a date without time, else NULL.

    Times are longer, and are not tried in every form.
    """
    forms = ", ".join(literal(form) for form in ("%Y-%m-%d", *_date_forms(culture)))
    return _sensible(
        cell, f"CASE WHEN strlen({cell}) <= 10 THEN try_strptime({cell}, [{forms}]) END"
    )


def _time(cell: str, culture: Culture) -> str:
    """SQL: the TIMESTAMP in UTC of a date with time, else NULL."""
    forms = ", ".join(literal(f"{day} {time}") for day in _date_forms(culture) for time in _TIMES)
    plain = f"replace({cell}, chr(8239), ' ')"  # .NET 8 puts this narrow blank before AM and PM
    iso = f"try_cast(try_cast({cell} AS TIMESTAMPTZ) AS TIMESTAMP)"
    return _sensible(cell, f"coalesce({iso}, try_strptime({plain}, [{forms}]))")


def _date_forms(culture: Culture) -> tuple[str, ...]:
    """How dates are written beside ISO 8601. With points the day comes first everywhere.

    Without a culture a date is read with the month first if it can be: see `date_order`.
    """
    day_first, month_first = ("%d/%m/%Y", "%d-%m-%Y"), ("%m/%d/%Y", "%m-%d-%Y")
    if culture == UNKNOWN:
        slashed: tuple[str, ...] = month_first + day_first
    else:
        slashed = day_first if culture.day_first else month_first[:1]
    return (*slashed, "%d.%m.%Y", "%Y/%m/%d")


def _sensible(cell: str, moment: str) -> str:
    """SQL: the moment, but not what DuckDB makes of "infinity", "epoch" or a two-digit year."""
    is_written_out = f"{cell} BETWEEN '0' AND ':' AND year({moment}) BETWEEN 1000 AND 9999"
    return f"CASE WHEN {is_written_out} THEN {moment} END"
