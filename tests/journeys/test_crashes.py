"""An instance dies at every possible moment of a run; the next one ends it right."""

from __future__ import annotations

import functools
import queue
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from exporter.orchestration.engine import Engine
from exporter.orchestration.timer import STALE_AFTER
from exporter.planning.planner import PlanLimits
from exporter.runs.run import Status
from tests.journeys.killing import Killed, Killer, mortal, unrecorded_rows
from tests.journeys.world import FOLDER, World, as_csv, assert_ended, people

PLANTED = {
    1: "sync+sync-fail@example.com",  # refused when its batch is sent: a repair
    6: "async+async-fail@example.com",  # taken, and could not be imported
    9: "nobody",  # rejected by us
    11: "p10@example.com",  # the same person twice
}
NAME = FOLDER + "a.csv"
EVERYONE = {email for email, _ in people(14, planted=PLANTED)} - {
    PLANTED[1],
    PLANTED[6],
    PLANTED[9],
}
MOST_EFFECTS = 45  # a run has a few less; the first test sees to that


@pytest.fixture(autouse=True)
def _three_batches(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=4))


def set_up(world: World) -> None:
    world.restart(lease_s=60)
    world.register()
    world.put(NAME, as_csv(people(14, planted=PLANTED)))


def assert_right(world: World) -> None:
    assert_ended(world, Status.WARNINGS, delivered=10)
    report = world.report()
    assert (report["rows"], report["duplicates"], report["jobs"]) == (14, 1, 3)
    assert report["rejected_by_reason"] == {
        "email_malformed": 1,
        "refused_by_klaviyo": 1,
        "failed_in_klaviyo": 1,
    }
    rejected = {row["identifier"]: row["line"] for row in world.rows_of("rejected.csv")}
    assert rejected == {PLANTED[1]: "3", PLANTED[6]: "8", PLANTED[9]: "11"}
    assert [row["line"] for row in world.rows_of("duplicates.csv")] == ["12"]
    assert world.emails() == EVERYONE
    assert (world.errors, world.poisoned) == ([], [])


def run_with_deaths(world: World, deaths: Iterable[Killer], *, work_survives: bool = True) -> None:
    """Deliver everything.

    Where an instance dies, the next one gets its message again and goes on.
    """
    set_up(world)
    killers = iter([*deaths, Killer()])
    engine = mortal(world, next(killers))
    number, unrecorded, twice = 0, 0, 0
    todo: Callable[[Engine], None] | None = note
    for _ in range(60):
        if todo is None:
            break
        try:
            todo(engine)
        except Killed:
            number += 1
            twice += unrecorded_rows(world) - unrecorded
            unrecorded = unrecorded_rows(world)
            engine = mortal(
                world, next(killers), work="work" if work_survives else f"machine-{number}"
            )
            todo = todo if todo is note else functools.partial(todo, redelivered=True)
        else:
            message = world.next_message()
            todo = None if message is None else functools.partial(handle, message)
    assert_right(world)
    assert world.accepted_rows() - world.run().counts.accepted == twice, (
        "only what was not recorded is sent twice"
    )


def note(engine: Engine) -> None:
    engine.arrivals.on_blob_arrived(NAME)


def handle(message: Mapping[str, Any], engine: Engine, *, redelivered: bool = False) -> None:
    engine.dispatcher.handle(message, redelivered=redelivered)


def test_what_a_run_does_without_a_death(world: World) -> None:
    killer = Killer()
    run_with_deaths(world, [killer])
    assert world.accepted_rows() == 11
    assert 30 <= len(killer.names) < MOST_EFFECTS, killer.names


@pytest.mark.parametrize("at", range(1, MOST_EFFECTS))
def test_death_after_any_effect_costs_only_what_was_not_recorded(world: World, at: int) -> None:
    """Every second time the next instance is on another machine, without the plan on its disk."""
    run_with_deaths(world, [Killer(at)], work_survives=at % 2 == 0)


