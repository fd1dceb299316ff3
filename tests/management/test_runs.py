"""Runs as people start, follow and cancel them."""

from __future__ import annotations

import pytest

from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.errors import (
    Conflict,
    NotAllowed,
    Transient,
)
from exporter.management.management import Management
from exporter.runs.run import Run, Status
from tests.journeys.world import World, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    add_export,
    arrive,
    connect,
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
    assert (view.is_open, view.accepted) == (True, 24)
    assert (view.counts.rows, view.counts.profiles, view.counts.delivered) == (25, 24, 0)


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
