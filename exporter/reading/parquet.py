"""Parquet partitions as tables of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb

from exporter.errors import SnapshotUnreadable
from exporter.sql import literal

PARQUET_ROWS = 102_400  # rows of a Parquet partition that make one piece


def open_parquet(
    cursor: duckdb.DuckDBPyConnection, name: str, chunks: Iterable[bytes], path: Path
) -> tuple[list[str], list[str], int]:
    """Write a Parquet partition to `path`; see `_parquet_columns`. Raises SnapshotUnreadable."""
    with path.open("wb") as file:
        file.writelines(chunks)
    try:
        return _parquet_columns(cursor, path)
    except duckdb.Error as exc:
        raise no_parquet(name) from exc


def no_parquet(name: str) -> SnapshotUnreadable:
    hint = "Export or upload the file again."
    return SnapshotUnreadable(f"{name} is no Parquet file, or a damaged one", hint=hint)


def _parquet_columns(
    cursor: duckdb.DuckDBPyConnection, path: Path
) -> tuple[list[str], list[str], int]:
    """The names of a Parquet file's columns, the SQL that makes texts of them, and the number of rows."""
    file = f"read_parquet({literal(str(path))})"
    described = cursor.execute(f"DESCRIBE SELECT * FROM {file}").fetchall()
    rows = cursor.execute(f"SELECT count(*) FROM {file}").fetchone()
    names = [str(name) for name, *_ in described]
    return (
        names,
        [_as_text(str(name), str(kind)) for name, kind, *_ in described],
        int(rows[0]) if rows else 0,
    )


def parquet_slice(
    path: Path, texts: Sequence[str], first: int, *, rows: int = PARQUET_ROWS
) -> str:
    """SQL: some rows of a Parquet file as texts c0, c1, ..."""
    cells = ", ".join(f"{text} AS c{position}" for position, text in enumerate(texts))
    return (
        f"(SELECT {cells} FROM read_parquet({literal(str(path))}, file_row_number = true)"
        f" WHERE file_row_number >= {first} AND file_row_number < {first + rows})"
    )


def _as_text(name: str, kind: str) -> str:
    """SQL: a column of any type as a CSV file would hold it: dates as ISO 8601, nested values as JSON."""
    column = '"' + name.replace('"', '""') + '"'
    text = f"CAST({column} AS VARCHAR)"
    match kind.partition("(")[0]:
        case (
            "DOUBLE" | "FLOAT"
        ):  # whole numbers stand here too, when some are missing; NaN is how pandas says so
            whole = f"{column} = trunc({column}) AND abs({column}) < 1e15"
            plain = (
                f"CASE WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE {text} END"
            )
            return f"CASE WHEN NOT isnan({column}) THEN {plain} END"
        case "TIMESTAMP WITH TIME ZONE":
            return f"replace(CAST(CAST({column} AS TIMESTAMP) AS VARCHAR), ' ', 'T') || 'Z'"
        case kind if kind.startswith("TIMESTAMP") and not kind.endswith("]"):
            return f"replace({text}, ' ', 'T')"
        case "BLOB":
            text = f"TRY(decode({column}))"
        case kind if kind.startswith(("STRUCT", "MAP", "UNION", "VARIANT")) or kind.endswith("]"):
            text = f"CAST(to_json({column}) AS VARCHAR)"
    return f"replace({text}, chr(0), '')"
