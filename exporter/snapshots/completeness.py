"""Whether a snapshot is complete. Pure.

Customer Insights writes several CSV files, and no marker says that it has finished. So a folder
counts as complete when nothing in it has changed for a while and every file that model.json names
in it has arrived.
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
    """The snapshot is complete: these are its partitions, by name."""

    partitions: tuple[BlobInfo, ...]


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
    """
    partitions = tuple(blob for blob in blobs if ref.holds(blob.name))
    if not partitions:
        return Gone()
    if ref.is_one_file:
        return Settled(partitions)
    # Never negative: with a clock behind the storage's, the wait must not grow beyond `quiet_s`.
    quiet_for = max(now - max(blob.modified_at for blob in partitions), timedelta())
    if quiet_for < timedelta(seconds=quiet_s):
        return NotYet(quiet_s - quiet_for.total_seconds(), "partitions may still be arriving")
    arrived = {comparable(blob.name.removeprefix(ref.prefix)) for blob in partitions}
    missing = sorted({name for name in named if comparable(name) not in arrived})
    if not missing:
        return Settled(partitions)
    if quiet_for < timedelta(seconds=patience_s):
        return NotYet(max(quiet_s, 1), f"model.json names {len(missing)} more partitions")
    return NeverCame(tuple(missing))
