"""The maker writes Customer Insights' layouts and knows exactly what it has planted.

Files are read back with the standard library's csv module, which knows nothing of the maker.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import phonenumbers
import pytest
from azure.storage.blob import BlobServiceClient

from exporter.definitions.mapping import parse_mapping
from exporter.planning.plan import REJECTED_CSV
from exporter.planning.planner import make_plan
from exporter.reading.source import PartitionSource
from sandbox import snapshots
from sandbox.azurite import running_azurite
from sandbox.snapshots import (
    Column,
    ContainerWriter,
    FolderWriter,
    Kind,
    Layout,
    Outcome,
    Snapshot,
    extra_cell,
    write_snapshot,
)
from sandbox.snapshots.spoiling import BAD_PHONES

USUAL_EMAIL = re.compile(r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}")
EMAIL_KINDS = [kind for kind in Kind if kind.startswith("email-")]
FOLDER = "CustomerInsights_0f3c1a52-7d1e-4b0a-9c55-2f6a9b7e1d10/KlaviyoFeed"


def content(snapshot: Snapshot, partition: int = 1) -> bytes:
    return b"".join(snapshot.chunks(partition))


def records(snapshot: Snapshot) -> Iterator[dict[str, str]]:
    for partition in range(1, snapshot.partitions + 1):
        text = content(snapshot, partition).decode(snapshot.encoding)
        yield from csv.DictReader(
            io.StringIO(text, newline=""), delimiter=snapshot.delimiter, strict=True
        )


def line_of(snapshot: Snapshot, partition: int, line: int) -> bytes:
    return content(snapshot, partition).split(b"\n")[line - 1]


# --- people ---------------------------------------------------------------------------------------


def test_every_row_comes_back_as_expected_through_a_csv_reader():
    snapshot = Snapshot(rows=10_000, partitions=3)
    for record, profile in zip(records(snapshot), snapshot.expected_profiles(), strict=True):
        record["EMail"] = record["EMail"].lower()
        record["Telephone"] = record["Telephone"].replace(" ", "")
        assert [value or None for value in record.values()] == list(profile)


def test_addresses_and_customers_are_unique_and_addresses_are_synthetic():
    profiles = list(Snapshot(rows=20_000).expected_profiles())
    emails = {profile.email or "" for profile in profiles}
    assert len(emails) == len({profile.customer_id for profile in profiles}) == 20_000
    assert {email.partition("@")[2] for email in emails} == {
        "example.com",
        "example.org",
        "example.net",
    }
    assert all(USUAL_EMAIL.fullmatch(email) for email in emails)


def test_customer_ids_are_32_hex_digits():
    assert all(
        re.fullmatch("[0-9a-f]{32}", profile.customer_id or "")
        for profile in Snapshot(rows=50).expected_profiles()
    )


def test_phone_numbers_are_valid_and_unique():
    numbers = [
        profile.phone_number
        for profile in Snapshot(rows=20_000).expected_profiles()
        if profile.phone_number
    ]
    assert len(set(numbers)) == len(numbers) > 10_000
    assert {
        number for number in numbers if not phonenumbers.is_valid_number(phonenumbers.parse(number))
    } == set()


def test_rows_hold_what_makes_csv_hard():
    text = content(Snapshot(rows=10_000)).decode()
    for sample in (
        "Ștefan",
        '"Noah ""Noe"""',
        '"Smith, Jr."',
        '"Malmö, Skåne"',
        '"Bern\nAltstadt"',
        ",,",
    ):
        assert sample in text


def test_a_row_is_about_as_long_as_a_real_one():
    assert 100 < len(content(Snapshot(rows=10_000))) / 10_000 < 120


def test_same_seed_gives_same_bytes_and_another_seed_others():
    assert content(Snapshot(rows=500)) == content(Snapshot(rows=500))
    assert content(Snapshot(rows=500)) != content(Snapshot(rows=500, seed=2))


