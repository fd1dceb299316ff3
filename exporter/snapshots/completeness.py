"""Whether a snapshot is complete. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.names import comparable
from exporter.snapshots.paths import SnapshotRef
from exporter.storage.protocols import BlobInfo

# Is it complete?
#
# The export writes several CSVs and no marker says that it is done. So a folder counts as complete when nothing in it
# changed for a while and everything that model.json names in it is there.


@dataclass(frozen=True, slots=True)
class Settled:
    """The snapshot is complete: these are its partitions, by name."""

    partitions: tuple[BlobInfo, ...]


@dataclass(frozen=True, slots=True)
class NotYet:
    """Look again after `wait_s`."""

    wait_s: float
    why: str


@dataclass(frozen=True, slots=True)
class NeverCame:
    """Partitions that model.json names did not come in time."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no partition (any more)."""


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

    named: file names (without folder) that model.json lists in this very folder; it may list none, or an older run's.
    """
    partitions = tuple(blob for blob in blobs if ref.holds(blob.name))
    if not partitions:
        return Gone()
    if ref.is_one_file:
        return Settled(partitions)
    # Never negative: a clock that is a little behind the storage's must not wait for longer than asked.
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
