"""Parquet partitions as tables of text, as a CSV file would hold them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb.sqltypes import DuckDBPyType

from exporter.errors import SnapshotUnreadable
from exporter.reading.column_headers import unique_names
from exporter.sql import literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetFile:
    """A Parquet partition in a local file.

    columns: their names as the file has them; `repeated` are those that several columns bear.
    texts: for each column, the SQL that makes text of it.
    """

    path: Path
    columns: tuple[str, ...]
    repeated: frozenset[str]
    texts: tuple[str, ...]
    rows: int

    def slice_as_text(self, first: int, rows: int, *, columns: int = 0) -> str:
        """Give the SQL of `rows` rows from row `first` on (from 0), as texts c0, c1, ...

        columns: how many there must be at least; those that the file lacks are NULL.
        """
        lacking = ["NULL::VARCHAR"] * (columns - len(self.texts))
        texts = enumerate([*self.texts, *lacking])
        cells = ", ".join(f"{text} AS c{position}" for position, text in texts)
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
        nothing = cursor.execute(f"SELECT * FROM {_read_parquet(path)} LIMIT 0")
        described = [(column[0], column[1]) for column in nothing.description or []]
        rows = cursor.execute(f"SELECT count(*) FROM {_read_parquet(path)}").fetchone()
        names, repeated = unique_names(_column_names(cursor, path))
    except duckdb.Error as exc:
        raise damaged_parquet(name) from exc
    return ParquetFile(
        path=path,
        columns=names,
        repeated=repeated,
        texts=tuple(_as_text(name, kind) for name, kind in described),
        rows=int(rows[0]) if rows else 0,
    )


def _column_names(cursor: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Give the names in the file. DuckDB renames columns that differ from others in case only."""
    schema = f"SELECT name, num_children FROM parquet_schema({literal(str(path))})"
    elements = iter(cursor.execute(schema).fetchall())
    root = next(elements)
    names = []
    for _ in range(root[1] or 0):
        name, children = next(elements)
        names.append(str(name))
        inside = children or 0
        while inside:  # the elements of a nested column follow it, depth first
            inside += (next(elements)[1] or 0) - 1
    return names


def damaged_parquet(name: str) -> SnapshotUnreadable:
    """Make the error for a file that DuckDB cannot read as Parquet."""
    return SnapshotUnreadable(
        f"{name} is not a Parquet file, or it is damaged",
        hint="Export or upload the file again.",
    )


def _read_parquet(path: Path, *options: str) -> str:
    return f"read_parquet({', '.join([literal(str(path)), *options])})"


def _as_text(name: str, kind: DuckDBPyType) -> str:
    """Give the SQL that makes text of a column of any type: dates by ISO 8601, nested as JSON.

    A number or date that is infinite is empty text, as NaN is: neither is a value of a person.
    """
    column = _quoted(name)
    text = f"CAST({column} AS VARCHAR)"
    match kind.id:
        case "double" | "float":
            # A column of whole numbers of which some are missing is DOUBLE in pandas, with NaN.
            is_whole = f"{column} = trunc({column}) AND abs({column}) < 1e15"
            whole = f"CAST(CAST({column} AS BIGINT) AS VARCHAR)"
            number = f"CASE WHEN {is_whole} THEN {whole} ELSE {text} END"
            return f"CASE WHEN isfinite({column}) THEN {number} END"
        case "timestamp with time zone":
            moment = f"replace(CAST(CAST({column} AS TIMESTAMP) AS VARCHAR), ' ', 'T') || 'Z'"
            return f"CASE WHEN isfinite({column}) THEN {moment} END"
        case "date":
            return f"CASE WHEN isfinite({column}) THEN {text} END"
        case kind_id if kind_id.startswith("timestamp"):
            return f"CASE WHEN isfinite({column}) THEN replace({text}, ' ', 'T') END"
        case "blob":
            text = f"TRY(decode({column}))"
        case "list" | "array" | "struct" | "map" | "union" | "variant":
            text = f"CAST(to_json({_finite(column, kind)}) AS VARCHAR)"
    return f"replace({text}, chr(0), '')"


def _finite(value: str, kind: DuckDBPyType, depth: int = 0) -> str:
    """Give the SQL of a value in which everything infinite and every NaN is NULL, at any depth."""
    if kind.id in ("double", "float", "date") or kind.id.startswith("timestamp"):
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if kind.id not in ("list", "array", "struct", "map"):
        return value
    children = {name: child for name, child in kind.children if isinstance(child, DuckDBPyType)}
    one = f"x{depth}"
    match kind.id:
        case "struct":
            parts = (
                f"{_quoted(name)} := {_finite(f'{value}[{literal(name)}]', child, depth)}"
                for name, child in children.items()
            )
            made = f"struct_pack({', '.join(parts)})"
            return f"CASE WHEN {value} IS NOT NULL THEN {made} END"
        case "map":
            inside = _finite(f"{one}.value", children["value"], depth + 1)
            entry = f"struct_pack(k := {one}.key, v := {inside})"
            entries = f"list_transform(map_entries({value}), lambda {one}: {entry})"
            return f"map_from_entries({entries})"
        case _:
            inside = _finite(one, children["child"], depth + 1)
            items = f"CAST({value} AS {children['child']}[])"
            return f"list_transform({items}, lambda {one}: {inside})"


def _quoted(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'
