"""The one place that orders things: what triggers and `push` call. What people do is in management.py.

    note(blob)  ->  settle message  ->  settle: settling.py  ->  step message  ->  step, step, ...: stepping.py
    tick()      ->  what the timer does: timer.py

A step takes a run as far as its time allows and answers with a value; `handle` turns that value into the next message.
Any step may die at any line: what it had recorded counts, the rest is done again.
What an Exporter is made of (its store, records, settling) serves timer.py, management.py and `forget`, too.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, assert_never

import duckdb
from pydantic import SecretStr

from exporter import telemetry
from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection
from exporter.definitions.definition import is_same_document
from exporter.definitions.export import Export
from exporter.errors import (
    AlreadyThere,
    ConfigError,
    DocumentUnreadable,
    ExporterError,
    KeyRefused,
    LeaseHeld,
    NoSnapshot,
    PartitionChanged,
    RunCanceled,
    StoreMoved,
    Transient,
)
from exporter.klaviyo.rate_limit import Pacer
from exporter.logs import bound_run, kind_and_place
from exporter.orchestration import lease, timer
from exporter.orchestration.results import Done, Next, StepResult, backoff_s, step_message
from exporter.orchestration.run_step import SETBACKS, Klaviyo, Outside, Step
from exporter.planning.plan import Plan
from exporter.planning.planner import make_plan
from exporter.reading.source import count_rows, read_columns
from exporter.runs import notices
from exporter.runs.run import Run, Status, new_run_id, skipped_run_id
from exporter.runs.run_store import RunStore
from exporter.sending.sender import SendLimits
from exporter.snapshots import members
from exporter.snapshots.completeness import NotYet, Settled
from exporter.snapshots.container import Settling
from exporter.snapshots.manifest import Manifest
from exporter.snapshots.paths import NotASnapshot, SnapshotRef, parse_blob_name
from exporter.storage.protocols import Snapshots, Store, WorkQueue

logger = logging.getLogger(__name__)

STALE_S = 900.0  # an open run that nothing moved for so long lost its message: half as much again as a hidden one
DEFECT_HINT = (
    "This is a defect: report it with the message, which holds no data of persons, and the version. "
    "Running the export again, or on another snapshot, is harmless."
)
KILLED = "it left no error behind, so the app was killed or stopped each time"
KILLED_HINT = (
    "Look for this run id in the logs: mostly memory ran out (lower MEMORY_MB, or take larger instances), or time "
    "(lower STEP_SECONDS). Then run the export again, which is harmless."
)
RESTARTS = 3  # runs in a row whose snapshot changed while it was read, before the last one fails
HEALTH_S = (
    20.0  # how old an answer of `health` may be: anybody may ask, and each answer reads the vault
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """How the service uses time, memory and disk."""

    settle_s: float = 120.0  # quiet time after which a folder counts as complete
    patience_s: float = 3600.0  # how long partitions that model.json names are waited for
    step_s: float = (
        480.0  # a step ends itself after this; well before the invocation's limit of 30 minutes
    )
    setbacks: int = SETBACKS
    lease_s: float = lease.LEASE_S  # how long a dead instance keeps its account from others
    memory_mb: int = 96  # DuckDB's share
    pacer_share: float = 1.0  # of Klaviyo's limits
    runs_kept_days: int = 365
    rejected_kept_days: int = 30  # lists of rows; that of rejected ones holds personal data
    no_snapshot_days: int = 8  # without a new one, after which somebody is told; 0 for never
    send: SendLimits = field(default_factory=SendLimits)


class Exporter:
    """The product, given its outside world. Safe to share between invocations: it keeps no state of a run."""

    def __init__(
        self,
        *,
        store: Store,
        snapshots: Snapshots,
        steps: WorkQueue,
        read_secret: Callable[[str], SecretStr],
        klaviyo: Callable[[SecretStr], Klaviyo],
        work: Path,
        container: str = "",
        notify: Callable[[notices.Notice], None] | None = None,
        checks: Mapping[str, Callable[[], None]] = MappingProxyType({}),
        limits: StepLimits = StepLimits(),
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
        self.records = RunStore(store, self.notices, work=work, now=self._now)
        self._clock, self._progress = clock, progress
        self._checks = {"state": store.ping, "snapshots": snapshots.ping, **checks}
        self._health: dict[str, str] = {}
        self._health_at, self._health_lock = -HEALTH_S, threading.Lock()
        self._outside = Outside(
            store=store,
            snapshots=snapshots,
            catalog=self.catalog,
            records=self.records,
            read_secret=read_secret,
            open_klaviyo=klaviyo,
            now=self._now,
            clock=clock,
            sleep=sleep,
            progress=progress,
            memory_mb=limits.memory_mb,
            setbacks=limits.setbacks,
            send=limits.send,
        )
        self.settling = Settling(
            self._outside,
            steps,
            container=container,
            settle_s=limits.settle_s,
            patience_s=limits.patience_s,
        )

    # What triggers call

    def note(self, blob_name: str) -> None:
        """A blob arrived: look at its snapshot once it has settled. What is no snapshot is noted and ignored."""
        self.settling.note(blob_name)

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
                return self.settling.look(message, blob_name, redelivered=redelivered)
            case {"do": "step", "run": str(run_id), "step": int(step)}:
                return self._step(run_id, step, redelivered=redelivered)
            case _:
                logger.error("message not understood and dropped")
                return Done()

    def tick(self) -> None:
        """Start runs that are due or were missed, look after open ones, send notices, clear out what is past."""
        timer.tick(self, self._now())

    def close_poisoned(self, message: Mapping[str, Any]) -> None:
        """A message failed too often: its run, or that of the snapshot it was about, is Failed: nobody waits for it."""
        if message.get("do") == "settle":
            self.settling.close_poisoned(str(message.get("blob")))
            return
        run_id = message.get("run")
        try:
            found = self.records.read(run_id) if isinstance(run_id, str) else None
        except DocumentUnreadable as exc:
            logger.error(
                "poison message of a run that cannot be read", extra={"cause": exc.message}
            )
            return
        if found is None:
            logger.error("poison message without a run", extra={"cause": str(message.get("do"))})
            return
        run, etag = found
        self.records.end_early(
            run,
            etag,
            Status.FAILED,
            message=f"the step {run.phase} failed repeatedly: {run.unexpected or KILLED}",
            hint=DEFECT_HINT if run.unexpected else KILLED_HINT,
        )

    def health(self) -> dict[str, str]:
        """Each collaborator: "ok", or what is wrong with it. Looked up at most every HEALTH_S."""
        with self._health_lock:  # who asks meanwhile waits for the same answer
            if not 0 <= self._clock() - self._health_at < HEALTH_S:
                self._health = {name: _outcome(check) for name, check in self._checks.items()}
                self._health_at = self._clock()
            return dict(self._health)

    # Runs

    def start(self, export: Export) -> Run:
        """Start a run on the newest snapshots, on demand. Raises ConfigError when there is none, or no connection."""
        if export.connection is None:
            raise ConfigError(f"{export.name} is detached", hint="Give the export a connection.")
        return self.start_on(export, self.settling.freeze_newest(export), because="demand")

    def dry_run(self, export: Export, folder: Path) -> Plan:
        """The plan that a run of the newest snapshots would make, in a local folder. Sends and changes nothing."""
        manifest = self.settling.freeze_newest(export)
        sources = [self._outside.source(part) for part in manifest.partitions]
        show = self._progress
        return make_plan(
            sources,
            export.mapping,
            folder,
            memory_mb=self.limits.memory_mb,
            progress=lambda rows: show("plan", rows, 0),
        )

    def columns_of(self, segment: str) -> tuple[str, ...]:
        """The columns of a segment's newest snapshot, from the first partition that has any. Raises NoSnapshot."""
        ref = self.settling.newest_of(segment)
        if ref is None:
            raise NoSnapshot(
                f"no snapshot of {segment} has arrived yet", hint="Check the segment's name."
            )
        found = (
            read_columns(self._outside.source(part))
            for part in self.settling.freeze([ref]).partitions
        )
        return next(filter(None, found), ())

    def count_members(self, ref: SnapshotRef) -> int:
        """The rows of a snapshot, by reading all of it. Raises what reading may raise."""
        parts = self.settling.freeze([ref]).partitions
        with tempfile.TemporaryDirectory() as folder:
            rows = sum(
                count_rows(
                    self._outside.source(part), Path(folder), memory_mb=self.limits.memory_mb
                )
                for part in parts
            )
        members.keep(self.store, {ref: (parts, rows)})
        return rows

    def types_of(self, segment: str) -> Mapping[str, str]:
        """The data types that model.json gives to the columns of a segment's newest snapshot."""
        ref = self.settling.newest_of(segment)
        model = self.settling.model_of(ref) if ref else None
        return model.types if model else {}

    def start_on(
        self,
        export: Export,
        manifest: Manifest,
        *,
        because: Literal["schedule", "demand"],
        due_at: datetime | None = None,
        skipped_before: str = "",
    ) -> Run:
        """Start a run on a manifest, or take up the one that is open on it.

        A schedule skips a manifest that an attempt has delivered to the export's list; attempts that failed or were
        canceled, by whomever, count for nothing. due_at: its moment, for which there is one run. skipped_before: see
        `skip`.
        """
        attempt = 1
        while (
            run := self.settling.create(
                export, manifest, because=because, attempt=attempt, due_at=due_at
            )
        ) is None:
            found = self.records.readable(new_run_id(export.id, manifest, attempt))
            if found and found.status.is_open:
                if self._is_as(found, export):
                    self.settling.set_going(found)  # its own message may be lost
                    if self.records.why_cancelled(found.run_id) is None:
                        return found
                else:
                    self.cancel(found.run_id, why="the export was changed; a new run follows")
                    self.settling.set_going(found)
            elif found and because == "schedule":
                if due_at and found.due_at == due_at:
                    return found  # another instance started it
                if found.status not in (Status.FAILED, Status.CANCELED) and self._goes_where(
                    found, export
                ):
                    message = "no new snapshot since the last run"
                    moment = due_at or self._now()
                    return self.skip(
                        export, moment, manifest=manifest, message=message, before=skipped_before
                    )
            attempt += 1
        return run

    def _is_as(self, run: Run, export: Export) -> bool:
        """Whether an open run does what its export says by now."""
        kept = ("mapping", "max_profiles", "keep_rejected_rows", "reconcile")
        return self._goes_where(run, export) and all(
            getattr(run, name) == getattr(export, name) for name in kept
        )

    def _goes_where(self, run: Run, export: Export) -> bool:
        """Whether a run is of this very export, and goes to the list that it names by now."""
        ends = (run.connection, run.list_id) == (export.connection, export.list_id)
        return ends and is_same_document(export, run.export_created_at)

    def cancel(self, run_id: str, *, why: str = "cancelled by a person") -> None:
        """Ask a run to stop: no batch leaves later than 0.3 s from now."""
        self.records.cancel(run_id, why=why)

    def run(self, run_id: str) -> Run | None:
        """A run's document; None when there is none."""
        found = self.records.read(run_id)
        return found[0] if found else None

    def skip(
        self,
        export: Export,
        due_at: datetime,
        *,
        message: str,
        hint: str = "",
        manifest: Manifest | None = None,
        before: str = "",
    ) -> Run:
        """A scheduled run with nothing to do, at its moment: recorded, not repeated.

        before: the run that was skipped at the moment before. For the same reason it stands for this one too: a
        schedule of every minute would fill the history.
        """
        manifest = manifest or Manifest(snapshots=[], exported_at=due_at, partitions=[])
        last = self.run(before) if before else None
        if last and (last.message, last.manifest.digest()) == (message, manifest.digest()):
            return last
        run = self.settling.new_run(export, manifest, because="schedule", attempt=1, due_at=due_at)
        run = run.model_copy(update={"run_id": skipped_run_id(export.id, due_at)})
        return self.settling.create_closed(run, Status.SKIPPED, message=message, hint=hint)

    # One step

    def _step(self, run_id: str, step: int, *, redelivered: bool) -> StepResult:
        found = self.records.read(run_id)
        if found is None:
            return Done()
        run, etag = found
        if not run.status.is_open:
            self.records.tidy(run)
            return Done()
        if step != run.step:
            # The step was taken. Its taker queued the next message, unless it died first: then this is a redelivery.
            return Next(step_message(run)) if redelivered else Done()
        with bound_run(run_id), telemetry.step(run_id, step):
            return self._attempt(run, etag)

    def _attempt(self, run: Run, etag: str) -> StepResult:
        """Take the step under the account's lease; turn every known error into a value."""
        try:
            held = lease.take(
                self.store,
                self._lease_of(run),
                uuid.uuid4().hex,
                clock=self._clock,
                lasts_s=self.limits.lease_s,
            )
        except LeaseHeld as exc:
            return Next(step_message(run), after_s=exc.retry_after_s or 5)
        pacer = _pacer(held, self.limits.pacer_share)
        taken = Step(self._outside, run, etag, held, pacer)
        try:
            with lease.kept(held, pacer=pacer.to_json):
                return self._take(taken)
        except (LeaseHeld, StoreMoved):
            return Next(step_message(taken.run), after_s=5)
        except ExporterError as exc:
            error = exc
        except (
            OSError,
            duckdb.IOException,
        ) as exc:  # our own files on this disk; the remote has its own errors
            what = getattr(exc, "strerror", None) or type(exc).__name__
            error = Transient(
                f"the local disk could not be used: {what}",
                hint="Is the disk under WORK_FOLDER full?",
            )
        except (
            Exception
        ) as exc:  # the message comes again, some times: should it fail each time, this is why
            self._keep_unexpected(taken, exc)
            raise
        try:
            return self._conclude(taken, error)
        except (
            StoreMoved
        ):  # another instance has the run by now: this message is stale, or waits for its turn
            return Next(step_message(taken.run), after_s=5)
        except Exception as exc:
            self._keep_unexpected(taken, exc)
            raise

    def _take(self, taken: Step) -> StepResult:
        try:
            return taken.take(deadline=self._clock() + self.limits.step_s)
        except PartitionChanged:
            return self._start_over(taken)

    def _keep_unexpected(self, taken: Step, exc: Exception) -> None:
        """Write into a run what went wrong, for whoever closes it."""
        with contextlib.suppress(ExporterError):  # the first error is the one to be seen
            self.records.write(
                taken.run.model_copy(update={"unexpected": kind_and_place(exc)}), taken.etag
            )

    def _conclude(self, taken: Step, error: ExporterError) -> StepResult:
        """What follows from an error that ended an attempt."""
        if isinstance(error, KeyRefused):
            error = taken.error_of_key(error)
        match error:
            case RunCanceled():
                self._end_early(taken, Status.CANCELED, message=error.message, hint=error.hint)
                return Done()
            case Transient():
                return self._set_back(taken, error)
            case _:
                taken.run = taken.run.model_copy(update={"cause": type(error).__name__})
                self._end_early(taken, Status.FAILED, message=error.message, hint=error.hint)
                return Done()

    def _end_early(self, taken: Step, status: Status, *, message: str, hint: str) -> None:
        """End the run of a step that cannot go on, with the lists of rows so far."""
        undelivered = taken.save_rows_so_far()
        self.records.end_early(
            taken.run, taken.etag, status, message=message, hint=hint, undelivered=undelivered
        )

    def _set_back(self, taken: Step, error: Transient) -> StepResult:
        """Wait and try again, a limited number of times: nothing is retried for ever."""
        run, etag = taken.run, taken.etag
        setbacks = 1 if taken.has_progressed else run.setbacks + 1
        if setbacks > self.limits.setbacks:
            message = (
                f"gave up after {self.limits.setbacks} tries without progress: {error.message}"
            )
            self._end_early(taken, Status.FAILED, message=message, hint=error.hint)
            return Done()
        wait_s = backoff_s(setbacks, error)
        logger.warning(
            "step put off",
            extra={"cause": type(error).__name__, "wait_s": wait_s, "attempt": setbacks},
        )
        telemetry.waited(wait_s, telemetry.SETBACK_WAIT)
        changed = run.model_copy(
            update={"setbacks": setbacks, "message": error.message, "hint": error.hint}
        )
        changed = self.records.write(changed.model_copy(update={"step": run.step + 1}), etag)[0]
        return Next(step_message(changed), after_s=wait_s)

    def _start_over(self, taken: Step) -> StepResult:
        """The snapshot changed while it was read: once it has settled, a new run reads it, and this one ends."""
        run, etag = taken.run, taken.etag
        changed = "the snapshot changed while it was read"
        export = self.catalog.export(run.export)
        if export is None or not any(
            True for prefix in run.manifest.snapshots for _ in self.snapshots.list(prefix)
        ):
            message = "the snapshot is gone: its files were deleted while they were read"
            status = Status.SKIPPED if run.because == "arrival" else Status.FAILED
            self.records.end_early(
                run,
                etag,
                status,
                message=message,
                hint="Run the export in Customer Insights again.",
            )
            return Done()
        states = {
            ref: self.settling.completeness_of(ref, [run.mapping]) for ref in _refs_of(run.manifest)
        }
        settled = [ref for ref, state in states.items() if isinstance(state, Settled)]
        missing = [
            segment for segment in export.segments if not any(ref.is_of(segment) for ref in settled)
        ]
        manifest = self.settling.freeze(settled, missing=missing)
        waits = [state.wait_s for state in states.values() if isinstance(state, NotYet)]
        if waits or manifest.digest() == run.manifest.digest():
            return self._set_back(taken, Transient(changed, retry_after_s=max(waits, default=0)))
        # Files of a laptop, partitions that never came, changes without end.
        if not settled or run.restarts >= RESTARTS:
            hint = "Run the export again when the snapshot's files no longer change."
            self.records.end_early(run, etag, Status.FAILED, message=changed, hint=hint)
            return Done()
        following = self.settling.new_run(
            export, manifest, because=run.because, attempt=1, due_at=run.due_at
        )
        with contextlib.suppress(
            AlreadyThere
        ):  # the files' arrival started it, or this step before it died
            self.records.create(following.model_copy(update={"restarts": run.restarts + 1}))
        if (found := self.run(following.run_id)) and found.status is Status.QUEUED:
            self.settling.set_going(found)
        self.records.end_early(
            run,
            etag,
            Status.SKIPPED,
            message=f"{changed}; {following.run_id} reads it as it is now",
        )
        return Done()

    def _is_stale(self, run: Run, now: datetime) -> bool:
        return now - (run.updated_at or run.created_at) > timedelta(seconds=STALE_S)

    def _waits_for_its_turn(self, run: Run) -> bool:
        """Whether its account is at work, for this run or another: its message goes round and needs no second."""
        return lease.is_held(
            self.store, self._lease_of(run), now=self._clock(), lasts_s=self.limits.lease_s
        )

    def _lease_of(self, run: Run) -> str:
        try:
            connection = self.catalog.connection(run.connection)
        except DocumentUnreadable:  # the step says so
            connection = None
        account = connection.check.account_id if connection and connection.check else ""
        return lease.lease_name(run.connection, account)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def nudge(self, run: Run, now: datetime) -> None:
        """Queue a message for an open run that nothing has moved for so long that it must have lost its own."""
        if self._is_stale(run, now) and not self._waits_for_its_turn(run):
            logger.warning("run nudged", extra={"run_id": run.run_id})
            self.steps.put(step_message(run))

    def key_of(self, connection: Connection) -> SecretStr:
        return self._outside.read_key(connection)


def _pacer(held: lease.HeldLease, share: float) -> Pacer:
    """A pacer that goes on where the last holder's was; one that cannot be read must not block the connection."""
    try:
        return Pacer.from_json(held.pacer, share=share)
    except ValueError:
        logger.warning("used rate windows unreadable")
        return Pacer(share=share)


def _refs_of(manifest: Manifest) -> list[SnapshotRef]:
    """The snapshots of a manifest; those of files on a laptop have no names that can be read."""
    refs = {}
    for part in manifest.partitions:
        with contextlib.suppress(NotASnapshot):
            ref = parse_blob_name(part.name)
            refs[ref.prefix] = ref
    return list(refs.values())


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except ExporterError as exc:
        return f"{exc.message} {exc.hint}".strip()
    return "ok"
