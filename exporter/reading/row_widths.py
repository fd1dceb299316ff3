"""Whether the rows of a partition have drifted from its columns: one more or fewer in each. Pure.

Customer Insights adds a column and older partitions lack it; Excel leaves out the empty cells at
the end; some writers end every row in a delimiter. Then all rows differ from the header by the same
number, and none of them is damaged. A row that alone differs is: its cells may stand in the wrong
columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

BLANKS = b" \t"
ENOUGH = 0.9  # of the rows must be alike: single damaged ones among them say nothing


def find_drift(rows: Iterable[Sequence[bytes]], width: int) -> int | None:
    """Say how many fields the rows have instead of `width`; None if they have not drifted.

    rows: as many as were looked at, from the first on. Fields beyond `width` must be empty.
    """
    widths: Counter[int] = Counter()
    for cells in rows:
        if len(cells) == width and not widths:
            return None  # the first row is as it should be, as in nearly all files
        is_empty_beyond = not b"".join(cells[width:]).strip(BLANKS)
        widths[len(cells) if is_empty_beyond else 0] += 1
    if not widths:
        return None
    [(likeliest, times)] = widths.most_common(1)
    if likeliest in (0, width) or times < ENOUGH * widths.total():
        return None
    return likeliest


def describe_drift(drift: int | None, columns: Sequence[str]) -> str:
    """Give a sentence for the report; "" without drift."""
    if drift is None:
        return ""
    width = len(columns)
    if drift > width:
        more = "a delimiter" if drift == width + 1 else f"{drift - width} delimiters"
        return f"Every row ends in {more} more than the columns need."
    return (
        f"The rows have {drift:,} of the {width:,} columns. They were read in order, and the"
        f" {'last column is' if drift == width - 1 else 'other columns are'} empty."
    )
