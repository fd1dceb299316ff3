"""The good records of a partition, apart from the lines that must be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from exporter.reading.csv_grammar import (
    LOOKAHEAD_FIELDS,
    BrokenRecord,
    Record,
    RecordParser,
    end_of_match,
    good_records_pattern,
    why_rejected,
)
from exporter.reading.line_buffer import LineBuffer, Span
from exporter.reading.row_widths import BLANKS
from exporter.rejection_reasons import RejectReason

MAX_SHOWN_CHARS = 10_000  # of a rejected record


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A record left out: `lines` lines of the source from `line` on, counted from 1.

    detail: holds no value of the record. text: its beginning as it stands in the file, which is
    personal data.
    """

    line: int
    reason: RejectReason
    detail: str
    lines: int = 1
    text: str = field(default="", repr=False, compare=False)


class GoodRecords:
    """Iterates over the good records of a buffer, as spans in source order.

    Good are records of `width` fields. drift: records of so many fields are good as well; those
    beyond `width` must be empty. Every other record is counted in `rejected` and handed to
    `on_rejected`. Blank lines are passed over.
    """

    def __init__(
        self,
        buffer: LineBuffer,
        *,
        width: int,
        drift: int | None = None,
        delimiter: str,
        quoting: bool,
        on_rejected: Callable[[RejectedLine], None],
    ) -> None:
        self.rejected: Counter[RejectReason] = Counter()
        self._buffer = buffer
        self.widths = (max(width, 1),) if drift is None else (drift, max(width, 1))
        self._width = width
        self._on_rejected = on_rejected
        self._good_records = [
            good_records_pattern(
                delimiter, min(one, max(width, 1)), quoting, empty_ends=max(one - width, 0)
            )
            for one in self.widths
        ]
        most_fields = max(*self.widths, 1) + LOOKAHEAD_FIELDS
        self._parser = RecordParser(delimiter, quoting, most_fields=most_fields)

    def __iter__(self) -> Iterator[Span]:
        buffer = self._buffer
        while buffer.has_more():
            end = max(end_of_match(one, buffer.data, buffer.at) for one in self._good_records)
            if end > buffer.at:
                yield buffer.take(end)
            elif not buffer.skip_blank_lines():
                span = self._parse_one()
                if span is not None:
                    yield span

    def _parse_one(self) -> Span | None:
        """Deal with the record where the run of good records stopped.

        Gives the record, written so that DuckDB reads it as it was meant. None: it was rejected,
        or more must be read before its end can be seen.
        """
        buffer = self._buffer
        match self._parser.parse(buffer.data, buffer.at, is_last=buffer.is_last):
            case None:
                buffer.read_more()
                return None
            case BrokenRecord(reason, detail):
                text = _start_of(buffer.rest_of_line())
                self._reject(RejectedLine(buffer.line, reason, detail, text=text))
                buffer.skip_line()
                return None
            case Record(cells, end):
                span = buffer.take(end)
                flaw = self._flaw(cells)
                if flaw is None:
                    return Span(self._parser.write(cells), span.line, span.lines)
                text = _start_of(span.data)
                self._reject(RejectedLine(span.line, *flaw, lines=span.lines, text=text))
                return None

    def _flaw(self, cells: list[bytes]) -> tuple[RejectReason, str] | None:
        """Say why a well-formed record is not good, with the detail; None for a good one."""
        has_drifted = len(cells) in self.widths and not b"".join(cells[self._width :]).strip(BLANKS)
        return why_rejected(cells, len(cells) if has_drifted else self._width)

    def _reject(self, rejected: RejectedLine) -> None:
        self.rejected[rejected.reason] += 1
        self._on_rejected(rejected)


def _start_of(record: bytes) -> str:
    """Give the beginning of a record as text, for those who keep rejected rows."""
    text = record[: 4 * MAX_SHOWN_CHARS].decode(errors="replace").rstrip("\r\n")[:MAX_SHOWN_CHARS]
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
