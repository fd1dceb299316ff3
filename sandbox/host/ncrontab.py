"""NCRONTAB, the schedule language of timer triggers.

Six fields, `second minute hour day month day-of-week`, or five without seconds. It differs from
Unix cron: day and day-of-week must both match, Sunday is 0 and never 7, names may be written out or
cut short, `5/10` means from 5 on, and a backward range is turned around.

Source: https://github.com/atifaziz/NCrontab (3.3); Microsoft Learn, "Timer trigger" (2026-11).
"""

from __future__ import annotations

import bisect
import datetime as dt
from dataclasses import dataclass
from typing import NamedTuple

MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
HORIZON_DAYS = 9 * 366  # 29 February can be eight years away; what is not found by then never comes


class ScheduleError(ValueError):
    """The expression is not NCRONTAB."""


class Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS = (
    Field("second", 0, 59),
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("day-of-week", 0, 6, DAYS),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The values that each field admits, in order."""

    times: tuple[dt.time, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, expression: str) -> Schedule:
        """Read an expression; raises ScheduleError."""
        parts = expression.split()
        if len(parts) == len(FIELDS) - 1:
            parts.insert(0, "0")
        if len(parts) != len(FIELDS):
            raise ScheduleError(
                f"{expression!r} has {len(parts)} fields; NCRONTAB has six, or five without seconds"
            )
        seconds, minutes, hours, days, months, weekdays = (
            _values(part, field) for part, field in zip(parts, FIELDS, strict=True)
        )
        times = tuple(
            dt.time(h, m, s)
            for h in sorted(hours)
            for m in sorted(minutes)
            for s in sorted(seconds)
        )
        return cls(times=times, days=days, months=months, weekdays=weekdays)

    def next_after(self, moment: dt.datetime) -> dt.datetime:
        """The first occurrence later than `moment`, in UTC.

        Raises ScheduleError when there is none.
        """
        moment = moment.astimezone(dt.UTC)
        first = bisect.bisect_right(self.times, moment.time())
        for ahead in range(HORIZON_DAYS):
            day = moment.date() + dt.timedelta(days=ahead)
            if self._admits(day) and first < len(self.times):
                return dt.datetime.combine(day, self.times[first], dt.UTC)
            first = 0
        raise ScheduleError(f"there is no occurrence after {moment:%Y-%m-%d}")

    def _admits(self, day: dt.date) -> bool:
        weekday = day.isoweekday() % 7
        return day.month in self.months and day.day in self.days and weekday in self.weekdays


def _values(text: str, field: Field) -> frozenset[int]:
    values: set[int] = set()
    for item in text.split(","):
        span, slash, step = item.partition("/")
        if slash and not (step.isdecimal() and int(step)):
            raise ScheduleError(
                f"{item!r} is not a valid {field.name}: the step must be a number from 1 up"
            )
        low, high = _span(span, field, open_ended=bool(slash))
        values.update(range(low, high + 1, int(step or 1)))
    return frozenset(values)


def _span(text: str, field: Field, *, open_ended: bool) -> tuple[int, int]:
    if text == "*":
        return field.low, field.high
    first, dash, last = text.partition("-")
    low = _value(first, field)
    if dash:
        low, high = sorted((low, _value(last, field)))
        return low, high
    return low, field.high if open_ended else low


def _value(text: str, field: Field) -> int:
    if text.isdecimal():
        value = int(text)
        if not field.low <= value <= field.high:
            raise ScheduleError(
                f"{text!r} is not a valid {field.name}: it must be {field.low} to {field.high}"
            )
        return value
    for position, name in enumerate(field.names):
        if text and name.startswith(text.lower()):
            return position + field.low
    raise ScheduleError(f"{text!r} is not a valid {field.name}")
