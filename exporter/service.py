"""The one place that orders things. Triggers, CLI and console call these methods and nothing deeper.

    note(blob)  ->  settle message  ->  settle: freeze manifest, start runs  ->  step message  ->  step, step, ...
    tick()      ->  what the timer does: timer.py

A step takes a run as far as its time allows and answers with a value; `handle` turns that value into the next message.
Any step may die at any line: what it had recorded counts, the rest is done again.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, assert_never

import duckdb
from pydantic import SecretStr

from exporter import leases, members, notices, telemetry, timer
from exporter.catalog import Catalog, Connection, Export, is_born
from exporter.errors import (
    AlreadyThere,
    BlobTooLarge,
    ConfigError,
    DocumentUnreadable,
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
from exporter.headers import HeaderDecision, counts_columns
from exporter.logs import bound_run, kind_and_place
from exporter.mapping import MappingDocument
from exporter.model_json import MAX_MODEL_BYTES, Dialect, TableModel, parse_table
from exporter.pacing import Pacer
from exporter.planning import count_rows, make_plan, read_columns
from exporter.plans import Plan
from exporter.reading import read_partition
from exporter.records import AGAIN_HINT, Records
from exporter.runs import Manifest, ManifestPartition, Run, Status, close, new_run_id
from exporter.snapshots import (
    MODEL_NAME,
    Completeness,
    Layout,
    NeverCame,
    NotASnapshot,
    NotYet,
    Settled,
    SnapshotRef,
    completeness,
    is_model,
    parse_blob_name,
)
from exporter.stepping import SETBACKS, Done, Klaviyo, Next, Outside, Step, StepResult, step_message
from exporter.store import BlobInfo, Snapshots, Steps, Store

logger = logging.getLogger(__name__)

STALE_S = 900.0  # an open run that nothing moved for so long lost its message: half as much again as a hidden one
LONGEST_WAIT_S = 300.0
LOOKED_S = 3600.0  # longer than a look at a snapshot goes on, from the first try to the last
UNKNOWN_HINT = "Look for it in the logs; mend the cause, then run the export again, which is harmless."
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
HEALTH_S = 20.0  # how old an answer of `health` may be: anybody may ask, and each answer reads the vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How the service uses time, memory and disk."""

    settle_s: float = 120.0  # quiet time after which a folder counts as complete
    patience_s: float = 3600.0  # how long partitions that model.json names are waited for
    step_s: float = 480.0  # a step ends itself after this; well before the invocation's limit of 30 minutes
    setbacks: int = SETBACKS
    lease_s: float = leases.LEASE_S  # how long a dead instance keeps its connection from others
    memory_mb: int = 96  # DuckDB's share
    pacer_share: float = 1.0  # of Klaviyo's limits
    runs_kept_days: int = 365
    rejected_kept_days: int = 30  # lists of rows; that of rejected ones holds personal data
    no_snapshot_days: int = 8  # without a new one, after which somebody is told; 0 for never


