"""Cells that cannot be sent are left out of the profile, and counted."""

from __future__ import annotations

from pathlib import Path

from exporter.planning.left_out import message_of
from exporter.rejection_reasons import LeftOutReason, RejectReason
from tests.planning.planned import planned


def test_moments_that_cannot_be_read_are_counted():
    file = "EMail,M\na@x.co,2026-01-02\na@x.co,someday\nb@x.co,unknown\nc@x.co,\nnone,someday\n"
    with planned({"1.csv": file}, {"email": "EMail", "newest_by": "M"}) as found:
        assert found.plan.dropped == {"newest_by": 2}


def test_bad_phone_is_dropped_beside_a_good_email_and_counted():
    file = "EMail,Phone\na@x.co,call me\nb@x.co,0722 000 001\nc@x.co,\nA@X.CO,12\nnone,13\n"
    with planned(
        {"1.csv": file}, {"email": "EMail", "phone_number": "Phone", "phone_region": "RO"}
    ) as found:
        assert found.attributes() == [
            {"email": "b@x.co", "phone_number": "+40722000001"},
            {"email": "c@x.co"},
            {"email": "a@x.co"},
        ]
        assert found.plan.dropped == {"phone_number": 1}  # of rows that are sent
        assert found.plan.dropped_examples == {"phone_number": ["1.csv:5"]}


def test_cells_left_out_are_named_by_line_three_of_each_attribute():
    rows = "".join(f"p{number}@x.co,12,{'' if number % 2 else 'many'}\n" for number in range(8))
    mapping = {
        "email": "EMail",
        "phone_number": "Phone",
        "properties": {"n": {"column": "N", "type": "number"}},
    }
    with planned(
        {"1.csv": "EMail,Phone,N\n", "2.csv": f'EMail,Phone,N\n"q@x.co",,"5\n"\n{rows}'}, mapping
    ) as found:
        assert found.plan.dropped == {"n": 4, "phone_number": 8}
        assert found.plan.dropped_examples == {
            "n": ["2.csv:4", "2.csv:6", "2.csv:8"],
            "phone_number": ["2.csv:4", "2.csv:5", "2.csv:6"],
        }


def test_phone_identifies_and_a_bad_email_beside_it_is_dropped():
    file = "EMail,Phone\nADA@x.co,+40722000001\nbad,+40 722 000 002\n,0722 000 001\na@x.co,12\n"
    mapping = {
        "email": "EMail",
        "phone_number": "Phone",
        "identifier": "phone_number",
        "phone_region": "RO",
    }
    with planned({"1.csv": file}, mapping) as found:
        assert found.attributes() == [
            {"phone_number": "+40722000002"},
            {"phone_number": "+40722000001"},
        ]
        assert found.duplicates() == [(("1.csv", 2), ("1.csv", 4))]
        assert found.rejections() == [("1.csv", 5, "phone_impossible")]
        assert found.rejected()[0]["column"] == "Phone"
        assert found.plan.dropped == {"email": 1}


def test_external_id_identifies_and_bad_others_beside_it_are_dropped():
    long = "x" * 256
    file = (
        "Id,EMail,Phone\n C-1 ,bad,bad\nC-2,ä@b.co,+40722000001\nc-1,A@B.CO,\n"
        f"{long},a@b.co,\n,a@b.co,\n"
    )
    mapping = {
        "email": "EMail",
        "phone_number": "Phone",
        "external_id": "Id",
        "identifier": "external_id",
    }
    with planned({"1.csv": file}, mapping) as found:
        assert found.attributes() == [
            {"external_id": "C-1"},
            {"external_id": "C-2", "phone_number": "+40722000001"},
            {"external_id": "c-1", "email": "a@b.co"},
        ]
        assert found.rejections() == [
            ("1.csv", 5, "external_id_too_long"),
            ("1.csv", 6, "no_identifier"),
        ]
        assert found.plan.dropped == {"email": 2, "phone_number": 1}


def test_external_id_that_is_too_long_is_dropped_beside_an_email():
    file = f"EMail,Id\na@x.co,{'x' * 256}\nb@x.co, C-1 \n"
    with planned({"1.csv": file}, {"email": "EMail", "external_id": "Id"}) as found:
        assert found.attributes() == [
            {"email": "a@x.co"},
            {"email": "b@x.co", "external_id": "C-1"},
        ]
        assert found.plan.dropped == {"external_id": 1}


def test_each_cell_left_out_is_listed_with_its_own_reason():
    mapping = {
        "email": "EMail",
        "phone_number": "Phone",
        "external_id": "Id",
        "properties": {
            "number": {"column": "N", "type": "number"},
            "flag": {"column": "F", "type": "boolean"},
            "born": {"column": "B", "type": "date"},
            "tags": {"column": "T", "type": "list"},
        },
    }
    file = (
        "EMail,Phone,Id,N,F,B,T\n"
        f"a@x.co,0722 000 001,{'x' * 256},many,maybe,soon,;\n"
        "b@x.co,+1 12,C-2,5,yes,2026-01-02,a\n"
        "none,0722 000 001,C-3,many,maybe,soon,;\n"
    )
    with planned({"1.csv": file}, mapping) as found:
        assert found.left_out() == [
            ("1.csv", 2, "phone_number", "phone_no_region"),
            ("1.csv", 2, "external_id", "external_id_too_long"),
            ("1.csv", 2, "number", "number_unreadable"),
            ("1.csv", 2, "flag", "boolean_unreadable"),
            ("1.csv", 2, "born", "date_unreadable"),
            ("1.csv", 2, "tags", "list_empty"),
            ("1.csv", 3, "phone_number", "phone_impossible"),
        ]
        assert found.plan.dropped_reasons["phone_number"] == {
            "phone_no_region": 1,
            "phone_impossible": 1,
        }


def test_bad_address_beside_another_identifier_has_the_reason_of_an_address():
    mapping = {"email": "EMail", "external_id": "Id", "identifier": "external_id"}
    file = f"EMail,Id\na b@x.co,C-1\nnone,C-2\n{'a' * 100}@x.co,C-3\nbad,C-4\n"
    with planned({"1.csv": file}, mapping) as found:
        assert [reason for *_, reason in found.left_out()] == [
            "email_space",
            "placeholder",
            "email_too_long",
            "email_malformed",
        ]


def test_list_of_cells_left_out_has_all_of_them_however_many():
    rows = "".join(f"u{n}@x.co,12\n" for n in range(12_000))
    with planned(
        {"1.csv": f"EMail,Phone\n{rows}"}, {"email": "EMail", "phone_number": "Phone"}
    ) as found:
        assert [line for _, line, *_ in found.left_out()] == list(range(2, 12_002))


def test_every_reason_has_a_sentence_and_stands_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "rejected-rows.md").read_text(encoding="utf-8")
    for reason in (*RejectReason, *LeftOutReason):
        assert f"| `{reason}` | {message_of(reason)} |" in page
