"""What networks, edges and overloaded servers do to a run, through the stand-in's faults."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from exporter.klaviyo.statuses import STATUSES
from exporter.planning.planner import PlanLimits
from exporter.runs.run import Status
from sandbox.klaviyo import FULL_KEY
from sandbox.klaviyo.limits import Tier
from sandbox.klaviyo.settings import ALL_SCOPES
from tests.journeys.world import JOBS, World, assert_ended, people

pytestmark = pytest.mark.usefixtures("small_batches")

GET_LIST = r"GET /api/lists/\w+$"
GET_JOBS = "GET /api/profile-bulk-import-jobs$"
GET_ERRORS = "GET /api/profile-bulk-import-jobs/.*/import-errors"
IMPORTS = "POST /api/profile-bulk-import-jobs"
ROWS = 60
EVERYONE = {email for email, _ in people(ROWS)}


def _export(world: World, rows: int = ROWS) -> None:
    world.register()
    world.drop_people("a.csv", people(rows))
    world.deliver()


def _assert_all_delivered(world: World) -> None:
    assert_ended(world, Status.SUCCESSFUL, delivered=ROWS)
    assert world.emails() == EVERYONE
    assert world.errors == []
    assert world.stats()["throttled"] <= 6


# What passes by itself


PASSING: list[dict[str, Any]] = [
    {"kind": "throttle", "retry_after": 2},
    {"kind": "status", "status": 429},  # without Retry-After
    *({"kind": "status", "status": status} for status in (408, 500, 502, 503, 504, 524, 525, 599)),
    {"kind": "html_403"},
    {"kind": "non_json", "status": 502},
    {"kind": "non_json", "status": 200},
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "truncate"},
]


def _name(rule: dict[str, Any]) -> str:
    return f"{rule['kind']}{rule.get('status', rule.get('retry_after', ''))}"


@pytest.mark.parametrize("rule", PASSING, ids=_name)
def test_a_passing_fault_costs_time_only(world: World, rule: dict[str, Any]) -> None:
    for match, after in ((GET_LIST, 0), (JOBS, 3), (GET_JOBS, 0)):
        world.fault(match=match, after=after, times=2, **rule)
    _export(world)
    _assert_all_delivered(world)
    repeated = rule["kind"] in ("drop_after", "truncate")
    assert world.accepted_rows() == ROWS + (20 if repeated else 0), (
        "only what may have been taken is sent twice"
    )


@pytest.mark.parametrize("rule", [PASSING[0], PASSING[3], PASSING[10]], ids=_name)
def test_a_fault_longer_than_the_retries_of_a_step_is_outlasted_by_the_run(
    world: World, rule: dict[str, Any]
) -> None:
    world.fault(after=2, times=25, **rule)
    _export(world)
    assert_ended(world, Status.SUCCESSFUL, delivered=ROWS)
    assert world.emails() == EVERYONE


def test_an_edge_that_never_opens_fails_the_run_with_advice(world: World) -> None:
    world.fault("html_403", match=".", times=None)
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert "NAT gateway" in run.hint
    assert sum(world.stats()["requests"].values()) < 100


def test_nobody_listening_fails_the_run_with_advice(world: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        world.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert "could not be reached" in run.message
    assert "firewall" in run.hint


def test_a_read_time_out_is_repeated(world: World) -> None:
    """The batch may have been taken: it is sent again, which is harmless."""
    world.client_options["read_s"] = 0.15
    world.fault("latency", seconds=0.5, after=3, times=2)
    _export(world)
    _assert_all_delivered(world)
    assert world.accepted_rows() == ROWS + 20


def test_at_least_ten_batches_wait_for_their_answers_side_by_side(world: World) -> None:
    """So many leave in a second: with fewer, a second of latency would set the pace."""
    world.fault("latency", seconds=1.5, times=None)  # a slow machine needs a part of it
    _export(world, rows=200)
    assert_ended(world, Status.SUCCESSFUL, delivered=200)
    assert world.stats()["max_concurrency"] >= 10


def test_an_answer_without_end_is_given_up(world: World) -> None:
    world.client_options["max_answer_bytes"] = 100
    _export(world)
    assert_ended(world, Status.FAILED)


# What a person must mend


def test_a_key_rotated_in_mid_run_is_read_again_once(world: World) -> None:
    world.settings(keys={"pk_new": sorted(ALL_SCOPES)})
    world.register()
    world.drop_people("a.csv", people(ROWS))
    revoke_after(world, 3)
    world.deliver(engine=world.again(read_secret=rotated_once_taken(world, "pk_new")))
    _assert_all_delivered(world)
    assert len(world.secret_reads) <= 3
    assert world.job_requests(401) <= 12


@pytest.mark.parametrize("status", [401, 400])
def test_the_same_key_refused_in_mid_run_fails_it_and_what_was_taken_is_reported(
    world: World, status: int
) -> None:
    world.settings(refused_key_status=status)
    world.register()
    world.drop_people("a.csv", people(ROWS))
    revoke_after(world, 3)
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "key" in run.message
    assert world.report()["jobs"] == 3
    assert world.job_requests() <= 3 + 12, "a refused key is not used on and on"


def revoke_after(world: World, batches: int, key: str = FULL_KEY) -> None:
    """The key is withdrawn in Klaviyo once so many batches were taken."""
    create = world.klaviyo.account.jobs.accept

    def accept(*args: Any, **options: Any) -> Any:
        job = create(*args, **options)
        if len(world.klaviyo.account.jobs) == batches:
            world.klaviyo.settings.keys.pop(key)
        return job

    world.klaviyo.account.jobs.accept = accept  # type: ignore[method-assign]


def rotated_once_taken(world: World, key: str) -> Callable[[str], SecretStr]:
    """The vault holds another key as soon as Klaviyo has taken a batch."""

    def read(name: str) -> SecretStr:
        if world.accepted_rows():
            world.secrets["klaviyo-key"] = key
        return world.read_secret(name)

    return read


def test_a_key_rotated_to_a_wrong_one_fails_the_run_at_once(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(ROWS))
    revoke_after(world, 3)
    world.deliver(engine=world.again(read_secret=rotated_once_taken(world, "pk_wrong")))
    assert_ended(world, Status.FAILED)
    assert world.job_requests() <= 3 + 24, "a refused key is not used on and on"


def test_a_key_rotated_between_sending_and_confirming_is_read_again(world: World) -> None:
    world.settings(keys={"pk_new": sorted(ALL_SCOPES)})
    world.fault("status", match=GET_JOBS, status=401)
    world.register()
    world.drop_people("a.csv", people(ROWS))
    world.deliver(engine=world.again(read_secret=rotated_once_taken(world, "pk_new")))
    _assert_all_delivered(world)


TERMINAL: list[tuple[dict[str, Any], str]] = [
    ({"kind": "status", "status": 403}, "scope"),
    ({"kind": "status", "status": 410}, "klaviyo_revision"),
    ({"kind": "status", "status": 409}, ""),
    ({"kind": "non_json", "status": 404}, "klaviyo_base_url"),
    ({"kind": "non_json", "status": 302}, "klaviyo_base_url"),
]


@pytest.mark.parametrize(
    ("rule", "advice"), TERMINAL, ids=lambda case: _name(case) if isinstance(case, dict) else ""
)
def test_what_no_repetition_changes_ends_the_run_with_advice(
    world: World, rule: dict[str, Any], advice: str
) -> None:
    _assert_ended_with_advice(world, JOBS, rule, advice)


@pytest.mark.parametrize("match", [GET_LIST, GET_JOBS], ids=["find", "poll"])
@pytest.mark.parametrize(("rule", "advice"), TERMINAL[:2], ids=["403", "410"])
def test_it_does_so_in_every_phase(
    world: World, match: str, rule: dict[str, Any], advice: str
) -> None:
    _assert_ended_with_advice(world, match, rule, advice)


def _assert_ended_with_advice(world: World, match: str, rule: dict[str, Any], advice: str) -> None:
    world.fault(match=match, after=3 if match == JOBS else 0, times=None, **rule)
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert advice in run.hint.lower()
    assert sum(world.stats()["requests"].values()) < 40
    jobs = None if match == GET_LIST else world.accepted_rows() // 10  # none: it was not read yet
    assert world.report()["jobs"] == jobs


def test_a_list_that_is_deleted_in_mid_run_ends_it(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(ROWS))
    create = world.klaviyo.account.jobs.accept

    def accept(*args: Any, **options: Any) -> Any:
        job = create(*args, **options)
        if len(world.klaviyo.account.jobs) == 3:
            world.klaviyo.call("DELETE", "/api/lists/LIST01")
        return job

    world.klaviyo.account.jobs.accept = accept  # type: ignore[method-assign]
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "list" in run.message
    assert world.report()["jobs"] == 3


# Every status that Klaviyo documents


EVERY_STATUS = sorted({*STATUSES, 402, 422, 501, 520, 530})


@pytest.mark.parametrize("status", EVERY_STATUS)
def test_every_status_for_ever_ends_the_run_with_advice_and_within_reason(
    world: World, status: int
) -> None:
    world.restart(setbacks=1)
    world.fault("status", status=status, times=None)
    _export(world, rows=10)
    assert_ended(world, Status.FAILED)
    assert sum(world.stats()["requests"].values()) < 8 * 3
    assert world.errors == []


# Rate limits


@pytest.mark.parametrize("headers", ["minute", "windows"])
def test_klaviyos_limits_are_kept_without_a_429(world: World, headers: str) -> None:
    """310 batches: two steady windows and the beginning of a third."""
    world.restart(plan=PlanLimits(batch_profiles=2))
    world.settings(limits=True, rate_headers=headers)
    world.register()
    began = world.clock.now
    world.drop_people("a.csv", people(620))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=620)
    assert world.stats()["throttled"] == 0
    assert max(world.stats()["job_posts_per_second"].values()) <= 10
    assert world.run().sent_at is not None
    sending_s = world.run().sent_at.timestamp() - began - world.limits.settle_s  # type: ignore[union-attr]
    assert 120 <= sending_s <= 135, "150 at once, 150 more in each following minute"


def test_windows_used_by_one_instance_are_known_to_the_next(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=2))
    world.settings(limits=True)
    world.restart(step_s=3)
    world.register()
    world.drop_people("a.csv", people(310))
    while (message := world.next_message()) is not None:
        world.hand_over(message, world.again(work=f"work-{world.handled}"))
    assert_ended(world, Status.SUCCESSFUL, delivered=310)
    assert world.stats()["throttled"] == 0


def test_a_throttle_for_ever_is_asked_by_one_batch_at_a_time(world: World) -> None:
    world.fault("throttle", times=None)
    _export(world, rows=140)
    assert_ended(world, Status.FAILED)
    assert world.job_requests() <= 14 + 13 * 8


def test_a_burst_of_another_tool_costs_a_handful_of_429s(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=2))
    world.settings(limits=True)
    create = world.klaviyo.account.jobs.accept

    def accept(*args: Any, **options: Any) -> Any:
        job = create(*args, **options)
        if len(world.klaviyo.account.jobs) == 38:
            for _ in range(20):
                world.klaviyo.limits.take(
                    (("POST /api/profile-bulk-import-jobs", Tier.M),),
                    now=world.clock.now,
                    l_steady=750,
                )
        return job

    world.klaviyo.account.jobs.accept = accept  # type: ignore[method-assign]
    world.register()
    world.drop_people("a.csv", people(140))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=140)
    assert 1 <= world.stats()["throttled"] <= 5
