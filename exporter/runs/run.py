"""Runs: one attempt at one export, as a record that only moves forward. Pure.

    Queued --> Refreshing --> Successful | Completed with warnings | Failed | Canceled
       |                           ^
       +--> Skipped | Canceled     |         phases of Refreshing:  plan -> send -> confirm -> finish -> closed

A run is two blobs under runs/{run_id}/: run.json, the small document that pages and lists read, and journal.jsonl, one
line for each fact about a batch. What Klaviyo has taken (`Delivery`) is the journal replayed: applying an event that
was applied before changes nothing, so a line written twice after a crash does no harm.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from exporter.definitions.mapping import MappingDocument
from exporter.errors import ConfigError, ExporterError, SnapshotUnreadable
from exporter.planning.plan import Plan, PlannedBatch
from exporter.planning.row_rules import RejectReason
from exporter.snapshots.model_json import Dialect
from exporter.storage.protocols import BlobInfo

SCHEMA = 1


class Status(StrEnum):
    """The words that Customer Insights uses for its own exports."""

    QUEUED = "Queued"
    REFRESHING = "Refreshing"
    SUCCESSFUL = "Successful"
    WARNINGS = "Completed with warnings"
    FAILED = "Failed"
    SKIPPED = "Skipped"
    CANCELED = "Canceled"

    @property
    def is_open(self) -> bool:
        return self in (Status.QUEUED, Status.REFRESHING)


DELIVERED = (Status.SUCCESSFUL, Status.WARNINGS)


class Phase(StrEnum):
    PLAN = "plan"
    SEND = "send"
    CONFIRM = "confirm"
    FINISH = "finish"
    CLOSED = "closed"


# The manifest: what a run reads


class ManifestPartition(BaseModel):
    """One blob of the snapshot as it was when the manifest was frozen, and what model.json said of it."""

    model_config = ConfigDict(frozen=True)

    name: str
    etag: str
    size_bytes: int
    dialect: Dialect = Dialect()


class Manifest(BaseModel):
    """The frozen list of the partitions that a run reads: the newest snapshot of each of its segments."""

    model_config = ConfigDict(frozen=True)

    snapshots: list[str]  # their prefixes
    exported_at: datetime  # the newest of them
    exported: dict[str, datetime] = Field(default_factory=dict)  # each, by prefix; {}: written before it was noted
    partitions: list[ManifestPartition]
    notes: list[str] = Field(default_factory=list)  # what was passed over when it was frozen
    missing: list[str] = Field(default_factory=list)  # segments of the export that no complete snapshot is there of

    def digest(self) -> str:
        """Equal for manifests of the same blobs in the same state; without any, of the same snapshots."""
        return digest(self.partitions, otherwise=self.snapshots)


def digest(blobs: Iterable[BlobInfo | ManifestPartition], *, otherwise: Sequence[str] = ()) -> str:
    """Equal for the same blobs in the same state and order; for no blobs, of the same `otherwise`."""
    lines = [f"{blob.name}\t{blob.etag}" for blob in blobs] or otherwise
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:10]


# The run


class Counts(BaseModel):
    """Rows by how they ended. They add up to `rows`, or the run is not Successful.

    Of an open run what its plan says, as soon as there is one.
    """

    rows: int = 0
    profiles: int = 0  # fit to send
    accepted: int = 0  # in a batch that Klaviyo took
    delivered: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    jobs: int = 0
    list_members: int | None = None  # as Klaviyo counts them at the end, where the export reconciles
    list_sampled: int | None = None  # delivered profiles that were then looked up in the list
    list_missing: int = 0  # of these

    def adds_up(self) -> bool:
        return self.rows == self.delivered + self.duplicates + sum(self.rejected.values())


class Run(BaseModel):
    """The document run.json. It carries what the export said when the run began, so that later edits do not mix in."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=SCHEMA, alias="schema")
    run_id: str
    export: str
    export_name: str
    export_created_at: datetime | None = None  # tells it from another that took its id; None: not known
    connection: str
    connection_created_at: datetime | None = None  # likewise, from planning on
    list_id: str
    mapping: MappingDocument
    because: Literal["arrival", "schedule", "demand"]
    due_at: datetime | None = None  # the moment of the schedule for which the timer started it
    max_profiles: int | None = None  # a plan with more is not sent
    keep_rejected_rows: bool = False
    reconcile: bool = False
    manifest: Manifest
    status: Status = Status.QUEUED
    phase: Phase = Phase.PLAN
    step: int = 0  # counts the steps taken; a message for an earlier one is stale
    plan: str = ""  # the folder of the plan in use, once it is whole
    repairs: int = 0  # refusals spent on finding bad rows
    list_looks: int = 0  # how often the list was looked at in the end, and did not agree
    polls: int = 0  # how often Klaviyo was asked about the jobs
    unseen_jobs: list[str] = Field(default_factory=list)  # that it did not know the last time
    setbacks: int = 0  # steps put off in a row without progress
    restarts: int = 0  # how many runs before it found their snapshot changed while they read it
    created_at: datetime
    updated_at: datetime | None = None
    started_at: datetime | None = None
    sent_at: datetime | None = None  # when the last batch was accepted
    finished_at: datetime | None = None
    counts: Counts = Counts()
    message: str = ""
    hint: str = ""
    cause: str = ""  # the kind of error that ended it, such as KeyRefused
    unexpected: str = ""  # kind and place of the last error in this phase that is none of ours

    @property
    def folder(self) -> str:
        return run_folder(self.run_id)


