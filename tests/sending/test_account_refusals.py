"""A refusal about the whole account, list or mapping: the run ends soon, and blames no person."""

from __future__ import annotations

import pytest

from exporter.planning.planner import PlanLimits
from exporter.runs.run import Status
from exporter.sending.sender import PROBES, SendLimits
from tests.journeys.world import JOBS, World, assert_ended, people

CLOSED = "The account is closed for imports."


@pytest.mark.parametrize("in_flight", [1, 14])
@pytest.mark.parametrize("rows", [2, 30, 488])
def test_a_permanent_400_about_the_account_ends_the_run_early_and_lists_no_row(
    world: World, rows: int, in_flight: int
) -> None:
    world.restart(plan=PlanLimits(batch_profiles=50), send=SendLimits(in_flight=in_flight))
    world.fault("status", status=400, title="Not now.", detail=CLOSED, times=None)
    world.register()
    world.drop_people("a.csv", people(rows))
    world.deliver()
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert CLOSED in run.message
    assert "account" in run.hint
    assert world.rows_of("rejected.csv") == []
    assert world.job_requests() <= 10 + 3 + PROBES


def test_one_row_that_is_refused_alone_is_listed_with_klaviyos_words(world: World) -> None:
    world.fault("status", status=400, detail="This person is unwelcome.", times=None)
    world.register()
    world.drop_people("a.csv", people(1))
    world.deliver()
    assert_ended(world, Status.FAILED, delivered=0)
    [row] = world.rows_of("rejected.csv")
    assert "This person is unwelcome." in row["message"]


@pytest.mark.parametrize("good", [1, 3, 17, 48])
def test_a_few_good_rows_among_many_bad_ones_are_delivered(world: World, good: int) -> None:
    """The words are always the same, no row is named, and a good row may be anywhere."""
    world.restart(send=SendLimits(in_flight=1))
    world.settings(bad_rows="none")
    world.register()
    bad = {n: f"bad{n}+sync-fail@example.com" for n in range(50) if n != good and n not in (0, 49)}
    world.drop_people("a.csv", people(50, planted=bad))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=3)
    assert len(world.rows_of("rejected.csv")) == 47


def test_rows_that_are_refused_for_different_words_are_about_rows(world: World) -> None:
    world.klaviyo.planted.add(
        [
            {
                "where": {"email": f"^p{number}@"},
                "outcome": "refused",
                "error": {"detail": f"Reason {number}.", "source": None},
            }
            for number in range(6)
        ]
    )
    world.register()
    world.drop_people("a.csv", people(6))
    world.deliver()
    assert_ended(world, Status.FAILED, delivered=0)
    assert len(world.rows_of("rejected.csv")) == 6


@pytest.mark.parametrize(
    ("status", "title", "detail"),
    [
        (402, "Payment required.", "The plan has run out."),
        (409, "Conflict.", "Two things at once."),
        (422, "Unprocessable.", "The list is a segment."),
        (451, "Unavailable.", "Not in this country."),
        (403, "Forbidden.", "The scope is missing."),
        (404, "Not found.", "The list went away."),
        (410, "Gone.", "The revision is retired."),
        (405, "No.", "Not by this method."),
        (415, "No.", "Not this media type."),
    ],
)
def test_every_answer_that_ends_a_run_carries_klaviyos_title_and_detail(
    world: World, status: int, title: str, detail: str
) -> None:
    private = f"{detail} See p3@example.com or +40 721 000 111."
    world.fault("status", match=JOBS, status=status, title=title, detail=private, times=None)
    world.register()
    world.drop_people("a.csv", people(20))
    world.deliver()
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert title in run.message
    assert detail in run.message
    assert "p3@example.com" not in run.message
    assert "+40 721" not in run.message
    assert world.job_requests() <= 1


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_refusal_with_a_pointer_at_a_row_is_about_that_row(world: World, status: int) -> None:
    world.klaviyo.planted.add(
        [{"where": {"email": "^p7@"}, "outcome": "refused", "status": status}]
    )
    world.register()
    world.drop_people("a.csv", people(20))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=19)
    assert world.rejected_emails() == ["p7@example.com"]