def test_partitions_hold_the_same_rows_as_one_file():
    whole = list(records(Snapshot(rows=10_000)))
    assert list(records(Snapshot(rows=10_000, partitions=7))) == whole


def test_later_snapshot_shares_the_people_whose_numbers_it_shares():
    before = set(Snapshot(rows=5000).expected_profiles())
    after = set(Snapshot(rows=5000, first=300).expected_profiles())
    assert (len(before - after), len(after - before)) == (300, 300)


def test_every_kth_person_changes_and_nobody_else():
    before = list(Snapshot(rows=5000, first=10).expected_profiles())
    after = list(Snapshot(rows=5000, first=10, changed_every=50).expected_profiles())
    changed = [
        index + 10 for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new
    ]
    assert changed == list(range(50, 5010, 50))


def test_memory_does_not_grow_with_the_rows():
    assert _peak_of_writing(80_000) < 1.2 * _peak_of_writing(30_000)


def _peak_of_writing(rows: int) -> int:
    content(Snapshot(rows=10))  # tables are made once
    tracemalloc.start()
    try:
        for _ in Snapshot(rows=rows, bad={Kind.EMAIL_BLANK: 5}).chunks(1):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- layouts and formats --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "partitions", "paths"),
    [
        (
            Layout.DATED,
            2,
            [
                f"{FOLDER}/HighValue/2026/03/14/0615/HighValue_1.csv",
                f"{FOLDER}/HighValue/2026/03/14/0615/HighValue_2.csv",
                f"{FOLDER}/model.json",
            ],
        ),
        (Layout.DATED_NO_MODEL, 1, [f"{FOLDER}/HighValue/2026/03/14/0615/HighValue_1.csv"]),
        (Layout.UNDATED, 1, ["Dynamics365CustomerInsights/Export/HighValue/HighValue_1.csv"]),
        (Layout.MAPPED, 1, [f"{FOLDER}_HighValue_1773468900.csv"]),
        (Layout.SINGLE, 1, ["HighValue.csv"]),
    ],
)
def test_layout_puts_files_where_customer_insights_does(
    layout: Layout, partitions: int, paths: list[str], tmp_path: Path
):
    snapshot = Snapshot(rows=5, partitions=partitions, layout=layout)
    assert write_snapshot(snapshot, FolderWriter(tmp_path)) == paths
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == sorted(
        paths
    )


def test_model_names_exactly_the_files_and_their_format():
    snapshot = Snapshot(rows=5, partitions=3, header=False, delimiter=";", encoding="utf-16")
    *files, model = snapshot.files()
    entity = json.loads(b"".join(model.chunks))["entities"][0]
    assert [entry["location"] for entry in entity["partitions"]] == [
        f"https://examplestorage.blob.core.windows.net/klaviyo-feed/{file.path}" for file in files
    ]
    assert [attribute["name"] for attribute in entity["attributes"]] == [
        column.value for column in Column
    ]
    assert entity["partitions"][0]["fileFormatSettings"] == {
        "$type": "CsvFormatSettings",
        "columnHeaders": False,
        "delimiter": ";",
        "quoteStyle": "QuoteStyle.Csv",
        "csvStyle": "CsvStyle.QuoteAlways",
        "encoding": "UTF-16",
    }


