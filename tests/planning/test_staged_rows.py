"""Rows are staged, all of them, and too large profiles are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.definitions.mapped_fields import resolve
from exporter.definitions.mapping import parse_mapping
from exporter.errors import RowsLost
from exporter.planning.staged_rows import RawPiece, stage
from exporter.sql import open_database
from tests.planning.planned import as_csv, planned

ROWS = "(VALUES ('a@x.co', 'two' || chr(10) || 'lines'), ('b@x.co', NULL)) AS t(c0, c1)"


@pytest.mark.parametrize(
    ("file", "lines"), [("1.csv", 3), (None, 2)], ids=["a piece of CSV", "a slice of Parquet"]
)
def test_row_that_is_read_and_not_staged_stops_the_plan(
    tmp_path: Path, file: str | None, lines: int
):
    database = open_database(tmp_path, memory_mb=64)
    mapping = resolve(parse_mapping({"email": "EMail"}), ["EMail", "Note"])

    def staged(lines: int) -> int:
        path = tmp_path / file if file else None
        raw = RawPiece(table=ROWS, columns=2, lines=lines, line_breaks=((1, 2),), path=path)
        target = tmp_path / "rows.parquet"
        return stage(database, raw, mapping, number=0, keep_rows=False, target=target)

    assert staged(lines) == 2
    with pytest.raises(RowsLost, match="2 rows"):
        staged(lines + 1)
    database.close()


def test_profile_over_100_kb_is_rejected_and_one_below_is_sent():
    sizes = {"a@x.co": 99_000, "b@x.co": 100_001, "c@x.co": 50_000, "d@x.co": 16_700}
    cells = {
        "a@x.co": "x",
        "b@x.co": "x",
        "c@x.co": '"',
        "d@x.co": "\x01",
    }  # an escape takes 2, a control character 6
    file = as_csv(
        [["EMail", "Note"], *([email, cells[email] * size] for email, size in sizes.items())]
    )
    with planned({"1.csv": file}, {"email": "EMail", "properties": {"note": "Note"}}) as found:
        assert [profile["email"] for profile in found.attributes()] == ["a@x.co"]
        assert [reason for *_, reason in found.rejections()] == ["profile_too_large"] * 3
