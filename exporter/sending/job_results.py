"""What became of the import jobs: follow each to its end and join its failures back to the rows.

Klaviyo imports later, so jobs are asked for in rounds, with growing intervals; nothing waits in
between. A round costs few requests: one page of the collection shows 100 jobs, and a job is asked
for by itself only when the collection does not show it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from exporter import telemetry
from exporter.errors import LeaseHeld, Transient
from exporter.klaviyo.responses import DUPLICATE_PROFILE, ImportFailure, ImportJob
from exporter.klaviyo.statuses import NotFound
from exporter.planning.request_bodies import PlanReader
from exporter.sending.delivery import (
    BatchAccepted,
    Event,
    JobEnded,
    JobLost,
    Saying,
    grouped,
    left_out,
)
from exporter.sending.journal import Journal
from exporter.sending.second_try import Complaint, suspected

logger = logging.getLogger(__name__)

FIRST_POLL_S = 2.0
UNSEEN_S = 600.0  # ours: a job that Klaviyo does not show so long after it took it is lost
LONGEST_JOB = timedelta(hours=24)  # ours: Klaviyo's help speaks of hours; no official figure
_CLOCKS = timedelta(minutes=10)  # ours and Klaviyo's may differ by so much

NO_WORDS = "Klaviyo did not say which row, or why"

T = TypeVar("T")

OpenPlan = Callable[[], PlanReader]


class Jobs(Protocol):
    """What confirming needs of Klaviyo."""

    def jobs_since(self, created_after: datetime, *statuses: str) -> Iterable[ImportJob]: ...
    def job(self, job_id: str) -> ImportJob | None: ...
    def import_errors(self, job_id: str) -> Iterator[ImportFailure]: ...
    def arrivals(self, job_id: str) -> Iterator[dict[str, str]]: ...


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
            outcome = _Outcome(job, self._accepted[job.id], self._open_plan)
            try:
                is_whole = self._read_failures(outcome)
            except LeaseHeld:
                raise
            except Transient as exc:
                if not is_last_try:
                    self.unreadable = self.unreadable or exc
                    continue
                is_whole = True
                cause = type(exc).__name__
                logger.warning("failures not read", extra={"job_id": job.id, "cause": cause})
            if is_whole or (may_cut and place == 0):
                omitted = self._journal.delivery.omitted.get(outcome.accepted.batch, {})
                self._record([outcome.ended(omitted)])

    def _read_failures(self, outcome: _Outcome) -> bool:
        """Find the failed rows of a job as far as there is time. Returns whether that is all."""
        job_id = outcome.job.id
        errors, is_whole = self._in_time(self._klaviyo.import_errors(job_id))
        outcome.add_errors(errors)
        if not is_whole or not outcome.unnamed:
            return is_whole
        arrivals, is_whole = self._in_time(self._klaviyo.arrivals(job_id))
        if is_whole:
            outcome.add_arrivals(arrivals)
        return is_whole

    def _in_time(self, items: Iterator[T]) -> tuple[list[T], bool]:
        """Return the items as far as there is time, and whether these are all."""
        found: list[T] = []
        try:
            for item in items:
                found.append(item)
                if self._is_late():
                    return found, False
        except NotFound:  # the job went away between its status and its errors
            pass
        return found, True

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


class _Outcome:
    """Which rows of a job failed, as far as Klaviyo says."""

    def __init__(self, job: ImportJob, accepted: BatchAccepted, open_plan: OpenPlan) -> None:
        self.job, self.accepted = job, accepted
        self._open_plan = open_plan
        self._found: dict[int, Complaint] = {}  # by position in the batch
        self._unplaced: list[str] = []  # words about rows that were not found

    @property
    def unnamed(self) -> int:
        """How many failed without a row that is known: as many as Klaviyo counts, or names.

        An error without a row may be a second one about a row that has one.
        """
        return max(min(self.job.failed, self.accepted.profiles) - len(self._found), 0)

    def add_errors(self, errors: Sequence[ImportFailure]) -> None:
        """Take in Klaviyo's errors, each about the row that its index or an identifier names."""
        in_request = self.accepted.positions()
        by_index = dict(enumerate(in_request))
        by_identifier = self._by_identifier([each for each in errors if each.index not in by_index])
        for error in errors:
            position = by_index.get(error.index) if error.index is not None else None
            if position is None:
                named = (by_identifier.get(each) for each in _identifiers(error))
                position = next((each for each in named if each is not None), None)
            words = error.words or "no reason given"
            if position is None:
                self._unplaced.append(words)
                continue
            complaint = Complaint(
                attribute=error.attribute,
                words=words,
                is_duplicate=error.code == DUPLICATE_PROFILE,
            )
            self._found.setdefault(position, complaint)

    def _by_identifier(self, errors: Sequence[ImportFailure]) -> dict[tuple[str, str], int]:
        """Return the job's rows that errors name by an identifier that no other row has."""
        values: dict[str, set[str]] = {}
        for name, value in itertools.chain.from_iterable(map(_identifiers, errors)):
            values.setdefault(name, set()).add(value)
        if not values:
            return {}
        reader, of_job = self._open_plan(), set(self.accepted.positions())
        batch = reader.plan.batches[self.accepted.batch]
        return {
            (name, value): position
            for name, wanted in values.items()
            for value, position in reader.positions_of(batch, wanted, attribute=name).items()
            if position in of_job
        }

    def add_arrivals(self, arrivals: Sequence[dict[str, str]]) -> None:
        """Take in who arrived: those who did not are the failures that nothing names.

        Nothing is concluded where more are missing than failed: Klaviyo may have merged profiles.
        """
        reader = self._open_plan()
        name = reader.plan.identifier
        arrived = {_as_planned(name, each[name]) for each in arrivals if name in each}
        batch = reader.plan.batches[self.accepted.batch]
        sent = reader.rows_at(batch, self.accepted.positions())
        missing = [
            position
            for position, row in sorted(sent.items())
            if row.identifier not in arrived and position not in self._found
        ]
        if len(missing) > self.unnamed:
            return
        words = " or ".join(list(dict.fromkeys(self._unplaced))[:3]) or NO_WORDS
        for position in missing:
            self._found[position] = Complaint(attribute="", words=words)

    def ended(self, omitted: Collection[int]) -> JobEnded:
        """Return the end of the job, with its failures as positions in the batch.

        omitted: the positions of profiles that were sent without attributes already.
        """
        again = self._second_tries(omitted)
        tried_again: dict[tuple[str, ...], list[Saying]] = {}
        for position, attributes in again.items():
            saying = position, self._found[position].words
            tried_again.setdefault(attributes, []).append(saying)
        named = [
            (position, complaint.words)
            for position, complaint in self._found.items()
            if position not in again
        ]
        unnamed = self._unplaced + [NO_WORDS] * (self.unnamed - len(self._unplaced))
        said = grouped([*named, *((None, words) for words in unnamed[: self.unnamed])])
        return JobEnded(
            job=self.job.id,
            completed=self.job.completed,
            said=said,
            left_out=left_out(tried_again),
        )

    def _second_tries(self, omitted: Collection[int]) -> dict[int, tuple[str, ...]]:
        """Return which attributes to leave out of which failed rows: each is tried twice."""
        if not self._found:
            return {}
        reader = self._open_plan()
        batch = reader.plan.batches[self.accepted.batch]
        by_paths: dict[tuple[str, ...], list[int]] = {}
        for position, complaint in self._found.items():
            paths = suspected(reader.plan.fields, complaint)
            if paths and position not in omitted:
                by_paths.setdefault(paths, []).append(position)
        return {
            position: attributes
            for paths, positions in by_paths.items()
            for position, attributes in reader.filled(batch, positions, paths).items()
            if attributes
        }


def _identifiers(error: ImportFailure) -> list[tuple[str, str]]:
    """Return what an error names its row by, as the plan writes it."""
    return [(name, _as_planned(name, value)) for name, value in error.identifiers.items()]


def _as_planned(name: str, value: str) -> str:
    return value.strip().lower() if name == "email" else value.strip()
