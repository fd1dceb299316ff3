"""What a step ends in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.errors import (
    ExporterError,
    Transient,
)
from exporter.runs.run import Run

LONGEST_WAIT_S = 300.0  # between two of them


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to do for this message."""


@dataclass(frozen=True, slots=True)
class Next:
    """Go on with this message, after a while."""

    message: Mapping[str, object]
    after_s: float = 0.0


StepResult = Done | Next


def step_message(run: Run) -> dict[str, object]:
    """The message that takes a run's next step."""
    return {"do": "step", "run": run.run_id, "step": run.step}


def backoff_s(tries: int, error: ExporterError) -> float:
    asked_s = error.retry_after_s if isinstance(error, Transient) else None
    return min(max(asked_s or 0, 2.0**tries), LONGEST_WAIT_S)
