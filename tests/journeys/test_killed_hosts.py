"""Real processes, killed with SIGKILL: whatever is left behind, the next host ends the run right.

A handful of kills; scripts/chaos.py makes hundreds of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from exporter.klaviyo.rate_limit import IN_FLIGHT
from sandbox.azurite import Azurite
from tests.forking import forked_stand_ins
from tests.journeys.rig import Rig, rig
from tests.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.azurite]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite) -> Iterator[Rig]:
    """`azurite` only skips where it is not installed; this one has its own, on disk."""
    with forked_stand_ins(), rig(tmp_path_factory.mktemp("crash")) as it:
        yield it


def test_a_host_killed_at_random_points_of_a_run_leaves_the_right_list(world: Rig) -> None:
    dice = random.Random(1)
    case = world.case(1, rows=40_000)
    jobs_before, hit = world.jobs(), 0
    for number, at_s in enumerate(
        (dice.uniform(0.2, 1.2), dice.uniform(0.5, 1.5), dice.uniform(1.5, 2.5))
    ):
        with world.host(f"killed-{number % 2}") as host:
            if number == 0:
                case.drop()
                wait_until(case.run, "the run")
            time.sleep(at_s)
            host.kill()
            run = case.run()
            hit += run is not None and run.status.is_open
    with world.host("killed-0"):
        case.wait()
    case.check()
    assert hit, "a host was killed while the run was open"
    assert world.jobs() - jobs_before - len(case.accepted_at()) <= hit * IN_FLIGHT, (
        "only the unrecorded are sent twice"
    )
    assert world.addresses_in_logs() == []


def test_two_hosts_on_one_storage(world: Rig) -> None:
    """Two connections go side by side; two exports of one connection take turns."""
    apart = [world.case(2, rows=16_000), world.case(3, rows=16_000)]
    together = [world.case(number, rows=8_000, connection="shared") for number in (4, 5)]
    with world.host("left") as left, world.host("right") as right:
        for case in apart:
            case.drop()
        wait_until(lambda: all(case.run() for case in apart), "runs of both")
        # Which host takes a message is chance. While the other stands still it is this one, which
        # then has to go on with what the other holds; and the other wakes up to a run that went on
        # without it.
        for busy, slow in ((left, right), (right, left)):
            before = busy.phases_done()
            with slow.paused():
                wait_until(
                    lambda busy=busy, before=before: busy.phases_done() > before,
                    "a phase of this host",
                )
        for case in apart:
            case.wait()
    # Taking turns holds as long as leases are kept alive, which a busy machine may not manage
    # within two seconds.
    with world.host("left", TEST_LEASE_SECONDS="60"), world.host("right", TEST_LEASE_SECONDS="60"):
        for case in together:
            case.drop()
        for case in together:
            case.wait()
    for case in [*apart, *together]:
        case.check()
    runs = [case.wait() for case in apart]
    starts, ends = [run.started_at for run in runs], [run.finished_at for run in runs]
    assert max(each for each in starts if each) < min(each for each in ends if each), "side by side"
    first, second = sorted(case.accepted_at() for case in together)
    assert first[-1] <= second[0], "runs of one Klaviyo account take turns"
    assert world.addresses_in_logs() == []


def test_a_snapshot_whose_every_event_is_lost_is_delivered_all_the_same(world: Rig) -> None:
    case = world.case(6, rows=4_000)
    store = world.stage.store
    with world.host("deaf", "--lose-events", "1", PATIENCE_SECONDS="1") as host:
        store.delete("arrivals.json")
        host.tick()
        wait_until(
            lambda: store.read(f"schedules/{case.export_id}.json") is not None,
            "the schedule's note",
        )
        case.drop()
        time.sleep(3)  # longer than PATIENCE_SECONDS
        assert case.run() is None
        wait_until(lambda: store.read("arrivals.json") is not None, "the look at all arrivals")
        store.delete("arrivals.json")  # an hour later
        host.tick()
        case.wait()
    case.check()
