"""The CSV files of rows that people read: rejected.csv and duplicates.csv."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import duckdb

from exporter.planning.plan import DUPLICATES_CSV, IDENTIFIER, MAX_EXAMPLES, REJECTED_CSV
from exporter.planning.staged_files import StagedFiles
from exporter.rejection_reasons import MESSAGES, RejectReason

REJECTED_COLUMNS = ("source", "line", "column", "reason", "message", "identifier")
ROW_COLUMN = "row"  # behind them, where rejected rows are kept
DUPLICATES_COLUMNS = ("source", "line", "kept_source", "kept_line")
MAX_IDENTIFIER_CHARS = 200
_ROWS_AT_A_TIME = 10_000


class Examples:
    """The first rows of each kind, as "source:line"."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, source: str, line: int) -> None:
        examples = self.found.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(f"{source}:{line}")


class RejectedRows:
    """Counts rejected rows and lists them in rejected.csv.

    keep_rows: list the rows themselves, too.
    """

    def __init__(self, folder: Path, examples: Examples, *, keep_rows: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._examples = examples
        self.keep_rows = keep_rows
        self._file = (folder / REJECTED_CSV).open("w", encoding="utf-8", newline="")
        self._writer = csv_writer(self._file)
        columns = [*REJECTED_COLUMNS, ROW_COLUMN] if keep_rows else REJECTED_COLUMNS
        self._writer.writerow(columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def add(self, source: str, line: int, reason: RejectReason, text: str, **cells: str) -> None:
        """Count a row and list it. text: the row itself. cells: see `rejected_row`."""
        self.counts[reason] += 1
        self._examples.add(reason, source, line)
        row = rejected_row(source, line, reason, **cells)
        if self.keep_rows:
            row.append(safe_cell(text))
        self._writer.writerow(row)

    def add_staged(
        self, database: duckdb.DuckDBPyConnection, files: StagedFiles, *, column: str
    ) -> None:
        """Add the staged rows that have a reason. column: the source column of the identifier."""
        if not files.pieces:
            return
        rows = database.cursor().execute(
            "SELECT piece, file_row_number, reason,"
            f" coalesce(refused_id, {IDENTIFIER}, ''), coalesce(source_row, '')"
            f" FROM {files.all_rows()} WHERE reason IS NOT NULL ORDER BY 1, 2"
        )
        while chunk := rows.fetchmany(_ROWS_AT_A_TIME):
            places = files.locate(database, [(piece, row) for piece, row, *_ in chunk])
            for piece, row, reason, identifier, text in chunk:
                source, line = places[piece, row]
                self.add(
                    source, line, RejectReason(reason), text, column=column, identifier=identifier
                )


def list_duplicates(
    database: duckdb.DuckDBPyConnection, files: StagedFiles, examples: Examples
) -> None:
    """Write duplicates.csv from the table `duplicates`."""
    with (files.folder / DUPLICATES_CSV).open("w", encoding="utf-8", newline="") as file:
        writer = csv_writer(file)
        writer.writerow(DUPLICATES_COLUMNS)
        rows = database.cursor().execute(
            "SELECT piece, row, kept_piece, kept_row FROM duplicates ORDER BY 1, 2"
        )
        while chunk := rows.fetchmany(_ROWS_AT_A_TIME):
            places = files.locate(database, [(piece, row) for piece, row, _, _ in chunk])
            kept = files.locate(database, [(piece, row) for _, _, piece, row in chunk])
            for piece, row, kept_piece, kept_row in chunk:
                source, line = places[piece, row]
                kept_source, kept_line = kept[kept_piece, kept_row]
                examples.add("duplicate", source, line)
                writer.writerow([safe_cell(source), line, safe_cell(kept_source), kept_line])


# Rows and cells


def rejected_row(
    source: str,
    line: int | str,
    reason: RejectReason,
    *,
    column: str = "",
    identifier: str = "",
    detail: str = "",
) -> list[str | int]:
    """Give a line of rejected.csv. detail: what else is to be said of the row."""
    message = MESSAGES[reason] + (f": {detail}" if detail else "")
    cells = (source, line, column, str(reason), message, identifier[:MAX_IDENTIFIER_CHARS])
    return [safe_cell(cell) if isinstance(cell, str) else cell for cell in cells]


def safe_cell(text: str) -> str:
    """Give a cell that no spreadsheet takes for a formula. Source: OWASP, "CSV Injection".

    An apostrophe goes before what would be calculated: where the cell begins, and behind what a
    spreadsheet of another country takes for the end of a cell. Blanks and quotes before the formula
    do not hide it.
    """
    return _FORMULA.sub("'", text)


# The last four: = + - @ in full width. A comma ends a cell only where quotes do what they should.
_FORMULA = re.compile(
    r"(?:^|(?<=[;|\t\r\n]))(?=[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r\n])"
)


def csv_writer(file: IO[str]) -> Any:
    """Open a writer of these files.

    Every cell is quoted: one that is not would be split at another separator.
    """
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
