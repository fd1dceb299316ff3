"""Import jobs are followed to their end, and their errors joined back to the rows."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from exporter.planning.planner import PlanLimits
from exporter.runs.run import Status
from exporter.sending.limits import SendLimits
from sandbox.klaviyo.jobs import Job
from sandbox.klaviyo.messages import Refused, error
from tests.journeys.world import FOLDER, World, as_csv, assert_ended, people

pytestmark = pytest.mark.usefixtures("small_batches")

GET_ERRORS = "GET /api/profile-bulk-import-jobs/.*/import-errors"
GET_ARRIVALS = "GET /api/profile-bulk-import-jobs/{id}/profiles"
HOUR = 3_600


def _async_bad(places: dict[int, str]) -> dict[int, str]:
    return {place: f"bad{place}{kind}@example.com" for place, kind in places.items()}


def _assert_failed_rows(world: World, bad: dict[int, str], rows: int) -> None:
    assert_ended(world, Status.WARNINGS, delivered=rows - len(bad))
    assert world.rejected_emails() == sorted(bad.values())
    rejected = world.rows_of("rejected.csv")
    assert {row["reason"] for row in rejected} == {"failed_in_klaviyo"}
    assert sorted(int(row["line"]) for row in rejected) == [number + 2 for number in sorted(bad)]
    assert world.emails() == {email for email, _ in people(rows, planted=bad)} - set(bad.values())


def test_rows_that_klaviyo_could_not_import_are_reported_by_file_and_line(world: World) -> None:
    bad = _async_bad({0: "+async-fail", 11: "+async-fail-null", 19: "+async-fail"})
    world.register()
    world.drop_people("a.csv", people(30, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 30)


def test_positions_count_the_rows_that_were_sent_when_others_were_left_out(world: World) -> None:
    bad = {
        2: "x+sync-fail@example.com",
        5: "y+async-fail@example.com",
        8: "z+sync-fail@example.com",
    }
    world.register()
    world.drop_people("a.csv", people(10, planted=bad))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=7)
    reasons = {
        row["identifier"]: (row["reason"], row["line"]) for row in world.rows_of("rejected.csv")
    }
    assert reasons == {
        "x+sync-fail@example.com": ("refused_by_klaviyo", "4"),
        "y+async-fail@example.com": ("failed_in_klaviyo", "7"),
        "z+sync-fail@example.com": ("refused_by_klaviyo", "10"),
    }


@pytest.mark.parametrize("shape", ["attributes", "profile", "nested"])
def test_a_failure_without_a_place_is_found_by_its_address(world: World, shape: str) -> None:
    bad = _async_bad({3: "+async-fail", 14: "+async-fail"})

    def by_address(each: dict[str, Any]) -> None:
        each["source"] = None
        email = str(each["original_payload"]["email"]).upper()
        each["original_payload"] = {
            "attributes": {"email": email},
            "profile": {"type": "profile", "attributes": {"email": email}},
            "nested": {"data": {"type": "profile", "attributes": {"email": email}}},
        }[shape]

    _change_import_errors(world, by_address)
    world.register()
    world.drop_people("a.csv", people(20, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 20)


def _names_nothing(each: dict[str, Any]) -> None:
    each.update(
        {"source": None, "original_payload": None, "detail": None, "title": None, "code": None}
    )


def test_a_failure_that_names_nothing_is_found_by_who_arrived(world: World) -> None:
    bad = _async_bad({3: "+async-fail", 7: "+async-fail"})
    _change_import_errors(world, _names_nothing)
    world.register()
    world.drop_people("a.csv", people(20, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 20)
    assert world.stats()["requests"][GET_ARRIVALS] == 1


def test_more_failures_than_klaviyo_names_are_found_by_who_arrived(world: World) -> None:
    bad = _async_bad({3: "+async-fail", 4: "+async-fail", 5: "+async-fail"})
    _change_import_errors(world, lambda _: None, keep=1)
    world.register()
    world.drop_people("a.csv", people(20, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 20)


def test_who_arrived_is_not_asked_where_every_failure_names_its_row(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(20, planted=_async_bad({3: "+async-fail"})))
    world.deliver()
    assert GET_ARRIVALS not in world.stats()["requests"]


def test_where_more_are_missing_than_failed_nobody_is_blamed(world: World) -> None:
    """As when Klaviyo merged two profiles: the one that is gone did not fail."""
    bad = _async_bad({3: "+async-fail"})
    _change_import_errors(world, _names_nothing)
    _change_arrivals(world, keep=5)
    world.register()
    world.drop_people("a.csv", people(20, planted=bad))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=19)
    [row] = world.rows_of("rejected.csv")
    assert (row["reason"], row["line"], row["identifier"]) == ("failed_in_klaviyo", "", "")


def test_who_arrived_is_read_page_by_page_and_asked_again(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=1_000))
    bad = _async_bad({3: "+async-fail", 250: "+async-fail"})
    _change_import_errors(world, _names_nothing)
    world.fault(
        "status", match="GET /api/profile-bulk-import-jobs/.*/profiles", status=503, after=1
    )
    world.register()
    world.drop_people("a.csv", people(260, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 260)


@pytest.mark.parametrize("identifier", ["phone_number", "external_id"])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_failure_is_joined_by_any_identifier_that_it_names(
    world: World, identifier: str, as_text: bool
) -> None:
    def by_identifier(each: dict[str, Any]) -> None:
        known = {identifier: each["original_payload"][identifier]}
        each["original_payload"] = orjson.dumps(known).decode() if as_text else known
        each["source"] = {}

    _change_import_errors(world, by_identifier)
    world.klaviyo.planted.add([{"where": {"email": "^p(3|14)@"}, "error": {"detail": "No email"}}])
    rows = [(f"p{n}@example.com", f"+1212555{n:04d}", f"id-{n}") for n in range(20)]
    header = ("EMail", "Phone", "Id")
    world.register(mapping={"email": "EMail", "phone_number": "Phone", "external_id": "Id"})
    world.drop(FOLDER + "a.csv", as_csv(rows, header))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=18)
    assert [row["line"] for row in world.rows_of("rejected.csv")] == ["5", "16"]
    assert GET_ARRIVALS not in world.stats()["requests"]


def test_no_more_failures_are_counted_than_rows_were_sent(world: World) -> None:
    _change_jobs(world, failed_count=10**15, completed_count=0)
    world.register()
    world.drop_people("a.csv", people(10))
    world.deliver()
    assert_ended(world, Status.FAILED, delivered=0)
    assert world.report()["rejected_by_reason"] == {"failed_in_klaviyo": 10}
    assert world.errors == []


@pytest.mark.parametrize("completed", [3, 0, None])
def test_what_klaviyo_does_not_say_it_completed_is_not_delivered(
    world: World, completed: int | None
) -> None:
    """Jobs that are complete, with no failure, and a smaller count than was sent."""
    _change_jobs(world, completed_count=completed)
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    delivered = 3 * (completed or 0)
    run = assert_ended(world, Status.WARNINGS if delivered else Status.FAILED, delivered=delivered)
    assert f"does not say what became of {30 - delivered} of them" in run.hint
    assert world.report()["rejected_by_reason"] == {"unconfirmed": 30 - delivered}
    rows = world.rows_of("rejected.csv")
    assert [(row["reason"], row["line"], row["identifier"]) for row in rows] == [
        ("unconfirmed", "", "")
    ] * len(rows)
    assert len(rows) == 30 - delivered


def test_named_failures_are_not_counted_as_unconfirmed_too(world: World) -> None:
    bad = _async_bad({3: "+async-fail"})
    _change_jobs(world, completed_count=7)
    world.register()
    world.drop_people("a.csv", people(10, planted=bad))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=7)
    assert world.report()["rejected_by_reason"] == {"failed_in_klaviyo": 1, "unconfirmed": 2}


@pytest.mark.parametrize("setbacks", [4, 12], ids=["laptop", "app"])
def test_a_job_whose_errors_cannot_be_read_ends_without_their_rows_and_holds_up_no_other(
    world: World, setbacks: int
) -> None:
    world.restart(setbacks=setbacks)
    bad = _async_bad({13: "+async-fail"})
    world.fault("status", match=GET_ERRORS, status=500, times=None)
    world.register()
    world.drop_people("a.csv", people(30, planted=bad))
    world.deliver(until=lambda: world.run().setbacks > 0 if world.runs() else False)
    assert len(world.engine.runs.journal(world.run()).delivery.ended) == 2
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=29)
    [row] = world.rows_of("rejected.csv")
    assert (row["reason"], row["line"]) == ("failed_in_klaviyo", "")


@pytest.mark.parametrize("page_s", [5, 25])
def test_a_step_ends_itself_while_it_reads_the_errors_of_a_job(world: World, page_s: float) -> None:
    """40 pages, one job: in 480 s at most 19 of them can be read where each takes 25 s."""
    world.restart(plan=PlanLimits(batch_profiles=10_000))
    _change_import_errors(world, lambda _: None, seconds=page_s)
    longest = _longest_step(world)
    world.register()
    bad = _async_bad(dict.fromkeys(range(4_000), "+async-fail"))
    world.drop_people("a.csv", people(4_100, planted=bad))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=100)
    assert max(longest) < 480 + 60
    named = sum(bool(row["line"]) for row in world.rows_of("rejected.csv"))
    assert named == 4_000 if page_s == 5 else 1_800 <= named < 4_000


def test_errors_that_a_step_has_no_time_left_for_are_read_by_the_next(world: World) -> None:
    """Sending took nearly all of the step. The ten pages of the failed job take ten seconds."""
    world.restart(plan=PlanLimits(batch_profiles=1_000))
    _change_import_errors(world, lambda _: None, seconds=1)

    def slow(key: Any) -> Any:
        opened = world.client(key)
        start_import = opened.start_import

        def start(body: bytes) -> Any:
            answer = start_import(body)
            world.clock.move(475)
            return answer

        opened.start_import = start  # type: ignore[method-assign]
        return opened

    world.engine = world.again(open_klaviyo=slow)
    world.register()
    bad = _async_bad(dict.fromkeys(range(990), "+async-fail"))
    world.drop_people("a.csv", people(1_000, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 1_000)


def _longest_step(world: World) -> list[float]:
    """How long each message keeps the exporter."""
    lasted: list[float] = []
    handle = world.engine.dispatcher.handle

    def timed(*args: Any, **options: Any) -> None:
        began = world.clock.now
        handle(*args, **options)
        lasted.append(world.clock.now - began)

    world.patch.setattr(world.engine.dispatcher, "handle", timed)
    return lasted


def test_a_job_that_takes_hours_does_not_make_every_poll_read_the_whole_account(
    world: World,
) -> None:
    _set_fates(world, {1: "stuck"})
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver(until=lambda: bool(world.accepted_rows()))
    for number in range(350):
        body = {"type": "profile", "attributes": {"email": f"other{number}@example.com"}}
        document = {
            "data": {
                "type": "profile-bulk-import-job",
                "attributes": {"profiles": {"data": [body]}},
            }
        }
        world.klaviyo.call("POST", "/api/profile-bulk-import-jobs", document)
    due = world.clock.now + HOUR
    world.deliver(until=lambda: world.clock.now > due)
    assert world.run().polls > 10
    assert world.stats()["requests"]["GET /api/profile-bulk-import-jobs"] <= world.run().polls + 6


def test_the_errors_of_many_jobs_are_read_within_klaviyos_limits(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=100))
    world.settings(limits=True)
    bad = _async_bad(dict.fromkeys(range(0, 6_000, 100), "+async-fail"))
    bad |= _async_bad(dict.fromkeys(range(6_000, 6_100), "+async-fail"))
    world.register()
    world.drop_people("a.csv", people(6_100, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 6_100)
    assert world.stats()["throttled"] == 0


def test_two_errors_about_one_row_are_one_failure(world: World) -> None:
    bad = _async_bad({3: "+async-fail"})
    _change_import_errors(world, lambda _: None, repeat=2)
    world.register()
    world.drop_people("a.csv", people(20, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 20)


def test_two_errors_that_name_no_row_are_one_failure_where_klaviyo_counts_one(world: World) -> None:
    bad = _async_bad({3: "+async-fail"})
    _change_import_errors(
        world, lambda each: each.update({"source": None, "original_payload": None}), repeat=2
    )
    world.register()
    world.drop_people("a.csv", people(20, planted=bad))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=19)
    assert len(world.rows_of("rejected.csv")) == 1


def test_failures_over_several_pages_are_all_read(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=1_000))
    bad = _async_bad(dict.fromkeys(range(0, 500, 2), "+async-fail"))
    world.fault("status", match=GET_ERRORS, status=503, after=1, times=2)
    world.fault("throttle", match=GET_ERRORS, after=1)
    world.fault("truncate", match=GET_ERRORS, after=1)
    world.register()
    world.drop_people("a.csv", people(500, planted=bad))
    world.deliver()
    _assert_failed_rows(world, bad, 500)
    assert (
        world.stats()["requests"]["GET /api/profile-bulk-import-jobs/{id}/import-errors"]
        <= 2 * 3 + 4
    )


def test_hundreds_of_jobs_cost_few_requests(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=2))
    world.settings(job_seconds=HOUR / 3)
    world.register()
    world.drop_people("a.csv", people(210))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=210)
    requests = world.stats()["requests"]
    assert requests["GET /api/profile-bulk-import-jobs"] <= 2 * 25
    assert "GET /api/profile-bulk-import-jobs/{id}" not in requests


def test_jobs_that_take_hours_are_waited_for_with_growing_intervals(world: World) -> None:
    world.settings(job_seconds=3 * HOUR)
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=30)
    assert world.handled < 3 * HOUR / 300 + 20


def test_jobs_among_many_others_of_the_account_are_found(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(30))
    world.settings(job_seconds=60)
    world.deliver(until=lambda: bool(world.accepted_rows()))
    for number in range(250):
        body = {"type": "profile", "attributes": {"email": f"other{number}@example.com"}}
        world.klaviyo.call(
            "POST",
            "/api/profile-bulk-import-jobs",
            {
                "data": {
                    "type": "profile-bulk-import-job",
                    "attributes": {"profiles": {"data": [body]}},
                }
            },
        )
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=30)


def test_a_job_that_vanished_is_reported_as_lost_with_its_rows(world: World) -> None:
    _set_fates(world, {1: "vanish"})
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    _assert_lost(world, "does not know the job")


def test_a_job_that_klaviyo_once_does_not_know_is_not_lost(world: World) -> None:
    """After hours, when it would be lost had it never been seen."""
    world.settings(job_seconds=3 * HOUR)
    world.register()
    world.drop_people("a.csv", people(30))
    due = world.clock.now + HOUR
    world.deliver(until=lambda: world.clock.now > due)
    handle, polls = world.klaviyo.handle, world.run().polls

    def blind(request: Any) -> Any:
        response = handle(request)
        if request.path == "/api/profile-bulk-import-jobs" and request.method == "GET":
            response.body = orjson.dumps({**response.json(), "data": []})
        elif request.path.startswith("/api/profile-bulk-import-jobs/"):
            response = Refused(
                404, [error(404, "not_found", "Not found.", "A job does not exist.")]
            ).response()
        return response if world.run().polls == polls else handle(request)

    world.patch.setattr(world.klaviyo, "handle", blind)
    world.deliver(until=lambda: world.run().polls > polls)
    assert len(world.run().unseen_jobs) == 3
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=30)


def test_a_job_that_was_cancelled_in_klaviyo_is_reported_as_lost(world: World) -> None:
    _set_fates(world, {1: "cancelled"})
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    _assert_lost(world, "cancelled")


def test_a_job_that_never_ends_is_given_up_after_a_day(world: World) -> None:
    world.restart(send=SendLimits(longest_poll_s=HOUR))
    _set_fates(world, {1: "stuck"})
    world.register()
    began = world.clock.now
    world.drop_people("a.csv", people(30))
    world.deliver()
    _assert_lost(world, "did not end")
    assert 24 * HOUR <= world.clock.now - began < 26 * HOUR


def test_a_job_that_was_stuck_and_ends_after_all_is_delivered(world: World) -> None:
    jobs = _set_fates(world, {1: "stuck"})
    world.register()
    world.drop_people("a.csv", people(30))
    due = world.clock.now + HOUR
    world.deliver(until=lambda: world.clock.now > due)
    world.klaviyo.account.jobs.set_fate(jobs[1], "normal")
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=30)


def test_a_job_that_goes_between_its_status_and_its_errors_is_counted(world: World) -> None:
    bad = _async_bad({3: "+async-fail"})
    world.fault("status", match=GET_ERRORS, status=404, times=None)
    world.register()
    world.drop_people("a.csv", people(20, planted=bad))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=19)


def test_jobs_that_end_in_another_order_are_all_counted(world: World) -> None:
    world.settings(job_order="reversed")
    world.register()
    world.drop_people("a.csv", people(100))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=100)


def test_a_whole_job_that_failed_fits_the_journal(world: World) -> None:
    """10,000 import errors with long words are one line of the journal; an append takes 4 MiB."""
    world.restart(plan=PlanLimits(batch_profiles=10_000))
    _change_import_errors(world, lambda each: each.update({"detail": "不正な値です " * 60}))
    world.register()
    world.drop_people(
        "a.csv", [*people(1), *((f"p{n}+async-fail@example.com", "x") for n in range(9_999))]
    )
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=1)
    assert world.errors == []


def _assert_lost(world: World, words: str) -> None:
    assert_ended(world, Status.WARNINGS, delivered=20)
    rows = world.rows_of("rejected.csv")
    assert {row["reason"] for row in rows} == {"job_lost"}
    assert all(words in row["message"] for row in rows)
    lost = {row["identifier"] for row in rows}
    assert len(lost) == 10
    assert world.emails() == {email for email, _ in people(30)} - lost
    assert world.report()["rejected_by_reason"] == {"job_lost": 10}


def _set_fates(world: World, fates: dict[int, Any]) -> list[Job]:
    """Jobs get their fates by the order in which they come."""
    create = world.klaviyo.account.jobs.accept
    jobs: list[Job] = []

    def accept(batch: Any, **options: Any) -> Job:
        jobs.append(create(batch, **{**options, "fate": fates.get(len(jobs), "normal")}))
        return jobs[-1]

    world.klaviyo.account.jobs.accept = accept  # type: ignore[method-assign]
    return jobs


def _change_import_errors(
    world: World, change: Any, *, keep: int | None = None, repeat: int = 1, seconds: float = 0
) -> None:
    """Let Klaviyo name failures otherwise, or fewer or more of them than it counts."""
    handle = world.klaviyo.handle

    def changed(request: Any) -> Any:
        response = handle(request)
        if request.path.rstrip("/").endswith("/import-errors") and response.status == 200:
            world.clock.move(seconds)
            document = response.json()
            for each in document["data"]:
                change(each["attributes"])
            document["data"] = document["data"][:keep] * repeat
            response.body = orjson.dumps(document)
        return response

    world.patch.setattr(world.klaviyo, "handle", changed)


def _change_arrivals(world: World, *, keep: int) -> None:
    """Let Klaviyo show fewer profiles of a job than it imported."""
    handle = world.klaviyo.handle

    def changed(request: Any) -> Any:
        response = handle(request)
        if request.path.rstrip("/").endswith("/profiles") and "import-jobs" in request.path:
            document = response.json()
            document["data"] = document["data"][:keep]
            response.body = orjson.dumps(document)
        return response

    world.patch.setattr(world.klaviyo, "handle", changed)


def _change_jobs(world: World, **attributes: Any) -> None:
    """Let Klaviyo say other things of its jobs than it did."""
    handle = world.klaviyo.handle

    def changed(request: Any) -> Any:
        response = handle(request)
        if request.path == "/api/profile-bulk-import-jobs" and response.status == 200:
            document = response.json()
            for each in document["data"]:
                each["attributes"] |= attributes
            response.body = orjson.dumps(document)
        return response

    world.patch.setattr(world.klaviyo, "handle", changed)
