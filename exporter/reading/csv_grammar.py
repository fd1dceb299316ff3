"""What a CSV record may look like, and what is wrong with one that does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from exporter.reading.text_encoding import LF, NUL, UNDECODABLE
from exporter.rejection_reasons import RejectReason

MAX_SHOWN_CHARS = 10_000  # of a rejected record
LOOKAHEAD_FIELDS = 64  # how far beyond the last column the end of a record is looked for

QUOTE = b'"'


def shown(record: bytes) -> str:
    text = record[: 4 * MAX_SHOWN_CHARS].decode(errors="replace").rstrip("\r\n")[:MAX_SHOWN_CHARS]
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def flaw_of(cells: Sequence[bytes], width: int) -> tuple[RejectReason, str] | None:
    """Say why a well-formed record is no row, with the detail; None for a good one."""
    for column, cell in enumerate(cells, 1):
        if NUL in cell:
            return RejectReason.NUL_BYTE, f"column {column}"
        if UNDECODABLE in cell:
            return RejectReason.BAD_ENCODING, f"column {column}"
    if len(cells) == width:
        return None
    few = len(cells) < width
    return (
        RejectReason.TOO_FEW_COLUMNS if few else RejectReason.TOO_MANY_COLUMNS,
        f"{len(cells)} of {width} columns",
    )


# The grammar


def good_records_pattern(delimiter: str, width: int, quoting: bool) -> re.Pattern[bytes]:
    """Match the longest run of good records of `width` fields; never fails, at worst it is empty.

    RunStore without any quote are tried first: they are the most, and the cheapest. A field that begins with spaces and
    a quote is left to the closer look, because DuckDB would take it for quoted; so is a byte-order mark at the start,
    because DuckDB would drop it if it came to begin a piece. A single empty field is a blank line.
    """
    d = re.escape(delimiter.encode())
    ends = delimiter.encode() + b"\r\n\x00\xff"
    text, begin, inside = _all_but(QUOTE + ends), _all_but(b' "' + ends), _all_but(ends) + b"*+"
    plain = text + (b"++" if width == 1 else b"*+")
    quoted = rb'"[^"\x00\xff]*+(?:""[^"\x00\xff]*+)*+"'
    loose = rb"%s%s| ++(?:%s%s)?+" % (begin, inside, begin, inside)
    field = rb"(?>%s|%s%s)" % (quoted, loose, b"" if width == 1 else b"|")
    records = [
        rb"(?>%s\r?\n)" % d.join([f] * width) for f in ([plain, field] if quoting else [plain])
    ]
    return re.compile(rb"(?!\xef\xbb\xbf)(?:%s)*+" % b"|".join(records))


def _all_but(excluded: bytes) -> bytes:
    """A character class by what it holds. Python looks at each character twice for [^...]: a third slower."""
    bounds = [-1, *sorted(excluded), 256]
    gaps = ((before + 1, after - 1) for before, after in pairwise(bounds))
    return b"[%s]" % b"".join(b"\\x%02x-\\x%02x" % gap for gap in gaps if gap[0] <= gap[1])


def line_end_of(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where a pattern that may be empty ends."""
    match = pattern.match(data, at)
    return match.end() if match else at


@dataclass(frozen=True, slots=True)
class Record:
    """A well-formed record: its values, and where in the buffer the next line begins."""

    cells: list[bytes]
    end: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be read; only its first line can be said to belong to it."""

    reason: RejectReason
    detail: str


_QUOTED_ON_A_LINE = rb'"[^"\r\n]*+(?:""[^"\r\n]*+)*+"'


class Shape:
    """RunStore of any width, flaws of content included. Slow: for the header, and where a run stops.

    most_fields bounds how far a record is followed. Without it, a file where every line leaves a quote open would be
    read to its end from each line.
    """

    def __init__(self, delimiter: str, quoting: bool, *, most_fields: int) -> None:
        self._delimiter = delimiter.encode()
        self._quoting = quoting
        self._most_fields = most_fields
        d = re.escape(self._delimiter)
        if quoting:
            self._field = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"|[^"%s\r\n][^%s\r\n]*+|' % (d, d))
        else:
            self._field = re.compile(rb"%s(?=[%s\r\n]|\Z)|[^%s\r\n]*+" % (_QUOTED_ON_A_LINE, d, d))
        f = self._field.pattern
        self._record = re.compile(rb"(?>%s)(?:%s(?>%s)){0,%d}+" % (f, d, f, most_fields - 1))

    def parse(self, data: bytes, at: int, *, whole: bool) -> Record | Broken | None:
        """Read the record that begins at `at`; None if it may go on beyond `data`, unless that is the whole rest."""
        end = line_end_of(self._record, data, at)
        after = data[end : end + 2]
        if after[:1] == LF or after == b"\r\n":
            return Record(self._cells(data[at:end]), end + len(after.partition(LF)[0]) + 1)
        unfinished = after in (b"", b"\r") or after[:1] == QUOTE
        if unfinished and not whole and len(data) - at < MAX_RECORD_BYTES:
            return None
        return self._broken(data[at:end], after)

    def write(self, cells: Iterable[bytes]) -> bytes:
        """Write a record that leaves nothing to interpretation: all its values quoted."""
        quoted = (b'"%s"' % cell.replace(b'"', b'""') for cell in cells)
        return self._delimiter.join(quoted) + LF

    def _broken(self, record: bytes, after: bytes) -> Broken:
        """Name what stopped a record, by what comes after it."""
        if after in (b"", b"\r"):
            return Broken(RejectReason.TOO_LONG, f"more than {MAX_RECORD_BYTES} bytes")
        if after[:1] == self._delimiter:
            return Broken(RejectReason.TOO_MANY_COLUMNS, f"more than {self._most_fields} columns")
        column = f"column {len(self._cells(record))}"
        if after[:1] == QUOTE:
            return Broken(RejectReason.UNTERMINATED_QUOTE, column)
        if after[:1] == b"\r":
            return Broken(RejectReason.BARE_CARRIAGE_RETURN, column)
        return Broken(RejectReason.STRAY_QUOTE, column)

    def _cells(self, record: bytes) -> list[bytes]:
        cells, at = [], 0
        while at <= len(record):
            end = line_end_of(self._field, record, at)
            cells.append(self._value(record[at:end]))
            at = end + 1
        return cells

    def _value(self, field: bytes) -> bytes:
        if field[:1] == QUOTE and (self._quoting or re.fullmatch(_QUOTED_ON_A_LINE, field)):
            return field[1:-1].replace(b'""', QUOTE)
        return field


MAX_RECORD_BYTES = 16_000_000  # a longer record is rejected; one buffer more may pass
