"""Timer triggers: in one host at a time, never overlapping.

What was missed while no host ran collapses into one run, which is told that it is past due.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
from typing import Any

from azure.functions import meta

from sandbox.host.app import Function
from sandbox.host.ncrontab import Schedule
from sandbox.host.runner import Payload, Runner
from sandbox.host.storage import Lock, Records, surviving_outages
from sandbox.host.waiting import first_of, now

logger = logging.getLogger(__name__)

MONITORED_FROM = dt.timedelta(minutes=1)  # shorter intervals are not recorded
NEVER = "0001-01-01T00:00:00+00:00"  # .NET's zero


class TimerListener:
    """Runs one function on its schedule until `stop` is set."""

    def __init__(
        self, function: Function, *, records: Records, runner: Runner, host_id: str, lock_s: float
    ) -> None:
        self.function = function
        self.schedule = Schedule.parse(function.trigger["schedule"])
        self.records = records
        self.runner = runner
        self.lock_name = f"locks/{host_id}/{function.id}.Listener"
        self.status_name = f"timers/{host_id}/{function.id}/status"
        self.lock_s = lock_s
        first = self.schedule.next_after(now())
        is_slow = self.schedule.next_after(first) - first >= MONITORED_FROM
        self.is_monitored = is_slow and function.trigger.get("useMonitor", True)

    async def listen(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            async with surviving_outages(self.function.id, pause_s=1):
                seen = await self.records.read(self.lock_name)
                lock = await self.records.lock(self.lock_name, seen=seen, lock_s=self.lock_s)
                if lock is not None:
                    async with lock:
                        await self._tick(lock, stop)
            await first_of(stop, timeout_s=self.lock_s / 3)  # another host has it: it may go

    async def _tick(self, lock: Lock, stop: asyncio.Event) -> None:
        """Run the function when it is due, as long as the lock is ours."""
        due = await self._next_by_record()
        past_due = due is not None and due < now()
        if due is None:
            due = self.schedule.next_after(now())
            await self._record(last=None, following=due)
        if self.function.trigger.get("runOnStartup"):
            due = now()
        while True:
            await first_of(stop, lock.lost, timeout_s=(due - now()).total_seconds())
            if stop.is_set() or lock.lost.is_set():
                return
            started = max(now(), due)
            await self.run_once(past_due=past_due, reason="Timer fired")
            past_due = False
            # Counted from the start: what passed meanwhile follows at once, collapsed into one run.
            due = self.schedule.next_after(started)
            await self._record(last=started, following=due)

    async def run_once(self, *, past_due: bool = False, reason: str) -> None:
        """Run the function now. What it raises is logged; a failed tick is not repeated."""
        status = await self.records.read(self.status_name) if self.is_monitored else None
        request = {
            "IsPastDue": past_due,
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": status.value if status else None,
        }
        try:
            await self.runner.run(
                self.function, Payload(meta.Datum(json.dumps(request), "json")), reason=reason
            )
        except Exception:
            logger.exception("'Functions.%s' failed", self.function.name)

    async def _next_by_record(self) -> dt.datetime | None:
        """The first occurrence that was not run yet; the schedule may have changed since."""
        status = await self.records.read(self.status_name) if self.is_monitored else None
        if status is None:
            return None
        since = status.value["LastUpdated" if status.value["Last"] == NEVER else "Last"]
        return self.schedule.next_after(dt.datetime.fromisoformat(since))

    async def _record(self, *, last: dt.datetime | None, following: dt.datetime) -> None:
        if not self.is_monitored:
            return
        status: dict[str, Any] = {
            "Last": last.isoformat() if last else NEVER,
            "Next": following.isoformat(),
            "LastUpdated": now().isoformat(),
        }
        await self.records.write(
            self.status_name, status, seen=await self.records.read(self.status_name)
        )
