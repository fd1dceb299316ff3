"""What became of the import jobs: follow each to its end and join its failures back to the rows.

Klaviyo imports later, so jobs are asked for in rounds, with growing intervals; nothing waits in
between. A round costs few requests: one page of the collection shows 100 jobs, and a job is asked
for by itself only when the collection does not show it.
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

FIRST_POLL_S = 2.0
UNSEEN_S = 600.0  # ours: a job that Klaviyo does not show so long after it took it is lost
LONGEST_JOB = timedelta(hours=24)  # ours: Klaviyo's help speaks of hours; no official figure
_CLOCKS = timedelta(minutes=10)  # ours and Klaviyo's may differ by so much

OpenPlan = Callable[[], PlanReader]


class Jobs(Protocol):
    """What confirming needs of Klaviyo."""

    def jobs_since(self, created_after: datetime, *statuses: str) -> Iterable[ImportJob]: ...
    def job(self, job_id: str) -> ImportJob | None: ...
    def import_errors(self, job_id: str) -> Iterator[ImportFailure]: ...


def poll_interval_s(polls: int, *, longest_s: float) -> float:
    """Return how long to wait before asking again, after `polls` rounds."""
    return float(min(FIRST_POLL_S * 1.5 ** min(polls, 60), longest_s))


def confirm(
    journal: Journal,
    klaviyo: Jobs,
    open_plan: OpenPlan,
    *,
    now: datetime,
    check: Callable[[], None],
    clock: Callable[[], float],
    deadline: float,
    may_cut: bool = False,
    is_last_try: bool = False,
    unseen: Collection[str] = (),
) -> list[str] | None:
    """Ask once about every open job and record what ended.

    Returns None when no job is open any more, else the jobs that Klaviyo did not show.
    unseen: what the last round returned. Klaviyo's answers may lag, so a job is lost only after two
    rounds that did not show it.
    may_cut: this round has a whole step to itself. If that is not enough time to read the errors of
    one job, the rest of its failures are counted without their rows.
    is_last_try: failures whose errors cannot be read are counted without their rows.
    Raises what kept a job from being read, after all others were read.
    """
    waiting = journal.delivery.open_jobs()
    if not waiting:
        return None

    def is_late() -> bool:
        check()
        return clock() > deadline

    this_round = _Round(journal, klaviyo, open_plan, now, is_late)
    failed = this_round.record_ended(waiting, unseen)
    this_round.record_failed(failed, may_cut=may_cut, is_last_try=is_last_try)
    if this_round.unreadable:
        raise this_round.unreadable
    return this_round.unseen if journal.delivery.open_jobs() else None


class _Round:
    """One round of questions about the open jobs of a run."""

    def __init__(
        self,
        journal: Journal,
        klaviyo: Jobs,
        open_plan: OpenPlan,
        now: datetime,
        is_late: Callable[[], bool],
    ) -> None:
        self._journal, self._klaviyo, self._open_plan = journal, klaviyo, open_plan
        self._now, self._is_late = now, is_late
        self._accepted = journal.delivery.jobs
        self.unseen: list[str] = []
        self.unreadable: Transient | None = None  # the first error: it holds up no other job

    def record_ended(self, waiting: Sequence[str], unseen: Collection[str]) -> list[ImportJob]:
        """Record the jobs that ended well or were lost. Returns those that ended with failures."""
        shown = _shown(
            self._klaviyo, {job_id: self._accepted[job_id].at for job_id in waiting}, self._is_late
        )
        events: list[Event] = []
        failed: list[ImportJob] = []
        for job_id in waiting:
            if self._is_late():
                break
            try:
                job = shown.get(job_id) or self._klaviyo.job(job_id)
            except Transient as exc:
                self.unreadable = self.unreadable or exc
                continue
            if job is not None and job.status == "complete":
                if job.failed:
                    failed.append(job)
                else:
                    events.append(JobEnded(job=job.id, completed=job.completed))
                continue
            may_be_lost = job is not None or job_id in unseen
            if may_be_lost and (why := _why_lost(job, self._accepted[job_id], self._now)):
                logger.warning("import job lost", extra={"job_id": job_id, "cause": why})
                events.append(JobLost(job=job_id, why=why))
            elif job is None:
                self.unseen.append(job_id)
        self._record(events)
        return failed

    def record_failed(
        self, failed: Sequence[ImportJob], *, may_cut: bool, is_last_try: bool
    ) -> None:
        """Read the errors of the jobs that ended with failures, and record each job."""
        for place, job in enumerate(failed):
            if self._is_late():
                break
            try:
                errors, is_whole = self._import_errors(job.id)
            except LeaseHeld:
                raise
            except Transient as exc:
                if not is_last_try:
                    self.unreadable = self.unreadable or exc
                    continue
                errors, is_whole = [], True
                cause = type(exc).__name__
                logger.warning("import errors not read", extra={"job_id": job.id, "cause": cause})
            if is_whole or (may_cut and place == 0):
                self._record([_failed(job, self._accepted[job.id], errors, self._open_plan)])

    def _import_errors(self, job_id: str) -> tuple[list[ImportFailure], bool]:
        """Return the errors of a job as far as there is time, and whether these are all."""
        errors: list[ImportFailure] = []
        try:
            for error in self._klaviyo.import_errors(job_id):
                errors.append(error)
                if self._is_late():
                    return errors, False
        except NotFound:  # the job went away between its status and its errors
            pass
        return errors, True

    def _record(self, events: Sequence[Event]) -> None:
        self._journal.append(events)
        for event in events:
            is_lost = isinstance(event, JobLost)
            telemetry.job(telemetry.LOST_JOB if is_lost else telemetry.COMPLETE_JOB)


def _shown(
    klaviyo: Jobs, waiting: Mapping[str, datetime], is_late: Callable[[], bool]
) -> dict[str, ImportJob]:
    """Return what the collection shows of the jobs: those under way first, then those that ended.

    So a job that takes hours does not make every round read all that ended in the account since.
    """
    shown: dict[str, ImportJob] = {}
    for statuses in (("queued", "processing"), ("complete",)):
        wanted = waiting.keys() - shown.keys()
        if not wanted:
            break
        oldest = min(waiting[job_id] for job_id in wanted)
        for job in klaviyo.jobs_since(oldest - _CLOCKS, *statuses):
            if job.id in wanted:
                shown[job.id] = job
            if wanted <= shown.keys() or is_late():
                break
    return shown


def _why_lost(job: ImportJob | None, accepted: BatchAccepted, now: datetime) -> str:
    """Return why a job that is not complete will never be, or "" while it may still complete."""
    age = now - accepted.at
    if job is None:
        return "Klaviyo does not know the job" if age.total_seconds() > UNSEEN_S else ""
    if job.status == "cancelled":
        return "the job was cancelled in Klaviyo"
    return f"the job did not end within {LONGEST_JOB}" if age > LONGEST_JOB else ""


def _failed(
    job: ImportJob,
    accepted: BatchAccepted,
    errors: Sequence[ImportFailure],
    open_plan: OpenPlan,
) -> JobEnded:
    """Return the end of a job with its failures as positions in the batch."""
    named, unnamed = _positions(errors, accepted, open_plan)
    # An error without a row may be a second one about a row that has one. As many failed as Klaviyo
    # counts, or names.
    missing = max(min(job.failed, accepted.profiles) - len(named), 0)
    unnamed += ["Klaviyo did not say which row, or why"] * (missing - len(unnamed))
    said = grouped([*named, *((None, words) for words in unnamed[:missing])])
    return JobEnded(job=job.id, completed=job.completed, said=said)


def _positions(
    errors: Sequence[ImportFailure], accepted: BatchAccepted, open_plan: OpenPlan
) -> tuple[list[Saying], list[str]]:
    """Return each failed row once, and the words that are about no row that we could find.

    A row is found by Klaviyo's index where it gave one, else by its address.
    """
    in_request = accepted.positions()
    unnumbered = [error.email for error in errors if error.index is None and error.email]
    by_email: dict[str, int] = {}
    if unnumbered:
        reader = open_plan()
        emails = {email.strip().lower() for email in unnumbered}
        by_email = reader.positions_of(reader.plan.batches[accepted.batch], emails)
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
