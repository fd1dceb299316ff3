"""Runs as people start, follow and cancel them."""

from __future__ import annotations

import re

import pytest

from exporter.cli.printing import as_json_document
from exporter.cli.wording import open_run_as_text, report_as_text
from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.errors import (
    Conflict,
    NotAllowed,
    Transient,
)
from exporter.management.forms import ExportForm, parse
from exporter.management.history import newest_first
from exporter.management.management import Management
from exporter.runs.run import Run, Status
from exporter.storage.protocols import Document
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import FOLDER, SEGMENT, World, as_csv, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    add_export,
    arrive,
    connect,
    export_document,
    managed,
)


def test_run_all_starts_the_others_and_says_which_connection_cannot_be_read(
    world: World, broken: Management
) -> None:
    arrive(world)
    first, second = broken.as_(ADMIN).run_all()
    assert (first.export, first.run, "cannot be read" in first.problem) == ("a", None, True)
    assert (second.export, second.run is not None, second.problem) == ("high-value", True, "")
    assert broken.as_(CONTRIBUTOR).run_all() == []


def test_storage_that_fails_for_one_export_does_not_end_run_all(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(management)
    arrive(world)
    add_export(management, name="A")
    add_export(management)
    asked, real = [], world.engine.catalog.connection

    def connection(connection_id: str) -> Connection | None:
        asked.append(connection_id)
        if len(asked) == 1:
            raise Transient("storage does not answer")
        return real(connection_id)

    monkeypatch.setattr(world.engine.catalog, "connection", connection)
    first, second = management.as_(ADMIN).run_all()
    assert (first.problem, second.run is not None) == ("storage does not answer.", True)


def test_run_all_takes_those_with_an_active_schedule(world: World, management: Management) -> None:
    connect(management)
    arrive(world)
    add_export(management)
    add_export(management, name="On demand", schedule={"on": "demand"})
    add_export(management, name="Paused", paused=True)
    add_export(management, name="Empty", segments=["Ghosts"])
    started = {one.export: one for one in management.as_(ADMIN).run_all()}
    assert set(started) == {"high-value", "empty"}
    assert started["high-value"].run is not None
    assert started["empty"].run is None
    assert "no snapshot" in started["empty"].problem
    assert management.as_(CONTRIBUTOR).run_all() == []


def test_run_all_goes_on_after_an_export_that_cannot_be_started(
    world: World, management: Management
) -> None:
    """No snapshot; a connection that cannot be read; storage that does not answer."""
    connect(management)
    connect(management, name="Broken")
    arrive(world)
    add_export(management, name="A: empty", segments=["Ghosts"])
    add_export(management, name="B: broken", connection="broken")
    add_export(management, name="C: unlucky", segments=["Unlucky"])
    add_export(management, name="D: good")
    found = world.engine.store.read("connections/broken.json")
    assert found is not None
    world.engine.store.replace("connections/broken.json", b"{}", etag=found.etag)

    class Unlucky:
        def start(self, export: Export) -> Run:
            if "Unlucky" in export.segments:
                raise Transient("the storage cannot answer")
            return world.engine.starter.start(export)

    started = managed(world, starter=Unlucky()).as_(ADMIN).run_all()
    assert [(one.export[0], one.run is not None) for one in started] == [
        *(("a", False), ("b", False), ("c", False), ("d", True)),
    ]
    assert all(one.problem for one in started[:3])
    world.deliver()
    assert world.run("d-good").status is Status.SUCCESSFUL


def test_history_is_paged_newest_first(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    for number in range(5):
        world.clock.move(90)
        world.drop_people("a.csv", people(3 + number))
        world.deliver()
    seen, cursor = [], ""
    while True:
        page = management.as_(VIEWER).runs("high-value", limit=2, cursor=cursor)
        seen += [run.id for run in page.items]
        if page.next is None:
            break
        cursor = page.next
    assert seen == [run.run_id for run in reversed(world.runs("high-value"))]


def test_while_a_run_is_open_its_profiles_are_known_once_it_is_planned(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(25, planted={1: "nobody"}))
    world.deliver(until=lambda: world.accepted_rows() > 0)
    view = management.as_(VIEWER).run(world.run("high-value").run_id)
    assert (view.is_open, view.accepted, view.confirmed, view.unknown) == (True, 24, 0, 24)
    assert view.counts is not None
    assert (view.counts.rows, view.counts.profiles, view.counts.delivered) == (25, 24, 0)
    [listed] = management.as_(VIEWER).runs("high-value").items
    assert listed == view


def numbers(management: Management) -> tuple[str, int | None, int | None, int | None]:
    """(status, accepted, confirmed, unknown) of the only run, which both ways of asking tell."""
    app = management.as_(VIEWER)
    [view] = app.runs("high-value").items
    assert app.run(view.id) == view
    return view.status, view.accepted, view.confirmed, view.unknown


def test_accepted_confirmed_and_unknown_are_three_numbers_of_a_run_that_delivered(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(25, planted={1: "x+async-fail@example.com"}))
    world.deliver()
    assert numbers(management) == ("Completed with warnings", 25, 24, 0)


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_what_klaviyo_goes_on_with_after_a_run_ended_early_is_unknown(
    world: World, management: Management, how: str
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(25))
    world.deliver(until=lambda: world.accepted_rows() > 0)
    if how == "cancel":
        management.as_(ADMIN).cancel_run(world.run("high-value").run_id)
    else:
        world.settings(revoke=[FULL_KEY])
    world.deliver()
    status = "Canceled" if how == "cancel" else "Failed"
    assert numbers(management) == (status, 25, 0, 25)
    run = world.run("high-value")
    report = management.as_(VIEWER).report(run.run_id)
    assert [report[name] for name in ("accepted", "confirmed", "unknown")] == [25, 0, 25]
    assert "Klaviyo goes on with 25 profiles that it accepted" in run.hint
    assert report.get("canceled_by") == ("Ada" if how == "cancel" else None)
    text = report_as_text(report)
    for line in ("Accepted    25 in", "Confirmed   0\n", "Unknown     25\n"):
        assert line in text
    assert ("Canceled by Ada\n" in text) == (how == "cancel")


def test_a_run_that_failed_before_its_file_was_read_shows_no_zeros(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.settings(revoke=[FULL_KEY])
    world.drop_people("a.csv", people(25))
    world.deliver()
    assert numbers(management) == ("Failed", None, None, None)
    app = management.as_(VIEWER)
    [view] = app.runs("high-value").items
    assert view.counts is None
    report = app.report(view.id)
    assert {report[name] for name in ("rows", "accepted", "delivered", "rejected", "jobs")} == {
        None
    }
    text = report_as_text(report)
    assert ("Rows        not known" in text, "Accepted" in text) == (True, False)


def test_an_open_run_tells_its_phase_since_when_and_what_it_waits_for_until_when(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.settings(job_seconds=3_600)
    world.drop_people("a.csv", people(25))
    world.deliver(
        until=lambda: (
            bool(world.runs("high-value")) and world.run("high-value").waits_until is not None
        )
    )
    view = management.as_(VIEWER).run(world.run("high-value").run_id)
    assert (view.phase, view.phase_at == view.sent_at) == ("confirm", True)
    assert view.waits_until is not None
    assert view.waits_until > world.now()
    text = open_run_as_text(as_json_document(view))
    assert re.search(r"Phase +Klaviyo imports, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    assert re.search(r"Waits for +Klaviyo, which .*, until \d{4}-.* UTC", text)
    assert "Accepted    25 of 25 profiles" in text
    world.deliver()
    ended = management.as_(VIEWER).run(view.id)
    assert (ended.waits_for, ended.waits_until) == ("", None)


def test_a_run_that_is_put_off_tells_why_and_until_when(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.fault("status", status=503, times=None)
    world.drop_people("a.csv", people(3))
    world.deliver(
        until=lambda: bool(world.runs("high-value")) and world.run("high-value").setbacks > 0
    )
    view = management.as_(VIEWER).run(world.run("high-value").run_id)
    assert view.waits_for == view.message != ""
    assert view.waits_until is not None
    assert view.waits_until > world.now()


def test_an_empty_file_was_read_and_shows_its_zeros(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.put(f"segments/{SEGMENT}/a.csv", as_csv([]))
    world.clock.move(3_600)
    management.as_(ADMIN).run_export("high-value")
    world.deliver()
    view = management.as_(VIEWER).runs("high-value").items[0]
    assert view.counts is not None
    assert (view.status, view.counts.rows, view.accepted) == ("Failed", 0, 0)


def test_a_damaged_run_shows_in_the_list_as_damaged(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    for number in range(2):
        world.clock.move(90)
        world.drop_people("a.csv", people(3 + number))
        world.deliver()
    app, store = management.as_(VIEWER), world.engine.store
    newest, older = app.runs("high-value").items
    found = store.read(f"runs/{newest.id}/run.json")
    assert found is not None
    store.replace(f"runs/{newest.id}/run.json", b"{", etag=found.etag)
    damaged, other = app.runs("high-value").items
    assert (damaged.id, damaged.status, damaged.counts) == (newest.id, "Damaged", None)
    assert "run.json cannot be read" in damaged.problem
    assert other == older


def test_report_and_rejected_rows_are_read(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3, planted={1: "nobody"}))
    world.deliver()
    run_id = world.run("high-value").run_id
    assert management.as_(VIEWER).report(run_id)["rejected"] == 1
    assert b"nobody" in b"".join(management.as_(ADMIN).rows(run_id, "rejected"))
    with pytest.raises(NotAllowed):
        management.as_(VIEWER).rows(run_id, "rejected")


def test_a_run_is_cancelled_once(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    run = management.as_(ADMIN).run_export("high-value")
    management.as_(ADMIN).cancel_run(run.id)
    world.deliver()
    assert management.as_(VIEWER).run(run.id).status == "Canceled"
    with pytest.raises(Conflict, match="over"):
        management.as_(ADMIN).cancel_run(run.id)


def run_twice(world: World, management: Management) -> tuple[str, str]:
    """Two runs of one export: the second, by hand, is of an older snapshot by its name."""
    connect(management)
    add_export(management)
    world.put("segments/Other.csv", as_csv(people(2)))
    world.clock.move(7_200)
    world.drop_people("a.csv", people(3))
    world.deliver()
    first = world.run("high-value").run_id
    form = parse(ExportForm, export_document(segments=["Other"]))
    app = management.as_(ADMIN)
    app.edit_export("high-value", form, etag=app.export("high-value").etag)
    world.clock.move(60)
    second = app.run_export("high-value").id
    world.deliver()
    return first, second


def test_the_run_that_was_created_last_comes_first_whatever_its_snapshots_time(
    world: World, management: Management
) -> None:
    first, second = run_twice(world, management)
    assert first > second, "by name, the second run is older"
    app = management.as_(VIEWER)
    assert [run.id for run in app.runs("high-value").items] == [second, first]
    assert [run.id for run in app.runs("high-value", limit=1).items] == [second]
    view = app.export("high-value").last_run
    assert view is not None
    assert view.id == second


def test_of_runs_within_a_minute_the_one_that_was_created_last_comes_first(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    created = []
    for number in range(6):
        world.put(FOLDER + "a.csv", as_csv(people(number + 1)))
        world.clock.move(120)
        run = management.as_(ADMIN).run_export("high-value")
        world.deliver()
        created.insert(0, run.id)
    store = world.engine.store
    for number, run_id in enumerate(reversed(created)):  # all of one snapshot's minute
        found = store.read(f"runs/{run_id}/run.json")
        assert found is not None
        document = Run.model_validate_json(found.data)
        moment = world.now().replace(minute=0, second=number)
        changed = document.model_copy(update={"created_at": moment})
        data = changed.model_dump_json(by_alias=True).encode()
        name = f"high-value/20261130T0000Z-{number * 7919 % 10:010}"
        store.create(f"runs/{name}/run.json", data.replace(run_id.encode(), name.encode()))
        store.delete(f"runs/{run_id}/run.json")
    names = [run.id for run in management.as_(VIEWER).runs("high-value").items]
    assert names == [f"high-value/20261130T0000Z-{n * 7919 % 10:010}" for n in (5, 4, 3, 2, 1, 0)]


def test_a_list_of_runs_reads_only_what_it_shows_and_what_is_new(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_twice(world, management)
    app = management.as_(VIEWER)
    app.runs("high-value")
    read: list[str] = []
    real = world.engine.store.read

    def reading(name: str) -> Document | None:
        read.append(name)
        return real(name)

    monkeypatch.setattr(world.engine.store, "read", reading)
    app.runs("high-value", limit=1)
    assert len([name for name in read if name.endswith("run.json")]) == 1


def test_a_history_that_is_damaged_or_cannot_be_kept_keeps_no_run_from_being_listed(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run_twice(world, management)
    store, app = world.engine.store, management.as_(VIEWER)
    found = store.read("history/high-value.json")
    assert found is not None
    store.replace("history/high-value.json", b"{", etag=found.etag)

    def full(*_: object, **__: object) -> str:
        raise Transient("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "replace", full)
        assert [run.id for run in app.runs("high-value").items] == [second, first]
    assert [run.id for run in app.runs("high-value").items] == [second, first]


def test_runs_that_are_too_many_to_be_read_at_once_are_in_order_after_some_lists(
    world: World, management: Management
) -> None:
    first, second = run_twice(world, management)
    store, runs = world.engine.store, world.engine.runs
    store.delete("history/high-value.json")
    names = [
        [place.name for place in newest_first(store, runs, "high-value", most_read=1)]
        for _ in range(2)
    ]
    assert names[1] == [run_id.partition("/")[2] for run_id in (second, first)]
