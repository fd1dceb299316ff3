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
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from exporter.errors import SnapshotUnreadable
from exporter.planning.row_rules import RejectReason, literal
from exporter.reading.column_headers import HeaderDecision, decide_header, no_header
from exporter.reading.text_encoding import BUFFER_BYTES, LF, NUL, UNDECODABLE, split, table_text
from exporter.snapshots.model_json import Dialect

PIECE_BYTES = 12_000_000  # enough to make opening one cheap, few enough for two to be staged from early on
LONG_RECORD_BYTES = 2_000  # on average: DuckDB holds 2,048 records at a time, several times over
LONG_RECORDS_BYTES = 2_000_000  # a piece holds no more of long records
HUGE_RECORD_BYTES = 2 * BUFFER_BYTES  # more than is read of short records at a time: a single one must be larger
MAX_RECORD_BYTES = 16_000_000  # a longer record is rejected; one buffer more may pass
MAX_COLUMNS = 4_096
MAX_LINE_BREAKS = 50_000  # of one piece: keeps memory flat when every other line is left out
MAX_SHOWN_CHARS = 10_000  # of a rejected record
LOOKAHEAD_FIELDS = 64  # how far beyond the last column the end of a record is looked for

QUOTE = b'"'


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A local CSV file of whole records. The reader of a piece deletes it.

    line_breaks: (local line, source line), sorted; between two of them both count in step.
    longest_line_bytes: no record is longer (DuckDB refuses one above its max_line_size).
    lines: of the file, line ends inside quotes included.
    """

    path: Path
    delimiter: str
    lines: int
    longest_line_bytes: int
    line_breaks: tuple[tuple[int, int], ...]

    @property
    def has_huge_records(self) -> bool:
        return self.longest_line_bytes > HUGE_RECORD_BYTES


def source_line(line_breaks: Sequence[tuple[int, int]], local_line: int) -> int:
    """The line of the source for a line of a piece, both from 1; line ends inside quotes count. See `Piece`."""
    at = bisect_right(line_breaks, local_line, key=lambda pair: pair[0]) - 1
    local, source = line_breaks[max(at, 0)]
    return source + local_line - local


def read_csv_call(piece: Piece, columns: Sequence[str]) -> str:
    """Give the SQL that reads a piece: `read_csv(...)` with one VARCHAR for each of `columns`.

    parallel=false: with threads DuckDB guesses where a record begins in the middle of a file, and fails on long
    quoted texts that hold lines of their own (seen with 2.0.0). It also keeps the rows in order.
    DuckDB reads an empty field, quoted or not, as NULL.
    """
    types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in columns)
    longest = max(piece.longest_line_bytes, 2_000_000)
    return (
        f"read_csv({literal(str(piece.path))}, auto_detect=false, header=false, delim={literal(piece.delimiter)}, "
        f"quote='\"', escape='\"', new_line='\\n', parallel=false, "
        f"max_line_size={longest}, buffer_size={2 * longest}, columns={{{types}}})"
    )


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
    buffer = _Buffer(text, size=min(BUFFER_BYTES, max(piece_bytes // 2, 1)))
    buffer.skip_blank_lines()
    header = _read_header(buffer, delimiter, declared, expected, name)
    writer = _PieceWriter(folder, name, delimiter, piece_bytes)
    return Reading(buffer, header, delimiter, encoding, declared.quoting, writer, on_rejected)


class Reading:
    """The pieces of one partition, in order, each written when it is asked for.

    Known at once: `header`, `columns`, `delimiter`, `encoding`. Complete after the last piece: `lines` (of the source)
    and `rejected` (a count for each reason).
    """

    def __init__(
        self,
        buffer: _Buffer,
        header: HeaderDecision,
        delimiter: str,
        encoding: str,
        quoting: bool,
        writer: _PieceWriter,
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
        self._run = _run(delimiter, width, quoting)
        self._shape = _Shape(delimiter, quoting, most_fields=width + LOOKAHEAD_FIELDS)
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

    def _good_spans(self) -> Iterator[_Span]:
        """Give what belongs into pieces, and report what does not."""
        buffer = self._buffer
        while buffer.has_more():
            end = _end(self._run, buffer.data, buffer.at)
            if end > buffer.at:
                yield buffer.take(end)
            elif not buffer.skip_blank_lines():
                span = self._look_closely()
                if span is not None:
                    yield span

    def _look_closely(self) -> _Span | None:
        """Deal with one record at which the run stopped: read on to its end, reject it, or write it anew."""
        buffer = self._buffer
        found = self._shape.parse(buffer.data, buffer.at, whole=buffer.is_last)
        match found:
            case None:
                buffer.read_more()
            case _Broken():
                self._reject(RejectedLine(buffer.line, found.reason, found.detail, text=_shown(buffer.rest_of_line())))
                buffer.skip_line()
            case _Record():
                return self._judge(found)
        return None

    def _judge(self, record: _Record) -> _Span | None:
        span = self._buffer.take(record.end)
        flaw = _flaw(record.cells, len(self.columns))
        if flaw is None:
            return _Span(self._shape.write(record.cells), span.line, span.lines)
        self._reject(RejectedLine(span.line, *flaw, lines=span.lines, text=_shown(span.data)))
        return None

    def _reject(self, rejected: RejectedLine) -> None:
        self.rejected[rejected.reason] += 1
        self._on_rejected(rejected)


def _shown(record: bytes) -> str:
    text = record[: 4 * MAX_SHOWN_CHARS].decode(errors="replace").rstrip("\r\n")[:MAX_SHOWN_CHARS]
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _flaw(cells: Sequence[bytes], width: int) -> tuple[RejectReason, str] | None:
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


def _run(delimiter: str, width: int, quoting: bool) -> re.Pattern[bytes]:
    """Match the longest run of good records of `width` fields; never fails, at worst it is empty.

    Records without any quote are tried first: they are the most, and the cheapest. A field that begins with spaces and
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
    records = [rb"(?>%s\r?\n)" % d.join([f] * width) for f in ([plain, field] if quoting else [plain])]
    return re.compile(rb"(?!\xef\xbb\xbf)(?:%s)*+" % b"|".join(records))


