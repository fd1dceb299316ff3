"""When an export runs: its schedule, the next time that it is due, and a sentence about it. Pure.

    {"on": "arrival"}                                           every new snapshot
    {"on": "schedule", "times": ["06:00"], "days": ["monday"], "time_zone": "Europe/Bucharest"}
    {"on": "schedule", "cron": "0 6 * * 1-5", "time_zone": "Europe/Bucharest"}
    {"on": "demand"}                                            when a person or program asks
    {"on": "off"}                                               as demand; keeps its times for later

When clocks change, times of day behave as in cron: a time that is left out that day is due at the
next moment that exists, and a time that comes twice is due once. Expressions whose minutes or hours
begin with a star follow real time instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

CRON_FIELDS = 5
TIME_PATTERN = r"^([01]\d|2[0-3]):[0-5]\d$"
Time = Annotated[str, Field(pattern=TIME_PATTERN)]


class Day(StrEnum):
    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


WEEK = tuple(Day)


class Schedule(BaseModel):
    """When an export runs. Times are local times of `time_zone`; no `days` means every day."""

    model_config = ConfigDict(extra="forbid")

    on: Literal["arrival", "schedule", "demand", "off"] = "arrival"
    cron: str | None = None
    times: list[Time] = Field(default_factory=list, max_length=48)
    days: list[Day] = Field(default_factory=list)
    time_zone: str = "UTC"

    @field_validator("on", mode="before")
    @classmethod
    def _upgraded(cls, on: Any) -> Any:
        return "schedule" if on == "cron" else on  # written before there were times

    @field_validator("days", mode="before")
    @classmethod
    def _any_case(cls, days: Any) -> Any:
        if not isinstance(days, list):
            return days
        return [day.lower() if isinstance(day, str) else day for day in days]

    @field_validator("times")
    @classmethod
    def _ordered_times(cls, times: list[str]) -> list[str]:
        return sorted(set(times))

    @field_validator("days")
    @classmethod
    def _ordered_days(cls, days: list[Day]) -> list[Day]:
        return sorted(set(days), key=WEEK.index)

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # OSError: the name of a folder of zones
            raise ValueError("must be an IANA time zone such as Europe/Bucharest") from None
        return name

    @field_validator("cron")
    @classmethod
    def _readable_cron(cls, cron: str | None) -> str | None:
        if cron is not None:
            if len(cron.split()) != CRON_FIELDS:
                raise ValueError(
                    "must be five cron fields: minute, hour, day of month, month, day of week"
                )
            try:
                next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
            except (CronSimError, StopIteration) as exc:
                raise ValueError(f"must be a cron expression that is due some day: {exc}") from None
        return cron

    @model_validator(mode="after")
    def _one_recurrence(self) -> Schedule:
        if self.on == "schedule" and bool(self.times) == bool(self.cron):
            raise ValueError(
                '"on": "schedule" needs either "times" (with "days", if not every day) or "cron"'
            )
        if self.on in ("arrival", "demand") and (self.times or self.cron):
            raise ValueError(f'"on": "{self.on}" must not have "times" or "cron"')
        if self.days and not self.times:
            raise ValueError('"days" need "times"')
        return self

    @property
    def is_active(self) -> bool:
        """Whether the export runs by itself."""
        return self.on in ("arrival", "schedule")

    def next_after(self, moment: datetime) -> datetime | None:
        """Give the first time after an aware one, in UTC, that the export is due.

        None without a schedule.
        """
        if self.on != "schedule":
            return None
        return min(_next(cron, ZoneInfo(self.time_zone), moment) for cron in self._crons())

    def describe(self) -> str:
        """Describe it for people: "Monday to Friday at 06:00 and 18:30 (Europe/Bucharest)"."""
        match self.on:
            case "arrival":
                return "On every new snapshot"
            case "demand":
                return "Only on demand"
            case "off":
                return "Off"
            case "schedule":
                return f"{self._recurrence()} ({self.time_zone})"

    def _crons(self) -> Iterator[str]:
        """Give the schedule as cron expressions, one for each time of day."""
        if self.cron:
            yield self.cron
        days = ",".join(str(WEEK.index(day) + 1) for day in self.days) or "*"  # cron's Monday is 1
        for time in self.times:
            hour, minute = time.split(":")
            yield f"{int(minute)} {int(hour)} * * {days}"

    def _recurrence(self) -> str:
        if self.times:
            return f"{_days(self.days)} at {_joined(self.times)}"
        assert self.cron is not None
        return CronSim(self.cron, datetime(2000, 1, 1, tzinfo=UTC)).explain()


def _next(cron: str, zone: ZoneInfo, moment: datetime) -> datetime:
    times = CronSim(cron, moment.astimezone(zone))
    while (found := next(times).astimezone(UTC)) <= moment:
        pass  # in the second of two equal hours, cronsim begins with the first
    return found


def _days(days: list[Day]) -> str:
    if not days or len(days) == len(WEEK):
        return "Every day"
    first, last = WEEK.index(days[0]), WEEK.index(days[-1])
    if len(days) > 2 and last - first == len(days) - 1:
        return f"{days[0].capitalize()} to {days[-1].capitalize()}"
    return f"Every {_joined([day.capitalize() for day in days])}"


def _joined(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