@dataclass(frozen=True, slots=True)
class Arrived:
    """A snapshot that is in the container, complete or not, and the blob of it that was written last."""

    ref: SnapshotRef
    last: BlobInfo

    @property
    def moment(self) -> datetime:
        return self.ref.exported_at or self.last.modified_at


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
        self.records = Records(store, self.notices, work=work, now=self._now)
        self._container, self._clock, self._progress = container, clock, progress
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
        )

    # What triggers call

    def note(self, blob_name: str) -> None:
        """A blob arrived: look at its snapshot once it has settled. What is no snapshot is noted and ignored."""
        if is_model(blob_name):
            self.steps.put({"do": "settle", "blob": blob_name}, delay_s=self.limits.settle_s)
            return
        try:
            ref = parse_blob_name(blob_name)
        except NotASnapshot as exc:
            logger.info("blob ignored", extra={"cause": exc.message})
            return
        delay_s = 0.0 if ref.is_one_file else self.limits.settle_s
        logger.info("blob noted", extra={"segment": ref.segment, "wait_s": delay_s})
        self.look_at(blob_name, delay_s=delay_s)

    def look_at(self, blob_name: str, *, delay_s: float = 0) -> None:
        """Queue a look at the snapshot of a blob."""
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
        """Start runs that are due or were missed, look after open ones, send notices, clear out what is past."""
        timer.tick(self, self._now())

    def close_poisoned(self, message: Mapping[str, Any]) -> None:
        """A message failed too often: its run, or that of the snapshot it was about, is Failed: nobody waits for it."""
        if message.get("do") == "settle":
            self._close_poisoned_look(str(message.get("blob")))
            return
        run_id = message.get("run")
        try:
            found = self.records.read(run_id) if isinstance(run_id, str) else None
        except DocumentUnreadable as exc:
            logger.error("poison message of a run that cannot be read", extra={"cause": exc.message})  # noqa: TRY400
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

    def start(self, export: Export, *, because: Literal["demand"] = "demand") -> Run:
        """Start a run on the newest snapshots, now. Raises ConfigError when there is none, or no connection."""
        if export.connection is None:
            raise ConfigError(f"{export.name} is detached", hint="Give the export a connection.")
        return self.start_on(export, self.freeze_newest(export), because=because)

    def dry_run(self, export: Export, folder: Path) -> Plan:
        """The plan that a run of the newest snapshots would make, in a local folder. Sends and changes nothing."""
        manifest = self.freeze_newest(export)
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
        ref = self._newest_of(segment)
        if ref is None:
            raise NoSnapshot(f"no snapshot of {segment} has arrived yet", hint="Check the segment's name.")
        found = (read_columns(self._outside.source(part)) for part in self._freeze([ref]).partitions)
        return next(filter(None, found), ())

    def count_members(self, ref: SnapshotRef) -> int:
        """The rows of a snapshot, by reading all of it. Raises what reading may raise."""
        parts = self._freeze([ref]).partitions
        with tempfile.TemporaryDirectory() as folder:
            rows = sum(
                count_rows(self._outside.source(part), Path(folder), memory_mb=self.limits.memory_mb) for part in parts
            )
        members.keep(self.store, {ref: (parts, rows)})
        return rows

    def types_of(self, segment: str) -> Mapping[str, str]:
        """The data types that model.json gives to the columns of a segment's newest snapshot."""
        ref = self._newest_of(segment)
        model = self._model(ref) if ref else None
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
        while (run := self._create(export, manifest, because=because, attempt=attempt, due_at=due_at)) is None:
            found = self.records.readable(new_run_id(export.id, manifest, attempt))
            if found and found.status.is_open:
                if self._is_as(found, export):
                    self._set_going(found)  # its own message may be lost
                    if self.records.why_cancelled(found.run_id) is None:
                        return found
                else:
                    self.cancel(found.run_id, why="the export was changed; a new run follows")
                    self._set_going(found)
            elif found and because == "schedule":
                if due_at and found.due_at == due_at:
                    return found  # another instance started it
                if found.status not in (Status.FAILED, Status.CANCELED) and self._goes_where(found, export):
                    message = "no new snapshot since the last run"
                    moment = due_at or self._now()
                    return self.skip(export, moment, manifest=manifest, message=message, before=skipped_before)
            attempt += 1
        return run

    def _is_as(self, run: Run, export: Export) -> bool:
        """Whether an open run does what its export says by now."""
        kept = ("mapping", "max_profiles", "keep_rejected_rows", "reconcile")
        return self._goes_where(run, export) and all(getattr(run, name) == getattr(export, name) for name in kept)

    def _goes_where(self, run: Run, export: Export) -> bool:
        """Whether a run is of this very export, and goes to the list that it names by now."""
        ends = (run.connection, run.list_id) == (export.connection, export.list_id)
        return ends and is_born(export, run.export_created_at)

    def cancel(self, run_id: str, *, why: str = "cancelled by a person") -> None:
        """Ask a run to stop within 0.3 s."""
        self.records.cancel(run_id, why=why)

    def run(self, run_id: str) -> Run | None:
        """A run's document; None when there is none."""
        found = self.records.read(run_id)
        return found[0] if found else None

    def runs(self, export_id: str) -> Iterator[Run]:
        """The runs of an export, newest snapshot first."""
        return self.records.of_export(export_id)

    # Settling

    def _look(self, message: Mapping[str, Any], blob_name: str, *, redelivered: bool) -> StepResult:
        """Settle the snapshot of a blob; whatever keeps us from it, come back a limited number of times.

        A new role takes minutes to count, so what a person must mend is waited for as well.
        """
        try:
            ref = None if is_model(blob_name) else parse_blob_name(blob_name)
        except NotASnapshot:
            logger.error("message not understood and dropped")  # noqa: TRY400
            return Done()
        tries = int(message.get("tries", 0))
        try:
            if ref is None:
                return self._settle_described(blob_name)
            return self._settle(ref, message, redelivered=redelivered or tries > 0)
        except ExporterError as exc:
            tries += 1
            if tries > self.limits.setbacks:
                if ref is not None:  # what a model.json is about is looked at for itself, too
                    self._fail_unsettled(ref, f"{exc.message}, {self.limits.setbacks} times in a row", hint=exc.hint)
                return Done()
            logger.warning("settling put off", extra={"cause": exc.message, "attempt": tries})
            return Next({**message, "tries": tries}, after_s=_backoff_s(tries, exc))

    def _settle(self, ref: SnapshotRef, message: Mapping[str, Any], *, redelivered: bool) -> StepResult:
        exports = [export for export in self.catalog.exports() if _wants(export, ref)]
        if not exports:
            logger.info("no export for this segment", extra={"segment": ref.segment})
            return Done()
        state = self._completeness(ref, [export.mapping for export in exports])
        match state:
            case NotYet(wait_s):
                return Next({**message, "tries": 0}, after_s=wait_s)
            case Settled():
                self._start_each_on_arrival(exports, ref, redelivered=redelivered)
            case NeverCame(missing):
                logger.error("snapshot incomplete", extra={"segment": ref.segment, "missing": len(missing)})
                for export in exports:
                    self._fail_incomplete(export, ref, len(missing))
        return Done()

    def _settle_described(self, model_name: str) -> StepResult:
        """A model.json came or changed: the newest snapshots that it may be about are looked at, again or at last."""
        newest: dict[str, tuple[datetime, str]] = {}
        for blob in self.snapshots.list(model_name.removesuffix(MODEL_NAME)):
            with contextlib.suppress(NotASnapshot):
                ref = parse_blob_name(blob.name)
                if ref.model == model_name:
                    found = (ref.exported_at or blob.modified_at, blob.name)
                    newest[ref.segment] = max(newest.get(ref.segment, found), found)
        for _, name in newest.values():
            self.steps.put({"do": "settle", "blob": name})
        return Done()

    def _completeness(self, ref: SnapshotRef, mappings: Sequence[MappingDocument] = ()) -> Completeness:
        """mappings: by which the snapshot is to be read; their columns may have to be named by a model.json to come."""
        model = self._model(ref)
        state = completeness(
            ref,
            list(self.snapshots.list(ref.prefix)),
            named=model.named_in(ref.prefix) if model else (),
            now=self._now(),
            quiet_s=self.limits.settle_s,
            patience_s=self.limits.patience_s,
        )
        if isinstance(state, Settled) and self._awaits_model(ref, model, state.partitions, mappings):
            return NotYet(max(self.limits.settle_s, 1), "model.json does not say yet what the columns are called")
        return state

    def _awaits_model(
        self,
        ref: SnapshotRef,
        model: TableModel | None,
        partitions: Sequence[BlobInfo],
        mappings: Sequence[MappingDocument],
    ) -> bool:
        """Whether only a model.json that is still to come can say what the columns are called. Patience has an end."""
        arrived_at = max(blob.modified_at for blob in partitions)
        patience = timedelta(seconds=self.limits.patience_s)
        if ref.model is None or _describes(model, ref) or self._now() - arrived_at >= patience:
            return False
        part = _frozen(max(partitions, key=lambda blob: blob.size_bytes), ref, model)
        names = [mapping.named_columns() for mapping in mappings]
        try:
            headers = [self._header(part, expected=each) for each in names if not counts_columns(each)]
        except (SnapshotUnreadable, PartitionChanged):
            return False  # that is for a run to say
        return any(header.columns and not header.has_header for header in headers)

    def _header(self, part: ManifestPartition, *, expected: Sequence[str] = ()) -> HeaderDecision:
        """What the columns of a partition are called, from its first line."""
        chunks = self.snapshots.open(part.name, etag=part.etag)
        with tempfile.TemporaryDirectory() as folder:
            read = read_partition(chunks, folder=Path(folder), name=part.name, declared=part.dialect, expected=expected)
            with contextlib.closing(read):
                return read.header

    def _model(self, ref: SnapshotRef) -> TableModel | None:
        """What model.json says of a snapshot's table; nothing in it is needed."""
        try:
            return self._read_model(ref)
        except BlobTooLarge as exc:
            logger.warning("model.json left aside", extra={"segment": ref.segment, "cause": exc.message})
            return None

    def _read_model(self, ref: SnapshotRef) -> TableModel | None:
        found = self.snapshots.read(ref.model, max_bytes=MAX_MODEL_BYTES) if ref.model else None
        return parse_table(found.data, ref.segment, container=self._container) if found else None

    def _start_each_on_arrival(self, exports: Sequence[Export], ref: SnapshotRef, *, redelivered: bool) -> None:
        """One that cannot be started does not keep the others from it. Raises the first error at the end."""
        errors = []
        for export in exports:
            try:
                self._start_on_arrival(export, ref, redelivered=redelivered)
            except ExporterError as exc:
                errors.append(exc)
        if errors:
            raise errors[0]

    def _start_on_arrival(self, export: Export, ref: SnapshotRef, *, redelivered: bool) -> None:
        others = [segment for segment in export.segments if not ref.is_of(segment)]
        newest = self._newest_of_each(others, [export.mapping])
        manifest = self._freeze_all(export, {**dict.fromkeys(export.segments, ref), **newest})
        attempt = 1
        while self._create(export, manifest, because="arrival", attempt=attempt) is None:
            found = self.records.readable(new_run_id(export.id, manifest, attempt))
            if found and found.status is Status.FAILED and found.manifest != manifest:
                attempt += 1  # by now model.json says something else of the same files
                continue
            if found and found.status is Status.QUEUED and redelivered:
                # Whoever had this message before may have died between creating the run and queueing its first step.
                self._set_going(found)
            return

    def _fail_incomplete(self, export: Export, ref: SnapshotRef, missing: int) -> None:
        run = self._new_run(export, self._freeze([ref]), because="arrival", attempt=1)
        self._create_closed(
            run,
            Status.FAILED,
            message=f"the snapshot is incomplete: {missing} partitions that model.json names never came",
            hint="Look at the export's status in Customer Insights and run it again there.",
        )

    def _close_poisoned_look(self, blob_name: str) -> None:
        try:
            ref = parse_blob_name(blob_name)
        except NotASnapshot:
            logger.error("poison message without a snapshot")  # noqa: TRY400
            return
        self._fail_unsettled(ref, "the exporter fails, for a reason that it does not know", hint=UNKNOWN_HINT)

    def _fail_unsettled(self, ref: SnapshotRef, why: str, *, hint: str = "") -> None:
        """Record a Failed run for each export that waits for a snapshot which could not be looked at."""
        now = self._now()
        manifest = Manifest(snapshots=[ref.prefix], exported_at=ref.exported_at or now, partitions=[])
        for export in self.catalog.exports():
            if _wants(export, ref) and not self.has_run(export, ref, since=now - timedelta(seconds=LOOKED_S)):
                run = self._new_run(export, manifest, because="arrival", attempt=1)
                message = f"a snapshot arrived and could not be looked at: {why}"
                self._create_closed(run, Status.FAILED, message=message, hint=hint or AGAIN_HINT)

    def has_run(self, export: Export, ref: SnapshotRef, *, since: datetime) -> bool:
        """Whether a run of an export on a snapshot was created since then."""
        return any(
            ref.prefix in run.manifest.snapshots and run.created_at >= since
            for run in self.records.on_snapshots_since(export.id, ref.exported_at or since)
        )

    def freeze_newest(self, export: Export) -> Manifest:
        """The manifest of the newest complete snapshots of an export's segments. Raises NoSnapshot."""
        found = self._newest_of_each(export.segments, [export.mapping])
        if not any(found.values()):
            raise NoSnapshot(
                f"no snapshot of {', '.join(export.segments)} has arrived yet",
                hint="Check the segment's name and that Customer Insights exports it to the snapshots container.",
            )
        return self._freeze_all(export, found)

    def _newest_of(self, segment: str) -> SnapshotRef | None:
        """The newest complete snapshot of a segment."""
        return self._newest_of_each([segment])[segment]

    def _newest_of_each(
        self, segments: Sequence[str], mappings: Sequence[MappingDocument] = ()
    ) -> dict[str, SnapshotRef | None]:
        """The newest complete snapshot of each segment, if any."""
        newest_first = [each.ref for each in self.arrived(segments)]
        newest: dict[str, SnapshotRef | None] = dict.fromkeys(segments)
        for segment in segments:
            for ref in newest_first:
                if ref.is_of(segment) and isinstance(self._completeness(ref, mappings), Settled):
                    newest[segment] = ref
                    break
        return newest

    def arrived(self, segments: Sequence[str]) -> list[Arrived]:
        """The snapshots of some segments in the container, newest first. Lists all of it: paths vary too much.

        Of however many blobs, only the snapshots of these segments are kept in mind.
        """
        found: dict[str, Arrived] = {}
        for blob in self.snapshots.list(""):
            with contextlib.suppress(NotASnapshot):
                ref = parse_blob_name(blob.name)
                if not any(ref.is_of(segment) for segment in segments):
                    continue
                if ref.prefix not in found or found[ref.prefix].last.modified_at < blob.modified_at:
                    found[ref.prefix] = Arrived(ref, blob)
        return sorted(found.values(), key=lambda each: each.moment, reverse=True)

    def _freeze_all(self, export: Export, found: Mapping[str, SnapshotRef | None]) -> Manifest:
        """The manifest of what was found of each segment of an export."""
        refs = {ref.prefix: ref for segment in export.segments if (ref := found[segment])}
        missing = [segment for segment in export.segments if not found[segment]]
        return self._freeze(list(refs.values()), missing=missing)

    def _freeze(self, refs: list[SnapshotRef], *, missing: Sequence[str] = ()) -> Manifest:
        """The manifest of these snapshots as they are now."""
        partitions: list[ManifestPartition] = []
        exported: dict[str, datetime] = {}
        notes: list[str] = []
        for ref in refs:
            try:
                model = self._read_model(ref)
            except BlobTooLarge as exc:
                model = None
                notes.append(f"{exc.message} and was left aside: the files alone say how they are written")
            for blob in sorted(self.snapshots.list(ref.prefix), key=lambda blob: blob.name):
                if ref.holds(blob.name):
                    moment = ref.exported_at or blob.modified_at
                    exported[ref.prefix] = max(moment, exported.get(ref.prefix, moment))
                    partitions.append(_frozen(blob, ref, model))
        return Manifest(
            snapshots=[ref.prefix for ref in refs],
            exported_at=max(exported.values(), default=self._now()),
            exported=exported,
            partitions=partitions,
            notes=notes,
            missing=list(missing),
        )

    def _new_run(
        self, export: Export, manifest: Manifest, *, because: Any, attempt: int, due_at: datetime | None = None
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

    def _create(
        self, export: Export, manifest: Manifest, *, because: Any, attempt: int, due_at: datetime | None = None
    ) -> Run | None:
        """Create a run and queue its first step. None when it exists: somebody was faster, or it ran before."""
        run = self._new_run(export, manifest, because=because, attempt=attempt, due_at=due_at)
        try:
            self.records.create(run)
        except AlreadyThere:
            return None
        logger.info("run created", extra={"run_id": run.run_id})
        self._set_going(run)
        return run

    def _set_going(self, run: Run) -> None:
        """Queue an open run's next step; from here on the timer looks after it."""
        self.records.list_as_open(run)
        self.steps.put(step_message(run))

    def _create_closed(self, run: Run, status: Status, *, message: str, hint: str = "") -> Run:
        """Record a run that ends before it begins, report and all. Never open, so that no nudge sets it going."""
        closed = close(run, status, now=self._now(), message=message, hint=hint)
        self.records.create_ended(closed)
        return closed

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
        run = self._new_run(export, manifest, because="schedule", attempt=1, due_at=due_at)
        run = run.model_copy(update={"run_id": f"{export.id}/{due_at:%Y%m%dT%H%M%SZ}-skipped"})
        return self._create_closed(run, Status.SKIPPED, message=message, hint=hint)

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
        """Take the step under the connection's lease; turn every known error into a value."""
        try:
            held = leases.take(
                self.store, run.connection, uuid.uuid4().hex, clock=self._clock, lasts_s=self.limits.lease_s
            )
        except LeaseHeld as exc:
            return Next(step_message(run), after_s=exc.retry_after_s or 5)
        pacer = _pacer(held, self.limits.pacer_share)
        taken = Step(self._outside, run, etag, held, pacer)
        try:
            with leases.kept(held, pacer=pacer.to_json):
                return taken.take(deadline=self._clock() + self.limits.step_s)
        except (LeaseHeld, StoreMoved):
            return Next(step_message(taken.run), after_s=5)
        except ExporterError as exc:
            error = exc
        except (
            OSError,
            duckdb.IOException,
        ) as exc:  # our own files on this machine's disk; the remote has its own errors
            what = getattr(exc, "strerror", None) or type(exc).__name__
            error = Transient(f"the local disk could not be used: {what}", hint="Is the disk under WORK_FOLDER full?")
        except Exception as exc:  # the message comes again, some times: should it fail each time, this is why
            self._keep_unexpected(taken, exc)
            raise
        try:
            return self._conclude(taken, error)
        except StoreMoved:  # another instance has the run by now: this message is stale, or waits for its turn
            return Next(step_message(taken.run), after_s=5)

    def _keep_unexpected(self, taken: Step, exc: Exception) -> None:
        """Write into a run what went wrong, for whoever closes it."""
        with contextlib.suppress(ExporterError):  # the first error is the one to be seen
            self.records.write(taken.run.model_copy(update={"unexpected": kind_and_place(exc)}), taken.etag)

    def _conclude(self, taken: Step, error: ExporterError) -> StepResult:
        """What follows from an error that ended an attempt."""
        if isinstance(error, KeyRefused):
            error = taken.error_of_key(error)
        match error:
            case PartitionChanged():
                return self._start_over(taken)
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
        self.records.end_early(taken.run, taken.etag, status, message=message, hint=hint, undelivered=undelivered)

    def _set_back(self, taken: Step, error: Transient) -> StepResult:
        """Wait and try again, a limited number of times: nothing is retried for ever."""
        run, etag = taken.run, taken.etag
        setbacks = 1 if taken.has_progressed else run.setbacks + 1
        if setbacks > self.limits.setbacks:
            message = f"gave up after {self.limits.setbacks} tries without progress: {error.message}"
            self._end_early(taken, Status.FAILED, message=message, hint=error.hint)
            return Done()
        wait_s = _backoff_s(setbacks, error)
        logger.warning("step put off", extra={"cause": type(error).__name__, "wait_s": wait_s, "attempt": setbacks})
        telemetry.waited(wait_s, telemetry.SETBACK_WAIT)
        changed = run.model_copy(update={"setbacks": setbacks, "message": error.message, "hint": error.hint})
        changed = self.records.write(changed.model_copy(update={"step": run.step + 1}), etag)[0]
        return Next(step_message(changed), after_s=wait_s)

    def _start_over(self, taken: Step) -> StepResult:
        """The snapshot changed while it was read: once it has settled, a new run reads it, and this one ends."""
        run, etag = taken.run, taken.etag
        changed = "the snapshot changed while it was read"
        export = self.catalog.export(run.export)
        if export is None or not any(True for prefix in run.manifest.snapshots for _ in self.snapshots.list(prefix)):
            message = "the snapshot is gone: its files were deleted while they were read"
            status = Status.SKIPPED if run.because == "arrival" else Status.FAILED
            self.records.end_early(
                run, etag, status, message=message, hint="Run the export in Customer Insights again."
            )
            return Done()
        states = {ref: self._completeness(ref, [run.mapping]) for ref in _refs_of(run.manifest)}
        settled = [ref for ref, state in states.items() if isinstance(state, Settled)]
        missing = [segment for segment in export.segments if not any(ref.is_of(segment) for ref in settled)]
        manifest = self._freeze(settled, missing=missing)
        waits = [state.wait_s for state in states.values() if isinstance(state, NotYet)]
        if waits or manifest.digest() == run.manifest.digest():
            return self._set_back(taken, Transient(changed, retry_after_s=max(waits, default=0)))
        if (
            not settled or run.restarts >= RESTARTS
        ):  # files of a laptop, partitions that never came, changes without end
            hint = "Run the export again when the snapshot's files no longer change."
            self.records.end_early(run, etag, Status.FAILED, message=changed, hint=hint)
            return Done()
        following = self._new_run(export, manifest, because=run.because, attempt=1, due_at=run.due_at)
        with contextlib.suppress(AlreadyThere):  # the files' arrival started it, or this step before it died
            self.records.create(following.model_copy(update={"restarts": run.restarts + 1}))
        if (found := self.run(following.run_id)) and found.status is Status.QUEUED:
            self._set_going(found)
        self.records.end_early(
            run, etag, Status.SKIPPED, message=f"{changed}; {following.run_id} reads it as it is now"
        )
        return Done()

    def _is_stale(self, run: Run, now: datetime) -> bool:
        return now - (run.updated_at or run.created_at) > timedelta(seconds=STALE_S)

    def _waits_for_its_turn(self, run: Run) -> bool:
        """Whether its connection is at work, for this run or another: its message goes round and needs no second."""
        return leases.is_held(self.store, run.connection, now=self._clock(), lasts_s=self.limits.lease_s)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def plan_folder(self, run: Run, token: str) -> Path:
        """Where this instance keeps a plan while the run is open."""
        return self.records.plan_folder(run, token)

    def nudge(self, run: Run, now: datetime) -> None:
        """Queue a message for an open run that nothing has moved for so long that it must have lost its own."""
        if self._is_stale(run, now) and not self._waits_for_its_turn(run):
            logger.warning("run nudged", extra={"run_id": run.run_id})
            self.steps.put(step_message(run))

    def key_of(self, connection: Connection) -> SecretStr:
        return self._outside.read_key(connection)


def _pacer(held: leases.HeldLease, share: float) -> Pacer:
    """A pacer that goes on where the last holder's was; one that cannot be read must not block the connection."""
    try:
        return Pacer.from_json(held.pacer, share=share)
    except ValueError:
        logger.warning("used rate windows unreadable")
        return Pacer(share=share)


def _backoff_s(tries: int, error: ExporterError) -> float:
    asked_s = error.retry_after_s if isinstance(error, Transient) else None
    return min(max(asked_s or 0, 2.0**tries), LONGEST_WAIT_S)


def _refs_of(manifest: Manifest) -> list[SnapshotRef]:
    """The snapshots of a manifest; those of files on a laptop have no names that can be read."""
    refs = {}
    for part in manifest.partitions:
        with contextlib.suppress(NotASnapshot):
            ref = parse_blob_name(part.name)
            refs[ref.prefix] = ref
    return list(refs.values())


def _frozen(blob: BlobInfo, ref: SnapshotRef, model: TableModel | None) -> ManifestPartition:
    """A partition as it is now. What another refresh called its columns does not count: they may stand otherwise."""
    dialect = model.dialect_of(blob.name) if model else Dialect()
    if not _describes(model, ref):
        dialect = replace(dialect, columns=None)
    return ManifestPartition(name=blob.name, etag=blob.etag, size_bytes=blob.size_bytes, dialect=dialect)


def _describes(model: TableModel | None, ref: SnapshotRef) -> bool:
    """Whether a model.json is of the refresh that wrote a snapshot; in a folder made by hand it is the folder's own."""
    return ref.layout is Layout.FOLDER or (model is not None and model.is_about(ref.prefix))


def _wants(export: Export, ref: SnapshotRef) -> bool:
    return (
        export.is_active and export.schedule.on == "arrival" and any(ref.is_of(segment) for segment in export.segments)
    )


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except ExporterError as exc:
        return f"{exc.message} {exc.hint}".strip()
    return "ok"
