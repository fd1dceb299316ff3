"""Which segments are in storage, each by its newest snapshot. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from exporter.names import comparable
from exporter.snapshots.paths import NotASnapshot, SnapshotRef, parse_blob_name
from exporter.storage.protocols import BlobInfo


@dataclass(slots=True)
class Found:
    """A segment's newest snapshot, complete or not: what of it is there, by name.

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
    """The newest snapshot of each segment that a container's blobs, in any order, belong to, by the segment's name.

    Of however many refreshes, only the newest of each segment is kept in mind; of what is undated, all.
    """
    by_prefix, dated = dict[str, Found](), dict[str, Found]()
    for ref, blob in _parsed(blobs):
        moment = ref.exported_at or blob.modified_at
        if ref.prefix not in by_prefix:
            if ref.exported_at and (before := dated.get(ref.key)):
                if before.newest_at >= moment:
                    continue
                del by_prefix[before.ref.prefix]
            by_prefix[ref.prefix] = Found(ref, moment)
            if ref.exported_at:
                dated[ref.key] = by_prefix[ref.prefix]
        of_blob = by_prefix[ref.prefix]
        of_blob.blobs.append(blob)
        of_blob.newest_at = max(moment, of_blob.newest_at)
    newest: dict[str, Found] = {}
    for found in by_prefix.values():
        if found.ref.key not in newest or found.newest_at > newest[found.ref.key].newest_at:
            newest[found.ref.key] = found
    times = Counter(comparable(found.ref.segment) for found in newest.values())
    for found in newest.values():
        found.blobs.sort(key=lambda blob: blob.name)
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
