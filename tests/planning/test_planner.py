"""Planning: every row of a snapshot becomes a profile, a duplicate or a rejected row, as a simple script would have it.

The oracle (`Reference`) does in plain Python, with csv and a dict, what DuckDB does in SQL.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import phonenumbers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.definitions.mapping import parse_mapping
from exporter.errors import (
    ConfigError,
    MappingError,
    PartitionChanged,
    RowsLost,
    SnapshotUnreadable,
)
from exporter.planning import batches, planner, staged_rows
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.row_lists import safe_cell
from exporter.planning.row_rules import PLACEHOLDERS
from exporter.reading import partition
from exporter.reading.dialect import Dialect
from exporter.reading.source import PartitionSource, count_rows
from exporter.settings import StepLimits
from exporter.sql import open_database
from tests.planning.planned import Place, Planned, as_csv, planned

CORPUS = Path(__file__).parent.parent / "data"
BLANKS = " \t\r\n\u00a0"

MAPPING = {
    "email": "EMail",
    "first_name": "FirstName",
    "phone_number": "Telephone",
    "location": {"city": "City", "country": "Country"},
    "properties": {
        "tier": {"column": "Tier", "empty": "clear"},
        "value": {"column": "Value", "type": "number", "empty": "clear"},
        "tags": {"column": "Tags", "type": "list"},
    },
    "phone_region": "RO",
}
HEADER = ["EMail", "FirstName", "Telephone", "City", "Country", "Tier", "Value", "Tags"]


# The oracle


class Reference:
    """What should become of files, worked out the slow and simple way."""

    def __init__(self, files: dict[str, str]) -> None:
        self.profiles: dict[str, dict[str, Any]] = {}
        self.places: dict[str, Place] = {}
        self.duplicates: list[tuple[Place, str]] = []
        self.rejected: list[tuple[str, int]] = []
        self.rows = 0
        for name, text in files.items():
            for line, row in rows_of(text):
                self.rows += 1
                self._take((name, line), row)

    def _take(self, place: Place, row: dict[str, str] | None) -> None:
        email = address(row["EMail"]) if row else None
        if row is None or email is None:
            self.rejected.append(place)
            return
        if email in self.places:
            self.duplicates.append((self.places[email], email))
            del (
                self.profiles[email],
                self.places[email],
            )  # the later one takes its own place in the order
        self.places[email] = place
        self.profiles[email] = profile_of(email, row)


def rows_of(text: str) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Line and cells of each row; None for one with too few or too many."""
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    header = next(reader)
    line = reader.line_num + 1
    for row in reader:
        if row:
            cells = [cell.replace("\r\n", "\n") for cell in row]
            yield line, dict(zip(header, cells, strict=True)) if len(row) == len(header) else None
        line = reader.line_num + 1


def address(cell: str) -> str | None:
    email = cell.strip(BLANKS).lower()
    local, _, domain = email.rpartition("@")
    try:
        email = (
            f"{local}@{domain.encode('idna').decode()}" if local and not email.isascii() else email
        )
    except UnicodeError:
        return None
    good = re.fullmatch(r"[a-z0-9_%+.-]+@([a-z0-9-]+\.)+[a-z]{2,}", email)
    odd = email in PLACEHOLDERS or len(email) > 100 or re.search(r"^\.|\.@|\.\.|@-|-\.", email)
    return email if good and not odd else None


def e164(cell: str) -> str | None:
    try:
        number = phonenumbers.parse(cell, "RO")
    except phonenumbers.NumberParseException:
        return None
    possible = (
        phonenumbers.is_possible_number_with_reason(number)
        == phonenumbers.ValidationResult.IS_POSSIBLE
    )
    return (
        phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        if possible
        else None
    )


def number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def profile_of(email: str, row: dict[str, str]) -> dict[str, Any]:
    """The profile as Klaviyo should get it."""
    texts = {name: cell if cell.strip(BLANKS) else None for name, cell in row.items()}
    tags = [tag.strip(BLANKS) for tag in (texts["Tags"] or "").split(";")]
    values = {
        "tier": texts["Tier"],
        "value": number(texts["Value"]) if texts["Value"] else None,
        "tags": [tag for tag in tags if tag] or None,
    }
    attributes = {
        "email": email,
        "first_name": texts["FirstName"],
        "phone_number": e164(row["Telephone"]),
        "location": without_none({"city": texts["City"], "country": texts["Country"]}) or None,
        "properties": without_none(values) or None,
    }
    unset = [
        name for name, column in (("tier", "Tier"), ("value", "Value")) if texts[column] is None
    ]
    meta = {"meta": {"patch_properties": {"unset": unset}}} if unset else {}
    return {"type": "profile", "attributes": without_none(attributes), **meta}


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


