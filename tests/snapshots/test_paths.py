"""Which snapshot a blob belongs to, whatever its name."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.snapshots.paths import (
    DATA_SUFFIXES,
    Layout,
    NotASnapshot,
    SnapshotRef,
    parse_blob_name,
)

CI = "CustomerInsights_abcd1234-4312-11f4-93dc-24f72f43e7d5"
AT = datetime(2020, 8, 24, 14, 33, tzinfo=UTC)


def layout_of(name: str) -> tuple[str, str, str, str]:
    ref = parse_blob_name(name)
    return ref.layout.value, ref.destination, ref.segment, ref.prefix


# Layouts


@pytest.mark.parametrize(
    ("name", "layout", "destination", "segment"),
    [
        # dated: Microsoft's own example, and what customers call things
        (
            f"{CI}/BlobExport/HighValueSegment/2020/08/24/1433/HighValueSegment_1.csv",
            "dated",
            "BlobExport",
            "HighValueSegment",
        ),
        ("D/T/2020/08/24/1433/other name.csv", "dated", "D", "T"),
        ("T/2020/08/24/1433/T_1.csv", "dated", "", "T"),
        ("a/b/c/d/T/2020/08/24/1433/T_1.csv", "dated", "d", "T"),
        ("D/VIPs & more (new)/2020/08/24/1433/x.csv", "dated", "D", "VIPs & more (new)"),
        ("D/v1.2.csv/2020/08/24/1433/v1.2.csv_1.csv", "dated", "D", "v1.2.csv"),
        ("D/Клиенты 50%/2020/08/24/1433/x.csv", "dated", "D", "Клиенты 50%"),
        ("D/2020/2020/08/24/1433/x.csv", "dated", "D", "2020"),
        ('D/O\'Neill "x"/2020/08/24/1433/x.csv', "dated", "D", 'O\'Neill "x"'),
        ("D/T/2020/08/24/1433/T_1.CSV", "dated", "D", "T"),
        ("D/T/2020/08/24/1433/T_1.csv.gz", "dated", "D", "T"),
        ("D/T/2020/08/24/1433/T_1.parquet", "dated", "D", "T"),
        ("segments/T/2020/08/24/1433/T_1.csv", "dated", "segments", "T"),
        ("D/T/2024/02/29/0000/T_1.csv", "dated", "D", "T"),
        # undated: before 2020-08
        ("Dynamics365CustomerInsights/Export/VIPs/VIPs_1.csv", "undated", "", "VIPs"),
        ("Export/Src_My.Table/Src_My.Table_12.csv", "undated", "", "Src_My.Table"),
        ("Export/VIPs/VIPs_1.CSV.GZ", "undated", "", "VIPs"),
        # mapped: one file a refresh
        (f"{CI}/Klaviyo_Newsletter_1613059542.csv", "mapped", "", "Klaviyo_Newsletter"),
        ("x/CustomerInsights_a/É. coli_VIP list_1613059542.CSV", "mapped", "", "É. coli_VIP list"),
        # dropped by hand
        ("segments/VIPs.csv", "single", "", "VIPs"),
        ("segments/VIPs.csv.gz", "single", "", "VIPs"),
        ("segments/VIPs.PARQUET", "single", "", "VIPs"),
        ("segments/VIPs.v2.csv", "single", "", "VIPs.v2"),
        ("segments/Überall & überall.csv", "single", "", "Überall & überall"),
        ("segments/ VIPs .csv", "single", "", " VIPs "),
        ("segments/VIPs_1613059542.csv", "single", "", "VIPs_1613059542"),
        ("segments/VIPs/part-1.csv", "folder", "", "VIPs"),
        ("segments/VIPs.csv/part-1.csv", "folder", "", "VIPs.csv"),
        ("segments/segments/a.csv", "folder", "", "segments"),
        # dates that are none: no dated folder, but a hand-made one may still be called so
        ("segments/1433/x.csv", "folder", "", "1433"),
    ],
)
def test_blob_name_tells_its_snapshot(name: str, layout: str, destination: str, segment: str):
    is_one_file = layout in ("mapped", "single")
    prefix = name if is_one_file else name.rpartition("/")[0] + "/"
    assert layout_of(name) == (layout, destination, segment, prefix)
    assert parse_blob_name(name).holds(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "model.json",
        f"{CI}/BlobExport/model.json",
        "D/T/2020/08/24/1433/model.json",
        "segments/",
        "segments",
        "segments/model.json",
        "segments/VIPs.txt",
        # hand-dropped files count at the top of the container only
        "copy/segments/VIPs.csv",
        "copy/segments/VIPs/a.csv",
        "/segments/VIPs.csv",
        "segments/VIPs.csv.zip",
        "segments/VIPs.csv.bak",
        "segments/.csv",
        "segments/VIPs/.part-1.csv",
        "segments/VIPs/2026/a.csv",
        "VIPs.csv",
        "D/T/T_1.csv",
        "Segments/VIPs.csv",
        "D/T/2020/13/24/1433/T_1.csv",
        "D/T/2020/02/30/1433/T_1.csv",
        "D/T/2020/08/24/2433/T_1.csv",
        "D/T/2020/08/24/1460/T_1.csv",
        "D/T/2020/8/24/1433/T_1.csv",
        "D/T/2020/08/24/143/T_1.csv",
        "D/T/0000/08/24/1433/T_1.csv",
        "D/T/٢٠٢٠/٠٨/٢٤/١٤٣٣/T_1.csv",
        "2020/08/24/1433/T_1.csv",
        "D/T/2020/08/24/1433/deeper/T_1.csv",
        "D//2020/08/24/1433/T_1.csv",
        "Export/VIPs/Other_1.csv",
        "Export/VIPs/VIPs.csv",
        "Export/VIPs/VIPs_x.csv",
        f"{CI}/deeper/Klaviyo_VIPs_1613059542.csv",
        f"{CI}/Klaviyo_VIPs_161305954.csv",
        f"{CI}/Klaviyo_VIPs_1613059542.parquet",
    ],
)
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
