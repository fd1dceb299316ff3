"""DuckDB's databases used again and again: to open one takes 15 ms of CPU, and a run opens three.

What DuckDB may take and reach is set as `open_database` sets it, but for what could not be taken
back: the folder, and the lock. tests/planning and tests/test_sql.py open real ones.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest

from exporter.planning import planner, request_bodies
from exporter.reading import source
from exporter.sql import open_unlocked


class Database:
    """A connection that gives its database back when it is closed."""

    def __init__(self, pool: Databases, database: duckdb.DuckDBPyConnection) -> None:
        self._pool, self._database = pool, database
        self._connection = database.cursor()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def close(self) -> None:
        self._connection.close()
        database, self._database = self._database, None  # type: ignore[assignment]
        if database is not None:
            self._pool.take_back(database)


class Databases:
    """Those that nobody uses at the moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # where all spill
        self._free: list[duckdb.DuckDBPyConnection] = []
        self._lock = threading.Lock()

    def open(self, folder: Path, *, memory_mb: int) -> Database:
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            database = self._free.pop() if self._free else None
        if database is None:
            database = open_unlocked(self._folder, memory_mb=memory_mb)
        database.execute(f"SET memory_limit = '{memory_mb}MB'")
        return Database(self, database)

    def take_back(self, database: duckdb.DuckDBPyConnection) -> None:
        for (name,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            database.execute(f'DROP TABLE "{name}"')
        with self._lock:
            self._free.append(database)

    def close(self) -> None:
        for database in self._free:
            database.close()

    def serve(self, patch: pytest.MonkeyPatch) -> None:
        """Open these in place of new ones, for the time of a test."""
        for module in (planner, request_bodies, source):
            patch.setattr(module, "open_database", self.open)
