"""Whether a snapshot is complete. Pure.

Customer Insights writes several CSV files, and no marker says that it has finished. Those who write
a single file may write it in several parts. So a snapshot counts as complete when none of its
files has changed for a while, none is empty, and every file that model.json names has arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.names import comparable
from exporter.snapshots.paths import SnapshotRef
from exporter.storage.protocols import BlobInfo


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing of the snapshot is still arriving: these are its partitions, by name.

    empty: the names of those that stayed empty for the whole time of patience. Such a snapshot can
    be read, but never counts as complete.
    """

    partitions: tuple[BlobInfo, ...]
    empty: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return not self.empty


@dataclass(frozen=True, slots=True)
class NotYet:
    """It may still be arriving: check again after `wait_s`."""

    wait_s: float
    why: str


@dataclass(frozen=True, slots=True)
class NeverCame:
    """Partitions that model.json names did not arrive in time."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """It has no partitions, or no longer any."""


Completeness = Settled | NotYet | NeverCame | Gone


def completeness(
    ref: SnapshotRef,
    blobs: Sequence[BlobInfo],
    *,
    named: Collection[str] = (),
    now: datetime,
    quiet_s: float,
    patience_s: float,
) -> Completeness:
    """Decide whether the blobs under a snapshot's prefix are all of it.

    named: names, without folder, of the files that model.json lists in this folder. model.json may
    list none, or the files of an older refresh.
    quiet_s: for how long nothing may have changed. patience_s: how long after the last change files
    that are named or empty are waited for.
    """
    partitions = tuple(blob for blob in blobs if ref.holds(blob.name))
    if not partitions:
        return Gone()
    # Never negative: with a clock behind the storage's, the wait must not grow beyond `quiet_s`.
    quiet_for = max(now - max(blob.modified_at for blob in partitions), timedelta())
    if quiet_for < timedelta(seconds=quiet_s):
        return NotYet(quiet_s - quiet_for.total_seconds(), "partitions may still be arriving")
    arrived = {comparable(blob.name.removeprefix(ref.prefix)) for blob in partitions}
    missing = sorted({name for name in named if comparable(name) not in arrived})
    empty = tuple(blob.name for blob in partitions if not blob.size_bytes)
    if quiet_for < timedelta(seconds=patience_s):
        if missing:
            return NotYet(max(quiet_s, 1), f"model.json names {len(missing)} more partitions")
        if empty:
            return NotYet(max(quiet_s, 1), f"{len(empty)} partitions are still empty")
    return NeverCame(tuple(missing)) if missing else Settled(partitions, empty)
