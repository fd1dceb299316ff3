"""model.json is read leniently: what it says is used, what is missing or odd changes nothing."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.reading.dialect import Dialect
from exporter.snapshots.model_json import (
    TableModel,
    located_blobs,
    parse_table,
    table_of_blobs,
)

FOLDER = "CustomerInsights_0f3c1a52/KlaviyoFeed/VIPs/2026/03/14/0615/"
HOST = "https://examplestorage.blob.core.windows.net/klaviyo-feed/"
SETTINGS = {
    "$type": "CsvFormatSettings",
    "columnHeaders": True,
    "delimiter": ",",
    "quoteStyle": "QuoteStyle.Csv",
    "csvStyle": "CsvStyle.QuoteAlways",
    "encoding": "UTF-8",
}


def model(
    settings: Any = SETTINGS, *, location: Any = HOST + FOLDER + "VIPs_1.csv", **entity: Any
) -> dict[str, Any]:
    """A model of one table with one partition, as Customer Insights might write it."""
    columns = [
        {"name": "CustomerId", "dataType": "string"},
        {"name": "EMail", "dataType": "string"},
    ]
    partition = {"name": "VIPs_1", "location": location, "fileFormatSettings": settings}
    table = {
        "$type": "LocalEntity",
        "name": "VIPs",
        "attributes": columns,
        "partitions": [partition],
        **entity,
    }
    return {
        "application": "CustomerInsights",
        "name": "KlaviyoFeed",
        "version": "1.0",
        "entities": [table],
    }


def parsed(
    document: Any, table: str = "VIPs", *, container: str = "klaviyo-feed"
) -> TableModel | None:
    return parse_table(json.dumps(document).encode(), table, container=container)


def dialect(settings: Any) -> Dialect:
    found = parsed(model(settings))
    assert found
    return found.dialect_of(FOLDER + "VIPs_1.csv")


def test_columns_partitions_and_dialect_are_read():
    found = parsed(model())
    assert found
    assert found.columns == ("CustomerId", "EMail")
    assert found.named_in(FOLDER) == {"VIPs_1.csv"}
    assert found.dialect_of(FOLDER + "VIPs_1.csv") == Dialect(
        columns=("CustomerId", "EMail"),
        has_header=True,
        delimiter=",",
        encoding="UTF-8",
        quoting=True,
    )


@pytest.mark.parametrize(
    ("given", "culture"), [("en-GB", "en-GB"), (" de ", "de"), ("", None), ("?", None), (7, None)]
)
def test_culture_of_the_model_is_that_of_every_partition(given: Any, culture: str | None):
    for partitions in ([], model()["entities"][0]["partitions"]):
        found = parsed({**model(partitions=partitions), "Culture": given})
        assert found
        assert found.dialect_of("another.csv").culture == culture


def test_data_types_are_read_where_they_are_given():
    attributes = [
        {"name": "EMail", "dataType": "string"},
        {"Name": "Points", "DATATYPE": "int64"},
        {"name": "Odd"},
    ]
    document = {
        "entities": [
            {"name": "VIPs", "attributes": [*attributes, {"name": "Worse", "dataType": {"a": 1}}]}
        ]
    }
    found = parse_table(json.dumps(document).encode(), "VIPs")
    assert found
    assert found.types == {"EMail": "string", "Points": "int64"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        (None, {}),
        ("CsvFormatSettings", {}),
        ([], {}),
        ({"columnHeaders": "true"}, {"has_header": True}),
        ({"columnHeaders": "FALSE "}, {"has_header": False}),
        ({"columnHeaders": False}, {"has_header": False}),
        ({"columnHeaders": "yes"}, {}),
        ({"columnHeaders": None}, {}),
        ({"columnHeaders": []}, {}),
        ({"COLUMNHEADERS": True, "Delimiter": ";"}, {"has_header": True, "delimiter": ";"}),
        ({"delimiter": "comma"}, {"delimiter": ","}),
        ({"delimiter": "Tab"}, {"delimiter": "\t"}),
        ({"delimiter": "\\t"}, {"delimiter": "\t"}),
        ({"delimiter": "semicolon"}, {"delimiter": ";"}),
        ({"delimiter": "||"}, {}),
        ({"delimiter": ""}, {}),
        ({"delimiter": "\ud83d"}, {}),
        ({"delimiter": 44}, {}),
        ({"encoding": " Windows-1252 "}, {"encoding": "Windows-1252"}),
        ({"encoding": 1252}, {"encoding": "1252"}),
        ({"encoding": ""}, {}),
        ({"encoding": ["UTF-8"]}, {}),
        ({"quoteStyle": "QuoteStyle.None"}, {"quoting": False}),
        ({"quotestyle": "quotestyle.none"}, {"quoting": False}),
        ({"quoteStyle": "QuoteStyle.Csv"}, {}),
        ({"quoteStyle": None}, {}),
        ({"csvStyle": "CsvStyle.QuoteAfterDelimiter", "x:unknown": {"y": 1}}, {}),
    ],
)
def test_dialect_is_read_leniently(settings: Any, expected: dict[str, Any]):
    assert dialect(settings) == Dialect(columns=("CustomerId", "EMail"), **expected)


@pytest.mark.parametrize(
    "location",
    [
        HOST + FOLDER + "VIPs_1.csv",
        HOST + FOLDER + "VIPs_1.csv?snapshot=2026-03-14T06:15:00.0000000Z",
        HOST + FOLDER + "VIPs_1.csv?sv=2024&sig=a%2Fb#x",
        "https://examplestorage.dfs.core.windows.net/klaviyo-feed/" + FOLDER + "VIPs_1.csv",
        "https://examplestorage.blob.core.windows.net:443/klaviyo-feed/" + FOLDER + "VIPs_1.csv",
        "http://127.0.0.1:10000/devstoreaccount1/klaviyo-feed/" + FOLDER + "VIPs_1.csv",
        "HTTPS://EXAMPLESTORAGE.BLOB.CORE.WINDOWS.NET/klaviyo-feed/" + FOLDER + "VIPs_1.csv",
        "/klaviyo-feed/" + FOLDER + "VIPs_1.csv",
        FOLDER + "VIPs_1.csv",
        " " + HOST + FOLDER + "VIPs_1.csv ",
        HOST.replace("klaviyo-feed", "Klaviyo-Feed") + FOLDER + "VIPs_1.csv",
    ],
)
def test_location_is_cut_down_to_the_path_in_the_container(location: str):
    found = parsed(model(location=location))
    assert found
    assert set(found.partitions) == {FOLDER + "VIPs_1.csv"}


@pytest.mark.parametrize("location", [None, "", 5, [], {}, "https://[bad", "https://host", HOST])
def test_partition_without_a_usable_location_is_left_out(location: Any):
    found = parsed(model(location=location))
    assert found
    assert found.columns == ("CustomerId", "EMail")
    assert found.named_in(FOLDER) == frozenset()


def test_only_partitions_directly_in_the_folder_are_named():
    table = model()["entities"][0]
    names = [
        FOLDER + "VIPs_1.csv",
        FOLDER + "deeper/VIPs_2.csv",
        FOLDER.replace("0615", "0715") + "VIPs_3.csv",
    ]
    found = parsed(
        model(partitions=[{**table["partitions"][0], "location": HOST + name} for name in names])
    )
    assert found
    assert found.named_in(FOLDER) == {"VIPs_1.csv"}
    assert found.named_in(FOLDER.replace("0615", "0815")) == frozenset()


@pytest.mark.parametrize(
    "change", [str.lower, str.upper, lambda path: unicodedata.normalize("NFD", path)]
)
def test_locations_are_compared_without_regard_to_case_and_to_how_accents_are_written(
    change: Callable[[str], str],
):
    folder = FOLDER.replace("VIPs", "Évry")
    settings = {"delimiter": ";"}
    found = parsed(
        model(settings, location=HOST + change(folder + "Évry_1.csv"), name=change("Évry")), "Évry"
    )
    assert found
    assert found.named_in(folder) == {change("Évry_1.csv")}
    assert found.dialect_of(folder + "Évry_1.csv").delimiter == ";"


def entry(path: str, **settings: Any) -> dict[str, Any]:
    return {"name": path, "location": HOST + path, "fileFormatSettings": settings}


@pytest.mark.parametrize(
    ("path", "delimiter"),
    [
        ("D/VIPs/2026/03/14/0615/VIPs_1.csv", ";"),  # its own entry
        ("D/VIPs/2026/03/15/0615/VIPs_2.csv", "\t"),  # that of an older refresh
        ("D/VIPs/2026/03/15/0615/VIPs_1.csv", None),  # those of two older refreshes, which differ
        ("home/ada/VIPs/2026/03/14/0615/VIPs_1.csv", ";"),  # a copy of the folder
        ("home/ada/vips_2.csv", "\t"),  # a copy of the file, in another case
        ("home/ada/VIPs_1.csv", None),  # two entries have its name, and differ
        ("home/ada/VIPs_9.csv", None),  # no entry has its name, and all differ
        ("VIPs_2.csv.csv", None),  # a part of a name does not count
    ],
)
def test_a_partition_is_written_as_the_entry_with_the_longest_common_end_says(
    path: str, delimiter: str | None
):
    entries = [
        entry("D/VIPs/2026/03/14/0615/VIPs_1.csv", delimiter=";"),
        entry("D/VIPs/2026/03/13/0615/VIPs_1.csv", delimiter="|"),
        entry("D/VIPs/2026/03/14/0615/VIPs_2.csv", delimiter="\t"),
    ]
    for some in (entries, entries[::-1]):
        found = parsed(model(partitions=some))
        assert found
        assert found.dialect_of(path).delimiter == delimiter
        assert found.dialect_of(path).columns == ("CustomerId", "EMail")


def test_a_partition_without_an_entry_is_written_as_all_entries_agree():
    entries = [entry(f"D/VIPs/VIPs_{number}.csv", delimiter=";") for number in (1, 2)]
    found = parsed(model(partitions=entries))
    assert found
    assert found.dialect_of("another.csv").delimiter == ";"
    without = parsed(model(partitions=[]))
    assert without
    assert without.dialect_of("another.csv") == Dialect(columns=("CustomerId", "EMail"))


# A model.json that is not where the layout has it


@pytest.mark.parametrize("name", ["VIPs", "Something else"])
def test_a_table_is_found_by_the_location_of_its_partitions(name: str):
    data = json.dumps(model({"delimiter": ";"}, name=name)).encode()
    blob = FOLDER + "VIPs_1.csv"
    found = table_of_blobs(data, ["other.csv", blob], container="klaviyo-feed")
    assert found
    assert found.dialect_of(blob).delimiter == ";"
    assert located_blobs(data, container="klaviyo-feed") == {blob}


@pytest.mark.parametrize(
    ("location", "container"),
    [
        (HOST + FOLDER + "VIPs_2.csv", "klaviyo-feed"),
        (HOST + FOLDER + "VIPs_1.csv", "another-container"),
        (None, "klaviyo-feed"),
    ],
)
def test_a_table_is_not_found_by_files_that_are_not_its_own(location: Any, container: str):
    data = json.dumps(model(location=location)).encode()
    assert table_of_blobs(data, [FOLDER + "VIPs_1.csv"], container=container) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"entities": [1, {}]}'])
def test_no_model_locates_nothing(data: bytes):
    assert located_blobs(data) == frozenset()
    assert table_of_blobs(data, ["a.csv"]) is None


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        ({"attributes": None}, ()),
        ({"attributes": []}, ()),
        ({"attributes": "EMail"}, ()),
        (
            {"attributes": [{"name": "a"}, {"dataType": "string"}]},
            (),
        ),  # a nameless column: which one is which?
        ({"attributes": [{"name": ""}, {"name": "b"}]}, ()),
        ({"attributes": [{"name": "a"}, {"Name": " B "}, {"NAME": 7}]}, ("a", "B", "7")),
        ({"attributes": [{"name": "\ud800x"}]}, ("?x",)),
        ({"attributes": [{"name": "a\"b'; --"}]}, ("a\"b'; --",)),
    ],
)
def test_columns_are_names_or_not_known(change: dict[str, Any], columns: tuple[str, ...]):
    found = parsed(model(**change))
    assert found
    assert found.columns == columns
    assert found.dialect_of("x").columns == (columns or None)


def test_table_is_found_under_any_spelling():
    document = model()
    assert parsed(document, "vips")
    assert parsed({"Tables": document["entities"]})
    assert parsed({"entities": [], "tables": document["entities"]})
    assert parsed({"entities": [{"name": "Other"}], "tables": document["entities"]})
    assert parsed({"entities": [None, 5, "VIPs", {"name": "Other"}, *document["entities"]]})
    assert parsed(
        {**document, "annotations": [{"name": "x:y"}], "pbi:mashup": {}, "referenceModels": None}
    )


@pytest.mark.parametrize(
    "document", [None, 5, "x", [], {}, {"entities": None}, {"entities": {"name": "VIPs"}}]
)
def test_table_that_is_not_there_is_none(document: Any):
    assert parsed(document) is None
    assert parsed(model(), "VIP") is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_any_unicode_encoding_is_understood(encoding: str):
    data = json.dumps(model(name="Kunden-Ä"), ensure_ascii=False).encode(encoding)
    assert parse_table(data, "kunden-ä")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"{",
        b"\xff\xfe",
        b"\xff\xfe\x00",
        b"null",
        b"{}" * 2,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xef\xbb\xbf",
        b'{"entities": [' + b"9" * 5000 + b"]}",
        b'{"entities": NaN}',
        b"PK\x03\x04",
        b"<html>",
    ],
)
def test_what_is_no_model_says_nothing(data: bytes):
    assert parse_table(data, "VIPs") is None


@settings(max_examples=150)
@given(data=st.binary(max_size=200), cut=st.integers(0, 900), at=st.integers(0, 900))
def test_damaged_model_never_raises(data: bytes, cut: int, at: int):
    whole = json.dumps(model()).encode()
    parse_table(data, "VIPs", container="klaviyo-feed")
    parse_table(whole[:at] + data + whole[at + cut :], "VIPs", container="klaviyo-feed")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(
    [
        "entities",
        "tables",
        "name",
        "attributes",
        "partitions",
        "location",
        "fileFormatSettings",
        "columnHeaders",
        "delimiter",
        "encoding",
        "quoteStyle",
    ]
)
odd_models = st.recursive(
    values | st.just("VIPs"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=150)
@given(odd_models)
def test_model_of_any_shape_never_raises_and_gives_text_that_can_be_stored(document: Any):
    for root in (
        document,
        {"entities": [{"name": "VIPs", "attributes": document, "partitions": document}]},
    ):
        found = parse_table(json.dumps(root).encode(), "VIPs")
        if found:
            json.dumps(
                [found.columns, dict.fromkeys(found.partitions)], ensure_ascii=False
            ).encode()
            for path in found.partitions:
                one = found.dialect_of(path)
                f"{one.delimiter}{one.encoding}{one.columns}".encode()
            found.named_in("x/")


names = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10)
    .map(str.strip)
    .filter(bool)
)


@settings(max_examples=100)
@given(
    table=names,
    columns=st.lists(names, max_size=5),
    files=st.lists(names.filter(lambda name: "/" not in name), max_size=4, unique=True),
    header=st.sampled_from([None, True, False]),
    delimiter=st.sampled_from([None, ",", ";", "\t", "|"]),
    encoding=st.sampled_from([None, "UTF-8", "windows-1252"]),
)
def test_model_round_trip(table, columns, files, header, delimiter, encoding):
    settings = {"columnHeaders": header, "delimiter": delimiter, "encoding": encoding}
    document = {
        "entities": [
            {"name": "another"},
            {
                "name": table,
                "attributes": [{"name": name, "dataType": "string"} for name in columns],
                "partitions": [
                    {
                        "name": name,
                        "location": HOST + quote(FOLDER + name),
                        "fileFormatSettings": settings,
                    }
                    for name in files
                ],
            },
        ]
    }
    found = parsed(document, table)
    if table.casefold() == "another":
        return
    assert found
    assert found.columns == tuple(columns)
    assert found.named_in(FOLDER) == set(files)
    for name in files:
        assert found.dialect_of(FOLDER + name) == Dialect(
            columns=tuple(columns) or None,
            has_header=header,
            delimiter=delimiter,
            encoding=encoding,
        )


def test_table_of_exactly_this_name_wins_over_one_that_differs_in_case():
    tables = [
        {"name": name, "attributes": [{"name": column}]}
        for name, column in (("highvalue", "a"), ("HighValue", "b"))
    ]
    data = json.dumps({"entities": tables}).encode()
    for name, columns in (("HighValue", ("b",)), ("highvalue", ("a",))):
        table = parse_table(data, name)
        assert table is not None
        assert table.columns == columns
    assert parse_table(data, "HIGHVALUE") is None, "nothing says which of the two it is"
