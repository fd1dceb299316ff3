"""Runs that a clock or a person starts, and the timer that looks after stuck runs."""

from __future__ import annotations

import contextlib
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from exporter.definitions.connection import Check
from exporter.definitions.definition import Change
from exporter.definitions.export import Export
from exporter.definitions.schedule import Schedule
from exporter.errors import ConfigError, Transient
from exporter.orchestration.engine import Engine
from exporter.orchestration.lease import lease_name, take
from exporter.orchestration.timer import STALE_AFTER
from exporter.runs.run import Run, Status
from exporter.runs.run_store import encode_listed
from exporter.storage.azure_blobs import BlobStore
from exporter.storage.protocols import BlobInfo
from tests.journeys.counting import Counting
from tests.journeys.killing import Killed, Killer, mortal
from tests.journeys.world import FOLDER, SEGMENT, World, as_csv, assert_ended, people


class Failing:
    """Snapshots of which those of one segment cannot be reached."""

    def __init__(self, snapshots: Any, segment: str) -> None:
        self._snapshots, self._segment = snapshots, segment

    def list(self, prefix: str) -> Iterator[Any]:
        if self._segment in prefix:
            raise Transient("the storage cannot answer")
        return iter(self._snapshots.list(prefix))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._snapshots, name)


NIGHTLY = Schedule(on="schedule", times=["03:00"], time_zone="Europe/Bucharest")
DAY = 86_400


def _ready(world: World, schedule: Schedule = NIGHTLY) -> Export:
    """A snapshot is there, and the timer has seen the export."""
    export = world.register(schedule=schedule)
    world.put(FOLDER + "a.csv", as_csv(people(5)))
    world.clock.move(3_600)
    world.engine.timer.tick()
    assert world.runs() == []
    return export


def _to_next_time(world: World, *, seconds_after: float = 60) -> None:
    following = NIGHTLY.next_after(world.now())
    assert following is not None
    world.clock.now = following.timestamp() + seconds_after


def _new_snapshot(world: World, first: int) -> None:
    """Five more people are in the segment, and it has settled."""
    world.put(FOLDER + f"{first}.csv", as_csv(people(5, first=first)))
    world.clock.move(3_600)


def test_a_due_schedule_starts_one_run(world: World) -> None:
    _ready(world)
    _to_next_time(world, seconds_after=-1)
    world.engine.timer.tick()
    assert world.runs() == [], "not due yet"
    world.clock.move(2)
    world.engine.timer.tick()
    world.engine.timer.tick()
    world.deliver()
    world.engine.timer.tick()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert run.because == "schedule"
    assert run.due_at
    assert f"{run.due_at:%H:%M:%S}" == "00:00:00", "three in the night in Bucharest"


def test_saving_a_schedule_runs_nothing_whenever_its_times_were(world: World) -> None:
    _ready(world)
    for schedule in (
        Schedule(on="schedule", cron="* * * * *"),
        Schedule(on="schedule", times=[f"{world.now():%H:%M}"]),
        NIGHTLY,
    ):
        world.register(schedule=schedule)
        world.engine.timer.tick()
    assert world.runs() == []


@pytest.mark.parametrize(
    "changed",
    [datetime(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)],
)
def test_a_document_put_back_by_hand_runs_nothing_whatever_it_says_of_its_change(
    world: World, changed: datetime
) -> None:
    export = _ready(world)
    world.engine.catalog.save(
        export.model_copy(
            update={
                "schedule": Schedule(on="schedule", cron="* * * * *"),
                "changed": Change(by="a person", at=changed),
            }
        )
    )
    world.engine.timer.tick()
    assert world.runs() == []


def test_a_schedule_counts_from_when_it_was_saved_not_from_when_the_timer_saw_it(
    world: World,
) -> None:
    _ready(world, Schedule(on="demand"))
    saved = Change(by="a test", at=world.now())
    due = Schedule(on="schedule", times=[f"{world.now() + timedelta(minutes=2):%H:%M}"])
    world.engine.catalog.save(world.register(schedule=due).model_copy(update={"changed": saved}))
    world.clock.move(300)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_times_that_pass_while_an_export_is_paused_are_not_made_up_for(world: World) -> None:
    export = _ready(world)
    world.engine.catalog.save(export.model_copy(update={"paused": True}))
    for _ in range(3):
        world.clock.move(DAY)
        world.engine.timer.tick()
    world.engine.catalog.save(export)
    world.engine.timer.tick()
    assert world.runs() == []
    _to_next_time(world)
    world.engine.timer.tick()
    assert len(world.runs()) == 1


