"""A plan is read back: bodies and parts of them, and who stands where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import RowsLost
from exporter.planning.plan import PLAN_NAME, Plan, PlannedBatch, Span, rows_name
from exporter.planning.planner import PlanLimits
from exporter.planning.request_bodies import PlanReader
from tests.planning.planned import Planned, planned

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


@pytest.fixture(scope="module", params=[1, 2, 100], ids=lambda rows: f"blocks of {rows}")
def sixty(request: pytest.FixtureRequest) -> Iterator[Planned]:
    """Rows in several pieces, in batches of twenty profiles."""
    limits = PlanLimits(batch_profiles=20, block_profiles=request.param, piece_bytes=500)
    with planned({"1.csv": people(40), "2.csv": people(60)}, MAPPING, limits=limits) as found:
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
from exporter.planning.plan import PLAN_NAME, Plan
from exporter.planning.request_bodies import PlanReader
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
    """In a process of its own, where nothing freed before is taken instead.

    Each batch is in another file.
    """
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


def test_body_without_a_profile_that_was_planned_for_it_is_never_sent():
    with planned({"1.csv": people(9)}, MAPPING) as found:
        [batch] = found.plan.batches
        more = batch.model_copy(update={"profiles": batch.profiles + 1})
        for part in ({}, {"first": 1}):
            with pytest.raises(RowsLost, match=f"of {more.profiles - len(part)} profiles"):
                found.reader.body(more, **part)


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


def test_reader_opens_a_plan_that_somebody_else_made(tmp_path: Path):
    """As after a crash: the folder is all there is."""
    with planned({"1.csv": people(30)}, MAPPING) as found:
        plan = Plan.model_validate_json((found.folder / "plan.json").read_bytes())
        second = PlanReader(plan, found.folder, list_id="Y6nRLr", memory_mb=64)
        assert [second.body(batch) for batch in plan.batches] == [
            found.reader.body(batch) for batch in found.plan.batches
        ]
        second.close()
