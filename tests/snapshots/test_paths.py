"""Which snapshot a blob belongs to, whatever its name; and when a snapshot counts as complete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.snapshots.completeness import (
    Completeness,
    Gone,
    NeverCame,
    NotYet,
    Settled,
    completeness,
)
from exporter.snapshots.paths import (
    DATA_SUFFIXES,
    Layout,
    NotASnapshot,
    SnapshotRef,
    parse_blob_name,
)
from exporter.storage.protocols import BlobInfo

CI = "CustomerInsights_abcd1234-4312-11f4-93dc-24f72f43e7d5"
AT = datetime(2020, 8, 24, 14, 33, tzinfo=UTC)


def layout_of(name: str) -> tuple[str, str, str, str]:
    ref = parse_blob_name(name)
    return ref.layout.value, ref.destination, ref.segment, ref.prefix


# Layouts


@pytest.mark.parametrize(
    ("name", "layout", "destination", "segment", "prefix"),
    [
        # dated: Microsoft's own example, and what customers call things
        (
            f"{CI}/BlobExport/HighValueSegment/2020/08/24/1433/HighValueSegment_1.csv",
            *("dated", "BlobExport", "HighValueSegment", f"{CI}/BlobExport/HighValueSegment/2020/08/24/1433/"),
        ),
        ("D/T/2020/08/24/1433/other name.csv", "dated", "D", "T", "D/T/2020/08/24/1433/"),
        ("T/2020/08/24/1433/T_1.csv", "dated", "", "T", "T/2020/08/24/1433/"),
        ("a/b/c/d/T/2020/08/24/1433/T_1.csv", "dated", "d", "T", "a/b/c/d/T/2020/08/24/1433/"),
        ("D/VIPs & more (new)/2020/08/24/1433/x.csv", *("dated", "D", "VIPs & more (new)"),
         "D/VIPs & more (new)/2020/08/24/1433/"),
        ("D/v1.2.csv/2020/08/24/1433/v1.2.csv_1.csv", "dated", "D", "v1.2.csv", "D/v1.2.csv/2020/08/24/1433/"),
        ("D/Клиенты 50%/2020/08/24/1433/x.csv", *("dated", "D", "Клиенты 50%"), "D/Клиенты 50%/2020/08/24/1433/"),
        ("D/2020/2020/08/24/1433/x.csv", "dated", "D", "2020", "D/2020/2020/08/24/1433/"),
        ("D/O'Neill \"x\"/2020/08/24/1433/x.csv", *("dated", "D", "O'Neill \"x\""), "D/O'Neill \"x\"/2020/08/24/1433/"),
        ("D/T/2020/08/24/1433/T_1.CSV", "dated", "D", "T", "D/T/2020/08/24/1433/"),
        ("D/T/2020/08/24/1433/T_1.csv.gz", "dated", "D", "T", "D/T/2020/08/24/1433/"),
        ("D/T/2020/08/24/1433/T_1.parquet", "dated", "D", "T", "D/T/2020/08/24/1433/"),
        ("segments/T/2020/08/24/1433/T_1.csv", "dated", "segments", "T", "segments/T/2020/08/24/1433/"),
        ("D/T/2024/02/29/0000/T_1.csv", "dated", "D", "T", "D/T/2024/02/29/0000/"),
        # undated: before 2020-08
        ("Dynamics365CustomerInsights/Export/VIPs/VIPs_1.csv", *("undated", "", "VIPs"),
         "Dynamics365CustomerInsights/Export/VIPs/"),
        ("Export/Src_My.Table/Src_My.Table_12.csv", "undated", "", "Src_My.Table", "Export/Src_My.Table/"),
        ("Export/VIPs/VIPs_1.CSV.GZ", "undated", "", "VIPs", "Export/VIPs/"),
        # mapped: one file a refresh
        (f"{CI}/Klaviyo_Newsletter_1613059542.csv", *("mapped", "", "Klaviyo_Newsletter"),
         f"{CI}/Klaviyo_Newsletter_1613059542.csv"),
        ("x/CustomerInsights_a/É. coli_VIP list_1613059542.CSV", *("mapped", "", "É. coli_VIP list"),
         "x/CustomerInsights_a/É. coli_VIP list_1613059542.CSV"),
        # dropped by hand
        ("segments/VIPs.csv", "single", "", "VIPs", "segments/VIPs.csv"),
        ("segments/VIPs.csv.gz", "single", "", "VIPs", "segments/VIPs.csv.gz"),
        ("segments/VIPs.PARQUET", "single", "", "VIPs", "segments/VIPs.PARQUET"),
        ("segments/VIPs.v2.csv", "single", "", "VIPs.v2", "segments/VIPs.v2.csv"),
        ("in/box/segments/Überall & überall.csv", *("single", "", "Überall & überall"),
         "in/box/segments/Überall & überall.csv"),
        ("segments/ VIPs .csv", "single", "", " VIPs ", "segments/ VIPs .csv"),
        ("segments/VIPs_1613059542.csv", "single", "", "VIPs_1613059542", "segments/VIPs_1613059542.csv"),
        ("segments/VIPs/part-1.csv", "folder", "", "VIPs", "segments/VIPs/"),
        ("segments/VIPs.csv/part-1.csv", "folder", "", "VIPs.csv", "segments/VIPs.csv/"),
        ("segments/segments/a.csv", "single", "", "a", "segments/segments/a.csv"),
        # dates that are none: no dated folder, but a hand-made one may still be called so
        ("segments/1433/x.csv", "folder", "", "1433", "segments/1433/"),
    ],
)  # fmt: skip
def test_blob_name_tells_its_snapshot(
    name: str, layout: str, destination: str, segment: str, prefix: str
):
    assert layout_of(name) == (layout, destination, segment, prefix)
    assert parse_blob_name(name).holds(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "model.json", f"{CI}/BlobExport/model.json", "D/T/2020/08/24/1433/model.json", "segments/", "segments",
        "segments/model.json", "segments/VIPs.txt", "segments/VIPs.csv.zip", "segments/VIPs.csv.bak", "segments/.csv",
        "segments/VIPs/.part-1.csv", "segments/VIPs/2026/a.csv", "VIPs.csv", "D/T/T_1.csv", "Segments/VIPs.csv",
        "D/T/2020/13/24/1433/T_1.csv", "D/T/2020/02/30/1433/T_1.csv", "D/T/2020/08/24/2433/T_1.csv",
        "D/T/2020/08/24/1460/T_1.csv", "D/T/2020/8/24/1433/T_1.csv", "D/T/2020/08/24/143/T_1.csv",
        "D/T/0000/08/24/1433/T_1.csv", "D/T/٢٠٢٠/٠٨/٢٤/١٤٣٣/T_1.csv", "2020/08/24/1433/T_1.csv",
        "D/T/2020/08/24/1433/deeper/T_1.csv", "D//2020/08/24/1433/T_1.csv", "Export/VIPs/Other_1.csv",
        "Export/VIPs/VIPs.csv", "Export/VIPs/VIPs_x.csv", f"{CI}/deeper/Klaviyo_VIPs_1613059542.csv",
        f"{CI}/Klaviyo_VIPs_161305954.csv", f"{CI}/Klaviyo_VIPs_1613059542.parquet",
    ],
)  # fmt: skip
def test_other_blobs_are_no_part_of_a_snapshot(name: str):
    with pytest.raises(NotASnapshot):
        parse_blob_name(name)


def test_hhmm_is_read_as_utc_and_unix_seconds_as_what_they_are():
    assert parse_blob_name("D/T/2020/08/24/1433/T_1.csv").exported_at == AT
    mapped = parse_blob_name(f"{CI}/D_T_1613059542.csv").exported_at
    assert mapped == datetime(2021, 2, 11, 16, 5, 42, tzinfo=UTC)
    assert parse_blob_name("segments/VIPs.csv").exported_at is None
    assert parse_blob_name("Export/T/T_1.csv").exported_at is None


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("c/D/T/2020/08/24/1433/T_1.csv", "c/D/model.json"),
        ("T/2020/08/24/1433/T_1.csv", "model.json"),
        ("x/Export/T/T_1.csv", "x/Export/model.json"),
        ("segments/VIPs/a.csv", "segments/VIPs/model.json"),
        ("segments/VIPs.csv", None),
        (f"{CI}/D_T_1613059542.csv", None),
    ],
)
def test_model_is_looked_for_where_the_layout_has_it(name: str, model: str | None):
    assert parse_blob_name(name).model == model


part = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12
)
table = part.filter(lambda text: not text.startswith("."))
roots = st.lists(part, max_size=3).map(lambda parts: "".join(one + "/" for one in parts))


@settings(max_examples=100)
@given(root=roots, destination=part, name=table, at=st.datetimes(), number=st.integers(0, 999))
def test_dated_path_comes_back_as_what_it_was_made_of(root, destination, name, at, number):
    folder = f"{root}{destination}/{name}/{at.year:04}/{at:%m/%d/%H%M}/"
    ref = parse_blob_name(f"{folder}{name}_{number}.csv")
    minute = at.replace(second=0, microsecond=0, tzinfo=UTC)
    assert ref == SnapshotRef(
        prefix=folder,
        segment=name,
        layout=Layout.DATED,
        destination=destination,
        exported_at=minute,
        model=f"{root}{destination}/model.json",
    )


@settings(max_examples=100)
@given(name=table, other=table, suffix=st.sampled_from(DATA_SUFFIXES))
def test_hand_made_names_come_back_as_what_they_were_made_of(name, other, suffix):
    assert layout_of(f"segments/{name}{suffix}") == ("single", "", name, f"segments/{name}{suffix}")
    assert layout_of(f"segments/{name}/{other}{suffix}")[:3] == ("folder", "", name)


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            [
                "segments",
                "Export",
                CI,
                "T",
                "2020",
                "08",
                "24",
                "1433",
                "T_1.csv",
                "T_1613059542.csv",
                "x",
            ]
        )
        | part,
        max_size=9,
    ).map("/".join)
)
def test_any_name_is_of_exactly_the_snapshot_that_holds_it_or_of_none(name):
    try:
        ref = parse_blob_name(name)
    except NotASnapshot:
        return
    assert ref.segment
    assert ref.holds(name)
    assert name.startswith(ref.prefix)
    assert not ref.holds(ref.prefix + "more/" + "x.csv")


# Which segment


@pytest.mark.parametrize(
    ("name", "segment", "belongs"),
    [
        ("Feed/VIPs/2020/08/24/1433/VIPs_1.csv", "VIPs", True),
        ("Feed/VIPs/2020/08/24/1433/VIPs_1.csv", "vips", True),
        ("Feed/VIPs/2020/08/24/1433/VIPs_1.csv", "feed/vIPS", True),
        ("Feed/VIPs/2020/08/24/1433/VIPs_1.csv", "Other/VIPs", False),
        ("Feed/VIPs/2020/08/24/1433/VIPs_1.csv", "VIP", False),
        ("segments/STRASSE.csv", "straße", True),
        ("segments/Cafe\u0301.csv", "CAF\u00c9", True),
        (f"{CI}/Klaviyo_New_Customers_1613059542.csv", "New_Customers", False),
        (f"{CI}/Klaviyo_New_Customers_1613059542.csv", "customers", False),
        (f"{CI}/Klaviyo_New_Customers_1613059542.csv", "Klaviyo_New_Customers", True),
        (f"{CI}/Klaviyo_New_Customers_1613059542.csv", "klaviyo/new_customers", True),
        (f"{CI}/Feed_Not_VIPs_1613059542.csv", "VIPs", False),
        (f"{CI}/Feed_Not_VIPs_1613059542.csv", "Feed/VIPs", False),
        (f"{CI}/Feed_Not_VIPs_1613059542.csv", "feed_not_vips", True),
        (f"{CI}/Klaviyo_New_Customers_1613059542.csv", "ew_Customers", False),
        ("segments/Klaviyo_VIPs.csv", "VIPs", False),
    ],
)
def test_segment_is_recognised_without_regard_to_case(name: str, segment: str, belongs: bool):
    assert parse_blob_name(name).is_of(segment) is belongs


# Complete?

PREFIX = "D/T/2020/08/24/1433/"
DATED = parse_blob_name(PREFIX + "T_1.csv")


def blobs(ages_s: dict[str, float], now: datetime) -> list[BlobInfo]:
    """Blobs below the prefix, by how long ago they were written."""
    return [
        BlobInfo(
            name=PREFIX + name, etag="1", size_bytes=1, modified_at=now - timedelta(seconds=age)
        )
        for name, age in ages_s.items()
    ]


def judge(ages_s: dict[str, float], named: list[str] | None = None) -> Completeness:
    now = AT + timedelta(hours=1)
    return completeness(
        DATED, blobs(ages_s, now), named=named or [], now=now, quiet_s=300, patience_s=3600
    )


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
        case Settled(partitions):
            found = [blob.name.removeprefix(PREFIX) for blob in partitions]
    assert verdict == found


def test_single_file_is_complete_at_once():
    now = AT + timedelta(hours=1)
    for name in ("segments/VIPs.csv", f"{CI}/D_T_1613059542.csv"):
        ref = parse_blob_name(name)
        blob = BlobInfo(name=name, etag="1", size_bytes=1, modified_at=now)
        other = BlobInfo(name=name + ".csv", etag="1", size_bytes=1, modified_at=now)
        state = completeness(ref, [other, blob], now=now, quiet_s=300, patience_s=3600)
        assert state == Settled((blob,))


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
