"""A snapshot is complete when it is quiet and all that model.json names has arrived."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.snapshots.completeness import (
    Completeness,
    Gone,
    NeverCame,
    NotYet,
    Settled,
    completeness,
)
from exporter.snapshots.paths import parse_blob_name
from exporter.storage.protocols import BlobInfo

CI = "CustomerInsights_abcd1234-4312-11f4-93dc-24f72f43e7d5"
AT = datetime(2020, 8, 24, 14, 33, tzinfo=UTC)

PREFIX = "D/T/2020/08/24/1433/"
DATED = parse_blob_name(PREFIX + "T_1.csv")


def blobs(ages_s: dict[str, float], now: datetime, empty: Collection[str] = ()) -> list[BlobInfo]:
    """Blobs below the prefix, by how long ago they were written."""
    return [
        BlobInfo(
            name=PREFIX + name,
            etag="1",
            size_bytes=0 if name in empty else 1,
            modified_at=now - timedelta(seconds=age),
        )
        for name, age in ages_s.items()
    ]


def judge(
    ages_s: dict[str, float], named: list[str] | None = None, *, empty: Collection[str] = ()
) -> Completeness:
    now = AT + timedelta(hours=1)
    found = blobs(ages_s, now, empty)
    return completeness(DATED, found, named=named or [], now=now, quiet_s=300, patience_s=3600)


@pytest.mark.parametrize(
    ("ages_s", "named", "verdict"),
    [
        # nothing there, or nothing that counts
        ({}, [], "gone"),
        ({"model.json": 900}, ["T_1.csv"], "gone"),
        ({"notes.txt": 900, ".T_1.csv": 900, "deeper/T_1.csv": 900}, [], "gone"),
        # no model
        ({"T_1.csv": 0}, [], 300),
        ({"T_1.csv": 299}, [], 1),
        ({"T_1.csv": 300}, [], ["T_1.csv"]),
        ({"T_1.csv": 900, "T_2.csv": 60}, [], 240),  # minutes apart: the last one counts
        ({"T_1.csv": 900, "T_2.csv": 600}, [], ["T_1.csv", "T_2.csv"]),
        ({"T_2.csv": 600, "T_1.csv": 20}, [], 280),  # a partition that was written anew
        ({"T_1.csv": 900, "model.json": 1}, [], ["T_1.csv"]),  # the model is no partition
        # the model was there first: what it names must come
        ({"T_1.csv": 400}, ["T_1.csv", "T_2.csv"], 300),
        ({"T_1.csv": 900, "T_2.csv": 400}, ["T_1.csv", "T_2.csv"], ["T_1.csv", "T_2.csv"]),
        ({"T_1.csv": 900, "T_2.csv": 10}, ["T_1.csv", "T_2.csv"], 290),
        ({"T_1.csv": 3599}, ["T_1.csv", "T_2.csv"], 300),
        ({"T_1.csv": 3600}, ["T_1.csv", "T_2.csv", "T_3.csv"], "never: T_2.csv T_3.csv"),
        ({"t_1.CSV": 900}, ["T_1.csv"], ["t_1.CSV"]),  # spelled otherwise
        # the model comes last, or is that of an older run: it names nothing here yet
        ({"T_1.csv": 900, "T_2.csv": 400}, [], ["T_1.csv", "T_2.csv"]),
        # more is there than is named: all of it counts
        ({"T_1.csv": 900, "T_9.csv": 900}, ["T_1.csv"], ["T_1.csv", "T_9.csv"]),
        # a clock behind that of the storage
        ({"T_1.csv": -30}, [], 300),
        ({"T_1.csv": -86_400 * 365}, [], 300),
    ],
)
def test_snapshot_is_complete_when_it_is_quiet_and_all_named_partitions_are_there(
    ages_s, named, verdict
):
    match judge(ages_s, named):
        case Gone():
            found: object = "gone"
        case NotYet(wait_s):
            found = pytest.approx(wait_s)
        case NeverCame(missing):
            found = f"never: {' '.join(missing)}"
        case Settled(partitions, ()):
            found = [blob.name.removeprefix(PREFIX) for blob in partitions]
    assert verdict == found


@pytest.mark.parametrize(
    "name",
    [
        "segments/VIPs.csv",
        "segments/VIPs/a.csv",
        f"{CI}/D_T_1613059542.csv",
        "Export/T/T_1.csv",
        PREFIX + "T_1.csv",
    ],
)
@pytest.mark.parametrize(
    ("age_s", "size_bytes", "verdict"),
    [
        (0, 1, 300),
        (299, 1, 1),
        (300, 1, "complete"),
        (0, 0, 300),
        (300, 0, 300),
        (3599, 0, 300),
        (3600, 0, "empty"),
    ],
)
def test_every_layout_waits_until_its_files_stand_still_and_are_not_empty(
    name: str, age_s: float, size_bytes: int, verdict: object
) -> None:
    now = AT + timedelta(hours=1)
    written = now - timedelta(seconds=age_s)
    blob = BlobInfo(name=name, etag="1", size_bytes=size_bytes, modified_at=written)
    other = BlobInfo(name=name + "/more.csv", etag="1", size_bytes=1, modified_at=now)
    ref = parse_blob_name(name)
    match completeness(ref, [other, blob], now=now, quiet_s=300, patience_s=3600):
        case NotYet(wait_s):
            found: object = wait_s
        case Settled(partitions, empty) as state:
            assert partitions == (blob,)
            assert state.is_complete is (empty == ())
            found = "empty" if empty == (name,) else "complete"
    assert verdict == found


@pytest.mark.parametrize(
    ("ages_s", "named", "verdict"),
    [
        ({"T_1.csv": 400, "T_2.csv": 310}, [], "2 is still empty"),
        ({"T_1.csv": 9_000, "T_2.csv": 310}, [], "2 is still empty"),
        ({"T_1.csv": 9_000, "T_2.csv": 3600}, [], "2 stayed empty"),
        ({"T_1.csv": 9_000, "T_2.csv": 310}, ["T_1.csv", "T_3.csv"], "3 is missing"),
        ({"T_1.csv": 9_000, "T_2.csv": 3600}, ["T_1.csv", "T_3.csv"], "3 never came"),
    ],
)
def test_an_empty_partition_among_others_is_waited_for_and_then_noted(
    ages_s: dict[str, float], named: list[str], verdict: str
) -> None:
    match judge(ages_s, named, empty=["T_2.csv"]):
        case NotYet(_, why):
            assert ("empty" in why) is (verdict == "2 is still empty")
            assert ("model.json" in why) is (verdict == "3 is missing")
        case Settled(partitions, empty):
            assert verdict == "2 stayed empty"
            assert empty == (PREFIX + "T_2.csv",)
            assert len(partitions) == 2
        case NeverCame(missing):
            assert (verdict, missing) == ("3 never came", ("T_3.csv",))


@given(
    ages_s=st.dictionaries(
        st.sampled_from([f"T_{n}.csv" for n in range(5)]), st.floats(-1e6, 1e6), max_size=5
    ),
    named=st.sets(st.sampled_from([f"T_{n}.csv" for n in range(5)])),
)
def test_nothing_settles_before_it_is_quiet_and_no_wait_is_longer_than_asked(ages_s, named):
    match judge(ages_s, sorted(named)):
        case Settled(partitions):
            assert min(ages_s.values()) >= 300 - 1e-3
            assert named <= {blob.name.removeprefix(PREFIX) for blob in partitions}
        case NotYet(wait_s):
            assert 0 < wait_s <= 300
        case NeverCame(missing):
            assert min(ages_s.values()) >= 3600 - 1e-3
            assert set(missing) == named - set(ages_s)
        case Gone():
            assert not ages_s