def run_folder(run_id: str) -> str:
    """Where a run's blobs are."""
    return f"runs/{run_id}/"


RUN_ID = re.compile(r"[a-z0-9-]{1,64}/[A-Za-z0-9-]{1,100}")  # what may be one: {export}/{name}
_RUN_NAME = re.compile(r"(\d{8}T\d{4}Z)-([0-9a-f]{10})(?:-(\d{1,9}))?")
_SKIPPED_NAME = re.compile(r"(\d{8}T\d{6}Z)-skipped")


@dataclass(frozen=True, slots=True, order=True)
class RunName:
    """The last part of a run's id: 20260824T1433Z-1a2b3c4d5e, or 20260824T060000Z-skipped. Older ones sort first.

    at: the minute of its snapshot; of one that was skipped its own moment, to the second.
    """

    at: datetime
    is_skipped: bool = False
    digest: str = ""
    attempt: int = 1

    @classmethod
    def parse(cls, name: str) -> RunName | None:
        """None for what names no run."""
        try:
            if found := _RUN_NAME.fullmatch(name):
                return cls(datetime.fromisoformat(found[1]), digest=found[2], attempt=int(found[3] or 1))
            if found := _SKIPPED_NAME.fullmatch(name):
                return cls(datetime.fromisoformat(found[1]), is_skipped=True)
        except ValueError:  # digits that are no time
            pass
        return None

    def __str__(self) -> str:
        if self.is_skipped:
            return f"{self.at.astimezone(UTC):%Y%m%dT%H%M%SZ}-skipped"
        again = f"-{self.attempt}" if self.attempt > 1 else ""
        return f"{self.at.astimezone(UTC):%Y%m%dT%H%MZ}-{self.digest}{again}"


def new_run_id(export_id: str, manifest: Manifest, attempt: int) -> str:
    """A readable id, the same for the same manifest, so that of two that start it one finds it started."""
    return f"{export_id}/{RunName(manifest.exported_at, digest=manifest.digest(), attempt=attempt)}"


def skipped_run_id(export_id: str, due_at: datetime) -> str:
    """The id of a run that is skipped at its moment."""
    return f"{export_id}/{RunName(due_at, is_skipped=True)}"