emails = st.one_of(
    st.sampled_from(
        [
            "ada@example.com",
            "ADA@Example.com",
            " ada@example.com\t",
            "bob@example.org",
            "BOB@EXAMPLE.ORG",
        ]
    ),
    st.builds(
        "{}@{}".format,
        st.sampled_from("abcdefgh"),
        st.sampled_from(["x.co", "X.Co", "bücher.de", "BÜCHER.DE"]),
    ),
    st.sampled_from(
        [
            "",
            " ",
            "none",
            "N/A",
            "ada",
            "a@",
            "mailto:a@b.co",
            "a!b@c.de",
            "a@b.c0m",
            "a b@c.de",
            "é@b.de",
        ]
    ),
)
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    st.sampled_from(
        [
            "",
            " ",
            "\u00a0",
            '"',
            '""',
            "a,b",
            "l1\nl2",
            "l1\r\nl2\n",
            "\r",
            "'",
            "\\",
            "\x1f",
            "\u2028",
            "x" * 90,
        ]
    ),
)
phone_cells = st.sampled_from(
    [
        "",
        "0722000001",
        "+40 722-000.001",
        "+40(0)722000002",
        "+447400123456",
        "call me",
        "-",
        "12",
        "+999123",
        "＋40722000003",
    ]
)
number_cells = st.sampled_from(
    ["", " ", "5", " 7 ", "1.5", "1e3", "NaN", "Infinity", "abc", "1e999", "-0.25", "+5"]
)
rows = st.tuples(
    emails,
    texts,
    phone_cells,
    texts,
    texts,
    texts,
    number_cells,
    st.sampled_from(["", "a", "a;b", " a ; ;b", ";", "é"]),
).map(list)
odd_lines = st.sampled_from(
    [[], ["ada@example.com"], ["a@b.co", "too few\nand two lines"], ["a@b.co"] * 9]
)
parts = st.lists(st.one_of(rows, rows, rows, rows, odd_lines), max_size=14)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    partitions=st.lists(parts, min_size=1, max_size=3),
    orders=st.lists(st.permutations(range(len(HEADER))), min_size=3, max_size=3),
    line_end=st.sampled_from(["\n", "\r\n"]),
    piece_bytes=st.sampled_from([400, 32_000_000]),
    block_rows=st.sampled_from([1, 3, 100]),
    keys_a_pass=st.sampled_from([2, 2_000_000]),
    max_profiles=st.sampled_from([1, 4, 10_000]),
    max_bytes=st.sampled_from([900, 2_000, 4_500_000]),
)
def test_rows_end_as_a_simple_script_would_have_it(
    partitions, orders, line_end, piece_bytes, block_rows, keys_a_pass, max_profiles, max_bytes
):
    files = {}
    for position, (lines, order) in enumerate(zip(partitions, orders, strict=False)):
        ordered = [
            [row[at] for at in order] if len(row) == len(HEADER) else row
            for row in [HEADER, *lines]
        ]
        files[f"Segment_{position}.csv"] = as_csv(ordered, line_end=line_end)
    wanted = Reference(files)
    with (
        pytest.MonkeyPatch.context() as patch,
        small(patch, piece_bytes=piece_bytes, _BLOCK_PROFILES=block_rows, _KEYS_A_PASS=keys_a_pass,
              MAX_BATCH_PROFILES=max_profiles, MAX_BATCH_BYTES=max_bytes),
        planned(files, MAPPING) as found,
    ):  # fmt: skip
        assert found.profiles() == list(wanted.profiles.values())
        assert [place for batch in found.plan.batches for place in found.places(batch)] == list(
            wanted.places.values()
        )
        assert [place[:2] for place in found.rejections()] == sorted(wanted.rejected)
        kept = [(place, wanted.places[email]) for place, email in wanted.duplicates]
        assert found.duplicates() == sorted(kept, key=lambda pair: pair[0])
        assert (found.plan.rows, found.plan.duplicates) == (wanted.rows, len(wanted.duplicates))
        assert sum(found.plan.rejected.values()) == len(wanted.rejected)
        check_batches(found, max_profiles=max_profiles, max_bytes=max_bytes)


def small(patch: pytest.MonkeyPatch, *, piece_bytes: int = 32_000_000, **limits: int) -> Any:
    """Make limits small, so that small files meet them."""
    read = functools.partial(partition.read_partition, piece_bytes=piece_bytes)
    patch.setattr(partition, "read_partition", read)
    for name, value in limits.items():
        module = batches if name.startswith("MAX_BATCH") else planner
        patch.setattr(module, name, value)
    return patch.context()


def check_batches(found: Planned, *, max_profiles: int, max_bytes: int) -> None:
    for number_, batch in enumerate(found.plan.batches):
        body = found.reader.body(batch)
        assert batch.number == number_
        assert 1 <= batch.profiles <= max_profiles
        assert batch.size_bytes <= max_bytes or batch.profiles == 1
        assert len(body) <= batch.size_bytes <= len(body) + 300 + 150 * batch.profiles
        positions = found.reader.rows_at(batch, range(batch.profiles))
        identifiers = [profile["attributes"]["email"] for profile in found.body(batch)]
        assert [positions[at].identifier for at in range(batch.profiles)] == identifiers


csv_bytes = [
    b",",
    b'"',
    b'""',
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xc3\xa9",
    b"\xef\xbb\xbf",
    b" ",
    b"x",
    b"a@b.co",
]
any_bytes = st.lists(st.sampled_from([*csv_bytes, b",", b"\n", b"EMail"]), max_size=40).map(
    b"".join
)


