"""The segments found in storage, and the mapping that their columns suggest."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.definitions.catalog import Catalog
from exporter.definitions.suggestions import suggest
from exporter.errors import ExporterError, NoSnapshot
from exporter.management.access import Access, ManagementLimits
from exporter.management.roles import Action
from exporter.management.views import LeftAsideView, SegmentView, SuggestionView
from exporter.reading.source import count_rows, read_columns
from exporter.snapshots.container import SnapshotContainer
from exporter.snapshots.left_aside import left_aside
from exporter.snapshots.paths import SnapshotRef
from exporter.snapshots.segments import Found, newest_snapshots, read_members, save_members
from exporter.storage.protocols import Store

logger = logging.getLogger(__name__)

MOST_LEFT_ASIDE = 1_000  # files of one answer
GZIP_RATIO = 10  # a guess: how many times larger a .gz file is when it is read


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The segments that a person may see."""

    access: Access
    catalog: Catalog
    store: Store
    container: SnapshotContainer
    limits: ManagementLimits

    def segments(self) -> list[SegmentView]:
        """List the segments found in storage, by name."""
        self.access.check(Action.SEE_SEGMENTS)
        arrived, now = newest_snapshots(self.container.blobs()), self.access.now()
        counted = self._members(arrived)
        return [
            SegmentView(
                name=found.name,
                newest_at=found.newest_at,
                age_s=max((now - found.newest_at).total_seconds(), 0),
                files=found.files,
                size_bytes=found.size_bytes,
                members=counted.get(found.name),
            )
            for found in arrived
        ]

    def suggest_mapping(self, segment: str) -> SuggestionView:
        """Suggest a mapping from the newest snapshot's columns and model.json's data types."""
        self.access.check(Action.SUGGEST_MAPPING)
        columns = columns_of(self.container, segment)
        mapping = suggest(columns, _types_of(self.container, segment))
        return SuggestionView(columns=list(columns), mapping=mapping)

    def left_aside(self) -> list[LeftAsideView]:
        """List the files that look like data and belong to no snapshot: the newest, if many.

        Each is told with the segment of an export whose name its path bears.
        """
        self.access.check(Action.SEE_SEGMENTS)
        found = left_aside(self.container.blobs(), most=MOST_LEFT_ASIDE).newest
        segments = [segment for export in self.catalog.exports() for segment in export.segments]
        return [
            LeftAsideView(
                name=each.blob.name,
                why=each.why,
                segment=next((segment for segment in segments if each.bears(segment)), None),
                size_bytes=each.blob.size_bytes,
                modified_at=each.blob.modified_at,
            )
            for each in found
        ]

    def _members(self, arrived: Sequence[Found]) -> dict[str, int]:
        """Tell how many members segments have, by name.

        What was counted before is not read again. The rest is counted now, the smallest first, as
        far as one answer may read.
        """
        known = read_members(self.store)
        counted: dict[str, int] = {}
        for found in arrived:
            if (rows := known.of(found.ref, found.blobs)) is not None:
                counted[found.name] = rows
        left = self.limits.counted_bytes
        uncounted = [found for found in arrived if found.name not in counted]
        for found in sorted(uncounted, key=_unpacked_bytes):
            left -= _unpacked_bytes(found)
            if left < 0:
                break
            try:
                counted[found.name] = self._count(found.ref)
            except (ExporterError, OSError) as exc:  # the rest of the list is shown
                logger.warning(
                    "members not counted",
                    extra={"segment": found.name, "cause": type(exc).__name__},
                )
        return counted

    def _count(self, ref: SnapshotRef) -> int:
        """Count the rows of a snapshot by reading all of it, and keep the number."""
        parts = self.container.freeze([ref]).partitions
        rows = 0
        with tempfile.TemporaryDirectory() as name:
            for part in parts:
                source = self.container.source(part)
                rows += count_rows(source, Path(name), memory_mb=self.limits.plan.memory_mb)
        save_members(self.store, {ref: (parts, rows)})
        return rows


def columns_of(container: SnapshotContainer, segment: str) -> tuple[str, ...]:
    """Name the columns of a segment's newest snapshot, from the first partition that has any.

    Raises NoSnapshot.
    """
    ref = container.newest_of(segment)
    if ref is None:
        raise NoSnapshot(
            f"no snapshot of {segment} has arrived yet", hint="Check the segment's name."
        )
    for part in container.freeze([ref]).partitions:
        if columns := read_columns(container.source(part)):
            return columns
    return ()


def _types_of(container: SnapshotContainer, segment: str) -> Mapping[str, str]:
    """Look up the data types that model.json gives to the columns of the newest snapshot."""
    ref = container.newest_of(segment)
    model = container.model_of(ref) if ref else None
    return model.types if model else {}


def _unpacked_bytes(found: Found) -> int:
    """Estimate how many bytes a snapshot has when it is read."""
    return sum(
        blob.size_bytes * (GZIP_RATIO if blob.name.lower().endswith(".gz") else 1)
        for blob in found.blobs
    )
