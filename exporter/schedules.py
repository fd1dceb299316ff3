"""When an export is due, from its schedule and its last run: missed ticks and restarts change nothing. Pure."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from exporter.catalog import Schedule
from exporter.errors import ConfigError
from exporter.runs import Run


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