def snapshot_minute(run_name: str) -> datetime | None:
    """The minute of a run's snapshot, by the last part of the run's id; None for one that was skipped."""
    found = RunName.parse(run_name)
    return found.at if found and not found.is_skipped else None


_ORDER = (Phase.PLAN, Phase.SEND, Phase.CONFIRM, Phase.FINISH, Phase.CLOSED)


def enter(run: Run, phase: Phase, *, now: datetime) -> Run:
    """The run in a later phase. Raises ValueError for going back, and for a closed run."""
    if _ORDER.index(phase) < _ORDER.index(run.phase) or not run.status.is_open:
        raise ValueError(f"run {run.run_id} cannot go from {run.status}, {run.phase} to {phase}")
    return run.model_copy(
        update={
            "phase": phase,
            "status": Status.REFRESHING,
            "started_at": run.started_at or now,
            "message": "",
            "unexpected": "",
        }
    )


def close(run: Run, status: Status, *, now: datetime, message: str = "", hint: str = "") -> Run:
    """The run ended. A finished run is never edited: closing it again changes nothing."""
    if not run.status.is_open:
        return run
    if status.is_open:
        raise ValueError(f"{status} is no end")
    return run.model_copy(
        update={"phase": Phase.CLOSED, "status": status, "finished_at": now, "message": message, "hint": hint}
    )


# The journal


class BatchAccepted(BaseModel):
    """Klaviyo took the profiles `first` to `last` (not included) of a batch, but for those left `without`."""

    kind: Literal["batch_accepted"] = "batch_accepted"
    batch: int
    first: int
    last: int
    without: list[int] = Field(default_factory=list)
    job: str
    at: datetime

    def positions(self) -> list[int]:
        """The batch's positions in the order of the request: what Klaviyo's pointers count."""
        return [position for first, last in self.stretches() for position in range(first, last)]

    @property
    def profiles(self) -> int:
        """How many Klaviyo took."""
        return sum(last - first for first, last in self.stretches())

    def stretches(self) -> Iterator[tuple[int, int]]:
        """What Klaviyo took, as ranges without gaps."""
        start = self.first
        for position in sorted(set(self.without)):
            if start <= position < self.last:
                if start < position:
                    yield start, position
                start = position + 1
        if start < self.last:
            yield start, self.last


Saying = tuple[int | None, str]  # a profile's position in its batch, None where it was not named, and Klaviyo's words


class SameSaid(BaseModel):
    """Profiles of which Klaviyo said the same. at: their positions as "0-9,12"; unnamed: how many it did not name.

    A column that is mapped wrongly costs every row, and each in the same words: kept one by one, a million of them
    take half of a small instance's memory.
    """

    words: str
    at: str = ""
    unnamed: int = 0

    def positions(self) -> Iterator[int]:
        for stretch in filter(None, self.at.split(",")):
            first, _, last = stretch.partition("-")
            yield from range(int(first), int(last or first) + 1)


MANY_SAYINGS, MANY_CHARS = 1_000, 100  # beyond so many, words are cut to so many characters, ...
MANY_WORDINGS = 100  # ... and so many wordings kept: an event fits into one line of the journal
OTHER_WORDS = "one of more than 100 different reasons"


def grouped(sayings: Iterable[Saying]) -> list[SameSaid]:
    """What Klaviyo said of profiles, by its words."""
    given = list(sayings)
    is_many = len(given) > MANY_SAYINGS
    by_words: dict[str, list[int | None]] = {}
    for position, said in given:
        words = said[:MANY_CHARS] if is_many else said
        if is_many and len(by_words) >= MANY_WORDINGS and words not in by_words:
            words = OTHER_WORDS
        by_words.setdefault(words, []).append(position)
    return [
        SameSaid(
            words=words,
            at=_stretches(sorted({position for position in positions if position is not None})),
            unnamed=positions.count(None),
        )
        for words, positions in by_words.items()
    ]


