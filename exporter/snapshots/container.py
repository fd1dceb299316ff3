"""The container that Customer Insights writes to.

Which snapshots are there, which are complete, and their manifests.

Reads only. What follows from an arrival is decided in orchestration/arrivals.py.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from exporter.definitions.export import Export
from exporter.definitions.mapping import MappingDocument
from exporter.errors import BlobTooLarge, NoSnapshot, PartitionChanged, SnapshotUnreadable
from exporter.reading.column_headers import HeaderDecision, counts_columns
from exporter.reading.dialect import Dialect
from exporter.reading.partition import read_partition
from exporter.reading.source import PartitionSource
from exporter.snapshots.completeness import Completeness, NotYet, Settled, completeness
from exporter.snapshots.manifest import Manifest, ManifestPartition, note_on_empty
from exporter.snapshots.model_json import (
    MAX_MODEL_BYTES,
    TableModel,
    located_blobs,
    parse_table,
    table_of_blobs,
)
from exporter.snapshots.paths import Layout, NotASnapshot, SnapshotRef, is_model, parse_blob_name
from exporter.storage.protocols import BlobInfo, Snapshots

logger = logging.getLogger(__name__)

MAX_MODELS = 20  # the newest model.json files, read to find the one that locates some files


@dataclass(frozen=True, slots=True)
class Arrived:
    """A snapshot in the container, complete or not, and its blob that was written last."""

    ref: SnapshotRef
    last: BlobInfo

    @property
    def moment(self) -> datetime:
        return self.ref.exported_at or self.last.modified_at


class SnapshotContainer:
    """The snapshots in a container. Safe to share: it keeps nothing of them in memory."""

    def __init__(
        self,
        snapshots: Snapshots,
        *,
        name: str,
        settle_s: float,
        patience_s: float,
        now: Callable[[], datetime],
    ) -> None:
        """name: the container's own, as model.json may spell it out.

        settle_s: how long nothing may change before a snapshot counts as complete. patience_s: how
        long partitions that model.json names are waited for.
        """
        self._snapshots, self._name, self._now = snapshots, name, now
        self.settle_s, self.patience_s = settle_s, patience_s

    def blobs(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Return the blobs whose name begins with `prefix`, as storage lists them."""
        return self._snapshots.list(prefix)

    def source(self, part: ManifestPartition) -> PartitionSource:
        """Return a manifest's partition, to be read as it was when the manifest was frozen."""
        return PartitionSource(
            name=part.name,
            open=lambda: self._snapshots.open(part.name, etag=part.etag),
            dialect=part.dialect,
        )

    # Which snapshots are there

    def arrived(self, segments: Sequence[str]) -> list[Arrived]:
        """Return the snapshots of some segments, newest first."""
        return self._arrived(lambda ref: any(ref.is_of(segment) for segment in segments))

    def _arrived(self, is_wanted: Callable[[SnapshotRef], bool]) -> list[Arrived]:
        """Return the wanted snapshots, newest first.

        Lists the whole container, since paths vary too much. Only the wanted snapshots are held in
        memory, however many blobs there are.
        """
        found: dict[str, Arrived] = {}
        for blob in self._snapshots.list(""):
            try:
                ref = parse_blob_name(blob.name)
            except NotASnapshot:
                continue
            if not is_wanted(ref):
                continue
            known = found.get(ref.prefix)
            if known is None or known.last.modified_at < blob.modified_at:
                found[ref.prefix] = Arrived(ref, blob)
        return sorted(found.values(), key=lambda each: each.moment, reverse=True)

    def described_by(self, model_name: str) -> list[Arrived]:
        """Return the snapshots that a model.json may describe, newest first.

        Those whose layout has it there, and those whose files it locates.
        """
        found = self._snapshots.read(model_name, max_bytes=MAX_MODEL_BYTES)
        located = located_blobs(found.data, container=self._name) if found else ()
        prefixes = set()
        for name in located:
            with contextlib.suppress(NotASnapshot):
                prefixes.add(parse_blob_name(name).prefix)
        return self._arrived(lambda ref: ref.model == model_name or ref.prefix in prefixes)

    def is_gone(self, manifest: Manifest) -> bool:
        """Say whether nothing is left of the snapshots that a manifest was frozen from."""
        return not any(True for prefix in manifest.snapshots for _ in self._snapshots.list(prefix))

    # Which of them are complete

    def newest_of(self, segment: str) -> SnapshotRef | None:
        """Return the newest complete snapshot of a segment."""
        return self.newest_of_each([segment])[segment]

    def newest_of_each(
        self, segments: Sequence[str], mappings: Sequence[MappingDocument] = ()
    ) -> dict[str, SnapshotRef | None]:
        """Return the newest complete snapshot of each segment; None where there is none."""
        newest_first = [each.ref for each in self.arrived(segments)]
        newest: dict[str, SnapshotRef | None] = dict.fromkeys(segments)
        for segment in segments:
            for ref in newest_first:
                if ref.is_of(segment) and self._is_settled(ref, mappings):
                    newest[segment] = ref
                    break
        return newest

    def completeness_of(
        self, ref: SnapshotRef, mappings: Sequence[MappingDocument] = ()
    ) -> Completeness:
        """Say whether a snapshot is complete.

        mappings: those that it is to be read by. A model.json that is still to come may have to
        name their columns.
        """
        model = self.model_of(ref)
        state = completeness(
            ref,
            list(self._snapshots.list(ref.prefix)),
            named=model.named_in(ref.prefix) if model else (),
            now=self._now(),
            quiet_s=self.settle_s,
            patience_s=self.patience_s,
        )
        if isinstance(state, Settled) and self._awaits_model(
            ref, model, state.partitions, mappings
        ):
            why = "model.json does not say yet what the columns are called"
            return NotYet(max(self.settle_s, 1), why)
        return state

    def model_of(self, ref: SnapshotRef) -> TableModel | None:
        """Return what model.json says of a snapshot's table; None where it says nothing."""
        try:
            return self._read_model(ref)
        except BlobTooLarge as exc:
            fields = {"segment": ref.segment, "cause": exc.message}
            logger.warning("model.json left aside", extra=fields)
            return None

    def _is_settled(self, ref: SnapshotRef, mappings: Sequence[MappingDocument]) -> bool:
        return isinstance(self.completeness_of(ref, mappings), Settled)

    def _awaits_model(
        self,
        ref: SnapshotRef,
        model: TableModel | None,
        partitions: Sequence[BlobInfo],
        mappings: Sequence[MappingDocument],
    ) -> bool:
        """Say whether only a model.json that is still to come can name the columns.

        Waiting for it has an end: `patience_s` after the last partition arrived.
        """
        if ref.model is None or _describes(model, ref):
            return False
        arrived_at = max(blob.modified_at for blob in partitions)
        if self._now() - arrived_at >= timedelta(seconds=self.patience_s):
            return False
        largest = max(partitions, key=lambda blob: blob.size_bytes)
        part = _frozen(largest, ref, model)
        for mapping in mappings:
            names = mapping.named_columns()
            if counts_columns(names):
                continue
            try:
                header = self._header(part, expected=names)
            except (SnapshotUnreadable, PartitionChanged):
                return False  # a run says so
            if header.columns and not header.has_header:
                return True
        return False

    def _header(self, part: ManifestPartition, *, expected: Sequence[str]) -> HeaderDecision:
        """Return what the columns of a partition are called, by its first line."""
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

    def _read_model(self, ref: SnapshotRef) -> TableModel | None:
        """Read the model.json of the snapshot's layout, else one that locates its files."""
        if ref.model and (found := self._snapshots.read(ref.model, max_bytes=MAX_MODEL_BYTES)):
            model = parse_table(found.data, ref.segment, container=self._name)
            if model and model.is_about(ref.prefix):
                return model
            return self._model_elsewhere(ref) or model
        return self._model_elsewhere(ref)

    def _model_elsewhere(self, ref: SnapshotRef) -> TableModel | None:
        """Find the newest model.json anywhere in the container that locates a snapshot's files.

        Customer Insights may be set up to write it beside the data instead of above them.
        """
        models = (blob for blob in self._snapshots.list("") if is_model(blob.name))
        newest = heapq.nlargest(MAX_MODELS, models, key=lambda blob: blob.modified_at)
        others = [blob for blob in newest if blob.name != ref.model]
        if not others:
            return None
        files = [blob.name for blob in self._snapshots.list(ref.prefix) if ref.holds(blob.name)]
        for blob in others:
            with contextlib.suppress(BlobTooLarge):
                found = self._snapshots.read(blob.name, max_bytes=MAX_MODEL_BYTES)
                model = found and table_of_blobs(found.data, files, container=self._name)
                if model:
                    return model
        return None

    # Manifests

    def freeze_newest(self, export: Export) -> Manifest:
        """Freeze the newest complete snapshots of an export's segments. Raises NoSnapshot."""
        found = self.newest_of_each(export.segments, [export.mapping])
        if not any(found.values()):
            raise NoSnapshot(
                f"no snapshot of {', '.join(export.segments)} is complete yet",
                hint="Check the segment's name and that Customer Insights exports it to the "
                "snapshots container. A file counts once it has not changed for SETTLE_SECONDS.",
            )
        return self.freeze_each(export, found)

    def freeze_each(self, export: Export, found: Mapping[str, SnapshotRef | None]) -> Manifest:
        """Freeze what was found of each segment of an export; the others are noted as missing."""
        refs = {ref.prefix: ref for segment in export.segments if (ref := found[segment])}
        missing = [segment for segment in export.segments if not found[segment]]
        return self.freeze(list(refs.values()), missing=missing)

    def freeze(self, refs: Sequence[SnapshotRef], *, missing: Sequence[str] = ()) -> Manifest:
        """Freeze these snapshots as they are now. missing: segments without a complete snapshot."""
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
            blobs = [blob for blob in self._snapshots.list(ref.prefix) if ref.holds(blob.name)]
            for blob in sorted(blobs, key=lambda blob: blob.name):
                moment = ref.exported_at or blob.modified_at
                exported[ref.prefix] = max(moment, exported.get(ref.prefix, moment))
                partitions.append(_frozen(blob, ref, model))
        empty = [part.name for part in partitions if not part.size_bytes]
        if empty:
            notes.append(note_on_empty(empty))
        return Manifest(
            snapshots=[ref.prefix for ref in refs],
            exported_at=max(exported.values(), default=self._now()),
            exported=exported,
            partitions=partitions,
            notes=notes,
            missing=list(missing),
            empty=empty,
        )


def _frozen(blob: BlobInfo, ref: SnapshotRef, model: TableModel | None) -> ManifestPartition:
    """Return a partition as it is now.

    What a model.json of another refresh calls the columns does not count: their order may differ.
    """
    dialect = model.dialect_of(blob.name) if model else Dialect()
    if not _describes(model, ref):
        dialect = replace(dialect, columns=None)
    return ManifestPartition(
        name=blob.name, etag=blob.etag, size_bytes=blob.size_bytes, dialect=dialect
    )


def _describes(model: TableModel | None, ref: SnapshotRef) -> bool:
    """Say whether a model.json is of the refresh that wrote a snapshot.

    In a folder made by hand it is the folder's own.
    """
    return ref.layout is Layout.FOLDER or (model is not None and model.is_about(ref.prefix))
