"""Which segments are in storage, each by its newest snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from exporter.snapshots import NotASnapshot, SnapshotRef, parse_blob_name
from exporter.store import BlobInfo


@dataclass(slots=True)
class Found:
    """A segment's newest snapshot, complete or not: what of it is there."""

    ref: SnapshotRef
    newest_at: datetime
    files: int = 0
    size_bytes: int = 0


def newest_snapshots(blobs: Iterable[BlobInfo]) -> list[Found]:
    """The newest snapshot of each segment that a container's blobs belong to, by the segment's name."""
    newest: dict[str, Found] = {}
    for blob in blobs:
        try:
            ref = parse_blob_name(blob.name)
        except NotASnapshot:
            continue
        moment = ref.exported_at or blob.modified_at
        key = ref.segment.casefold()
        known = newest.get(key)
        if known is None or (known.ref.prefix != ref.prefix and moment > known.newest_at):
            known = newest[key] = Found(ref, moment)
        if known.ref.prefix == ref.prefix:
            known.newest_at = max(known.newest_at, moment)
            known.files += 1
            known.size_bytes += blob.size_bytes
    return [newest[key] for key in sorted(newest)]