def _all_but(excluded: bytes) -> bytes:
    """A character class by what it holds. Python looks at each character twice for [^...]: a third slower."""
    bounds = [-1, *sorted(excluded), 256]
    gaps = ((before + 1, after - 1) for before, after in pairwise(bounds))
    return b"[%s]" % b"".join(b"\\x%02x-\\x%02x" % gap for gap in gaps if gap[0] <= gap[1])


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where a pattern that may be empty ends."""
    match = pattern.match(data, at)
    return match.end() if match else at


@dataclass(frozen=True, slots=True)
class _Record:
    """A well-formed record: its values, and where in the buffer the next line begins."""

    cells: list[bytes]
    end: int


@dataclass(frozen=True, slots=True)
class _Broken:
    """A record that cannot be read; only its first line can be said to belong to it."""

    reason: RejectReason
    detail: str


_QUOTED_ON_A_LINE = rb'"[^"\r\n]*+(?:""[^"\r\n]*+)*+"'


class _Shape:
    """Records of any width, flaws of content included. Slow: for the header, and where a run stops.

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

    def parse(self, data: bytes, at: int, *, whole: bool) -> _Record | _Broken | None:
        """Read the record that begins at `at`; None if it may go on beyond `data`, unless that is the whole rest."""
        end = _end(self._record, data, at)
        after = data[end : end + 2]
        if after[:1] == LF or after == b"\r\n":
            return _Record(self._cells(data[at:end]), end + len(after.partition(LF)[0]) + 1)
        unfinished = after in (b"", b"\r") or after[:1] == QUOTE
        if unfinished and not whole and len(data) - at < MAX_RECORD_BYTES:
            return None
        return self._broken(data[at:end], after)

    def write(self, cells: Iterable[bytes]) -> bytes:
        """Write a record that leaves nothing to interpretation: all its values quoted."""
        quoted = (b'"%s"' % cell.replace(b'"', b'""') for cell in cells)
        return self._delimiter.join(quoted) + LF

    def _broken(self, record: bytes, after: bytes) -> _Broken:
        """Name what stopped a record, by what comes after it."""
        if after in (b"", b"\r"):
            return _Broken(RejectReason.TOO_LONG, f"more than {MAX_RECORD_BYTES} bytes")
        if after[:1] == self._delimiter:
            return _Broken(RejectReason.TOO_MANY_COLUMNS, f"more than {self._most_fields} columns")
        column = f"column {len(self._cells(record))}"
        if after[:1] == QUOTE:
            return _Broken(RejectReason.UNTERMINATED_QUOTE, column)
        if after[:1] == b"\r":
            return _Broken(RejectReason.BARE_CARRIAGE_RETURN, column)
        return _Broken(RejectReason.STRAY_QUOTE, column)

    def _cells(self, record: bytes) -> list[bytes]:
        cells, at = [], 0
        while at <= len(record):
            end = _end(self._field, record, at)
            cells.append(self._value(record[at:end]))
            at = end + 1
        return cells

    def _value(self, field: bytes) -> bytes:
        if field[:1] == QUOTE and (self._quoting or re.fullmatch(_QUOTED_ON_A_LINE, field)):
            return field[1:-1].replace(b'""', QUOTE)
        return field


