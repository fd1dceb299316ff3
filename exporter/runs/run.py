"""Runs: one attempt at one export, as a record that only moves forward. Pure.

    Queued --> Refreshing --> Successful | Completed with warnings | Failed | Canceled
       |
       +--> Skipped | Canceled

    phases of Refreshing:  plan -> send <-> confirm -> finish -> closed

A run is two blobs under runs/{run_id}/: run.json, the small document that pages and lists read, and
journal.jsonl, one line for each fact about a batch. What Klaviyo has taken (`Delivery`) is the
journal replayed: applying an event that was applied before changes nothing, so a line written twice
after a crash does no harm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.definitions.mapping import MappingDocument
from exporter.rejection_reasons import RejectReason
from exporter.snapshots.manifest import Manifest

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
    attributes_refused: dict[str, int] = Field(default_factory=dict)  # delivered without these
    jobs: int = 0
    list_members: int | None = (
        None  # as Klaviyo counts them at the end, where the export reconciles
    )
    list_sampled: int | None = None  # delivered profiles that were then looked up in the list
    list_missing: int = 0  # of these

    def adds_up(self) -> bool:
        return self.rows == self.delivered + self.duplicates + sum(self.rejected.values())

    @property
    def unknown(self) -> int:
        """Accepted profiles of which Klaviyo has told neither an import nor a failure."""
        failed = self.rejected.get(RejectReason.FAILED_IN_KLAVIYO, 0)
        return max(self.accepted - self.delivered - failed, 0)

    @property
    def under_way(self) -> int:
        """Accepted profiles that Klaviyo is still at work on, as far as is known."""
        given_up = (RejectReason.UNCONFIRMED, RejectReason.JOB_LOST)
        return max(self.unknown - sum(self.rejected.get(reason, 0) for reason in given_up), 0)


# Why a run began. "hourly look": its snapshot had arrived, and no event told of it.
Because = Literal["arrival", "hourly look", "schedule", "demand"]


class Run(BaseModel):
    """The document run.json.

    It carries what the export said when the run began, so that later edits do not mix in.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=SCHEMA, alias="schema")
    run_id: str
    export: str
    export_name: str
    export_created_at: datetime | None = (
        None  # tells it from another that took its id; None: not known
    )
    connection: str
    connection_created_at: datetime | None = None  # likewise, from planning on
    list_id: str
    mapping: MappingDocument
    because: Because
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
    phase_at: datetime | None = None  # when it entered its phase
    waits_until: datetime | None = None  # when its next step is due, if that is not at once
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

    @property
    def is_counted(self) -> bool:
        """Whether its files were read, so that its numbers say something."""
        return bool(self.plan or self.counts.rows)


def run_folder(run_id: str) -> str:
    """Where a run's blobs are."""
    return f"runs/{run_id}/"


RUN_ID = re.compile(r"[a-z0-9-]{1,64}/[A-Za-z0-9-]{1,100}")  # what may be one: {export}/{name}
_RUN_NAME = re.compile(r"(\d{8}T\d{4}Z)-([0-9a-f]{10})(?:-(\d{1,9}))?")
_SKIPPED_NAME = re.compile(r"(\d{8}T\d{6}Z)-skipped")


@dataclass(frozen=True, slots=True, order=True)
class RunName:
    """The last part of a run's id: 20260824T1433Z-1a2b3c4d5e, or 20260824T060000Z-skipped.

    Older ones sort first.

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
                return cls(
                    datetime.fromisoformat(found[1]), digest=found[2], attempt=int(found[3] or 1)
                )
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
    """Return a readable id, the same for the same manifest, so that a run is started once."""
    return f"{export_id}/{RunName(manifest.exported_at, digest=manifest.digest(), attempt=attempt)}"


def skipped_run_id(export_id: str, due_at: datetime) -> str:
    """The id of a run that is skipped at its moment."""
    return f"{export_id}/{RunName(due_at, is_skipped=True)}"


def snapshot_minute(run_name: str) -> datetime | None:
    """The minute of a run's snapshot, by the last part of the run's id.

    None for one that was skipped.
    """
    found = RunName.parse(run_name)
    return found.at if found and not found.is_skipped else None


_ORDER = (Phase.PLAN, Phase.SEND, Phase.CONFIRM, Phase.FINISH, Phase.CLOSED)
_BACK = (Phase.CONFIRM, Phase.SEND)  # rows that Klaviyo could not import are sent once more


def enter(run: Run, phase: Phase, *, now: datetime) -> Run:
    """The run in a later phase. Raises ValueError for going back, and for a closed run.

    From CONFIRM it may go back to SEND.
    """
    is_back = _ORDER.index(phase) < _ORDER.index(run.phase) and (run.phase, phase) != _BACK
    if is_back or not run.status.is_open:
        raise ValueError(f"run {run.run_id} cannot go from {run.status}, {run.phase} to {phase}")
    return run.model_copy(
        update={
            "phase": phase,
            "status": Status.REFRESHING,
            "started_at": run.started_at or now,
            "phase_at": run.phase_at if phase is run.phase and run.phase_at else now,
            "waits_until": None,
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
        update={
            "phase": Phase.CLOSED,
            "status": status,
            "finished_at": now,
            "waits_until": None,
            "message": message,
            "hint": hint,
        }
    )