@pytest.mark.parametrize("kind", ["folder", pytest.param("blob", marks=pytest.mark.azurite)])
def test_two_instances_that_tick_at_the_same_time_start_one_run(
    world: World, kind: str, request: pytest.FixtureRequest
) -> None:
    container = request.getfixturevalue("container") if kind == "blob" else None

    def instance() -> Engine:
        return world.again(store=BlobStore(container)) if container else world.again()

    world.engine = instance()
    _ready(world)
    _to_next_time(world)
    exporters = [instance() for _ in range(4)]
    together = threading.Barrier(len(exporters))

    def tick(engine: Engine) -> None:
        together.wait()
        engine.timer.tick()

    with ThreadPoolExecutor(len(exporters)) as threads:
        list(threads.map(tick, exporters))
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert world.job_requests() == 1


@pytest.mark.parametrize("round_", range(3))
def test_two_instances_that_tick_at_the_same_time_skip_once(world: World, round_: int) -> None:
    world.register(schedule=NIGHTLY)
    world.engine.timer.tick()
    _to_next_time(world)
    exporters = [world.again() for _ in range(4)]
    with ThreadPoolExecutor(len(exporters)) as threads:
        list(threads.map(lambda engine: engine.timer.tick(), exporters))
    assert_ended(world, Status.SKIPPED)


@pytest.mark.parametrize("has_ended", [False, True], ids=["run open", "run ended"])
@pytest.mark.parametrize("dies_at", range(1, 10))
def test_a_timer_that_dies_anywhere_has_started_one_run_after_the_next_tick(
    world: World, dies_at: int, has_ended: bool
) -> None:
    _ready(world)
    _to_next_time(world)
    with contextlib.suppress(Killed):
        mortal(world, Killer(dies_at)).timer.tick()
    if has_ended:  # before the moment was noted as done
        world.deliver()
    world.clock.move(300)
    _new_snapshot(world, 5)  # the moment was for the snapshot of then
    world.clock.move(STALE_AFTER.total_seconds())
    world.engine.timer.tick()
    world.deliver()
    assert len([run for run in world.runs() if run.status is not Status.SKIPPED]) == 1, dies_at
    assert [run.status for run in world.runs()] == [Status.SUCCESSFUL], dies_at


def test_a_schedule_is_kept_in_its_own_time_zone(world: World) -> None:
    _ready(world)
    _to_next_time(world)
    assert f"{world.now():%H:%M}" == "00:01", "03:01 in Bucharest in summer"
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_ticks_missed_for_days_are_made_up_for_once(world: World) -> None:
    _ready(world)
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    world.clock.move(5 * DAY)
    _new_snapshot(world, 5)
    for _ in range(3):
        world.engine.timer.tick()
        world.deliver()
    assert [run.status for run in world.runs()] == [Status.SUCCESSFUL, Status.SUCCESSFUL]


def test_a_schedule_without_a_new_snapshot_is_skipped_and_recorded_once(world: World) -> None:
    _ready(world)
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    _to_next_time(world)
    for engine in (world.engine, world.again(), world.engine):
        engine.timer.tick()
        world.clock.move(300)
    world.deliver()
    first, skipped = world.runs()
    assert_ended(world, Status.SKIPPED, run=skipped)
    assert "no new snapshot" in skipped.message
    assert first.status is Status.SUCCESSFUL


def test_a_schedule_tries_a_snapshot_again_whose_run_failed(world: World) -> None:
    _ready(world)
    secret = world.secrets.pop("klaviyo-key")
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.FAILED)
    world.secrets["klaviyo-key"] = secret
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.runs()[-1])


def _withdraw_consent(world: World, run: Run) -> None:
    connection = world.engine.catalog.connection("main")
    assert connection is not None
    world.engine.catalog.save(connection.model_copy(update={"consent": None}))


def _pause(world: World, run: Run) -> None:
    export = world.engine.catalog.export("vips")
    assert export is not None
    world.engine.catalog.save(export.model_copy(update={"paused": True}))


def _cancel(world: World, run: Run) -> None:
    world.engine.runs.cancel(run.run_id)


@pytest.mark.parametrize("stop", [_withdraw_consent, _pause, _cancel])
def test_a_schedule_tries_a_snapshot_again_whose_run_was_canceled(
    world: World, stop: Callable[[World, Run], None]
) -> None:
    _ready(world)
    _to_next_time(world)
    world.engine.timer.tick()
    stop(world, world.run())
    world.deliver()
    assert_ended(world, Status.CANCELED)
    world.register(schedule=NIGHTLY)  # what was taken back is given again
    world.engine.timer.tick()
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.runs()[-1])


