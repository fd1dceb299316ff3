"""How many people each segment has: the rows of its newest snapshot, counted once.

members.json    by segment, which snapshot was counted (the digest of its blobs) and its rows

A run counts what it plans. What no run has read is counted when somebody looks, as far as that is cheap.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.errors import StoreMoved
from exporter.snapshots.manifest import ManifestPartition, digest
from exporter.snapshots.paths import SnapshotRef
from exporter.storage.protocols import BlobInfo, Document, Store

logger = logging.getLogger(__name__)

NAME = "members.json"
TRIES = 5  # others count at the same time

Blobs = Iterable[BlobInfo | ManifestPartition]


class Counted(BaseModel):
    """A snapshot that was counted."""

    digest: str
    rows: int


class Members(BaseModel):
    """The document."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    segments: dict[str, Counted] = Field(default_factory=dict)

    def of(self, ref: SnapshotRef, blobs: Blobs) -> int | None:
        """The rows of a snapshot as it is by now; None when that was not counted."""
        known = self.segments.get(ref.key)
        return known.rows if known and known.digest == digest(blobs) else None


def read(store: Store) -> Members:
    """What was counted so far."""
    return _parse(store.read(NAME))


def keep(store: Store, rows: Mapping[SnapshotRef, tuple[Blobs, int]]) -> None:
    """Note the rows of snapshots. When others are faster again and again it is left to the next who counts."""
    new = {
        ref.key: Counted(digest=digest(blobs), rows=number) for ref, (blobs, number) in rows.items()
    }
    for _ in range(TRIES):
        found = store.read(NAME)
        known = _parse(found)
        if known.segments | new == known.segments:
            return
        data = (
            Members(segments=known.segments | new).model_dump_json(by_alias=True, indent=1).encode()
        )
        try:
            store.replace(NAME, data, etag=found.etag) if found else store.create(NAME, data)
        except StoreMoved:
            continue
        return
    logger.warning("members not noted")


def _parse(found: Document | None) -> Members:
    """A document that cannot be read counts as none: it is written anew."""
    try:
        return Members.model_validate_json(found.data) if found else Members()
    except ValidationError:
        return Members()
