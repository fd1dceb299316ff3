"""Decide for each column whether its dates have the day or the month first.

05/08/2026 is May 8 or August 5. A culture says which. Without one, the cells decide that fit one
order only: 31/12/2026 has the day first, and then the whole column has. If no cell decides, or
cells contradict each other, ambiguous dates are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import ValueType
from exporter.planning.corrections import Correction, Corrector, LeftOut
from exporter.planning.plan import NEWEST_BY, DateOrder, SourceNote
from exporter.planning.staged_files import StagedFiles
from exporter.planning.typed_values import UNREADABLE, moment_with_day_first, with_day_first
from exporter.reading.dialect import culture_of
from exporter.rejection_reasons import LeftOutReason


@dataclass(frozen=True, slots=True, kw_only=True)
class _DateColumn:
    """A staged column of dates. place: its number in `date_orders`, from 1."""

    attribute: str
    staged: str
    place: int

    def is_ambiguous(self) -> str:
        """SQL: whether the row's date may be read in two orders."""
        return f"coalesce(substr(date_orders, {self.place}, 1) = '?', false)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """How many cells of a column have the day first, the month first, or may have either."""

    day_first: int
    month_first: int
    ambiguous: int

    def decide(self, attribute: str) -> DateOrder:
        order: Literal["day first", "month first", "undecided"] = "undecided"
        if self.day_first and self.month_first:
            why = (
                f"{_dates(self.day_first)} can only have the day first,"
                f" {_dates(self.month_first)} only the month"
            )
        elif self.day_first:
            order, why = "day first", f"{_dates(self.day_first)} can only have the day first"
        elif self.month_first:
            order, why = "month first", f"{_dates(self.month_first)} can only have the month first"
        else:
            why = "no date says whether the day or the month comes first, and there is no culture"
        left_out = self.ambiguous if order == "undecided" else 0
        return DateOrder(attribute=attribute, order=order, why=why, ambiguous=left_out)


def _dates(count: int) -> str:
    return f"{count:,} date{'' if count == 1 else 's'}"


def decide_date_orders(
    corrector: Corrector,
    fields: Sequence[MappedField],
    notes: Sequence[SourceNote],
    *,
    has_newest_by: bool,
) -> list[DateOrder]:
    """Decide the order of every column of dates, and correct the staged rows by it."""
    columns = _columns(fields, has_newest_by=has_newest_by)
    declared = list(_declared(columns, notes))
    if not columns or not corrector.files.pieces:
        return declared
    counted = _count(corrector.database, corrector.files, columns)
    orders = {column: found.decide(column.attribute) for column, found in counted.items()}
    corrected = [column for column, order in orders.items() if order.order != "month first"]
    for piece in _ambiguous_pieces(corrector.database, corrector.files, corrected):
        correction = Correction()
        for column in corrected:
            _correct(correction, column, orders[column])
        corrector.correct(piece, fields, correction)
    return declared + list(orders.values())


def _columns(fields: Sequence[MappedField], *, has_newest_by: bool) -> list[_DateColumn]:
    """List the columns in the order of `date_orders`."""
    named = [
        (field.name, f"f{position}")
        for position, field in enumerate(fields)
        if field.type is ValueType.DATE
    ]
    if has_newest_by:
        named.append((NEWEST_BY, "newest"))
    return [
        _DateColumn(attribute=attribute, staged=staged, place=place)
        for place, (attribute, staged) in enumerate(named, start=1)
    ]


def _declared(columns: Sequence[_DateColumn], notes: Sequence[SourceNote]) -> Iterator[DateOrder]:
    for culture in sorted({note.culture for note in notes if note.culture}):
        order: Literal["day first", "month first"]
        order = "day first" if culture_of(culture).day_first else "month first"
        for column in columns:
            yield DateOrder(attribute=column.attribute, order=order, why=f"the culture {culture}")


def _count(
    database: duckdb.DuckDBPyConnection, files: StagedFiles, columns: Sequence[_DateColumn]
) -> dict[_DateColumn, _Counted]:
    """Count what the dates say; columns whose dates have one order only are left out."""
    counts = ", ".join(
        f"count_if(substr(date_orders, {column.place}, 1) = '{order}')"
        for column in columns
        for order in "dm?"
    )
    found = database.execute(
        f"SELECT {counts} FROM {files.all_rows()} WHERE date_orders IS NOT NULL"
    ).fetchone()
    assert found is not None
    counted = {}
    for number, column in enumerate(columns):
        day, month, ambiguous = found[3 * number : 3 * number + 3]
        if day or month or ambiguous:
            counted[column] = _Counted(day_first=day, month_first=month, ambiguous=ambiguous)
    return counted


def _ambiguous_pieces(
    database: duckdb.DuckDBPyConnection, files: StagedFiles, columns: Sequence[_DateColumn]
) -> list[int]:
    if not columns:
        return []
    is_ambiguous = " OR ".join(column.is_ambiguous() for column in columns)
    pieces = database.execute(
        f"SELECT DISTINCT piece FROM {files.all_rows()} WHERE {is_ambiguous} ORDER BY 1"
    ).fetchall()
    return [piece for (piece,) in pieces]


def _correct(correction: Correction, column: _DateColumn, order: DateOrder) -> None:
    """Read the ambiguous dates of a column with the day first, or leave them out."""
    staged, is_ambiguous = column.staged, column.is_ambiguous()
    is_moment = column.attribute == NEWEST_BY and staged == "newest"
    if order.order == "day first":
        value = moment_with_day_first(staged) if is_moment else with_day_first(staged)
    elif is_moment:
        value = UNREADABLE
    else:
        value = "NULL"
        left_out = LeftOut(
            condition=is_ambiguous,
            attribute=column.attribute,
            reason=LeftOutReason.DATE_AMBIGUOUS,
        )
        correction.left_out.append(left_out)
    correction.values[staged] = f"CASE WHEN {is_ambiguous} THEN {value} ELSE {staged} END"
