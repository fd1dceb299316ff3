"""A secondary identifier that several rows have is sent for one of them."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.planning.limits import PlanLimits
from tests.planning.planned import planned

PHONE = {"email": "EMail", "phone_number": "Phone", "phone_region": "RO"}


@pytest.mark.parametrize("keys_a_pass", [1, 2_000_000])
def test_phone_number_of_two_rows_is_left_out_of_all_but_the_last(keys_a_pass: int):
    files = {
        "1.csv": "EMail,Phone\na@x.co,0722 000 001\nb@x.co,+40722000002\nc@x.co,+40722000001\n",
        "2.csv": "EMail,Phone\nd@x.co,\n\ne@x.co,(0722) 000.001\nf@x.co,\n",
    }
    with planned(files, PHONE, limits=PlanLimits(keys_a_pass=keys_a_pass)) as found:
        assert found.attributes() == [
            {"email": "a@x.co"},
            {"email": "b@x.co", "phone_number": "+40722000002"},
            {"email": "c@x.co"},
            {"email": "d@x.co"},
            {"email": "e@x.co", "phone_number": "+40722000001"},
            {"email": "f@x.co"},
        ]
        assert found.left_out() == [
            ("1.csv", 2, "phone_number", "identifier_shared"),
            ("1.csv", 4, "phone_number", "identifier_shared"),
        ]
        assert found.plan.dropped == {"phone_number": 2}
        assert found.plan.rejected == {}


def test_newest_row_keeps_it_where_a_column_says_so():
    file = "EMail,Phone,M\na@x.co,+40722000001,2026-01-02\nb@x.co,+40722000001,2026-01-01\n"
    with planned({"1.csv": file}, {**PHONE, "newest_by": "M"}) as found:
        assert [profile.get("phone_number") for profile in found.attributes()] == [
            "+40722000001",
            None,
        ]


def test_duplicates_and_rejected_rows_keep_nobody_from_it():
    file = (
        "EMail,Phone\na@x.co,+40722000001\nA@X.CO,+40722000001\nbad,+40722000001\n"
        "b@x.co,+40722000002\nb@x.co,\nc@x.co,+40722000002\n"
    )
    with planned({"1.csv": file}, PHONE) as found:
        assert [profile.get("phone_number") for profile in found.attributes()] == [
            "+40722000001",
            None,
            "+40722000002",
        ]
        assert found.plan.dropped == {}


@pytest.mark.parametrize(
    ("identifier", "shared"),
    [("email", "external_id"), ("external_id", "email"), ("phone_number", "external_id")],
)
def test_every_identifier_beside_the_chosen_one_is_looked_at(identifier: str, shared: str):
    values: dict[str, tuple[str, str]] = {
        "email": ("a@x.co", "b@x.co"),
        "phone_number": ("+40722000001", "+40722000002"),
        "external_id": ("C-1", "C-2"),
    }
    values[shared] = (values[shared][0], values[shared][0])
    rows = "".join(",".join(cells) + "\n" for cells in zip(*values.values(), strict=True))
    mapping: dict[str, Any] = {
        "email": "EMail",
        "phone_number": "Phone",
        "external_id": "Id",
        "identifier": identifier,
    }
    with planned({"1.csv": f"EMail,Phone,Id\n{rows}"}, mapping) as found:
        assert [shared in profile for profile in found.attributes()] == [False, True]
        assert found.plan.dropped_reasons == {shared: {"identifier_shared": 1}}


def test_ids_that_differ_in_case_are_two_and_properties_may_be_shared():
    mapping = {"email": "EMail", "external_id": "Id", "properties": {"tier": "Tier"}}
    file = "EMail,Id,Tier\na@x.co,C-1,gold\nb@x.co,c-1,gold\n"
    with planned({"1.csv": file}, mapping) as found:
        assert [profile["external_id"] for profile in found.attributes()] == ["C-1", "c-1"]


def test_identifier_is_left_out_of_a_profile_with_texts_that_need_escaping():
    mapping = {**PHONE, "first_name": "Name", "properties": {"note": "Note"}}
    rows = 'a@x.co,+40722000001,"a ""b""","x\ny"\nb@x.co,+40722000001,b,\n'
    with planned({"1.csv": f"EMail,Phone,Name,Note\n{rows}"}, mapping) as found:
        assert found.attributes() == [
            {"email": "a@x.co", "first_name": 'a "b"', "properties": {"note": "x\ny"}},
            {"email": "b@x.co", "first_name": "b", "phone_number": "+40722000001"},
        ]


def test_partitions_with_columns_of_their_own_are_written_anew_with_these():
    files = {
        "1.csv": "EMail,Phone,A\na@x.co,+40722000001,1\n",
        "2.csv": "EMail,Phone,A,B\nb@x.co,+40722000001,2,3\n",
    }
    with planned(files, {**PHONE, "properties": "*"}) as found:
        assert found.attributes() == [
            {"email": "a@x.co", "properties": {"A": "1"}},
            {
                "email": "b@x.co",
                "phone_number": "+40722000001",
                "properties": {"A": "2", "B": "3"},
            },
        ]
