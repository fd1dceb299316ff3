"""What looks like data and belongs to no snapshot is listed, with what to do about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from exporter.snapshots.left_aside import LeftAside, left_aside
from exporter.storage.protocols import BlobInfo

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def blob(name: str, *, age_h: float = 0) -> BlobInfo:
    return BlobInfo(name=name, etag="1", size_bytes=10, modified_at=NOW - timedelta(hours=age_h))


def found(name: str) -> LeftAside | None:
    newest = left_aside([blob(name)]).newest
    return newest[0] if newest else None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Feed/HighValue/part-00000-c000.csv", "No layout"),
        ("HighValue.csv", "No layout"),
        ("copy/segments/HighValue.csv", "top of the container"),
        ("Segments/HighValue.csv", "small letters"),
        ("segments/HighValue/2026/a.csv", "too deep"),
        ("Feed/HighValue/2026/11/23/600/HighValue_1.csv", "YYYY/MM/DD/HHMM"),
        ("Feed/HighValue/2026/13/23/0600/HighValue_1.csv", "YYYY/MM/DD/HHMM"),
        ("Feed/HighValue/2026/11/23/0600/deeper/HighValue_1.csv", "YYYY/MM/DD/HHMM"),
        ("segments/HighValue.xlsx", "Convert"),
        ("segments/HighValue.csv.zip", "Convert"),
        ("Feed/HighValue/2026/11/23/0600/HighValue_1.txt", "Convert"),
    ],
)
def test_a_file_in_no_layout_is_left_aside_with_a_reason(name: str, why: str) -> None:
    left = found(name)
    assert left is not None
    assert why in left.why
    assert left.bears("HighValue")


@pytest.mark.parametrize(
    "name",
    [
        "segments/HighValue.csv",
        "segments/HighValue/a.parquet",
        "Feed/HighValue/2026/11/23/0600/HighValue_1.csv",
        "Feed/model.json",
        "Feed/HighValue/_SUCCESS",
        "Feed/HighValue/_committed_1.csv",
        "Feed/HighValue/.part-00000.csv.crc",
        "logo.png",
        "readme",
    ],
)
def test_what_is_read_or_is_not_data_is_not_left_aside(name: str) -> None:
    assert found(name) is None


@pytest.mark.parametrize(
    ("name", "segment", "bears"),
    [
        ("Feed/HighValue/part-00000-c000.csv", "HighValue", True),
        ("Feed/HighValue/part-00000-c000.csv", "feed/HIGHVALUE", True),
        ("in/HighValue_3.csv", "HighValue", True),
        ("in/HighValue.csv.zip", "HighValue", True),
        ("in/HighValue/a/b/c.csv", "HighValue", True),
        ("Feed/HighValues/part-00000-c000.csv", "HighValue", False),
        ("Feed/part-00000-HighValue.csv", "HighValue", False),
        ("Feed/Leads/part-00000-c000.csv", "HighValue", False),
    ],
)
def test_it_is_told_when_a_file_bears_a_segments_name(name: str, segment: str, bears: bool) -> None:
    left = found(name)
    assert left is not None
    assert left.bears(segment) is bears


def test_only_the_newest_are_listed_and_all_are_counted() -> None:
    blobs = [blob(f"x/{number}.csv", age_h=(number * 7) % 10) for number in range(10)]
    every = left_aside(iter(blobs), most=3)
    assert every.count == 10
    ages = [NOW - each.blob.modified_at for each in every.newest]
    assert ages == [timedelta(hours=hours) for hours in (0, 1, 2)]
