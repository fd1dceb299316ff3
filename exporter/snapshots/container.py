"""What happens before a run exists: a snapshot is noted, looked at until it has settled, frozen, and runs begin on it.

    note(blob) ──> settle message ──> look ──> complete: freeze manifest ──> a run for each export that wants it
                                       ├─ not yet, or kept from looking: this message again, later
                                       └─ never complete, or given up: a Failed run for each, which says why

Whoever starts a run otherwise (a schedule, a person) freezes the newest snapshots and lets it begin here, too.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from exporter.definitions.export import Export
from exporter.definitions.mapping import MappingDocument
from exporter.errors import (
    AlreadyThere,
    BlobTooLarge,
    ExporterError,
    NoSnapshot,
    PartitionChanged,
    SnapshotUnreadable,
)
from exporter.orchestration.results import Done, Next, StepResult, backoff_s, step_message
from exporter.orchestration.run_step import Outside
from exporter.reading.column_headers import HeaderDecision, counts_columns
from exporter.reading.dialect import Dialect
from exporter.reading.partition import read_partition
from exporter.runs.run import Run, Status, close, new_run_id
from exporter.runs.run_store import AGAIN_HINT
from exporter.snapshots.completeness import Completeness, NeverCame, NotYet, Settled, completeness
from exporter.snapshots.manifest import Manifest, ManifestPartition
from exporter.snapshots.model_json import MAX_MODEL_BYTES, TableModel, parse_table
from exporter.snapshots.paths import (
    MODEL_NAME,
    Layout,
    NotASnapshot,
    SnapshotRef,
    is_model,
    parse_blob_name,
)
from exporter.storage.protocols import BlobInfo, WorkQueue

logger = logging.getLogger(__name__)

LOOKED_S = 3600.0  # longer than a look at a snapshot goes on, from the first try to the last
UNKNOWN_HINT = (
    "Look for it in the logs; mend the cause, then run the export again, which is harmless."
)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A snapshot that is in the container, complete or not, and the blob of it that was written last."""

    ref: SnapshotRef
    last: BlobInfo

    @property
    def moment(self) -> datetime:
        return self.ref.exported_at or self.last.modified_at