@settings(max_examples=12, deadline=None)
@given(partitions=st.lists(st.one_of(any_bytes, st.binary(max_size=60)), min_size=1, max_size=3))
def test_counts_add_up_for_any_bytes(partitions: list[bytes]):
    """`planned` checks the counts; here only what may come out of it is said."""
    files = {f"{position}.csv": b"EMail,b\n" + data for position, data in enumerate(partitions)}
    try:
        with planned(files) as found:
            assert len(found.profiles()) == found.plan.profiles
            assert len(found.rejected()) == sum(found.plan.rejected.values())
            assert len(found.duplicates()) == found.plan.duplicates
    except SnapshotUnreadable:
        pass


odd_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10)
hostile_names = st.sampled_from(
    [
        "'",
        '"',
        "''; DROP TABLE duplicates; --",
        '","x":"',
        "$a",
        "$$",
        "a'b\"c",
        "\\",
        "{0}",
        "%s",
        "c0",
        "f0",
    ]
)
column_names = (odd_names.map(str.strip).filter(bool) | hostile_names).filter(
    lambda name: name != "the e-mail"
)
property_names = (odd_names | hostile_names).filter(
    lambda name: name.strip() and not name.startswith("$")
)


@settings(max_examples=6, deadline=None)
@given(
    names=st.lists(column_names, min_size=1, max_size=5, unique_by=str.casefold),
    cells=st.lists(texts, min_size=5, max_size=5),
    properties=st.lists(property_names, min_size=5, max_size=5, unique=True),
)
def test_names_of_columns_and_properties_are_never_sql_or_json(names, cells, properties):
    file = as_csv([["the e-mail", *names], ["a@b.co", *cells[: len(names)]]])
    columns = Dialect(columns=("the e-mail", *names), has_header=True, delimiter=",")
    short = dict(zip(properties, names, strict=False))
    values = [cell.replace("\r\n", "\n") for cell in cells]
    with planned(
        {"s.csv": file}, {"email": "the e-mail", "properties": short}, dialects={"s.csv": columns}
    ) as found:
        [profile] = found.profiles()
        by_name = {
            name: value for name, value in zip(short, values, strict=False) if value.strip(BLANKS)
        }
        assert profile["attributes"].get("properties", {}) == by_name
    with planned(
        {"s.csv": file}, {"email": "the e-mail", "properties": "*"}, dialects={"s.csv": columns}
    ) as found:
        [profile] = found.profiles()
        sent = profile["attributes"].get("properties", {})
        assert sorted(sent.values()) == sorted(
            value for value in values[: len(names)] if value.strip(BLANKS)
        )
        assert not any(name.startswith("$") for name in sent)


# Which row wins


def winners(
    files: dict[str, str], mapping: dict[str, Any] | None = None
) -> tuple[list[str], list[tuple[Place, Place]]]:
    with planned(files, {"email": "EMail", "first_name": "Name", **(mapping or {})}) as found:
        return [profile["first_name"] for profile in found.attributes()], found.duplicates()


def test_last_row_in_file_order_wins_within_and_across_partitions():
    files = {
        "a_1.csv": "EMail,Name\nada@x.co,first\nbob@x.co,bob\nADA@X.CO ,second\n",
        "a_2.csv": 'Name,EMail\n"third\nof three",Ada@x.co\n\nfourth,ada@x.co\n',
    }
    names, duplicates = winners(files)
    assert names == ["bob", "fourth"]
    kept = ("a_2.csv", 5)
    assert duplicates == [(("a_1.csv", 2), kept), (("a_1.csv", 4), kept), (("a_2.csv", 2), kept)]


@pytest.mark.parametrize(
    ("moments", "winner"),
    [
        (["2026-01-02", "2026-01-03", "2026-01-01"], 1),
        (["9/2/2025", "10/1/2025", "9/30/2025"], 1),
        (["2026-01-02T10:00:00Z", "2026-01-02T11:00:00+02:00", ""], 0),
        (["", " ", ""], 2),
        (["2026-01-02", "2026-01-02", "2026-01-02"], 2),
        (["2026-01-02", "unknown to us", "2026-01-01"], 0),
        (["10/1/2025 9:00 AM", "9/2/2024 11:00 AM", ""], 0),
        (["01.10.2025", "02.09.2024", ""], 0),
        (["999", "1000", "998"], 1),
    ],
)
def test_newest_row_wins_where_a_column_says_so(moments: list[str], winner: int):
    lines = [f"a@x.co,{position},{moment}" for position, moment in enumerate(moments)]
    files = {"1.csv": "EMail,Name,Modified\n" + "\n".join(lines)}
    assert winners(files, {"newest_by": "modified"})[0] == [str(winner)]


def test_moments_that_cannot_be_read_are_counted():
    file = "EMail,M\na@x.co,2026-01-02\na@x.co,someday\nb@x.co,unknown\nc@x.co,\nnone,someday\n"
    with planned({"1.csv": file}, {"email": "EMail", "newest_by": "M"}) as found:
        assert found.plan.dropped == {"newest_by": 2}


