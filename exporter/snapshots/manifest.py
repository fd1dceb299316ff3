"""The manifest: the frozen list of the partitions that a run reads. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from exporter.reading.dialect import Dialect
from exporter.storage.protocols import BlobInfo

MOST_NAMED = 3  # files in a note


class ManifestPartition(BaseModel):
    """One blob as it was when the manifest was frozen, and how model.json says it is written."""

    model_config = ConfigDict(frozen=True)

    name: str
    etag: str
    size_bytes: int
    dialect: Dialect = Dialect()


class Manifest(BaseModel):
    """The frozen list of the partitions that a run reads: each segment's newest snapshot.

    snapshots: their prefixes. exported_at: the newest snapshot's time; `exported` has each one's by
    prefix, and is empty in documents of early versions. notes: what was ignored when it was frozen.
    missing: segments of the export without a complete snapshot. empty: partitions that stayed so.
    """

    model_config = ConfigDict(frozen=True)

    snapshots: list[str]
    exported_at: datetime
    exported: dict[str, datetime] = Field(default_factory=dict)
    partitions: list[ManifestPartition]
    notes: list[str] = Field(default_factory=list)
    missing: list[str] = Field(default_factory=list)
    empty: list[str] = Field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether all of every segment is in it. If not, nobody may be taken for a leaver."""
        return not self.missing and not self.empty

    def digest(self) -> str:
        """Return a digest of the partitions' names and ETags, or else of the snapshots' prefixes.

        Two manifests of the same blobs in the same state have the same digest.
        """
        return digest(self.partitions, otherwise=self.snapshots)


def note_on_empty(names: Sequence[str]) -> str:
    """Say for a report that these partitions stayed empty."""
    some = ", ".join(names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"The snapshot may not be complete: {some}{more} stayed empty."


def digest(blobs: Iterable[BlobInfo | ManifestPartition], *, otherwise: Sequence[str] = ()) -> str:
    """Return a digest of the blobs' names and ETags in this order; of `otherwise` without blobs."""
    lines = [f"{blob.name}\t{blob.etag}" for blob in blobs] or otherwise
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:10]
