"""Which segments are in storage, each by its newest snapshot. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from exporter.names import comparable
from exporter.snapshots import NotASnapshot, SnapshotRef, parse_blob_name
from exporter.store import BlobInfo


@dataclass(slots=True)
class Found:
    """A segment's newest snapshot, complete or not: what of it is there.

    name: what an export calls the segment; with its destination where another one writes a segment of that name.
    """

    ref: SnapshotRef
    newest_at: datetime
    name: str = ""
    blobs: list[BlobInfo] = field(default_factory=list)

    @property
    def files(self) -> int:
        return len(self.blobs)

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.blobs)


def newest_snapshots(blobs: Iterable[BlobInfo]) -> list[Found]:
    """The newest snapshot of each segment that a container's blobs belong to, by the segment's name.

    blobs: sorted by name, so that those of a snapshot follow each other.
    """
    newest: dict[str, Found] = {}
    for _, group in groupby(_parsed(blobs), key=lambda each: each[0].prefix):
        parts = list(group)
        ref, moment = parts[0][0], max(each.exported_at or blob.modified_at for each, blob in parts)
        if ref.key not in newest or moment > newest[ref.key].newest_at:
            newest[ref.key] = Found(ref, moment, blobs=[blob for _, blob in parts])
    times = Counter(comparable(found.ref.segment) for found in newest.values())
    for found in newest.values():
        ref = found.ref
        is_shared = times[comparable(ref.segment)] > 1 and ref.destination
        found.name = f"{ref.destination}/{ref.segment}" if is_shared else ref.segment
    return sorted(newest.values(), key=lambda found: comparable(found.name))


def _parsed(blobs: Iterable[BlobInfo]) -> Iterator[tuple[SnapshotRef, BlobInfo]]:
    for blob in blobs:
        try:
            yield parse_blob_name(blob.name), blob
        except NotASnapshot:
            continue
