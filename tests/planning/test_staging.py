"""Partitions of any format, size and column order are staged, or refused with a reason."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.definitions.mapping import parse_mapping
from exporter.errors import (
    ConfigError,
    MappingError,
    SnapshotUnreadable,
)
from exporter.planning.planner import PlanLimits, make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.reading.dialect import Dialect
from exporter.reading.source import PartitionSource
from tests.planning.planned import planned


@pytest.mark.parametrize(
    ("of_model", "of_mapping", "sent"),
    [
        (None, None, None),
        ("en-GB", None, {"born": "1986-08-05"}),
        ("de-DE", None, {"born": "1986-08-05", "value": 1.5}),
        ("en-US", "de-DE", {"born": "1986-08-05", "value": 1.5}),
        ("de-DE", "en-US", {"born": "1986-05-08"}),
    ],
)
def test_culture_is_that_of_the_mapping_else_that_of_the_model(of_model, of_mapping, sent):
    rules = {
        "born": {"column": "Born", "type": "date"},
        "value": {"column": "Value", "type": "number"},
    }
    mapping = {"email": "EMail", "properties": rules, "culture": of_mapping}
    file = 'EMail,Born,Value\na@x.co,05/08/1986,"1,5"\n'
    with planned({"1.csv": file}, mapping, dialects={"1.csv": Dialect(culture=of_model)}) as found:
        assert [profile.get("properties") for profile in found.attributes()] == [sent]
        assert found.plan.sources[0].culture == (of_mapping or of_model or "")


def test_pieces_are_deleted_as_soon_as_they_are_staged(tmp_path: Path):
    most = 0

    def look(_: Path) -> None:
        nonlocal most
        most = max(most, len(list((tmp_path / "work").iterdir())))

    source = PartitionSource(name="1.csv", open=lambda: [b"EMail\n" + b"a@x.co\n" * 1_000])
    plan = make_plan(
        [source],
        parse_mapping({"email": "EMail"}),
        tmp_path,
        limits=PlanLimits(piece_bytes=500),
        finished_file=look,
    )
    assert len(plan.pieces) > 10
    assert most <= 4


# What cannot be planned


def test_missing_column_is_said_with_those_that_are_known_to_be_there():
    declared = {"1.csv": Dialect(columns=("Mail", "Name"), has_header=True)}
    with (
        pytest.raises(MappingError) as caught,
        planned({"1.csv": "Mail,Name\na@x.co,Ada\n"}, dialects=declared),
    ):
        pass
    assert caught.value.message == "1.csv has no column 'EMail'"
    assert "'Mail', 'Name'" in caught.value.hint


def test_first_line_that_may_be_a_person_is_not_shown_when_a_column_is_missing():
    with (
        pytest.raises(MappingError) as caught,
        planned({"1.csv": "C-1,Ada,Popescu\nC-2,Bo,Lind\n"}),
    ):
        pass
    assert "Ada" not in str(caught.value) + caught.value.hint
    with pytest.raises(MappingError), planned({"1.csv": "Mail,Name\n"}):
        pass


@pytest.mark.parametrize(
    ("second", "properties"),
    [
        ("EMail,A,C\nb@x.co,1,2\n", {"A": "1", "C": "2"}),
        ("EMail,A\nb@x.co,1\n", {"A": "1"}),
        ("EMail,A,B,C\nb@x.co,1,2,3\n", {"A": "1", "B": "2", "C": "3"}),
        ("C,EMail,a,D\n3,b@x.co,1,4\n", {"A": "1", "C": "3", "D": "4"}),
    ],
)
def test_where_all_columns_are_sent_they_are_those_of_all_partitions(
    second: str, properties: dict[str, str]
):
    first, third = "EMail,A,B\na@x.co,1,2\n", "B,EMail,A\n2,c@x.co,1\n"
    files = {"1.csv": first, "2.csv": second, "3.csv": third, "4.csv": first.replace("a@", "d@")}
    with planned(files, {"email": "EMail", "properties": "*"}) as found:
        others = {"A": "1", "B": "2"}
        assert {one["email"]: one["properties"] for one in found.attributes()} == {
            "a@x.co": others,
            "b@x.co": properties,
            "c@x.co": others,
            "d@x.co": others,
        }
        notes = [note.header for note in found.plan.sources]
        assert ("It lacks" in notes[1]) == ("B" not in properties)
        assert ("columns more than" in notes[1]) == bool({"C", "D"} & set(properties))


def test_names_that_differ_in_case_stay_two_properties_in_every_partition():
    files = {
        "1.csv": "EMail,Tier,TIER\na@x.co,1,2\n",
        "2.csv": "EMail,TIER,Tier\nb@x.co,2,1\n",
        "3.csv": "EMail,tier\nc@x.co,3\n",
    }
    with planned(files, {"email": "EMail", "properties": "*"}) as found:
        assert [one["properties"] for one in found.attributes()] == [
            {"Tier": "1", "TIER": "2"},
            {"Tier": "1", "TIER": "2"},
            {"tier": "3"},
        ]


def test_batch_of_pieces_with_other_columns_is_whole():
    mapping = {"email": "EMail", "properties": "*"}
    files = {
        f"{number}.csv": f"EMail,P{number % 3}\n"
        + "".join(f"u{number}-{row}@x.co,v\n" for row in range(30))
        for number in range(6)
    }
    with planned(files, mapping, limits=PlanLimits(batch_profiles=50, block_profiles=10)) as found:
        profiles = found.attributes()
        assert len(profiles) == 180
        for profile in profiles:
            number = int(profile["email"][1])
            assert profile["properties"] == {f"P{number % 3}": "v"}


def test_exact_name_of_the_address_wins():
    with planned({"1.csv": "email,EMail\nother@example.com,ada@example.com\n"}) as found:
        assert [one["email"] for one in found.attributes()] == ["ada@example.com"]
    with (
        pytest.raises(MappingError, match=r"1\.csv .*'Email' fits 'email', 'EMail'"),
        planned({"1.csv": "email,EMail\na@x.co,b@x.co\n"}, {"email": "Email"}),
    ):
        pass


def test_encoding_of_the_mapping_counts_for_more_than_that_of_the_model():
    data = "EMail,Name\na@x.co,Málaga\n".encode("cp1252")
    dialects = {"1.csv": Dialect(encoding="UTF-8")}
    mapping = {"email": "EMail", "first_name": "Name"}
    for more in ({"encoding": "windows-1252"}, {"culture": "de-DE"}):
        with planned({"1.csv": data}, {**mapping, **more}, dialects=dialects) as found:
            assert [one["first_name"] for one in found.attributes()] == ["Málaga"]
            assert found.plan.sources[0].encoding == "cp1252"
    with planned({"1.csv": data}, mapping, dialects=dialects) as found:
        assert found.rejections() == [("1.csv", 2, "bad_encoding")]
        assert "windows-1252" in found.plan.sources[0].header


def test_rows_that_have_drifted_are_staged_and_noted():
    columns = ("EMail", "A", "New")
    dialects = {"1.csv": Dialect(columns=columns, has_header=False)}
    files = {"1.csv": 'a@x.co,"1\n2"\nb@x.co,3\n'}
    with planned(files, {"email": "EMail", "properties": "*"}, dialects=dialects) as found:
        assert [one["properties"] for one in found.attributes()] == [{"A": "1\n2"}, {"A": "3"}]
        assert "2 of the 3 columns" in found.plan.sources[0].header


def test_partitions_may_have_their_columns_in_another_order_even_where_all_are_sent():
    files = {"1.csv": "EMail,A,B\na@x.co,1,2\n", "2.csv": "B,EMail,A\n4,b@x.co,3\n"}
    with planned(files, {"email": "EMail", "properties": "*"}) as found:
        assert found.attributes() == [
            {"email": "a@x.co", "properties": {"A": "1", "B": "2"}},
            {"email": "b@x.co", "properties": {"A": "3", "B": "4"}},
        ]


# Parquet


def parquet(query: str, *options: str) -> bytes:
    """A Parquet file of what a query gives."""
    with TemporaryDirectory() as folder, duckdb.connect() as database:
        path = Path(folder) / "file.parquet"
        written = ", ".join(["FORMAT parquet", *options])
        database.execute(f"COPY ({query}) TO '{path}' ({written})")
        return path.read_bytes()


PARQUET_CELLS = {
    "'plain'": "plain",
    "5::TINYINT": "5",
    "9007199254740993::BIGINT": "9007199254740993",
    "1234567.50::DECIMAL(12,2)": "1234567.50",
    "5.0::DOUBLE": "5",
    "0.1::FLOAT": "0.1",
    "'NaN'::DOUBLE": None,
    "true": "true",
    "NULL::INTEGER": None,
    "''": None,
    "DATE '1986-05-08'": "1986-05-08",
    "TIMESTAMP '1986-05-08 01:02:03'": "1986-05-08T01:02:03",
    "TIMESTAMP_MS '1986-05-08 01:02:03.5'": "1986-05-08T01:02:03.5",
    "TIMESTAMPTZ '1986-05-08 01:02:03+02'": "1986-05-07T23:02:03Z",
    "TIME '01:02:03'": "01:02:03",
    "'1b4e28ba-2fa1-11d2-883f-0016d3cca427'::UUID": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "'x'::ENUM('x', 'y')": "x",
    "'text'::BLOB": "text",
    "'\\xFF\\xFE'::BLOB": None,
    "[1, 2]": "[1,2]",
    "['a', NULL, '\"']": '["a",null,"\\""]',
    "{'a': 1, 'b': [true], 'c': DATE '2020-01-02'}": '{"a":1,"b":[true],"c":"2020-01-02"}',
    "MAP {'k': 'v'}": '{"k":"v"}',
    "'l1' || chr(10) || 'l2'": "l1\nl2",
    "'a' || chr(0) || 'b'": "ab",
}


def test_parquet_cells_become_text():
    columns = ", ".join(f"{sql} AS c{position}" for position, sql in enumerate(PARQUET_CELLS))
    with planned(
        {"1.parquet": parquet(f"SELECT 'a@x.co' AS EMail, {columns}")},
        {"email": "EMail", "properties": "*"},
    ) as found:
        [attributes] = found.attributes()
        sent = {
            sql: attributes["properties"].get(f"c{position}")
            for position, sql in enumerate(PARQUET_CELLS)
        }
        assert sent == PARQUET_CELLS
        assert found.plan.sources[0].header == "A Parquet file names its columns itself."


def test_typed_parquet_columns_fill_typed_properties():
    query = """SELECT 'a@x.co' AS EMail, 1.5::DOUBLE AS value, true AS vip, ['a', 'b;c'] AS tags,
               DATE '1986-05-08' AS born, TIMESTAMP '2026-01-02 03:04:05.678' AS seen"""
    kinds = {"value": "number", "vip": "boolean", "tags": "list", "born": "date", "seen": "date"}
    rules = {name: {"column": name, "type": kind} for name, kind in kinds.items()}
    with planned({"1.parquet": parquet(query)}, {"email": "EMail", "properties": rules}) as found:
        assert found.attributes()[0]["properties"] == {
            "value": 1.5,
            "vip": True,
            "tags": ["a", "b;c"],
            "born": "1986-05-08",
            "seen": "2026-01-02T03:04:05.678Z",
        }


def test_typed_parquet_columns_need_no_culture():
    rules = {"value": {"column": "Value", "type": "number"}}
    mapping = {"email": "EMail", "properties": rules, "culture": "de-DE"}
    with planned(
        {"1.parquet": parquet("SELECT 'a@x.co' AS EMail, 1.234::DOUBLE AS Value")}, mapping
    ) as found:
        assert [profile["properties"] for profile in found.attributes()] == [{"value": 1.234}]


def test_parquet_rows_are_named_by_their_number_in_any_slice():
    cells = "CASE WHEN i % 4 = 1 THEN 'bad' || chr(10) ELSE 'u' || (i // 2) || '@x.co' END"
    query = f"SELECT {cells} AS EMail FROM range(10) t(i)"
    files = {"1.parquet": parquet(query), "2.csv": "EMail\nU0@x.co\n"}
    with planned(files, limits=PlanLimits(parquet_rows=3)) as found:
        assert found.rejections() == [("1.parquet", line, "email_malformed") for line in (2, 6, 10)]
        assert found.duplicates() == [
            (("1.parquet", 1), ("2.csv", 2)),
            (("1.parquet", 3), ("1.parquet", 4)),
            (("1.parquet", 7), ("1.parquet", 8)),
        ]
        assert [note.rows for note in found.plan.sources] == [10, 1]
        assert len(found.plan.pieces) == 5


def test_lines_are_right_where_only_some_partitions_hold_line_breaks_in_cells():
    files = {
        "1.csv": "EMail,Note\na@x.co,\nbad,\n",
        "2.csv": 'EMail,Note\nb@x.co,"two\nlines"\nbad,"\n\n\n"\nbad,x\n',
        "3.parquet": parquet(
            "SELECT unnest(['c@x.co', 'bad']) AS EMail, 'two' || chr(10) || 'lines' AS Note"
        ),
        "4.csv": 'EMail,Note\r\nd@x.co,"two\r\nlines"\r\nbad,\r\n',
        "5.csv": "EMail,Note\ne@x.co,\nbad,\n",
    }
    with planned(files) as found:
        places = [(name, line) for name, line, _ in found.rejections()]
        assert places == [
            ("1.csv", 3),
            ("2.csv", 4),
            ("2.csv", 8),
            ("3.parquet", 2),
            ("4.csv", 4),
            ("5.csv", 3),
        ]


def test_parquet_is_known_by_its_name_or_its_first_bytes():
    data = parquet("SELECT 'a@x.co' AS \"E Mail\"")
    for file in ({"1.csv": data}, {"1.PARQUET": data}, {"1": [data[:1], data[1:3], b"", data[3:]]}):
        with planned(file, {"email": "e mail"}) as found:
            assert found.attributes() == [{"email": "a@x.co"}]


def test_parquet_without_rows_and_with_odd_names_is_read():
    with planned({"1.parquet": parquet("SELECT 'a@x.co' AS EMail WHERE false")}) as found:
        assert (found.plan.rows, found.plan.sources[0].columns) == (0, ("EMail",))
    query = 'SELECT \'a@x.co\' AS EMail, 1 AS "a""b\'", 2 AS "$x", 3 AS " ", 4 AS "é;"'
    with planned({"1.parquet": parquet(query)}, {"email": "EMail", "properties": "*"}) as found:
        assert found.attributes()[0]["properties"] == {
            "a\"b'": "1",
            "x": "2",
            "column_4": "3",
            "é;": "4",
        }


def damaged_parquet() -> Iterator[bytes]:
    good = parquet(
        "SELECT 'u' || i || '@x.co' AS EMail, md5(i::VARCHAR) AS hash FROM range(5000) t(i)"
    )
    yield good[:-1]
    yield good[: len(good) // 2]
    yield good[:8]
    yield good[:20_000] + bytes(2_000) + good[22_000:]
    yield good[:-8] + bytes(4) + good[-4:]
    yield b""
    yield b"PAR1"
    yield b"EMail\na@x.co\n"


def test_damaged_parquet_is_unreadable():
    for number_, data in enumerate(damaged_parquet()):
        with (
            pytest.raises(SnapshotUnreadable) as caught,
            planned({"1.parquet": data}, {"email": "EMail", "properties": "*"}),
        ):
            pytest.fail(f"file {number_} was read")
        assert "x.co" not in caught.value.message
        assert caught.value.hint


@settings(max_examples=5, deadline=None)
@given(at=st.integers(0, 3_000), junk=st.binary(min_size=1, max_size=40))
def test_parquet_with_junk_in_it_is_unreadable_or_adds_up(at: int, junk: bytes):
    good = parquet(
        "SELECT 'u' || i || '@x.co' AS EMail, md5(i::VARCHAR) AS hash FROM range(50) t(i)"
    )
    at %= len(good)
    try:
        with planned({"1.parquet": good[:at] + junk + good[at + len(junk) :]}) as found:
            found.profiles()
    except (SnapshotUnreadable, MappingError):
        pass


def test_big_parquet_is_planned_in_little_memory():
    cells = (
        "'user' || i || '@example.com' AS EMail, md5(i::VARCHAR) AS a, repeat('x', 200) || i AS b"
    )
    data = parquet(f"SELECT {cells} FROM range(150000) t(i)", "ROW_GROUP_SIZE 20480")
    with planned(
        {"1.parquet": data},
        {"email": "EMail", "properties": {"a": "a"}},
        limits=PlanLimits(memory_mb=64),
    ) as found:
        assert (found.plan.rows, found.plan.profiles, len(found.plan.batches)) == (
            150_000,
            150_000,
            15,
        )


def test_parquet_whose_row_groups_do_not_fit_says_so():
    cells = "'user' || i || '@example.com' AS EMail, repeat(md5(i::VARCHAR), 20) AS note"
    data = parquet(f"SELECT {cells} FROM range(120000) t(i)", "ROW_GROUP_SIZE 122880")
    mapping = {"email": "EMail", "properties": {"note": "note"}}
    with (
        pytest.raises(ConfigError, match="MEMORY_MB") as refused,
        planned({"1.parquet": data}, mapping, limits=PlanLimits(memory_mb=32)),
    ):
        pass
    assert "row group" in refused.value.hint


MEMORY_MB = PlanLimits().memory_mb


def wide(columns: int, rows: int) -> bytes:
    header = ",".join(["EMail", *(f"Column{number}" for number in range(1, columns))])
    lines = (f"u{row}@x.co" + ",value" * (columns - 1) for row in range(rows))
    return "\n".join([header, *lines]).encode()


def long(cells: int, bytes_each: int) -> bytes:
    return "\n".join(
        ["EMail,Note", *(f"u{row}@x.co,{'x' * bytes_each}" for row in range(cells))]
    ).encode()


@pytest.mark.parametrize(
    ("data", "properties", "profiles"),
    [
        (wide(80, 12_000), "*", 12_000),
        (wide(300, 12_000), {"one": "Column1"}, 12_000),
        (long(30_000, 2_000), "*", 30_000),
        (long(300, 90_000), "*", 300),
        (long(3, 9_000_000), "*", 0),
    ],
    ids=["80 fields", "300 columns", "2 KB cells", "90 KB cells", "9 MB cells"],
)
def test_wide_and_long_rows_are_planned_in_the_memory_that_is_the_default(
    data: bytes, properties: object, profiles: int
):
    with planned(
        {"1.csv": data},
        {"email": "EMail", "properties": properties},
        limits=PlanLimits(memory_mb=MEMORY_MB),
    ) as found:
        assert found.plan.profiles == profiles
        assert found.plan.rejected == ({} if profiles else {"profile_too_large": 3})
        reader = PlanReader(found.plan, found.folder, list_id="Y6nRLr", memory_mb=MEMORY_MB)
        sizes = [len(reader.body(each)) for each in found.plan.batches]
        assert max(sizes, default=0) < 5_000_000


@pytest.mark.parametrize(
    ("columns", "rows"), [(200, 1), (100, 20_000), (200, 6_000), (1_000, 3), (1_000, 2_000)]
)
def test_hundreds_of_properties_are_planned_in_the_memory_that_is_the_default(
    columns: int, rows: int
):
    with planned(
        {"1.csv": wide(columns, rows)},
        {"email": "EMail", "properties": "*"},
        limits=PlanLimits(memory_mb=MEMORY_MB),
    ) as found:
        assert found.plan.profiles == rows
        reader = PlanReader(found.plan, found.folder, list_id="Y6nRLr", memory_mb=MEMORY_MB)
        for batch in found.plan.batches:
            profiles = json.loads(reader.body(batch))["data"]["attributes"]["profiles"]["data"]
            wanted = {f"Column{number}": "value" for number in range(1, columns)}
            assert all(each["attributes"]["properties"] == wanted for each in profiles)


def test_cost_of_a_byte_does_not_jump_where_rows_become_long():
    """100 columns of 1,851 bytes a row beside 2,215, where pieces are smaller."""
    used = []
    for cell in (17, 21):
        header = ",".join(["EMail", *(f"Column{number}" for number in range(1, 100))])
        rest = f",{'v' * cell}" * 99
        data = "\n".join([header, *(f"u{row}@example.com{rest}" for row in range(8_000))])
        mapping = {"email": "EMail", "properties": "*"}
        costs = []
        for _ in range(2):
            started = time.process_time()
            with planned({"1.csv": data}, mapping):
                costs.append(time.process_time() - started)
        used.append(min(costs) / len(data))
    assert used[1] < 2 * used[0]


def test_too_little_memory_says_which_setting_to_raise():
    snapshot = {"1.csv": wide(300, 3_000)}
    names = [f"Column{number}" for number in range(1, 300)]
    rules = {name: {"column": name, "type": "number"} for name in names}
    with (
        pytest.raises(ConfigError, match="MEMORY_MB"),
        planned(snapshot, {"email": "EMail", "properties": rules}, limits=PlanLimits(memory_mb=32)),
    ):
        pass
