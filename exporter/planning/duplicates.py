"""Find the rows that give way to another with the same identifier."""

from __future__ import annotations

import duckdb

from exporter.planning.plan import DUPLICATES_NAME, IDENTIFIER
from exporter.planning.staged_files import StagedFiles
from exporter.planning.typed_values import UNREADABLE
from exporter.sql import literal

WINNING_MOMENT = f"coalesce(newest, {UNREADABLE})"  # a row without one is as old as can be
CREATE_DUPLICATES = (
    "CREATE TABLE duplicates (piece INTEGER, row BIGINT, kept_piece INTEGER, kept_row BIGINT)"
)


def find_duplicates(
    database: duckdb.DuckDBPyConnection, files: StagedFiles, *, keys_a_pass: int
) -> int:
    """Write the table and the file `duplicates`. Returns how many rows give way.

    The row that stays is the newest by the mapping's `newest_by` column, else the last in order.
    keys_a_pass: how many rows are compared at a time.
    """
    database.execute(CREATE_DUPLICATES)
    passes = sum(piece.rows for piece in files.pieces) // keys_a_pass + 1
    if files.pieces:
        for number in range(passes):
            database.execute(insert_duplicates(files.all_rows(), number=number, of=passes))
    target = literal(str(files.folder / DUPLICATES_NAME))
    database.execute(
        f"COPY (SELECT * FROM duplicates ORDER BY piece, row) TO {target} (FORMAT parquet)"
    )
    found = database.execute("SELECT count(*) FROM duplicates").fetchone()
    return int(found[0]) if found else 0


def insert_duplicates(rows: str, *, number: int, of: int) -> str:
    """SQL: add the rows of one pass that give way.

    Keys are compared first (8 bytes a row), identifiers only where keys are equal.
    """
    compared = "reason IS NULL"
    if of > 1:
        compared += f" AND key % {of} = {number}"
    return f"""
        INSERT INTO duplicates
        WITH repeated AS (
            SELECT key FROM {rows} WHERE {compared} GROUP BY key HAVING count(*) > 1
        ),
        candidates AS (
            SELECT {IDENTIFIER} AS id, newest, {{'piece': piece, 'row': file_row_number}} AS place
            FROM {rows} WHERE {compared} AND key IN (SELECT key FROM repeated)
        ),
        winners AS (
            SELECT id, arg_max(place, {{'newest': {WINNING_MOMENT}, 'place': place}}) AS kept
            FROM candidates GROUP BY id HAVING count(*) > 1
        )
        SELECT place.piece, place.row, kept.piece, kept.row
        FROM candidates JOIN winners USING (id) WHERE place <> kept
    """