class Settling:
    """Snapshots from their arrival to the runs on them. Safe to share: it keeps nothing of them itself."""

    def __init__(
        self,
        outside: Outside,
        steps: WorkQueue,
        *,
        container: str,
        settle_s: float,
        patience_s: float,
    ) -> None:
        """container: the snapshots container's name. The numbers are those of `service.Limits`."""
        self._steps, self._container = steps, container
        self._settle_s, self._patience_s, self._setbacks = settle_s, patience_s, outside.setbacks
        self._snapshots, self._catalog, self._records = (
            outside.snapshots,
            outside.catalog,
            outside.records,
        )
        self._now = outside.now
        self.source = outside.source  # a partition, to be read as it was when it was frozen

    # Arrival

    def note(self, blob_name: str) -> None:
        """A blob arrived: look at its snapshot once it has settled. What is no snapshot is noted and ignored."""
        if is_model(blob_name):
            self._steps.put({"do": "settle", "blob": blob_name}, delay_s=self._settle_s)
            return
        try:
            ref = parse_blob_name(blob_name)
        except NotASnapshot as exc:
            logger.info("blob ignored", extra={"cause": exc.message})
            return
        delay_s = 0.0 if ref.is_one_file else self._settle_s
        logger.info("blob noted", extra={"segment": ref.segment, "wait_s": delay_s})
        self.look_at(blob_name, delay_s=delay_s)

    def look_at(self, blob_name: str, *, delay_s: float = 0) -> None:
        """Queue a look at the snapshot of a blob."""
        self._steps.put({"do": "settle", "blob": blob_name}, delay_s=delay_s)

    def look(self, message: Mapping[str, Any], blob_name: str, *, redelivered: bool) -> StepResult:
        """Settle the snapshot of a blob; whatever keeps us from it, come back a limited number of times.

        A new role takes minutes to count, so what a person must mend is waited for as well.
        """
        try:
            ref = None if is_model(blob_name) else parse_blob_name(blob_name)
        except NotASnapshot:
            logger.error("message not understood and dropped")
            return Done()
        tries = int(message.get("tries", 0))
        try:
            if ref is None:
                return self._settle_described(blob_name)
            return self._settle(ref, message, redelivered=redelivered or tries > 0)
        except ExporterError as exc:
            tries += 1
            if tries > self._setbacks:
                if ref is not None:  # what a model.json is about is looked at for itself, too
                    self._fail_unsettled(
                        ref, f"{exc.message}, {self._setbacks} times in a row", hint=exc.hint
                    )
                return Done()
            logger.warning("settling put off", extra={"cause": exc.message, "attempt": tries})
            return Next({**message, "tries": tries}, after_s=backoff_s(tries, exc))

    def _settle(
        self, ref: SnapshotRef, message: Mapping[str, Any], *, redelivered: bool
    ) -> StepResult:
        exports = [export for export in self._catalog.exports() if _wants(export, ref)]
        if not exports:
            logger.info("no export for this segment", extra={"segment": ref.segment})
            return Done()
        state = self.completeness_of(ref, [export.mapping for export in exports])
        match state:
            case NotYet(wait_s):
                return Next({**message, "tries": 0}, after_s=wait_s)
            case Settled():
                self._start_each_on_arrival(exports, ref, redelivered=redelivered)
            case NeverCame(missing):
                logger.error(
                    "snapshot incomplete", extra={"segment": ref.segment, "missing": len(missing)}
                )
                for export in exports:
                    self._fail_incomplete(export, ref, len(missing))
        return Done()

    def _settle_described(self, model_name: str) -> StepResult:
        """A model.json came or changed: the newest snapshots that it may be about are looked at, again or at last."""
        folder = model_name.removesuffix(MODEL_NAME)
        newest: dict[str, Arrived] = {}
        for each in self._arrived(folder, lambda ref: ref.model == model_name):
            newest.setdefault(each.ref.segment, each)
        for each in newest.values():
            self.look_at(each.last.name)
        return Done()

    # Completeness

    def completeness_of(
        self, ref: SnapshotRef, mappings: Sequence[MappingDocument] = ()
    ) -> Completeness:
        """mappings: by which the snapshot is to be read; their columns may have to be named by a model.json to come."""
        model = self.model_of(ref)
        state = completeness(
            ref,
            list(self._snapshots.list(ref.prefix)),
            named=model.named_in(ref.prefix) if model else (),
            now=self._now(),
            quiet_s=self._settle_s,
            patience_s=self._patience_s,
        )
        if isinstance(state, Settled) and self._awaits_model(
            ref, model, state.partitions, mappings
        ):
            return NotYet(
                max(self._settle_s, 1), "model.json does not say yet what the columns are called"
            )
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
        patience = timedelta(seconds=self._patience_s)
        if ref.model is None or _describes(model, ref) or self._now() - arrived_at >= patience:
            return False
        part = _frozen(max(partitions, key=lambda blob: blob.size_bytes), ref, model)
        names = [mapping.named_columns() for mapping in mappings]
        try:
            headers = [
                self._header(part, expected=each) for each in names if not counts_columns(each)
            ]
        except (SnapshotUnreadable, PartitionChanged):
            return False  # that is for a run to say
        return any(header.columns and not header.has_header for header in headers)

    def _header(self, part: ManifestPartition, *, expected: Sequence[str] = ()) -> HeaderDecision:
        """What the columns of a partition are called, from its first line."""
        chunks = self._snapshots.open(part.name, etag=part.etag)
        with tempfile.TemporaryDirectory() as folder:
            read = read_partition(
                chunks,
                folder=Path(folder),
                name=part.name,
                declared=part.dialect,
                expected=expected,
            )
            with contextlib.closing(read):
                return read.header

    def model_of(self, ref: SnapshotRef) -> TableModel | None:
        """What model.json says of a snapshot's table; nothing in it is needed."""
        try:
            return self._read_model(ref)
        except BlobTooLarge as exc:
            logger.warning(
                "model.json left aside", extra={"segment": ref.segment, "cause": exc.message}
            )
            return None

    def _read_model(self, ref: SnapshotRef) -> TableModel | None:
        found = self._snapshots.read(ref.model, max_bytes=MAX_MODEL_BYTES) if ref.model else None
        return parse_table(found.data, ref.segment, container=self._container) if found else None

    # What follows

    def _start_each_on_arrival(
        self, exports: Sequence[Export], ref: SnapshotRef, *, redelivered: bool
    ) -> None:
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
        while self.create(export, manifest, because="arrival", attempt=attempt) is None:
            found = self._records.readable(new_run_id(export.id, manifest, attempt))
            if found and found.status is Status.FAILED and found.manifest != manifest:
                attempt += 1  # by now model.json says something else of the same files
                continue
            if found and found.status is Status.QUEUED and redelivered:
                # Whoever had this message before may have died between creating the run and queueing its first step.
                self.set_going(found)
            return

    def _fail_incomplete(self, export: Export, ref: SnapshotRef, missing: int) -> None:
        run = self.new_run(export, self.freeze([ref]), because="arrival", attempt=1)
        self.create_closed(
            run,
            Status.FAILED,
            message=f"the snapshot is incomplete: {missing} partitions that model.json names never came",
            hint="Look at the export's status in Customer Insights and run it again there.",
        )

    def close_poisoned(self, blob_name: str) -> None:
        """A look failed too often: whoever waits for its snapshot gets a run that says so."""
        try:
            ref = parse_blob_name(blob_name)
        except NotASnapshot:
            logger.error("poison message without a snapshot")
            return
        self._fail_unsettled(
            ref, "the exporter fails, for a reason that it does not know", hint=UNKNOWN_HINT
        )

    def _fail_unsettled(self, ref: SnapshotRef, why: str, *, hint: str = "") -> None:
        """Record a Failed run for each export that waits for a snapshot which could not be looked at."""
        now = self._now()
        manifest = Manifest(
            snapshots=[ref.prefix], exported_at=ref.exported_at or now, partitions=[]
        )
        for export in self._catalog.exports():
            if _wants(export, ref) and not self.has_run(
                export, ref, since=now - timedelta(seconds=LOOKED_S)
            ):
                run = self.new_run(export, manifest, because="arrival", attempt=1)
                message = f"a snapshot arrived and could not be looked at: {why}"
                self.create_closed(run, Status.FAILED, message=message, hint=hint or AGAIN_HINT)

    def has_run(self, export: Export, ref: SnapshotRef, *, since: datetime) -> bool:
        """Whether a run of an export on a snapshot was created since then."""
        return any(
            ref.prefix in run.manifest.snapshots and run.created_at >= since
            for run in self._records.on_snapshots_since(export.id, ref.exported_at or since)
        )

    # Manifests

    def freeze_newest(self, export: Export) -> Manifest:
        """The manifest of the newest complete snapshots of an export's segments. Raises NoSnapshot."""
        found = self._newest_of_each(export.segments, [export.mapping])
        if not any(found.values()):
            raise NoSnapshot(
                f"no snapshot of {', '.join(export.segments)} has arrived yet",
                hint="Check the segment's name and that Customer Insights exports it to the snapshots container.",
            )
        return self._freeze_all(export, found)

    def newest_of(self, segment: str) -> SnapshotRef | None:
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
                if ref.is_of(segment) and isinstance(self.completeness_of(ref, mappings), Settled):
                    newest[segment] = ref
                    break
        return newest

    def arrived(self, segments: Sequence[str]) -> list[Arrived]:
        """The snapshots of some segments in the container, newest first. Lists all of it: paths vary too much.

        Of however many blobs, only the snapshots of these segments are kept in mind.
        """
        return self._arrived("", lambda ref: any(ref.is_of(segment) for segment in segments))

    def _arrived(self, folder: str, is_wanted: Callable[[SnapshotRef], bool]) -> list[Arrived]:
        """The snapshots below a folder that are wanted, newest first."""
        found: dict[str, Arrived] = {}
        for blob in self._snapshots.list(folder):
            with contextlib.suppress(NotASnapshot):
                ref = parse_blob_name(blob.name)
                if not is_wanted(ref):
                    continue
                if ref.prefix not in found or found[ref.prefix].last.modified_at < blob.modified_at:
                    found[ref.prefix] = Arrived(ref, blob)
        return sorted(found.values(), key=lambda each: each.moment, reverse=True)

    def _freeze_all(self, export: Export, found: Mapping[str, SnapshotRef | None]) -> Manifest:
        """The manifest of what was found of each segment of an export."""
        refs = {ref.prefix: ref for segment in export.segments if (ref := found[segment])}
        missing = [segment for segment in export.segments if not found[segment]]
        return self.freeze(list(refs.values()), missing=missing)

    def freeze(self, refs: list[SnapshotRef], *, missing: Sequence[str] = ()) -> Manifest:
        """The manifest of these snapshots as they are now."""
        partitions: list[ManifestPartition] = []
        exported: dict[str, datetime] = {}
        notes: list[str] = []
        for ref in refs:
            try:
                model = self._read_model(ref)
            except BlobTooLarge as exc:
                model = None
                notes.append(
                    f"{exc.message} and was left aside: the files alone say how they are written"
                )
            for blob in sorted(self._snapshots.list(ref.prefix), key=lambda blob: blob.name):
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

    # Runs begin

    def new_run(
        self,
        export: Export,
        manifest: Manifest,
        *,
        because: Any,
        attempt: int,
        due_at: datetime | None = None,
    ) -> Run:
        """A run as it begins, not yet recorded."""
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

    def create(
        self,
        export: Export,
        manifest: Manifest,
        *,
        because: Any,
        attempt: int,
        due_at: datetime | None = None,
    ) -> Run | None:
        """Create a run and queue its first step. None when it exists: somebody was faster, or it ran before."""
        run = self.new_run(export, manifest, because=because, attempt=attempt, due_at=due_at)
        try:
            self._records.create(run)
        except AlreadyThere:
            return None
        logger.info("run created", extra={"run_id": run.run_id})
        self.set_going(run)
        return run

    def set_going(self, run: Run) -> None:
        """Queue an open run's next step; from here on the timer looks after it."""
        self._records.list_as_open(run)
        self._steps.put(step_message(run))

    def create_closed(self, run: Run, status: Status, *, message: str, hint: str = "") -> Run:
        """Record a run that ends before it begins, report and all. Never open, so that no nudge sets it going."""
        closed = close(run, status, now=self._now(), message=message, hint=hint)
        self._records.create_ended(closed)
        return closed


def _frozen(blob: BlobInfo, ref: SnapshotRef, model: TableModel | None) -> ManifestPartition:
    """A partition as it is now. What another refresh called its columns does not count: they may stand otherwise."""
    dialect = model.dialect_of(blob.name) if model else Dialect()
    if not _describes(model, ref):
        dialect = replace(dialect, columns=None)
    return ManifestPartition(
        name=blob.name, etag=blob.etag, size_bytes=blob.size_bytes, dialect=dialect
    )


def _describes(model: TableModel | None, ref: SnapshotRef) -> bool:
    """Whether a model.json is of the refresh that wrote a snapshot; in a folder made by hand it is the folder's own."""
    return ref.layout is Layout.FOLDER or (model is not None and model.is_about(ref.prefix))


def _wants(export: Export, ref: SnapshotRef) -> bool:
    return (
        export.is_active
        and export.schedule.on == "arrival"
        and any(ref.is_of(segment) for segment in export.segments)
    )
