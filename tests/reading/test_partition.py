"""Every file that can arrive: good rows reach DuckDB unchanged, all else is named by its line.

DuckDB itself reads the pieces here, because it must read them without an error.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from exporter.errors import SnapshotUnreadable
from exporter.reading.dialect import Dialect
from exporter.reading.partition import read_partition
from exporter.reading.sample import MAX_COLUMNS
from exporter.rejection_reasons import RejectReason
from tests.reading.outcomes import as_csv, peak_mb, read

CORPUS = Path(__file__).parent.parent / "data" / "reading"


# The corpus: small nasty files, each beside what should become of it


@pytest.mark.parametrize("stored", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_corpus_file_gives_the_outcome_beside_it(stored: Path):
    wanted = json.loads(stored.read_text(encoding="utf-8"))
    data = (CORPUS / wanted["file"]).read_bytes()
    if columns := wanted.get("declared", {}).get("columns"):
        wanted["declared"]["columns"] = tuple(columns)
    for chunk in (1 << 20, 1, 7):
        assert outcome_of(data, wanted, chunk=chunk) == {
            key: value
            for key, value in wanted.items()
            if key not in ("file", "about", "declared", "expected")
        }


def outcome_of(data: bytes, wanted: dict[str, Any], *, chunk: int) -> dict[str, Any]:
    options = {
        "declared": Dialect(**wanted.get("declared", {})),
        "expected": wanted.get("expected", []),
    }
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
    described = [
        json.loads(path.read_text(encoding="utf-8"))["file"] for path in CORPUS.glob("*.json")
    ]
    assert files == {*described, *(path.name for path in CORPUS.glob("*.json"))}


# What is written by a CSV writer comes back

nasty = st.sampled_from(
    [
        '"',
        '""',
        ",",
        ";",
        "\t",
        "|",
        "\n",
        "\r\n",
        "\r",
        " ",
        ' "',
        "\ufeff",
        "'",
        "é",
        "€",
        "\\",
        "x",
    ]
)


plain_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6
)


cells = plain_text | st.lists(nasty, max_size=5).map("".join)


tables = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=8)
)


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
    encoding=st.sampled_from(
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "latin-1", "cp932"]
    ),
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
    outcome = read(
        gzip.compress(data) if zipped else data,
        chunk=chunk,
        piece_bytes=piece_bytes,
        declared=declared,
    )

    found = as_csv_reader_sees_it(text, delimiter)
    assert outcome.header.columns == tuple(header)
    assert outcome.rows == [tuple(with_lf(value) for value in row) for row in found[1:]]
    assert [list(row) for row in outcome.values] == [
        [with_lf(value) for value in row] for row in table
    ]
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
    lines=st.lists(
        st.lists(cells, min_size=3, max_size=3) | st.sampled_from([*GARBAGE, b""]), max_size=12
    ),
    ends_open=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    chunk=st.integers(1, 40),
    piece_bytes=st.integers(1, 200),
)
def test_rows_around_damaged_lines_survive_and_each_damaged_line_is_named(
    lines, ends_open, line_end, chunk, piece_bytes
):
    data, line = b"a,b,c" + line_end.encode() + b"1,2,3" + line_end.encode(), 3
    rows: list[Any] = [(2, "1", "2", "3")]
    rejected = []
    for one in [*lines, *([b'one,"two,three'] if ends_open else [])]:
        if isinstance(one, list):
            record = as_csv([one], line_end=line_end).encode()
            rows.append((line, *map(with_lf, one)))
        else:
            record = one + line_end.encode()
            if one:
                rejected.append(
                    (line, GARBAGE.get(one, RejectReason.UNTERMINATED_QUOTE), record.count(b"\n"))
                )
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
    encoding=st.sampled_from(
        [*[None] * 8, "utf-8", "cp1252", "utf-16", "shift_jis", "utf-7", "utf-32", "hz"]
    ),
    quoting=st.booleans(),
    has_header=st.sampled_from([None, True, False]),
    columns=st.sampled_from([None, ("h", "k")]),
)


@settings(max_examples=600, deadline=None)
@given(
    head=st.sampled_from(
        [b"", b"h\n", b"h,k\n", b"h;k\r\n", b"h,k,l\n", b"\xff\xfeh\0\n\0", b"\xef\xbb\xbfh,k\n"]
    ),
    body=garbled,
    declared=dialects,
    zipped=st.booleans(),
    chunk=st.integers(1, 20),
    piece_bytes=st.integers(1, 50),
)
@example(
    head=b"h,k\n",
    body=b"\xef\xbb\xbf1,2\n",
    declared=Dialect(),
    zipped=False,
    chunk=9,
    piece_bytes=9,
)
@example(
    head=b"h,k\n", body=b'1, "2,\n"\n', declared=Dialect(), zipped=False, chunk=9, piece_bytes=9
)
@example(head=b"", body=b"\r\nh,k\n1,2\n", declared=Dialect(), zipped=False, chunk=1, piece_bytes=1)
@example(
    head=b"",
    body=b'\n\r\n";\n',
    declared=Dialect(quoting=False),
    zipped=False,
    chunk=5,
    piece_bytes=13,
)
def test_any_bytes_are_read_alike_in_any_cut_or_are_unreadable(
    head, body, declared, zipped, chunk, piece_bytes
):
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
    outcome = read(
        data, declared=Dialect(quoting=quoting, has_header=True), piece_bytes=piece_bytes
    )

    lines = data.removesuffix(b"\n").split(b"\n")
    claimed = [1]
    for line, *values in outcome.rows:
        claimed += range(line, line + 1 + sum(value.count("\n") for value in values))
    for rejected in outcome.rejected:
        claimed += range(rejected.line, rejected.line + rejected.lines)
    blank = [
        number
        for number, line in enumerate(lines, 1)
        if line.strip(b"\r") == b"" and number not in claimed
    ]
    assert sorted(claimed + blank) == list(range(1, len(lines) + 1))
    assert outcome.lines == len(lines)


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
    """Eight times the file, eight times the CPU.

    It was the square, and hours, when every line was followed to the end of the file.
    """

    def cpu_s(size: int) -> float:
        data = b"a,b,c\n" + line * (size // len(line))
        begin = time.process_time()
        with TemporaryDirectory() as folder:
            for piece in read_partition([data], folder=Path(folder), name="hostile"):
                piece.path.unlink()
        return time.process_time() - begin

    assert cpu_s(200_000) < 24 * min(cpu_s(25_000) for _ in range(2))


def test_memory_does_not_grow_with_the_file():
    rows = b"1,plain,text\n" * 100_000
    assert peak_mb([b"a,b,c\n", *[rows] * 60]) < 12


def test_memory_does_not_grow_with_the_number_of_rejected_lines():
    assert peak_mb([b"a,b\n", *[b"1,2\n\n1,2\nx\n" * 20_000] * 2]) < 25


def test_reading_can_be_left_before_its_end(tmp_path: Path):
    partition = read_partition(
        [b"a\n" + b"1\n" * 1000], folder=tmp_path, name="left", piece_bytes=100
    )
    next(partition)
    partition.close()
    assert list(partition) == []


def test_columns_are_known_before_the_first_piece(tmp_path: Path):
    partition = read_partition(iter([b"a;b\n1;2\n"]), folder=tmp_path, name="early")
    assert (partition.columns, partition.delimiter, partition.header.has_header) == (
        ("a", "b"),
        ";",
        True,
    )
    assert not list(tmp_path.iterdir())


def test_wide_table_is_read_and_one_too_wide_is_not():
    assert len(read(b",".join([b"x"] * 3000) + b"\n" + b"1," * 2999 + b"\n").values[0]) == 3000
    with pytest.raises(SnapshotUnreadable, match="first line"):
        read(b",".join([b"x"] * (MAX_COLUMNS + 1)) + b"\n")
