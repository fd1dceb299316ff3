"""Count the cells that are left out of profiles that are sent."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from exporter.planning.plan import MAX_EXAMPLES, NEWEST_BY
from exporter.planning.staged_files import StagedFiles
from exporter.planning.typed_values import UNREADABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsLeftOut:
    """By attribute: how many cells, and the first of them as "source:line"."""

    counts: dict[str, int]
    examples: dict[str, list[str]]


def count_cells_left_out(
    database: duckdb.DuckDBPyConnection, files: StagedFiles, *, has_newest_by: bool
) -> CellsLeftOut:
    """Count the cells left out of rows that are sent. Duplicates must have been found before."""
    if not files.pieces:
        return CellsLeftOut(counts={}, examples={})
    rows = database.execute(
        f"SELECT attribute, count(*), min([rows.piece, file_row_number], {MAX_EXAMPLES})"
        " FROM (SELECT *, unnest(string_split(dropped, chr(31))) AS attribute"
        f" FROM {files.all_rows()} AS rows ANTI JOIN duplicates"
        " ON rows.piece = duplicates.piece AND file_row_number = duplicates.row"
        " WHERE reason IS NULL AND dropped IS NOT NULL) AS rows GROUP BY 1 ORDER BY 1"
    ).fetchall()
    counts, examples = {}, {}
    for attribute, count, first in rows:
        places = [(piece, row) for piece, row in first]
        lines = files.locate(database, places)
        counts[str(attribute)] = int(count)
        examples[str(attribute)] = ["{}:{}".format(*lines[place]) for place in places]
    if has_newest_by and (unreadable := _unreadable_moments(database, files)):
        counts[NEWEST_BY] = unreadable
    return CellsLeftOut(counts=counts, examples=examples)


def _unreadable_moments(database: duckdb.DuckDBPyConnection, files: StagedFiles) -> int:
    """Count the `newest_by` cells that are neither a date nor a number, of all rows compared."""
    found = database.execute(
        f"SELECT count(*) FROM {files.all_rows()} WHERE reason IS NULL AND newest = {UNREADABLE}"
    ).fetchone()
    return int(found[0]) if found else 0
