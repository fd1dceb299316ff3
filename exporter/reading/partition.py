"""Turns the bytes of one partition into files that DuckDB can read without an error, and names every line left out.

    bytes ─> unzipped ─> UTF-8 ─> header ─> runs of good records ─> pieces
                                     └────> everything else ──────> rejected lines, by their number in the source

A piece is strict CSV: UTF-8 without byte-order mark or NUL, LF line ends, doubled quotes, no header, and in every
record as many fields as the header has. DuckDB stops at the first flaw of a file, or passes over it in silence; here
a flaw costs its own record only. `read_csv_call` holds the options that a piece must be read with.

Speed comes from one regular expression that passes over the longest run of good records in a single call (`_run`). Only
where it stops does Python look at one record (`_Shape.parse`), and then lets the expression go on. Both are possessive:
nothing is tried twice, so a hostile file costs time in proportion to its size.

What counts as what:
- A line ends with LF or CRLF; a file without any LF may end its lines with CR. Blank lines are not rows.
- A field that begins with a quote is quoted and may hold line ends. A quote further on is data (`5" nail`), as it is
  for Python's csv module and Excel; this includes a quote after a space. That is CsvStyle.QuoteAfterDelimiter; what
  writers of CsvStyle.QuoteAlways write reads alike, since they quote a field that holds a quote.
- Without `quoting` (QuoteStyle.None) a line end ends the row, even inside quotes; a quote that is not closed is data.
- A CRLF inside quotes becomes LF. All else inside a field stays as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.errors import SnapshotUnreadable
from exporter.reading.column_headers import HeaderDecision, decide_header, no_header
from exporter.reading.csv_grammar import (
    LOOKAHEAD_FIELDS,
    Broken,
    Record,
    Shape,
    flaw_of,
    good_records_pattern,
    line_end_of,
    shown,
)
from exporter.reading.dialect import Dialect
from exporter.reading.pieces import PIECE_BYTES, Buffer, Piece, PieceWriter, Span
from exporter.reading.text_encoding import BUFFER_BYTES, table_text
from exporter.rejection_reasons import RejectReason

MAX_COLUMNS = 4_096


# What comes out


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A record left out: `lines` lines of the source from `line` (from 1) on. `detail` holds no value of it.

    text: its beginning as it stands in the file; personal data.
    """

    line: int
    reason: RejectReason
    detail: str
    lines: int = 1
    text: str = field(default="", repr=False, compare=False)


# Reading a partition


