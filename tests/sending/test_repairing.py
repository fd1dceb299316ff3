"""Klaviyo refuses a batch for single rows: these are rejected, all others are delivered."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from exporter.planning.planner import PlanLimits
from exporter.runs.run import Status
from exporter.sending.limits import SendLimits
from sandbox.klaviyo.messages import Refused, error
from tests.journeys.world import JOBS, World, assert_ended, people

ROWS = 300
IMPORTS = "POST /api/profile-bulk-import-jobs"
BAD = {
    7: "one+sync-fail@example.com",
    8: "two+sync-fail@example.com",
    155: "three+sync-fail@example.com",
}


@pytest.fixture(autouse=True)
def _batches_of_fifty(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=50))


def _refuses_with(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(
        "sandbox.klaviyo.checks.Finding.refusal",
        lambda self: error(400, "invalid", "Invalid input.", words, pointer=self.pointer),
    )


def _assert_exactly_rejected(
    world: World, bad: dict[int, str], rows: int = ROWS, *, fine: dict[int, str] | None = None
) -> None:
    assert_ended(world, Status.WARNINGS, delivered=rows - len(bad))
    assert world.rejected_emails() == sorted(bad.values())
    everybody = {email for email, _ in people(rows, planted=bad | (fine or {}))}
    assert world.emails() == everybody - set(bad.values())
    rejected = world.rows_of("rejected.csv")
    assert {row["reason"] for row in rejected} == {"refused_by_klaviyo"}
    assert [int(row["line"]) for row in rejected] == [number + 2 for number in sorted(bad)]


@pytest.mark.parametrize("named", ["all", "first", "none"])
def test_exactly_the_bad_rows_are_rejected(world: World, named: str) -> None:
    world.settings(bad_rows=named)
    world.register()
    world.drop_people("a.csv", people(ROWS, planted=BAD))
    world.deliver()
    _assert_exactly_rejected(world, BAD)
    assert world.accepted_rows() == ROWS - len(BAD), "nothing is sent twice"
    assert world.job_requests(400) <= {"all": 2, "first": 3, "none": 45}[named]


@pytest.mark.parametrize("named", ["all", "first", "none"])
@pytest.mark.parametrize("seed", [0])
def test_bad_rows_anywhere_are_found(world: World, named: str, seed: int) -> None:
    places = random.Random(seed).sample(range(ROWS), 8)
    bad = {place: f"bad{place}+sync-fail@example.com" for place in places}
    world.settings(bad_rows=named)
    world.register()
    world.drop_people("a.csv", people(ROWS, planted=bad))
    world.deliver()
    _assert_exactly_rejected(world, bad)


def test_ten_bad_rows_among_nine_thousand(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=3_000))
    bad = {place: f"bad{place}+sync-fail@example.com" for place in range(0, 9_000, 901)}
    world.settings(bad_rows="none", limits=True)
    world.register()
    world.drop_people("a.csv", people(9_000, planted=bad))
    world.deliver()
    _assert_exactly_rejected(world, bad, 9_000)
    assert world.job_requests() < 10 * 28 + 10
    assert world.stats()["throttled"] <= 5


@pytest.mark.parametrize("named", ["all", "first", "none"])
def test_a_batch_of_nothing_but_bad_rows(world: World, named: str) -> None:
    bad = {place: f"bad{place}+sync-fail@example.com" for place in range(50)}
    world.settings(bad_rows=named)
    world.register()
    world.drop_people("a.csv", people(60, planted=bad))
    world.deliver()
    _assert_exactly_rejected(world, bad, 60)


def _refuse_once(world: World, *errors: dict[str, Any]) -> None:
    """The first import is refused with these errors, whatever it holds."""
    create = world.klaviyo.account.jobs.accept
    refused = []

    def accept(batch: Any, **options: Any) -> Any:
        if not refused:
            refused.append(batch)
            raise Refused(400, list(errors))
        return create(batch, **options)

    world.patch.setattr(world.klaviyo.account.jobs, "accept", accept)


def test_klaviyos_words_are_kept_but_for_what_they_quote_of_a_person(world: World) -> None:
    detail = "p3@example.com (+40 721 000 111) is not deliverable\x00\x1b[31m"
    pointer = "/data/attributes/profiles/data/3/attributes/email"
    _refuse_once(world, error(400, "invalid", "Invalid input.", detail, pointer=pointer))
    world.register()
    world.drop_people("a.csv", people(20))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=19)
    [row] = world.rows_of("rejected.csv")
    assert row["message"].endswith("email: [address] (+[number]) is not deliverable[31m")
    assert row["identifier"] == "p3@example.com"
    for name, text in world.text_of_state():
        assert "@example.com" not in text, name


def test_rows_that_klaviyo_names_by_a_number_it_was_never_sent_are_not_believed(
    world: World,
) -> None:
    pointers = (
        "/data/attributes/profiles/data/20/attributes/email",
        "/data/attributes/profiles/data/x",
    )
    _refuse_once(
        world, *(error(400, "invalid", "Invalid input.", "bad", pointer=each) for each in pointers)
    )
    world.register()
    world.drop_people("a.csv", people(20))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=20)


def test_refusals_tell_how_much_of_the_minute_others_have_left(world: World) -> None:
    """Another tool used most of the account's minute, and only refusals say so."""
    world.restart(plan=PlanLimits(batch_profiles=1_000))
    world.settings(bad_rows="none", limits=True)
    bad = {place: f"bad{place}+sync-fail@example.com" for place in range(64)}
    limits, of_others = world.klaviyo.limits, [140]
    take = limits.take

    def beside_others(wanted: Any, **options: Any) -> Any:
        headers = take(wanted, **options)
        if wanted[0][0] == IMPORTS and of_others:
            limits._counter(*wanted[0], 750, None).steady.used += of_others.pop()
        return headers

    world.patch.setattr(limits, "take", beside_others)
    world.register()
    world.drop_people("a.csv", people(100, planted=bad))
    world.deliver()
    _assert_exactly_rejected(world, bad, 100)
    assert world.stats()["throttled"] == 0


