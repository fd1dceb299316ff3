"""A plan is read back: bodies and parts of them, who stands where, and which line of which file that was."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from exporter.planning.planner.plan import (
    PLAN_NAME,
    Plan,
    PlannedBatch,
    PlannedPiece,
    Span,
    rows_name,
)
from exporter.planning.planner.request_bodies import PlanReader, locate
from exporter.reading.partition.pieces import source_line
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import RowsLost
from exporter.planning.planner import planner
from exporter.reading.partition import partition
from exporter.sql import open_database
from tests.planning.planned import Planned, as_csv, planned
from tests.waiting import LIMIT_S

MAPPING = {"email": "EMail", "first_name": "Name"}


def people(count: int) -> str:
    """Rows of which every fifth is rejected and every seventh a duplicate of the one before it."""
    lines = ["EMail,Name"]
    for n in range(count):
        email = "none" if n % 5 == 4 else f"u{n - 1 if n % 7 == 6 and n % 5 else n}@x.co"
        lines.append(f'{email},"name {n}"')
    return "\n".join(lines)


def emails_of(found: Planned, batch: PlannedBatch, **part: object) -> list[str]:
    return [profile["attributes"]["email"] for profile in found.body(batch, **part)]


# Bodies, and parts of them


@pytest.fixture(scope="module", params=[1, 2, 100], ids=lambda rows: f"blocks of {rows}")
def sixty(request: pytest.FixtureRequest) -> Iterator[Planned]:
    """Rows in several pieces, in batches of twenty profiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.planning.planner.batches.MAX_BATCH_PROFILES", 20)
        patch.setattr(planner, "_BLOCK_PROFILES", request.param)
        patch.setattr(
            partition,
            "read_partition",
            functools.partial(partition.read_partition, piece_bytes=500),
        )
        with planned({"1.csv": people(40), "2.csv": people(60)}, MAPPING) as found:
            assert len(found.plan.pieces) > 3
            yield found


def test_positions_count_the_profiles_of_the_body(sixty: Planned):
    for batch in sixty.plan.batches:
        emails = emails_of(sixty, batch)
        assert len(emails) == batch.profiles
        positions = sixty.reader.rows_at(batch, range(batch.profiles))
        assert [positions[at].identifier for at in range(batch.profiles)] == emails
        assert sixty.reader.positions_of(batch, emails) == {
            email: at for at, email in enumerate(emails)
        }