@pytest.mark.parametrize(
    ("of_model", "of_mapping", "sent"),
    [
        (None, None, {"born": "1986-05-08"}),
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
        assert [profile["properties"] for profile in found.attributes()] == [sent]
        assert found.plan.sources[0].culture == (of_mapping or of_model or "")


def test_newest_wins_across_partitions_too():
    files = {
        "1.csv": "EMail,Name,M\na@x.co,new,2026-02-01\n",
        "2.csv": "EMail,Name,M\na@x.co,old,2026-01-01\n",
    }
    assert winners(files, {"newest_by": "M"}) == (["new"], [(("2.csv", 2), ("1.csv", 2))])


def test_rejected_rows_are_no_duplicates_and_win_against_nobody():
    files = {"1.csv": "EMail,Name\na@x.co,good\na@x.co,one,too many\nnone,x\nnone,y\n,z\n,z\n"}
    names, duplicates = winners(files)
    assert (names, duplicates) == (["good"], [])


def test_equal_keys_of_different_identifiers_are_no_duplicates(tmp_path: Path):
    """The key is a hash: two people may share one."""
    database = open_database(tmp_path, memory_mb=64)
    rows = tmp_path / "rows.parquet"
    people = [(0, 1, "a@x.co"), (0, 1, "b@x.co"), (0, 1, "a@x.co"), (0, 2, "c@x.co")]
    values = ", ".join(
        f"({piece}, {key}, NULL::VARCHAR, NULL::DOUBLE, '{email}')" for piece, key, email in people
    )
    database.execute(
        f"COPY (SELECT * FROM (VALUES {values}) t(piece, key, reason, newest, f0)) TO '{rows}'"
    )
    database.execute(
        "CREATE TABLE duplicates (piece INTEGER, row BIGINT, kept_piece INTEGER, kept_row BIGINT)"
    )
    table = f"read_parquet(['{rows}'], file_row_number = true)"
    for number_ in range(3):
        database.execute(planner._duplicates(table, "f0", number=number_, of=3))
    assert database.execute("FROM duplicates").fetchall() == [(0, 0, 0, 2)]
    database.close()


# Other identifiers


def test_bad_phone_is_dropped_beside_a_good_email_and_counted():
    file = "EMail,Phone\na@x.co,call me\nb@x.co,0722 000 001\nc@x.co,\nA@X.CO,12\nnone,13\n"
    with planned(
        {"1.csv": file}, {"email": "EMail", "phone_number": "Phone", "phone_region": "RO"}
    ) as found:
        assert found.attributes() == [
            {"email": "b@x.co", "phone_number": "+40722000001"},
            {"email": "c@x.co"},
            {"email": "a@x.co"},
        ]
        assert found.plan.dropped == {"phone_number": 1}  # of rows that are sent
        assert found.plan.dropped_examples == {"phone_number": ["1.csv:5"]}


def test_cells_left_out_are_named_by_line_three_of_each_attribute():
    rows = "".join(f"p{number}@x.co,12,{'' if number % 2 else 'many'}\n" for number in range(8))
    mapping = {
        "email": "EMail",
        "phone_number": "Phone",
        "properties": {"n": {"column": "N", "type": "number"}},
    }
    with planned(
        {"1.csv": "EMail,Phone,N\n", "2.csv": f'EMail,Phone,N\n"q@x.co",,"5\n"\n{rows}'}, mapping
    ) as found:
        assert found.plan.dropped == {"n": 4, "phone_number": 8}
        assert found.plan.dropped_examples == {
            "n": ["2.csv:4", "2.csv:6", "2.csv:8"],
            "phone_number": ["2.csv:4", "2.csv:5", "2.csv:6"],
        }


def test_phone_identifies_and_a_bad_email_beside_it_is_dropped():
    file = "EMail,Phone\nADA@x.co,+40722000001\nbad,+40 722 000 002\n,0722 000 001\na@x.co,12\n"
    mapping = {
        "email": "EMail",
        "phone_number": "Phone",
        "identifier": "phone_number",
        "phone_region": "RO",
    }
    with planned({"1.csv": file}, mapping) as found:
        assert found.attributes() == [
            {"phone_number": "+40722000002"},
            {"phone_number": "+40722000001"},
        ]
        assert found.duplicates() == [(("1.csv", 2), ("1.csv", 4))]
        assert found.rejections() == [("1.csv", 5, "phone_impossible")]
        assert found.rejected()[0]["column"] == "Phone"
        assert found.plan.dropped == {"email": 1}


def test_external_id_identifies_and_bad_others_beside_it_are_dropped():
    long = "x" * 256
    file = f"Id,EMail,Phone\n C-1 ,bad,bad\nC-2,ä@b.co,+40722000001\nc-1,A@B.CO,\n{long},a@b.co,\n,a@b.co,\n"
    mapping = {
        "email": "EMail",
        "phone_number": "Phone",
        "external_id": "Id",
        "identifier": "external_id",
    }
    with planned({"1.csv": file}, mapping) as found:
        assert found.attributes() == [
            {"external_id": "C-1"},
            {"external_id": "C-2", "phone_number": "+40722000001"},
            {"external_id": "c-1", "email": "a@b.co"},
        ]
        assert found.rejections() == [
            ("1.csv", 5, "external_id_too_long"),
            ("1.csv", 6, "no_identifier"),
        ]
        assert found.plan.dropped == {"email": 2, "phone_number": 1}


def test_external_id_that_is_too_long_is_dropped_beside_an_email():
    file = f"EMail,Id\na@x.co,{'x' * 256}\nb@x.co, C-1 \n"
    with planned({"1.csv": file}, {"email": "EMail", "external_id": "Id"}) as found:
        assert found.attributes() == [
            {"email": "a@x.co"},
            {"email": "b@x.co", "external_id": "C-1"},
        ]
        assert found.plan.dropped == {"external_id": 1}


def test_rows_keep_their_order_however_many_phones_the_library_must_judge():
    """A join that takes the smaller table first would give the rows in another order."""
    lines = [
        f"u{n}@x.co,{f'(0722) 000 {n % 1000:03}' if n % 3 else f'+40722{n:06}'}"
        for n in range(30_000)
    ]
    file = "EMail,Phone\n" + "\n".join(lines)
    with planned(
        {"1.csv": file}, {"email": "EMail", "phone_number": "Phone", "phone_region": "RO"}
    ) as found:
        sent = found.attributes()
        assert [profile["email"] for profile in sent] == [f"u{n}@x.co" for n in range(30_000)]
        assert all(profile["phone_number"].startswith("+40722") for profile in sent)


# Sizes and limits


def test_profile_over_100_kb_is_rejected_and_one_below_is_sent():
    sizes = {"a@x.co": 99_000, "b@x.co": 100_001, "c@x.co": 50_000, "d@x.co": 16_700}
    cells = {
        "a@x.co": "x",
        "b@x.co": "x",
        "c@x.co": '"',
        "d@x.co": "\x01",
    }  # an escape takes 2, a control character 6
    file = as_csv(
        [["EMail", "Note"], *([email, cells[email] * size] for email, size in sizes.items())]
    )
    with planned({"1.csv": file}, {"email": "EMail", "properties": {"note": "Note"}}) as found:
        assert [profile["email"] for profile in found.attributes()] == ["a@x.co"]
        assert [reason for *_, reason in found.rejections()] == ["profile_too_large"] * 3


def test_batches_are_as_full_as_the_limits_allow():
    file = "EMail\n" + "".join(f"user{n:05}@example.com\n" for n in range(25_000))
    with planned({"1.csv": file}) as found:
        assert [batch.profiles for batch in found.plan.batches] == [10_000, 10_000, 5_000]
    note = "x" * 2_000
    file = "EMail,Note\n" + "".join(f"user{n:05}@example.com,{note}\n" for n in range(5_000))
    with planned({"1.csv": file}, {"email": "EMail", "properties": {"note": "Note"}}) as found:
        sizes = [len(found.reader.body(batch)) for batch in found.plan.batches]
        assert all(4_200_000 < size <= 4_500_000 for size in sizes[:-1])
        assert sum(batch.profiles for batch in found.plan.batches) == 5_000


def test_memory_limit_holds_for_200_000_rows():
    def chunks() -> Iterator[bytes]:
        yield b"EMail,FirstName,Telephone,City,Country,Tier,Value,Tags\n"
        for n in range(0, 200_000, 1_000):
            yield b"".join(
                b"user%d@example.com,Ada,+40722%06d,Bern,CH,gold,%d,a;b\n"
                % (m if m % 50 else 7, m % 1_000_000, m)
                for m in range(n, n + 1_000)
            )

    with planned({"1.csv": chunks()}, MAPPING, memory_mb=64) as found:
        assert (found.plan.rows, found.plan.duplicates) == (200_000, 4_000)
        assert len(found.plan.batches) == 20


def test_finished_files_are_told_once_and_whole_with_the_document_last():
    seen: list[tuple[str, int]] = []
    told: list[int] = []
    files = {f"{n}.csv": "EMail\na@x.co\nnone\n" for n in range(4)}
    tell = {
        "finished_file": lambda path: seen.append((path.name, path.stat().st_size)),
        "progress": told.append,
    }
    with planned(files, **tell) as found:
        assert sorted(seen) == sorted(
            (name, (found.folder / name).stat().st_size) for name, _ in seen
        )
        assert {name for name, _ in seen} == {
            path.name for path in found.folder.iterdir() if path.name != "spill"
        }
        assert seen[-1][0] == "plan.json"
        assert sorted(told) == [2, 4, 6, 8]


def test_nothing_is_left_beside_the_plan(tmp_path: Path):
    source = PartitionSource(name="1.csv", open=lambda: [b"EMail\na@x.co\n"])
    make_plan([source], parse_mapping({"email": "EMail"}), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "plan.json",
        "rows-00000.parquet",
        "duplicates.parquet",
        "duplicates.csv",
        "rejected.csv",
    }


def test_pieces_are_deleted_as_soon_as_they_are_staged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    most = 0

    def look(_: Path) -> None:
        nonlocal most
        most = max(most, len(list((tmp_path / "work").iterdir())))

    with small(monkeypatch, piece_bytes=500):
        source = PartitionSource(name="1.csv", open=lambda: [b"EMail\n" + b"a@x.co\n" * 1_000])
        plan = make_plan([source], parse_mapping({"email": "EMail"}), tmp_path, finished_file=look)
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
    assert caught.value.message == "the snapshot has no column 'EMail'"
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
    "second", ["EMail,A,C\nb@x.co,1,2\n", "EMail,A\nb@x.co,1\n", "EMail,A,B,C\nb@x.co,1,2,3\n"]
)
def test_partitions_with_other_columns_are_refused_where_all_columns_are_sent(second: str):
    files = {"1.csv": "EMail,A,B\na@x.co,1,2\n", "2.csv": second}
    with (
        pytest.raises(SnapshotUnreadable, match=r"columns of 2\.csv differ"),
        planned(files, {"email": "EMail", "properties": "*"}),
    ):
        pass


def test_partitions_may_have_their_columns_in_another_order_even_where_all_are_sent():
    files = {"1.csv": "EMail,A,B\na@x.co,1,2\n", "2.csv": "B,EMail,A\n4,b@x.co,3\n"}
    with planned(files, {"email": "EMail", "properties": "*"}) as found:
        assert found.attributes() == [
            {"email": "a@x.co", "properties": {"A": "1", "B": "2"}},
            {"email": "b@x.co", "properties": {"A": "3", "B": "4"}},
        ]


def test_error_while_reading_ends_planning_and_leaves_no_file_open(tmp_path: Path):
    def chunks() -> Iterator[bytes]:
        yield b"EMail\n" + b"a@x.co\n" * 400_000
        raise PartitionChanged("it changed")

    source = PartitionSource(name="1.csv", open=chunks)
    with pytest.raises(PartitionChanged):
        make_plan([source], parse_mapping({"email": "EMail"}), tmp_path)
    assert not (tmp_path / "plan.json").exists()


def test_error_of_whoever_takes_finished_files_ends_planning(tmp_path: Path):
    def refuse(path: Path) -> None:
        raise PartitionChanged(path.name)

    source = PartitionSource(name="1.csv", open=lambda: [b"EMail\na@x.co\n"])
    with pytest.raises(PartitionChanged, match="rows-00000"):
        make_plan([source], parse_mapping({"email": "EMail"}), tmp_path, finished_file=refuse)


# Files for people


def test_no_cell_of_the_lists_is_a_formula():
    begins = ["=", "+", "-", "@", "\t=", "\r=", "\n=", "＝", "＋", "－", "＠"]
    cells = [begin + 'HYPERLINK("http://x","y")' for begin in begins]
    assert all(safe_cell(cell).startswith("'") for cell in cells)
    file = as_csv([["EMail"], *([cell] for cell in cells), ["a@x.co"], ["A@x.co"]])
    with planned({"=name.csv": file}) as found:
        assert len(found.rejected()) == len(cells)
        assert found.duplicates() == [(("'=name.csv", 14), ("'=name.csv", 15))]
        for name in ("rejected.csv", "duplicates.csv"):
            with (found.folder / name).open(encoding="utf-8", newline="") as lines:
                assert not [
                    cell
                    for row in csv.reader(lines)
                    for cell in row
                    if cell.startswith(tuple("=+-@＝＋－＠\t\r\n"))
                ]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("x;=1+1", "x;'=1+1"),
        (" =1+1", "' =1+1"),
        ("a\t=cmd|' /C calc'!A0", "a\t'=cmd|' /C calc'!A0"),
        ('a; "=1+1"', 'a;\' "=1+1"'),
        ("a\n@SUM(1)", "a\n'@SUM(1)"),
        ("\u00a0-1|+2", "'\u00a0-1|'+2"),
        ("\ttext", "'\ttext"),
        ("ada@x.co,+49302312511", "ada@x.co,+49302312511"),
        ("a-b;c=d e+f", "a-b;c=d e+f"),
    ],
)
def test_what_begins_a_cell_for_any_spreadsheet_is_no_formula(text: str, safe: str):
    assert safe_cell(text) == safe


