"""Which first lines are headers, and what the columns are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.reading.column_headers import decide_header

CONTACT = ["CustomerId", "Email", "Channel", "Name"]


@pytest.mark.parametrize(
    ("first", "declared", "columns", "mapped", "has_header", "names", "why"),
    [
        (["Id", "EMail"], None, None, [], True, ["Id", "EMail"], "Nothing else is known"),
        (["Id", "EMail"], None, None, ["EMail"], True, ["Id", "EMail"], "holds the column names."),
        (
            ["Id", " EMAIL "],
            False,
            ["id", "email"],
            [],
            True,
            ["Id", "EMAIL"],
            "although model.json says",
        ),
        (
            ["Id", "EMail", "New"],
            False,
            ["Id", "EMail"],
            ["EMail"],
            True,
            ["Id", "EMail", "New"],
            "although",
        ),
        (
            ["Id", "Mail", "City"],
            False,
            ["Id", "EMail", "City"],
            ["EMail"],
            True,
            ["Id", "Mail", "City"],
            "although",
        ),
        (
            ["Id", "EMail"],
            True,
            ["Id", "EMail"],
            [],
            True,
            ["Id", "EMail"],
            "holds the column names.",
        ),
        (
            ["Key", "Address"],
            True,
            ["Id", "EMail"],
            ["EMail"],
            True,
            ["Key", "Address"],
            "model.json says",
        ),
        (["1", "a@b.c"], True, ["Id", "EMail"], [], False, ["Id", "EMail"], "holds an address"),
        (["1", "a@b.c"], True, None, [], True, ["1", "a@b.c"], "model.json says"),
        (["1", "a@b.c"], False, ["Id", "EMail"], [], False, ["Id", "EMail"], "no column names"),
        (["1", "a@b.c"], None, ["Id", "EMail"], [], False, ["Id", "EMail"], "does not repeat"),
        (["1", "x"], False, None, [], False, ["column_1", "column_2"], "column_1 and so on"),
        (
            ["1", "a@b.c"],
            None,
            None,
            ["EMail"],
            False,
            ["column_1", "column_2"],
            "holds an address",
        ),
        (["1", "x"], None, None, ["column_2"], False, ["column_1", "column_2"], "counts columns"),
        (["Id", "Mail"], None, None, ["EMail"], True, ["Id", "Mail"], "Nothing else is known"),
        # a person's preferred channel is called as a column is
        (
            ["C1", "a@b.c", "Email", "Ada"],
            False,
            CONTACT,
            ["Email"],
            False,
            CONTACT,
            "no column names",
        ),
        (
            ["C1", "a@b.c", "Email", "Ada"],
            None,
            CONTACT,
            ["Email"],
            False,
            CONTACT,
            "does not repeat",
        ),
        (
            ["C1", "a@b.c", "Email", "Ada"],
            True,
            CONTACT,
            ["Email"],
            False,
            CONTACT,
            "holds an address",
        ),
        (["C1", "", "Email", "Ada"], False, CONTACT, ["Email"], False, CONTACT, "no column names"),
        (
            ["Name", "", "Email", "CustomerId"],
            False,
            CONTACT,
            ["Email"],
            False,
            CONTACT,
            "no column names",
        ),
        (
            ["C1", "a@b.c", "Email"],
            None,
            None,
            ["Email"],
            False,
            ["column_1", "column_2", "column_3"],
            "an address",
        ),
        (CONTACT[::-1], False, CONTACT, ["Email"], True, CONTACT[::-1], "although"),
        (
            ["New", "Name", "Email"],
            None,
            CONTACT,
            ["Email"],
            True,
            ["New", "Name", "Email"],
            "holds the column names.",
        ),
        (
            [*CONTACT[:3], ""],
            False,
            CONTACT,
            ["Email"],
            True,
            [*CONTACT[:3], "column_4"],
            "although",
        ),
        (["Id", "E@Mail"], False, ["Id", "E@Mail"], ["E@Mail"], True, ["Id", "E@Mail"], "although"),
        (
            ["City", "", "city", "City_2", "City"],
            True,
            None,
            [],
            True,
            None,
            "changed to unique ones",
        ),
    ],
)
def test_header_is_decided(first, declared, columns, mapped, has_header, names, why):
    decision = decide_header(first, declared=declared, columns=columns, mapped=mapped)
    assert decision.has_header == has_header
    assert decision.columns == tuple(names or ["City", "column_2", "city", "City_2", "City_3"])
    assert why in decision.why
    assert not [cell for cell in first if "@" in cell and cell in decision.why]


@given(
    st.lists(
        st.sampled_from(["", " ", "City", "city", "City_2", "column_1", "column_2", "ß", "SS"]),
        min_size=1,
    )
)
def test_column_names_are_never_empty_or_the_same_and_else_as_written(first: list[str]):
    decision = decide_header(first, declared=True)
    assert len(decision.columns) == len(set(decision.columns)) == len(first)
    assert all(decision.columns)
    plain = [" ".join(cell.split()) for cell in first]
    for cell, written, name in zip(plain, first, decision.columns, strict=True):
        if cell and plain.count(cell) == 1:
            assert name == cell
        if cell and first.count(written) > 1:
            assert written in decision.repeated


@pytest.mark.parametrize(
    ("first", "below", "mapped", "has_header"),
    [
        (["@odata.etag", "EMail"], [], ["EMail"], True),
        (["Mail @ Work", "EMail"], [], ["EMail"], True),
        (["owner@crm.local", "EMail"], [["x", "a@x.co"]], ["EMail"], True),
        (["owner@crm.local", "EMail"], [["x", ""], ["x", "a@x.co"]], ["EMail"], True),
        (["owner@crm.local", "EMail", "Name"], [], ["EMail", "Name"], True),
        (["a@x.co", "Email"], [["b@x.co", "Phone"]], ["Email"], False),
        (["a@x.co", "Ada"], [["b@x.co", "Bo"]], ["EMail"], False),
    ],
)
@pytest.mark.parametrize("declared", [None, False])
def test_first_line_that_holds_every_mapped_name_is_a_header(
    first: list[str],
    below: list[list[str]],
    mapped: list[str],
    has_header: bool,
    declared: bool | None,
):
    decision = decide_header(first, declared=declared, mapped=mapped, below=below)
    assert decision.has_header == has_header


@pytest.mark.parametrize(
    ("first", "below", "is_guess"),
    [
        (["Id", "E-mail"], [["1", "a@x.co"]], False),
        (["C-1", "Ada"], [["C-2", "Bo"]], True),
        (["C-1", ""], [["C-2", "b@x.co"]], True),
        (["Id", "E-mail"], [], True),
    ],
)
def test_names_above_addresses_are_no_guess(
    first: list[str], below: list[list[str]], is_guess: bool
):
    decision = decide_header(first, declared=None, mapped=["EMail"], below=below)
    assert (decision.has_header, decision.is_guess) == (True, is_guess)
