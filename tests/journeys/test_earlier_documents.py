"""The documents of version 0.1.0 are read, and the runs that it left open go on to the right lists.

tests/data/documents-0.1.0 was written by that version, with batches of ten profiles:

    state/        its store, as an instance that was killed while it sent left it; the lease is held
    container/    a snapshot that it had not read yet; its ETag is another by now, as after a copy
    jobs.json     what the import jobs hold that Klaviyo had accepted and not completed
    written-at    the moment of its death, in epoch seconds
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.runs.notices import Notice
from exporter.runs.run import Status
from exporter.snapshots.segments import read_members
from sandbox.klaviyo import FULL_KEY
from sandbox.klaviyo.testing import JOBS, job_body
from tests.journeys.world import World, people
from tests.management.managing import ADMIN, managed

WRITTEN = Path(__file__).parents[1] / "data" / "documents-0.1.0"
LISTS = ("LIST02", "LIST03", "LIST04", "LIST05")
LEADS = {f"l{number}@example.com" for number in range(3)}
STATUSES = {
    "by-hand": ["Queued", "Failed"],
    "claimed": [],
    "everything": ["Refreshing"],
    "nightly": ["Skipped", "Completed with warnings"],
    "off": [],
    "paused": [],
    "vips": ["Refreshing", "Canceled", "Failed", "Successful"],
}


@pytest.fixture(autouse=True)
def _taken_over(world: World) -> None:
    """A new instance on the store of the earlier one, and the account as that one left it."""
    world.clock.now = float((WRITTEN / "written-at").read_text())
    state = world.folder / "state"
    shutil.copytree(WRITTEN / "state", state, dirs_exist_ok=True)
    shutil.copytree(WRITTEN / "container", world.container, dirs_exist_ok=True)
    for file in world.container.rglob("*.csv"):
        os.utime(file, (world.clock.now - 3_600, world.clock.now - 3_600))
    for list_id in LISTS:
        world.klaviyo.call("POST", "/_sandbox/lists", {"id": list_id})
    for path in state.glob("connections/*.json"):
        world.secrets[json.loads(path.read_text())["secret"]] = FULL_KEY
    ids = dict(_accepted_again(world))
    for journal in state.rglob("journal.jsonl"):  # the stand-in gives jobs ids of its own
        text = journal.read_text()
        for before, after in ids.items():
            text = text.replace(before, after)
        journal.write_text(text)


def _accepted_again(world: World) -> Iterator[tuple[str, str]]:
    jobs = json.loads((WRITTEN / "jobs.json").read_text())
    assert jobs
    for job_id, job in jobs.items():
        answer = world.klaviyo.call("POST", JOBS, job_body(job["profiles"], lists=[job["list"]]))
        assert answer.status == 202, answer.body
        yield job_id, answer.json()["data"]["id"]


def _ask(world: World, what: str, *args: Any) -> Any:
    """What an administrator is shown."""
    return getattr(managed(world).as_(ADMIN), what)(*args)


def _take_over(world: World) -> list[Notice]:
    """Let the timer restart the open runs and take them to their end. Returns the notices sent."""
    notices: list[Notice] = []
    world.engine = world.again(notify=notices.append)
    world.clock.move(3_600)
    world.engine.timer.tick()
    world.deliver()
    return notices


def test_connections_are_read_with_their_consent_and_check(world: World) -> None:
    found = {each.id: each for each in _ask(world, "connections")}
    assert set(found) == {"main-account", "not-agreed-yet", "team"}
    details = found["main-account"].details
    assert details.consent.by == "Ada"
    assert details.check.ok
    assert details.check.account_id == "SANDBX"
    assert details.check.scopes["profiles:write"] is True
    assert details.created.by_id == "a-1"
    assert found["not-agreed-yet"].details.consent is None
    assert found["team"].details.used_by == "contributors"


def test_exports_are_read_with_every_kind_of_schedule(world: World) -> None:
    found = {each.id: each for each in _ask(world, "exports")}
    assert {export_id: each.schedule_text for export_id, each in found.items()} == {
        "by-hand": "Only on demand",
        "claimed": "Every day at 15:00 (UTC)",
        "everything": "At 05:00 on the first day of every month (UTC)",
        "nightly": "Monday to Friday at 06:00 and 18:30 (Europe/Bucharest)",
        "off": "Off",
        "paused": "On every new snapshot",
        "vips": "On every new snapshot",
    }
    assert found["paused"].paused
    assert found["off"].connection is None
    assert found["everything"].mapping.properties == "*"
    nightly = found["nightly"]
    assert (nightly.max_profiles, nightly.keep_rejected_rows, nightly.reconcile) == (
        500,
        True,
        True,
    )
    assert nightly.mapping.model_dump(exclude_defaults=True, mode="json") == {
        "email": "EMail",
        "phone_number": "Telephone",
        "first_name": "FirstName",
        "last_name": "LastName",
        "location": {"city": "City"},
        "identifier": "email",
        "phone_region": "RO",
        "newest_by": "ChangedOn",
        "culture": "en-GB",
        "properties": {
            "tier": {"column": "Tier"},
            "value": {"column": "Value", "type": "number", "empty": "clear"},
            "born": {"column": "Born", "type": "date"},
            "open": {"column": "Open", "type": "boolean"},
            "ids": {"column": "Ids", "type": "list"},
        },
    }


def test_runs_are_listed_with_their_status(world: World) -> None:
    listed = {
        each.id: sorted(run.status for run in _ask(world, "runs", each.id).items)
        for each in _ask(world, "exports")
    }
    assert listed == {export_id: sorted(statuses) for export_id, statuses in STATUSES.items()}
    shown = {each.id: each for each in _ask(world, "exports")}
    assert (shown["vips"].status, shown["nightly"].refreshed is not None) == ("Refreshing", True)


def test_reports_and_lists_of_rows_are_shown(world: World) -> None:
    runs = [run for each in STATUSES for run in _ask(world, "runs", each).items]
    closed = [run for run in runs if not run.is_open]
    assert len(closed) == 6
    for run in closed:
        report = _ask(world, "report", run.id)
        assert (report["status"], report["message"]) == (run.status, run.message)
    [nightly] = [run for run in closed if run.status == "Completed with warnings"]
    report = _ask(world, "report", nightly.id)
    assert (report["rows"], report["delivered"], report["duplicates"]) == (9, 6, 1)
    assert report["rejected_by_reason"] == {"email_space": 1, "failed_in_klaviyo": 1}
    rejected = b"".join(_ask(world, "rows", nightly.id, "rejected")).decode()
    duplicates = b"".join(_ask(world, "rows", nightly.id, "duplicates")).decode()
    assert "not an address" in rejected
    assert "c6+async-fail@example.com" in rejected
    assert '"segments/Customers/customers.csv","8",' in duplicates


def test_changes_are_shown(world: World) -> None:
    changes = _ask(world, "changes").items
    assert {each.by["name"] for each in changes} == {"Ada"}
    written = (WRITTEN / "state" / "audit" / "2026-09-21.jsonl").read_text().splitlines()
    assert [each.object for each in reversed(changes)] == [
        json.loads(line)["object"] for line in written
    ]


def test_counted_members_are_read(world: World) -> None:
    counted = read_members(world.engine.store).segments
    assert {name: each.rows for name, each in counted.items()} == {
        "feed/leads": 3,
        "/partners": 1,
        "/customers": 8,
        "/highvalue": 43,
    }


def test_a_run_that_was_killed_while_sending_delivers_the_rest(world: World) -> None:
    _take_over(world)
    newest = max(world.runs("vips"), key=lambda run: run.created_at)
    assert newest.status is Status.WARNINGS, newest.message
    planted = {7: "p7+sync-fail@example.com", 3: "p3+async-fail@example.com"}
    names = {email: name.replace("Name", "New") for email, name in people(25, planted=planted)}
    names |= dict([*people(12), *people(3, first=20), *people(3, first=30)])  # the later files
    bad = set(planted.values())
    members = {email: each["first_name"] for email, each in world.members("LIST01").items()}
    assert members == {email: name for email, name in names.items() if email not in bad}
    report = world.report(newest)
    assert report["adds_up"]
    assert (report["rows"], report["delivered"], report["duplicates"]) == (43, 28, 13)
    assert {row["identifier"] for row in world.rows_of("rejected.csv", newest)} == bad
    jobs = [job for job in world.klaviyo.account.jobs if job.list_ids == ("LIST01",)]
    assert sum(job.total for job in jobs) == 30 - 1, "no batch is sent twice"


def test_a_run_that_waited_for_its_jobs_is_confirmed(world: World) -> None:
    _take_over(world)
    run = world.run("everything")
    assert (run.status, run.counts.delivered) == (Status.SUCCESSFUL, 3), run.message
    assert world.emails("LIST03") == LEADS


def test_runs_that_had_not_begun_are_delivered_from_the_files_of_now(world: World) -> None:
    _take_over(world)
    for export_id, list_id in (("by-hand", "LIST04"), ("claimed", "LIST05")):
        statuses = [run.status for run in world.runs(export_id)]
        assert statuses.count(Status.SUCCESSFUL) == 1, statuses
        assert not any(status.is_open for status in statuses)
        assert world.emails(list_id) == LEADS


def test_moments_that_a_schedule_has_behind_it_are_not_repeated(world: World) -> None:
    before = (world.folder / "state" / "schedules" / "nightly.json").read_bytes()
    _take_over(world)
    assert (world.folder / "state" / "schedules" / "nightly.json").read_bytes() == before
    assert len(world.runs("nightly")) == 2


def test_notices_that_nobody_got_are_sent(world: World) -> None:
    notices = _take_over(world)
    assert {(each.export, each.run) for each in notices} == {
        (run.export, run.run_id)
        for export_id in ("by-hand", "vips")
        for run in world.runs(export_id)
        if run.status is Status.FAILED
    }