def test_a_batch_over_the_size_limit_is_split(world: World) -> None:
    world.settings(max_body_bytes=2_000)
    world.register()
    world.drop_people("a.csv", people(ROWS))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=ROWS)
    assert world.job_requests(413) > 0
    assert world.accepted_rows() == ROWS


def test_a_profile_that_alone_is_over_the_size_limit_is_rejected(world: World) -> None:
    world.settings(max_body_bytes=1_500)
    world.register()
    rows = [*people(30), ("long@example.com", "x" * 1_400)]
    world.drop_people("a.csv", rows)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=30)
    [row] = world.rows_of("rejected.csv")
    assert row["identifier"] == "long@example.com"
    assert "size limit" in row["message"]


def test_a_row_found_by_halving_keeps_klaviyos_words(world: World) -> None:
    world.settings(bad_rows="none")
    world.register()
    world.drop_people("a.csv", people(ROWS, planted=BAD))
    world.deliver()
    _assert_exactly_rejected(world, BAD)
    assert all(
        row["message"].endswith("One or more profiles are invalid.")
        for row in world.rows_of("rejected.csv")
    )


def test_a_run_that_gives_up_names_the_attribute_and_nothing_that_klaviyo_quotes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.restart(send=SendLimits(repairs=1))
    _refuses_with(monkeypatch, "'Ada Lovelace' is no name")
    world.settings(bad_rows="first")
    world.register()
    world.drop_people("a.csv", [(f"p{n}+sync-fail@example.com", "x") for n in range(ROWS)])
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "most often for email" in run.message
    assert "Ada" not in run.message + run.hint


def test_a_limit_on_size_that_nothing_is_below_is_no_matter_of_rows(world: World) -> None:
    world.restart(send=SendLimits(splits=0))
    world.fault("status", match=JOBS, status=413, times=None)
    world.register()
    world.drop_people("a.csv", people(ROWS))
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "size" in run.message
    assert "proxy" in run.hint
    assert world.job_requests() <= 6 * 20 + 15


def test_rows_that_are_refused_without_end_end_the_run(world: World) -> None:
    world.restart(send=SendLimits(most_refused=100, in_flight=1))
    world.register()
    world.drop_people("a.csv", [(f"p{n}+sync-fail@example.com", "x") for n in range(ROWS)])
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "150 were found by 3 refusals" in run.message


def _one_good_batch_and_then_bad_rows() -> list[tuple[str, str]]:
    """With a batch accepted, it is rows that Klaviyo refuses, not the account."""
    return people(ROWS, planted={n: f"p{n}+sync-fail@example.com" for n in range(50, ROWS)})


def test_a_refusal_of_nearly_everything_without_a_name_ends_within_its_budget(world: World) -> None:
    """As when Klaviyo starts to refuse a field: halving 300 rows one by one would never end."""
    world.restart(send=SendLimits(repairs=40))
    world.settings(bad_rows="none")
    world.register()
    world.drop_people("a.csv", _one_good_batch_and_then_bad_rows())
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "refuses too many rows" in run.message
    assert "column" in run.hint
    assert world.job_requests() < 40 + 6 + 20
    assert world.report()["rejected"] == len(world.rows_of("rejected.csv"))


