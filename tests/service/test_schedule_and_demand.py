"""Runs that a clock or a person starts, and the timer that looks after runs which lost their message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from exporter.catalog import Schedule
from exporter.errors import ConfigError
from exporter.leases import take
from exporter.runs import Status
from exporter.service import STALE_S
from tests.service.world import FOLDER, World, as_csv, assert_ended, people

NIGHTLY = Schedule(on="cron", cron="0 3 * * *", time_zone="Europe/Bucharest")
DAY = 86_400


def _at(world: World, hour: int, minute: int = 0, *, days: int = 0) -> None:
    """Move the clock on to an hour of the day (UTC)."""
    today = world.now().replace(hour=hour, minute=minute, second=0, microsecond=0) + timedelta(days=days)
    assert today >= world.now()
    world.clock.now = today.timestamp()


def _ready(world: World, schedule: Schedule = NIGHTLY) -> None:
    world.register(schedule=schedule)
    world.put(FOLDER + "a.csv", as_csv(people(5)))
    world.clock.move(3_600)


def test_a_due_schedule_starts_one_run(world: World) -> None:
    _ready(world)
    world.exporter.tick()
    world.exporter.tick()
    world.deliver()
    world.exporter.tick()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_two_instances_that_tick_together_start_one_run(world: World) -> None:
    _ready(world)
    for exporter in (world.exporter, world.again(), world.again()):
        exporter.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_a_schedule_is_kept_in_its_own_time_zone(world: World) -> None:
    _ready(world)
    world.exporter.tick()
    world.deliver()
    world.put(FOLDER + "b.csv", as_csv(people(5, first=5)))
    _at(world, 23, 50)
    world.exporter.tick()
    assert len(world.runs()) == 1
    _at(world, 0, 5, days=1)  # 03:05 in Bucharest in summer
    world.exporter.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=10, run=world.runs()[-1])


def test_ticks_missed_for_days_are_made_up_for_once(world: World) -> None:
    _ready(world)
    world.exporter.tick()
    world.deliver()
    world.clock.move(5 * DAY)
    world.put(FOLDER + "b.csv", as_csv(people(5, first=5)))
    world.clock.move(DAY)
    for _ in range(3):
        world.exporter.tick()
        world.deliver()
    assert [run.status for run in world.runs()] == [Status.SUCCESSFUL, Status.SUCCESSFUL]


def test_a_schedule_without_a_new_snapshot_is_skipped_and_recorded_once(world: World) -> None:
    _ready(world)
    world.exporter.tick()
    world.deliver()
    world.clock.move(DAY)
    for exporter in (world.exporter, world.again(), world.exporter):
        exporter.tick()
    world.deliver()
    first, skipped = world.runs()
    assert_ended(world, Status.SKIPPED, run=skipped)
    assert "no new snapshot" in skipped.message
    assert first.status is Status.SUCCESSFUL


def test_a_schedule_before_the_first_snapshot_is_skipped_and_stops_nothing_else(world: World) -> None:
    world.register("aaa-first", segments=["Nobody"], schedule=NIGHTLY)
    _ready(world)
    for _ in range(3):
        world.exporter.tick()
    world.deliver()
    skipped = world.run("aaa-first")
    assert_ended(world, Status.SKIPPED, run=skipped)
    assert "Nobody" in skipped.message
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


@pytest.mark.parametrize(("cron", "zone"), [("61 3 * * *", "UTC"), ("0 3 * * *", "Mars/Base"), ("soon", "Europe")])
def test_a_schedule_that_cannot_be_read_stops_nothing_else(world: World, cron: str, zone: str) -> None:
    broken = world.register("aaa-broken", schedule=Schedule(on="cron", cron=cron, time_zone=zone))
    _ready(world)
    world.exporter.start(broken, because="demand")  # a first run, so that the next time matters
    world.exporter.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_starting_on_demand_twice_takes_up_the_open_run(world: World) -> None:
    _ready(world, Schedule(on="demand"))
    export = world.exporter.catalog.export("vips")
    assert export is not None
    first = world.exporter.start(export, because="demand")
    second = world.exporter.start(export, because="demand")
    assert first.run_id == second.run_id
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert world.job_requests() == 1


def test_starting_on_demand_after_the_end_makes_another_attempt(world: World) -> None:
    _ready(world, Schedule(on="demand"))
    export = world.exporter.catalog.export("vips")
    assert export is not None
    for attempt in ("", "-2", "-3"):
        run = world.exporter.start(export, because="demand")
        assert run.run_id.endswith(attempt)
        world.deliver()
        assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.exporter.run(run.run_id))
    assert len(world.runs()) == 3


def test_an_older_snapshot_that_a_person_asks_for_is_sent(world: World) -> None:
    """Two runs of one export by hand: only arrivals are overtaken by newer snapshots."""
    _ready(world, Schedule(on="demand"))
    export = world.exporter.catalog.export("vips")
    assert export is not None
    newer = world.exporter.start(export, because="demand")
    world.deliver()
    older = newer.manifest.model_copy(update={"exported_at": datetime(2020, 1, 1, tzinfo=UTC)})
    run = world.exporter.start_on(export, older, because="demand")
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.exporter.run(run.run_id))


def test_starting_without_a_snapshot_says_so(world: World) -> None:
    export = world.register(schedule=Schedule(on="demand"))
    with pytest.raises(ConfigError, match="no snapshot of HighValue"):
        world.exporter.start(export, because="demand")
    assert world.runs() == []


def test_a_snapshot_that_is_still_arriving_is_not_taken(world: World) -> None:
    export = world.register(schedule=Schedule(on="demand"))
    world.put(FOLDER + "a.csv", as_csv(people(5)))
    with pytest.raises(ConfigError, match="no snapshot"):
        world.exporter.start(export, because="demand")


# Runs that lost their message


def test_a_run_that_lost_its_message_is_taken_up_by_the_tick(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    assert world.steps.take() is not None  # and nobody handles it
    world.exporter.tick()
    assert world.messages() == 0, "not stale yet"
    world.clock.move(STALE_S + 1)
    world.exporter.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_a_run_of_an_export_that_is_gone_is_closed_by_the_tick(world: World) -> None:
    from exporter.catalog import Export

    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    world.steps.take()
    world.exporter.catalog.remove(Export, "vips")
    world.clock.move(STALE_S + 1)
    world.exporter.tick()
    world.deliver()
    assert_ended(world, Status.CANCELED)


def test_a_run_that_waits_for_its_turn_for_hours_gathers_no_messages(world: World) -> None:
    """Its connection is busy with another run, its own message goes round: each nudge adds another."""
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    other = take(world.exporter.store, "main", "another run", clock=world.clock, lasts_s=100_000)
    for _ in range(24):
        world.clock.move(300)
        world.exporter.tick()
        for _ in range(world.messages()):
            message = world.steps.take()
            if message:
                world.exporter.handle(message)
    assert world.messages() <= 2
    other.release({})
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)