@given(st.text(max_size=10) | st.text('=+-@;|\t\n "a', max_size=10))
def test_safe_cell_changes_nothing_else(text: str):
    """Apostrophes are added where a formula would begin; without them the cell is what it was."""
    text = text.replace("'", "")
    safe = safe_cell(text)
    assert re.sub(r"(^|[;|\t\r\n])'", r"\1", safe) == text
    if not re.search("[=+@＝＋－＠-]", text):
        assert safe == ("'" + text if text[:1] in tuple("\t\r\n") else text)
    assert safe_cell(safe) == safe


@given(st.text("=+-@;|\t\n \"'a,", max_size=12))
def test_no_formula_is_left_behind_any_separator(text: str):
    for cell in re.split(r"[;|\t\r\n]", safe_cell(text)):
        assert not cell.strip(' "').startswith(tuple("=+-@"))


def test_every_cell_of_the_lists_is_quoted():
    with planned({"a.csv": "EMail\nnone\na@x.co\na@x.co\n"}) as found:
        for name in ("rejected.csv", "duplicates.csv"):
            lines = (found.folder / name).read_text(encoding="utf-8").splitlines()
            assert [line for line in lines if not re.fullmatch(r'"[^"]*"(?:,"[^"]*")*', line)] == []


def test_rejected_list_names_column_reason_and_identifier_but_no_more_of_the_row():
    file = "EMail,Secret\nnot an address,top secret\n" + "x" * 500 + "@@,top secret\n"
    with planned({"1.csv": file}) as found:
        first, second = found.rejected()
        assert first == {
            "source": "1.csv",
            "line": "2",
            "column": "EMail",
            "reason": "email_space",
            "message": "the address holds a blank",
            "identifier": "not an address",
        }
        assert len(second["identifier"]) == 200
        assert "secret" not in (found.folder / "rejected.csv").read_text()


