"""Parquet partitions as tables of text, as a CSV file would hold them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from exporter.errors import SnapshotUnreadable
from exporter.sql import literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetFile:
    """A Parquet partition in a local file.

    columns: their names. texts: for each, the SQL that makes text of it.
    """

    path: Path
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    rows: int

    def slice_as_text(self, first: int, rows: int) -> str:
        """Give the SQL of `rows` rows from row `first` on (from 0), as texts c0, c1, ..."""
        cells = ", ".join(f"{text} AS c{position}" for position, text in enumerate(self.texts))
        return (
            f"(SELECT {cells} FROM {_read_parquet(self.path, 'file_row_number = true')}"
            f" WHERE file_row_number >= {first} AND file_row_number < {first + rows})"
        )


def save_parquet(
    cursor: duckdb.DuckDBPyConnection, name: str, chunks: Iterable[bytes], path: Path
) -> ParquetFile:
    """Write the Parquet partition `name` to `path` and describe it. Raises SnapshotUnreadable."""
    with path.open("wb") as file:
        file.writelines(chunks)
    try:
        described = cursor.execute(f"DESCRIBE SELECT * FROM {_read_parquet(path)}").fetchall()
        rows = cursor.execute(f"SELECT count(*) FROM {_read_parquet(path)}").fetchone()
    except duckdb.Error as exc:
        raise damaged_parquet(name) from exc
    return ParquetFile(
        path=path,
        columns=tuple(str(column) for column, *_ in described),
        texts=tuple(_as_text(str(column), str(kind)) for column, kind, *_ in described),
        rows=int(rows[0]) if rows else 0,
    )


def damaged_parquet(name: str) -> SnapshotUnreadable:
    """Make the error for a file that DuckDB cannot read as Parquet."""
    return SnapshotUnreadable(
        f"{name} is not a Parquet file, or it is damaged",
        hint="Export or upload the file again.",
    )


def _read_parquet(path: Path, *options: str) -> str:
    return f"read_parquet({', '.join([literal(str(path)), *options])})"


def _as_text(name: str, kind: str) -> str:
    """Give the SQL that makes text of a column of any type: dates by ISO 8601, nested as JSON."""
    column = '"' + name.replace('"', '""') + '"'
    text = f"CAST({column} AS VARCHAR)"
    match kind.partition("(")[0]:
        case "DOUBLE" | "FLOAT":
            # A column of whole numbers of which some are missing is DOUBLE in pandas, with NaN.
            is_whole = f"{column} = trunc({column}) AND abs({column}) < 1e15"
            whole = f"CAST(CAST({column} AS BIGINT) AS VARCHAR)"
            number = f"CASE WHEN {is_whole} THEN {whole} ELSE {text} END"
            return f"CASE WHEN NOT isnan({column}) THEN {number} END"
        case "TIMESTAMP WITH TIME ZONE":
            return f"replace(CAST(CAST({column} AS TIMESTAMP) AS VARCHAR), ' ', 'T') || 'Z'"
        case kind if kind.startswith("TIMESTAMP") and not kind.endswith("]"):
            return f"replace({text}, ' ', 'T')"
        case "BLOB":
            text = f"TRY(decode({column}))"
        case kind if kind.startswith(("STRUCT", "MAP", "UNION", "VARIANT")) or kind.endswith("]"):
            text = f"CAST(to_json({column}) AS VARCHAR)"
    return f"replace({text}, chr(0), '')"
