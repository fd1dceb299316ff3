"""Cells that SQL cannot judge: domains that are not ASCII, phone numbers that are not E.164 yet.

They go through Python, once for each distinct text, and come back as small tables to join.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb

from exporter.definitions.mapped_fields import ResolvedMapping
from exporter.planning import emails, phones, row_rules
from exporter.sql import literal

_MAX_JUDGED_CHARS = 1_000  # no longer text is an address
_CELLS_AT_A_TIME = 10_000


@dataclass(frozen=True, slots=True)
class Lookup:
    """What Python made of such cells. `joins`: SQL that joins the tables."""

    joins: str = ""
    has_emails: bool = False
    has_phones: bool = False
    has_region: bool = False  # of phone numbers without a country code

    def email(self, cell: str) -> str:
        """SQL: the cell as an address."""
        email = row_rules.normalized_email(cell, "is_usual_email")
        return f"coalesce(emails_value, {email})" if self.has_emails else email

    def phone(self, cell: str) -> str:
        """SQL: the cell in E.164: as it stands, without punctuation, or as Python made it."""
        pattern = phones.e164_pattern()
        closed_up = f"replace({cell}, ' ', '')"  # cheaper than to translate, and mostly enough
        digits = _digits(cell)
        otherwise = "phones_value" if self.has_phones else "NULL"
        return (
            f"CASE WHEN {row_rules.matches(closed_up, pattern)} THEN {closed_up}"
            f" WHEN {row_rules.matches(digits, pattern)} THEN {digits}"
            f" ELSE {otherwise} END"
        )


def look_up(cursor: duckdb.DuckDBPyConnection, table: str, mapping: ResolvedMapping) -> Lookup:
    """Have Python judge the odd cells of a piece, and keep its answers in tables of the cursor."""
    cells = {field.name: f"c{field.column}" for field in mapping.fields if field.group == ""}
    joins = ""
    if email := cells.get("email"):
        odd = (
            f"NOT {row_rules.is_ascii(email)} AND contains({email}, '@')"
            f" AND length({email}) < {_MAX_JUDGED_CHARS}"
        )
        _fill(cursor, "emails", table, email, odd, emails.to_ascii)
        joins += f" LEFT JOIN emails ON emails_cell = {email}"
    if phone := cells.get("phone_number"):
        pattern, region = phones.e164_pattern(), mapping.phone_region
        odd = (
            f"NOT {row_rules.matches(phone, pattern)}"
            f" AND NOT {row_rules.matches(_digits(phone), pattern)}"
        )
        _fill(cursor, "phones", table, phone, odd, lambda cell: phones.to_e164(cell, region))
        joins += f" LEFT JOIN phones ON phones_cell = {phone}"
    return Lookup(
        joins,
        has_emails="email" in cells,
        has_phones="phone_number" in cells,
        has_region=mapping.phone_region is not None,
    )


def _fill(
    cursor: duckdb.DuckDBPyConnection,
    name: str,
    table: str,
    column: str,
    condition: str,
    convert: Callable[[str], str | None],
) -> None:
    """Make a table of the distinct cells that meet a condition, and of what becomes of them."""
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} ({name}_cell VARCHAR, {name}_value VARCHAR)"
    )
    cells = cursor.cursor().execute(f"SELECT DISTINCT {column} FROM {table} WHERE {condition}")
    while chunk := cells.fetchmany(_CELLS_AT_A_TIME):
        converted: list[Any] = [[cell for (cell,) in chunk], [convert(cell) for (cell,) in chunk]]
        cursor.execute(
            f"INSERT INTO {name} SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[])", converted
        )


def _digits(cell: str) -> str:
    return f"translate({cell}, {literal(phones.PUNCTUATION)}, '')"