def read_partition(
    chunks: Iterable[bytes],
    *,
    folder: Path,
    name: str,
    declared: Dialect | None = None,
    expected: Sequence[str] = (),
    on_rejected: Callable[[RejectedLine], None] = lambda _: None,
    piece_bytes: int = PIECE_BYTES,
) -> Reading:
    """Open a partition and read its header; the pieces are then written to `folder` one by one, as they are asked for.

    name: of the partition, for file names and messages; no two partitions of a folder share one.
    expected: source columns of the mapping, to recognise a header by.
    on_rejected: called for each rejected line while reading, in source order.
    Raises SnapshotUnreadable at once, or from a later piece where a gzip file turns out to be damaged.
    """
    declared = declared or Dialect()
    head, text, encoding = table_text(chunks, declared, name)
    delimiter = _delimiter(head, declared, name)
    buffer = Buffer(text, size=min(BUFFER_BYTES, max(piece_bytes // 2, 1)))
    buffer.skip_blank_lines()
    header = _read_header(buffer, delimiter, declared, expected, name)
    writer = PieceWriter(folder, name, delimiter, piece_bytes)
    return Reading(buffer, header, delimiter, encoding, declared.quoting, writer, on_rejected)


class Reading:
    """The pieces of one partition, in order, each written when it is asked for.

    Known at once: `header`, `columns`, `delimiter`, `encoding`. Complete after the last piece: `lines` (of the source)
    and `rejected` (a count for each reason).
    """

    def __init__(
        self,
        buffer: Buffer,
        header: HeaderDecision,
        delimiter: str,
        encoding: str,
        quoting: bool,
        writer: PieceWriter,
        on_rejected: Callable[[RejectedLine], None],
    ) -> None:
        self.header = header
        self.delimiter = delimiter
        self.encoding = encoding
        self.rejected: Counter[RejectReason] = Counter()
        self._buffer = buffer
        self._writer = writer
        self._on_rejected = on_rejected
        width = max(len(header.columns), 1)
        self._run = good_records_pattern(delimiter, width, quoting)
        self._shape = Shape(delimiter, quoting, most_fields=width + LOOKAHEAD_FIELDS)
        self._pieces = self._write_pieces()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.header.columns

    @property
    def lines(self) -> int:
        """Lines of the source read so far, blank ones and the header included."""
        return self._buffer.line - 1

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Stop before the end; a piece begun is left unfinished in the folder."""
        self._pieces.close()

    def _write_pieces(self) -> Generator[Piece]:
        try:
            for span in self._good_spans():
                if self._writer.is_full_for(span):
                    yield self._writer.finish()
                self._writer.add(span)
            if self._writer.is_begun:
                yield self._writer.finish()
        finally:
            self._writer.close()

    def _good_spans(self) -> Iterator[Span]:
        """Give what belongs into pieces, and report what does not."""
        buffer = self._buffer
        while buffer.has_more():
            end = line_end_of(self._run, buffer.data, buffer.at)
            if end > buffer.at:
                yield buffer.take(end)
            elif not buffer.skip_blank_lines():
                span = self._look_closely()
                if span is not None:
                    yield span

    def _look_closely(self) -> Span | None:
        """Deal with one record at which the run stopped: read on to its end, reject it, or write it anew."""
        buffer = self._buffer
        found = self._shape.parse(buffer.data, buffer.at, whole=buffer.is_last)
        match found:
            case None:
                buffer.read_more()
            case Broken():
                self._reject(
                    RejectedLine(
                        buffer.line, found.reason, found.detail, text=shown(buffer.rest_of_line())
                    )
                )
                buffer.skip_line()
            case Record():
                return self._judge(found)
        return None

    def _judge(self, record: Record) -> Span | None:
        span = self._buffer.take(record.end)
        flaw = flaw_of(record.cells, len(self.columns))
        if flaw is None:
            return Span(self._shape.write(record.cells), span.line, span.lines)
        self._reject(RejectedLine(span.line, *flaw, lines=span.lines, text=shown(span.data)))
        return None

    def _reject(self, rejected: RejectedLine) -> None:
        self.rejected[rejected.reason] += 1
        self._on_rejected(rejected)


# The header


def _read_header(
    buffer: Buffer, delimiter: str, declared: Dialect, expected: Sequence[str], name: str
) -> HeaderDecision:
    """Read the first record, and pass over it if it is a header."""
    if not buffer.has_more():
        return HeaderDecision(False, (), "The file is empty.")
    first = _first_record(buffer, Shape(delimiter, declared.quoting, most_fields=MAX_COLUMNS))
    if isinstance(first, Record):
        cells = [cell.decode() for cell in first.cells]
        decision = decide_header(
            cells, declared=declared.has_header, columns=declared.columns, mapped=expected
        )
        if decision.has_header:
            buffer.take(first.end)
        return decision
    if declared.columns and not declared.has_header:
        return no_header((), declared.columns, "The first line is damaged")
    raise SnapshotUnreadable(
        f"{name}: the first line cannot be read as column names ({first.reason}, {first.detail})",
        hint="Open the file in an editor, correct its first line and export it again.",
    )


def _first_record(buffer: Buffer, shape: Shape) -> Record | Broken:
    while (found := shape.parse(buffer.data, buffer.at, whole=buffer.is_last)) is None:
        buffer.read_more()
    flaw = flaw_of(found.cells, len(found.cells)) if isinstance(found, Record) else None
    return Broken(*flaw) if flaw else found


def _delimiter(head: bytes, declared: Dialect, name: str) -> str:
    """Give the declared delimiter, else the candidate that is most frequent in the first record, else a comma."""
    if not declared.delimiter:
        return _likeliest_delimiter(head.lstrip(b"\r\n"), declared.quoting)
    if re.fullmatch(r'[^A-Za-z0-9 "\r\n\x00\x7f-\U0010ffff]', declared.delimiter):
        return declared.delimiter
    raise SnapshotUnreadable(
        f"{name}: the declared delimiter {declared.delimiter!r} is not supported",
        hint="Export with a comma, semicolon, tab or vertical bar between the columns.",
    )


def _likeliest_delimiter(data: bytes, quoting: bool) -> str:
    line = re.match(rb"[^\r\n]*+", data)
    record = re.match(rb'(?:[^"\r\n]++|"[^"]*+")*+(?=[\r\n]|\Z)', data) if quoting else None
    text = (record or line or [b""])[0]  # a record that does not end has a lone quote: it is data
    text = re.sub(rb'"[^"]*+"', b"", text)
    best = max((b",", b";", b"\t", b"|"), key=text.count)  # the first of equals
    return best.decode()
