"""DuckDB: how it is opened, what it may take, and how texts get into SQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from exporter.errors import ConfigError


def open_database(folder: Path, *, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in memory that may read and write in `folder` only, and spills there."""
    database = open_unlocked(folder, memory_mb=memory_mb)
    database.execute(f"SET allowed_directories = [{literal(str(folder))}]")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


def open_unlocked(folder: Path, *, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in memory that spills into `folder`, and may yet be set otherwise.

    A query has one thread: our own threads, each with a cursor, work in parallel. This keeps memory
    predictable and the order of rows certain.
    """
    spill = folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    database = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": str(spill),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": True,
            # Joins stay as written, the large table first: else the order of rows would be lost.
            "disabled_optimizers": "join_order,build_side_probe_side",
        },
    )
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    # Else a row group is held as a whole, and other programs write them of a million rows.
    database.execute("SET GLOBAL disable_parquet_prefetching = true")
    database.execute("SET GLOBAL enable_external_file_cache = false")
    # As it is by default: what is known of row groups would be kept for good, 10 MB of it a million
    # rows, and the heap in fragments between. To read it anew for each batch costs no more.
    database.execute("SET GLOBAL parquet_metadata_cache = false")
    return database


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Raise ConfigError where DuckDB needs more memory than it was given, and cannot spill."""
    try:
        yield
    except duckdb.OutOfMemoryException as exc:
        raise ConfigError(
            "the snapshot needs more memory than MEMORY_MB allows",
            hint="Raise MEMORY_MB: each typed property takes about 0.5 MB, and the largest row"
            " group of a Parquet file has to fit. Or map fewer columns.",
        ) from exc


def literal(text: str) -> str:
    """Quote a text as an SQL string."""
    if "\0" in text:
        raise ValueError("NUL in an SQL string")
    return "'" + text.replace("'", "''") + "'"
