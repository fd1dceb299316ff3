"""Which files of a container look like data and belong to no snapshot, and what to do about them.

Such as Feed/HighValue/part-00000-c000.csv, which no layout of Customer Insights has. Pure.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exporter.names import comparable
from exporter.snapshots.paths import (
    DATA_SUFFIXES,
    HAND_FOLDER,
    NotASnapshot,
    is_model,
    parse_blob_name,
)
from exporter.storage.protocols import BlobInfo

MOST_LISTED = 100

# Data in a form that is not read, or text under another name.
_LIKE_DATA = re.compile(
    r"\.(csv|tsv|txt|parquet|xlsx?|json|jsonl|avro|orc)(\.\w+)?$", re.IGNORECASE
)
_DATED = re.compile(r"/\d{4}/\d{1,2}/\d{1,2}/")


@dataclass(frozen=True, slots=True)
class LeftAside:
    """A file that looks like data and belongs to no snapshot. why: what is wrong and what to do."""

    blob: BlobInfo
    why: str

    def bears(self, segment: str) -> bool:
        """Whether a folder of its path, or the file without suffix and number, is called so.

        segment: "Table", or "Destination/Table".
        """
        table = comparable(segment.rpartition("/")[2])
        *folders, file_name = self.blob.name.split("/")
        stem = file_name.partition(".")[0]
        return table in map(comparable, (*folders, stem, re.sub(r"_\d+$", "", stem)))


@dataclass(frozen=True, slots=True)
class AllLeftAside:
    """The newest of the files that were left aside, newest first, and how many there are."""

    newest: tuple[LeftAside, ...]
    count: int


def left_aside(blobs: Iterable[BlobInfo], *, most: int = MOST_LISTED) -> AllLeftAside:
    """Find the files of a container that look like data and belong to no snapshot.

    Holds only the newest `most` of them in memory.
    """
    count = 0

    def found() -> Iterator[LeftAside]:
        nonlocal count
        for blob in blobs:
            if each := of_blob(blob):
                count += 1
                yield each

    newest = heapq.nlargest(most, found(), key=lambda each: each.blob.modified_at)
    return AllLeftAside(tuple(newest), count)


def of_blob(blob: BlobInfo) -> LeftAside | None:
    """Return why a blob is left aside; None if it belongs to a snapshot, or is not data."""
    file_name = blob.name.rpartition("/")[2]
    # Writers mark their own files with "_" or "."; an empty one of Azure's is a folder.
    if file_name.startswith((".", "_")) or is_model(blob.name) or not _LIKE_DATA.search(file_name):
        return None
    try:
        parse_blob_name(blob.name)
    except NotASnapshot:
        return LeftAside(blob, _why(blob.name))
    return None


def _why(name: str) -> str:
    by_hand = f"{HAND_FOLDER}/SEGMENT.csv or {HAND_FOLDER}/SEGMENT/"
    if not name.lower().endswith(DATA_SUFFIXES):
        return f"Only {', '.join(DATA_SUFFIXES)} files are read. Convert the file."
    first, *rest = name.split("/")
    if first == HAND_FOLDER and len(rest) > 2:
        return f"It is too deep below {HAND_FOLDER}/. Put it directly into {HAND_FOLDER}/SEGMENT/."
    if HAND_FOLDER in map(str.lower, name.split("/")[:-1]):
        return (
            f"The folder {HAND_FOLDER}/ counts at the top of the container only, in small letters. "
            f"Put the file there: {by_hand}."
        )
    if _DATED.search(name):
        return (
            "Its folder is not SEGMENT/YYYY/MM/DD/HHMM/, as Customer Insights writes it. "
            f"Restore that path, or put the file into {by_hand}."
        )
    return f"No layout of Customer Insights has this path. Put the file into {by_hand}."
