"""Pieces: their size, the lines that they lead back to, and what DuckDB makes of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from exporter.reading.partition import read_partition
from exporter.reading.pieces import read_csv_call
from exporter.reading.text_encoding import split
from tests.reading.outcomes import as_csv, database, read


def test_piece_ends_early_rather_than_hold_a_line_break_for_every_other_line():
    outcome = read(b"a,b\n" + b"1,2\n\n" * 1_000, line_breaks=100)
    assert [len(piece.line_breaks) for piece in outcome.pieces] == [100] * 10
    assert [row[0] for row in outcome.rows] == list(range(2, 2_002, 2))


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
        pieces = read_partition(
            split([data], chunk), folder=Path(folder), name="some", piece_bytes=2_500_000
        )
        return [piece.has_huge_records for piece in pieces]


def test_long_texts_that_look_like_rows_are_read_whole():
    """With parallel=true DuckDB fails here: it takes lines of the text for new records."""
    text = 'fake,row\n"",\n' * 500
    rows = [(str(number), text) for number in range(2_000)]
    outcome = read(as_csv([("id", "text"), *rows]).encode())
    assert outcome.values == rows


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