READ_ALL = """
import sys
from pathlib import Path
from exporter.planning.planner.plan import PLAN_NAME, Plan
from exporter.planning.planner.request_bodies import PlanReader
folder = Path(sys.argv[1])
plan = Plan.model_validate_json((folder / PLAN_NAME).read_text("utf-8"))
reader = PlanReader(plan, folder, list_id="Y6nRLr", memory_mb=64)
held = []
for batch in plan.batches:
    reader.body(batch)
    held.append(int(Path("/proc/self/statm").read_text().split()[1]))
print(len(held), held[-1] / held[len(held) // 5])
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells the memory that a process holds so simply"
)
def test_memory_does_not_grow_from_batch_to_batch():
    """In a process of its own, where nothing freed before is taken instead. Each batch is in another file."""
    names = [f"Column{number}" for number in range(40)]
    table = f"EMail,{','.join(names)}\na@x.co{',some text' * len(names)}\n"
    with planned({"1.csv": table}, {"email": "EMail", "properties": "*"}) as found:
        [piece], [batch] = found.plan.pieces, found.plan.batches
        many = range(400)
        for number in many[1:]:
            os.link(found.folder / rows_name(0), found.folder / rows_name(number))
        batches = [
            batch.model_copy(update={"spans": (Span(piece=number, first=0, last=1),)})
            for number in many
        ]
        plan = found.plan.model_copy(update={"pieces": [piece for _ in many], "batches": batches})
        (found.folder / PLAN_NAME).write_text(plan.model_dump_json(by_alias=True), encoding="utf-8")
        said = subprocess.run(
            [sys.executable, "-c", READ_ALL, str(found.folder)],
            check=True,
            capture_output=True,
            text=True,
        )
    count, growth = said.stdout.split()
    assert int(count) == len(many)
    assert float(growth) < 1.1


def test_parts_of_a_body_are_slices_of_it_without_what_is_left_out(sixty: Planned):
    batch = sixty.plan.batches[1]
    emails = emails_of(sixty, batch)
    last = len(emails)
    for first, end in ((0, last), (0, 1), (3, 9), (last - 1, last), (5, 5), (0, last + 9)):
        assert emails_of(sixty, batch, first=first, last=end) == emails[first:end]
    assert emails_of(sixty, batch, first=7) == emails[7:]
    assert emails_of(sixty, batch, without={0, 2, last - 1, 999}) == [
        email for at, email in enumerate(emails) if at not in (0, 2, last - 1)
    ]
    assert emails_of(sixty, batch, first=2, last=6, without=[3]) == [emails[2], *emails[4:6]]
    assert emails_of(sixty, batch, without=range(last)) == []


def test_body_without_a_profile_that_was_planned_for_it_is_never_sent(
    monkeypatch: pytest.MonkeyPatch,
):
    with planned({"1.csv": people(9)}, MAPPING) as found:
        [batch] = found.plan.batches
        rows = found.reader._rows(batch)
        monkeypatch.setattr(
            found.reader, "_rows", lambda _: f"SELECT * FROM ({rows}) WHERE f0 <> 'u2@x.co'"
        )
        for part in ({}, {"first": 1}):
            with pytest.raises(RowsLost, match=f"of {batch.profiles - len(part)} profiles"):
                found.reader.body(batch, **part)


def test_halves_of_a_body_are_all_of_it(sixty: Planned):
    for batch in sixty.plan.batches:
        middle = batch.profiles // 2
        halves = emails_of(sixty, batch, last=middle) + emails_of(sixty, batch, first=middle)
        assert halves == emails_of(sixty, batch)


def test_batches_hold_every_profile_once_and_in_order(sixty: Planned):
    emails = [email for batch in sixty.plan.batches for email in emails_of(sixty, batch)]
    assert len(set(emails)) == len(emails) == sixty.plan.profiles
    assert [batch.profiles for batch in sixty.plan.batches][:-1] == [20] * (
        len(sixty.plan.batches) - 1
    )


def test_who_is_not_in_a_batch_has_no_position(sixty: Planned):
    first, second = sixty.plan.batches[:2]
    assert sixty.reader.positions_of(first, emails_of(sixty, second)) == {}
    assert sixty.reader.positions_of(first, []) == {}
    assert sixty.reader.positions_of(first, ["none", "'; --", ""]) == {}
    assert sixty.reader.rows_at(first, []) == {}
    assert sixty.reader.rows_at(first, [-1, 20, 10_000]) == {}


def test_positions_show_no_address(sixty: Planned):
    [position] = sixty.reader.rows_at(sixty.plan.batches[0], [0]).values()
    assert "@" in position.identifier
    assert "@" not in repr(position)


def test_sample_is_the_first_profiles(sixty: Planned):
    first = sixty.body(sixty.plan.batches[0])
    assert [json.loads(text) for text in sixty.reader.sample(3)] == first[:3]
    assert len(sixty.reader.sample(10_000)) == 20


@pytest.mark.parametrize(
    "file", ["", "\n\n", "EMail,Name\n", "EMail,Name\nnone,x\n", "EMail,Name\nx\n"]
)
def test_plan_without_profiles_can_be_read(file: str):
    with planned({"1.csv": file}, MAPPING) as found:
        assert found.plan.batches == []
        assert found.reader.sample(3) == []
        assert found.profiles() == found.duplicates() == []
        assert found.reader.locate([]) == {}


def test_many_empty_partitions_are_no_obstacle():
    files = {
        f"{n}.csv": text
        for n, text in enumerate(["", "EMail,Name\n", "EMail,Name\na@x.co,Ada\n", ""])
    }
    with planned(files, MAPPING) as found:
        assert [profile["email"] for profile in found.attributes()] == ["a@x.co"]
        assert [note.rows for note in found.plan.sources] == [0, 0, 1, 0]


# Lines


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            partition,
            "read_partition",
            functools.partial(partition.read_partition, piece_bytes=piece_bytes),
        )
        with planned({"1.csv": text}, {"external_id": "Name"}) as found:
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
    found = locate(database, pieces, ["zero", "one"], tmp_path, wanted)
    database.close()
    assert [found[place] for place in wanted] == [
        *(("one", line) for line in (2, 3, 6, 10, 11, 15)),
        ("zero", 6),
    ]


# The document


def test_plan_adds_up_only_if_every_row_ended_once():
    batch = PlannedBatch(
        number=0, profiles=3, size_bytes=1, spans=(Span(piece=0, first=0, last=9),)
    )
    plan = Plan(
        sources=[], fields=[], identifier="email", pieces=[], batches=[batch],
        rows=9, profiles=3, duplicates=2, rejected={"a": 1, "b": 3}, dropped={}, examples={},
    )  # fmt: skip
    assert plan.adds_up()
    for change in (
        {"rows": 10},
        {"duplicates": 3},
        {"rejected": {}},
        {"batches": []},
        {"rows": 10, "profiles": 4},
    ):
        assert not plan.model_copy(update=change).adds_up()


def test_plan_document_names_its_schema_and_holds_no_cell():
    with planned({"1.csv": "EMail,Name\nada@x.co,Ada\nbob,Bob\n"}, MAPPING) as found:
        text = (found.folder / "plan.json").read_text(encoding="utf-8")
        assert json.loads(text)["schema"] == 1
        assert not any(word in text for word in ("ada@", "Ada", "bob", "Bob"))


# The database


def test_database_reads_and_writes_in_its_folder_only(tmp_path: Path):
    folder = tmp_path / "it's here"
    outside = tmp_path / "outside.csv"
    outside.write_text("secret\n")
    database = open_database(folder, memory_mb=64)
    inside = str(folder / "x.parquet").replace("'", "''")
    database.execute(f"COPY (SELECT 1 AS one) TO '{inside}' (FORMAT parquet)")
    assert database.execute(f"FROM read_parquet('{inside}')").fetchall() == [(1,)]
    for query in (
        f"FROM read_csv('{outside}')",
        f"COPY (SELECT 1) TO '{tmp_path}/y.csv'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '9GB'",
        f"ATTACH '{tmp_path}/z.db'",
    ):
        with pytest.raises(duckdb.Error):
            database.execute(query)
    database.close()


def test_every_connection_has_the_settings(tmp_path: Path):
    """A plain SET would hold for the first connection only, and pieces are staged by others."""
    names = ("TimeZone", "disable_parquet_prefetching", "enable_external_file_cache", "threads")
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    database = open_database(tmp_path, memory_mb=64)
    assert database.cursor().execute(query).fetchall() == [("UTC", True, False, 1)]
    database.close()


def test_reader_opens_a_plan_that_somebody_else_made(tmp_path: Path):
    """As after a crash: the folder is all there is."""
    with planned({"1.csv": people(30)}, MAPPING) as found:
        plan = Plan.model_validate_json((found.folder / "plan.json").read_bytes())
        second = PlanReader(plan, found.folder, list_id="Y6nRLr", memory_mb=64)
        assert [second.body(batch) for batch in plan.batches] == [
            found.reader.body(batch) for batch in found.plan.batches
        ]
        second.close()


def test_moments_are_utc_wherever_the_computer_stands(tmp_path: Path):
    """In a process of its own, because a process learns its time zone once."""
    program = """
import sys
from pathlib import Path
from exporter.definitions.mapping import parse_mapping
from exporter.planning.planner.planner import make_plan
from exporter.reading.partition.source import PartitionSource
from exporter.planning.planner.request_bodies import PlanReader
rule = {"column": "At", "type": "date"}
source = PartitionSource(name="1.csv", open=lambda: [b"EMail,At\\na@x.co,2026-07-01T12:00:00Z\\n"])
plan = make_plan([source], parse_mapping({"email": "EMail", "properties": {"at": rule}}), Path(sys.argv[1]))
print(PlanReader(plan, Path(sys.argv[1]), list_id="L", memory_mb=64).sample(1)[0])
"""
    environment = {**os.environ, "TZ": "America/New_York", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(tmp_path / "plan")]
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S
    ).stdout
    assert json.loads(said)["attributes"]["properties"] == {"at": "2026-07-01T12:00:00Z"}