# The header


def _read_header(
    buffer: _Buffer, delimiter: str, declared: Dialect, expected: Sequence[str], name: str
) -> HeaderDecision:
    """Read the first record, and pass over it if it is a header."""
    if not buffer.has_more():
        return HeaderDecision(False, (), "The file is empty.")
    first = _first_record(buffer, _Shape(delimiter, declared.quoting, most_fields=MAX_COLUMNS))
    if isinstance(first, _Record):
        cells = [cell.decode() for cell in first.cells]
        decision = decide_header(cells, declared=declared.has_header, columns=declared.columns, mapped=expected)
        if decision.has_header:
            buffer.take(first.end)
        return decision
    if declared.columns and not declared.has_header:
        return no_header((), declared.columns, "The first line is damaged")
    raise SnapshotUnreadable(
        f"{name}: the first line cannot be read as column names ({first.reason}, {first.detail})",
        hint="Open the file in an editor, correct its first line and export it again.",
    )


def _first_record(buffer: _Buffer, shape: _Shape) -> _Record | _Broken:
    while (found := shape.parse(buffer.data, buffer.at, whole=buffer.is_last)) is None:
        buffer.read_more()
    flaw = _flaw(found.cells, len(found.cells)) if isinstance(found, _Record) else None
    return _Broken(*flaw) if flaw else found


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


# Buffers and files


@dataclass(frozen=True, slots=True)
class _Span:
    """Whole lines of a partition: where they begin in it, and how many they are."""

    data: bytes
    line: int
    lines: int

    @property
    def long_bytes(self) -> int:
        """Its bytes, if its records are long."""
        return len(self.data) if len(self.data) > LONG_RECORD_BYTES * self.lines else 0