def test_model_can_leave_the_format_out():
    entity = Snapshot(rows=1, format_settings=False).model()["entities"][0]  # type: ignore[index]
    assert "fileFormatSettings" not in entity["partitions"][0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("line_ending", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_format_can_be_read_back(encoding: str, line_ending: str, delimiter: str):
    snapshot = Snapshot(rows=6000, encoding=encoding, line_ending=line_ending, delimiter=delimiter)
    assert content(snapshot).decode(encoding).count(line_ending) >= 6001
    assert [row["EMail"].lower() for row in records(snapshot)] == [
        row.email for row in snapshot.expected_profiles()
    ]


def test_byte_order_mark_comes_once():
    assert content(Snapshot(rows=9000, encoding="utf-8-sig")).count(b"\xef\xbb\xbf") == 1
    assert content(Snapshot(rows=9000, encoding="utf-16")).decode("utf-16").count("\ufeff") == 0


def test_columns_are_chosen_ordered_and_renamed():
    snapshot = Snapshot(
        rows=1, columns={Column.EMAIL: "emailaddress1", Column.FIRST_NAME: "First, name"}
    )
    header, row, _ = content(snapshot).decode().split("\n")
    profile = next(snapshot.expected_profiles())
    assert header == 'emailaddress1,"First, name"'
    assert row.lower() == f"{profile.email},{profile.first_name}".lower()
    assert profile.city is None


def test_empty_segment_still_has_a_header_in_each_partition():
    snapshot = Snapshot(rows=0, partitions=2)
    assert content(snapshot, 2) == b",".join(column.value.encode() for column in Column) + b"\n"
    assert list(snapshot.expected_profiles()) == list(snapshot.planted()) == []


def test_header_can_be_left_out():
    assert content(Snapshot(rows=3)) == content(Snapshot(rows=0)) + content(
        Snapshot(rows=3, header=False)
    )


# --- planted rows ---------------------------------------------------------------------------------

ALL_KINDS = dict.fromkeys(Kind, 3)


def test_every_wanted_row_is_planted_once():
    planted = list(Snapshot(rows=10_000, partitions=4, bad=ALL_KINDS).planted())
    assert Counter(row.kind for row in planted) == ALL_KINDS
    assert len({(row.path, row.line) for row in planted}) == len(planted)


def test_rows_add_up_to_expected_and_planted():
    snapshot = Snapshot(rows=10_000, partitions=4, bad=ALL_KINDS)
    not_delivered = [row for row in snapshot.planted() if row.outcome is not Outcome.WITHOUT_PHONE]
    assert len(list(snapshot.expected_profiles())) + len(not_delivered) == 10_000


@pytest.mark.parametrize("header", [True, False])
def test_planted_line_is_where_the_row_starts(header: bool):
    """Rows with line breaks stand before most of them, so counting rows would be wrong."""
    snapshot = Snapshot(
        rows=20_000, partitions=3, bad=dict.fromkeys(EMAIL_KINDS, 20), header=header
    )
    lines = {
        partition: content(snapshot, partition).decode().split("\n") for partition in (1, 2, 3)
    }
    for row in snapshot.planted():
        line = lines[row.partition][row.line - 1]
        assert re.match("[0-9a-f]{32},", line)
        assert f",{row.email}," in line


@pytest.mark.parametrize("header", [True, False])
def test_planted_record_counts_rows_whatever_their_lines(header: bool):
    snapshot = Snapshot(rows=6000, partitions=2, bad={Kind.EMAIL_NO_AT: 20}, header=header)
    emails = {}
    for partition in (1, 2):
        rows = csv.reader(io.StringIO(content(snapshot, partition).decode(), newline=""))
        emails |= {(partition, number): row[3] for number, row in enumerate(rows, start=1)}
    for row in snapshot.planted():
        assert emails[row.partition, row.record] == row.email


def test_planting_leaves_every_other_row_alone():
    clean = content(Snapshot(rows=5000)).split(b"\n")
    dirty = content(Snapshot(rows=5000, bad={Kind.RAGGED_LONG: 4, Kind.BAD_PHONE: 4})).split(b"\n")
    assert sum(old != new for old, new in zip(clean, dirty, strict=True)) == 8


def test_planted_addresses_are_as_their_kind_says():
    snapshot = Snapshot(rows=2000, partitions=2, bad=dict.fromkeys(Kind, 1))
    emails = {row.kind: row.email or "" for row in snapshot.planted()}
    assert emails[Kind.EMAIL_BLANK] == ""
    assert len(emails[Kind.EMAIL_TOO_LONG]) > 100
    for kind in set(EMAIL_KINDS) - {Kind.EMAIL_TOO_LONG}:
        assert not USUAL_EMAIL.fullmatch(emails[kind]), kind
    for kind in (Kind.KLAVIYO_ASYNC, Kind.KLAVIYO_SYNC):
        assert USUAL_EMAIL.fullmatch(emails[kind]), kind
    assert "+async-fail@" in emails[Kind.KLAVIYO_ASYNC]
    assert re.match(r"refused-by-klaviyo\..*\+sync-fail@", emails[Kind.KLAVIYO_SYNC])


@pytest.mark.parametrize("kind", [Kind.DUPLICATE, Kind.DUPLICATE_ACROSS])
def test_duplicate_repeats_an_earlier_row_in_another_case(kind: Kind):
    snapshot = Snapshot(rows=9000, partitions=3, bad={kind: 10})
    partition_of = {snapshot.path(partition): partition for partition in (1, 2, 3)}
    for row in snapshot.planted():
        assert row.repeats is not None
        path, line = row.repeats
        assert (path == row.path) == (kind is Kind.DUPLICATE)
        original = line_of(snapshot, partition_of[path], line).decode().split(",")
        copy = line_of(snapshot, row.partition, row.line).decode().split(",")
        assert row.email is not None
        assert row.email.isupper()
        assert [cell.casefold() for cell in copy[1:]] == [cell.casefold() for cell in original[1:]]
    emails = [profile.email for profile in snapshot.expected_profiles()]
    assert len(emails) == len(set(emails)) == 8990


def test_bad_phone_is_expected_without_phone():
    snapshot = Snapshot(rows=100, bad={Kind.BAD_PHONE: 5})
    expected = {profile.email: profile for profile in snapshot.expected_profiles()}
    for row in snapshot.planted():
        phone = line_of(snapshot, 1, row.line).decode().split(",")[-6]
        assert phone in BAD_PHONES
        assert expected[(row.email or "").lower()].phone_number is None


def test_damage_is_in_the_bytes_of_the_planted_line():
    snapshot = Snapshot(rows=500, partitions=2, bad=dict.fromkeys(Kind, 1))
    found = {row.kind: line_of(snapshot, row.partition, row.line) for row in snapshot.planted()}
    assert b"\0" in found[Kind.NUL_BYTE]
    with pytest.raises(UnicodeDecodeError):
        found[Kind.INVALID_UTF8].decode()
    short, long = csv.reader([found[Kind.RAGGED_SHORT].decode(), found[Kind.RAGGED_LONG].decode()])
    assert (len(short), len(long)) == (8, 11)
    assert found[Kind.UNTERMINATED_QUOTE].count(b'"') % 2 == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Kind.STRAY_QUOTE, "stray_quote"),
        (Kind.BARE_CR, "bare_carriage_return"),
        (Kind.RECORD_TOO_LONG, "too_long"),
        (Kind.PROFILE_TOO_LARGE, "profile_too_large"),
        (Kind.EXTERNAL_ID_TOO_LONG, "external_id_too_long"),
    ],
)
def test_the_exporter_rejects_a_planted_row_for_what_is_wrong_with_it(
    kind: Kind, reason: str, tmp_path: Path
):
    snapshot = Snapshot(rows=50, extra_columns=2, bad={kind: 2})
    source = PartitionSource(name="s", open=lambda: snapshot.chunks(1))
    mapping = parse_mapping({"external_id": "CustomerId", "first_name": "FirstName"})
    plan = make_plan([source], mapping, tmp_path)
    assert (plan.rejected, plan.profiles) == ({reason: 2}, 48)
    with (tmp_path / REJECTED_CSV).open(newline="") as file:
        assert sorted(int(row["line"]) for row in csv.DictReader(file)) == sorted(
            row.line for row in snapshot.planted()
        )


