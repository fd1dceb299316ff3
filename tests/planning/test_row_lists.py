"""rejected.csv and duplicates.csv: what they say, and that a spreadsheet may open them."""

from __future__ import annotations

import csv
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.planning.row_lists import safe_cell
from tests.planning.planned import as_csv, planned


def test_no_cell_of_the_lists_is_a_formula():
    begins = ["=", "+", "-", "@", "\t=", "\r=", "\n=", "＝", "＋", "－", "＠"]
    cells = [begin + 'HYPERLINK("http://x","y")' for begin in begins]
    assert all(safe_cell(cell).startswith("'") for cell in cells)
    file = as_csv([["EMail"], *([cell] for cell in cells), ["a@x.co"], ["A@x.co"]])
    with planned({"=name.csv": file}) as found:
        assert len(found.rejected()) == len(cells)
        assert found.duplicates() == [(("'=name.csv", 14), ("'=name.csv", 15))]
        for name in ("rejected.csv", "duplicates.csv"):
            with (found.folder / name).open(encoding="utf-8", newline="") as lines:
                assert not [
                    cell
                    for row in csv.reader(lines)
                    for cell in row
                    if cell.startswith(tuple("=+-@＝＋－＠\t\r\n"))
                ]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("x;=1+1", "x;'=1+1"),
        (" =1+1", "' =1+1"),
        ("a\t=cmd|' /C calc'!A0", "a\t'=cmd|' /C calc'!A0"),
        ('a; "=1+1"', 'a;\' "=1+1"'),
        ("a\n@SUM(1)", "a\n'@SUM(1)"),
        ("\u00a0-1|+2", "'\u00a0-1|'+2"),
        ("\ttext", "'\ttext"),
        ("ada@x.co,+49302312511", "ada@x.co,+49302312511"),
        ("a-b;c=d e+f", "a-b;c=d e+f"),
    ],
)
def test_what_begins_a_cell_for_any_spreadsheet_is_no_formula(text: str, safe: str):
    assert safe_cell(text) == safe


@given(st.text(max_size=10) | st.text('=+-@;|\t\n "a', max_size=10))
def test_safe_cell_changes_nothing_else(text: str):
    """Apostrophes are added where a formula would begin; without them the cell is what it was."""
    text = text.replace("'", "")
    safe = safe_cell(text)
    assert re.sub(r"(^|[;|\t\r\n])'", r"\1", safe) == text
    if not re.search("[=+@＝＋－＠-]", text):
        assert safe == ("'" + text if text[:1] in tuple("\t\r\n") else text)
    assert safe_cell(safe) == safe


@given(st.text("=+-@;|\t\n \"'a,", max_size=12))
def test_no_formula_is_left_behind_any_separator(text: str):
    for cell in re.split(r"[;|\t\r\n]", safe_cell(text)):
        assert not cell.strip(' "').startswith(tuple("=+-@"))


def test_every_cell_of_the_lists_is_quoted():
    with planned({"a.csv": "EMail\nnone\na@x.co\na@x.co\n"}) as found:
        for name in ("rejected.csv", "duplicates.csv"):
            lines = (found.folder / name).read_text(encoding="utf-8").splitlines()
            assert [line for line in lines if not re.fullmatch(r'"[^"]*"(?:,"[^"]*")*', line)] == []


def test_rejected_list_names_column_reason_and_identifier_but_no_more_of_the_row():
    file = "EMail,Secret\nnot an address,top secret\n" + "x" * 500 + "@@,top secret\n"
    with planned({"1.csv": file}) as found:
        first, second = found.rejected()
        assert first == {
            "source": "1.csv",
            "line": "2",
            "column": "EMail",
            "reason": "email_space",
            "message": "the address holds a blank",
            "identifier": "not an address",
        }
        assert len(second["identifier"]) == 200
        assert "secret" not in (found.folder / "rejected.csv").read_text()


def test_examples_are_the_first_three_by_line():
    file = "EMail\n" + "none\n" * 5 + "a@x.co\n" * 3
    with planned({"1.csv": file}) as found:
        assert found.plan.examples == {
            "placeholder": ["1.csv:2", "1.csv:3", "1.csv:4"],
            "duplicate": ["1.csv:7", "1.csv:8"],
        }
