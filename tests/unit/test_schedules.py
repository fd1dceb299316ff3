"""When an export is due, by its own time zone, over the days on which clocks change, and after missed ticks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.catalog import Schedule
from exporter.errors import ConfigError
from exporter.runs import Run
from exporter.schedules import is_due
from tests.unit.test_runs import a_run

NIGHTLY = Schedule(on="cron", cron="30 2 * * *", time_zone="Europe/Bucharest")


def _run(text: str) -> Run:
    return a_run(created_at=datetime.fromisoformat(text))


def _due(schedule: Schedule, last: str, now: str) -> bool:
    return is_due(schedule, _run(last), datetime.fromisoformat(now))


@pytest.mark.parametrize("on", ["arrival", "demand"])
def test_other_exports_are_never_due(on: str) -> None:
    schedule = Schedule.model_validate({"on": on})
    assert not is_due(schedule, None, datetime.now(UTC))
    assert not is_due(schedule, _run("2020-01-01T00:00+00:00"), datetime.now(UTC))


def test_an_export_that_never_ran_is_due_at_once() -> None:
    assert is_due(NIGHTLY, None, datetime.now(UTC))


@pytest.mark.parametrize(
    ("last", "now", "due"),
    [
        ("2026-09-20T23:31+00:00", "2026-09-21T23:29+00:00", False),
        ("2026-09-20T23:31+00:00", "2026-09-21T23:30+00:00", True),
        ("2026-09-20T23:30+00:00", "2026-09-20T23:30:30+00:00", False),
        ("2026-09-01T00:00+00:00", "2026-09-21T12:00+00:00", True),
        ("2026-12-01T00:31+00:00", "2026-12-02T00:29+00:00", False),
        ("2026-12-01T00:31+00:00", "2026-12-02T00:30+00:00", True),
    ],
)
def test_local_times_are_kept(last: str, now: str, due: bool) -> None:
    assert _due(NIGHTLY, last, now) is due


def test_an_hour_that_the_clock_leaves_out_is_made_up_for() -> None:
    """On 29 March 2026 Bucharest goes from 03:00 to 04:00, which is 01:00 UTC: half past three does not exist."""
    schedule = Schedule(on="cron", cron="30 3 * * *", time_zone="Europe/Bucharest")
    assert not _due(schedule, "2026-03-28T02:00+00:00", "2026-03-29T00:59+00:00")
    assert _due(schedule, "2026-03-28T02:00+00:00", "2026-03-29T02:00+00:00")


def test_an_hour_that_comes_twice_is_used_once() -> None:
    """On 25 October 2026 Bucharest goes from 04:00 back to 03:00, which is 01:00 UTC."""
    schedule = Schedule(on="cron", cron="30 3 * * *", time_zone="Europe/Bucharest")
    runs, last = [], _run("2026-10-24T12:00+00:00")
    for minute in range(0, 24 * 60, 5):
        now = datetime(2026, 10, 24, 12, tzinfo=UTC) + timedelta(minutes=minute)
        if is_due(schedule, last, now):
            runs.append(now)
            last = a_run(created_at=now)
    assert len(runs) == 1


@given(
    every=st.integers(1, 59),
    gaps=st.lists(st.integers(1, 600), min_size=1, max_size=20),
)
def test_however_ticks_are_missed_each_tick_starts_one_run_at_most(every: int, gaps: list[int]) -> None:
    schedule = Schedule(on="cron", cron=f"*/{every} * * * *")
    now = datetime(2026, 9, 21, tzinfo=UTC)
    last = a_run(created_at=now)
    for gap in gaps:
        now += timedelta(minutes=gap)
        due = is_due(schedule, last, now)
        assert due or gap < 60, "an hour holds a time of the schedule"
        if due:
            last = a_run(created_at=now)
            assert not is_due(schedule, last, now), "starting it settles it"


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("61 3 * * *", "UTC"),
        ("soon", "UTC"),
        ("", "UTC"),
        ("0 3 30 2 *", "UTC"),  # there is no 30 February
        ("0 3 * * *", "Mars/Base"),
        ("0 3 * * *", "Europe"),
        ("0 3 * * *", "../../etc/passwd"),
        ("0 3 * * *", ""),
        ("0 3 * * *", "Europe/\x00"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_a_matter_of_configuration(cron: str, zone: str) -> None:
    schedule = Schedule(on="cron", cron=cron, time_zone=zone)
    with pytest.raises(ConfigError) as error:
        is_due(schedule, _run("2026-09-20T23:31+00:00"), datetime(2026, 9, 21, tzinfo=UTC))
    assert error.value.hint
