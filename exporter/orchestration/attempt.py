"""One attempt at a step of a run, under the lease on its account.

Every known error becomes a result.

lease held elsewhere, run taken over    again, soon
a person withdrew                       the run is Canceled
transient                               again, after a growing while, a limited number of times
the snapshot changed                    a new run reads it as it is now
anything else that we know              the run is Failed
unknown                                 raised: the message comes again; the run notes the error
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import timedelta

import duckdb

from exporter import telemetry
from exporter.definitions.catalog import Catalog
from exporter.definitions.export import Export
from exporter.errors import (
    DiskTooSmall,
    ExporterError,
    KeyRefused,
    LeaseHeld,
    PartitionChanged,
    RunCanceled,
    StoreMoved,
    Transient,
)
from exporter.klaviyo.rate_limit import Pacer
from exporter.logs import kind_and_place
from exporter.orchestration import lease
from exporter.orchestration.lease import AccountLeases, HeldLease
from exporter.orchestration.results import Again, StepResult, backoff_s, step_message
from exporter.orchestration.run_step import Collaborators, RunStep
from exporter.orchestration.start_run import RunStarter
from exporter.planning.disk_space import is_full
from exporter.runs.run import Run, Status, new_run_id
from exporter.snapshots.completeness import Completeness, NotYet, Settled
from exporter.snapshots.container import SnapshotContainer
from exporter.snapshots.manifest import Manifest
from exporter.snapshots.paths import NotASnapshot, SnapshotRef, parse_blob_name

logger = logging.getLogger(__name__)

RESTARTS = 3  # runs in a row whose snapshot changed while it was read, before the last one fails
SOON_S = 5.0  # until whoever has the run or the account is done with it, perhaps

CHANGED = "the snapshot changed while it was read"


class Attempt:
    """Takes steps of runs. Safe to share: it keeps nothing of a run in memory."""

    def __init__(
        self,
        with_: Collaborators,
        leases: AccountLeases,
        catalog: Catalog,
        container: SnapshotContainer,
        starter: RunStarter,
    ) -> None:
        self._with, self._leases = with_, leases
        self._catalog, self._container, self._starter = catalog, container, starter

    def take_step(self, run: Run, etag: str) -> StepResult:
        """Take the run's next step. Raises only what is unknown, and keeps its place in the run."""
        try:
            held = self._leases.take(run)
        except LeaseHeld as exc:
            return Again(step_message(run), exc.retry_after_s or SOON_S, exc.message)
        pacer = _pacer(held, self._with.limits.pacer_share)
        step = RunStep(self._with, run, etag, held, pacer)
        with self._keeping_unexpected(step):
            try:
                with lease.kept(held, pacer=pacer.to_json):
                    return self._take(step)
            except LeaseHeld as exc:
                return Again(step_message(step.run), exc.retry_after_s or SOON_S, exc.message)
            except StoreMoved as exc:
                return Again(step_message(step.run), SOON_S, exc.message)
            except ExporterError as exc:
                error = exc
            except (
                OSError,
                duckdb.IOException,
            ) as exc:  # files on this disk; remote errors are ours
                error = _disk_error(exc)
        with self._keeping_unexpected(step):
            try:
                return self._conclude(step, error)
            except (
                StoreMoved
            ) as exc:  # another instance has the run: the message is stale, or waits
                return Again(step_message(step.run), SOON_S, exc.message)

    def _take(self, step: RunStep) -> StepResult:
        try:
            return step.take(deadline=self._with.clock() + self._with.limits.step_s)
        except PartitionChanged:
            return self._start_over(step)

    @contextlib.contextmanager
    def _keeping_unexpected(self, step: RunStep) -> Iterator[None]:
        """Note an unknown error in the run, for whoever closes it if the step fails each time."""
        try:
            yield
        except Exception as exc:
            changed = step.run.model_copy(update={"unexpected": kind_and_place(exc)})
            with contextlib.suppress(ExporterError):  # the first error is the one to be seen
                self._with.runs.save(changed, step.etag)
            raise

    def _conclude(self, step: RunStep, error: ExporterError) -> StepResult:
        """Return what follows from an error that ended a step."""
        if isinstance(error, KeyRefused):
            error = step.error_of_key(error)
        match error:
            case RunCanceled():
                return step.end_early(Status.CANCELED, message=error.message, hint=error.hint)
            case Transient():
                return self._put_off(step, error)
            case _:
                step.run = step.run.model_copy(update={"cause": type(error).__name__})
                return step.end_early(Status.FAILED, message=error.message, hint=error.hint)

    def _put_off(self, step: RunStep, error: Transient) -> StepResult:
        """Wait and try again, a limited number of times: nothing is retried for ever."""
        most = self._with.limits.setbacks
        setbacks = 1 if step.has_progressed else step.run.setbacks + 1
        if setbacks > most:
            message = f"gave up after {most} tries without progress: {error.message}"
            return step.end_early(Status.FAILED, message=message, hint=error.hint)
        wait_s = backoff_s(setbacks, error)
        fields = {"cause": type(error).__name__, "wait_s": wait_s, "attempt": setbacks}
        logger.warning("step put off", extra=fields)
        telemetry.waited(wait_s, telemetry.SETBACK_WAIT)
        changes = {
            "step": step.run.step + 1,
            "setbacks": setbacks,
            "waits_until": self._with.now() + timedelta(seconds=wait_s),
            "message": error.message,
            "hint": error.hint,
        }
        changed, _ = self._with.runs.save(step.run.model_copy(update=changes), step.etag)
        return Again(step_message(changed), wait_s, error.message)

    # The snapshot changed while it was read

    def _start_over(self, step: RunStep) -> StepResult:
        """Let a new run read the snapshot once it has settled; this run ends."""
        run = step.run
        export = self._catalog.export(run.export)
        if export is None or self._container.is_gone(run.manifest):
            return step.end_early(
                Status.SKIPPED if run.because in ("arrival", "hourly look") else Status.FAILED,
                message="the snapshot is gone: its files were deleted while they were read",
                hint="Run the export in Customer Insights again.",
            )
        states = {
            ref: self._container.completeness_of(ref, [run.mapping])
            for ref in _refs_of(run.manifest)
        }
        manifest = self._freeze_settled(export, states)
        waits = [state.wait_s for state in states.values() if isinstance(state, NotYet)]
        if waits or manifest.digest() == run.manifest.digest():
            return self._put_off(step, Transient(CHANGED, retry_after_s=max(waits, default=0)))
        # Files of a laptop, partitions that never came, changes without end.
        if not manifest.partitions or run.restarts >= RESTARTS:
            return step.end_early(
                Status.FAILED,
                message=CHANGED,
                hint="Run the export again when the snapshot's files no longer change.",
            )
        following = self._start_following(export, manifest, run)
        return step.end_early(
            Status.SKIPPED, message=f"{CHANGED}; {following} reads it as it is now"
        )

    def _freeze_settled(self, export: Export, states: dict[SnapshotRef, Completeness]) -> Manifest:
        settled = [ref for ref, state in states.items() if isinstance(state, Settled)]
        missing = [
            segment for segment in export.segments if not any(ref.is_of(segment) for ref in settled)
        ]
        return self._container.freeze(settled, missing=missing)

    def _start_following(self, export: Export, manifest: Manifest, run: Run) -> str:
        """Start the run that follows; return its id.

        It may be there: the arrival started it, or this
                step before it died.
        """
        following = self._starter.create(
            export,
            manifest,
            because=run.because,
            attempt=1,
            due_at=run.due_at,
            restarts=run.restarts + 1,
        )
        run_id = new_run_id(export.id, manifest, 1)
        if following is None:
            found = self._with.runs.run(run_id)
            if found and found.status is Status.QUEUED:
                self._starter.queue_first_step(found)
        return run_id


def _pacer(held: HeldLease, share: float) -> Pacer:
    """Return a pacer that goes on where the last holder's was.

    A damaged one must not block the account.
    """
    try:
        return Pacer.from_json(held.pacer, share=share)
    except ValueError:
        logger.warning("used rate windows unreadable")
        return Pacer(share=share)


def _disk_error(exc: OSError | duckdb.IOException) -> Transient:
    if is_full(exc):
        return Transient("the local disk is full", hint=DiskTooSmall.hint)
    what = getattr(exc, "strerror", None) or type(exc).__name__
    return Transient(
        f"the local disk could not be used: {what}",
        hint="Is the disk under WORK_FOLDER full?",
    )


def _refs_of(manifest: Manifest) -> list[SnapshotRef]:
    """Return the snapshots of a manifest; files on a laptop have no names that can be parsed."""
    refs = {}
    for part in manifest.partitions:
        with contextlib.suppress(NotASnapshot):
            ref = parse_blob_name(part.name)
            refs[ref.prefix] = ref
    return list(refs.values())
