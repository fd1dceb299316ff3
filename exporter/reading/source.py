"""A partition to be read, whatever its format."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exporter.reading import partition, text_encoding
from exporter.reading.dialect import Dialect
from exporter.reading.parquet import open_parquet
from exporter.reading.pieces import read_csv_call
from exporter.sql import open_database


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSource:
    """One partition to read: `open` gives its bytes from the start, in chunks."""

    name: str
    open: Callable[[], Iterable[bytes]]
    dialect: Dialect = field(default_factory=Dialect)


def count_rows(source: PartitionSource, folder: Path, *, memory_mb: int = 96) -> int:
    """The rows of a partition, damaged ones included: as many as a plan of it has. Leaves nothing in `folder`.

    Raises SnapshotUnreadable, and whatever opening the source raises.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        is_parquet, chunks = open_source(source)
        with contextlib.closing(open_database(work, memory_mb=memory_mb)) as database:
            if is_parquet:
                return open_parquet(database, source.name, chunks, work / "partition.parquet")[2]
            rows = 0
            read = partition.read_partition(
                chunks, folder=work, name=source.name, declared=source.dialect
            )
            with contextlib.closing(read):
                for piece in read:
                    columns = [f"c{position}" for position in range(len(read.columns))]
                    found = database.execute(
                        f"SELECT count(*) FROM {read_csv_call(piece, columns)}"
                    ).fetchone()
                    rows += int(found[0]) if found else 0
                    piece.path.unlink()
            return rows + read.rejected.total()


def read_columns(source: PartitionSource) -> tuple[str, ...]:
    """The columns of a partition, empty if it is. A CSV file is read up to its header, a Parquet file to its end.

    Raises SnapshotUnreadable, and whatever opening the source raises.
    """
    with tempfile.TemporaryDirectory() as name:
        is_parquet, chunks = open_source(source)
        if not is_parquet:
            with contextlib.closing(
                partition.read_partition(
                    chunks, folder=Path(name), name=source.name, declared=source.dialect
                )
            ) as read:
                return read.columns
        path = Path(name) / "partition.parquet"
        with contextlib.closing(open_database(Path(name), memory_mb=64)) as database:
            return tuple(open_parquet(database, source.name, chunks, path)[0])


# Parquet


def open_source(source: PartitionSource) -> tuple[bool, Iterator[bytes]]:
    """Whether a partition is a Parquet file, and its bytes."""
    first_bytes, chunks = text_encoding.peek(iter(source.open()))
    return source.name.lower().endswith(".parquet") or text_encoding.is_parquet(first_bytes), chunks
