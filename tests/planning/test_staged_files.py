"""Each staged row is named by its file and line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.planning.plan import PlannedPiece, rows_name
from exporter.planning.planner import PlanLimits
from exporter.planning.staged_files import StagedFiles
from exporter.reading.pieces import source_line
from exporter.sql import open_database
from tests.planning.planned import as_csv, planned

MAPPING = {"email": "EMail", "first_name": "Name"}


def test_line_of_a_row_is_that_of_the_file_whatever_stands_before_it():
    lines = [
        "EMail,Name",
        "",
        "a@x.co,Ada",  # 3
        "too,many,cells",  # 4, rejected while reading
        '"b@x.co","two',  # 5
        'lines"',
        "\r",
        "none,x",  # 8
        'c@x.co,"""quoted"""',  # 9
        '"bad\n\n\nphone","x\n\n"',  # 10 to 15
        "d@x.co,x",  # 16
        '"unclosed,x',  # 17
        "a@X.co,again",  # 18
        "e@x.co,last",  # 19
    ]
    with planned({"1.csv": "\n".join(lines)}, MAPPING) as found:
        assert found.places(found.plan.batches[0]) == [
            ("1.csv", line) for line in (5, 9, 16, 18, 19)
        ]
        assert found.rejections() == [
            ("1.csv", 4, "too_many_columns"),
            ("1.csv", 8, "placeholder"),
            ("1.csv", 10, "email_space"),
            ("1.csv", 17, "unterminated_quote"),
        ]
        assert found.duplicates() == [(("1.csv", 3), ("1.csv", 18))]


cells = st.sampled_from(["", "x", '"', "a\nb", "\n\n", "l1\r\nl2", "\r"])
records = st.lists(cells, min_size=1, max_size=3) | st.just([])


@settings(max_examples=8, deadline=None)
@given(
    rows=st.lists(records, min_size=1, max_size=25),
    line_end=st.sampled_from(["\n", "\r\n"]),
    piece_bytes=st.sampled_from([250, 32_000_000]),
)
def test_lines_are_those_that_csv_reader_counts(
    rows: list[list[str]], line_end: str, piece_bytes: int
):
    rows = [
        ["id", "Name"],
        *([*row[:1], str(at)] if len(row) == 2 else row for at, row in enumerate(rows)),
        ["x", "whole"],  # where all rows lack a column, that is no damage
    ]
    text = as_csv(rows, line_end=line_end)
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    good, bad, line = {}, [], 1
    for row in reader:
        if line > 1 and len(row) == 2:
            good[row[1]] = ("1.csv", line)
        elif line > 1 and row:
            bad.append(("1.csv", line))
        line = reader.line_num + 1
    limits = PlanLimits(piece_bytes=piece_bytes)
    with planned({"1.csv": text}, {"external_id": "Name"}, limits=limits) as found:
        placed = {}
        for batch in found.plan.batches:
            names = [profile["attributes"]["external_id"] for profile in found.body(batch)]
            placed.update(zip(names, found.places(batch), strict=True))
        assert placed == good
        assert [row[:2] for row in found.rejections()] == bad


@pytest.mark.parametrize(
    ("breaks", "lines"),
    [
        (((1, 1),), {1: 1, 2: 2, 1000: 1000}),
        (((1, 2),), {1: 2, 7: 8}),
        (((1, 2), (5, 9), (6, 20)), {1: 2, 4: 5, 5: 9, 6: 20, 7: 21}),
        (((1, 100), (1, 200)), {1: 200}),
    ],
)
def test_source_line_of_a_local_line(breaks: tuple[tuple[int, int], ...], lines: dict[int, int]):
    assert {local: source_line(breaks, local) for local in lines} == lines


def test_locate_counts_the_breaks_of_rows_before(tmp_path: Path):
    database = open_database(tmp_path, memory_mb=64)
    rows = [tmp_path / rows_name(piece) for piece in range(2)]
    first, second = (
        "KV_METADATA {line_breaks: '[[1, 2], [6, 10]]'}",
        "KV_METADATA {line_breaks: '[[1, 5]]'}",
    )
    database.execute(f"COPY (SELECT unnest([0, 2, 0, 0, 3, 0]) AS breaks) TO '{rows[0]}' ({first})")
    database.execute(f"COPY (SELECT unnest([0, 0]) AS breaks) TO '{rows[1]}' ({second})")
    pieces = [PlannedPiece(source=1, rows=6), PlannedPiece(source=0, rows=2)]
    wanted = [(0, row) for row in range(6)] + [(1, 1)]
    files = StagedFiles(folder=tmp_path, pieces=pieces, sources=["zero", "one"])
    found = files.locate(database, wanted)
    database.close()
    assert [found[place] for place in wanted] == [
        *(("one", line) for line in (2, 3, 6, 10, 11, 15)),
        ("zero", 6),
    ]
