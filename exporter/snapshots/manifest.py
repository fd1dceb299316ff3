"""The manifest: the frozen list of the partitions that a run reads. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from exporter.reading.dialect import Dialect
from exporter.storage.protocols import BlobInfo

# The manifest: what a run reads


class ManifestPartition(BaseModel):
    """One blob of the snapshot as it was when the manifest was frozen, and what model.json said of it."""

    model_config = ConfigDict(frozen=True)

    name: str
    etag: str
    size_bytes: int
    dialect: Dialect = Dialect()


class Manifest(BaseModel):
    """The frozen list of the partitions that a run reads: the newest snapshot of each of its segments."""

    model_config = ConfigDict(frozen=True)

    snapshots: list[str]  # their prefixes
    exported_at: datetime  # the newest of them
    exported: dict[str, datetime] = Field(
        default_factory=dict
    )  # each, by prefix; {}: written before it was noted
    partitions: list[ManifestPartition]
    notes: list[str] = Field(default_factory=list)  # what was passed over when it was frozen
    missing: list[str] = Field(
        default_factory=list
    )  # segments of the export that no complete snapshot is there of

    def digest(self) -> str:
        """Equal for manifests of the same blobs in the same state; without any, of the same snapshots."""
        return digest(self.partitions, otherwise=self.snapshots)


def digest(blobs: Iterable[BlobInfo | ManifestPartition], *, otherwise: Sequence[str] = ()) -> str:
    """Equal for the same blobs in the same state and order; for no blobs, of the same `otherwise`."""
    lines = [f"{blob.name}\t{blob.etag}" for blob in blobs] or otherwise
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:10]
