"""What a CSV record may look like, and what is wrong with one that does not.

- A line ends with LF or CRLF. Blank lines are not rows.
- A field that begins with a quote is quoted and may hold line ends. A quote further on is data
  (`5" nail`), as for Python's csv module and Excel; so is a quote after a space. model.json calls
  this CsvStyle.QuoteAfterDelimiter. Files of CsvStyle.QuoteAlways read alike: their writers quote
  every field that holds a quote.
- Without `quoting` (QuoteStyle.None) a line end ends the row, even inside quotes, and a quote that
  is not closed is data.

Two readers share these rules. `good_records_pattern` passes over the longest run of good records in
one call of a regular expression, which makes it fast. Where it stops, `RecordParser` looks at a
single record, which makes it exact. All patterns are possessive: nothing is tried twice, so a
hostile file costs time in proportion to its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from exporter.reading.text_encoding import LF, NUL, UNDECODABLE
from exporter.rejection_reasons import RejectReason

MAX_RECORD_BYTES = 16_000_000  # a longer record is rejected; one buffer more may pass
LOOKAHEAD_FIELDS = 64  # how many fields beyond the last column may belong to a record

QUOTE = b'"'
_QUOTED_ON_A_LINE = rb'"[^"\r\n]*+(?:""[^"\r\n]*+)*+"'


def why_rejected(cells: Sequence[bytes], width: int) -> tuple[RejectReason, str] | None:
    """Say why a well-formed record is not a row of `width` columns, with the detail; else None."""
    for column, cell in enumerate(cells, 1):
        if NUL in cell:
            return RejectReason.NUL_BYTE, f"column {column}"
        if UNDECODABLE in cell:
            return RejectReason.BAD_ENCODING, f"column {column}"
    if len(cells) == width:
        return None
    is_short = len(cells) < width
    reason = RejectReason.TOO_FEW_COLUMNS if is_short else RejectReason.TOO_MANY_COLUMNS
    return reason, f"{len(cells)} of {width} columns"


def good_records_pattern(
    delimiter: str, width: int, quoting: bool, *, empty_ends: int = 0
) -> re.Pattern[bytes]:
    """Match the longest run of good records of `width` fields. It may match nothing.

    empty_ends: how many empty fields follow them in every record.

    Records without any quote are tried first: most are, and they cost least. A field that begins
    with spaces and a quote is left to `RecordParser`, because DuckDB would take it for quoted. So
    is a byte-order mark at the start, because DuckDB would drop it at the start of a piece. A
    single empty field is a blank line.
    """
    d = re.escape(delimiter.encode())
    stop = delimiter.encode() + b"\r\n\x00\xff"
    text, begin, inside = _all_but(QUOTE + stop), _all_but(b' "' + stop), _all_but(stop) + b"*+"
    is_single = width + empty_ends == 1
    plain = text + (b"++" if is_single else b"*+")
    quoted = rb'"[^"\x00\xff]*+(?:""[^"\x00\xff]*+)*+"'
    loose = rb"%s%s| ++(?:%s%s)?+" % (begin, inside, begin, inside)
    field = rb"(?>%s|%s%s)" % (quoted, loose, b"" if is_single else b"|")
    fields = [plain, field] if quoting else [plain]
    ends = (d + rb'(?:"")?+' if quoting else d) * empty_ends
    records = [rb"(?>%s%s\r?\n)" % (d.join([one] * width), ends) for one in fields]
    return re.compile(rb"(?!\xef\xbb\xbf)(?:%s)*+" % b"|".join(records))


def _all_but(excluded: bytes) -> bytes:
    """Write a character class as the ranges that it holds: Python needs a third less time than
    for [^...], where it looks at each character twice.
    """
    bounds = [-1, *sorted(excluded), 256]
    gaps = ((before + 1, after - 1) for before, after in pairwise(bounds))
    return b"[%s]" % b"".join(b"\\x%02x-\\x%02x" % gap for gap in gaps if gap[0] <= gap[1])


def end_of_match(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Say where a match that begins at `at` ends; `at` itself where there is none."""
    match = pattern.match(data, at)
    return match.end() if match else at


@dataclass(frozen=True, slots=True)
class Record:
    """A well-formed record: its values, and where the next line begins."""

    cells: list[bytes]
    end: int


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that cannot be read. Only its first line is sure to belong to it."""

    reason: RejectReason
    detail: str


class RecordParser:
    """Reads one record of any width, also one with NUL or undecodable bytes. Slow and exact.

    most_fields bounds how far a record is followed. Without it, a file where every line leaves a
    quote open would be read to its end from each line.
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

    def parse(self, data: bytes, at: int, *, is_last: bool) -> Record | BrokenRecord | None:
        """Read the record that begins at `at`.

        None: the record may go on beyond `data`, and `data` is not the last of the file.
        """
        end = end_of_match(self._record, data, at)
        after = data[end : end + 2]
        if after[:1] == LF or after == b"\r\n":
            return Record(self._cells(data[at:end]), end + len(after.partition(LF)[0]) + 1)
        unfinished = after in (b"", b"\r") or after[:1] == QUOTE
        if unfinished and not is_last and len(data) - at < MAX_RECORD_BYTES:
            return None
        return self._broken(data[at:end], after)

    def write(self, cells: Iterable[bytes]) -> bytes:
        """Write a record that leaves nothing to interpretation: all its values are quoted."""
        quoted = (b'"%s"' % cell.replace(b'"', b'""') for cell in cells)
        return self._delimiter.join(quoted) + LF

    def _broken(self, record: bytes, after: bytes) -> BrokenRecord:
        """Say what is wrong with a record, by what comes after its good part."""
        if after in (b"", b"\r"):
            detail = f"more than {MAX_RECORD_BYTES} bytes"
            return BrokenRecord(RejectReason.TOO_LONG, detail)
        if after[:1] == self._delimiter:
            detail = f"more than {self._most_fields} columns"
            return BrokenRecord(RejectReason.TOO_MANY_COLUMNS, detail)
        column = f"column {len(self._cells(record))}"
        if after[:1] == QUOTE:
            return BrokenRecord(RejectReason.UNTERMINATED_QUOTE, column)
        if after[:1] == b"\r":
            return BrokenRecord(RejectReason.BARE_CARRIAGE_RETURN, column)
        return BrokenRecord(RejectReason.STRAY_QUOTE, column)

    def _cells(self, record: bytes) -> list[bytes]:
        cells, at = [], 0
        while at <= len(record):
            end = end_of_match(self._field, record, at)
            cells.append(self._value(record[at:end]))
            at = end + 1
        return cells

    def _value(self, field: bytes) -> bytes:
        if field[:1] == QUOTE and (self._quoting or re.fullmatch(_QUOTED_ON_A_LINE, field)):
            return field[1:-1].replace(b'""', QUOTE)
        return field
