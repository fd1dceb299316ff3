"""Blob path <-> SnapshotRef: which snapshot a blob belongs to, and whether that snapshot is complete.

    CustomerInsights_{id}/{destination}/{table}/YYYY/MM/DD/HHMM/{table}_{n}.csv    dated: a folder a refresh
    .../Export/{table}/{table}_{n}.csv                                             undated: before 2020-08
    CustomerInsights_{id}/{destination}_{segment}_{unixtime}.csv                   mapped: one file a refresh
    segments/{segment}.csv|.csv.gz|.parquet                                        single: dropped by hand
    segments/{segment}/{anything}.csv|...                                          folder: dropped by hand

Source: Microsoft Learn, "Export data to an Azure Blob Storage" (2026-07-16) and its history; the mapped file from
"Adobe Campaign Standard" (2024-11-06). Pure: no clock, no storage.
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
    r"(?P<root>(?:[^/]+/)*)(?P<table>[^/]+)/(?P<y>\d{4})/(?P<m>\d\d)/(?P<d>\d\d)/(?P<hh>\d\d)(?P<mm>\d\d)/[^/]+",
    re.ASCII,
)
_UNDATED = re.compile(
    r"(?P<root>(?:[^/]+/)*Export/)(?P<table>[^/]+)/(?P=table)_\d+(?i:\.csv(?:\.gz)?)",
    re.ASCII,
)
_MAPPED = re.compile(
    r"(?P<root>(?:[^/]+/)*CustomerInsights_[^/]+/)(?P<stem>[^/]+)_(?P<unix>\d{10})(?i:\.csv(?:\.gz)?)",
    re.ASCII,
)
_HAND = re.compile(rf"(?P<root>(?:[^/]+/)*{HAND_FOLDER}/)(?P<segment>[^/]+?)(?:/[^/]+)?")


class NotASnapshot(ExporterError):
    """The blob is no part of a snapshot: model.json, notes, anything else that is safe to skip."""


class Layout(StrEnum):
    DATED = "dated"
    UNDATED = "undated"
    MAPPED = "mapped"
    SINGLE = "single"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef:
    """One snapshot of one segment. `prefix` is its folder, ending in "/", or the name of its only blob.

    `exported_at` is None where the path has no time; a path's HHMM carries no zone and is read as UTC (our
    assumption, not documented). `model` names the model.json that may describe it.
    """

    prefix: str
    segment: str
    layout: Layout
    destination: str = ""
    exported_at: datetime | None = None
    model: str | None = None

    @property
    def is_one_file(self) -> bool:
        """Whether the snapshot is complete with its only blob."""
        return self.layout in (Layout.MAPPED, Layout.SINGLE)

    @property
    def key(self) -> str:
        """The same for all snapshots of one segment of one destination."""
        return comparable(f"{self.destination}/{self.segment}")

    def holds(self, blob_name: str) -> bool:
        """Whether a blob is a partition of this snapshot."""
        try:
            return parse_blob_name(blob_name).prefix == self.prefix
        except NotASnapshot:
            return False

    def is_of(self, segment: str) -> bool:
        """Whether this is a snapshot of `segment`: "Table", or "Destination/Table" where two destinations share it.

        A mapped file is called "{destination}_{segment}" and both may hold underscores: it belongs to a segment of
        that whole name, or to "Destination/Segment". Its end alone would do for other segments as well.
        """
        wanted, own = comparable(segment), comparable(self.segment)
        if self.layout is Layout.MAPPED:
            return wanted.replace("/", "_") == own
        return wanted in (own, self.key)


def is_model(name: str) -> bool:
    """Whether a blob is a model.json."""
    return name.rpartition("/")[2] == MODEL_NAME


def parse_blob_name(name: str) -> SnapshotRef:
    """Say which snapshot the blob `name` (container left out) belongs to. Raises NotASnapshot."""
    file_name = name.rpartition("/")[2]
    if file_name.startswith(".") or not file_name.lower().endswith(DATA_SUFFIXES):
        raise NotASnapshot(f"not a data file: only {', '.join(DATA_SUFFIXES)} are read")
    for parse in (_parse_dated, _parse_undated, _parse_mapped, _parse_hand):
        if ref := parse(name):
            return ref
    raise NotASnapshot(f"not in a snapshot's folder; drop files by hand into {HAND_FOLDER}/")


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
    root, segment = match["root"], match["segment"]
    if name == root + segment:
        return SnapshotRef(prefix=name, segment=_without_suffix(segment), layout=Layout.SINGLE)
    folder = f"{root}{segment}/"
    return SnapshotRef(
        prefix=folder, segment=segment, layout=Layout.FOLDER, model=folder + MODEL_NAME
    )


def _without_suffix(file_name: str) -> str:
    suffix = next(
        s for s in sorted(DATA_SUFFIXES, key=len, reverse=True) if file_name.lower().endswith(s)
    )
    return file_name[: -len(suffix)]
