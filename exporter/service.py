"""The one place that orders things. Triggers, CLI and console call these methods and nothing deeper.

    note(blob)  ->  settle message  ->  settle: freeze manifest, start runs  ->  step message  ->  step, step, ...
    tick()      ->  what the timer does: timer.py

A step takes a run as far as its time allows and answers with a value; `handle` turns that value into the next message.
Any step may die at any line: what it had recorded counts, the rest is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, assert_never

from pydantic import SecretStr

from exporter import forgetting, leases, notices, reports, telemetry, timer
from exporter.catalog import Catalog, Connection, Export
from exporter.confirming import Jobs, confirm, poll_interval_s
from exporter.errors import (
    AlreadyThere,
    ConfigError,
    ExporterError,
    KeyRefused,
    LeaseHeld,
    NoSnapshot,
    PartitionChanged,
    RunCanceled,
    SnapshotUnreadable,
    StoreMoved,
    Transient,
)
from exporter.journal import Journal
from exporter.klaviyo import KlaviyoList
from exporter.logs import bound_run
from exporter.model_json import MAX_MODEL_BYTES, TableModel, parse_table
from exporter.pacing import Pacer
from exporter.planning import PartitionSource, make_plan
from exporter.plans import DUPLICATES_CSV, DUPLICATES_NAME, PLAN_NAME, REJECTED_CSV, Plan, PlanReader, rows_name
from exporter.reading import read_partition
from exporter.runs import (
    EMPTY_HINT,
    EMPTY_MESSAGE,
    Counts,
    Manifest,
    ManifestPartition,
    Phase,
    Run,
    Status,
    close,
    count,
    enter,
    new_run_id,
    run_folder,
    snapshot_minute,
    verdict,
)
from exporter.sending import Imports, Sender
from exporter.snapshots import (
    NeverCame,
    NotASnapshot,
    NotYet,
    Settled,
    SnapshotRef,
    completeness,
    parse_blob_name,
)
from exporter.store import Snapshots, Steps, Store

logger = logging.getLogger(__name__)

WITHDRAWAL_S = 5.0  # how old our knowledge of a withdrawal may be when a batch is sent
STALE_S = 900.0  # an open run that nothing moved for so long lost its message: half as much again as a hidden one
SETBACKS = (
    12  # failures in a row without progress, with waits up to LONGEST_WAIT_S: about 40 minutes, then the run ends
)
LONGEST_WAIT_S = 300.0
AGAIN_HINT = "Mend what the message names, then run the export again, which is harmless."


class Klaviyo(Imports, Jobs, Protocol):
    """What the service needs of Klaviyo."""

    def find_list(self, list_id: str) -> KlaviyoList: ...
    def count_members(self, list_id: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to do for this message."""


@dataclass(frozen=True, slots=True)
class Next:
    """Go on with this message, after a while."""

    message: Mapping[str, object]
    after_s: float = 0.0


