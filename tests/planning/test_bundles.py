"""Many text properties are staged in one column, and arrive as if they were not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.planning.plan import Plan
from exporter.planning.row_rules import BLANKS
from exporter.planning.staging import MOST_SINGLE_TEXTS
from exporter.planning.summary import plan_summary
from exporter.sending.second_try import Complaint, suspected
from tests.planning.planned import as_csv, planned

MANY = MOST_SINGLE_TEXTS + 5
NAMES = [f"P{number}" for number in range(MANY)]
ALL: dict[str, Any] = {"email": "EMail", "properties": "*"}


def is_bundled(plan: Plan) -> bool:
    return any(field.members is not None for field in plan.fields)


def sent(files: dict[str, str], mapping: dict[str, Any] = ALL) -> list[dict[str, str]]:
    with planned(files, mapping) as found:
        assert is_bundled(found.plan)
        return [profile.get("properties", {}) for profile in found.attributes()]


def test_cells_arrive_as_they_are_whatever_they_hold():
    odd = [
        *("", " ", "\u00a0", " x", "x ", 'a "b"', "a,b", "l1\nl2", "back\\slash", "\x1f", "\x7f"),
        *("\x7f x", "\t", "é", "\u2028", "'", "null", '":"', "{", "}", "😀", ".", "\ufeff", "\x01"),
    ]
    rows = [
        [f"u{at}@x.co", *(odd[at:] + odd[:at] + ["plain"] * 9)[:MANY]] for at in range(len(odd))
    ]
    wanted = [
        {name: cell for name, cell in zip(NAMES, row[1:], strict=True) if cell.strip(BLANKS)}
        for row in rows
    ]
    assert sent({"1.csv": as_csv([["EMail", *NAMES], *rows])}) == wanted


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")),
            min_size=MANY,
            max_size=MANY,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_cells_arrive_as_they_are(table: list[list[str]]):
    rows = [[f"u{at}@x.co", *cells] for at, cells in enumerate(table)]
    wanted = [
        {name: cell for name, cell in zip(NAMES, cells, strict=True) if cell.strip(BLANKS)}
        for cells in table
    ]
    assert sent({"1.csv": as_csv([["EMail", *NAMES], *rows])}) == wanted


@pytest.mark.parametrize("name", ['a "b"', "a'b", "a\\b", "é,", "x:null", "[i]", "{0}"])
def test_names_arrive_as_they_are(name: str):
    row = ["a@x.co", *["v"] * (MANY - 1), "w"]
    assert sent({"1.csv": as_csv([["EMail", *NAMES[:-1], name], row])})[0][name] == "w"


def test_listed_properties_are_bundled_too_but_not_those_with_a_type_or_that_clear():
    rules: dict[str, Any] = {name.lower(): name for name in NAMES}
    rules |= {"n": {"column": "N", "type": "number"}, "c": {"column": "C", "empty": "clear"}}
    file = as_csv(
        [
            ["EMail", *NAMES, "N", "C"],
            ["a@x.co", *["v"] * MANY, "5", ""],
            ["b@x.co", *[""] * MANY, "", "x"],
        ]
    )
    with planned({"1.csv": file}, {"email": "EMail", "properties": rules}) as found:
        assert len(found.plan.fields) == 4
        first, second = found.profiles()
        assert first["attributes"]["properties"] == {**{n.lower(): "v" for n in NAMES}, "n": 5}
        assert first["meta"]["patch_properties"]["unset"] == ["c"]
        assert second["attributes"]["properties"] == {"c": "x"}


def test_profile_without_any_property_has_none():
    with planned({"1.csv": as_csv([["EMail", *NAMES], ["a@x.co", *[""] * MANY]])}, ALL) as found:
        assert found.attributes() == [{"email": "a@x.co"}]


def test_partitions_may_lack_columns_have_more_or_have_them_in_another_order():
    files = {
        "1.csv": as_csv([["EMail", *NAMES], ["a@x.co", *NAMES]]),
        "2.csv": as_csv([["P3", "EMail", "New"], ["3", "b@x.co", "n"]]),
        "3.csv": as_csv([["EMail", "New", *reversed(NAMES)], ["c@x.co", "m", *reversed(NAMES)]]),
    }
    same = {name: name for name in NAMES}
    assert sent(files) == [same, {"P3": "3", "New": "n"}, {**same, "New": "m"}]


def test_first_partition_may_be_the_narrow_one():
    files = {
        "1.csv": "EMail,A\na@x.co,1\n",
        "2.csv": as_csv([["EMail", "A", *NAMES], ["b@x.co", "2", *NAMES]]),
        "3.csv": "EMail,P1\nc@x.co,5\n",
    }
    same = {name: name for name in NAMES}
    assert sent(files) == [{"A": "1"}, {"A": "2", **same}, {"P1": "5"}]
    with planned(files, ALL) as found:
        mapped = plan_summary(found.plan, [])["mapping"]
        assert mapped[:2] == ["email from EMail", "properties.A from A"]
        assert mapped[-1] == f"properties.{NAMES[-1]} from {NAMES[-1]}"


def test_rejected_rows_are_kept_as_they_were():
    rows = [["bad", 'a "b"', "c,d", *["v"] * (MANY - 2)]]
    with planned({"1.csv": as_csv([["EMail", *NAMES], *rows])}, ALL, keep_rows=True) as found:
        assert found.rejected()[0]["row"] == as_csv(rows).rstrip("\n")


def test_lines_are_right_behind_line_breaks_in_cells():
    rows = [[f"u{at}@x.co", "l1\nl2\n" if at == 0 else "x", *["v"] * (MANY - 1)] for at in range(3)]
    with planned({"1.csv": as_csv([["EMail", *NAMES], *rows])}, ALL) as found:
        assert [line for _, line in found.places(found.plan.batches[0])] == [2, 5, 6]


def test_property_that_klaviyo_refuses_can_be_left_out_of_one_profile():
    names = ['a "b"/c~d', *NAMES[1:]]
    rows = [[f"u{at}@x.co", *(["", *NAMES[1:]] if at else names)] for at in range(2)]
    with planned({"1.csv": as_csv([["EMail", *names], *rows])}, ALL) as found:
        [batch] = found.plan.batches
        paths = [f"properties/{name}" for name in names[:2]]
        assert found.reader.filled(batch, [0, 1], paths) == {0: tuple(paths), 1: (paths[1],)}
        first, second = found.body(batch, without=[], omitted={0: tuple(paths)})
        assert first["attributes"]["properties"] == {name: name for name in names[2:]}
        assert second["attributes"]["properties"] == {name: name for name in names[1:]}


def test_property_that_a_complaint_names_is_found_in_a_bundle():
    with planned({"1.csv": as_csv([["EMail", *NAMES], ["a@x.co", *NAMES]])}, ALL) as found:
        complaint = Complaint(attribute="properties/P3", words="is not valid")
        assert suspected(found.plan.fields, complaint) == ("properties/P3",)
