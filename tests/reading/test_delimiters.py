"""Which characters may stand between columns."""

from __future__ import annotations

import pytest

from exporter.errors import SnapshotUnreadable
from exporter.reading.dialect import Dialect
from tests.reading.outcomes import as_csv, read


@pytest.mark.parametrize("delimiter", [",,", '"', "\n", "a", "1", " ", "é", "\0"])
def test_delimiter_that_cannot_work_is_refused(delimiter: str):
    with pytest.raises(SnapshotUnreadable, match="delimiter"):
        read(b"a,b\n1,2\n", declared=Dialect(delimiter=delimiter))


@pytest.mark.parametrize(
    "delimiter", [",", ";", "\t", "|", "^", "~", ":", "#", "\x01", "\x1f", "_", "\\", "'", "."]
)
def test_delimiter_of_any_punctuation_is_taken(delimiter: str):
    rows = [("a", "b", "c"), ("1", ' "2"', "3"), ("", 'x"y', "")]
    data = as_csv(rows, delimiter=delimiter).encode()
    assert read(data, declared=Dialect(delimiter=delimiter)).values == rows[1:]


@pytest.mark.parametrize("line", [b"sep=;\n", b"SEP=;\r\n", b'"sep=;"\n', b"\nsep=;\n"])
@pytest.mark.parametrize("declared", [None, ","])
def test_excels_own_line_names_the_delimiter(line: bytes, declared: str | None):
    data = line + b"EMail;Note\na@x.co;1,5\n"
    for chunk in (1, 100):
        outcome = read(data, declared=Dialect(delimiter=declared), chunk=chunk, piece_bytes=4)
        assert outcome.header.columns == ("EMail", "Note")
        assert outcome.rows == [(2 + line.count(b"\n"), "a@x.co", "1,5")]
        assert outcome.notes == ("The file's first line says that the delimiter is a semicolon.",)


@pytest.mark.parametrize(
    ("header", "declared", "expected", "delimiter"),
    [
        ("EMail;Name", ",", ["EMail"], ";"),
        ("EMail;Name", ",", [], ";"),
        ("EMail;Last, First", ",", ["EMail"], ";"),
        ("Last, First, Middle;EMail", None, ["EMail"], ";"),
        ("a;b,c", ",", ["a;b"], ","),
        ("a;b,c", ",", [], ","),
        ("EMail", ";", ["EMail"], ";"),
        ("1;a@x.co", ",", ["EMail"], ";"),
        ("Id|EMail", "\t", ["email"], "|"),
        ("Id^EMail", "^", ["EMail"], "^"),
    ],
)
def test_delimiter_is_the_one_under_which_the_mapped_columns_exist(
    header: str, declared: str | None, expected: list[str], delimiter: str
):
    outcome = read(f"{header}\n".encode(), declared=Dialect(delimiter=declared), expected=expected)
    assert outcome.delimiter == delimiter
    contradicts = bool(declared) and declared != delimiter
    assert any("although model.json says" in note for note in outcome.notes) == contradicts
