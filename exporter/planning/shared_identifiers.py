"""Leave a phone number, address or external id out of all profiles but one that have it.

Klaviyo gives such an attribute to one profile only, and refuses the other rows. So the row that is
the newest, else the last, keeps it, as with duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import IDENTIFIERS
from exporter.planning.corrections import Correction, LeftOut
from exporter.planning.duplicates import WINNING_MOMENT
from exporter.planning.staged_files import StagedFiles
from exporter.rejection_reasons import LeftOutReason


class SharedIdentifiers:
    """The rows that lose a secondary identifier. Duplicates must have been found before."""

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        files: StagedFiles,
        fields: Sequence[MappedField],
        *,
        keys_a_pass: int,
    ) -> None:
        """keys_a_pass: how many rows are compared at a time."""
        self._positions = {
            position: field.name
            for position, field in enumerate(fields)
            if position > 0 and field.group == "" and field.name in IDENTIFIERS
        }
        database.execute("CREATE TABLE shared (piece INTEGER, row BIGINT, position INTEGER)")
        passes = sum(piece.rows for piece in files.pieces) // keys_a_pass + 1
        for position in self._positions if files.pieces else ():
            for number in range(passes):
                database.execute(
                    _insert_shared(files.all_rows(), position, number=number, of=passes)
                )
        self._by_piece: dict[int, list[int]] = {}
        found = database.execute("SELECT DISTINCT piece, position FROM shared ORDER BY 1, 2")
        for piece, position in found.fetchall():
            self._by_piece.setdefault(piece, []).append(position)

    def pieces(self) -> set[int]:
        return set(self._by_piece)

    def correct(self, correction: Correction, piece: int) -> None:
        """Add to a correction what the rows of a piece lose."""
        for position in self._by_piece.get(piece, ()):
            rows = f"SELECT row FROM shared WHERE piece = {piece} AND position = {position}"
            is_shared = f"file_row_number IN ({rows})"
            column = f"f{position}"
            correction.values[column] = f"CASE WHEN NOT {is_shared} THEN {column} END"
            left_out = LeftOut(
                condition=is_shared,
                attribute=self._positions[position],
                reason=LeftOutReason.IDENTIFIER_SHARED,
            )
            correction.left_out.append(left_out)


def _insert_shared(rows: str, position: int, *, number: int, of: int) -> str:
    """SQL: add the rows of one pass that lose a value. Hashes are compared before the values."""
    value = f"f{position}"
    compared = f"reason IS NULL AND {value} IS NOT NULL"
    if of > 1:
        compared += f" AND hash({value}) % {of} = {number}"
    return f"""
        INSERT INTO shared
        WITH repeated AS (
            SELECT hash({value}) AS key FROM {rows} WHERE {compared}
            GROUP BY 1 HAVING count(*) > 1
        ),
        candidates AS (
            SELECT {value} AS id, newest, {{'piece': staged.piece, 'row': file_row_number}} AS place
            FROM {rows} AS staged ANTI JOIN duplicates
                ON staged.piece = duplicates.piece AND file_row_number = duplicates.row
            WHERE {compared} AND hash({value}) IN (SELECT key FROM repeated)
        ),
        winners AS (
            SELECT id, arg_max(place, {{'newest': {WINNING_MOMENT}, 'place': place}}) AS kept
            FROM candidates GROUP BY id HAVING count(*) > 1
        )
        SELECT place.piece, place.row, {position}
        FROM candidates JOIN winners USING (id) WHERE place <> kept
    """
