"""A partition to be read, whatever its format."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exporter.reading.dialect import Dialect
from exporter.reading.parquet import save_parquet
from exporter.reading.partition import read_partition
from exporter.reading.pieces import read_csv_call
from exporter.reading.text_encoding import is_parquet, peek
from exporter.sql import open_database


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSource:
    """One partition to read: `open` gives its bytes from the start, in chunks."""

    name: str
    open: Callable[[], Iterable[bytes]]
    dialect: Dialect = field(default_factory=Dialect)


def open_partition(source: PartitionSource) -> tuple[bool, Iterator[bytes]]:
    """Tell whether a partition is a Parquet file, and give its bytes."""
    first_bytes, chunks = peek(iter(source.open()))
    return source.name.lower().endswith(".parquet") or is_parquet(first_bytes), chunks


def count_rows(source: PartitionSource, folder: Path, *, memory_mb: int = 96) -> int:
    """Count the rows of a partition as a plan of it would, damaged ones included.

    Leaves nothing in `folder`. Raises SnapshotUnreadable, and whatever opening the source raises.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        in_parquet, chunks = open_partition(source)
        with contextlib.closing(open_database(work, memory_mb=memory_mb)) as database:
            if in_parquet:
                return save_parquet(database, source.name, chunks, work / "partition.parquet").rows
            rows = 0
            reading = read_partition(chunks, folder=work, name=source.name, declared=source.dialect)
            with contextlib.closing(reading):
                for piece in reading:
                    columns = [f"c{position}" for position in range(len(reading.columns))]
                    counted = f"SELECT count(*) FROM {read_csv_call(piece, columns)}"
                    found = database.execute(counted).fetchone()
                    rows += int(found[0]) if found else 0
                    piece.path.unlink()
            return rows + reading.rejected.total()


def read_columns(source: PartitionSource) -> tuple[str, ...]:
    """Give the columns of a partition, none if it is empty.

    Reads a CSV file up to its header, a Parquet file to its end.
    Raises SnapshotUnreadable, and whatever opening the source raises.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_parquet, chunks = open_partition(source)
        if in_parquet:
            with contextlib.closing(open_database(folder, memory_mb=64)) as database:
                path = folder / "partition.parquet"
                return save_parquet(database, source.name, chunks, path).columns
        reading = read_partition(chunks, folder=folder, name=source.name, declared=source.dialect)
        with contextlib.closing(reading):
            return reading.columns
