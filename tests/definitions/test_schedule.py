"""When an export is due, also on the days when clocks change, and how its schedule reads."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from exporter.definitions.schedule import WEEK, Schedule

BUCHAREST = "Europe/Bucharest"


def a_schedule(
    *times: str, days: tuple[str, ...] = (), cron: str | None = None, time_zone: str = BUCHAREST
) -> Schedule:
    return Schedule.model_validate(
        {
            "on": "schedule",
            "times": list(times),
            "days": list(days),
            "cron": cron,
            "time_zone": time_zone,
        }
    )


def _next(schedule: Schedule, after: str) -> str:
    found = schedule.next_after(datetime.fromisoformat(after))
    assert found is not None
    assert found.tzinfo is UTC
    return f"{found:%Y-%m-%dT%H:%MZ}"


@pytest.mark.parametrize("on", ["arrival", "demand", "off"])
def test_without_a_schedule_no_moment_is_due(on: str) -> None:
    assert Schedule.model_validate({"on": on}).next_after(datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        (a_schedule("02:30"), "2026-09-20T23:29:59.5+00:00", "2026-09-20T23:30Z"),
        (a_schedule("02:30"), "2026-09-20T23:30+00:00", "2026-09-21T23:30Z"),
        (a_schedule("02:30"), "2026-12-01T00:29+00:00", "2026-12-01T00:30Z"),
        (a_schedule("18:30", "06:00"), "2026-09-21T04:00+00:00", "2026-09-21T15:30Z"),
        (
            a_schedule("06:00", days=("monday", "thursday")),
            "2026-09-21T04:00+00:00",
            "2026-09-24T03:00Z",
        ),
        (
            a_schedule("23:00", days=("sunday",), time_zone="America/New_York"),
            "2026-09-21T04:00+00:00",
            "2026-09-28T03:00Z",
        ),
        (a_schedule(cron="0 6 * * 1-5"), "2026-09-18T04:00+00:00", "2026-09-21T03:00Z"),
        (
            a_schedule(cron="0 0 29 2 *", time_zone="UTC"),
            "2026-09-18T04:00+00:00",
            "2028-02-29T00:00Z",
        ),
    ],
)
def test_local_times_are_kept(schedule: Schedule, after: str, due: str) -> None:
    assert _next(schedule, after) == due


@pytest.mark.parametrize(
    "schedule", [a_schedule("03:30"), a_schedule("03:15", "03:45"), a_schedule(cron="30 3 * * *")]
)
def test_a_time_that_the_clock_leaves_out_is_due_at_the_next_moment_that_exists(
    schedule: Schedule,
) -> None:
    """On 29 March 2026 Bucharest goes from 03:00 to 04:00, which is 01:00 UTC."""
    assert _next(schedule, "2026-03-28T02:00+00:00") == "2026-03-29T01:00Z"
    assert _next(schedule, "2026-03-29T01:00+00:00") > "2026-03-30"


@pytest.mark.parametrize("schedule", [a_schedule("03:30"), a_schedule(cron="30 3 * * *")])
def test_a_time_that_comes_twice_is_due_once(schedule: Schedule) -> None:
    """On 25 October 2026 Bucharest goes from 04:00 back to 03:00, which is 01:00 UTC."""
    assert _next(schedule, "2026-10-24T12:00+00:00") == "2026-10-25T00:30Z"
    for after in ("00:30", "00:59", "01:10", "01:30", "01:59"):
        assert _next(schedule, f"2026-10-25T{after}+00:00") == "2026-10-26T01:30Z"


def test_an_interval_goes_on_by_real_time_when_clocks_change() -> None:
    schedule = a_schedule(cron="*/30 * * * *")
    moment, found = datetime(2026, 10, 25, 0, 0, tzinfo=UTC), []
    for _ in range(6):
        following = schedule.next_after(moment)
        assert following is not None
        found.append(following - moment)
        moment = following
    assert set(found) == {timedelta(minutes=30)}


def _expected(times: list[time], days: set[int], zone: ZoneInfo, day: date) -> set[datetime]:
    """The moments of a local day, worked out without cron.

    A time that does not exist moves to the end of the gap.
    """
    found = set()
    for each in times if day.weekday() in days else ():
        moment = datetime.combine(day, each, tzinfo=zone).astimezone(UTC)
        while moment.astimezone(zone).time() < each and moment.astimezone(zone).date() == day:
            moment += timedelta(minutes=1)
        back = moment.astimezone(zone)
        if back.time() != each:  # in a gap: the moment at which clocks jump
            while (moment - timedelta(minutes=1)).astimezone(zone).utcoffset() == back.utcoffset():
                moment -= timedelta(minutes=1)
        found.add(moment)
    return found


@given(
    times=st.lists(
        st.times().map(lambda t: t.replace(second=0, microsecond=0, fold=0)),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    days=st.sets(st.integers(0, 6), min_size=1),
    zone=st.sampled_from(
        [BUCHAREST, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]
    ),
    start=st.sampled_from(
        ["2026-03-06", "2026-03-27", "2026-04-03", "2026-10-02", "2026-10-23", "2026-10-30"]
    ),
)
def test_every_time_of_every_chosen_day_is_due_once(
    times: list[time], days: set[int], zone: str, start: str
) -> None:
    """Five days around a change of clocks, against an independent reckoning."""
    first = date.fromisoformat(start)
    schedule = a_schedule(
        *(f"{each:%H:%M}" for each in times), days=tuple(WEEK[day] for day in days), time_zone=zone
    )
    local = ZoneInfo(zone)
    expected = set().union(
        *(_expected(times, days, local, first + timedelta(days=n)) for n in range(5))
    )
    moment = datetime.combine(first, time(0), tzinfo=local).astimezone(UTC) - timedelta(seconds=1)
    end = datetime.combine(first + timedelta(days=5), time(0), tzinfo=local).astimezone(UTC)
    found = []
    while (moment := schedule.next_after(moment) or end) < end:
        found.append(moment)
    assert found == sorted(expected)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"on": "arrival"}, "On every new snapshot"),
        ({"on": "demand"}, "Only on demand"),
        ({"on": "off", "times": ["06:00"]}, "Off"),
        ({"on": "schedule", "times": ["06:00"]}, "Every day at 06:00 (UTC)"),
        (
            {
                "on": "schedule",
                "times": ["18:30", "06:00"],
                "days": ["Friday", "Monday"],
                "time_zone": BUCHAREST,
            },
            "Every Monday and Friday at 06:00 and 18:30 (Europe/Bucharest)",
        ),
        (
            {
                "on": "schedule",
                "times": ["06:00"],
                "days": ["monday", "tuesday", "wednesday", "thursday", "friday"],
            },
            "Monday to Friday at 06:00 (UTC)",
        ),
        (
            {"on": "schedule", "times": ["01:00", "02:00", "03:00"], "days": ["sunday"]},
            "Every Sunday at 01:00, 02:00 and 03:00 (UTC)",
        ),
        ({"on": "schedule", "cron": "0 6 * * 1-5"}, "At 06:00 on Monday through Friday (UTC)"),
    ],
)
def test_a_schedule_reads_as_a_sentence(document: dict[str, object], words: str) -> None:
    assert Schedule.model_validate(document).describe() == words


def test_documents_of_before_times_were_there_still_load() -> None:
    schedule = Schedule.model_validate(
        {"on": "cron", "cron": "0 6 * * 1-5", "time_zone": BUCHAREST}
    )
    assert schedule == a_schedule(cron="0 6 * * 1-5")
    assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule


@pytest.mark.parametrize(
    ("document", "field"),
    [
        *(
            ({"on": "schedule", "cron": cron}, "cron")
            for cron in ("61 3 * * *", "soon", "", "0 3 30 2 *", "0 0 3 * * *", "0 3 * * 8")
        ),
        *(
            ({"on": "schedule", "times": ["03:00"], "time_zone": zone}, "time_zone")
            for zone in ("Mars/Base", "Europe", "../../etc/passwd", "", "Europe/\x00")
        ),
        ({"on": "schedule", "times": ["24:00"]}, "times"),
        ({"on": "schedule", "times": ["6:00"]}, "times"),
        ({"on": "schedule", "times": ["06:00"], "days": ["Someday"]}, "days"),
        ({"on": "schedule"}, "times"),
        ({"on": "schedule", "times": ["06:00"], "cron": "0 6 * * *"}, "times"),
        ({"on": "schedule", "cron": "0 6 * * *", "days": ["monday"]}, "days"),
        ({"on": "arrival", "times": ["06:00"]}, "times"),
        ({"on": "demand", "cron": "0 6 * * *"}, "cron"),
        ({"on": "sometimes"}, "on"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_and_the_field_named(
    document: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError) as error:
        Schedule.model_validate(document)
    assert field in str(error.value)