def test_examples_are_the_first_three_by_line():
    file = "EMail\n" + "none\n" * 5 + "a@x.co\n" * 3
    with planned({"1.csv": file}) as found:
        assert found.plan.examples == {
            "placeholder": ["1.csv:2", "1.csv:3", "1.csv:4"],
            "duplicate": ["1.csv:7", "1.csv:8"],
        }


# Parquet


def parquet(query: str, *options: str) -> bytes:
    """A Parquet file of what a query gives."""
    with TemporaryDirectory() as folder, duckdb.connect() as database:
        path = Path(folder) / "file.parquet"
        database.execute(
            f"COPY ({query}) TO '{path}' (FORMAT parquet{''.join(', ' + option for option in options)})"
        )
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
            "seen": "2026-01-02T03:04:05Z",
        }


def test_typed_parquet_columns_need_no_culture():
    rules = {"value": {"column": "Value", "type": "number"}}
    mapping = {"email": "EMail", "properties": rules, "culture": "de-DE"}
    with planned(
        {"1.parquet": parquet("SELECT 'a@x.co' AS EMail, 1.234::DOUBLE AS Value")}, mapping
    ) as found:
        assert [profile["properties"] for profile in found.attributes()] == [{"value": 1.234}]


def test_parquet_rows_are_named_by_their_number_in_any_slice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exporter.planning.planner.PARQUET_ROWS", 3)
    cells = "CASE WHEN i % 4 = 1 THEN 'bad' || chr(10) ELSE 'u' || (i // 2) || '@x.co' END"
    query = f"SELECT {cells} AS EMail FROM range(10) t(i)"
    with planned({"1.parquet": parquet(query), "2.csv": "EMail\nU0@x.co\n"}) as found:
        assert found.rejections() == [("1.parquet", line, "email_malformed") for line in (2, 6, 10)]
        assert found.duplicates() == [
            (("1.parquet", 1), ("2.csv", 2)),
            (("1.parquet", 3), ("1.parquet", 4)),
            (("1.parquet", 7), ("1.parquet", 8)),
        ]
        assert [note.rows for note in found.plan.sources] == [10, 1]
        assert len(found.plan.pieces) == 5


