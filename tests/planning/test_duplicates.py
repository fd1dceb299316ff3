"""Of several rows with one identifier, the newest or the last is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.planning.duplicates import CREATE_DUPLICATES, insert_duplicates
from exporter.sql import open_database
from tests.planning.planned import Place, planned


def winners(
    files: dict[str, str], mapping: dict[str, Any] | None = None
) -> tuple[list[str], list[tuple[Place, Place]]]:
    with planned(files, {"email": "EMail", "first_name": "Name", **(mapping or {})}) as found:
        return [profile["first_name"] for profile in found.attributes()], found.duplicates()


def test_last_row_in_file_order_wins_within_and_across_partitions():
    files = {
        "a_1.csv": "EMail,Name\nada@x.co,first\nbob@x.co,bob\nADA@X.CO ,second\n",
        "a_2.csv": 'Name,EMail\n"third\nof three",Ada@x.co\n\nfourth,ada@x.co\n',
    }
    names, duplicates = winners(files)
    assert names == ["bob", "fourth"]
    kept = ("a_2.csv", 5)
    assert duplicates == [(("a_1.csv", 2), kept), (("a_1.csv", 4), kept), (("a_2.csv", 2), kept)]


@pytest.mark.parametrize(
    ("moments", "winner"),
    [
        (["2026-01-02", "2026-01-03", "2026-01-01"], 1),
        (["9/2/2025", "10/1/2025", "9/30/2025"], 1),
        (["2026-01-02T10:00:00Z", "2026-01-02T11:00:00+02:00", ""], 0),
        (["", " ", ""], 2),
        (["2026-01-02", "2026-01-02", "2026-01-02"], 2),
        (["2026-01-02", "unknown to us", "2026-01-01"], 0),
        (["10/1/2025 9:00 AM", "9/2/2024 11:00 AM", ""], 0),
        (["01.10.2025", "02.09.2024", ""], 0),
        (["999", "1000", "998"], 1),
    ],
)
def test_newest_row_wins_where_a_column_says_so(moments: list[str], winner: int):
    lines = [f"a@x.co,{position},{moment}" for position, moment in enumerate(moments)]
    files = {"1.csv": "EMail,Name,Modified\n" + "\n".join(lines)}
    assert winners(files, {"newest_by": "modified", "culture": "en-US"})[0] == [str(winner)]


def test_newest_wins_across_partitions_too():
    files = {
        "1.csv": "EMail,Name,M\na@x.co,new,2026-02-01\n",
        "2.csv": "EMail,Name,M\na@x.co,old,2026-01-01\n",
    }
    assert winners(files, {"newest_by": "M"}) == (["new"], [(("2.csv", 2), ("1.csv", 2))])


def test_rejected_rows_are_no_duplicates_and_win_against_nobody():
    files = {"1.csv": "EMail,Name\na@x.co,good\na@x.co,one,too many\nnone,x\nnone,y\n,z\n,z\n"}
    names, duplicates = winners(files)
    assert (names, duplicates) == (["good"], [])


def test_equal_keys_of_different_identifiers_are_no_duplicates(tmp_path: Path):
    """The key is a hash: two people may share one."""
    database = open_database(tmp_path, memory_mb=64)
    rows = tmp_path / "rows.parquet"
    people = [(0, 1, "a@x.co"), (0, 1, "b@x.co"), (0, 1, "a@x.co"), (0, 2, "c@x.co")]
    values = ", ".join(
        f"({piece}, {key}, NULL::VARCHAR, NULL::DOUBLE, '{email}')" for piece, key, email in people
    )
    database.execute(
        f"COPY (SELECT * FROM (VALUES {values}) t(piece, key, reason, newest, f0)) TO '{rows}'"
    )
    database.execute(CREATE_DUPLICATES)
    table = f"read_parquet(['{rows}'], file_row_number = true)"
    for number_ in range(3):
        database.execute(insert_duplicates(table, number=number_, of=3))
    assert database.execute("FROM duplicates").fetchall() == [(0, 0, 0, 2)]
    database.close()
