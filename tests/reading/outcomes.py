"""A partition read to its end, and its pieces by DuckDB: for the tests of this room."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from exporter.reading.column_headers import HeaderDecision
from exporter.reading.good_records import RejectedLine
from exporter.reading.partition import read_partition
from exporter.reading.pieces import Piece, read_csv_call, source_line

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
    notes: tuple[str, ...]
    encoding: str

    @property
    def values(self) -> list[tuple[str, ...]]:
        return [row[1:] for row in self.rows]

    @property
    def refusals(self) -> list[tuple[int, str]]:
        return [(line.line, line.reason.value) for line in self.rejected]


def read(data: bytes | Iterable[bytes], *, chunk: int = 1 << 20, **options: Any) -> Outcome:
    """Read a whole partition, and its pieces with DuckDB."""
    rejected: list[RejectedLine] = []
    chunks = (
        [data[at : at + chunk] for at in range(0, len(data), chunk)]
        if isinstance(data, bytes)
        else data
    )
    with TemporaryDirectory() as folder:
        partition = read_partition(
            chunks,
            folder=Path(folder),
            name="Segment_1.csv",
            on_rejected=rejected.append,
            **options,
        )
        pieces, sizes, rows = [], [], []
        for piece in partition:
            pieces.append(piece)
            sizes.append(piece.path.stat().st_size)
            rows.extend(rows_of(piece, partition.columns))
            piece.path.unlink()
        assert not list(Path(folder).iterdir())
    assert partition.rejected.total() == len(rejected)
    return Outcome(
        header=partition.header,
        delimiter=partition.delimiter,
        rows=rows,
        rejected=rejected,
        lines=partition.lines,
        pieces=pieces,
        sizes=sizes,
        notes=partition.notes,
        encoding=partition.encoding,
    )


def rows_of(piece: Piece, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    local_line = 1
    names = [f"c{position}" for position in range(len(columns))]
    rows = f"select {', '.join(names)} from {read_csv_call(piece, names)}"
    for row in database.execute(rows).fetchall():
        values = tuple(value or "" for value in row)
        assert len(values) == len(columns)
        yield source_line(piece.line_breaks, local_line), *values
        local_line += 1 + sum(value.count("\n") for value in values)


def as_csv(
    rows: Iterable[Sequence[str]],
    *,
    delimiter: str = ",",
    line_end: str = "\n",
    quote_all: bool = False,
) -> str:
    """Write as csv.writer does, but quote each field with a line break.

    csv.writer itself does so from Python 3.13 on only.
    """

    def field(value: str, width: int) -> str:
        special = any(one in value for one in ('"', delimiter, "\r", "\n")) or (
            width == 1 and not value
        )
        return '"' + value.replace('"', '""') + '"' if quote_all or special else value

    return "".join(
        delimiter.join(field(value, len(row)) for value in row) + line_end for row in rows
    )


def peak_mb(chunks: Iterable[bytes]) -> float:
    tracemalloc.start()
    with TemporaryDirectory() as folder:
        for piece in read_partition(chunks, folder=Path(folder), name="big"):
            piece.path.unlink()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6
