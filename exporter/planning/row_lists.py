"""The CSV files of rows that people read: rejected.csv and duplicates.csv."""

from __future__ import annotations

import csv
import re
from typing import IO, Any

from exporter.rejection_reasons import MESSAGES, RejectReason

REJECTED_COLUMNS = ("source", "line", "column", "reason", "message", "identifier")
ROW_COLUMN = "row"  # behind them, where rejected rows are kept
DUPLICATES_COLUMNS = ("source", "line", "kept_source", "kept_line")


# CSV files for people


def rejected_row(
    source: str,
    line: int | str,
    reason: RejectReason,
    *,
    column: str = "",
    identifier: str = "",
    detail: str = "",
) -> list[str | int]:
    """A line of rejected.csv. detail: what else is to be said of the row."""
    message = MESSAGES[reason] + (f": {detail}" if detail else "")
    cells = (source, line, column, str(reason), message, identifier[:200])
    return [safe_cell(cell) if isinstance(cell, str) else cell for cell in cells]


def safe_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula. Source: OWASP, "CSV Injection".

    An apostrophe goes before what would be calculated: where the cell begins, and behind what a spreadsheet of
    another country takes for the end of a cell. Blanks and quotes before the formula do not hide it.
    """
    return _FORMULA.sub("'", text)


# The last four: = + - @ in full width. A comma ends a cell only where quotes do what they should.
_FORMULA = re.compile(
    r"(?:^|(?<=[;|\t\r\n]))(?=[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r\n])"
)


def csv_writer(file: IO[str]) -> Any:
    """A writer of these files. Every cell is quoted: one that is not would be split at another separator."""
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