def test_a_schedule_looks_at_every_attempt_at_a_snapshot_before_it_skips(world: World) -> None:
    """Canceled, failed, failed, delivered: only then is there nothing new."""
    _ready(world)
    _to_next_time(world)
    world.engine.timer.tick()
    _cancel(world, world.run())
    world.deliver()
    secret = world.secrets.pop("klaviyo-key")
    for _ in range(2):
        _to_next_time(world)
        world.engine.timer.tick()
        world.deliver()
    world.secrets["klaviyo-key"] = secret
    for _ in range(2):
        _to_next_time(world)
        world.engine.timer.tick()
        world.deliver()
    assert [run.status for run in world.runs()] == [
        *(Status.CANCELED, Status.FAILED, Status.FAILED, Status.SUCCESSFUL, Status.SKIPPED),
    ]
    assert world.job_requests() == 1


def test_a_snapshot_that_was_delivered_but_for_rejected_rows_is_not_new(world: World) -> None:
    _ready(world)
    world.put(FOLDER + "b.csv", as_csv([("nobody", "X")]))
    world.clock.move(3_600)
    for _ in range(2):
        _to_next_time(world)
        world.engine.timer.tick()
        world.deliver()
    assert [run.status for run in world.runs()] == [Status.WARNINGS, Status.SKIPPED]
    assert world.job_requests() == 1


def test_a_snapshot_that_a_newer_one_overtook_is_not_tried_at_every_time(world: World) -> None:
    """The newer one was delivered, then deleted from the container."""
    world.register(schedule=NIGHTLY)
    older, newer = (
        f"CI/Feed/HighValue/{world.now():%Y/%m/%d}/{minute}/HighValue_1.csv"
        for minute in ("0001", "0002")
    )
    for name in (older, newer):
        world.put(name, as_csv(people(5)))
    world.clock.move(3_600)
    world.engine.timer.tick()
    for _ in range(4):
        _to_next_time(world)
        world.engine.timer.tick()
        world.deliver()
        (world.container / newer).unlink(missing_ok=True)
    assert [run.status for run in world.runs()] == [
        Status.SUCCESSFUL,
        Status.SKIPPED,
        Status.SKIPPED,
    ]
    assert ["newer snapshot" in run.message for run in world.runs()] == [False, True, False]


def test_a_schedule_sends_a_delivered_snapshot_to_the_list_that_the_export_has_since(
    world: World,
) -> None:
    export = _ready(world)
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    world.klaviyo.call("POST", "/_sandbox/lists", {"id": "LIST02"})
    world.engine.catalog.save(export.model_copy(update={"list_id": "LIST02"}))
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.runs()[-1])
    assert len(world.emails("LIST02")) == 5


def test_a_schedule_over_a_connection_without_consent_is_skipped_until_there_is_one(
    world: World,
) -> None:
    _ready(world)
    given = world.engine.catalog.connection("main")
    assert given is not None
    world.engine.catalog.save(given.model_copy(update={"consent": None}))
    for _ in range(3):
        _to_next_time(world)
        world.engine.timer.tick()
        world.deliver()
    skipped = assert_ended(world, Status.SKIPPED)
    assert "agreed" in skipped.message
    world.engine.catalog.save(given)
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.runs()[-1])


@pytest.mark.parametrize(
    "has_snapshot", [True, False], ids=["delivered before", "none has arrived"]
)
def test_of_moments_in_a_row_that_are_skipped_for_one_reason_the_first_is_recorded(
    world: World, has_snapshot: bool
) -> None:
    world.register(schedule=Schedule(on="schedule", cron="* * * * *"))
    if has_snapshot:
        world.put(FOLDER + "a.csv", as_csv(people(5)))
        world.clock.move(300)
    for _ in range(20):
        world.engine.timer.tick()
        world.deliver()
        world.clock.move(60)
    statuses = [run.status for run in world.runs()]
    assert statuses == [*([Status.SUCCESSFUL] if has_snapshot else []), Status.SKIPPED]
    assert_ended(world, Status.SKIPPED, run=world.runs()[-1])


def test_a_moment_that_is_skipped_again_after_a_delivery_is_recorded_again(world: World) -> None:
    _ready(world)
    for first in (5, 10):
        for _ in range(3):
            _to_next_time(world)
            world.engine.timer.tick()
            world.deliver()
        _new_snapshot(world, first)
    assert [run.status for run in world.runs()] == [Status.SUCCESSFUL, Status.SKIPPED] * 2


