"""What goes with time, and what stays."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest

from exporter.orchestration.cleanup import Cleanup
from exporter.orchestration.due_schedules import Timetables
from exporter.runs import retention
from exporter.runs.run import Run, Status
from tests.journeys.counting import Counting
from tests.journeys.killing import Killed, Killer, mortal
from tests.journeys.world import World, as_csv, assert_ended, people

DAY = 86_400
REPORTS = {"run.json", "report.json", "journal.jsonl"}
LISTS = {"rejected.csv", "duplicates.csv"}


def _ran(world: World, name: str, *, ends: bool = True) -> Run:
    """A run of one more snapshot, with a rejected row and a duplicate."""
    rows = [*people(3), ("no address", "Nobody"), people(1)[0]]
    before = {run.run_id for run in world.runs()}
    world.drop_people(name, rows)
    world.deliver(until=lambda: not ends and {run.run_id for run in world.runs()} > before)
    [run] = [run for run in world.runs() if run.run_id not in before]
    if ends:
        assert_ended(world, Status.WARNINGS, run=run)
    return run


def _kept(world: World, run: Run) -> set[str]:
    return {name.removeprefix(run.folder) for name in world.engine.store.names(run.folder)}


def _days_pass(world: World, days: float) -> None:
    world.clock.move(days * DAY)
    world.engine.timer.tick()


def _keep(world: World, **days: int) -> None:
    world.restart(**days)


@pytest.fixture
def kept(world: World) -> World:
    """Runs are kept for 90 days, lists of rows for 10."""
    _keep(world, runs_kept_days=90, rejected_kept_days=10, no_snapshot_days=0)
    world.register()
    return world


def test_lists_of_rows_go_first_and_the_report_stays(kept: World) -> None:
    run = _ran(kept, "a.csv")
    assert _kept(kept, run) == REPORTS | LISTS
    _days_pass(kept, 9)
    assert _kept(kept, run) == REPORTS | LISTS
    _days_pass(kept, 1.1)
    assert _kept(kept, run) == REPORTS
    assert kept.report(run)["rejected"] == 1


def test_runs_go_but_for_the_newest_of_an_export(kept: World) -> None:
    first, second, third = (_ran(kept, name) for name in ("a.csv", "b.csv", "c.csv"))
    kept.clock.move(DAY)
    fourth = _ran(kept, "d.csv")
    _days_pass(kept, 88)
    assert _kept(kept, first) == REPORTS
    _days_pass(kept, 1.5)
    assert [_kept(kept, run) for run in (first, second, third)] == [set(), set(), set()]
    assert _kept(kept, fourth) == REPORTS
    _days_pass(kept, 400)
    assert _kept(kept, fourth) == REPORTS, "the newest stays"


def test_of_many_attempts_at_one_snapshot_the_last_one_stays(kept: World) -> None:
    """Names do not tell: -10 sorts before -2."""
    _ran(kept, "a.csv")
    export = kept.engine.catalog.export("vips")
    assert export is not None
    kept.clock.move(3_600)
    for _ in range(11):
        last = kept.engine.starter.start(export)
        kept.deliver()
        kept.clock.move(60)
    assert last.run_id.endswith("-12")
    _days_pass(kept, 91)
    assert [run.run_id for run in kept.runs()][-1] == last.run_id
    assert len(kept.runs()) <= 2


def test_a_run_of_an_old_snapshot_is_as_old_as_itself(kept: World) -> None:
    """The folder is named by the snapshot; a person ran it again much later."""
    _ran(kept, "a.csv")
    export = kept.engine.catalog.export("vips")
    assert export is not None
    kept.clock.move(200 * DAY)
    again = kept.engine.starter.start(export)
    kept.deliver()
    _ran(kept, "b.csv")
    _days_pass(kept, 9)
    assert _kept(kept, again) == REPORTS | LISTS
    _days_pass(kept, 80)
    assert _kept(kept, again) == REPORTS


def test_an_open_run_is_left_alone_however_old(kept: World) -> None:
    run = _ran(kept, "a.csv", ends=False)
    kept.queue.take()
    closed = _ran(kept, "b.csv")
    names = _kept(kept, run)
    at_once = timedelta(0)
    retention.clear_out(
        kept.engine.store,
        "vips",
        now=kept.now(),
        runs_kept=at_once,
        rejected_kept=at_once,
        most=100,
        read_run=kept.engine.runs.run,
    )
    assert _kept(kept, run) == names
    assert _kept(kept, closed) == REPORTS


def test_runs_of_an_export_that_was_removed_go_as_well(kept: World) -> None:
    runs = [_ran(kept, name) for name in ("a.csv", "b.csv")]
    kept.engine.store.delete("exports/vips.json")
    _days_pass(kept, 91)
    assert [_kept(kept, run) for run in runs] == [set(), REPORTS]


def test_the_notice_of_a_run_goes_with_it(world: World) -> None:
    _keep(world, runs_kept_days=90, no_snapshot_days=0)
    world.engine = world.again(notify=lambda notice: None)
    world.register(mapping={"email": "NoSuchColumn"})
    for name in ("a.csv", "b.csv"):
        world.drop_people(name, people(3))
        world.deliver()
        _days_pass(world, 1)
    first, second = [run.run_id.split("/")[1] for run in world.runs()]
    assert world.engine.notices.abouts("vips") == [first, second]
    _days_pass(world, 91)
    assert world.engine.notices.abouts("vips") == [second]


def test_skipped_runs_go_too(kept: World) -> None:
    export = kept.engine.catalog.export("vips")
    assert export is not None
    _ran(kept, "a.csv")
    for _ in range(3):
        kept.engine.starter.record_skipped(export, kept.now(), message="nothing new")
        kept.clock.move(60)
    _days_pass(kept, 91)
    kinds = [run.status for run in kept.runs()]
    assert kinds == [Status.WARNINGS, Status.SKIPPED], "the newest, and the newest that was no skip"


def test_what_one_tick_does_is_bounded_and_the_next_ones_go_on(
    kept: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PORTION", 6)
    kept.register("another", segments=["Another"])
    for number in range(4):
        kept.clock.move(60)
        _ran(kept, f"{number}.csv")
    kept.drop("segments/Another/a.csv", "EMail,FirstName\nx@example.com,X\nnobody,Y\n")
    kept.deliver()
    kept.clock.move(91 * DAY)
    left = []
    for _ in range(8):
        kept.engine.timer.tick()
        kept.clock.move(300)
        left.append(len(list(kept.engine.store.names("runs/"))))
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1], "not all at once"
    assert [_kept(kept, run) for run in kept.runs()] == [REPORTS]
    assert [_kept(kept, run) for run in kept.runs("another")] == [REPORTS]


def test_once_the_days_round_is_done_the_next_ticks_read_that_and_nothing_more(kept: World) -> None:
    _ran(kept, "a.csv")
    kept.engine.timer.tick()
    counting = Counting(kept.engine.store)
    engine = kept.again(store=counting)
    counting.calls.clear()
    limits = engine.limits
    cleanup = Cleanup(
        counting,  # type: ignore[arg-type]
        engine.catalog,
        engine.container,
        engine.runs,
        engine.notices,
        Timetables(counting),  # type: ignore[arg-type]
        runs_kept_days=limits.runs_kept_days,
        rejected_kept_days=limits.rejected_kept_days,
        no_snapshot_days=limits.no_snapshot_days,
    )
    cleanup.do_round(kept.now())
    assert counting.calls == ["read"]


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_whatever_dies_on_the_way_the_rest_goes_later_and_nothing_unknown_is_left(
    kept: World, dies_at: int
) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        kept.clock.move(60)
        newest = _ran(kept, name)
    kept.clock.move(91 * DAY)
    with contextlib.suppress(Killed):
        mortal(kept, Killer(dies_at)).timer.tick()
    for run in {name.split("/")[2] for name in kept.engine.store.names("runs/")}:
        assert kept.engine.runs.run(f"vips/{run}"), (
            "a name with a journal is taken: no other run goes on with it"
        )
    kept.clock.move(300)
    kept.engine.timer.tick()
    assert {name.split("/")[2] for name in kept.engine.store.names("runs/")} == {
        newest.run_id.split("/")[1]
    }
    assert _kept(kept, newest) == REPORTS


def test_an_old_snapshot_that_is_noted_again_after_its_run_went_brings_no_old_values_back(
    kept: World,
) -> None:
    def arrives(minutes: int) -> str:
        moment = kept.now() + timedelta(minutes=minutes)
        name = kept.put(
            f"CI/Feed/HighValue/{moment:%Y/%m/%d/%H%M}/HighValue_1.csv", as_csv(people(3))
        )
        kept.engine.arrivals.on_blob_arrived(name)
        kept.deliver()
        return name

    old = arrives(-60)
    newer_run = (arrives(0), kept.runs()[-1])[1]
    _days_pass(kept, 91)
    assert kept.runs() == [newer_run]
    kept.engine.arrivals.on_blob_arrived(old)
    kept.deliver()
    assert_ended(kept, Status.SKIPPED, run=kept.runs()[-1])