def test_extra_columns_hold_as_much_as_is_wanted():
    snapshot = Snapshot(rows=20, extra_columns=3, cell_length=70, bad={Kind.BAD_PHONE: 1})
    for record in records(snapshot):
        for number in (1, 2, 3):
            assert record[f"Extra{number}"] == extra_cell(record["CustomerId"], number, 70)
            assert len(record[f"Extra{number}"]) == 70
    entity = snapshot.model()["entities"][0]  # type: ignore[index]
    assert [attribute["name"] for attribute in entity["attributes"]] == list(record)


def test_open_quote_stands_in_the_last_row_so_that_it_swallows_no_other():
    snapshot = Snapshot(rows=500, partitions=4, bad={Kind.UNTERMINATED_QUOTE: 4})
    for row in snapshot.planted():
        assert content(snapshot, row.partition).count(b"\n") == row.line


@pytest.mark.parametrize(
    "wrong",
    [
        {"partitions": 0},
        {"rows": -1},
        {"layout": Layout.SINGLE, "partitions": 2},
        {"encoding": "utf-7"},
        {"encoding": "cp1252", "bad": {Kind.INVALID_UTF8: 1}},
        {"columns": {Column.FIRST_NAME: "name"}, "bad": {Kind.EMAIL_BLANK: 1}},
        {"columns": {Column.EMAIL: "mail"}, "bad": {Kind.BAD_PHONE: 1}},
        {"columns": {Column.EMAIL: "mail"}, "bad": {Kind.RAGGED_SHORT: 1}},
        {"columns": {Column.EMAIL: "mail"}, "bad": {Kind.EXTERNAL_ID_TOO_LONG: 1}},
        {"extra_columns": -1},
        {"cell_length": 0},
    ],
)
def test_what_cannot_be_made_is_refused_at_once(wrong: dict):
    with pytest.raises(ValueError):
        Snapshot(**{"rows": 10, **wrong})