class _Buffer:
    """What was read and is still to be used: `data` from `at` on, which is line `line` of the source.

    When `is_last`, nothing follows, and the last line has got a line end if it had none.
    """

    def __init__(self, source: Iterator[bytes], *, size: int) -> None:
        self.data = b""
        self.at = 0
        self.line = 1
        self.is_last = False
        self._source = split(source, size)
        self._size = size
        self._line_is_open = False

    def has_more(self) -> bool:
        """Tell whether anything is left; if so, at least two bytes are held unless there is only one."""
        while len(self.data) - self.at < 2 and not self.is_last:
            self.read_more()
        return self.at < len(self.data)

    def read_more(self) -> None:
        """Read on: half a buffer at least, so that what is held of short records is less than two.

        A long record doubles what is held, so looking at it again and again costs no more than twice.
        """
        parts = [self.data[self.at :]]
        held = len(parts[0])
        missing = max(self._size // 2, 1, min(held, MAX_RECORD_BYTES - held))
        while missing > 0 and (chunk := next(self._source, None)) is not None:
            parts.append(chunk)
            missing -= len(chunk)
            self._line_is_open = not chunk.endswith(LF)
        self.is_last = missing > 0
        if self.is_last and self._line_is_open:
            parts.append(LF)
        self.data, self.at = b"".join(parts), 0

    def take(self, end: int) -> _Span:
        data, line = self.data[self.at : end], self.line
        lines = data.count(LF)
        self.at, self.line = end, line + lines
        return _Span(data, line, lines)

    def skip_blank_lines(self) -> bool:
        """Pass over blank lines; tell whether there were any."""
        begin = self.line
        while self.has_more() and (end := _end(_BLANK_LINES, self.data, self.at)) > self.at:
            self.take(end)
        return self.line > begin

    def rest_of_line(self) -> bytes:
        """What is held of the rest of this line."""
        end = self.data.find(LF, self.at)
        return self.data[self.at : end if end >= 0 else len(self.data)]

    def skip_line(self) -> None:
        """Pass over the rest of this line, of any length."""
        while self.has_more():
            end = self.data.find(LF, self.at) + 1
            if end:
                self.take(end)
                return
            self.at = len(self.data)


_BLANK_LINES = re.compile(rb"(?:\r?\n)*+")


class _PieceWriter:
    """Writes spans to one piece after another."""

    def __init__(self, folder: Path, name: str, delimiter: str, piece_bytes: int) -> None:
        stem = re.sub(r"[^A-Za-z0-9.-]", "_", name)[-60:]
        self._path = folder / f"{stem}-{zlib.crc32(name.encode()):08x}"
        self._delimiter = delimiter
        self._piece_bytes = piece_bytes
        self._number = 0
        self._open: _OpenPiece | None = None

    @property
    def is_begun(self) -> bool:
        return self._open is not None

    def is_full_for(self, span: _Span) -> bool:
        """Tell whether the piece should be finished before the span is added."""
        piece = self._open
        if piece is None:
            return False
        is_long = piece.long_bytes + span.long_bytes > LONG_RECORDS_BYTES
        return piece.size + len(span.data) > self._piece_bytes or is_long or len(piece.breaks) >= MAX_LINE_BREAKS

    def add(self, span: _Span) -> None:
        if self._open is None:
            self._number += 1
            self._open = _OpenPiece(self._path.with_name(f"{self._path.name}-{self._number:05d}.csv"))
        self._open.add(span)

    def finish(self) -> Piece:
        piece = self._open
        assert piece is not None
        self.close()
        return Piece(
            path=piece.path,
            delimiter=self._delimiter,
            lines=piece.line - 1,
            longest_line_bytes=piece.longest,
            line_breaks=tuple(piece.breaks),
        )

    def close(self) -> None:
        if self._open is not None:
            self._open.file.close()
            self._open = None


class _OpenPiece:
    """The file being written, and what is to be known about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.size = 0
        self.longest = 0
        self.long_bytes = 0
        self.breaks: list[tuple[int, int]] = []
        self.line = 1

    def add(self, span: _Span) -> None:
        local, source = self.breaks[-1] if self.breaks else (0, 0)
        if not self.breaks or source + self.line - local != span.line:
            self.breaks.append((self.line, span.line))
        data = _with_lf(span.data)
        self.size += self.file.write(data)
        self.longest = max(self.longest, len(data))
        self.long_bytes += span.long_bytes
        self.line += span.lines


def _with_lf(data: bytes) -> bytes:
    """Turn CRLF into LF. Where no other CR is about, taking out all CR does the same in two thirds of the time."""
    if b"\r" not in data:
        return data
    without = data.replace(b"\r", b"")
    only_in_pairs = len(data) - len(without) == data.count(b"\r\n")
    return without if only_in_pairs else data.replace(b"\r\n", LF)
