"""List and count the cells that are left out of profiles that are sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import duckdb

from exporter.planning.plan import LEFT_OUT_CSV, MAX_EXAMPLES, NEWEST_BY
from exporter.planning.row_lists import csv_writer, safe_cell
from exporter.planning.staged_files import StagedFiles
from exporter.planning.typed_values import UNREADABLE
from exporter.rejection_reasons import LEFT_OUT_MESSAGES, MESSAGES

LEFT_OUT_COLUMNS = ("source", "line", "attribute", "reason", "message")
_SENTENCES = {str(reason): text for reason, text in (*MESSAGES.items(), *LEFT_OUT_MESSAGES.items())}
_ROWS_AT_A_TIME = 10_000


@dataclass(slots=True)
class CellsLeftOut:
    """By attribute: how many cells, why, and the first of them as "source:line"."""

    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, attribute: str, reason: str, source: str, line: int) -> None:
        self.counts[attribute] = self.counts.get(attribute, 0) + 1
        reasons = self.reasons.setdefault(attribute, {})
        reasons[reason] = reasons.get(reason, 0) + 1
        examples = self.examples.setdefault(attribute, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(f"{source}:{line}")


def list_cells_left_out(
    database: duckdb.DuckDBPyConnection,
    files: StagedFiles,
    *,
    has_newest_by: bool,
) -> CellsLeftOut:
    """Write left_out.csv, and count what is in it. Duplicates must have been found before."""
    found = CellsLeftOut()
    with (files.folder / LEFT_OUT_CSV).open("w", encoding="utf-8", newline="") as file:
        writer = csv_writer(file)
        writer.writerow(LEFT_OUT_COLUMNS)
        for source, line, attribute, reason in _cells(database, files):
            found.add(attribute, reason, source, line)
            writer.writerow(
                [safe_cell(source), line, safe_cell(attribute), reason, message_of(reason)]
            )
    if has_newest_by and (unreadable := _unreadable_moments(database, files)):
        found.counts[NEWEST_BY] = unreadable
    return found


def message_of(reason: str) -> str:
    """Give the sentence for a reason why a cell is left out."""
    return _SENTENCES[reason]


def _cells(
    database: duckdb.DuckDBPyConnection, files: StagedFiles
) -> Iterator[tuple[str, int, str, str]]:
    """Give source, line, attribute and reason of each cell, in order."""
    if not files.pieces:
        return
    rows = database.cursor().execute(
        "SELECT piece, file_row_number, dropped, left_out"
        f" FROM {files.sent_rows()} WHERE dropped IS NOT NULL ORDER BY 1, 2"
    )
    while chunk := rows.fetchmany(_ROWS_AT_A_TIME):
        places = files.locate(database, [(piece, row) for piece, row, _, _ in chunk])
        for piece, row, attributes, reasons in chunk:
            source, line = places[piece, row]
            cells = zip(attributes.split("\x1f"), reasons.split("\x1f"), strict=True)
            for attribute, reason in cells:
                yield source, line, attribute, reason


def _unreadable_moments(database: duckdb.DuckDBPyConnection, files: StagedFiles) -> int:
    """Count the `newest_by` cells that are neither a date nor a number, of all rows compared."""
    if not files.pieces:
        return 0
    found = database.execute(
        f"SELECT count(*) FROM {files.all_rows()} WHERE reason IS NULL AND newest = {UNREADABLE}"
    ).fetchone()
    return int(found[0]) if found else 0