def test_a_moment_that_is_skipped_for_another_reason_is_recorded(world: World) -> None:
    """The snapshot was delivered by hand meanwhile."""
    export = world.register(schedule=NIGHTLY)
    world.engine.timer.tick()
    for _ in range(2):
        _to_next_time(world)
        world.engine.timer.tick()
    _new_snapshot(world, 0)
    world.engine.starter.start(export)
    world.deliver()
    _to_next_time(world)
    world.engine.timer.tick()
    first, _, last = world.runs()
    assert [run.status for run in world.runs()] == [
        Status.SKIPPED,
        Status.SUCCESSFUL,
        Status.SKIPPED,
    ]
    assert first.message != last.message


def test_a_timetable_of_earlier_is_gone_on_with(world: World) -> None:
    _ready(world)
    found = world.engine.store.read("schedules/vips.json")
    assert found is not None
    table = json.loads(found.data)
    del table["skipped"]
    world.engine.store.replace("schedules/vips.json", json.dumps(table).encode(), etag=found.etag)
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_a_schedule_before_the_first_snapshot_is_skipped_and_stops_nothing_else(
    world: World,
) -> None:
    world.register("aaa-first", segments=["Nobody"], schedule=NIGHTLY)
    _ready(world)
    _to_next_time(world)
    for _ in range(3):
        world.engine.timer.tick()
    world.deliver()
    skipped = world.run("aaa-first")
    assert_ended(world, Status.SKIPPED, run=skipped)
    assert "Nobody" in skipped.message
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_an_export_that_cannot_be_read_stops_nothing_else(world: World) -> None:
    _ready(world)
    world.engine.store.create(
        "exports/aaa-broken.json", b'{"schedule": {"on": "schedule", "cron": "61 3 * * *"}}'
    )
    _to_next_time(world)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_storage_that_answers_for_one_export_only_stops_nothing_else_and_is_made_up_for(
    world: World,
) -> None:
    """What the other one missed stays due."""
    world.register("aaa-unlucky", segments=["Unlucky"], schedule=NIGHTLY)
    world.put("segments/Unlucky/a.csv", as_csv(people(3, first=100)))
    _ready(world)
    _to_next_time(world)
    world.again(snapshots=Failing(world.engine.snapshots, "Unlucky")).timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert world.runs("aaa-unlucky") == []
    world.clock.move(300)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=3, run=world.run("aaa-unlucky"))


def test_a_tick_costs_the_same_however_many_runs_are_kept(world: World) -> None:
    export = _ready(world)
    calls = []
    for runs in (1, 6):
        for _ in range(runs):
            world.engine.starter.start(export)
            world.deliver()
        world.engine.timer.tick()
        counting = Counting(world.engine.store)
        world.again(store=counting).timer.tick()
        calls.append(counting.calls)
    assert calls[0] == calls[1]


def test_starting_on_demand_twice_takes_up_the_open_run(world: World) -> None:
    _ready(world, Schedule(on="demand"))
    export = world.engine.catalog.export("vips")
    assert export is not None
    first = world.engine.starter.start(export)
    second = world.engine.starter.start(export)
    assert first.run_id == second.run_id
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert world.job_requests() == 1


def test_starting_on_demand_after_the_end_makes_another_attempt(world: World) -> None:
    _ready(world, Schedule(on="demand"))
    export = world.engine.catalog.export("vips")
    assert export is not None
    for attempt in ("", "-2", "-3"):
        run = world.engine.starter.start(export)
        assert run.run_id.endswith(attempt)
        world.deliver()
        assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.engine.runs.run(run.run_id))
    assert len(world.runs()) == 3


def test_an_older_snapshot_that_a_person_asks_for_is_sent(world: World) -> None:
    """Two runs of one export by hand: only arrivals are overtaken by newer snapshots."""
    _ready(world, Schedule(on="demand"))
    export = world.engine.catalog.export("vips")
    assert export is not None
    newer = world.engine.starter.start(export)
    world.deliver()
    older = newer.manifest.model_copy(update={"exported_at": datetime(2020, 1, 1, tzinfo=UTC)})
    run = world.engine.starter.start_on(export, older, because="demand")
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.engine.runs.run(run.run_id))


def test_starting_without_a_snapshot_says_so(world: World) -> None:
    export = world.register(schedule=Schedule(on="demand"))
    with pytest.raises(ConfigError, match="no snapshot of HighValue"):
        world.engine.starter.start(export)
    assert world.runs() == []


def test_a_snapshot_that_is_still_arriving_is_not_taken(world: World) -> None:
    export = world.register(schedule=Schedule(on="demand"))
    world.put(FOLDER + "a.csv", as_csv(people(5)))
    with pytest.raises(ConfigError, match="no snapshot"):
        world.engine.starter.start(export)