def _stretches(positions: Sequence[int]) -> str:
    """Sorted positions as "0-9,12"."""
    texts, first = [], 0
    for at, position in enumerate(positions, 1):
        if at == len(positions) or positions[at] != position + 1:
            begin = positions[first]
            texts.append(f"{begin}-{position}" if begin < position else f"{begin}")
            first = at
    return ",".join(texts)


class RowsRefused(BaseModel):
    """Klaviyo refused a batch because of these profiles; they are left out from now on."""

    kind: Literal["rows_refused"] = "rows_refused"
    batch: int
    said: list[SameSaid]


class JobEnded(BaseModel):
    """Klaviyo is done with a job and says that it completed so many of its profiles, and what of those that failed."""

    kind: Literal["job_ended"] = "job_ended"
    job: str
    completed: int
    said: list[SameSaid] = Field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(each.unnamed + sum(1 for _ in each.positions()) for each in self.said)

    def failures(self) -> Iterator[Saying]:
        """Every profile that failed: those named, in order, then the others."""
        yield from sorted((position, each.words) for each in self.said for position in each.positions())
        for each in self.said:
            yield from [(None, each.words)] * each.unnamed


class JobLost(BaseModel):
    """Klaviyo no longer knows a job that it took, or never ended it."""

    kind: Literal["job_lost"] = "job_lost"
    job: str
    why: str


Event = Annotated[BatchAccepted | RowsRefused | JobEnded | JobLost, Field(discriminator="kind")]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def encode_events(events: Iterable[Event]) -> bytes:
    """Journal lines."""
    return b"".join(event.model_dump_json().encode() + b"\n" for event in events)


def decode_events(journal: bytes) -> Iterator[Event]:
    """The events of a journal; whole lines only, see `store.complete_lines`."""
    for line in journal.splitlines():
        yield _EVENT.validate_python(json.loads(line))


