"""An export may keep the rows that were rejected, and compare the list with what was delivered."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from exporter.definitions.export import Export
from exporter.planning.planner import PlanLimits
from exporter.planning.row_lists import REJECTED_COLUMNS
from exporter.runs.run import Run, Status
from tests.journeys.world import FOLDER, LIST, World, assert_ended, people
from tests.management.managing import forget_in_world


def _register(world: World, **options: bool) -> Export:
    export = world.register().model_copy(update=options)
    world.engine.catalog.save(export)
    return export


FLAWED = [
    'no address,"Ada ""the first"", Countess"',
    "one@example.com,Grace,too many",
    "=cmd(),Formula",
    "two@example.com,T\0m",
    '"open@example.com,Never closed',
]


def drop_flawed(world: World) -> None:
    good = "".join(
        f"{email},{name}\n"
        for email, name in people(
            4, planted={1: "x+sync-fail@example.com", 2: "x+async-fail@example.com"}
        )
    )
    world.drop(FOLDER + "a.csv", "EMail,FirstName\n" + good + "\n".join(FLAWED) + "\n")


def rejected(world: World) -> dict[str, str]:
    """Reason -> the kept row."""
    found = world.engine.store.read(world.run().folder + "rejected.csv")
    assert found
    [header, *rows] = csv.reader(io.StringIO(found.data.decode()))
    assert header == [*REJECTED_COLUMNS, "row"]
    return {f"{row[3]}:{row[1]}": row[6] for row in rows}


def test_rejected_rows_are_kept_as_they_stand_in_the_file_where_the_export_says_so(
    world: World,
) -> None:
    _register(world, keep_rejected_rows=True)
    drop_flawed(world)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=2)
    kept = rejected(world)
    assert kept["email_space:6"] == FLAWED[0]
    assert kept["too_many_columns:7"] == FLAWED[1]
    assert kept["email_malformed:8"] == "'=cmd(),Formula", "a spreadsheet must not calculate it"
    messages = {row["reason"]: row["message"] for row in world.rows_of("rejected.csv")}
    assert messages["too_many_columns"] == "the row has more cells than the header: 3 of 2 columns"
    assert messages["nul_byte"].endswith(": column 2")
    assert kept["nul_byte:9"] == "two@example.com,T\N{REPLACEMENT CHARACTER}m"
    assert kept["unterminated_quote:10"] == FLAWED[4]


def test_what_klaviyo_did_not_take_is_kept_as_it_was_sent(world: World) -> None:
    _register(world, keep_rejected_rows=True)
    drop_flawed(world)
    world.deliver()
    kept = rejected(world)
    [refused] = [row for reason, row in kept.items() if reason.startswith("refused_by_klaviyo")]
    [failed] = [row for reason, row in kept.items() if reason.startswith("failed_in_klaviyo")]
    assert refused.startswith('{"type":"profile","attributes":{"email":"')
    assert "+sync-fail" in refused
    assert "+async-fail" in failed


def test_nothing_that_was_sent_is_a_formula_in_the_kept_rows(world: World) -> None:
    """Klaviyo's refusals come after planning, and read back the person is found in them."""
    _register(world, keep_rejected_rows=True)
    world.drop(
        FOLDER + "a.csv", "EMail,FirstName\nx+sync-fail@example.com,;=1+1\nbo@example.com,Bo\n"
    )
    world.deliver()
    [kept] = rejected(world).values()
    assert '"first_name":";\'=1+1"' in kept
    forget_in_world(world, ["x+sync-fail@example.com"])
    assert list(rejected(world).values()) == ["(erased)"]


def test_no_row_is_kept_by_default(world: World) -> None:
    world.register()
    drop_flawed(world)
    world.deliver()
    found = world.engine.store.read(world.run().folder + "rejected.csv")
    assert found
    assert found.data.decode().splitlines()[0] == ",".join(
        f'"{column}"' for column in REJECTED_COLUMNS
    )
    assert "Countess" not in found.data.decode()
    assert all("Countess" not in text and "cmd()" not in text for _, text in world.text_of_state())


