"""Messages of the work queue: each is handled once, and its result becomes the next message.

    settle message    a snapshot is checked: arrivals.py
    step message      a run goes one step further: attempt.py, run_step.py

Any message may come twice, late, or after whoever had it died at any line. What was recorded
counts; the rest is done again.
"""

from __future__ import annotations

import logging

from exporter import telemetry
from exporter.errors import DocumentUnreadable
from exporter.logs import bound_run
from exporter.orchestration.arrivals import Arrivals
from exporter.orchestration.attempt import Attempt
from exporter.orchestration.results import (
    Again,
    Message,
    NotUnderstood,
    Result,
    Stale,
    StepResult,
    step_message,
)
from exporter.runs.run import Status
from exporter.runs.run_store import Ending, RunStore
from exporter.storage.protocols import WorkQueue

logger = logging.getLogger(__name__)

DEFECT_HINT = (
    "This is a defect. Report it with this message, which holds no personal data, and the version. "
    "Running the export again, or on another snapshot, is harmless."
)
KILLED = "it left no error behind, so the app was killed or stopped each time"
KILLED_HINT = (
    "Look for this run id in the logs. Usually memory ran out (lower MEMORY_MB, or take larger "
    "instances), or time (lower STEP_SECONDS). Then run the export again. That is harmless."
)


class Dispatcher:
    """Handles messages. Safe to share between invocations: it keeps nothing in memory."""

    def __init__(
        self, arrivals: Arrivals, attempt: Attempt, runs: RunStore, queue: WorkQueue
    ) -> None:
        self._arrivals, self._attempt = arrivals, attempt
        self._runs, self._queue = runs, queue

    def handle(self, message: Message, *, redelivered: bool = False) -> Result:
        """Do what a message says, log what it came to, and queue what follows.

        redelivered: the message was delivered before, so whoever had it may have died before
        queueing the next one.
        """
        result = self._do(message, redelivered=redelivered)
        fields = {"outcome": type(result).__name__, **result.fields()}
        logger.log(result.level, "message handled", extra=fields)
        if isinstance(result, Again):
            self._queue.put(result.message, delay_s=result.after_s)
        return result

    def close_poisoned(self, message: Message) -> None:
        """Mark the run behind a poison message as failed.

        For a settle message: record a failed run for each export that waited for the snapshot.
        """
        if message.get("do") == "settle":
            self._arrivals.close_poisoned(str(message.get("blob")))
            return
        run_id = message.get("run")
        try:
            found = self._runs.read(run_id) if isinstance(run_id, str) else None
        except DocumentUnreadable as exc:
            fields = {"cause": exc.message}
            logger.error("poison message of a run that cannot be read", extra=fields)
            return
        if found is None:
            logger.error("poison message without a run", extra={"cause": str(message.get("do"))})
            return
        run, etag = found
        ending = Ending(
            status=Status.FAILED,
            message=f"the step {run.phase} failed repeatedly: {run.unexpected or KILLED}",
            hint=DEFECT_HINT if run.unexpected else KILLED_HINT,
        )
        self._runs.end(run, ending, etag=etag)

    def _do(self, message: Message, *, redelivered: bool) -> Result:
        match message:
            case {"do": "settle", "blob": str(blob_name)}:
                return self._arrivals.check_snapshot(message, blob_name, redelivered=redelivered)
            case {"do": "step", "run": str(run_id), "step": int(step)}:
                return self._take_step(run_id, step, redelivered=redelivered)
            case _:
                return NotUnderstood()

    def _take_step(self, run_id: str, step: int, *, redelivered: bool) -> StepResult:
        found = self._runs.read(run_id)
        if found is None:
            return Stale(run_id)
        run, etag = found
        if not run.status.is_open:
            self._runs.clean_up_after(run)
            return Stale(run_id)
        if step != run.step:
            # The step was taken. Whoever took it queued the next message, unless they died first:
            # then this is a redelivery.
            return Again(step_message(run), 0.0, "taken before") if redelivered else Stale(run_id)
        with bound_run(run_id), telemetry.step(run_id, step):
            return self._attempt.take_step(run, etag)