StepResult = Done | Next


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How the service uses time, memory and disk."""

    settle_s: float = 120.0  # quiet time after which a folder counts as complete
    patience_s: float = 3600.0  # how long partitions that model.json names are waited for
    step_s: float = 480.0  # a step ends itself after this; well before the invocation's limit of 30 minutes
    lease_s: float = leases.LEASE_S  # how long a dead instance keeps its connection from others
    memory_mb: int = 96  # DuckDB's share
    pacer_share: float = 1.0  # of Klaviyo's steady rate
    runs_kept_days: int = 365
    rejected_kept_days: int = 30  # lists of rows, which hold personal data
    no_snapshot_days: int = 8  # without a new one, after which somebody is told; 0 for never


class Exporter:
    """The product, given its outside world. Safe to share between invocations: it keeps no state of a run."""

    def __init__(
        self,
        *,
        store: Store,
        snapshots: Snapshots,
        steps: Steps,
        read_secret: Callable[[str], SecretStr],
        klaviyo: Callable[[SecretStr], Klaviyo],
        work: Path,
        container: str = "",
        notify: Callable[[notices.Notice], None] | None = None,
        checks: Mapping[str, Callable[[], None]] = MappingProxyType({}),
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        """read_secret: a secret's value by its name. klaviyo: a client for a key. work: a folder for plans in use.

        container: the snapshots container's name, as model.json may spell it out. notify: sends a notice; None for
        no notices. checks: what else `health` asks. progress: told (phase, profiles done, of how many; 0 = not known
        yet).
        """
        self.store, self.snapshots, self.steps = store, snapshots, steps
        self.catalog = Catalog(store)
        self.notices = notices.Notices(store, notify)
        self.limits = limits
        self._read_secret, self._klaviyo, self._work, self._container = read_secret, klaviyo, work, container
        self._checks = {"state": store.ping, "snapshots": snapshots.ping, **checks}
        self._clock, self._sleep, self._progress = clock, sleep, progress

    # What triggers call

    def note(self, blob_name: str) -> None:
        """A blob arrived: look at its snapshot once it has settled. What is no snapshot is noted and ignored."""
        try:
            ref = parse_blob_name(blob_name)
        except NotASnapshot as exc:
            logger.info("blob ignored", extra={"cause": exc.message})
            return
        delay_s = 0.0 if ref.is_one_file else self.limits.settle_s
        logger.info("blob noted", extra={"segment": ref.segment, "wait_s": delay_s})
        self.steps.put({"do": "settle", "blob": blob_name}, delay_s=delay_s)

    def handle(self, message: Mapping[str, Any], *, redelivered: bool = False) -> None:
        """Do what a message says and queue what follows from it.

        redelivered: the message was delivered before, so whoever had it may have died before queueing the next one.
        """
        match self.take(message, redelivered=redelivered):
            case Done():
                pass
            case Next() as following:
                self.steps.put(following.message, delay_s=following.after_s)
            case other:
                assert_never(other)

    def take(self, message: Mapping[str, Any], *, redelivered: bool = False) -> StepResult:
        """Do what a message says."""
        match message:
            case {"do": "settle", "blob": str(blob_name)}:
                return self._look(message, blob_name, redelivered=redelivered)
            case {"do": "step", "run": str(run_id), "step": int(step)}:
                return self._step(run_id, step, redelivered=redelivered)
            case _:
                logger.error("message not understood and dropped")
                return Done()

    def tick(self) -> None:
        """Start the runs that are due, look after open ones, send notices, clear out what is past its time."""
        timer.tick(self, self._now())

    def close_poisoned(self, message: Mapping[str, Any]) -> None:
        """A message failed too often: close its run as Failed, so that nobody waits for it."""
        run_id = message.get("run")
        if not isinstance(run_id, str) or (found := self._read_run(run_id)) is None:
            logger.error("poison message without a run", extra={"cause": str(message.get("do"))})
            return
        run, etag = found
        self._close(
            run,
            etag,
            Status.FAILED,
            message=f"the step {run.phase} failed repeatedly for a reason the exporter does not know",
            hint="Look for this run id in the logs; mend the cause, then run the export again, which is harmless.",
        )

    def health(self) -> dict[str, str]:
        """Each collaborator: "ok", or what is wrong with it."""
        return {name: _outcome(check) for name, check in self._checks.items()}

    # Runs

    def start(self, export: Export, *, because: Literal["demand"] = "demand") -> Run:
        """Start a run on the newest snapshots, now. Raises ConfigError when there is none, or no connection."""
        if export.connection is None:
            raise ConfigError(f"{export.name} is detached", hint="Give the export a connection.")
        return self.start_on(export, self.freeze_newest(export), because=because)

    def dry_run(self, export: Export, folder: Path) -> Plan:
        """The plan that a run of the newest snapshots would make, in a local folder. Sends and changes nothing."""
        manifest = self.freeze_newest(export)
        sources = [_source(self, part) for part in manifest.partitions]
        show = self._progress
        return make_plan(
            sources,
            export.mapping,
            folder,
            memory_mb=self.limits.memory_mb,
            progress=lambda rows: show("plan", rows, 0),
        )

    def columns_of(self, segment: str) -> tuple[str, ...]:
        """The columns of a segment's newest snapshot, from one partition's header. Raises NoSnapshot."""
        ref = self._newest_of(segment)
        if ref is None:
            raise NoSnapshot(f"no snapshot of {segment} has arrived yet", hint="Check the segment's name.")
        part = self._freeze([ref]).partitions[0]
        chunks = self.snapshots.open(part.name, etag=part.etag)
        with tempfile.TemporaryDirectory() as folder:
            reading = read_partition(chunks, folder=Path(folder), name=part.name, declared=part.dialect)
            try:
                return reading.columns
            finally:
                reading.close()

    def start_on(
        self,
        export: Export,
        manifest: Manifest,
        *,
        because: Literal["schedule", "demand"],
        due_at: datetime | None = None,
    ) -> Run:
        """Start a run on a manifest, or take up the one that is open on it.

        A schedule skips a manifest that a run has delivered; due_at: its moment, for which there is one run.
        """
        attempt = 1
        while (run := self._create(export, manifest, because=because, attempt=attempt, due_at=due_at)) is None:
            found = self.run(new_run_id(export.id, manifest, attempt))
            if found and found.status.is_open:
                if self._is_as(found, export):
                    self._set_going(found)  # its own message may be lost
                    if not self._is_cancelled(found.run_id):
                        return found
                else:
                    self.cancel(found.run_id, why="the export was changed; a new run follows")
                    self._set_going(found)
            elif found and because == "schedule":
                if due_at and found.due_at == due_at:
                    return found  # another instance started it
                if found.status is not Status.FAILED:
                    message = "no new snapshot since the last run"
                    return self.skip(export, due_at or self._now(), manifest=manifest, message=message)
            attempt += 1
        return run

    def _is_as(self, run: Run, export: Export) -> bool:
        """Whether an open run does what its export says by now."""
        kept = ("mapping", "list_id", "max_profiles", "keep_rejected_rows", "reconcile")
        return all(getattr(run, name) == getattr(export, name) for name in kept)

    def cancel(self, run_id: str, *, why: str = "cancelled by a person") -> None:
        """Ask a run to stop before its next batch."""
        with contextlib.suppress(AlreadyThere):
            self.store.create(run_folder(run_id) + "cancel", why.encode())

    def _is_cancelled(self, run_id: str) -> bool:
        return self.store.read(run_folder(run_id) + "cancel") is not None

    def run(self, run_id: str) -> Run | None:
        """A run's document; None when there is none."""
        found = self._read_run(run_id)
        return found[0] if found else None

    def runs(self, export_id: str) -> Iterator[Run]:
        """The runs of an export, newest snapshot first."""
        for name in sorted(self.store.folders(run_folder(export_id)), reverse=True):
            if found := self._read_run(f"{export_id}/{name}"):
                yield found[0]

    def last_run(self, export_id: str) -> Run | None:
        """The run that was created last."""
        return max(self.runs(export_id), key=lambda run: run.created_at, default=None)

    # Settling

    def _look(self, message: Mapping[str, Any], blob_name: str, *, redelivered: bool) -> StepResult:
        """Settle the snapshot of a blob; while storage does not answer, come back a limited number of times."""
        try:
            return self._settle(parse_blob_name(blob_name), message, redelivered=redelivered)
        except Transient as exc:
            tries = int(message.get("tries", 0)) + 1
            if tries > SETBACKS:
                raise
            logger.warning("settling put off", extra={"cause": type(exc).__name__, "attempt": tries})
            return Next({**message, "tries": tries}, after_s=_backoff_s(tries, exc))

    def _settle(self, ref: SnapshotRef, message: Mapping[str, Any], *, redelivered: bool) -> StepResult:
        exports = [export for export in self.catalog.exports() if _wants(export, ref)]
        if not exports:
            logger.info("no export for this segment", extra={"segment": ref.segment})
            return Done()
        state = self._completeness(ref)
        match state:
            case NotYet(wait_s):
                return Next({**message, "tries": 0}, after_s=wait_s)
            case Settled():
                for export in exports:
                    self._start_on_arrival(export, ref, redelivered=redelivered)
            case NeverCame(missing):
                logger.error("snapshot incomplete", extra={"segment": ref.segment, "missing": len(missing)})
                for export in exports:
                    self._fail_incomplete(export, ref, len(missing))
        return Done()

    def _completeness(self, ref: SnapshotRef) -> Any:
        model = self._model(ref)
        return completeness(
            ref,
            list(self.snapshots.list(ref.prefix)),
            named=model.named_in(ref.prefix) if model else (),
            now=self._now(),
            quiet_s=self.limits.settle_s,
            patience_s=self.limits.patience_s,
        )

    def _model(self, ref: SnapshotRef) -> TableModel | None:
        found = self.snapshots.read(ref.model, max_bytes=MAX_MODEL_BYTES) if ref.model else None
        return parse_table(found.data, ref.segment, container=self._container) if found else None

    def _start_on_arrival(self, export: Export, ref: SnapshotRef, *, redelivered: bool) -> None:
        refs = {segment: ref if ref.is_of(segment) else self._newest_of(segment) for segment in export.segments}
        manifest = self._freeze([one for one in refs.values() if one is not None])
        if self._create(export, manifest, because="arrival", attempt=1) is None and redelivered:
            # Whoever had this message before may have died between creating the run and queueing its first step.
            found = self._read_run(new_run_id(export.id, manifest, 1))
            if found and found[0].status is Status.QUEUED:
                self._set_going(found[0])

    def _fail_incomplete(self, export: Export, ref: SnapshotRef, missing: int) -> None:
        run = self._new_run(export, self._freeze([ref]), because="arrival", attempt=1)
        self._create_closed(
            run,
            Status.FAILED,
            message=f"the snapshot is incomplete: {missing} partitions that model.json names never came",
            hint="Look at the export's status in Customer Insights and run it again there.",
        )

    def freeze_newest(self, export: Export) -> Manifest:
        """The manifest of the newest complete snapshots of an export's segments. Raises NoSnapshot."""
        return self._freeze(self._newest(export))

    def _newest(self, export: Export) -> list[SnapshotRef]:
        found = self._newest_of_each(export.segments)
        if not found:
            raise NoSnapshot(
                f"no snapshot of {', '.join(export.segments)} has arrived yet",
                hint="Check the segment's name and that Customer Insights exports it to the snapshots container.",
            )
        return found

    def _newest_of(self, segment: str) -> SnapshotRef | None:
        """The newest complete snapshot of a segment."""
        return next(iter(self._newest_of_each([segment])), None)

    def _newest_of_each(self, segments: Sequence[str]) -> list[SnapshotRef]:
        """The newest complete snapshot of each segment that has one. Lists the container once: paths vary too much."""
        found: dict[str, tuple[datetime, SnapshotRef]] = {}
        for blob in self.snapshots.list(""):
            with contextlib.suppress(NotASnapshot):
                ref = parse_blob_name(blob.name)
                moment = ref.exported_at or blob.modified_at
                if ref.prefix not in found or found[ref.prefix][0] < moment:
                    found[ref.prefix] = moment, ref
        newest_first = [ref for _, ref in sorted(found.values(), key=lambda each: each[0], reverse=True)]
        newest = []
        for segment in segments:
            for ref in newest_first:
                if ref.is_of(segment) and isinstance(self._completeness(ref), Settled):
                    newest.append(ref)
                    break
        return newest

    def _freeze(self, refs: list[SnapshotRef]) -> Manifest:
        """The manifest of these snapshots as they are now."""
        partitions, moments = [], []
        for ref in refs:
            model = self._model(ref)
            for blob in self.snapshots.list(ref.prefix):
                if ref.holds(blob.name):
                    moments.append(ref.exported_at or blob.modified_at)
                    part = ManifestPartition(name=blob.name, etag=blob.etag, size_bytes=blob.size_bytes)
                    dialect = model.dialect_of(blob.name) if model else part.dialect
                    partitions.append(part.model_copy(update={"dialect": dialect}))
        return Manifest(
            snapshots=[ref.prefix for ref in refs], exported_at=max(moments, default=self._now()), partitions=partitions
        )

    def _new_run(
        self, export: Export, manifest: Manifest, *, because: Any, attempt: int, due_at: datetime | None = None
    ) -> Run:
        return Run(
            run_id=new_run_id(export.id, manifest, attempt),
            export=export.id,
            export_name=export.name,
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

    def _create(
        self, export: Export, manifest: Manifest, *, because: Any, attempt: int, due_at: datetime | None = None
    ) -> Run | None:
        """Create a run and queue its first step. None when it exists: somebody was faster, or it ran before."""
        run = self._new_run(export, manifest, because=because, attempt=attempt, due_at=due_at)
        try:
            self.store.create(run.folder + "run.json", _encode(run))
        except AlreadyThere:
            return None
        logger.info("run created", extra={"run_id": run.run_id})
        self._set_going(run)
        return run

    def _set_going(self, run: Run) -> None:
        """Queue an open run's next step; from here on the timer looks after it."""
        self._list_as_open(run)
        self.steps.put(_step_message(run))

    def _list_as_open(self, run: Run) -> None:
        with contextlib.suppress(AlreadyThere):
            self.store.create(timer.OPEN_RUNS + run.run_id, timer.encode_listed(self._now()))

    def _create_closed(self, run: Run, status: Status, *, message: str, hint: str = "") -> Run:
        """Record a run that ends before it begins, report and all. Never open, so that no nudge sets it going."""
        closed = close(run, status, now=self._now(), message=message, hint=hint)
        if self._read_run(run.run_id) is None:
            with contextlib.suppress(StoreMoved):  # somebody was faster
                self._list_as_open(closed)  # until it is tidied up after, as every run
                self._save_report(closed, None)
                self.store.create(closed.folder + "run.json", _encode(closed))
                logger.warning("run closed", extra={"run_id": run.run_id, "status": str(status), "cause": message})
                telemetry.run_closed(closed)
                self.tidy(closed)
        return closed

    def skip(
        self, export: Export, due_at: datetime, *, message: str, hint: str = "", manifest: Manifest | None = None
    ) -> Run:
        """A scheduled run with nothing to do, at its moment: recorded, not repeated."""
        manifest = manifest or Manifest(snapshots=[], exported_at=due_at, partitions=[])
        run = self._new_run(export, manifest, because="schedule", attempt=1, due_at=due_at)
        run = run.model_copy(update={"run_id": f"{export.id}/{due_at:%Y%m%dT%H%M%SZ}-skipped"})
        return self._create_closed(run, Status.SKIPPED, message=message, hint=hint)

    # One step

    def _step(self, run_id: str, step: int, *, redelivered: bool) -> StepResult:
        found = self._read_run(run_id)
        if found is None:
            return Done()
        run, etag = found
        if not run.status.is_open:
            self.tidy(run)
            return Done()
        if step != run.step:
            # The step was taken. Its taker queued the next message, unless it died first: then this is a redelivery.
            return Next(_step_message(run)) if redelivered else Done()
        with bound_run(run_id), telemetry.step(run_id, step):
            return self._attempt(run, etag)

    def _attempt(self, run: Run, etag: str) -> StepResult:
        """Take the step under the connection's lease; turn every known error into a value."""
        try:
            held = leases.take(
                self.store, run.connection, uuid.uuid4().hex, clock=self._clock, lasts_s=self.limits.lease_s
            )
        except LeaseHeld as exc:
            return Next(_step_message(run), after_s=exc.retry_after_s or 5)
        pacer = _pacer(held, self.limits.pacer_share)
        taken = _Step(self, run, etag, held, pacer)
        try:
            with leases.kept(held, pacer=pacer.to_json):
                return taken.take(deadline=self._clock() + self.limits.step_s)
        except (LeaseHeld, StoreMoved):
            return Next(_step_message(taken.run), after_s=5)
        except ExporterError as exc:
            error = exc
        except OSError as exc:  # our own files on this machine's disk; whatever is remote has errors of its own
            hint = "Is the disk under WORK_FOLDER full?"
            error = Transient(f"the local disk could not be used: {exc.strerror or type(exc).__name__}", hint=hint)
        try:
            return self._conclude(taken, error)
        except StoreMoved:  # another instance has the run by now: this message is stale, or waits for its turn
            return Next(_step_message(taken.run), after_s=5)

    def _conclude(self, taken: _Step, error: ExporterError) -> StepResult:
        """What follows from an error that ended an attempt."""
        if isinstance(error, KeyRefused):
            error = taken.error_of_key(error)
        match error:
            case PartitionChanged():
                return self._start_over(taken.run, taken.etag)
            case RunCanceled():
                taken.save_rows_so_far()
                return self._close(taken.run, taken.etag, Status.CANCELED, message=error.message, hint=error.hint)
            case Transient():
                return self._set_back(taken, error)
            case _:
                taken.save_rows_so_far()
                run = taken.run.model_copy(update={"cause": type(error).__name__})
                return self._close(run, taken.etag, Status.FAILED, message=error.message, hint=error.hint)

    def _set_back(self, taken: _Step, error: Transient) -> StepResult:
        """Wait and try again, a limited number of times: nothing is retried for ever."""
        run, etag = taken.run, taken.etag
        setbacks = 1 if taken.has_progressed else run.setbacks + 1
        if setbacks > SETBACKS:
            taken.save_rows_so_far()
            message = f"gave up after {SETBACKS} tries without progress: {error.message}"
            return self._close(run, etag, Status.FAILED, message=message, hint=error.hint)
        wait_s = _backoff_s(setbacks, error)
        logger.warning("step put off", extra={"cause": type(error).__name__, "wait_s": wait_s, "attempt": setbacks})
        telemetry.waited(wait_s, telemetry.SETBACK_WAIT)
        changed = run.model_copy(update={"setbacks": setbacks, "message": error.message, "hint": error.hint})
        changed = self._write(changed.model_copy(update={"step": run.step + 1}), etag)[0]
        return Next(_step_message(changed), after_s=wait_s)

    def _start_over(self, run: Run, etag: str) -> StepResult:
        """The snapshot was replaced while it was read: this run ends, its successor reads the new one."""
        changed = "the snapshot changed while it was read"
        if run.because != "arrival":
            hint = "Run the export again when the snapshot's files no longer change."
            return self._close(run, etag, Status.FAILED, message=changed, hint=hint)
        # First the message, then the end: a crash between the two repeats the message, which is harmless.
        self.steps.put({"do": "settle", "blob": run.manifest.partitions[0].name}, delay_s=1)
        return self._close(run, etag, Status.SKIPPED, message=f"{changed}; a new run follows when it has settled")

    def _close(self, run: Run, etag: str, status: Status, *, message: str, hint: str = "") -> StepResult:
        """End a run that did not get to its finish. The report says how far it came, and is there first."""
        if not run.status.is_open:
            return Done()
        if status is Status.FAILED:
            hint = hint or AGAIN_HINT
        if (found := self._read_run(run.run_id)) is None or found[1] != etag:
            raise StoreMoved("somebody else has this run by now")  # before its report is written over
        counts, plan = self._counts_so_far(run)
        closed = close(run.model_copy(update={"counts": counts}), status, now=self._now(), message=message, hint=hint)
        self._save_report(closed, plan)
        self._write(closed, etag)
        self.tidy(closed)
        telemetry.run_closed(closed)
        logger.warning("run closed", extra={"run_id": run.run_id, "status": str(status), "cause": message})
        return Done()

    def _counts_so_far(self, run: Run) -> tuple[Counts, Plan | None]:
        """The numbers of a run that does not get to its finish, as far as they are recorded."""
        if not run.plan:
            return run.counts, None
        try:
            plan = _fetch_document(self.store, run, self.plan_folder(run, run.plan))
            return count(plan, Journal(self.store, run.run_id).delivery), plan
        except ExporterError as exc:  # closing must not fail for want of numbers
            logger.warning("numbers unknown", extra={"run_id": run.run_id, "cause": exc.message})
            return run.counts, None

    def is_overtaken(self, run: Run) -> bool:
        """Whether a run on a newer snapshot got ahead: after it, an older one would bring old values back.

        Runs that a person asked for are never overtaken.
        """
        if run.because == "demand":
            return False
        ours = (run.manifest.exported_at, run.created_at)
        minute = run.manifest.exported_at.replace(second=0, microsecond=0)
        for name in self.store.folders(run_folder(run.export)):
            moment = snapshot_minute(name)
            if moment is None or moment < minute or (other := self.run(f"{run.export}/{name}")) is None:
                continue
            if (
                (other.manifest.exported_at, other.created_at) > ours
                and other.list_id == run.list_id
                and (other.sent_at is not None or other.phase in (Phase.SEND, Phase.CONFIRM, Phase.FINISH))
            ):
                return True
        return False

    # Documents

    def _read_run(self, run_id: str) -> tuple[Run, str] | None:
        found = self.store.read(run_folder(run_id) + "run.json")
        return (Run.model_validate_json(found.data), found.etag) if found else None

    def _write(self, run: Run, etag: str) -> tuple[Run, str]:
        """Write a run's document over the version that was read. Raises StoreMoved."""
        changed = run.model_copy(update={"updated_at": self._now()})
        return changed, self.store.replace(run.folder + "run.json", _encode(changed), etag=etag)

    def _save_report(self, run: Run, plan: Plan | None) -> None:
        """Write the report, over that of an attempt to close which did not get to its end."""
        name, data = run.folder + "report.json", _json(reports.report(run, plan))
        found = self.store.read(name)
        if found is None:
            self.store.create(name, data)
        elif found.data != data:
            self.store.replace(name, data, etag=found.etag)

    def _is_stale(self, run: Run, now: datetime) -> bool:
        return now - (run.updated_at or run.created_at) > timedelta(seconds=STALE_S)

    def _waits_for_its_turn(self, run: Run) -> bool:
        """Whether its connection is at work, for this run or another: its message goes round and needs no second."""
        return leases.is_held(self.store, run.connection, now=self._clock())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def plan_folder(self, run: Run, token: str) -> Path:
        """Where this instance keeps a plan while the run is open."""
        name = hashlib.sha256(run.run_id.encode()).hexdigest()[:16]
        return self._work / name / token

    def forget_plan(self, run: Run) -> None:
        """Remove this instance's copy of a run's plan."""
        shutil.rmtree(self.plan_folder(run, "x").parent, ignore_errors=True)

    def tidy(self, run: Run) -> None:
        """After a run closed: its plan goes, here and in the store, for it holds everybody's data; failures are told.

        Harmless to repeat. What fails is done by the next tick, for as long as the run is listed as open.
        """
        self.forget_plan(run)
        try:
            forgetting.drop_plans(self.store, run)
            listed = timer.OPEN_RUNS + run.run_id
            if self.store.read(listed):
                if run.status is Status.FAILED:
                    self.notices.add(notices.of_run(run, now=self._now()))
                self.store.delete(listed)
        except ExporterError as exc:
            logger.warning("run not tidied up after", extra={"run_id": run.run_id, "cause": exc.message})

    def nudge(self, run: Run, now: datetime) -> None:
        """Queue a message for an open run that nothing has moved for so long that it must have lost its own."""
        if self._is_stale(run, now) and not self._waits_for_its_turn(run):
            logger.warning("run nudged", extra={"run_id": run.run_id})
            self.steps.put(_step_message(run))

    def key_of(self, connection: Connection) -> SecretStr:
        return self._read_secret(connection.secret)

    def klaviyo_for(self, key: SecretStr) -> Klaviyo:
        return self._klaviyo(key)


class _Step:
    """One step of one run: the phases in order, until the run ends or time runs out."""

    def __init__(self, exporter: Exporter, run: Run, etag: str, held: leases.HeldLease, pacer: Pacer) -> None:
        self.exporter, self.run, self.etag, self.held, self.pacer = exporter, run, etag, held, pacer
        self._withdrawal_checked_at = 0.0
        self._klaviyo: Klaviyo | None = None
        self._journal: Journal | None = None
        self._facts_before = 0
        self._requests_failed = False
        self._reader: PlanReader | None = None

    def take(self, *, deadline: float) -> StepResult:
        self._check()
        try:
            while True:
                match self.run.phase:
                    case Phase.PLAN:
                        if self.exporter.is_overtaken(self.run):
                            message = "a newer snapshot was delivered before this one could be"
                            return self.exporter._close(self.run, self.etag, Status.SKIPPED, message=message)
                        self._plan()
                        self._enter(Phase.SEND)
                    case Phase.SEND:
                        if not self._send(deadline):
                            return self._more()
                        self._enter(Phase.CONFIRM, sent_at=self.exporter._now())
                    case Phase.CONFIRM:
                        if not self._confirm(deadline):
                            return self._ask_later()
                        self._enter(Phase.FINISH)
                    case Phase.FINISH:
                        self._finish()
                        return Done()
                    case Phase.CLOSED:
                        return Done()
        finally:
            self._close_reader()

    def error_of_key(self, error: KeyRefused) -> ExporterError:
        """What a refused key means: try again if another one is in the vault by now, else `error`."""
        try:
            if self._renew_key() is None:
                return error
        except ExporterError as exc:
            return exc
        return Transient("the Klaviyo key was replaced while it was in use", retry_after_s=1)

    @property
    def has_progressed(self) -> bool:
        """Whether this step recorded anything about the batches."""
        return self._journal is not None and self._journal.length > self._facts_before

    def save_rows_so_far(self) -> None:
        """The lists of rows of a run that ends early, where that is possible: closing it must not fail for them."""
        if not self.run.plan:
            return
        try:
            self._save_rows()
        except ExporterError as exc:
            logger.warning("rows not listed", extra={"cause": exc.message})
        finally:
            self._close_reader()

    # Phases

    @telemetry.phase(Phase.PLAN)
    def _plan(self) -> None:
        """Check the other side before the work, then plan. The plan is in the store before the run names it."""
        self.klaviyo.find_list(self.run.list_id)
        if not self.run.manifest.partitions:
            raise SnapshotUnreadable(
                "the snapshot has no partitions", hint="Run the export in Customer Insights again."
            )
        exporter, run, token = self.exporter, self.run, f"plan-{uuid.uuid4().hex[:8]}"
        exporter.forget_plan(run)
        plan = make_plan(
            [_source(exporter, part) for part in run.manifest.partitions],
            run.mapping,
            exporter.plan_folder(run, token),
            memory_mb=exporter.limits.memory_mb,
            keep_rows=run.keep_rejected_rows,
            progress=lambda rows: exporter._progress("plan", rows, 0),
            finished_file=lambda path: exporter.store.upload(f"{run.folder}{token}/{path.name}", path),
        )
        if not plan.rows:
            raise SnapshotUnreadable(EMPTY_MESSAGE, hint=EMPTY_HINT)
        self.held.check()
        self._save(plan=token)
        _check_size(run, plan)

    @telemetry.phase(Phase.SEND)
    def _send(self, deadline: float) -> bool:
        plan = self.reader.plan
        sender = Sender(
            self.reader,
            self.journal,
            self.klaviyo,
            self.pacer,
            check=self._check,
            renew_key=self._renew_key,
            clock=self.exporter._clock,
            sleep=self.exporter._sleep,
            progress=lambda accepted: self.exporter._progress("send", accepted, plan.profiles),
        )
        is_all_sent = sender.send(deadline=deadline)
        self._requests_failed = sender.failures > 0
        return is_all_sent

    @telemetry.phase(Phase.CONFIRM)
    def _confirm(self, deadline: float) -> bool:
        return confirm(
            self.journal,
            self.klaviyo,
            lambda: self.reader,
            now=self.exporter._now(),
            check=self.held.check,
            clock=self.exporter._clock,
            deadline=deadline,
        )

    @telemetry.phase(Phase.FINISH)
    def _finish(self) -> None:
        """The lists of rows, the report, then the run closes: whoever sees it closed finds its report."""
        plan, delivery = self.reader.plan, self.journal.delivery
        counts = count(plan, delivery)
        if self.run.reconcile:
            counts = counts.model_copy(update={"list_members": self.klaviyo.count_members(self.run.list_id)})
        status, message, hint = verdict(counts)
        self._save_rows()
        closed = close(
            self.run.model_copy(update={"counts": counts}), status, now=self.exporter._now(), message=message, hint=hint
        )
        self.exporter._save_report(closed, plan)
        self.run, self.etag = self.exporter._write(closed, self.etag)
        self._close_reader()
        self.exporter.tidy(self.run)
        telemetry.run_closed(self.run)
        logger.info("run finished", extra={"status": str(status), "profiles": counts.delivered, "rows": counts.rows})

    def _save_rows(self) -> None:
        folder = self.reader.folder
        rejected = folder / "undelivered.csv"
        shutil.copyfile(folder / REJECTED_CSV, rejected)
        reports.append_undelivered(rejected, self.reader, self.journal.delivery)
        self.exporter.store.upload(self.run.folder + REJECTED_CSV, rejected)
        self.exporter.store.upload(self.run.folder + DUPLICATES_CSV, folder / DUPLICATES_CSV)

    # Between phases

    def _enter(self, phase: Phase, **changes: Any) -> None:
        self.run = enter(self.run, phase, now=self.exporter._now())
        self._save(setbacks=0, **changes)

    def _more(self) -> StepResult:
        # A step that is shorter than the time for which a request is tried again never gives up by itself.
        setbacks = self.run.setbacks + 1 if self._requests_failed and not self.has_progressed else 0
        if setbacks > SETBACKS:
            raise Transient("Klaviyo took no batch")
        self._save(step=self.run.step + 1, setbacks=setbacks)
        return Next(_step_message(self.run))

    def _ask_later(self) -> StepResult:
        self.exporter._progress("confirm", len(self.journal.delivery.ended), len(self.journal.delivery.jobs))
        self._save(step=self.run.step + 1, polls=self.run.polls + 1, setbacks=0)
        return Next(_step_message(self.run), after_s=poll_interval_s(self.run.polls))

    def _close_reader(self) -> None:
        if self._reader:
            self._reader.close()
            self._reader = None

    def _save(self, **changes: Any) -> None:
        self.run, self.etag = self.exporter._write(self.run.model_copy(update=changes), self.etag)

    def _check(self) -> None:
        """Raise unless this instance may go on: the lease is ours, and nobody withdrew."""
        self.held.check()
        now = self.exporter._clock()
        if now - self._withdrawal_checked_at >= WITHDRAWAL_S:
            self._withdrawal_checked_at = now
            _check_not_withdrawn(self.exporter, self.run)

    # What a phase needs, opened when it is first needed

    @property
    def klaviyo(self) -> Klaviyo:
        if self._klaviyo is None:
            self._key = self.exporter.key_of(_connection(self.exporter, self.run))
            self._klaviyo = self.exporter.klaviyo_for(self._key)
        return self._klaviyo

    def _renew_key(self) -> Klaviyo | None:
        """A client for the key that is in the vault by now; None when it is the one that was refused."""
        key = self.exporter.key_of(_connection(self.exporter, self.run))
        if key == self._key:
            return None
        self._key, self._klaviyo = key, self.exporter.klaviyo_for(key)
        return self._klaviyo

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self.exporter.store, self.run.run_id)
            self._facts_before = self._journal.length
        return self._journal

    @property
    def reader(self) -> PlanReader:
        if self._reader is None:
            folder = self.exporter.plan_folder(self.run, self.run.plan)
            plan = _fetch_plan(self.exporter.store, self.run, folder)
            memory_mb = self.exporter.limits.memory_mb
            self._reader = PlanReader(plan, folder, list_id=self.run.list_id, memory_mb=memory_mb)
        return self._reader


