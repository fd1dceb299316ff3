"""When an export is due, from its schedule and its last run: missed ticks and restarts change nothing. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, model_validator

from exporter.errors import ConfigError
from exporter.runs import Run


class Schedule(BaseModel):
    """When an export runs: on every new snapshot, by a cron expression in a time zone, or only on demand."""

    model_config = ConfigDict(extra="forbid")

    on: Literal["arrival", "cron", "demand"] = "arrival"
    cron: str | None = None
    time_zone: str = "UTC"

    @model_validator(mode="after")
    def _cron_given(self) -> Schedule:
        if (self.on == "cron") != (self.cron is not None):
            raise ValueError('give "cron" exactly when "on" is "cron"')
        return self


def is_due(schedule: Schedule, last: Run | None, now: datetime) -> bool:
    """Whether a time of the schedule has passed since the last run was created.

    An export that never ran is due at once: its first time has certainly passed. Times are local ones of the
    schedule's zone; cronsim skips and repeats hours as cron does when clocks change.
    """
    if schedule.on != "cron" or schedule.cron is None:
        return False
    if last is None:
        return True
    try:
        following = next(CronSim(schedule.cron, last.created_at.astimezone(ZoneInfo(schedule.time_zone))))
    except (CronSimError, StopIteration, KeyError, ValueError, OSError) as exc:
        raise ConfigError(
            "the export's schedule cannot be read", hint="Use five cron fields and an IANA zone."
        ) from exc
    return following <= now
