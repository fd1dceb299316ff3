"""Parquet partitions: the names of their columns, and what becomes of values that are no text."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from exporter.reading.parquet import ParquetFile, save_parquet
from exporter.sql import literal


def saved(query: str, folder: Path) -> ParquetFile:
    source = folder / "written.parquet"
    duckdb.execute(f"COPY ({query}) TO {literal(str(source))} (FORMAT parquet)")
    return save_parquet(duckdb.cursor(), "p", [source.read_bytes()], folder / "read.parquet")


def cells(file: ParquetFile) -> list[tuple[str | None, ...]]:
    return duckdb.execute(f"SELECT * FROM {file.slice_as_text(0, 10)}").fetchall()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'inf'::DOUBLE", None),
        ("'-inf'::FLOAT", None),
        ("'nan'::DOUBLE", None),
        ("1.5::DOUBLE", "1.5"),
        ("3::DOUBLE", "3"),
        ("1e300::DOUBLE", "1e+300"),
        ("'infinity'::DATE", None),
        ("'-infinity'::TIMESTAMP", None),
        ("'infinity'::TIMESTAMPTZ", None),
        ("[1.5, 'inf'::DOUBLE, 'nan'::DOUBLE]", "[1.5,null,null]"),
        ("[1.5, 'inf'::DOUBLE]::DOUBLE[2]", "[1.5,null]"),
        ("['inf', 'NaN']", '["inf","NaN"]'),
        ("NULL::DOUBLE[]", None),
        (
            "{'a': 'inf'::DOUBLE, 'b \" c': [{'d': '-inf'::FLOAT}]}",
            '{"a":null,"b \\" c":[{"d":null}]}',
        ),
        ("NULL::STRUCT(a DOUBLE)", None),
        ("map(['a', 'b'], ['inf'::DOUBLE, 2.5])", '{"a":null,"b":2.5}'),
        ("{'on': 'infinity'::DATE}", '{"on":null}'),
    ],
)
def test_what_is_infinite_is_empty_as_nan_is(value: str, text: str | None, tmp_path: Path):
    assert cells(saved(f"SELECT {value} AS v", tmp_path)) == [(text,)]


def renamed(query: str, folder: Path, **names: str) -> ParquetFile:
    """A Parquet file with names that DuckDB would not write: each stands in for one as long."""
    source = folder / "written.parquet"
    duckdb.execute(f"COPY ({query}) TO {literal(str(source))} (FORMAT parquet)")
    data = source.read_bytes()
    for before, after in names.items():
        assert len(before) == len(after)
        data = data.replace(before.encode(), after.encode())
    return save_parquet(duckdb.cursor(), "p", [data], folder / "read.parquet")


def test_columns_that_differ_in_case_only_keep_their_names_and_values(tmp_path: Path):
    """DuckDB calls the second one EMail_1."""
    nested = "{'x': 1, 'y': [{'email': 2}]} AS nested, map(['k'], [1]) AS m"
    query = f"SELECT 'a@x.co' AS email, {nested}, 'b@x.co' AS Xmail, 'c' AS Tier, 'd' AS XIER"
    file = renamed(query, tmp_path, Xmail="EMail", XIER="TIER")
    assert file.columns == ("email", "nested", "m", "EMail", "Tier", "TIER")
    assert file.repeated == frozenset()
    [row] = cells(file)
    assert (row[0], *row[3:]) == ("a@x.co", "b@x.co", "c", "d")


def test_name_of_several_columns_is_remembered(tmp_path: Path):
    file = renamed("SELECT 1 AS email, 2 AS Xmail", tmp_path, Xmail="email")
    assert (file.columns, file.repeated) == (("email", "email_2"), frozenset({"email"}))
