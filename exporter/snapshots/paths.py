"""Which snapshot a blob belongs to, by its path. Pure: no clock, no storage.

    dated     CustomerInsights_{id}/{destination}/{table}/YYYY/MM/DD/HHMM/{table}_{n}.csv
              a folder for each refresh
    undated   .../Export/{table}/{table}_{n}.csv
              until August 2020
    mapped    CustomerInsights_{id}/{destination}_{segment}_{unixtime}.csv
              one file for each refresh
    single    segments/{segment}.csv|.csv.gz|.parquet
              one file, put there by hand
    folder    segments/{segment}/{anything}.csv|...
              several files, put there by hand

`segments/` is a folder at the top of the container, and only there: a copy of it elsewhere, such as
backup/segments/VIPs.csv, is no snapshot. Other folders may lie anywhere.

Source: Microsoft Learn, "Export data to an Azure Blob Storage" (2026-07-16) and its history; the
mapped file is from "Adobe Campaign Standard" (2024-11-06).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from exporter.errors import ExporterError
from exporter.names import comparable

HAND_FOLDER = "segments"  # ours: where a person drops files
DATA_SUFFIXES = (".csv", ".csv.gz", ".parquet")
MODEL_NAME = "model.json"

_DATED = re.compile(
    r"(?P<root>(?:[^/]+/)*)(?P<table>[^/]+)/"
    r"(?P<y>\d{4})/(?P<m>\d\d)/(?P<d>\d\d)/(?P<hh>\d\d)(?P<mm>\d\d)/[^/]+",
    re.ASCII,
)
_UNDATED = re.compile(
    r"(?P<root>(?:[^/]+/)*Export/)(?P<table>[^/]+)/(?P=table)_\d+(?i:\.csv(?:\.gz)?)",
    re.ASCII,
)
_MAPPED = re.compile(
    r"(?P<root>(?:[^/]+/)*CustomerInsights_[^/]+/)"
    r"(?P<stem>[^/]+)_(?P<unix>\d{10})(?i:\.csv(?:\.gz)?)",
    re.ASCII,
)
_HAND = re.compile(rf"{HAND_FOLDER}/(?P<segment>[^/]+?)(?:/[^/]+)?")


class NotASnapshot(ExporterError):
    """The blob belongs to no snapshot: model.json, notes, anything else that is safe to skip."""


class Layout(StrEnum):
    """How the files of a snapshot lie in the container; see the top of this file."""

    DATED = "dated"
    UNDATED = "undated"
    MAPPED = "mapped"
    SINGLE = "single"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef:
    """One snapshot of one segment.

    prefix: its folder, with "/" at the end, or the name of its only blob.
    exported_at: None if the path has no time. HHMM in a path has no time zone; we read it as UTC,
    which is our assumption and not documented.
    model: the name of the model.json that may describe it.
    """

    prefix: str
    segment: str
    layout: Layout
    destination: str = ""
    exported_at: datetime | None = None
    model: str | None = None

    @property
    def key(self) -> str:
        """A key that all snapshots of one segment and destination share."""
        return comparable(f"{self.destination}/{self.segment}")

    def holds(self, blob_name: str) -> bool:
        """Whether a blob is a partition of this snapshot."""
        try:
            return parse_blob_name(blob_name).prefix == self.prefix
        except NotASnapshot:
            return False

    def is_of(self, segment: str) -> bool:
        """Whether this is a snapshot of `segment`, which is "Table" or "Destination/Table".

        A mapped file is called "{destination}_{segment}", and both parts may hold underscores. So
        the segment must be that whole name, or "Destination/Segment": the end of the name alone
        would fit other segments too.
        """
        wanted, own = comparable(segment), comparable(self.segment)
        if self.layout is Layout.MAPPED:
            return wanted.replace("/", "_") == own
        return wanted in (own, self.key)


def is_model(name: str) -> bool:
    """Whether a blob is a model.json."""
    return name.rpartition("/")[2] == MODEL_NAME


def parse_blob_name(name: str) -> SnapshotRef:
    """Return the snapshot that a blob belongs to. Raises NotASnapshot.

    name: the blob's name, without the container's.
    """
    file_name = name.rpartition("/")[2]
    if file_name.startswith(".") or not file_name.lower().endswith(DATA_SUFFIXES):
        raise NotASnapshot(f"not a data file: only {', '.join(DATA_SUFFIXES)} files are read")
    for parse in (_parse_dated, _parse_undated, _parse_mapped, _parse_hand):
        if ref := parse(name):
            return ref
    raise NotASnapshot(f"not in a snapshot's folder. Put your own files into {HAND_FOLDER}/.")


def _parse_dated(name: str) -> SnapshotRef | None:
    match = _DATED.fullmatch(name)
    if match is None:
        return None
    parts = [int(match[key]) for key in ("y", "m", "d", "hh", "mm")]
    try:
        exported_at = datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    return SnapshotRef(
        prefix=name.rpartition("/")[0] + "/",
        segment=match["table"],
        layout=Layout.DATED,
        destination=match["root"].rstrip("/").rpartition("/")[2],
        exported_at=exported_at,
        model=match["root"] + MODEL_NAME,
    )


def _parse_undated(name: str) -> SnapshotRef | None:
    match = _UNDATED.fullmatch(name)
    if match is None:
        return None
    return SnapshotRef(
        prefix=name.rpartition("/")[0] + "/",
        segment=match["table"],
        layout=Layout.UNDATED,
        model=match["root"] + MODEL_NAME,
    )


def _parse_mapped(name: str) -> SnapshotRef | None:
    match = _MAPPED.fullmatch(name)
    if match is None:
        return None
    exported_at = datetime.fromtimestamp(int(match["unix"]), UTC)
    return SnapshotRef(
        prefix=name, segment=match["stem"], layout=Layout.MAPPED, exported_at=exported_at
    )


def _parse_hand(name: str) -> SnapshotRef | None:
    match = _HAND.fullmatch(name)
    if match is None:
        return None
    segment = match["segment"]
    folder = f"{HAND_FOLDER}/{segment}/"
    if not name.startswith(folder):
        return SnapshotRef(prefix=name, segment=_without_suffix(segment), layout=Layout.SINGLE)
    return SnapshotRef(
        prefix=folder, segment=segment, layout=Layout.FOLDER, model=folder + MODEL_NAME
    )


def _without_suffix(file_name: str) -> str:
    suffix = next(
        s for s in sorted(DATA_SUFFIXES, key=len, reverse=True) if file_name.lower().endswith(s)
    )
    return file_name[: -len(suffix)]