@pytest.mark.parametrize("seed", range(4))
def test_deaths_that_follow_each_other(world: World, seed: int) -> None:
    """Fewer than the five that make a message poison."""
    dice = random.Random(seed)
    deaths = [Killer(dice.randrange(1, 12), dice.choice(["before", "after"])) for _ in range(4)]
    run_with_deaths(world, deaths, work_survives=dice.random() < 0.5)


@pytest.mark.parametrize("at", range(3, MOST_EFFECTS, 3))
def test_an_instance_that_freezes_and_wakes_after_another_ended_the_run_changes_nothing(
    world: World, at: int
) -> None:
    """Its lease has run out by then: the journal and the run's ETag keep it from writing."""
    current: list[Mapping[str, Any]] = []

    def take_over() -> None:
        world.clock.move(61)
        other = world.again(work="work" if at % 2 else "another-machine")
        if current:
            other.dispatcher.handle(current[0], redelivered=True)
        world.deliver(engine=other, most=60)

    killer = Killer(at, meanwhile=take_over)
    set_up(world)
    engine = mortal(world, killer)
    engine.arrivals.on_blob_arrived(NAME)
    while (message := world.next_message()) is not None:
        current[:] = [message]
        world.hand_over(message, engine)
        assert world.handled < 60
    assert_right(world)
    assert world.accepted_rows() <= 2 * 11, "what was on its way is sent twice, nothing more often"


@pytest.mark.parametrize("seed", range(3))
def test_two_instances_that_get_every_message_twice_make_one_run(world: World, seed: int) -> None:
    """In two threads, while the clock jumps over the end of leases."""
    set_up(world)
    dice = random.Random(seed)
    inbox: queue.Queue[tuple[Mapping[str, Any], bool]] = queue.Queue()
    instances = [world.again(work=f"machine-{number}") for number in range(2)]
    instances[0].arrivals.on_blob_arrived(NAME)
    instances[1].arrivals.on_blob_arrived(NAME)
    failures: list[BaseException] = []

    def work(engine: Engine) -> None:
        while not failures:
            try:
                message, redelivered = inbox.get(timeout=0.05)
            except queue.Empty:
                if done.is_set():
                    return
                continue
            try:
                engine.dispatcher.handle(message, redelivered=redelivered)
            except Exception as exc:  # noqa: BLE001 - the host would deliver it again
                failures.append(exc)
            finally:
                inbox.task_done()

    done = threading.Event()
    threads = [threading.Thread(target=work, args=(engine,)) for engine in instances]
    for thread in threads:
        thread.start()
    for _ in range(200):
        message = world.next_message()
        if message is None:
            inbox.join()
            if (message := world.next_message()) is None:
                break
        inbox.put((message, False))
        inbox.put((message, dice.random() < 0.5))
        if dice.random() < 0.3:
            world.clock.move(dice.choice([1, 61]))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    world.deliver(most=60)
    assert_right(world)


@pytest.mark.parametrize("effects", [1, 2])
def test_a_run_whose_creator_died_is_looked_after_though_a_newer_one_was_made(
    world: World, effects: int
) -> None:
    """Another partition came before the message came again, which then starts a run of both."""
    set_up(world)
    killer = Killer()
    engine = mortal(world, killer)
    engine.arrivals.on_blob_arrived(NAME)
    killer.at = len(killer.names) + effects  # its entry, then its document
    message = world.next_message()
    assert message is not None
    with pytest.raises(Killed):
        engine.dispatcher.handle(message)
    assert killer.names[-effects:] == ["store.create"] * effects
    world.put(FOLDER + "b.csv", as_csv(people(3, first=50)))
    world.clock.move(300)
    world.engine.dispatcher.handle(message, redelivered=True)
    world.deliver()
    assert len(world.runs()) == effects
    for wait_s in (STALE_AFTER.total_seconds() + 1, 3_600):
        world.clock.move(wait_s)
        world.engine.timer.tick()
        world.deliver()
    assert not any(run.status.is_open for run in world.runs())
    assert list(world.engine.store.names("open/")) == []
