"""Rows that all differ from the columns by the same number are read, single odd ones rejected."""

from __future__ import annotations

import pytest

from exporter.reading.dialect import Dialect
from tests.reading.outcomes import read

MODEL = Dialect(columns=("Id", "EMail", "New"), has_header=False)


def test_headerless_rows_of_a_model_that_has_one_column_more_are_read_in_order():
    outcome = read(b'1,a@x.co\n2,"b\n@x.co"\n\n3,c@x.co\n', declared=MODEL)
    assert outcome.rows == [
        (1, "1", "a@x.co", ""),
        (2, "2", "b\n@x.co", ""),
        (5, "3", "c@x.co", ""),
    ]
    assert outcome.rejected == []
    assert outcome.notes == (
        "The rows have 2 of the 3 columns. They were read in order, and the last column is empty.",
    )


@pytest.mark.parametrize("end", [b",", b',""', b", "])
def test_rows_that_all_end_in_a_delimiter_are_read(end: bytes):
    outcome = read(b"Id,EMail\n1,a@x.co" + end + b"\n2,b@x.co" + end + b"\n")
    assert outcome.values == [("1", "a@x.co"), ("2", "b@x.co")]
    assert outcome.notes == ("Every row ends in a delimiter more than the columns need.",)


def test_one_row_that_ends_in_a_delimiter_is_all_rows():
    assert read(b"EMail\na@x.co,\n").values == [("a@x.co",)]


@pytest.mark.parametrize(
    ("rows", "refusals"),
    [
        (b"1,2,3\n1,2\n", [(3, "too_few_columns")]),
        (b"1,2\n1,2,3\n", [(2, "too_few_columns")]),
        (b"1,2,3,\n1,2,3\n", [(2, "too_many_columns")]),
        (b"1,2\n1\n", [(2, "too_few_columns"), (3, "too_few_columns")]),
        (b"1,2,3,4\n1,2,3,5\n", [(2, "too_many_columns"), (3, "too_many_columns")]),
    ],
)
def test_rows_that_differ_from_each_other_are_rejected(
    rows: bytes, refusals: list[tuple[int, str]]
):
    outcome = read(b"a,b,c\n" + rows)
    assert outcome.refusals == refusals
    assert outcome.notes == ()


def test_single_odd_row_among_drifted_ones_is_rejected_and_a_whole_one_read():
    rows = [b"1,2\n"] * 40
    rows[7], rows[20] = b"1\n", b"1,2,3\n"
    outcome = read(b"a,b,c\n" + b"".join(rows), piece_bytes=60)
    assert outcome.refusals == [(9, "too_few_columns")]
    assert outcome.values[19] == ("1", "2", "3")
    assert len(outcome.rows) == 39
    assert [line for line, *_ in outcome.rows] == [n for n in range(2, 42) if n != 9]


def test_rows_lack_the_empty_column_that_the_header_ends_in():
    assert read(b"Id,EMail,\n1,a@x.co\n").values == [("1", "a@x.co", "")]
