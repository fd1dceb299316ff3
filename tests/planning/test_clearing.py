"""What empty cells remove is counted, and a blank column removes nothing by accident."""

from __future__ import annotations

from typing import Any

from tests.planning.planned import Planned, planned


def mapping(empty: str) -> dict[str, Any]:
    return {"email": "EMail", "properties": {"tier": {"column": "Tier", "empty": empty}}}


def unset(found: Planned) -> list[list[str]]:
    return [
        profile.get("meta", {}).get("patch_properties", {}).get("unset", [])
        for profile in found.profiles()
    ]


def test_values_that_empty_cells_remove_are_counted_of_rows_that_are_sent():
    file = "EMail,Tier\na@x.co,\na@x.co,\nb@x.co,gold\nbad,\nc@x.co, \n"
    with planned({"1.csv": file}, mapping("clear")) as found:
        assert unset(found) == [["tier"], [], ["tier"]]
        assert (found.plan.cleared, found.plan.not_cleared) == ({"tier": 2}, [])


def test_cell_that_cannot_be_read_removes_nothing():
    rules = {"n": {"column": "N", "type": "number", "empty": "clear"}}
    file = "EMail,N\na@x.co,many\nb@x.co,\nc@x.co,5\n"
    with planned({"1.csv": file}, {"email": "EMail", "properties": rules}) as found:
        assert unset(found) == [[], ["n"], []]
        assert found.plan.cleared == {"n": 1}


def test_column_that_is_blank_in_every_row_removes_nothing_and_is_named():
    files = {
        "1.csv": 'EMail,Tier\na@x.co,\n"""b"",""c"""@x.co,\n',
        "2.csv": "EMail,Tier\nd@x.co, \n",
    }
    with planned(files, mapping("clear")) as found:
        assert not any(unset(found))
        assert (found.plan.cleared, found.plan.not_cleared) == ({}, ["tier"])


def test_profile_with_texts_that_need_escaping_removes_nothing_either():
    fields = {**mapping("clear"), "first_name": "Name"}
    with planned({"1.csv": 'EMail,Name,Tier\na@x.co,"a ""b""",\nb@x.co,b,\n'}, fields) as found:
        assert [profile["attributes"]["first_name"] for profile in found.profiles()] == [
            'a "b"',
            "b",
        ]
        assert not any(unset(found))


def test_blank_column_removes_its_values_where_that_is_asked_for_twice():
    with planned({"1.csv": "EMail,Tier\na@x.co,\nb@x.co,\n"}, mapping("clear_all")) as found:
        assert unset(found) == [["tier"], ["tier"]]
        assert (found.plan.cleared, found.plan.not_cleared) == ({"tier": 2}, [])


def test_snapshot_without_a_row_to_send_removes_nothing():
    with planned({"1.csv": "EMail,Tier\nbad,\n"}, mapping("clear")) as found:
        assert (found.plan.cleared, found.plan.not_cleared) == ({}, [])
