"""The files of staged rows that planning has written: read together, and their rows by line."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from exporter.planning.plan import LINE_BREAKS, PlannedPiece, rows_name
from exporter.reading.pieces import source_line
from exporter.sql import literal

Row = tuple[int, int]  # piece, and position in it
Place = tuple[str, int]  # source, and line in it


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedFiles:
    """The staged rows of a plan. sources: the names of the partitions, by their number.

    fields: how many fields the plan has. Pieces of partitions that lack some are given NULL there.
    need: called before the rows of some pieces are located, to have their files here.
    """

    folder: Path
    pieces: Sequence[PlannedPiece]
    sources: Sequence[str]
    fields: int = 0
    need: Callable[[Iterable[int]], None] = lambda _: None

    def rows_of(self, piece: int) -> str:
        """SQL: the rows of a piece, with `file_row_number`, their position in it."""
        rows = f"read_parquet({self._path(piece)}, file_row_number = true)"
        staged = self.pieces[piece].fields
        if staged is None or staged >= self.fields:
            return rows
        lacking = (f"NULL::VARCHAR AS f{position}" for position in range(staged, self.fields))
        return f"(SELECT *, {', '.join(lacking)} FROM {rows})"

    def all_rows(self) -> str:
        """SQL: the rows of all pieces in order; there must be a piece."""
        paths = ", ".join(self._path(piece) for piece in range(len(self.pieces)))
        return f"read_parquet([{paths}], file_row_number = true)"

    def sent_rows(self) -> str:
        """SQL: the rows that are sent, once the table `duplicates` is filled."""
        return (
            f"(SELECT rows.* FROM {self.all_rows()} AS rows ANTI JOIN duplicates"
            " ON rows.piece = duplicates.piece AND file_row_number = duplicates.row"
            " WHERE reason IS NULL)"
        )

    def locate(self, database: duckdb.DuckDBPyConnection, rows: Iterable[Row]) -> dict[Row, Place]:
        """Find source and line of rows.

        A row's line is its position plus the line breaks inside the cells of the rows before it,
        which are staged as `breaks`, plus whatever was left out of the piece: `line_breaks`.
        """
        by_piece: dict[int, list[int]] = {}
        for piece, row in rows:
            by_piece.setdefault(piece, []).append(row)
        found = {}
        for piece, wanted in by_piece.items():
            self.need([piece])
            source = self.sources[self.pieces[piece].source]
            line_breaks = self.line_breaks(database, piece)
            for row, local in self._local_lines(database, piece, wanted):
                found[piece, row] = (source, source_line(line_breaks, local))
        return found

    def line_breaks(self, database: duckdb.DuckDBPyConnection, piece: int) -> list[tuple[int, int]]:
        """Read the line breaks that a piece was written with."""
        found = database.execute(
            f"SELECT decode(value) FROM parquet_kv_metadata({self._path(piece)})"
            f" WHERE decode(key) = {literal(LINE_BREAKS)}"
        ).fetchone()
        assert found is not None
        return [(local, source) for local, source in json.loads(found[0])]

    def _local_lines(
        self, database: duckdb.DuckDBPyConnection, piece: int, wanted: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        breaks = database.execute(
            "SELECT file_row_number, sum(breaks) OVER (ORDER BY file_row_number)"
            f" FROM {self.rows_of(piece)} WHERE breaks > 0 ORDER BY 1"
        ).fetchall()
        after = [row for row, _ in breaks]
        for row in wanted:
            at = bisect.bisect_left(after, row)
            yield row, row + 1 + (int(breaks[at - 1][1]) if at else 0)

    def _path(self, piece: int) -> str:
        return literal(str(self.folder / rows_name(piece)))