def test_a_person_who_is_forgotten_goes_from_kept_rows_too(world: World) -> None:
    _register(world, keep_rejected_rows=True)
    world.drop(
        FOLDER + "a.csv",
        "EMail,FirstName\nada@example.com,Ada,too many\nno address,of ada@example.com\n",
    )
    world.deliver()
    forget_in_world(world, ["ada@example.com"])
    found = world.engine.store.read(world.run().folder + "rejected.csv")
    assert found
    assert "ada" not in found.data.decode().lower()
    assert len(found.data.decode().splitlines()) == 3


# Reconciling


def reconciled(world: World) -> Run:
    _register(world, reconcile=True)
    world.drop_people("a.csv", people(5))
    world.deliver()
    return world.run()


def test_the_lists_members_are_counted_where_the_export_says_so(world: World) -> None:
    run = reconciled(world)
    assert (run.status, run.counts.list_members) == (Status.SUCCESSFUL, 5)
    assert world.report()["list_members"] == 5


def test_a_list_with_fewer_members_than_were_delivered_is_a_warning(world: World) -> None:
    world.patch.setattr("exporter.klaviyo.client.Klaviyo.count_list", lambda *_: 4)
    run = reconciled(world)
    assert (run.status, run.counts.delivered) == (Status.WARNINGS, 5)
    assert "4 members" in run.message
    assert run.hint


@pytest.mark.parametrize("times", [1, 2])
def test_a_count_that_is_throttled_is_asked_for_again(world: World, times: int) -> None:
    world.fault("throttle", match=f"GET /api/lists/{LIST}$", retry_after=1, after=1, times=times)
    run = reconciled(world)
    assert (run.status, run.counts.list_members) == (Status.SUCCESSFUL, 5)


def _join_nobody(world: World) -> None:
    """Klaviyo imports the profiles and forgets about the list."""
    accept = world.klaviyo.account.jobs.accept

    def forgetful(batch: Any, **options: Any) -> Any:
        job = accept(batch, **options)
        job.list_ids = ()
        return job

    world.patch.setattr(world.klaviyo.account.jobs, "accept", forgetful)


def test_profiles_that_did_not_join_a_list_of_many_members_are_a_warning(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(100, first=1_000))
    world.deliver()
    world.restart(plan=PlanLimits(batch_profiles=10))
    _join_nobody(world)
    _register(world, reconcile=True)
    world.drop_people("a.csv", people(40))
    world.deliver()
    run = world.runs()[-1]
    assert_ended(world, Status.WARNINGS, run=run, delivered=40)
    assert "40 of 40 people that were looked up are not in the list" in run.message
    report = world.report(run)
    assert (report["list_members"], report["list_sampled"], report["list_missing"]) == (100, 40, 40)


def test_profiles_that_join_late_are_waited_for(world: World) -> None:
    _join_nobody(world)
    _register(world, reconcile=True)
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()) and world.run().list_looks > 0)
    account = world.klaviyo.account
    found = account.lists.get(LIST)
    assert found is not None
    found.members.add(range(account.profiles.count), world.clock.now)
    world.deliver()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert (run.counts.list_sampled, run.counts.list_missing) == (5, 0)


@pytest.mark.parametrize("match", [f"GET /api/lists/{LIST}$", f"GET /api/lists/{LIST}/profiles"])
def test_a_list_that_klaviyo_does_not_tell_about_is_a_warning(world: World, match: str) -> None:
    world.fault(
        "status", status=503, match=match, after=1 if match.endswith("$") else 0, times=None
    )
    reconciled(world)
    run = assert_ended(world, Status.WARNINGS, delivered=5)
    assert "did not answer" in run.message
    assert run.hint


def test_a_large_run_is_sampled_all_over(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=10))
    _register(world, reconcile=True)
    world.drop_people("a.csv", people(1_000))
    world.deliver()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=1_000)
    assert run.counts.list_sampled == 100
    assert world.stats()["requests"]["GET /api/lists/{id}/profiles"] == 1


def test_the_list_is_not_counted_by_default(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver()
    assert world.run().counts.list_members is None
    assert world.stats()["requests"]["GET /api/lists/{id}"] == 1, (
        "whether it is there, before the work"
    )
