"""Every file that can arrive: what is good in it reaches DuckDB unchanged, what is not is named by its line.

DuckDB itself reads the pieces here, because being read by it without an error is what they are for.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import random
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from exporter import reading
from exporter.decoding import is_parquet, split
from exporter.errors import SnapshotUnreadable
from exporter.headers import HeaderDecision, decide_header
from exporter.model_json import Dialect
from exporter.reading import Piece, RejectedLine, read_csv_call, read_partition, source_line
from exporter.rules import RejectReason

CORPUS = Path(__file__).parent.parent / "data" / "reading"
database = duckdb.connect()


@dataclass(frozen=True)
class Outcome:
    """What became of a file. rows: the source line, then the values; an empty value is ""."""

    header: HeaderDecision
    delimiter: str
    rows: list[tuple[Any, ...]]
    rejected: list[RejectedLine]
    lines: int
    pieces: list[Piece]
    sizes: list[int]

    @property
    def values(self) -> list[tuple[str, ...]]:
        return [row[1:] for row in self.rows]

    @property
    def refusals(self) -> list[tuple[int, str]]:
        return [(line.line, line.reason.value) for line in self.rejected]


def read(data: bytes | Iterable[bytes], *, chunk: int = 1 << 20, **options: Any) -> Outcome:
    """Read a whole partition, and its pieces with DuckDB."""
    rejected: list[RejectedLine] = []
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)] if isinstance(data, bytes) else data
    with TemporaryDirectory() as folder:
        partition = read_partition(
            chunks, folder=Path(folder), name="Segment_1.csv", on_rejected=rejected.append, **options
        )
        pieces, sizes, rows = [], [], []
        for piece in partition:
            pieces.append(piece)
            sizes.append(piece.path.stat().st_size)
            rows.extend(rows_of(piece, partition.columns))
            piece.path.unlink()
        assert not list(Path(folder).iterdir())
    assert partition.rejected.total() == len(rejected)
    return Outcome(partition.header, partition.delimiter, rows, rejected, partition.lines, pieces, sizes)


def rows_of(piece: Piece, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    local_line = 1
    for row in database.execute(f"select * from {read_csv_call(piece, columns)}").fetchall():
        values = tuple(value or "" for value in row)
        assert len(values) == len(columns)
        yield source_line(piece.line_breaks, local_line), *values
        local_line += 1 + sum(value.count("\n") for value in values)


# The corpus: small nasty files, each beside what should become of it


@pytest.mark.parametrize("stored", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_corpus_file_gives_the_outcome_beside_it(stored: Path):
    wanted = json.loads(stored.read_text(encoding="utf-8"))
    data = (CORPUS / wanted["file"]).read_bytes()
    if columns := wanted.get("declared", {}).get("columns"):
        wanted["declared"]["columns"] = tuple(columns)
    for chunk in (1 << 20, 1, 7):
        assert outcome_of(data, wanted, chunk=chunk) == {
            key: value for key, value in wanted.items() if key not in ("file", "about", "declared", "expected")
        }


def outcome_of(data: bytes, wanted: dict[str, Any], *, chunk: int) -> dict[str, Any]:
    options = {"declared": Dialect(**wanted.get("declared", {})), "expected": wanted.get("expected", [])}
    try:
        outcome = read(data, chunk=chunk, **options)
    except SnapshotUnreadable as error:
        return {"unreadable": error.message, "hint": bool(error.hint)}
    return {
        "header": outcome.header.has_header,
        "columns": list(outcome.header.columns),
        "delimiter": outcome.delimiter,
        "rows": [list(row) for row in outcome.rows],
        "rejected": [list(line) for line in outcome.refusals],
        "lines": outcome.lines,
    }


def test_every_corpus_file_has_an_outcome():
    files = {path.name for path in CORPUS.iterdir()} - {".gitattributes"}
    described = [json.loads(path.read_text(encoding="utf-8"))["file"] for path in CORPUS.glob("*.json")]
    assert files == {*described, *(path.name for path in CORPUS.glob("*.json"))}


# What is written by a CSV writer comes back

nasty = st.sampled_from(
    ['"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r", " ", ' "', "\ufeff", "'", "é", "€", "\\", "x"]
)
plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6)
cells = plain_text | st.lists(nasty, max_size=5).map("".join)
tables = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=8)
)


def as_csv(
    rows: Iterable[Sequence[str]], *, delimiter: str = ",", line_end: str = "\n", quote_all: bool = False
) -> str:
    """Write as csv.writer does, but quote every field with a line break, which it does only from Python 3.13 on."""

    def field(value: str, width: int) -> str:
        special = any(one in value for one in ('"', delimiter, "\r", "\n")) or (width == 1 and not value)
        return '"' + value.replace('"', '""') + '"' if quote_all or special else value

    return "".join(delimiter.join(field(value, len(row)) for value in row) + line_end for row in rows)


def as_csv_reader_sees_it(text: str, delimiter: str) -> list[tuple[Any, ...]]:
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    rows, line = [], 1
    for row in reader:
        rows.append((line, *row))
        line = reader.line_num + 1
    return rows


@settings(max_examples=300, deadline=None)
@given(
    table=tables,
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quote_all=st.booleans(),
    last_line_ends=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "latin-1", "cp932"]),
    zipped=st.booleans(),
    chunk=st.integers(1, 40),
    piece_bytes=st.integers(1, 200),
)
def test_any_table_comes_back_with_the_values_and_lines_that_csv_reader_finds(
    table, delimiter, line_end, quote_all, last_line_ends, encoding, zipped, chunk, piece_bytes
):
    header = [f"column {number}" for number in range(len(table[0]))]
    text = as_csv([header, *table], delimiter=delimiter, line_end=line_end, quote_all=quote_all)
    text = text if last_line_ends else text.removesuffix(line_end)
    try:
        data = text.encode(encoding)
        assume(data.decode(encoding) == text)
    except UnicodeError:
        assume(False)
    declared = Dialect(delimiter=delimiter, encoding=encoding, has_header=True)
    outcome = read(gzip.compress(data) if zipped else data, chunk=chunk, piece_bytes=piece_bytes, declared=declared)

    found = as_csv_reader_sees_it(text, delimiter)
    assert outcome.header.columns == tuple(header)
    assert outcome.rows == [tuple(with_lf(value) for value in row) for row in found[1:]]
    assert [list(row) for row in outcome.values] == [[with_lf(value) for value in row] for row in table]
    assert outcome.rejected == []
    assert outcome.lines == text.removesuffix(line_end).count("\n") + 1


def with_lf(value: Any) -> Any:
    return value.replace("\r\n", "\n") if isinstance(value, str) else value


# What is planted among good rows is named, and the rows around it survive

GARBAGE = {
    b"one": RejectReason.TOO_FEW_COLUMNS,
    b"one,two": RejectReason.TOO_FEW_COLUMNS,
    b"one,two,three,four": RejectReason.TOO_MANY_COLUMNS,
    b"one,two,three,": RejectReason.TOO_MANY_COLUMNS,
    b'one,"two\nlines"': RejectReason.TOO_FEW_COLUMNS,
    b'"one"s,two,three': RejectReason.STRAY_QUOTE,
    b'one,"two" ,three': RejectReason.STRAY_QUOTE,
    b"one,t\x00wo,three": RejectReason.NUL_BYTE,
    b'one,"two\x00\n\n",three': RejectReason.NUL_BYTE,
    b"one,tw\xff,three": RejectReason.BAD_ENCODING,
    b"one,tw\xc3,three": RejectReason.BAD_ENCODING,
    b'one,"tw\n\xed\xa0\x80",three': RejectReason.BAD_ENCODING,
    b"one,two\rone,two": RejectReason.BARE_CARRIAGE_RETURN,
}


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(st.lists(cells, min_size=3, max_size=3) | st.sampled_from([*GARBAGE, b""]), max_size=12),
    ends_open=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    chunk=st.integers(1, 40),
    piece_bytes=st.integers(1, 200),
)
def test_rows_around_damaged_lines_survive_and_each_damaged_line_is_named(
    lines, ends_open, line_end, chunk, piece_bytes
):
    data, line = b"a,b,c" + line_end.encode(), 2
    rows, rejected = [], []
    for one in [*lines, *([b'one,"two,three'] if ends_open else [])]:
        if isinstance(one, list):
            record = as_csv([one], line_end=line_end).encode()
            rows.append((line, *map(with_lf, one)))
        else:
            record = one + line_end.encode()
            if one:
                rejected.append((line, GARBAGE.get(one, RejectReason.UNTERMINATED_QUOTE), record.count(b"\n")))
        data += record
        line += record.count(b"\n")
    outcome = read(data, chunk=chunk, piece_bytes=piece_bytes, declared=Dialect(delimiter=","))

    assert outcome.rows == rows
    assert [(one.line, one.reason, one.lines) for one in outcome.rejected] == rejected
    assert outcome.lines == line - 1


# Nothing raises, nothing is lost

alphabet = st.sampled_from(
    [
        b",",
        b'"',
        b'"',
        b'""',
        b";",
        b"\r",
        b"\n",
        b"\n",
        b"\r\n",
        b"\0",
        b"a",
        b" ",
        b"\xff",
        b"\xc3\xa9",
        b"\xef\xbb\xbf",
    ]
)
garbled = st.lists(alphabet, max_size=40).map(b"".join) | st.binary(max_size=60)
dialects = st.builds(
    Dialect,
    delimiter=st.sampled_from([None, ",", ";"]),
    encoding=st.sampled_from([*[None] * 8, "utf-8", "cp1252", "utf-16", "shift_jis", "utf-7", "utf-32", "hz"]),
    quoting=st.booleans(),
    has_header=st.sampled_from([None, True, False]),
    columns=st.sampled_from([None, ("h", "k")]),
)


@settings(max_examples=600, deadline=None)
@given(
    head=st.sampled_from([b"", b"h\n", b"h,k\n", b"h;k\r\n", b"h,k,l\n", b"\xff\xfeh\0\n\0", b"\xef\xbb\xbfh,k\n"]),
    body=garbled,
    declared=dialects,
    zipped=st.booleans(),
    chunk=st.integers(1, 20),
    piece_bytes=st.integers(1, 50),
)
@example(head=b"h,k\n", body=b"\xef\xbb\xbf1,2\n", declared=Dialect(), zipped=False, chunk=9, piece_bytes=9)
@example(head=b"h,k\n", body=b'1, "2,\n"\n', declared=Dialect(), zipped=False, chunk=9, piece_bytes=9)
@example(head=b"", body=b"\r\nh,k\n1,2\n", declared=Dialect(), zipped=False, chunk=1, piece_bytes=1)
@example(head=b"", body=b'\n\r\n";\n', declared=Dialect(quoting=False), zipped=False, chunk=5, piece_bytes=13)
def test_any_bytes_are_read_alike_in_any_cut_or_are_unreadable(head, body, declared, zipped, chunk, piece_bytes):
    data = gzip.compress(head + body) if zipped else head + body
    try:
        whole = read(data, declared=declared)
    except SnapshotUnreadable:
        with pytest.raises(SnapshotUnreadable):
            read(data, chunk=chunk, piece_bytes=piece_bytes, declared=declared)
        return
    cut = read(data, chunk=chunk, piece_bytes=piece_bytes, declared=declared)
    assert (cut.header, cut.delimiter, cut.rows, cut.rejected, cut.lines) == (
        whole.header,
        whole.delimiter,
        whole.rows,
        whole.rejected,
        whole.lines,
    )


@settings(max_examples=600, deadline=None)
@given(body=garbled, quoting=st.booleans(), piece_bytes=st.integers(1, 50))
def test_every_line_is_in_a_row_or_rejected_or_blank_and_none_is_in_two(body, quoting, piece_bytes):
    data = b"h,k\n" + body
    outcome = read(data, declared=Dialect(quoting=quoting, has_header=True), piece_bytes=piece_bytes)

    lines = data.removesuffix(b"\n").split(b"\n")
    claimed = [1]
    for line, *values in outcome.rows:
        claimed += range(line, line + 1 + sum(value.count("\n") for value in values))
    for rejected in outcome.rejected:
        claimed += range(rejected.line, rejected.line + rejected.lines)
    blank = [number for number, line in enumerate(lines, 1) if line.strip(b"\r") == b"" and number not in claimed]
    assert sorted(claimed + blank) == list(range(1, len(lines) + 1))
    assert outcome.lines == len(lines)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(1, 100), chunk=st.integers(1, 30))
def test_gzip_cut_short_is_never_read_as_if_it_were_whole(data, cut, chunk):
    zipped = gzip.compress(b"h,k\n" + data)
    with pytest.raises(SnapshotUnreadable, match="ends too early"):
        read(zipped[: max(len(zipped) - cut, len(b"\x1f\x8b"))], chunk=chunk)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 200), junk=st.binary(max_size=8), chunk=st.integers(1, 30))
def test_gzip_with_junk_in_it_raises_nothing_but_unreadable(data, at, junk, chunk):
    zipped = gzip.compress(b"h,k\n" + data)
    with contextlib.suppress(SnapshotUnreadable):
        read(zipped[:at] + junk + zipped[at:], chunk=chunk)


# Sizes: long records, hostile files, flat memory


def test_record_of_ten_megabytes_is_read():
    outcome = read(b'a,b\n1,"' + b"long text\n" * 1_000_000 + b'"\n2,x\n')
    assert [(row[0], len(row[2])) for row in outcome.rows] == [(2, 10_000_000), (1_000_003, 1)]


@pytest.mark.parametrize(
    ("long", "reason"),
    [
        (b"x" * 20_000_000, RejectReason.TOO_LONG),
        (b'1,"' + b"x" * 20_000_000, RejectReason.UNTERMINATED_QUOTE),
    ],
)
@pytest.mark.parametrize("rest", [b"\n3,y\n", b""])
def test_record_beyond_the_limit_costs_its_own_line(long: bytes, reason: RejectReason, rest: bytes):
    outcome = read(b"a,b\n0,x\n" + long + rest)
    assert outcome.refusals == [(3, reason)]
    assert outcome.rows == [(2, "0", "x"), *([(4, "3", "y")] if rest else [])]
    assert outcome.lines == (4 if rest else 3)


def test_unclosed_quote_in_a_big_file_costs_one_line():
    row = b"1," + b"x" * 5_000 + b"\n"
    outcome = read(b'a,b\n1,"x\n' + row * 4_000 + b'2,"y"\n')
    assert outcome.refusals == [(2, RejectReason.UNTERMINATED_QUOTE)]
    assert [row[0] for row in outcome.rows] == list(range(3, 4_004))


@pytest.mark.parametrize(
    "line",
    [
        b'a,"b,c\n',
        b'a","c\n',
        b'"\n',
        b'a,"\n',
        b'",\n',
        b'a"b,"c\n',
        b'1,"x""\n',
        b'a,b"c","\n',
        b"\n1,2,3\n",
        b"\xe9,b,c\n",
    ],
)
def test_hostile_file_takes_time_in_proportion_to_its_size(line: bytes):
    """Eight times the file, eight times the CPU; it was the square, and hours, when every line was followed to the end
    of the file."""

    def cpu_s(size: int) -> float:
        data = b"a,b,c\n" + line * (size // len(line))
        begin = time.process_time()
        with TemporaryDirectory() as folder:
            for piece in read_partition([data], folder=Path(folder), name="hostile"):
                piece.path.unlink()
        return time.process_time() - begin

    assert cpu_s(200_000) < 24 * min(cpu_s(25_000) for _ in range(2))


def peak_mb(chunks: Iterable[bytes]) -> float:
    tracemalloc.start()
    with TemporaryDirectory() as folder:
        for piece in read_partition(chunks, folder=Path(folder), name="big"):
            piece.path.unlink()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def test_memory_does_not_grow_with_the_file():
    rows = b"1,plain,text\n" * 100_000
    assert peak_mb([b"a,b,c\n", *[rows] * 60]) < 12


def test_memory_does_not_grow_with_the_number_of_rejected_lines():
    assert peak_mb([b"a,b\n", *[b"1,2\n\n1,2\nx\n" * 20_000] * 2]) < 25


def test_piece_ends_early_rather_than_hold_a_line_break_for_every_other_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MAX_LINE_BREAKS", 100)
    outcome = read(b"a,b\n" + b"1,2\n\n" * 1_000)
    assert [len(piece.line_breaks) for piece in outcome.pieces] == [100] * 10
    assert [row[0] for row in outcome.rows] == list(range(2, 2_002, 2))


def test_gzip_that_expands_a_thousandfold_is_unpacked_a_buffer_at_a_time():
    bomb = gzip.compress(b"a,b\n" + b"1,2\n" * 15_000_000)
    assert len(bomb) < 200_000
    assert peak_mb([bomb]) < 12


def test_pieces_keep_to_their_size_and_begin_with_a_record():
    data = b"a,b\n" + b"".join(b'%d,"two\nlines"\n' % number for number in range(50_000))
    outcome = read(data, piece_bytes=100_000)
    assert len(outcome.sizes) > 8
    assert max(outcome.sizes) <= 100_000
    assert outcome.rows == [(2 + 2 * number, str(number), "two\nlines") for number in range(50_000)]


@pytest.mark.parametrize("length", [40, 300, 1_000, 1_700])
@pytest.mark.parametrize("chunk", [4 << 20, 999_999, 999_990, 700_000])
def test_only_a_piece_with_a_huge_record_says_that_it_has_one(chunk: int, length: int):
    """However the bytes arrive: what is read at a time must not pass for one record."""
    short = b"a,b,c,%s\n" % (b"x" * length) * (6_000_000 // length)
    huge = b"a,b,c,%s\n" % (b"x" * 2_100_000)
    assert not any(has_huge_records(b"a,b,c,d\n" + short, chunk=chunk))
    assert any(has_huge_records(b"a,b,c,d\n" + short + huge, chunk=chunk))


def has_huge_records(data: bytes, *, chunk: int) -> list[bool]:
    with TemporaryDirectory() as folder:
        pieces = read_partition(split([data], chunk), folder=Path(folder), name="some", piece_bytes=2_500_000)
        return [piece.has_huge_records for piece in pieces]


def test_long_texts_that_look_like_rows_are_read_whole():
    """DuckDB fails on this with parallel=true: it takes lines within the text for the beginning of a record."""
    text = 'fake,row\n"",\n' * 500
    rows = [(str(number), text) for number in range(2_000)]
    outcome = read(as_csv([("id", "text"), *rows]).encode())
    assert outcome.values == rows


def test_reading_can_be_left_before_its_end(tmp_path: Path):
    partition = read_partition([b"a\n" + b"1\n" * 1000], folder=tmp_path, name="left", piece_bytes=100)
    next(partition)
    partition.close()
    assert list(partition) == []


def test_columns_are_known_before_the_first_piece(tmp_path: Path):
    partition = read_partition(iter([b"a;b\n1;2\n"]), folder=tmp_path, name="early")
    assert (partition.columns, partition.delimiter, partition.header.has_header) == (("a", "b"), ";", True)
    assert not list(tmp_path.iterdir())


def test_partitions_with_like_names_share_a_folder(tmp_path: Path):
    names = ["a/1.csv", "a_1.csv", "a?1.csv", "ä" * 1000]
    pieces = [next(read_partition([b"a\n1\n"], folder=tmp_path, name=name)) for name in names]
    assert len({piece.path for piece in pieces}) == len(names)


def test_folder_and_column_names_may_hold_quotes(tmp_path: Path):
    folder = tmp_path / "it's"
    folder.mkdir()
    partition = read_partition([b"it's,b\n1,2\n"], folder=folder, name="x")
    piece = next(partition)
    found = database.execute(f"select * from {read_csv_call(piece, partition.columns)}")
    assert [column[0] for column in found.description or []] == ["it's", "b"]
    assert found.fetchall() == [("1", "2")]


# Encodings


@pytest.mark.parametrize("declared", ["klingon", "hex", "rot13", "base64", " ", "\0", "idna", "undefined", "../x"])
def test_encoding_that_is_none_is_unreadable(declared: str):
    with pytest.raises(SnapshotUnreadable, match="encoding") as refused:
        read(b"a,b\n1,2\n", declared=Dialect(encoding=declared))
    assert refused.value.hint


@pytest.mark.parametrize("declared", sorted(set(aliases.values())))
def test_no_encoding_of_python_raises_anything_else(declared: str):
    data = b"a,b\n" + bytes(range(1, 256)) + b"\n1,2\n"
    with contextlib.suppress(SnapshotUnreadable):
        read(data, declared=Dialect(encoding=declared), chunk=9)


@pytest.mark.parametrize(
    ("declared", "data"),
    [
        ("Windows-1252", "a,b\né€,2\n".encode("cp1252")),
        ("1252", "a,b\né€,2\n".encode("cp1252")),
        ("65001", "a,b\né€,2\n".encode()),
        ("ASCII", "a,b\né€,2\n".encode()),
        ("unicode", "a,b\né€,2\n".encode("utf-16-le")),
        ("utf-16", "a,b\né€,2\n".encode("utf-16-be")),
        ("windows-1252", "\ufeffa,b\né€,2\n".encode("utf-16-be")),
        (None, "a,b\né€,2\n".encode("utf-16-le")),
        ("UTF-8", "a,b\né€,2\n".encode("utf-16-be")),
        ("iso-8859-15", "a,b\né€,2\n".encode("iso-8859-15")),
    ],
)
def test_encoding_is_found_by_mark_then_name_then_zero_bytes(declared: str | None, data: bytes):
    assert read(data, declared=Dialect(encoding=declared)).values == [("é€", "2")]


# The header

CONTACT = ["CustomerId", "Email", "Channel", "Name"]


@pytest.mark.parametrize(
    ("first", "declared", "columns", "mapped", "has_header", "names", "why"),
    [
        (["Id", "EMail"], None, None, [], True, ["Id", "EMail"], "Nothing else is known"),
        (["Id", "EMail"], None, None, ["EMail"], True, ["Id", "EMail"], "holds the column names."),
        (["Id", " EMAIL "], False, ["id", "email"], [], True, ["Id", "EMAIL"], "although model.json says"),
        (["Id", "EMail", "New"], False, ["Id", "EMail"], ["EMail"], True, ["Id", "EMail", "New"], "although"),
        (["Id", "Mail", "City"], False, ["Id", "EMail", "City"], ["EMail"], True, ["Id", "Mail", "City"], "although"),
        (["Id", "EMail"], True, ["Id", "EMail"], [], True, ["Id", "EMail"], "holds the column names."),
        (["Key", "Address"], True, ["Id", "EMail"], ["EMail"], True, ["Key", "Address"], "model.json says"),
        (["1", "a@b.c"], True, ["Id", "EMail"], [], False, ["Id", "EMail"], "holds an address"),
        (["1", "a@b.c"], True, None, [], True, ["1", "a@b.c"], "model.json says"),
        (["1", "a@b.c"], False, ["Id", "EMail"], [], False, ["Id", "EMail"], "no column names"),
        (["1", "a@b.c"], None, ["Id", "EMail"], [], False, ["Id", "EMail"], "does not repeat"),
        (["1", "x"], False, None, [], False, ["column_1", "column_2"], "column_1 and so on"),
        (["1", "a@b.c"], None, None, ["EMail"], False, ["column_1", "column_2"], "holds an address"),
        (["1", "x"], None, None, ["column_2"], False, ["column_1", "column_2"], "counts columns"),
        (["Id", "Mail"], None, None, ["EMail"], True, ["Id", "Mail"], "Nothing else is known"),
        # a person's preferred channel is called as a column is
        (["C1", "a@b.c", "Email", "Ada"], False, CONTACT, ["Email"], False, CONTACT, "no column names"),
        (["C1", "a@b.c", "Email", "Ada"], None, CONTACT, ["Email"], False, CONTACT, "does not repeat"),
        (["C1", "a@b.c", "Email", "Ada"], True, CONTACT, ["Email"], False, CONTACT, "holds an address"),
        (["C1", "", "Email", "Ada"], False, CONTACT, ["Email"], False, CONTACT, "no column names"),
        (["Name", "", "Email", "CustomerId"], False, CONTACT, ["Email"], False, CONTACT, "no column names"),
        (["C1", "a@b.c", "Email"], None, None, ["Email"], False, ["column_1", "column_2", "column_3"], "an address"),
        (CONTACT[::-1], False, CONTACT, ["Email"], True, CONTACT[::-1], "although"),
        (["New", "Name", "Email"], None, CONTACT, ["Email"], True, ["New", "Name", "Email"], "holds the column names."),
        ([*CONTACT[:3], ""], False, CONTACT, ["Email"], True, [*CONTACT[:3], "column_4"], "although"),
        (["Id", "E@Mail"], False, ["Id", "E@Mail"], ["E@Mail"], True, ["Id", "E@Mail"], "although"),
        (["City", "", "city", "City_2", "City"], True, None, [], True, None, "changed to unique ones"),
    ],
)
def test_header_is_decided(first, declared, columns, mapped, has_header, names, why):
    decision = decide_header(first, declared=declared, columns=columns, mapped=mapped)
    assert decision.has_header == has_header
    assert decision.columns == tuple(names or ["City", "column_2", "city_3", "City_2", "City_4"])
    assert why in decision.why
    assert not [cell for cell in first if "@" in cell and cell in decision.why]


@given(st.lists(st.sampled_from(["", " ", "City", "city", "City_2", "column_1", "column_2", "ß", "SS"]), min_size=1))
def test_column_names_are_never_empty_or_alike(first: list[str]):
    columns = decide_header(first, declared=True).columns
    assert len(columns) == len(first)
    assert all(columns)
    assert len({name.casefold() for name in columns}) == len(first)


@pytest.mark.parametrize("delimiter", [",,", '"', "\n", "a", "1", " ", "é", "\0"])
def test_delimiter_that_cannot_work_is_refused(delimiter: str):
    with pytest.raises(SnapshotUnreadable, match="delimiter"):
        read(b"a,b\n1,2\n", declared=Dialect(delimiter=delimiter))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "^", "~", ":", "#", "\x01", "\x1f", "_", "\\", "'", "."])
def test_delimiter_of_any_punctuation_is_taken(delimiter: str):
    rows = [("a", "b", "c"), ("1", ' "2"', "3"), ("", 'x"y', "")]
    data = as_csv(rows, delimiter=delimiter).encode()
    assert read(data, declared=Dialect(delimiter=delimiter)).values == rows[1:]


@pytest.mark.parametrize("columns", [None, ("a", "b")])
@pytest.mark.parametrize(
    "data",
    [random.Random(0).randbytes(5_000), "Имя;Город\n".encode("koi8-r") * 100, "Имя;b\n".encode("utf-16-be") * 100],
)
def test_file_that_is_not_text_in_its_encoding_is_unreadable(data: bytes, columns: tuple[str, ...] | None):
    with pytest.raises(SnapshotUnreadable, match="not text in the encoding utf-8"):
        read(data, declared=Dialect(columns=columns))


def test_parquet_is_told_from_csv_that_begins_alike():
    assert is_parquet(b"PAR1\x15\x04")
    assert not is_parquet(b"PAR1,b\n")
    assert not is_parquet(b"")


def test_wide_table_is_read_and_one_too_wide_is_not():
    assert len(read(b",".join([b"x"] * 3000) + b"\n" + b"1," * 2999 + b"\n").values[0]) == 3000
    with pytest.raises(SnapshotUnreadable, match="first line"):
        read(b",".join([b"x"] * (reading.MAX_COLUMNS + 1)) + b"\n")