@pytest.mark.parametrize("file", ["1.csv", "1.parquet"])
def test_row_that_is_read_and_not_staged_stops_the_plan(monkeypatch: pytest.MonkeyPatch, file: str):
    data = {"1.csv": 'EMail,Note\na@x.co,"two\nlines"\nb@x.co,\n'}
    data["1.parquet"] = parquet("SELECT unnest(['a@x.co', 'b@x.co']) AS EMail, 'n' AS Note")
    staged = staged_rows._staged
    monkeypatch.setattr(
        staged_rows,
        "_staged",
        lambda *args, **names: f"{staged(*args, **names)} WHERE f0 <> 'b@x.co'",
    )
    with pytest.raises(RowsLost, match="1 rows"), planned({file: data[file]}):
        pass


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
        {"1.parquet": data}, {"email": "EMail", "properties": {"a": "a"}}, memory_mb=64
    ) as found:
        assert (found.plan.rows, found.plan.profiles, len(found.plan.batches)) == (
            150_000,
            150_000,
            15,
        )


def test_parquet_whose_row_groups_do_not_fit_says_so():
    query = "SELECT 'user' || i || '@example.com' AS EMail, repeat(md5(i::VARCHAR), 20) AS note FROM range(120000) t(i)"
    data = parquet(query, "ROW_GROUP_SIZE 122880")
    mapping = {"email": "EMail", "properties": {"note": "note"}}
    with (
        pytest.raises(ConfigError, match="MEMORY_MB") as refused,
        planned({"1.parquet": data}, mapping, memory_mb=32),
    ):
        pass
    assert "row group" in refused.value.hint


MEMORY_MB = StepLimits().memory_mb


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
        {"1.csv": data}, {"email": "EMail", "properties": properties}, memory_mb=MEMORY_MB
    ) as found:
        assert found.plan.profiles == profiles
        assert found.plan.rejected == ({} if profiles else {"profile_too_large": 3})
        reader = PlanReader(found.plan, found.folder, list_id="Y6nRLr", memory_mb=MEMORY_MB)
        sizes = [len(reader.body(each)) for each in found.plan.batches]
        assert max(sizes, default=0) < 5_000_000


