"""Cells become numbers, booleans, dates and lists, or are left out."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import ValueType
from exporter.planning.typed_values import sortable, staged_value
from exporter.reading.dialect import Culture, culture_of
from tests.planning.planned import strict_json

database = duckdb.connect()
database.execute("SET TimeZone = 'UTC'")


def staged(kind: ValueType, cells: list[str], culture: str | None = None) -> list[Any]:
    one = MappedField(group="properties", name="x", column=0, type=kind)
    value = staged_value(one, "cell", culture_of(culture))
    query = f"SELECT {value} FROM (SELECT unnest($cells) AS cell)"
    rows = database.execute(query, {"cells": cells}).fetchall()
    return [value for (value,) in rows]


NUMBERS = {
    "5": 5, "-5": -5, "5.25": 5.25, "1e3": 1e3, "1.5E-3": 1.5e-3, " 7 ": 7, "8\t": 8, "+5": 5,
    ".5": 0.5, "5.": 5,
    "007": 7, "0": 0, "-0": 0, "1_000": 1000,
    "123456789012345678901234567890": 123456789012345678901234567890,
    "0.1234567890123456789": 0.1234567890123456789, "1e308": 1e308, "1e-400": 0.0,
    "NaN": None, "nan": None, "Infinity": None, "-inf": None, "1e999": None, "9" * 400: None,
    "1,5": None, "1.000,00": None, "1 000": None, "0x1F": None, "five": None,
    "١": None, "--1": None,
    "€5": None,
    "5%": None,
    "true": None,
}  # fmt: skip
BOOLEANS = {
    "true": True, "TRUE": True, " True ": True, "1": True, "yes": True, "Y": True, "t": True,
    "\u00a0true": True,
    "false": False, "False": False, "0": False, "no": False, "N": False, "f": False,
    "maybe": None, "2": None, "ja": None, "-": None,
}  # fmt: skip
DATES = {
    "1986-05-08": "1986-05-08", "1986-5-8": "1986-05-08", " 1986-05-08 ": "1986-05-08",
    "05/08/1986": "1986-05-08",
    "5/8/1986": "1986-05-08", "2024-02-29": "2024-02-29", "2/29/2024": "2024-02-29",
    "1986-05-08T00:00:00Z": "1986-05-08T00:00:00Z", "1986-05-08 01:02:03": "1986-05-08T01:02:03Z",
    "1986-05-08T01:02:03.0000000Z": "1986-05-08T01:02:03Z",  # as .NET writes it
    "1986-05-08T01:02:03.1234567+02:00": "1986-05-07T23:02:03.123456Z",
    "5/8/1986 1:02:03.25": "1986-05-08T01:02:03.25Z",
    "1986-05-08 01:02:30.500": "1986-05-08T01:02:30.5Z",
    "1986-05-08T01:02Z": "1986-05-08T01:02:00Z",
    "9/2/2025 10:00 AM": "2025-09-02T10:00:00Z", "9/2/2025 10:00\u202fPM": "2025-09-02T22:00:00Z",
    "13.05.1986": "1986-05-13", "01.10.2025 9:00": "2025-10-01T09:00:00Z",
    "2025/10/01": "2025-10-01",
    "5-8-1986": None, "20251001": None,
    "5/8/1986 1:02:03 PM": "1986-05-08T13:02:03Z", "5/8/1986 12:00:00 AM": "1986-05-08T00:00:00Z",
    "05/08/1986 13:02": "1986-05-08T13:02:00Z",
    "2018-01-02 12:00:00 Europe/Berlin": "2018-01-02T11:00:00Z",
    "13/12/2018": None, "2018-02-30": None, "2/29/2023": None, "5/8/86": None, "1986": None,
    "12:30": None,
    "0001-01-01T00:00:00": None,  # .NET's way to say: none
    "99999-01-01": None, "-0044-03-15": None, "infinity": None, "epoch": None, "today": None,
    "now": None,
    "8. Mai 1986": None, "1986-05-08T25:00:00Z": None,
}  # fmt: skip
# Columns are decided later: see test_date_orders.py.
DATES_WITHOUT_CULTURE = {"13/12/2018": "2018-12-13", "5-8-1986": "1986-05-08"}
LISTS = {
    "a;b": ["a", "b"], "a": ["a"], " a ; b ": ["a", "b"], "a;;b;": ["a", "b"], 'a";b\\': ['a"',
    "b\\"],
    "a,b": ["a,b"], "[a, b]": ["[a, b]"], ";": None, " ; ; ": None, "é;\n": ["é"],
    '["a","b"]': ["a", "b"],  # a list of a Parquet file
    '["a;b", 1, null, {"x": NaN}]': ["a;b", "1", '{"x":NaN}'], "[]": None, "[NaN]": ["NaN"],
    "[": ["["],
}  # fmt: skip


BRITISH_DATES = {
    "05/08/1986": "1986-08-05", "13/05/1986": "1986-05-13", "13-05-1986": "1986-05-13",
    "13.05.1986": "1986-05-13",
    "1986-05-08": "1986-05-08", "9/2/2025 10:00 AM": "2025-02-09T10:00:00Z",
    "13/05/1986 14:30": "1986-05-13T14:30:00Z",
    "05/13/1986": None, "13/05/86": None,
}  # fmt: skip
COMMA_NUMBERS = {
    "1.234,56": 1234.56, "1,5": 1.5, "-1,5": -1.5, "+1,5": 1.5, "1.234": 1234, "1.234.567": 1234567,
    "1 234,5": 1234.5,
    "1\u00a0234": 1234, "0.125": 0.125, "1.5": 1.5, "1234.567": 1234.567, "5": 5, "1e3": 1000,
    " 7 ": 7,
    "123456789012345678,12": 123456789012345678.12, "1,": None, ",5": None, "1,234.56": None,
    "1.23.456": None,
    "1,5,6": None, "NaN": None, "9" * 400 + ",5": None,
}  # fmt: skip
POINT_NUMBERS = {
    "1,234.56": 1234.56, "1,234": 1234, "12,34,567": 1234567, "1'234.5": 1234.5, "1.234": 1.234,
    "5": 5, "1,5": None,
    "1.234,56": None, "0,125": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "culture", "table"),
    [
        (ValueType.DATE, "en-GB", BRITISH_DATES),
        (ValueType.DATE, "ro-RO", BRITISH_DATES),
        (ValueType.DATE, "en-US", DATES),
        (ValueType.NUMBER, "de-DE", COMMA_NUMBERS),
        (ValueType.NUMBER, "en-US", POINT_NUMBERS),
    ],
)
def test_dates_and_numbers_are_read_as_their_culture_writes_them(
    kind: ValueType, culture: str, table: dict[str, Any]
):
    found = [
        None if text is None else strict_json(text) for text in staged(kind, list(table), culture)
    ]
    assert dict(zip(table, found, strict=True)) == table


@pytest.mark.parametrize(
    ("name", "culture"),
    [
        (None, Culture()),
        ("", Culture()),
        ("not a culture", Culture()),
        ("en-US", Culture(decimal=".")),
        ("EN_us", Culture(decimal=".")),
        ("en-GB", Culture(day_first=True, decimal=".")),
        ("de-DE", Culture(day_first=True, decimal=",")),
        ("de", Culture(day_first=True, decimal=",")),
        ("de-CH", Culture(day_first=True, decimal=".")),
        ("en-ZA", Culture(day_first=True, decimal=",")),
        ("es-US", Culture(decimal=".")),
        ("sr-Latn-RS", Culture(day_first=True, decimal=",")),
        ("tlh-QO", Culture(day_first=True)),
    ],
)
def test_culture_is_known_by_its_language_and_country(name: str | None, culture: Culture):
    assert culture_of(name) == culture


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (ValueType.NUMBER, NUMBERS),
        (ValueType.BOOLEAN, BOOLEANS),
        (ValueType.DATE, {**DATES, **DATES_WITHOUT_CULTURE}),
        (ValueType.LIST, LISTS),
    ],
)
def test_cell_is_sent_as_its_type_or_left_out(kind: ValueType, table: dict[str, Any]):
    found = {
        cell: None if text is None else strict_json(text)
        for cell, text in zip(table, staged(kind, list(table)), strict=True)
    }
    assert found == table


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([kind for kind in ValueType if kind is not ValueType.STRING]),
    st.sampled_from([None, "en-US", "en-GB", "de-DE"]),
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
        | st.text("0123456789+-.,eE/:TZ [];\"'{}, ", max_size=30)
        | st.floats().map(repr)
        | st.integers().map(str)
        | st.datetimes().map(str),
        min_size=1,
        max_size=40,
    ),
)
def test_whatever_a_cell_holds_its_typed_value_is_json_of_that_type(
    kind: ValueType, culture: str | None, cells: list[str]
):
    types = {
        ValueType.NUMBER: (int, float),
        ValueType.BOOLEAN: bool,
        ValueType.DATE: str,
        ValueType.LIST: list,
    }
    for text in staged(kind, cells, culture):
        assert text is None or isinstance(strict_json(text), types[kind])


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2024-01-02", "2024-01-10"),
        ("9/1/2025", "10/1/2025"),
        ("12/31/2024", "1/1/2025"),
        ("9/1/2025 11:00:00 AM", "9/1/2025 1:00:00 PM"),
        ("2025-09-01T12:00:00+05:00", "2025-09-01T08:00:00Z"),
        ("2025-09-01T08:00:00.1Z", "2025-09-01T08:00:00.12Z"),
        ("2025-09-01", "2025-09-01T00:00:01Z"),
        ("9/2/2024 11:00 AM", "10/1/2025 9:00 AM"),
        ("02.09.2024", "01.10.2025"),
        ("999", "1000"),
        ("-5", "0.5"),
        ("someday", "1600-01-01"),
        ("someday", "-1e300"),
    ],
)
def test_newer_moment_sorts_after_an_older_one_however_both_are_written(older: str, newer: str):
    query = f"SELECT {sortable('$older')} < {sortable('$newer')}"
    assert database.execute(query, {"older": older, "newer": newer}).fetchall() == [(True,)]


def test_moments_sort_as_their_culture_writes_them():
    british = culture_of("en-GB")
    query = f"SELECT {sortable('$older', british)} < {sortable('$newer', british)}"
    assert database.execute(query, {"older": "12/01/2025", "newer": "01/02/2025"}).fetchall() == [
        (True,)
    ]


def test_what_is_no_moment_sorts_alike_and_nothing_as_nothing():
    query = f"SELECT {sortable('$cell')}"
    assert [
        database.execute(query, {"cell": cell}).fetchall()[0][0] for cell in ("a", "b", " ", "")
    ] == [
        *[float("-inf")] * 2,
        *[None] * 2,
    ]
