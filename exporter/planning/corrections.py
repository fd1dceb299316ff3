"""Correct staged rows by what only all rows together say. Few plans and pieces need it.

date_orders.py   day and month of a date stand in the order that the whole column has
shared_identifiers.py   a phone number or external id of two profiles is sent for one of them
clearing.py      a column that is blank in every row clears nothing
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from exporter.definitions.mapped_fields import MappedField
from exporter.planning import profiles
from exporter.planning.plan import rows_name
from exporter.planning.staged_files import StagedFiles
from exporter.planning.staged_rows import write_rows
from exporter.rejection_reasons import LeftOutReason
from exporter.sql import literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Where `condition` (SQL) holds, the cell of `attribute` is left out."""

    condition: str
    attribute: str
    reason: LeftOutReason


@dataclass(slots=True, kw_only=True)
class Correction:
    """New values of columns (SQL, by name), and what is left out thereby."""

    values: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrector:
    """Writes pieces anew, and tells of each."""

    database: duckdb.DuckDBPyConnection
    files: StagedFiles
    finished_file: Callable[[Path], None]

    def correct(self, piece: int, fields: Sequence[MappedField], correction: Correction) -> None:
        """Write a piece with other values, and its profiles made of these.

        fields: of the plan; those of partitions that came later are not in the piece.
        """
        fields = fields[: self.files.pieces[piece].fields]
        target = self.files.folder / rows_name(piece)
        temporary = target.with_suffix(".corrected")
        line_breaks = self.files.line_breaks(self.database, piece)
        query = _corrected(self.files.rows_of(piece), fields, correction)
        write_rows(self.database, query, line_breaks, temporary)
        os.replace(temporary, target)
        self.finished_file(target)


def _corrected(rows: str, fields: Sequence[MappedField], correction: Correction) -> str:
    """SQL: the rows of a piece with other values."""
    values = {**correction.values, **_lists_left_out(correction.left_out)}
    changed = ", ".join(f"{value} AS {column}" for column, value in values.items())
    replaced = f" REPLACE ({changed})" if changed else ""
    valued = f"SELECT * EXCLUDE (size, unusual_profile){replaced} FROM {rows}"
    measured = f"SELECT *, {profiles.measures(fields)} FROM ({valued})"
    built = f"SELECT *, {profiles.unusual_profile(fields)} AS unusual_profile FROM ({measured})"
    columns = ", ".join(f"f{position}" for position in range(len(fields)))
    # A condition may be a join, behind which DuckDB does not keep the order by itself.
    return f"""
        SELECT piece, key, reason, refused_id, source_row, breaks,
            ({profiles.profile_size(fields)})::INTEGER AS size, dropped, left_out, newest,
            date_orders, doubtful, unusual_profile, {columns}
        FROM ({built}) ORDER BY file_row_number"""


def _lists_left_out(left_out: Sequence[LeftOut]) -> dict[str, str]:
    """SQL: `dropped` and `left_out` with what is added to them."""
    if not left_out:
        return {}
    names = [f"CASE WHEN {one.condition} THEN {literal(one.attribute)} END" for one in left_out]
    reasons = [f"CASE WHEN {one.condition} THEN {literal(one.reason)} END" for one in left_out]
    return {
        column: f"nullif(concat_ws(chr(31), {column}, {', '.join(added)}), '')"
        for column, added in (("dropped", names), ("left_out", reasons))
    }
