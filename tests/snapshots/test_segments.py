"""Segments in storage: each by its newest snapshot, whatever else lies around."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from exporter.snapshots.segments import newest_snapshots
from exporter.storage.protocols import BlobInfo

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DATED = "CustomerInsights_x/Feed/HighValue/2026/11/{day}/0600/HighValue_{part}.csv"


def blob(name: str, *, size: int = 10, age_h: float = 0) -> BlobInfo:
    return BlobInfo(name=name, etag="1", size_bytes=size, modified_at=NOW - timedelta(hours=age_h))


def test_of_several_refreshes_the_newest_counts_with_all_its_files() -> None:
    names = [DATED.format(day=day, part=part) for day in (21, 23, 22) for part in (1, 2)]
    [found] = newest_snapshots(blob(name) for name in names)
    assert (found.ref.segment, found.newest_at.day, found.files, found.size_bytes) == (
        "HighValue",
        23,
        2,
        20,
    )


@given(st.data())
def test_the_order_of_the_blobs_does_not_matter(data: st.DataObject) -> None:
    blobs = [blob(DATED.format(day=day, part=part)) for day in (21, 22, 23) for part in (1, 2)]
    blobs += [
        blob("segments/A.csv", age_h=2),
        blob("segments/A/1.csv", age_h=3),
        blob("segments/A/2.csv", age_h=1),
    ]
    assert newest_snapshots(data.draw(st.permutations(blobs))) == newest_snapshots(blobs)


def test_a_file_by_hand_is_as_old_as_its_last_change() -> None:
    first, second = newest_snapshots(
        [
            blob("segments/B.csv", age_h=3),
            blob("segments/A/1.csv", age_h=2),
            blob("segments/A/2.csv", age_h=1),
        ]
    )
    assert (first.ref.segment, first.newest_at, first.files) == ("A", NOW - timedelta(hours=1), 2)
    assert (second.ref.segment, second.newest_at, second.files) == (
        "B",
        NOW - timedelta(hours=3),
        1,
    )


def test_names_that_differ_in_case_are_one_segment() -> None:
    names = [
        DATED.format(day=21, part=1),
        DATED.format(day=22, part=1).replace("HighValue", "HIGHVALUE"),
    ]
    assert [found.ref.segment for found in newest_snapshots(map(blob, names))] == ["HIGHVALUE"]


def test_segments_of_one_name_are_told_apart_by_their_destination() -> None:
    names = [
        DATED.format(day=day, part=1).replace("Feed", feed)
        for feed, day in (("Feed", 22), ("Other", 21))
    ]
    found = newest_snapshots(map(blob, [*names, "segments/Single.csv"]))
    assert [each.name for each in found] == ["Feed/HighValue", "Other/HighValue", "Single"]
    assert all(each.ref.is_of(each.name) for each in found)
    assert not found[0].ref.is_of(found[1].name)


def test_a_folder_is_one_snapshot_whatever_lies_between_the_times_of_its_files() -> None:
    [found] = newest_snapshots(
        [
            blob("segments/A.csv", age_h=2),
            blob("segments/A/1.csv", age_h=3),
            blob("segments/A/2.csv", age_h=1),
        ]
    )
    assert (found.ref.prefix, found.files) == ("segments/A/", 2)


def test_what_is_no_snapshot_is_no_segment() -> None:
    assert (
        newest_snapshots(map(blob, ["readme.txt", "CustomerInsights_x/Feed/model.json", "a.csv"]))
        == []
    )