@dataclass(slots=True)
class Delivery:
    """What became of the batches so far: the journal replayed."""

    accepted: dict[int, list[BatchAccepted]] = field(default_factory=dict)
    refused: dict[int, dict[int, str]] = field(default_factory=dict)
    jobs: dict[str, BatchAccepted] = field(default_factory=dict)
    ended: dict[str, JobEnded] = field(default_factory=dict)
    lost: dict[str, JobLost] = field(default_factory=dict)
    accepted_profiles: int = 0

    @classmethod
    def replay(cls, events: Iterable[Event]) -> Delivery:
        delivery = cls()
        for event in events:
            delivery.apply(event)
        return delivery

    def apply(self, event: Event) -> None:
        """Take one event in. The first word on a profile or a job stands; repetitions change nothing.

        So every profile of a batch is in one place: taken by one job, refused, or remaining.
        """
        match event:
            case BatchAccepted():
                if event.job not in self.jobs and not self._is_decided(event):
                    self.jobs[event.job] = event
                    self.accepted.setdefault(event.batch, []).append(event)
                    self.accepted_profiles += event.profiles
            case RowsRefused():
                refused = self.refused.setdefault(event.batch, {})
                for said in event.said:
                    for position in said.positions():
                        if not self._is_accepted(event.batch, position, position + 1):
                            refused.setdefault(position, said.words)
            case JobEnded():
                if event.job in self.jobs and event.job not in self.lost:
                    self.ended.setdefault(event.job, event)
            case JobLost():
                if event.job in self.jobs and event.job not in self.ended:
                    self.lost.setdefault(event.job, event)

    def _is_decided(self, event: BatchAccepted) -> bool:
        """Whether some of a job's profiles were accepted or refused before: its batch was sent twice.

        Such a job is not followed. What only it took still remains to be sent, which is harmless.
        """
        refused = self.refused.get(event.batch, {})
        return any(
            self._is_accepted(event.batch, first, last) or any(first <= position < last for position in refused)
            for first, last in event.stretches()
        )

    def _is_accepted(self, batch: int, first: int, last: int) -> bool:
        """Whether a job has taken any of these profiles."""
        return any(
            start < last and first < end
            for one in self.accepted.get(batch, ())
            if one.first < last and first < one.last
            for start, end in one.stretches()
        )

    def remaining(self, batch: PlannedBatch) -> list[tuple[int, int]]:
        """The ranges of a batch that still have profiles to send."""
        refused = self.refused.get(batch.number, {})
        start, ranges = 0, []
        for first, last in sorted(each for one in self.accepted.get(batch.number, ()) for each in one.stretches()):
            ranges.append((start, first))
            start = last
        ranges.append((start, batch.profiles))
        return [(first, last) for first, last in ranges if any(p not in refused for p in range(first, last))]

    def without(self, batch: int, first: int, last: int) -> list[int]:
        """The refused positions inside a range."""
        return sorted(position for position in self.refused.get(batch, ()) if first <= position < last)

    def open_jobs(self) -> list[str]:
        """Jobs that Klaviyo took and has not ended, oldest first."""
        return [job for job in self.jobs if job not in self.ended and job not in self.lost]

    def refused_profiles(self) -> int:
        return sum(len(rows) for rows in self.refused.values())

    def lost_profiles(self) -> int:
        return sum(self.jobs[job].profiles for job in self.lost)

    def sample(self, most: int, *, jobs: int = 20) -> dict[int, list[int]]:
        """Positions of delivered profiles by batch: at most so many, of at most so many jobs, spread over all."""
        known = [(self.jobs[job], end) for job, end in self.ended.items() if not any(each.unnamed for each in end.said)]
        chosen = known[:: -(-len(known) // jobs) or 1]
        sampled: dict[int, list[int]] = {}
        for accepted, end in chosen:
            failed = dict(end.failures())
            delivered = [position for position in accepted.positions() if position not in failed]
            share = most // len(chosen)
            sampled.setdefault(accepted.batch, []).extend(delivered[:: -(-len(delivered) // share) or 1])
        return sampled

    def failed_profiles(self) -> int:
        return sum(job.failed for job in self.ended.values())

    def unconfirmed(self, job: str) -> int:
        """How many profiles of an ended job Klaviyo counts as neither completed nor failed."""
        end = self.ended[job]
        return max(self.jobs[job].profiles - end.failed - end.completed, 0)

    def unconfirmed_profiles(self) -> int:
        return sum(self.unconfirmed(job) for job in self.ended)


def count(plan: Plan, delivery: Delivery) -> Counts:
    """The run's numbers from its plan and what Klaviyo took."""
    rejected, unconfirmed = dict(plan.rejected), delivery.unconfirmed_profiles()
    for reason, number in (
        (RejectReason.REFUSED_BY_KLAVIYO, delivery.refused_profiles()),
        (RejectReason.FAILED_IN_KLAVIYO, delivery.failed_profiles()),
        (RejectReason.UNCONFIRMED, unconfirmed),
        (RejectReason.JOB_LOST, delivery.lost_profiles()),
    ):
        if number:
            rejected[reason] = rejected.get(reason, 0) + number
    ended = sum(delivery.jobs[job].profiles for job in delivery.ended)
    return Counts(
        rows=plan.rows,
        profiles=plan.profiles,
        accepted=delivery.accepted_profiles,
        delivered=ended - delivery.failed_profiles() - unconfirmed,
        duplicates=plan.duplicates,
        rejected=rejected,
        dropped=plan.dropped,
        jobs=len(delivery.jobs),
    )


EMPTY_MESSAGE = "the snapshot is empty: it has no rows, and the list was left as it is"
EMPTY_HINT = "Check the segment in Customer Insights: it has no members, or its export did not write them."


def refusal(plan: Plan, max_profiles: int | None) -> ExporterError | None:
    """Why a plan is not sent, if it is not."""
    if not plan.rows:
        return SnapshotUnreadable(EMPTY_MESSAGE, hint=EMPTY_HINT)
    if max_profiles is not None and plan.profiles > max_profiles:
        return ConfigError(
            f"{plan.profiles:,} profiles to send are more than the export's maximum of {max_profiles:,}; "
            "nothing was sent",
            hint="Check the segment in Customer Insights. If it is right, raise the export's maximum and run it again.",
        )
    return None


def _dropped(counts: Counts) -> str:
    return ", ".join(f"{number:,} of {attribute}" for attribute, number in sorted(counts.dropped.items()))


def doubt(counts: Counts) -> tuple[str, str]:
    """What of the list does not agree with what was delivered, and what to do; empty where all of it does."""
    if counts.list_missing:
        return (
            f"{counts.list_missing:,} of {counts.list_sampled:,} that were looked up are not in the list",
            "Look at the list in an hour: Klaviyo may be late. If they are missing then, run the export again.",
        )
    if counts.list_members is None or counts.list_sampled is None:
        return (
            "Klaviyo did not answer who is in the list",
            "Look at the list in Klaviyo, and at status.klaviyo.com.",
        )
    if counts.list_members < counts.delivered:
        return (
            f"Klaviyo counts {counts.list_members:,} members of the list",
            "Klaviyo counts late: look at the list in an hour. If members are missing then, it has merged profiles.",
        )
    return "", ""


def verdict(counts: Counts, missing: Sequence[str] = (), *, reconciles: bool = False) -> tuple[Status, str, str]:
    """How a run whose every batch is settled ended: status, message, hint. missing: see Manifest."""
    status, message, hint = _verdict_on(counts, *(doubt(counts) if reconciles else ("", "")))
    if not missing or status is Status.FAILED:
        return status, message, hint
    message += f"; there is no snapshot of {', '.join(missing)}"
    hint = f"{hint} Check the segments' names, and that Customer Insights exports them.".strip()
    return Status.WARNINGS, message, hint


def _verdict_on(counts: Counts, doubtful: str, advice: str) -> tuple[Status, str, str]:
    if not counts.adds_up():
        return (
            Status.FAILED,
            "the numbers do not add up: some rows are unaccounted for",
            "Report this as a defect with the run's folder name; run the export again, which is harmless.",
        )
    rejected = sum(counts.rejected.values())
    if not counts.rows:
        return Status.FAILED, EMPTY_MESSAGE, EMPTY_HINT
    if rejected and not counts.delivered:
        return (
            Status.FAILED,
            f"none of {counts.rows:,} rows could be delivered",
            f"{_rejected_hint(counts)} Check the mapping.",
        )
    if rejected:
        return (
            Status.WARNINGS,
            f"{counts.delivered:,} of {counts.rows:,} rows delivered, {rejected:,} rejected"
            + (f"; cells left out: {_dropped(counts)}" if counts.dropped else "")
            + (f"; {doubtful}" if doubtful else ""),
            f"{_rejected_hint(counts)} {advice}".strip(),
        )
    if counts.dropped:
        return (
            Status.WARNINGS,
            f"{counts.delivered:,} profiles delivered, without cells that could not be read: {_dropped(counts)}"
            + (f"; {doubtful}" if doubtful else ""),
            "The report names the first of these cells by file and line. Check them, and how the mapping reads them."
            + (f" {advice}" if advice else ""),
        )
    if doubtful:
        return Status.WARNINGS, f"{counts.delivered:,} profiles delivered, but {doubtful}", advice
    return Status.SUCCESSFUL, f"{counts.delivered:,} profiles delivered", ""


def _rejected_hint(counts: Counts) -> str:
    hint = "Read rejected.csv in the run's folder: it names file, line and reason of each."
    if unconfirmed := counts.rejected.get(RejectReason.UNCONFIRMED):
        hint += (
            f" What became of {unconfirmed:,} of them Klaviyo does not say, nor which they are: run the export again,"
            " which is harmless. If as many come again, look at the import jobs in Klaviyo: it may merge profiles."
        )
    return hint
