"""Import jobs are asynchronous: follow each to its end, collect what failed, and join it back to the rows.

Few requests: one page of the collection tells of 100 jobs. A job is asked for by itself only when the collection does
not show it. What is not over yet is asked again later, with growing intervals; no function waits meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from exporter import telemetry
from exporter.errors import LeaseHeld, Transient
from exporter.klaviyo.responses import ImportFailure, ImportJob
from exporter.klaviyo.statuses import NotFound
from exporter.planning.request_bodies import PlanReader
from exporter.sending.delivery import BatchAccepted, Event, JobEnded, JobLost, Saying, grouped
from exporter.sending.journal import Journal

logger = logging.getLogger(__name__)

FIRST_POLL_S, LONGEST_POLL_S = 2.0, 300.0
UNSEEN_S = 600.0  # ours: a job that Klaviyo does not show this long after it took it is lost
LONGEST_JOB = timedelta(hours=24)  # ours: Klaviyo's help speaks of hours; no official figure
_CLOCKS = timedelta(minutes=10)  # ours and Klaviyo's may differ


class Jobs(Protocol):
    """What confirming needs of Klaviyo."""

    def jobs_since(self, created_after: datetime, *statuses: str) -> Iterable[ImportJob]: ...
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
    may_cut: bool = False,
    is_last_try: bool = False,
    unseen: Collection[str] = (),
) -> list[str] | None:
    """Ask once about every open job and record what ended. None when none is open any more, else those not seen.

    unseen: what the last round returned. Klaviyo's answers may lag: a job is lost that two rounds did not see.
    A job that cannot be read holds up no other: what it raises comes last. On the last try its failures are counted
    without their rows.
    may_cut: a whole step is to be had, so where that is not enough for the errors of one job, the rest is counted so.
    """
    waiting, accepted = journal.delivery.open_jobs(), journal.delivery.jobs
    if not waiting:
        return None

    def is_late() -> bool:
        check()
        return clock() > deadline

    shown = _shown(klaviyo, {job_id: accepted[job_id].at for job_id in waiting}, is_late)
    over: list[Event] = []
    failed: list[ImportJob] = []
    still_unseen: list[str] = []
    unreadable: Transient | None = None
    for job_id in waiting:
        if is_late():
            break
        try:
            job = shown.get(job_id) or klaviyo.job(job_id)
        except Transient as exc:
            unreadable = unreadable or exc
            continue
        if job is not None and job.status == "complete":
            if job.failed:
                failed.append(job)
            else:
                over.append(_ended(job, accepted[job_id], [], open_plan))
        elif (job is not None or job_id in unseen) and (why := _lost(job, accepted[job_id], now)):
            logger.warning("import job lost", extra={"job_id": job_id, "cause": why})
            over.append(JobLost(job=job_id, why=why))
        elif job is None:
            still_unseen.append(job_id)
    _record(journal, over)
    for place, job in enumerate(failed):
        if is_late():
            break
        try:
            errors, is_whole = _import_errors(klaviyo, job.id, is_late)
        except LeaseHeld:
            raise
        except Transient as exc:
            if not is_last_try:
                unreadable = unreadable or exc
                continue
            errors, is_whole = [], True
            logger.warning(
                "import errors not read", extra={"job_id": job.id, "cause": type(exc).__name__}
            )
        if is_whole or (may_cut and place == 0):
            _record(journal, [_ended(job, accepted[job.id], errors, open_plan)])
    if unreadable:
        raise unreadable
    return still_unseen if journal.delivery.open_jobs() else None


def _record(journal: Journal, events: Sequence[Event]) -> None:
    journal.append(events)
    for event in events:
        telemetry.job(telemetry.LOST_JOB if isinstance(event, JobLost) else telemetry.COMPLETE_JOB)


def _shown(
    klaviyo: Jobs, waiting: Mapping[str, datetime], is_late: Callable[[], bool]
) -> dict[str, ImportJob]:
    """What the collection tells of the jobs: which are under way, then how the others ended.

    So a job that takes hours does not make every poll read all that ended in the account meanwhile.
    """
    shown: dict[str, ImportJob] = {}
    for statuses in (("queued", "processing"), ("complete",)):
        if wanted := waiting.keys() - shown.keys():
            oldest = min(waiting[job_id] for job_id in wanted)
            for job in klaviyo.jobs_since(oldest - _CLOCKS, *statuses):
                if job.id in wanted:
                    shown[job.id] = job
                if wanted <= shown.keys() or is_late():
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


def _ended(
    job: ImportJob,
    accepted: BatchAccepted,
    errors: list[ImportFailure],
    open_plan: Callable[[], PlanReader],
) -> JobEnded:
    """The end of a job with its failures as positions in the batch."""
    if not job.failed:
        return JobEnded(job=job.id, completed=job.completed)
    named, unnamed = _positions(errors, accepted, open_plan)
    # What has no row may be a second word on one that has. As many failed as Klaviyo counts, or names.
    missing = max(min(job.failed, accepted.profiles) - len(named), 0)
    rest = [*unnamed, *["Klaviyo did not say which row, or why"] * (missing - len(unnamed))][
        :missing
    ]
    return JobEnded(
        job=job.id,
        completed=job.completed,
        said=grouped([*named, *((None, words) for words in rest)]),
    )


def _import_errors(
    klaviyo: Jobs, job_id: str, is_late: Callable[[], bool]
) -> tuple[list[ImportFailure], bool]:
    """The errors of a job as far as there is time, and whether these are all."""
    errors: list[ImportFailure] = []
    try:
        for error in klaviyo.import_errors(job_id):
            errors.append(error)
            if is_late():
                return errors, False
    except NotFound:  # the job went between its status and its errors
        pass
    return errors, True


def _positions(
    errors: list[ImportFailure], accepted: BatchAccepted, open_plan: Callable[[], PlanReader]
) -> tuple[list[Saying], list[str]]:
    """Each failed row once, by Klaviyo's index where it gave one, else by its address; and the words on no row."""
    in_request = accepted.positions()
    emails = {
        error.email.strip().lower() for error in errors if error.index is None and error.email
    }
    by_email: dict[str, int] = {}
    if emails:
        reader = open_plan()
        batch = reader.plan.batches[accepted.batch]
        by_email = reader.positions_of(batch, emails)
    found: dict[int, str] = {}
    unnamed: list[str] = []
    for error in errors:
        words = error.detail or error.title or error.code or "no reason given"
        position: int | None = None
        if error.index is not None and error.index < len(in_request):
            position = in_request[error.index]
        elif error.email:
            position = by_email.get(error.email.strip().lower())
        if position is None:
            unnamed.append(words)
        else:
            found.setdefault(position, words)
    return list(found.items()), unnamed
