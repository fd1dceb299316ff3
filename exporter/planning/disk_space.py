"""Local disk for plans: how much a plan is going to take, and whether there is room for it.

A plan's staged rows stay on this disk until its batches are filled, since duplicates, dates and
shared identifiers are found by looking at all rows again. Afterwards few pieces of them are kept,
see `request_bodies.py`.

What a plan takes depends on how many of the columns are mapped, which no file's size tells. So
planning is begun unless it cannot succeed, what was staged is compared with what was read, and a
plan that is going to be too large ends after the first pieces.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import duckdb

from exporter.errors import DiskTooSmall, LeaseHeld
from exporter.reading.source import PartitionSource

# Microsoft, "Azure Functions scale and hosting", service limits: temporary storage of an instance
# of Flex Consumption, 0.8 GB. infra/modules/app.bicep sets DISK_MB to it.
FLEX_CONSUMPTION_MB = 800
# The part of the disk that plans in the making may take: the rest is for the host, and for the
# pieces and lists of runs that are being sent.
SHARE_OF_PLANS = 7 / 8
# Staged bytes for a byte of the file, all of ten columns mapped. Measured on a million rows of the
# sandbox: 0.39 of CSV, 1.0 of gzip, 0.75 of Parquet with snappy and 1.2 with zstd.
STAGED_OF_CSV, STAGED_OF_GZIP, STAGED_OF_PARQUET = 0.4, 1.1, 0.9
LEAST_STAGED = 0.02  # of a file of a hundred columns of which two are mapped
WORK_BYTES = 40_000_000  # two pieces as CSV, two being staged, and what DuckDB spills
LOOK_AFTER = 0.05  # of the bytes must have been read before what was staged says much
TRY_AGAIN_S = 15.0


class Sized(Protocol):
    """A partition of a manifest."""

    @property
    def name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a plan takes of the disk, in bytes.

    least: however few columns are mapped. likely: if all are. besides: what it takes for a time
    beside its staged rows. read: the size of the partitions.
    """

    least: int
    likely: int
    besides: int
    read: int


def expected_bytes(partitions: Iterable[Sized]) -> Expected:
    """Say what planning these partitions is going to take of the disk."""
    parts = list(partitions)
    read = sum(part.size_bytes for part in parts)
    # Parquet is read from its end, so it is stored whole, one partition at a time.
    whole = max((part.size_bytes for part in parts if _is_parquet(part.name)), default=0)
    staged = sum(part.size_bytes * _staged_share(part.name) for part in parts)
    besides = whole + min(WORK_BYTES, round(staged))
    return Expected(
        least=whole + round(read * LEAST_STAGED),
        likely=besides + round(staged),
        besides=besides,
        read=read,
    )


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _staged_share(name: str) -> float:
    if _is_parquet(name):
        return STAGED_OF_PARQUET
    return STAGED_OF_GZIP if name.lower().endswith(".gz") else STAGED_OF_CSV


class DiskSpace:
    """The disk under a folder, shared by all plans that this instance makes. Safe for threads."""

    def __init__(self, folder: Path, *, limit_mb: float = 0) -> None:
        """limit_mb: the size of the disk; 0: what its file system says."""
        self._folder, self._limit_bytes = folder, round(limit_mb * 1e6)
        self._expected: dict[int, int] = {}  # by reservation, not all of it written yet
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reserved(self, partitions: Sequence[Sized]) -> Iterator[PlanWatch]:
        """Keep room for a plan while the block runs.

        Raises DiskTooSmall if the disk can never hold it, or if it is full, and LeaseHeld while
        other plans take what it needs.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        expected = expected_bytes(partitions)
        room = self.room_bytes()
        if expected.least > room:
            raise self.too_small(expected.least)
        likely, token = min(expected.likely, room), id(expected)
        with self._lock:
            if likely > room - sum(self._expected.values()):
                message = "other plans take the disk of this instance"
                raise LeaseHeld(message, retry_after_s=TRY_AGAIN_S)
            self._expected[token] = likely
        try:
            yield PlanWatch(self, expected, lambda size: self._expect(token, size))
        except (OSError, duckdb.Error) as exc:
            if not is_full(exc):
                raise
            raise self.too_small() from exc
        finally:
            with self._lock:
                del self._expected[token]

    def _expect(self, token: int, size_bytes: int) -> None:
        """Replace what was expected of a plan by what has been measured."""
        with self._lock:
            self._expected[token] = size_bytes

    def room_bytes(self) -> int:
        """Return how many bytes all plans together may take that are being made."""
        disk = shutil.disk_usage(self._folder).free + _used_bytes(self._folder)
        return int(min(self._limit_bytes or disk, disk) * SHARE_OF_PLANS)

    def too_small(self, needed: int = 0) -> DiskTooSmall:
        """Return the error for a plan that takes so much, or more than there was."""
        needs = f"about {_mb(needed)} MB" if needed else "more"
        return DiskTooSmall(
            f"planning the snapshot takes {needs} of local disk, and plans may take"
            f" {_mb(self.room_bytes())} MB on this instance; nothing was sent"
        )


class PlanWatch:
    """Compares what a plan has staged with what it has read. Called from several threads."""

    def __init__(self, space: DiskSpace, expected: Expected, expect: Callable[[int], None]) -> None:
        self._space, self._expected, self._expect = space, expected, expect
        self._read_bytes, self._written = 0, dict[str, int]()
        self._lock = threading.Lock()

    def source(self, source: PartitionSource) -> PartitionSource:
        """Return the same source, whose bytes are counted as they are read."""

        def counted() -> Iterator[bytes]:
            for chunk in source.open():
                self._read_bytes += len(chunk)
                yield chunk

        return replace(source, open=counted)

    def finished_file(self, path: Path) -> None:
        """Count a file of the plan. Raises DiskTooSmall as soon as all will not fit."""
        with self._lock:
            self._written[path.name] = path.stat().st_size
            written, read = sum(self._written.values()), self._read_bytes
        if read < LOOK_AFTER * self._expected.read or not read:
            return
        needed = self._expected.besides + round(written * max(self._expected.read / read, 1))
        if needed > self._space.room_bytes():
            raise self._space.too_small(needed)
        self._expect(needed)


@contextlib.contextmanager
def within_disk() -> Iterator[None]:
    """Raise DiskTooSmall where a plan fills the disk that it is made on, whoever makes it."""
    try:
        yield
    except (OSError, duckdb.Error) as exc:
        if not is_full(exc):
            raise
        message = "the local disk is full: the plan of the snapshot does not fit; nothing was sent"
        raise DiskTooSmall(message) from exc


def is_full(error: BaseException) -> bool:
    """Tell whether an error, ours or DuckDB's, is that of a full disk."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    said = str(error)
    return isinstance(error, duckdb.Error) and (
        os.strerror(errno.ENOSPC) in said or "max_temp_directory_size" in said
    )


def _used_bytes(folder: Path) -> int:
    used = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed meanwhile
            used += path.stat().st_size
    return used


def _mb(size_bytes: int) -> str:
    return f"{-(-size_bytes // 1_000_000):,}"
