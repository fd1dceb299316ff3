"""What happens before a run exists.

A blob arrives, its snapshot is checked until it is complete, then runs begin.

    on_blob_arrived ──> settle message ──> check_snapshot
        complete: a run for each export that waits for it
        not yet, or something stands in the way: this message again, later
        never complete: a failed run for each export, which says why

Blob events come at least once, in any order, some for empty blobs. They are hints only: runs are
made of what is in the container.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from exporter.definitions.catalog import Catalog
from exporter.definitions.export import Export
from exporter.errors import ExporterError
from exporter.orchestration.results import (
    Again,
    LookResult,
    Message,
    NobodyWaits,
    NotUnderstood,
    RunsStarted,
    SnapshotFailed,
    backoff_s,
    settle_message,
)
from exporter.orchestration.start_run import RunStarter
from exporter.runs.run import Because, Status, new_run_id
from exporter.runs.run_store import AGAIN_HINT, RunStore
from exporter.snapshots.completeness import NeverCame, NotYet, Settled
from exporter.snapshots.container import Arrived, SnapshotContainer
from exporter.snapshots.manifest import Manifest
from exporter.snapshots.paths import (
    NotASnapshot,
    SnapshotRef,
    is_model,
    parse_blob_name,
)
from exporter.storage.protocols import WorkQueue

logger = logging.getLogger(__name__)

LONGEST_CHECK = timedelta(hours=1)  # from the first check of a snapshot to its last try, at most
UNKNOWN_HINT = (
    "Look for it in the logs, mend the cause, then run the export again. That is harmless."
)


class Arrivals:
    """Snapshots from their arrival to the runs on them.

    Safe to share: it keeps nothing in memory.
    """

    def __init__(
        self,
        container: SnapshotContainer,
        catalog: Catalog,
        runs: RunStore,
        starter: RunStarter,
        queue: WorkQueue,
        *,
        now: Callable[[], datetime],
        setbacks: int,
    ) -> None:
        """setbacks: failures in a row after which checking a snapshot is given up."""
        self._container, self._catalog, self._runs = container, catalog, runs
        self._starter, self._queue, self._now = starter, queue, now
        self._setbacks = setbacks

    def on_blob_arrived(self, blob_name: str) -> None:
        """Queue a check of the blob's snapshot, for when it may be complete.

        Other blobs are ignored.
        """
        if is_model(blob_name):
            self.queue_check(blob_name, delay_s=self._container.settle_s)
            return
        try:
            ref = parse_blob_name(blob_name)
        except NotASnapshot as exc:
            logger.info("blob ignored", extra={"cause": exc.message})
            return
        delay_s = self._container.settle_s
        logger.info("blob noted", extra={"segment": ref.segment, "wait_s": delay_s})
        self.queue_check(blob_name, delay_s=delay_s)

    def queue_check(self, blob_name: str, *, delay_s: float = 0, missed: bool = False) -> None:
        """Queue a check of the snapshot of a blob. missed: no event told of it."""
        self._queue.put(settle_message(blob_name, missed=missed), delay_s=delay_s)

    def check_snapshot(self, message: Message, blob_name: str, *, redelivered: bool) -> LookResult:
        """Start the runs on a blob's snapshot if it is complete, else come back.

        Whatever stands in the way is tried again a limited number of times. That includes what a
        person must mend: a new role takes minutes to count.
        """
        try:
            ref = None if is_model(blob_name) else parse_blob_name(blob_name)
        except NotASnapshot:
            return NotUnderstood()
        tries = int(str(message.get("tries", 0)))
        try:
            if ref is None:
                return self._check_described(blob_name)
            return self._check(ref, message, redelivered=redelivered or tries > 0)
        except ExporterError as exc:
            tries += 1
            if tries <= self._setbacks:
                return Again({**message, "tries": tries}, backoff_s(tries, exc), exc.message)
            why = f"{exc.message}, {self._setbacks} times in a row"
            if (
                ref is not None
            ):  # the snapshots that a model.json describes are checked by themselves
                self._fail_unchecked(ref, why, hint=exc.hint)
            return SnapshotFailed(ref.segment if ref else blob_name, why)

    def close_poisoned(self, blob_name: str) -> None:
        """Checking this snapshot kept failing.

        Record a failed run for each export that waited for it.
        """
        try:
            ref = parse_blob_name(blob_name)
        except NotASnapshot:
            logger.error("poison message without a snapshot")
            return
        self._fail_unchecked(
            ref, "the exporter fails, for a reason that it does not know", hint=UNKNOWN_HINT
        )

    def has_run(self, export: Export, ref: SnapshotRef, *, since: datetime) -> bool:
        """Say whether a run of an export on a snapshot was created since then."""
        return any(
            ref.prefix in run.manifest.snapshots and run.created_at >= since
            for run in self._runs.on_snapshots_since(export.id, ref.exported_at or since)
        )

    # One check

    def _check(self, ref: SnapshotRef, message: Message, *, redelivered: bool) -> LookResult:
        exports = [export for export in self._catalog.exports() if _waits_for(export, ref)]
        if not exports:
            return NobodyWaits(ref.segment)
        state = self._container.completeness_of(ref, [export.mapping for export in exports])
        match state:
            case NotYet(wait_s, why):
                return Again({**message, "tries": 0}, wait_s, why)
            case Settled():
                because: Because = "hourly look" if message.get("missed") else "arrival"
                self._start_each(exports, ref, because=because, redelivered=redelivered)
                return RunsStarted(ref.segment)
            case NeverCame(missing):
                why = f"{len(missing)} partitions that model.json names never came"
                for export in exports:
                    self._starter.record_failed(
                        export,
                        self._container.freeze([ref]),
                        message=f"the snapshot is incomplete: {why}",
                        hint="Look at the export's status in Customer Insights, and run it again "
                        "there.",
                    )
                return SnapshotFailed(ref.segment, why)
            case _:
                return NobodyWaits(ref.segment)

    def _check_described(self, model_name: str) -> LookResult:
        """When a model.json arrives, check the newest snapshots that it may describe again.

        If it now describes the files differently, failed runs start over.
        """
        newest: dict[str, Arrived] = {}
        for each in self._container.described_by(model_name):
            newest.setdefault(each.ref.segment, each)
        for each in newest.values():
            self.queue_check(each.last.name)
        return RunsStarted(model_name)

    def _start_each(
        self, exports: Sequence[Export], ref: SnapshotRef, *, because: Because, redelivered: bool
    ) -> None:
        """Start a run for each export. One that cannot be started does not keep the others back.

        Raises the first error at the end.
        """
        errors = []
        for export in exports:
            try:
                self._start(export, ref, because=because, redelivered=redelivered)
            except ExporterError as exc:
                errors.append(exc)
        if errors:
            raise errors[0]

    def _start(
        self, export: Export, ref: SnapshotRef, *, because: Because, redelivered: bool
    ) -> None:
        others = [segment for segment in export.segments if not ref.is_of(segment)]
        newest = self._container.newest_of_each(others, [export.mapping])
        found = {**dict.fromkeys(export.segments, ref), **newest}
        manifest = self._container.freeze_each(export, found)
        attempt = 1
        while not self._starter.create(export, manifest, because=because, attempt=attempt):
            run = self._runs.readable(new_run_id(export.id, manifest, attempt))
            if run and run.status is Status.FAILED and run.manifest != manifest:
                attempt += 1  # model.json now describes the same files differently
                continue
            if run and run.status is Status.QUEUED and redelivered:
                # Whoever had this message before may have died between creating the run and
                # queueing its first step.
                self._starter.queue_first_step(run)
            return

    def _fail_unchecked(self, ref: SnapshotRef, why: str, *, hint: str = "") -> None:
        """Record a failed run for each export that waits for this snapshot."""
        now = self._now()
        manifest = Manifest(
            snapshots=[ref.prefix], exported_at=ref.exported_at or now, partitions=[]
        )
        for export in self._catalog.exports():
            if not _waits_for(export, ref):
                continue
            if self.has_run(export, ref, since=now - LONGEST_CHECK):
                continue
            self._starter.record_failed(
                export,
                manifest,
                message=f"a snapshot arrived and could not be looked at: {why}",
                hint=hint or AGAIN_HINT,
            )


def _waits_for(export: Export, ref: SnapshotRef) -> bool:
    is_waiting = export.is_active and export.schedule.on == "arrival"
    return is_waiting and any(ref.is_of(segment) for segment in export.segments)