def test_a_thousand_properties_are_planned_where_there_is_memory_for_them():
    with planned(
        {"1.csv": wide(1_500, 3)}, {"email": "EMail", "properties": "*"}, memory_mb=2_000
    ) as found:
        body = PlanReader(found.plan, found.folder, list_id="Y6nRLr", memory_mb=2_000).body(
            found.plan.batches[0]
        )
        profiles = json.loads(body)["data"]["attributes"]["profiles"]["data"]
        assert [len(each["attributes"]["properties"]) for each in profiles] == [1_499] * 3


def test_too_little_memory_says_which_setting_to_raise():
    snapshot = {"1.csv": wide(300, 3_000)}
    with (
        pytest.raises(ConfigError, match="MEMORY_MB"),
        planned(snapshot, {"email": "EMail", "properties": "*"}, memory_mb=64),
    ):
        pass


# The corpus: small nasty snapshots, each beside what should become of it


@pytest.mark.parametrize(
    "stored", sorted((CORPUS / "plans").glob("*.json")), ids=lambda path: path.stem
)
def test_corpus_snapshot_has_the_outcome_beside_it(stored: Path):
    wanted = json.loads(stored.read_text(encoding="utf-8"))
    files = {name: (stored.parent / name).read_bytes() for name in wanted["files"]}
    assert outcome_of(files, wanted) == wanted["outcome"]


def outcome_of(files: dict[str, bytes], case: dict[str, Any]) -> dict[str, Any]:
    try:
        with planned(
            files, case["mapping"], dialects=dict.fromkeys(files, dialect_of(case))
        ) as found:
            return {
                "rows": found.plan.rows,
                "profiles": found.profiles(),
                "duplicates": [[*row, *kept] for row, kept in found.duplicates()],
                "rejected": [list(row) for row in found.rejections()],
                "counts": dict(Counter(reason for *_, reason in found.rejections())),
                "left_out": found.plan.dropped,
            }
    except (SnapshotUnreadable, MappingError) as error:
        return {
            "error": type(error).__name__,
            "message": error.message,
            "has_hint": bool(error.hint),
        }


def test_every_file_of_the_corpus_is_in_a_case():
    described = {
        name
        for path in (CORPUS / "plans").glob("*.json")
        for name in json.loads(path.read_text(encoding="utf-8"))["files"]
    }
    files = {path.name for path in (CORPUS / "plans").iterdir() if path.suffix != ".json"} - {
        ".gitattributes"
    }
    assert described == files


def readers_corpus() -> dict[str, dict[str, dict[str, Any]]]:
    """The reader's own corpus: for each name of a first column, the files that have it and what is said of them."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((CORPUS / "reading").glob("*.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        if case.get("columns"):
            cases.setdefault(case["columns"][0], {})[case["file"]] = case
    return cases


def test_rows_of_the_readers_corpus_are_all_accounted_for():
    """By the first column as external id: what the reader gives is planned or rejected, and nothing else."""
    for column, cases in readers_corpus().items():
        files = {name: (CORPUS / "reading" / name).read_bytes() for name in cases}
        dialects = {name: dialect_of(case) for name, case in cases.items()}
        with planned(files, {"external_id": column}, dialects=dialects) as found:
            for note, case in zip(found.plan.sources, cases.values(), strict=True):
                assert (note.name, note.columns) == (case["file"], tuple(case["columns"]))
                assert (note.rows, note.lines) == (
                    len(case["rows"]) + len(case["rejected"]),
                    case["lines"],
                )
            rejected = [row for row in found.rejections() if row[2] != "no_identifier"]
            assert rejected == sorted(
                (name, *row) for name, case in cases.items() for row in case["rejected"]
            )


def test_counting_rows_alone_gives_what_a_plan_has(tmp_path: Path):
    for cases in readers_corpus().values():
        for name, case in cases.items():
            source = PartitionSource(
                name=name, open=_opening(CORPUS / "reading" / name), dialect=dialect_of(case)
            )
            assert count_rows(source, tmp_path) == len(case["rows"]) + len(case["rejected"]), name
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_parquet_file_are_counted_whatever_its_name(tmp_path: Path):
    path = tmp_path / "rows"
    duckdb.sql("SELECT range AS id FROM range(7)").write_parquet(str(path))
    assert count_rows(PartitionSource(name="a.csv", open=_opening(path)), tmp_path) == 7
    path.write_bytes(b"PAR1\0 and no more")
    with pytest.raises(SnapshotUnreadable, match=r"a\.csv is not a Parquet file"):
        count_rows(PartitionSource(name="a.csv", open=_opening(path)), tmp_path)


def _opening(path: Path) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes()]


def dialect_of(case: dict[str, Any]) -> Dialect:
    declared = dict(case.get("declared", {}))
    if "columns" in declared:
        declared["columns"] = tuple(declared["columns"])
    return Dialect(**declared)
