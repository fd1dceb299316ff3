"""What the timer does at each tick, from saved state alone.

Late, missed and doubled ticks change nothing.

start what is due         due_schedules.py
look for missed events    missed_arrivals.py, once an hour
look after open runs      here
send notices              runs/notices.py
once a day                cleanup.py
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from exporter.errors import DocumentUnreadable
from exporter.logs import cause_of
from exporter.orchestration.cleanup import Cleanup
from exporter.orchestration.due_schedules import DueSchedules
from exporter.orchestration.health import Answer
from exporter.orchestration.lease import AccountLeases
from exporter.orchestration.missed_arrivals import MissedArrivals
from exporter.orchestration.results import step_message
from exporter.runs.notices import Notices
from exporter.runs.run import Run
from exporter.runs.run_store import RunStore
from exporter.storage.protocols import WorkQueue

logger = logging.getLogger(__name__)

# An open run that nobody moved for so long lost its message: half as much again as the longest time
# for which a message is hidden while it is handled.
STALE_AFTER = timedelta(minutes=15)
# After several restarts it still did not move.
STUCK_AFTER = 4 * STALE_AFTER


class Timer:
    """All that happens by the clock. Safe to share: it keeps nothing in memory."""

    def __init__(
        self,
        schedules: DueSchedules,
        missed: MissedArrivals,
        runs: RunStore,
        leases: AccountLeases,
        queue: WorkQueue,
        notices: Notices,
        cleanup: Cleanup,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._runs, self._leases, self._queue, self._now = runs, leases, queue, now
        self._parts: dict[str, Callable[[datetime], None]] = {
            "schedules": schedules.start_due,
            "missed arrivals": missed.look,
            "open runs": self._look_after_runs,
            "notices": notices.deliver,
            "cleanup": cleanup.do_round,
        }

    def tick(self) -> None:
        """Do all parts.

        One that fails does not hold up the others; the first error is raised at the end.
        """
        now = self._now()
        errors: list[Exception] = []
        for name, part in self._parts.items():
            try:
                part(now)
            except Exception as exc:  # noqa: BLE001 - raised again when the other parts had their turn
                fields = {"phase": name, "cause": cause_of(exc)}
                logger.error("part of a tick failed", extra=fields)
                errors.append(exc)
        if errors:
            raise errors[0]

    def stuck_runs(self) -> Answer | None:
        """Say which open runs neither moved nor could be restarted for an hour."""
        now, stuck = self._now(), []
        for run_id in self._runs.listed_as_open():
            run = self._runs.readable(run_id)
            if run is None or not run.status.is_open or now - _moved_at(run) <= STUCK_AFTER:
                continue
            if not self._leases.is_held_for(run):
                stuck.append(run_id)
        if not stuck:
            return None
        more = f" and {len(stuck) - 1} more" if len(stuck) > 1 else ""
        return Answer(
            "failed",
            f"The run {stuck[0]}{more} has not moved for over an hour.",
            f"cancel {stuck[0]}, then run its export again.",
        )

    def _look_after_runs(self, now: datetime) -> None:
        """Restart open runs that lost their message; clean up after ended ones that need it."""
        for run_id in self._runs.listed_as_open():
            try:
                self._look_after(run_id, now)
            except DocumentUnreadable as exc:
                fields = {"run_id": run_id, "cause": exc.message}
                logger.error("run not looked after", extra=fields)

    def _look_after(self, run_id: str, now: datetime) -> None:
        run = self._runs.run(run_id)
        if run is None:
            self._runs.drop_entry_without_run(run_id, now)
        elif not run.status.is_open:
            self._runs.clean_up_after(run)
        elif _is_stale(run, now) and not self._leases.is_held_for(run):
            # While its account is at work, for this run or another, its message comes round by
            # itself.
            logger.warning("run restarted", extra={"run_id": run_id})
            self._queue.put(step_message(run))


def _is_stale(run: Run, now: datetime) -> bool:
    return now - _moved_at(run) > STALE_AFTER


def _moved_at(run: Run) -> datetime:
    return run.updated_at or run.created_at