def test_the_budget_of_repairs_is_the_runs_however_many_steps_it_takes(world: World) -> None:
    """Under Klaviyo's limits a step ends long before it has spent the budget."""
    world.settings(bad_rows="none", limits=True)
    world.restart(step_s=3, send=SendLimits(repairs=100))
    world.register()
    world.drop_people("a.csv", _one_good_batch_and_then_bad_rows())
    world.deliver(most=2_000)
    assert_ended(world, Status.FAILED)
    assert world.run().step > 2
    assert world.job_requests(400) <= 100 + 6 + 14
    said = re.search(r"(\d+) were found", world.run().message)
    assert said, world.run().message
    assert 0 < int(said[1]) <= world.report()["rejected"], "requests under way may find some more"


def test_a_bad_row_in_every_batch_is_no_reason_to_give_up(world: World) -> None:
    world.restart(send=SendLimits(repairs=1))
    bad = {place: f"bad{place}+sync-fail@example.com" for place in range(10, ROWS, 50)}
    world.register()
    world.drop_people("a.csv", people(ROWS, planted=bad))
    world.deliver()
    _assert_exactly_rejected(world, bad)


def test_thousands_of_refused_rows_with_long_words_fit_the_journal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One append of a blob takes 4 MiB; so many rows with Klaviyo's words in full would be more."""
    world.restart(plan=PlanLimits(batch_profiles=10_000))
    _refuses_with(monkeypatch, "Ungültig, 不正な値 " * 40)
    world.register()
    addresses = (
        f"p{n}+sync-fail@example.com" if n % 100 else f"p{n}@example.com" for n in range(10_000)
    )
    world.drop_people("a.csv", [(address, "x") for address in addresses])
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=100)
    assert world.errors == []


def test_a_repair_that_is_cut_off_by_the_end_of_a_step_goes_on_in_the_next(world: World) -> None:
    bad = {place: f"bad{place}+sync-fail@example.com" for place in range(3, 60, 9)}
    world.settings(bad_rows="none", limits=True)
    world.restart(step_s=2, send=SendLimits(in_flight=1))
    world.register()
    world.drop_people("a.csv", people(60, planted=bad))
    world.deliver(most=2_000)
    _assert_exactly_rejected(world, bad, 60)
    assert world.run().step >= 3


@pytest.mark.usefixtures("small_batches")
def test_a_throttled_repair_is_complete(world: World) -> None:
    world.settings(bad_rows="none")
    world.fault("throttle", match=JOBS, after=5, times=3)
    world.register()
    world.drop_people("a.csv", people(ROWS, planted=BAD))
    world.deliver()
    _assert_exactly_rejected(world, BAD)


@pytest.mark.parametrize("named", ["all", "first"])
def test_klaviyos_pointers_are_understood_wherever_a_batch_begins(world: World, named: str) -> None:
    """DuckDB works on 2,048 rows at a time; a nearly empty chunk may come out after the next."""
    world.restart(plan=PlanLimits(batch_profiles=2_000))
    bad = {place: f"bad{place}+sync-fail@example.com" for place in (2_010, 2_500, 3_990)}
    failing = {place: f"bad{place}+async-fail@example.com" for place in (2_020, 3_000)}
    world.settings(bad_rows=named)
    world.register()
    world.drop_people(
        "a.csv", [*people(4_100, planted=bad | failing), ("p3500@example.com", "Twice")]
    )
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=4_100 - 5)
    assert world.rejected_emails() == sorted([*bad.values(), *failing.values()])
    assert {row["identifier"]: int(row["line"]) for row in world.rows_of("rejected.csv")} == {
        email: place + 2 for place, email in (bad | failing).items()
    }


@pytest.mark.parametrize("named", ["first", "none"])
def test_doubtful_addresses_that_klaviyo_refuses_are_found_and_the_others_delivered(
    world: World, named: str
) -> None:
    bad = {number: f"o'bad{number}+sync-fail@example.com" for number in range(51, ROWS, 9)}
    fine = {number: f"o'fine{number}@example.com" for number in range(52, ROWS, 9)}
    world.settings(bad_rows=named)
    world.register()
    world.drop_people("a.csv", people(ROWS, planted=bad | fine))
    world.deliver()
    _assert_exactly_rejected(world, bad, fine=fine)


def test_doubtful_rows_that_are_refused_without_end_do_not_end_the_run(world: World) -> None:
    bad = {number: f"o'bad{number}+sync-fail@example.com" for number in range(250, ROWS)}
    world.restart(send=SendLimits(repairs=5))
    world.settings(bad_rows="none")
    world.register()
    world.drop_people("a.csv", people(ROWS, planted=bad))
    world.deliver()
    _assert_exactly_rejected(world, bad)
    assert any("said of" in row["message"] for row in world.rows_of("rejected.csv"))