def test_of_a_large_container_only_the_snapshots_asked_for_are_kept_in_mind(world: World) -> None:
    """Years of snapshots of other segments must not fill the memory of an instance."""
    now = world.now()

    class Large:
        def list(self, prefix: str) -> Iterator[BlobInfo]:
            ours = f"CustomerInsights_1/feed/{SEGMENT}/2026/08/24/1433/{SEGMENT}_0.csv"
            if prefix == "":
                for number in range(60_000):
                    name = f"CustomerInsights_1/feed/S{number}/2026/08/24/1433/S{number}_0.csv"
                    yield BlobInfo(name=name, etag="1", size_bytes=1, modified_at=now)
            yield BlobInfo(name=ours, etag="1", size_bytes=1, modified_at=now - timedelta(days=1))

        def read(self, *_: object, **__: object) -> None:
            """There is no model.json."""

        ping = read

    export = world.register()
    engine = world.again(snapshots=Large())
    tracemalloc.start()
    try:
        assert len(engine.container.freeze_newest(export).partitions) == 1
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


# Runs that lost their message


def test_a_run_that_lost_its_message_is_taken_up_by_the_tick(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    assert world.queue.take() is not None  # and nobody handles it
    world.engine.timer.tick()
    assert world.messages() == 0, "not stale yet"
    world.clock.move(STALE_AFTER.total_seconds() + 1)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_a_run_whose_document_is_damaged_does_not_keep_the_tick_from_the_others(
    world: World,
) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    world.queue.take()
    world.engine.store.create("runs/a/damaged/run.json", b"{broken")
    world.engine.store.create("open/a/damaged", encode_listed(world.now()))
    world.clock.move(STALE_AFTER.total_seconds() + 1)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_a_run_of_an_export_that_is_gone_is_closed_by_the_tick(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    world.queue.take()
    world.engine.store.delete("exports/vips.json")
    world.clock.move(STALE_AFTER.total_seconds() + 1)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.CANCELED)


def test_an_entry_of_the_index_without_a_run_goes_but_not_at_once(world: World) -> None:
    """It is written before the run where that is born closed."""
    world.engine.store.create("open/vips/gone", encode_listed(world.now()))
    world.engine.timer.tick()
    assert list(world.engine.store.names("open/")) == ["open/vips/gone"]
    world.clock.move(3_601)
    world.engine.timer.tick()
    assert list(world.engine.store.names("open/")) == []


def test_no_closed_run_stays_in_the_index_of_open_ones(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    assert list(world.engine.store.names("open/")) == [f"open/{world.run().run_id}"]
    world.deliver()
    assert list(world.engine.store.names("open/")) == []


def test_a_run_that_waits_for_its_turn_for_hours_gathers_no_messages(world: World) -> None:
    """Its connection is busy with another run, its own message goes round.

    Each nudge adds another.
    """
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    other = take(
        world.engine.store,
        lease_name("main", ""),
        "another run",
        clock=world.clock,
        lasts_s=100_000,
    )
    for _ in range(24):
        world.clock.move(300)
        world.engine.timer.tick()
        for _ in range(world.messages()):
            message = world.queue.take()
            if message:
                world.engine.dispatcher.handle(message)
    assert world.messages() <= 2
    other.release({})
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_runs_over_two_connections_of_one_account_take_turns(world: World) -> None:
    for export_id, connection, account in (
        ("one", "main", "ABC123"),
        ("two", "second", "ABC123"),
        ("x", "third", "X"),
    ):
        world.register(export_id, connection=connection)
        document = world.engine.catalog.connection(connection)
        assert document is not None
        check = Check(at=world.now(), ok=True, account_id=account)
        world.engine.catalog.save(document.model_copy(update={"check": check}))
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: len(list(world.engine.store.names("open/"))) == 3)
    other = take(
        world.engine.store,
        lease_name("", "ABC123"),
        "another run",
        clock=world.clock,
        lasts_s=100_000,
    )
    due = world.clock.now + 120
    world.deliver(until=lambda: world.clock.now > due)
    assert [world.run(export_id=each).status.is_open for each in ("one", "two", "x")] == [
        True,
        True,
        False,
    ]
    other.release({})
    world.deliver()
    assert [world.run(export_id=each).status for each in ("one", "two")] == [Status.SUCCESSFUL] * 2


@pytest.mark.parametrize("account", ["", "../x", "a/b", "x" * 41])
def test_what_is_no_account_id_names_no_lease(account: str) -> None:
    assert lease_name("main", account) == "leases/main.json"
