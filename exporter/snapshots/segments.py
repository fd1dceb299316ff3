"""Which segments are in storage: each by its newest snapshot, and how many members it has.

members.json    for each segment, the digest of the snapshot that was counted and its rows

A run counts what it plans. A snapshot that no run has read is counted when somebody asks for the
segments, if that is cheap.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.errors import StoreMoved
from exporter.names import comparable
from exporter.snapshots.manifest import ManifestPartition, digest
from exporter.snapshots.paths import NotASnapshot, SnapshotRef, parse_blob_name
from exporter.storage.protocols import BlobInfo, Document, Store

logger = logging.getLogger(__name__)

MEMBERS_NAME = "members.json"
WRITE_ATTEMPTS = 5  # others may write at the same time

Blobs = Iterable[BlobInfo | ManifestPartition]


# The newest snapshots


@dataclass(slots=True)
class Found:
    """A segment's newest snapshot, complete or not, and its blobs by name.

    name: what an export calls the segment. It includes the destination if another destination
    writes a segment of the same name.
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
    """Find the newest snapshot of each segment among a container's blobs, sorted by name.

    The blobs may come in any order. Only each segment's newest dated snapshot is kept in memory.
    """
    newest = _Newest()
    for ref, blob in _parsed(blobs):
        newest.add(ref, blob)
    return _named(newest.of_each_segment())


class _Newest:
    """Collects blobs into snapshots and drops a dated snapshot once a newer one appears."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, Found] = {}
        self._dated: dict[str, Found] = {}  # by segment

    def add(self, ref: SnapshotRef, blob: BlobInfo) -> None:
        moment = ref.exported_at or blob.modified_at
        found = self._by_prefix.get(ref.prefix)
        if found is None:
            if ref.exported_at and not self._is_newest(ref, ref.exported_at):
                return
            found = self._by_prefix[ref.prefix] = Found(ref, moment)
            if ref.exported_at:
                self._dated[ref.key] = found
        found.blobs.append(blob)
        found.newest_at = max(moment, found.newest_at)

    def _is_newest(self, ref: SnapshotRef, exported_at: datetime) -> bool:
        before = self._dated.get(ref.key)
        if before is None:
            return True
        if before.newest_at >= exported_at:
            return False
        del self._by_prefix[before.ref.prefix]
        return True

    def of_each_segment(self) -> list[Found]:
        newest: dict[str, Found] = {}
        for found in self._by_prefix.values():
            before = newest.get(found.ref.key)
            if before is None or found.newest_at > before.newest_at:
                newest[found.ref.key] = found
        return list(newest.values())


def _parsed(blobs: Iterable[BlobInfo]) -> Iterator[tuple[SnapshotRef, BlobInfo]]:
    for blob in blobs:
        try:
            yield parse_blob_name(blob.name), blob
        except NotASnapshot:
            continue


def _named(newest: list[Found]) -> list[Found]:
    times = Counter(comparable(found.ref.segment) for found in newest)
    for found in newest:
        found.blobs.sort(key=lambda blob: blob.name)
        ref = found.ref
        is_shared = times[comparable(ref.segment)] > 1 and ref.destination
        found.name = f"{ref.destination}/{ref.segment}" if is_shared else ref.segment
    return sorted(newest, key=lambda found: comparable(found.name))


# Their members


class Counted(BaseModel):
    """A snapshot whose rows were counted."""

    digest: str
    rows: int


class Members(BaseModel):
    """The document members.json."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    segments: dict[str, Counted] = Field(default_factory=dict)

    def of(self, ref: SnapshotRef, blobs: Blobs) -> int | None:
        """Return the rows of a snapshot with these blobs; None if it was not counted."""
        known = self.segments.get(ref.key)
        return known.rows if known and known.digest == digest(blobs) else None


def read_members(store: Store) -> Members:
    """Read the counts that are known so far."""
    return _parse(store.read(MEMBERS_NAME))


def save_members(store: Store, rows: Mapping[SnapshotRef, tuple[Blobs, int]]) -> None:
    """Add the counted rows of snapshots to the document.

    If others keep writing at the same time, nothing is saved: somebody will count again.
    """
    new = {
        ref.key: Counted(digest=digest(blobs), rows=number) for ref, (blobs, number) in rows.items()
    }
    for _ in range(WRITE_ATTEMPTS):
        found = store.read(MEMBERS_NAME)
        known = _parse(found).segments
        if known | new == known:
            return
        members = Members(segments=known | new)
        data = members.model_dump_json(by_alias=True, indent=1).encode()
        try:
            if found:
                store.replace(MEMBERS_NAME, data, etag=found.etag)
            else:
                store.create(MEMBERS_NAME, data)
        except StoreMoved:
            continue
        return
    logger.warning("members not noted")


def _parse(found: Document | None) -> Members:
    """Parse the document. If it cannot be read, start anew."""
    try:
        return Members.model_validate_json(found.data) if found else Members()
    except ValidationError:
        return Members()