def _fetch_plan(store: Store, run: Run, folder: Path) -> Plan:
    """The run's plan in a local folder: left there by planning, or fetched from the store."""
    plan = _fetch_document(store, run, folder)
    for name in (DUPLICATES_NAME, DUPLICATES_CSV, REJECTED_CSV, *(rows_name(n) for n in range(len(plan.pieces)))):
        _fetch(store, run, folder, name)
    return plan


def _fetch_document(store: Store, run: Run, folder: Path) -> Plan:
    return Plan.model_validate_json(_fetch(store, run, folder, PLAN_NAME).read_bytes())


def _fetch(store: Store, run: Run, folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        store.download(f"{run.folder}{run.plan}/{name}", path)
    return path


def _pacer(held: leases.HeldLease, share: float) -> Pacer:
    """A pacer that goes on where the last holder's was; one that cannot be read must not block the connection."""
    try:
        return Pacer.from_json(held.pacer, share=share)
    except ValueError:
        logger.warning("used rate windows unreadable")
        return Pacer(share=share)


def _backoff_s(tries: int, error: Transient) -> float:
    return min(max(error.retry_after_s or 0, 2.0**tries), LONGEST_WAIT_S)


def _source(exporter: Exporter, part: ManifestPartition) -> PartitionSource:
    return PartitionSource(
        name=part.name, open=lambda: exporter.snapshots.open(part.name, etag=part.etag), dialect=part.dialect
    )


def _wants(export: Export, ref: SnapshotRef) -> bool:
    return (
        export.is_active and export.schedule.on == "arrival" and any(ref.is_of(segment) for segment in export.segments)
    )


def _connection(exporter: Exporter, run: Run) -> Connection:
    connection = exporter.catalog.connection(run.connection)
    if connection is None:
        raise RunCanceled("the connection was removed")
    return connection


def _check_not_withdrawn(exporter: Exporter, run: Run) -> None:
    """Raise RunCanceled when a person took back what the run stands on."""
    export = exporter.catalog.export(run.export)
    if export is None or export.paused or export.connection != run.connection:
        raise RunCanceled("the export was removed, paused or given another connection")
    if _connection(exporter, run).consent is None:
        raise RunCanceled("nobody has agreed that data of this connection leaves for Klaviyo", hint="Agree first.")
    if asked := exporter.store.read(run_folder(run.run_id) + "cancel"):
        raise RunCanceled(asked.data.decode())


def _check_size(run: Run, plan: Plan) -> None:
    if run.max_profiles is not None and plan.profiles > run.max_profiles:
        raise ConfigError(
            f"{plan.profiles:,} profiles to send are more than the export's maximum of {run.max_profiles:,}; "
            "nothing was sent",
            hint="Check the segment in Customer Insights. If it is right, raise the export's maximum and run it again.",
        )


def _step_message(run: Run) -> dict[str, object]:
    return {"do": "step", "run": run.run_id, "step": run.step}


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except ExporterError as exc:
        return f"{exc.message} {exc.hint}".strip()
    return "ok"


def _encode(run: Run) -> bytes:
    return run.model_dump_json(by_alias=True).encode()


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=1).encode()
