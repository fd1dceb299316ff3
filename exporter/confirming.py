"""Import jobs are asynchronous: follow each to its end, collect what failed, and join it back to the rows.

Few requests: one page of the collection tells of 100 jobs. A job is asked for by itself only when the collection does
not show it. What is not over yet is asked again later, with growing intervals; no function waits meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Protocol

from exporter import telemetry
from exporter.journal import Journal
from exporter.klaviyo_answers import ImportFailure, ImportJob, NotFound
from exporter.plans import PlanReader
from exporter.runs import BatchAccepted, JobEnded, JobLost

logger = logging.getLogger(__name__)

FIRST_POLL_S, LONGEST_POLL_S = 2.0, 300.0
UNSEEN_S = 600.0  # ours: a job that Klaviyo does not show this long after it took it is lost
LONGEST_JOB = timedelta(hours=24)  # ours: Klaviyo's help speaks of hours; no official figure
MANY_ERRORS, MANY_WORDS = 1_000, 100  # so that the errors of a job fit into one line of the journal
_CLOCKS = timedelta(minutes=10)  # ours and Klaviyo's may differ


class Jobs(Protocol):
    """What confirming needs of Klaviyo."""

    def jobs_since(self, created_after: datetime) -> Iterable[ImportJob]: ...
    def job(self, job_id: str) -> ImportJob | None: ...
    def import_errors(self, job_id: str) -> Iterator[ImportFailure]: ...


def poll_interval_s(polls: int) -> float:
    """How long to wait before asking again, after `polls` rounds."""
    return float(min(FIRST_POLL_S * 1.5 ** min(polls, 60), LONGEST_POLL_S))


def confirm(
    journal: Journal,
    klaviyo: Jobs,
    open_plan: Callable[[], PlanReader],
    *,
    now: datetime,
    check: Callable[[], None],
    clock: Callable[[], float],
    deadline: float,
) -> bool:
    """Ask once about every open job and record what ended. True when none is open any more."""
    waiting = journal.delivery.open_jobs()
    if not waiting:
        return True
    oldest = min(journal.delivery.jobs[job].at for job in waiting)
    shown = _shown(klaviyo.jobs_since(oldest - _CLOCKS), set(waiting))
    for job_id in waiting:
        check()
        if clock() > deadline:
            return False
        accepted = journal.delivery.jobs[job_id]
        job = shown.get(job_id) or klaviyo.job(job_id)
        if job is not None and job.status == "complete":
            journal.append([_ended(job, accepted, klaviyo, open_plan)])
            telemetry.job(telemetry.COMPLETE_JOB)
        elif why := _lost(job, accepted, now):
            logger.warning("import job lost", extra={"job_id": job_id, "cause": why})
            journal.append([JobLost(job=job_id, why=why)])
            telemetry.job(telemetry.LOST_JOB)
    return not journal.delivery.open_jobs()


def _shown(jobs: Iterable[ImportJob], wanted: set[str]) -> dict[str, ImportJob]:
    """The wanted ones, reading no further than needed."""
    shown: dict[str, ImportJob] = {}
    for job in jobs:
        if job.id in wanted:
            shown[job.id] = job
            if len(shown) == len(wanted):
                break
    return shown


def _lost(job: ImportJob | None, accepted: BatchAccepted, now: datetime) -> str:
    """Why a job that is not complete will never be, or "" while there is hope."""
    age = now - accepted.at
    if job is None:
        return "Klaviyo does not know the job" if age.total_seconds() > UNSEEN_S else ""
    if job.status == "cancelled":
        return "the job was cancelled in Klaviyo"
    return f"the job did not end within {LONGEST_JOB}" if age > LONGEST_JOB else ""


def _ended(job: ImportJob, accepted: BatchAccepted, klaviyo: Jobs, open_plan: Callable[[], PlanReader]) -> JobEnded:
    """The end of a job with its failures as positions in the batch."""
    failures: list[tuple[int | None, str]] = []
    if job.failed:
        failures = _positions(_import_errors(klaviyo, job.id), accepted, open_plan)
        # Klaviyo counted more than it named: the rest failed too, nobody knows which.
        failures += [(None, "Klaviyo did not say which row, or why")] * (job.failed - len(failures))
    return JobEnded(job=job.id, completed=job.completed, failures=failures[: len(accepted.positions())])


def _import_errors(klaviyo: Jobs, job_id: str) -> list[ImportFailure]:
    try:
        return list(klaviyo.import_errors(job_id))
    except NotFound:  # the job went between its status and its errors
        return []


def _positions(
    errors: list[ImportFailure], accepted: BatchAccepted, open_plan: Callable[[], PlanReader]
) -> list[tuple[int | None, str]]:
    """Each failed row once: by Klaviyo's index where it gave one, else by its address."""
    in_request = accepted.positions()
    emails = {error.email.strip().lower() for error in errors if error.index is None and error.email}
    by_email: dict[str, int] = {}
    if emails:
        reader = open_plan()
        batch = reader.plan.batches[accepted.batch]
        by_email = reader.positions_of(batch, emails)
    found: dict[int, str] = {}
    unknown: list[tuple[int | None, str]] = []
    most = MANY_WORDS if len(errors) > MANY_ERRORS else None
    for error in errors:
        words = (error.detail or error.title or error.code or "no reason given")[:most]
        position: int | None = None
        if error.index is not None and error.index < len(in_request):
            position = in_request[error.index]
        elif error.email:
            position = by_email.get(error.email.strip().lower())
        if position is None:
            unknown.append((None, words))
        else:
            found.setdefault(position, words)
    return [*sorted(found.items()), *unknown]
