"""Runs begin here, whoever asks: an arrival, a schedule, or a person.

A run's id is made from its export and manifest. So of two that start the same run one finds it
started.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import datetime

from exporter.definitions.definition import is_same_document
from exporter.definitions.export import Export
from exporter.errors import AlreadyThere, ConfigError, StoreMoved
from exporter.orchestration.results import step_message
from exporter.runs.run import Because, Run, Status, new_run_id, skipped_run_id
from exporter.runs.run_store import Ending, RunStore
from exporter.snapshots.container import SnapshotContainer
from exporter.snapshots.manifest import Manifest
from exporter.storage.protocols import WorkQueue

logger = logging.getLogger(__name__)

# What a run takes over from its export: while these are equal, an open run does what the export
# says.
_TAKEN_OVER = ("mapping", "max_profiles", "keep_rejected_rows", "reconcile")


class RunStarter:
    """Creates runs and queues their first step.

    Safe to share: it keeps nothing of them in memory.
    """

    def __init__(
        self,
        container: SnapshotContainer,
        runs: RunStore,
        queue: WorkQueue,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._container, self._runs, self._queue, self._now = container, runs, queue, now

    def start(self, export: Export) -> Run:
        """Start a run on the newest snapshots because a person asked for it.

        Raises NoSnapshot, and ConfigError for an export without a connection.
        """
        if export.connection is None:
            raise ConfigError(f"{export.name} is detached", hint="Give the export a connection.")
        return self.start_on(export, self._container.freeze_newest(export), because="demand")

    def start_on(
        self,
        export: Export,
        manifest: Manifest,
        *,
        because: Because,
        due_at: datetime | None = None,
        skipped_before: str = "",
    ) -> Run:
        """Start a run on a manifest, or return the one that is open on it.

        A schedule skips a manifest that an attempt has delivered to the export's list. Attempts
        that failed or were canceled do not count. due_at: the schedule's moment; there is one run
        for it. skipped_before: see `record_skipped`.
        """
        attempt = 1
        while True:
            run = self.create(export, manifest, because=because, attempt=attempt, due_at=due_at)
            if run is not None:
                return run
            found = self._runs.readable(new_run_id(export.id, manifest, attempt))
            if found and found.status.is_open:
                if self._goes_on(found, export):
                    return found
            elif found and because == "schedule":
                if due_at and found.due_at == due_at:
                    return found  # another instance started it
                has_delivered = found.status not in (Status.FAILED, Status.CANCELED)
                if has_delivered and _goes_to_list_of(export, found):
                    return self.record_skipped(
                        export,
                        due_at or self._now(),
                        message="no new snapshot since the last run",
                        manifest=manifest,
                        before=skipped_before,
                    )
            attempt += 1

    def create(
        self,
        export: Export,
        manifest: Manifest,
        *,
        because: Because,
        attempt: int,
        due_at: datetime | None = None,
        restarts: int = 0,
    ) -> Run | None:
        """Create a run and queue its first step.

        None where it exists: it was started, or ran before.
        """
        run = self._new_run(export, manifest, because=because, attempt=attempt, due_at=due_at)
        run = run.model_copy(update={"restarts": restarts})
        try:
            self._runs.create(run)
        except AlreadyThere:
            return None
        logger.info("run created", extra={"run_id": run.run_id})
        self.queue_first_step(run)
        return run

    def queue_first_step(self, run: Run) -> None:
        """Queue an open run's next step, again where that may have been lost.

        The timer looks after it.
        """
        self._runs.list_as_open(run)
        self._queue.put(step_message(run))

    def record_failed(self, export: Export, manifest: Manifest, *, message: str, hint: str) -> None:
        """Record a run that failed before it began, on a snapshot that cannot be read."""
        run = self._new_run(export, manifest, because="arrival", attempt=1)
        self._record_ended(run, Ending(status=Status.FAILED, message=message, hint=hint))

    def record_skipped(
        self,
        export: Export,
        due_at: datetime,
        *,
        message: str,
        hint: str = "",
        manifest: Manifest | None = None,
        before: str = "",
    ) -> Run:
        """Record that a schedule's moment had nothing to do.

        before: the run that the moment before was skipped with. If its reason was the same, it
        stands for this moment too: a schedule of every minute would fill the history.
        """
        manifest = manifest or Manifest(snapshots=[], exported_at=due_at, partitions=[])
        last = self._runs.run(before) if before else None
        if last and (last.message, last.manifest.digest()) == (message, manifest.digest()):
            return last
        run = self._new_run(export, manifest, because="schedule", attempt=1, due_at=due_at)
        run = run.model_copy(update={"run_id": skipped_run_id(export.id, due_at)})
        return self._record_ended(run, Ending(status=Status.SKIPPED, message=message, hint=hint))

    def _record_ended(self, run: Run, ending: Ending) -> Run:
        """Record a run that is over before it begins.

        It was never open, so nothing sets it going.
        """
        with contextlib.suppress(StoreMoved):  # somebody was faster
            return self._runs.end(run, ending, etag=None)
        return self._runs.readable(run.run_id) or run.model_copy(update={"status": ending.status})

    def _goes_on(self, run: Run, export: Export) -> bool:
        """Make an open run go on, or stop where its export was changed.

        False if another is to follow.
        """
        is_current = _does_what_it_says(export, run)
        if not is_current:
            self._runs.cancel(run.run_id, why="the export was changed; a new run follows")
        self.queue_first_step(run)  # its own message may be lost
        return is_current and self._runs.why_cancelled(run.run_id) is None

    def _new_run(
        self,
        export: Export,
        manifest: Manifest,
        *,
        because: Because,
        attempt: int,
        due_at: datetime | None = None,
    ) -> Run:
        return Run(
            run_id=new_run_id(export.id, manifest, attempt),
            export=export.id,
            export_name=export.name,
            export_created_at=export.created.at if export.created else None,
            connection=export.connection or "",  # a detached export is not started
            list_id=export.list_id,
            mapping=export.mapping,
            because=because,
            due_at=due_at,
            max_profiles=export.max_profiles,
            keep_rejected_rows=export.keep_rejected_rows,
            reconcile=export.reconcile,
            manifest=manifest,
            created_at=self._now(),
        )


def _does_what_it_says(export: Export, run: Run) -> bool:
    """Say whether an open run does what its export says now."""
    return _goes_to_list_of(export, run) and all(
        getattr(run, name) == getattr(export, name) for name in _TAKEN_OVER
    )


def _goes_to_list_of(export: Export, run: Run) -> bool:
    """Say whether a run is of this very export, and goes to the list that it names now."""
    is_same_list = (run.connection, run.list_id) == (export.connection, export.list_id)
    return is_same_list and is_same_document(export, run.export_created_at)
