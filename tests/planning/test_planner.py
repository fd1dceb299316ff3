"""Every row of a snapshot becomes a profile, a duplicate or a rejected row.

The oracle (`Reference`) does in plain Python, with csv and a dict, what DuckDB does in SQL.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import idna
import phonenumbers
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from exporter.definitions.mapping import parse_mapping
from exporter.errors import (
    MappingError,
    PartitionChanged,
    SnapshotUnreadable,
)
from exporter.planning.planner import PlanLimits, make_plan
from exporter.planning.row_rules import BLANKS, PLACEHOLDERS
from exporter.reading.dialect import Dialect
from exporter.reading.source import PartitionSource, count_rows
from tests.planning.planned import Place, Planned, as_csv, planned

CORPUS = Path(__file__).parent.parent / "data"

MAPPING = {
    "email": "EMail",
    "first_name": "FirstName",
    "phone_number": "Telephone",
    "location": {"city": "City", "country": "Country"},
    "properties": {
        "tier": {"column": "Tier", "empty": "clear_all"},
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
        self._share_phones()
        self._keep_what_a_blank_column_would_clear()
        self._put_doubtful_ones_last()

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

    def _share_phones(self) -> None:
        last = {
            profile["attributes"].get("phone_number"): email
            for email, profile in self.profiles.items()
        }
        for email, profile in self.profiles.items():
            if last[profile["attributes"].get("phone_number")] != email:
                profile["attributes"].pop("phone_number", None)

    def _keep_what_a_blank_column_would_clear(self) -> None:
        unset = [unset_of(profile) for profile in self.profiles.values()]
        for names in unset if all("value" in names for names in unset) else ():
            names.remove("value")
        for profile in self.profiles.values():
            if not unset_of(profile):
                profile.pop("meta", None)

    def _put_doubtful_ones_last(self) -> None:
        last = [email for email in self.profiles if "!" in email]
        for email in last:
            self.profiles[email] = self.profiles.pop(email)
            self.places[email] = self.places.pop(email)


def unset_of(profile: dict[str, Any]) -> list[str]:
    names: list[str] = profile.get("meta", {}).get("patch_properties", {}).get("unset", [])
    return names


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
    email = cell.strip(BLANKS)
    email = email.lower() if email.isascii() else email
    local, _, domain = email.rpartition("@")
    try:
        if local and not email.isascii():
            email = f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except UnicodeError:
        return None
    good = re.fullmatch(r"[a-z0-9_%+.!-]+@([a-z0-9-]+\.)+[a-z]{2,}", email)
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
    # Where all rows lack the same, that is no damage: test_partition.py.
    assume(all(any(len(row) == len(HEADER) for row in lines) for lines in partitions if lines))
    files = {}
    for position, (lines, order) in enumerate(zip(partitions, orders, strict=False)):
        ordered = [
            [row[at] for at in order] if len(row) == len(HEADER) else row
            for row in [HEADER, *lines]
        ]
        files[f"Segment_{position}.csv"] = as_csv(ordered, line_end=line_end)
    wanted = Reference(files)
    limits = PlanLimits(
        piece_bytes=piece_bytes,
        block_profiles=block_rows,
        keys_a_pass=keys_a_pass,
        batch_profiles=max_profiles,
        batch_bytes=max_bytes,
    )
    with planned(files, MAPPING, limits=limits) as found:
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


def test_memory_limit_holds_for_200_000_rows():
    def chunks() -> Iterator[bytes]:
        yield b"EMail,FirstName,Telephone,City,Country,Tier,Value,Tags\n"
        for n in range(0, 200_000, 1_000):
            yield b"".join(
                b"user%d@example.com,Ada,+40722%06d,Bern,CH,gold,%d,a;b\n"
                % (m if m % 50 else 7, m % 1_000_000, m)
                for m in range(n, n + 1_000)
            )

    with planned({"1.csv": chunks()}, MAPPING, limits=PlanLimits(memory_mb=64)) as found:
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
        assert sorted(set(told)) == [2, 4, 6, 8]


def test_nothing_is_left_beside_the_plan(tmp_path: Path):
    source = PartitionSource(name="1.csv", open=lambda: [b"EMail\na@x.co\n"])
    make_plan([source], parse_mapping({"email": "EMail"}), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "plan.json",
        "rows-00000.parquet",
        "duplicates.parquet",
        "duplicates.csv",
        "left_out.csv",
        "rejected.csv",
    }


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
    """The reader's own corpus: the cases by the name of the first column, and by file."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((CORPUS / "reading").glob("*.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        if case.get("columns"):
            cases.setdefault(case["columns"][0], {})[case["file"]] = case
    return cases


def test_rows_of_the_readers_corpus_are_all_accounted_for():
    """By the first column as external id: what the reader gives is planned or rejected."""
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


def test_what_progress_raises_ends_planning_at_each_of_its_calls(tmp_path: Path) -> None:
    """A person waits no longer, or the run was withdrawn: that ends it after the part under way."""
    content = "EMail\n" + "".join(f"p{n}@example.com\n" for n in range(50))
    source = PartitionSource(name="a.csv", open=lambda: iter([content.encode()]))
    mapping = parse_mapping({"email": "EMail"})
    told: list[int] = []
    make_plan([source], mapping, tmp_path / "whole", progress=told.append)
    assert len(told) > 5
    assert set(told) == {50}
    for last in range(1, len(told) + 1):
        calls: list[int] = []

        def progress(rows: int, calls: list[int] = calls, last: int = last) -> None:
            calls.append(rows)
            if len(calls) == last:
                raise PartitionChanged("it was withdrawn")

        with pytest.raises(PartitionChanged, match="withdrawn"):
            make_plan([source], mapping, tmp_path / str(last), progress=progress)
        assert len(calls) == last
