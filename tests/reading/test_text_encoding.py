"""Compression and encodings: which one is found, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import random
from encodings.aliases import aliases

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import SnapshotUnreadable
from exporter.reading.dialect import Dialect
from exporter.reading.text_encoding import is_parquet
from tests.reading.outcomes import peak_mb, read


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(1, 100), chunk=st.integers(1, 30))
def test_gzip_cut_short_is_never_read_as_if_it_were_whole(data, cut, chunk):
    zipped = gzip.compress(b"h,k\n" + data)
    with pytest.raises(SnapshotUnreadable, match="ends too early"):
        read(zipped[: max(len(zipped) - cut, len(b"\x1f\x8b"))], chunk=chunk)


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=200),
    at=st.integers(0, 200),
    junk=st.binary(max_size=8),
    chunk=st.integers(1, 30),
)
def test_gzip_with_junk_in_it_raises_nothing_but_unreadable(data, at, junk, chunk):
    zipped = gzip.compress(b"h,k\n" + data)
    with contextlib.suppress(SnapshotUnreadable):
        read(zipped[:at] + junk + zipped[at:], chunk=chunk)


def test_gzip_that_expands_a_thousandfold_is_unpacked_a_buffer_at_a_time():
    bomb = gzip.compress(b"a,b\n" + b"1,2\n" * 15_000_000)
    assert len(bomb) < 200_000
    assert peak_mb([bomb]) < 12


@pytest.mark.parametrize(
    "declared", ["klingon", "hex", "rot13", "base64", " ", "\0", "idna", "undefined", "../x"]
)
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


@pytest.mark.parametrize("columns", [None, ("a", "b")])
@pytest.mark.parametrize(
    "data",
    [
        random.Random(0).randbytes(5_000),
        "Имя;Город\n".encode("koi8-r") * 100,
        "Имя;b\n".encode("utf-16-be") * 100,
    ],
)
def test_file_that_is_not_text_in_its_encoding_is_unreadable(
    data: bytes, columns: tuple[str, ...] | None
):
    with pytest.raises(SnapshotUnreadable, match="not text in the encoding utf-8"):
        read(data, declared=Dialect(columns=columns))


def test_parquet_is_told_from_csv_that_begins_alike():
    assert is_parquet(b"PAR1\x15\x04")
    assert not is_parquet(b"PAR1,b\n")
    assert not is_parquet(b"")


@pytest.mark.parametrize(
    ("culture", "encoding", "name"),
    [
        ("de-DE", "cp1252", "Jürgen Groß"),
        ("ro-RO", "cp1250", "Ștefan".replace("Ș", "Ş") + " Părău"),
        ("cs-CZ", "cp1250", "Dvořák"),
        ("ru-RU", "cp1251", "Привет"),
        ("el-GR", "cp1253", "Ελένη"),
        ("tr-TR", "cp1254", "Işık"),
        ("ja-JP", "cp932", "山田太郎"),
    ],
)
@pytest.mark.parametrize("declared", [None, "UTF-8"])
def test_what_is_not_utf8_is_read_in_the_code_page_of_the_culture_and_said_so(
    culture: str, encoding: str, name: str, declared: str | None
):
    data = f"EMail,Name\na@x.co,Ada\nb@x.co,{name}\n".encode(encoding)
    dialect = Dialect(culture=culture, encoding=declared)
    for chunk in (1, 7, 100):
        outcome = read(data, declared=dialect, chunk=chunk)
        assert outcome.values == [("a@x.co", "Ada"), ("b@x.co", name)]
        assert outcome.encoding == encoding
        assert culture in outcome.notes[0]


@pytest.mark.parametrize(
    "name", ["Málaga".encode("cp1252"), b"\x80\x81\x83", "é é é".encode() + b" \xff"]
)
def test_what_is_not_utf8_is_rejected_where_nothing_says_what_else_it_is(name: bytes):
    dialect = Dialect(culture=None if name.startswith(b"M") else "de-DE")
    outcome = read(b"EMail,Name\na@x.co," + name + b"\n", declared=dialect)
    assert outcome.refusals == [(2, "bad_encoding")]
    assert "windows-1252" in outcome.notes[0]


def test_encoding_that_a_person_names_wins_over_model_and_culture():
    data = "EMail,Name\na@x.co,é\n".encode("cp850")
    dialect = Dialect(encoding="windows-1252", culture="de-DE")
    assert read(data, declared=dialect, encoding="cp850").values == [("a@x.co", "é")]
    assert read(data, declared=dialect, encoding="utf-8").refusals == [(2, "bad_encoding")]
    assert read("\ufeffEMail\né\n".encode(), encoding="cp850").values == [("é",)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_two_carriage_returns_before_a_line_feed_are_one_line_end(chunk: int):
    data = b'EMail,Note\r\r\na@x.co,"x\r\r\ny"\r\r\n\r\r\nb@x.co,z\r\r\n'
    outcome = read(data, chunk=chunk)
    assert outcome.rows == [(2, "a@x.co", "x\ny"), (5, "b@x.co", "z")]
    assert outcome.rejected == []
