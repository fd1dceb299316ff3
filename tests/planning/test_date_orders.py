"""Dates have the day or the month first: a culture decides, else the column itself."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.reading.dialect import Dialect
from tests.planning.planned import Planned, as_csv, planned

BORN = {"born": {"column": "Born", "type": "date"}}


def dates(found: Planned, name: str = "born") -> list[str | None]:
    return [profile.get("properties", {}).get(name) for profile in found.attributes()]


def file_of(*cells: str) -> str:
    return as_csv([("EMail", "Born"), *((f"u{n}@x.co", cell) for n, cell in enumerate(cells))])


@pytest.mark.parametrize(
    ("cells", "sent", "order", "ambiguous"),
    [
        (
            ["31/12/2026", "13/01/2026", "05/08/2026"],
            ["2026-12-31", "2026-01-13", "2026-08-05"],
            "day first",
            0,
        ),
        (["12/31/2026", "05/08/2026"], ["2026-12-31", "2026-05-08"], "month first", 0),
        (["05/08/2026", "06/09/2026"], [None, None], "undecided", 2),
        (
            ["31/12/2026", "12/31/2026", "05/08/2026", "05/05/2026", "2026-08-05"],
            ["2026-12-31", "2026-12-31", None, "2026-05-05", "2026-08-05"],
            "undecided",
            1,
        ),
        (
            ["31-12-2026 10:00 PM", "05-08-2026 9:30"],
            ["2026-12-31T22:00:00Z", "2026-08-05T09:30:00Z"],
            "day first",
            0,
        ),
        (["13/13/2026", "31/12/26", "05/08/2026"], [None, None, None], "undecided", 1),
    ],
)
def test_column_without_culture_is_read_in_the_order_that_its_cells_allow(
    cells: list[str], sent: list[str | None], order: str, ambiguous: int
):
    with planned({"1.csv": file_of(*cells)}, {"email": "EMail", "properties": BORN}) as found:
        assert dates(found) == sent
        [decided] = found.plan.date_orders
        assert (decided.attribute, decided.order, decided.ambiguous) == (
            "born",
            order,
            ambiguous,
        )
        assert found.plan.dropped_reasons.get("born", {}).get("date_ambiguous", 0) == ambiguous


def test_date_that_decides_may_stand_in_another_partition_and_in_a_row_that_is_not_sent():
    files = {
        "1.csv": file_of("05/08/2026"),
        "2.csv": "EMail,Born\nu9@x.co,06/08/2026\nbad,31/12/2026\n",
    }
    with planned(files, {"email": "EMail", "properties": BORN}) as found:
        assert dates(found) == ["2026-08-05", "2026-08-06"]


def test_each_column_is_decided_by_itself():
    file = (
        "EMail,A,B,C\na@x.co,31/12/2026,12/31/2026,2026-12-31\nb@x.co,1/2/2026,1/2/2026,1/2/2026\n"
    )
    rules = {name.lower(): {"column": name, "type": "date"} for name in "ABC"}
    with planned({"1.csv": file}, {"email": "EMail", "properties": rules}) as found:
        assert found.attributes()[1]["properties"] == {"a": "2026-02-01", "b": "2026-01-02"}
        orders = {each.attribute: each.order for each in found.plan.date_orders}
        assert orders == {"a": "day first", "b": "month first", "c": "undecided"}


def test_ambiguous_date_is_listed_with_its_line_and_reason_beside_other_reasons():
    mapping = {"email": "EMail", "phone_number": "Phone", "properties": BORN}
    file = "EMail,Phone,Born\na@x.co,12,05/08/2026\nb@x.co,,soon\n"
    with planned({"1.csv": file}, mapping) as found:
        assert found.left_out() == [
            ("1.csv", 2, "phone_number", "phone_impossible"),
            ("1.csv", 2, "born", "date_ambiguous"),
            ("1.csv", 3, "born", "date_unreadable"),
        ]
        assert found.plan.dropped == {"phone_number": 1, "born": 2}


def test_declared_culture_decides_and_is_named():
    files = {"1.csv": file_of("05/08/2026"), "2.csv": "EMail,Born\nb@x.co,05/08/2026\n"}
    mapping = {"email": "EMail", "properties": BORN}
    dialects = {"1.csv": Dialect(culture="en-GB"), "2.csv": Dialect(culture="en-US")}
    with planned(files, mapping, dialects=dialects) as found:
        assert dates(found) == ["2026-08-05", "2026-05-08"]
        told = [(each.order, each.why) for each in found.plan.date_orders]
        assert told == [
            ("day first", "the culture en-GB"),
            ("month first", "the culture en-US"),
        ]


def test_newest_is_found_by_the_order_of_its_column():
    rows = "a@x.co,old,05/08/2026\na@x.co,older,06/07/2026\nb@x.co,b,31/12/2026\n"
    mapping = {"email": "EMail", "first_name": "Name", "newest_by": "M"}
    with planned({"1.csv": f"EMail,Name,M\n{rows}"}, mapping) as found:
        assert [profile["first_name"] for profile in found.attributes()] == ["old", "b"]
        [decided] = found.plan.date_orders
        assert (decided.attribute, decided.order) == ("newest_by", "day first")


def test_ambiguous_moments_are_counted_and_the_last_row_wins():
    rows = "a@x.co,first,06/08/2026\na@x.co,last,05/07/2026\n"
    mapping = {"email": "EMail", "first_name": "Name", "newest_by": "M"}
    with planned({"1.csv": f"EMail,Name,M\n{rows}"}, mapping) as found:
        assert [profile["first_name"] for profile in found.attributes()] == ["last"]
        assert found.plan.dropped == {"newest_by": 2}


@pytest.mark.parametrize(
    "cell",
    [
        "0001-01-01",
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00.0000000Z",
        "01/01/0001 00:00:00",
        "1/1/0001 12:00:00 AM",
        "01.01.0001",
        " 0001-01-01 00:00:00 ",
        "0001-01-01T00:00:00+00:00",
    ],
)
def test_date_that_dotnet_writes_for_none_is_a_blank(cell: str):
    rules = {"born": {**BORN["born"], "empty": "clear_all"}}
    with planned({"1.csv": file_of(cell)}, {"email": "EMail", "properties": rules}) as found:
        assert found.plan.dropped == {}
        assert found.plan.cleared == {"born": 1}
        assert dates(found) == [None]


def test_rows_that_are_read_anew_keep_their_order_lines_and_other_values():
    cells: list[Any] = [f"{n % 12 + 1:02}/{n % 11 + 1:02}/2026" for n in range(25_000)]
    rows = [(f"u{n}@x.co", 'a "b"\nc' if n % 9 == 0 else f"n{n}", c) for n, c in enumerate(cells)]
    file = as_csv([("EMail", "Name", "Born"), *rows, ("last@x.co", "", "31/12/2026")])
    mapping = {"email": "EMail", "first_name": "Name", "properties": BORN}
    with planned({"1.csv": file}, mapping) as found:
        sent = found.attributes()
        assert [profile["email"] for profile in sent[:-1]] == [row[0] for row in rows]
        assert [profile["first_name"] for profile in sent[:-1]] == [row[1] for row in rows]
        assert sent[1]["properties"]["born"] == "2026-02-02"
        assert sent[2]["properties"]["born"] == "2026-03-03"
        assert sent[12]["properties"]["born"] == "2026-02-01"
        lines = [line for _, line in found.places(found.plan.batches[0])]
        assert lines[:3] == [2, 4, 5]
        assert lines == sorted(lines)
