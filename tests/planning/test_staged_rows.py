"""Staging counts what it stages: a row that was read and is not staged stops the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.definitions.mapping import parse_mapping, resolve
from exporter.errors import RowsLost
from exporter.planning.staged_rows import RawPiece, stage
from exporter.sql import open_database

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
