"""What handling a message comes to: a closed set of values, each with the fields of its log line.

    a step of a run       Delivered | Failed | Skipped | Canceled | Stale | Again
    a look at a snapshot  RunsStarted | NobodyWaits | SnapshotFailed | Again
    anything else         NotUnderstood

The dispatcher turns a result into the next message, if there is one, and into one log line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from exporter.errors import ExporterError, Transient
from exporter.runs.run import Run, Status

LONGEST_WAIT_S = 300.0  # between two tries of a step

Message = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Result:
    level: ClassVar[int] = logging.INFO

    def fields(self) -> dict[str, object]:
        """Return the fields of the log line."""
        return {}


@dataclass(frozen=True, slots=True)
class Again(_Result):
    """Go on with this message after a while.

    There is more to do, or something stands in the way.
    """

    message: Message
    after_s: float = 0.0
    why: str = ""

    def fields(self) -> dict[str, object]:
        return {"wait_s": self.after_s, "cause": self.why}


@dataclass(frozen=True, slots=True)
class _RunOver(_Result):
    run: Run

    def fields(self) -> dict[str, object]:
        return {"run_id": self.run.run_id}


@dataclass(frozen=True, slots=True)
class Delivered(_RunOver):
    """The run ended: Klaviyo has what it could take."""


@dataclass(frozen=True, slots=True)
class Failed(_RunOver):
    """The run ended: it could not go on."""


@dataclass(frozen=True, slots=True)
class Skipped(_RunOver):
    """The run ended: there was nothing for it to do."""


@dataclass(frozen=True, slots=True)
class Canceled(_RunOver):
    """The run ended: a person stopped it or took back what it stood on."""


@dataclass(frozen=True, slots=True)
class Stale(_Result):
    """The message is of a step that was taken, or of a run that is over or gone."""

    run_id: str

    def fields(self) -> dict[str, object]:
        return {"run_id": self.run_id}


@dataclass(frozen=True, slots=True)
class RunsStarted(_Result):
    """The snapshot is complete: every export that waited for it has a run."""

    segment: str

    def fields(self) -> dict[str, object]:
        return {"segment": self.segment}


@dataclass(frozen=True, slots=True)
class NobodyWaits(_Result):
    """No active export waits for this segment's snapshots, or the snapshot is gone."""

    segment: str

    def fields(self) -> dict[str, object]:
        return {"segment": self.segment}


@dataclass(frozen=True, slots=True)
class SnapshotFailed(_Result):
    """The snapshot never became complete, or could not be looked at.

    Its exports have failed runs.
    """

    level: ClassVar[int] = logging.ERROR

    segment: str
    why: str

    def fields(self) -> dict[str, object]:
        return {"segment": self.segment, "cause": self.why}


@dataclass(frozen=True, slots=True)
class NotUnderstood(_Result):
    """The message is none of ours, or of another version. It is dropped."""

    level: ClassVar[int] = logging.ERROR


StepResult = Delivered | Failed | Skipped | Canceled | Stale | Again
LookResult = RunsStarted | NobodyWaits | SnapshotFailed | NotUnderstood | Again
Result = StepResult | LookResult


def run_over(run: Run) -> Delivered | Failed | Skipped | Canceled:
    """Return the result of a step that ended its run."""
    match run.status:
        case Status.FAILED:
            return Failed(run)
        case Status.SKIPPED:
            return Skipped(run)
        case Status.CANCELED:
            return Canceled(run)
        case _:
            return Delivered(run)


def step_message(run: Run) -> dict[str, object]:
    """Return the message that takes a run's next step."""
    return {"do": "step", "run": run.run_id, "step": run.step}


def settle_message(blob_name: str, *, missed: bool = False) -> dict[str, object]:
    """Return the message that looks at the snapshot of a blob. missed: no event told of it."""
    return {"do": "settle", "blob": blob_name} | ({"missed": True} if missed else {})


def backoff_s(tries: int, error: ExporterError) -> float:
    """Return the seconds to wait after so many failures; longer where the error asks for it."""
    asked_s = error.retry_after_s if isinstance(error, Transient) else None
    return min(max(asked_s or 0, 2.0**tries), LONGEST_WAIT_S)