@pytest.mark.parametrize(
    "bad", [{Kind.UNTERMINATED_QUOTE: 2}, {Kind.EMAIL_BLANK: 11}, {Kind.DUPLICATE_ACROSS: 1}]
)
def test_more_bad_rows_than_fit_are_refused(bad: dict[Kind, int]):
    with pytest.raises(ValueError):
        list(Snapshot(rows=10, bad=bad).planted())


# --- writing --------------------------------------------------------------------------------------


def test_command_writes_the_snapshot_and_what_should_come_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = "--rows 50 --partitions 2 --seed 7 --line-ending crlf --bad email-blank=3"
    options += " --columns EMail=mail FirstName"
    files = [
        "--out",
        tmp_path / "feed",
        "--planted",
        tmp_path / "planted",
        "--expected",
        tmp_path / "expected",
    ]
    assert snapshots.main([*options.split(), *map(str, files)]) == 0
    printed = json.loads(capsys.readouterr().out)
    columns = {Column.EMAIL: "mail", Column.FIRST_NAME: "FirstName"}
    same = Snapshot(
        rows=50,
        partitions=2,
        seed=7,
        line_ending="\r\n",
        columns=columns,
        bad={Kind.EMAIL_BLANK: 3},
    )
    for path, file in itertools.zip_longest(printed["paths"], same.files()):
        assert path == file.path
        assert (tmp_path / "feed" / path).read_bytes() == b"".join(file.chunks)
    planted = [json.loads(line) for line in (tmp_path / "planted").read_text().splitlines()]
    assert [(row["line"], row["kind"]) for row in planted] == [
        (row.line, row.kind) for row in same.planted()
    ]
    assert len((tmp_path / "expected").read_text().splitlines()) == 47


def test_command_refuses_what_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        snapshots.main(["--rows", "2", "--bad", "email-blank=5", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "no room for email-blank" in capsys.readouterr().err


@pytest.mark.azurite
def test_snapshot_is_written_to_a_container(tmp_path: Path):
    snapshot = Snapshot(rows=5000, partitions=2)
    with (
        running_azurite(log=tmp_path / "log") as storage,
        BlobServiceClient.from_connection_string(storage.connection_string) as service,
    ):
        container = service.create_container("klaviyo-feed")
        for path in write_snapshot(snapshot, ContainerWriter(container)):
            assert container.get_blob_client(path).exists()
        assert container.download_blob(snapshot.path(2)).readall() == content(snapshot, 2)
