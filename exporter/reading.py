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
  for Python's csv module and Excel; this includes a quote after a space.
- A CRLF inside quotes becomes LF. All else inside a field stays as it is.
"""

from __future__ import annotations

import codecs
import re
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

from exporter.errors import SnapshotUnreadable

PIECE_BYTES = 32_000_000  # what DuckDB reads in one buffer
BUFFER_BYTES = 1_000_000
MAX_RECORD_BYTES = 16_000_000  # a longer record is rejected; one buffer more may pass
MAX_COLUMNS = 4_096
HEAD_BYTES = 4_096
MAX_LINE_BREAKS = 50_000  # of one piece: keeps memory flat when every other line is left out
LOOKAHEAD_FIELDS = 64  # how far beyond the last column the end of a record is looked for

QUOTE, LF, NUL = b'"', b"\n", b"\x00"
UNDECODABLE = b"\xff"  # stands for undecodable bytes: never part of UTF-8
_MARK = "exporter.mark-undecodable"


# --- what comes out ---------------------------------------------------------------------------------------------


class LineReason(StrEnum):
    """Why a line is not in a piece."""

    TOO_FEW_COLUMNS = "too_few_columns"
    TOO_MANY_COLUMNS = "too_many_columns"
    UNTERMINATED_QUOTE = "unterminated_quote"
    STRAY_QUOTE = "stray_quote"  # text after a closing quote
    BARE_CARRIAGE_RETURN = "bare_carriage_return"
    NUL_BYTE = "nul_byte"
    BAD_ENCODING = "bad_encoding"
    TOO_LONG = "too_long"


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A record left out: `lines` lines of the source from `line` (from 1) on. `detail` holds no value of it."""

    line: int
    reason: LineReason
    detail: str
    lines: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What is known about a partition before it is opened, as from model.json; None: not known.

    quoting: False for QuoteStyle.None, where every line end ends a row and quotes are data.
    columns: names in the order of the file.
    """

    delimiter: str | None = None
    encoding: str | None = None
    quoting: bool = True
    has_header: bool | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class HeaderDecision:
    """Whether the first line holds names, what the columns are called, and a sentence for the report."""

    has_header: bool
    columns: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A local CSV file of whole records. The reader of a piece deletes it.

    number: from 1 within the partition, in source order.
    line_breaks: (local line, source line), sorted; between two of them both count in step.
    longest_line_bytes: no record is longer (DuckDB refuses one above its max_line_size).
    """

    path: Path
    number: int
    delimiter: str
    size_bytes: int
    longest_line_bytes: int
    line_breaks: tuple[tuple[int, int], ...]

    def source_line(self, local_line: int) -> int:
        """Give the line of the source for a line of this file, both from 1; line ends inside quotes count."""
        at = bisect_right(self.line_breaks, local_line, key=lambda pair: pair[0]) - 1
        local, source = self.line_breaks[max(at, 0)]
        return source + local_line - local


def read_csv_call(piece: Piece, columns: Sequence[str]) -> str:
    """Give the SQL that reads a piece: `read_csv(...)` with one VARCHAR for each of `columns`.

    parallel=false: with threads DuckDB guesses where a record begins in the middle of a file, and fails on long
    quoted texts that hold lines of their own (seen with 2.0.0). It also keeps the rows in order.
    DuckDB reads an empty field, quoted or not, as NULL.
    """
    types = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in columns)
    longest = max(piece.longest_line_bytes, 2_000_000)
    return (
        f"read_csv({_literal(str(piece.path))}, auto_detect=false, header=false, delim={_literal(piece.delimiter)}, "
        f"quote='\"', escape='\"', new_line='\\n', parallel=false, "
        f"max_line_size={longest}, buffer_size={2 * longest}, columns={{{types}}})"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- reading a partition ----------------------------------------------------------------------------------------


def read_partition(
    chunks: Iterable[bytes],
    *,
    folder: Path,
    name: str,
    declared: Declared | None = None,
    expected: Sequence[str] = (),
    on_rejected: Callable[[RejectedLine], None] = lambda _: None,
    piece_bytes: int = PIECE_BYTES,
) -> Reading:
    """Open a partition and read its header; the pieces are then written to `folder` one by one, as they are asked for.

    name: of the partition, for file names and messages; no two partitions of a folder share one.
    expected: source columns of the mapping, to recognise a header by.
    on_rejected: called for each rejected line while reading, in source order.
    Raises SnapshotUnreadable at once, or later for a damaged gzip file.
    """
    declared = declared or Declared()
    head, text = _table_text(chunks, declared, name)
    delimiter = _delimiter(head, declared, name)
    buffer = _Buffer(text, size=min(BUFFER_BYTES, max(piece_bytes // 2, 1)))
    buffer.skip_blank_lines()
    header = _read_header(buffer, delimiter, declared, expected, name)
    writer = _PieceWriter(folder, name, delimiter, piece_bytes)
    return Reading(buffer, header, delimiter, declared.quoting, writer, on_rejected)


class Reading:
    """The pieces of one partition, in order, each written when it is asked for.

    Known at once: `header`, `columns`, `delimiter`. Complete after the last piece: `lines` (of the source) and
    `rejected` (a count for each reason).
    """

    def __init__(
        self,
        buffer: _Buffer,
        header: HeaderDecision,
        delimiter: str,
        quoting: bool,
        writer: _PieceWriter,
        on_rejected: Callable[[RejectedLine], None],
    ) -> None:
        self.header = header
        self.delimiter = delimiter
        self.rejected: Counter[LineReason] = Counter()
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
                self._reject(RejectedLine(buffer.line, found.reason, found.detail))
                buffer.skip_line()
            case _Record():
                return self._judge(found)
        return None

    def _judge(self, record: _Record) -> _Span | None:
        span = self._buffer.take(record.end)
        flaw = _flaw(record.cells, len(self.columns))
        if flaw is None:
            return _Span(self._shape.write(record.cells), span.line, span.lines)
        self._reject(RejectedLine(span.line, *flaw, lines=span.lines))
        return None

    def _reject(self, rejected: RejectedLine) -> None:
        self.rejected[rejected.reason] += 1
        self._on_rejected(rejected)


def _flaw(cells: Sequence[bytes], width: int) -> tuple[LineReason, str] | None:
    """Say why a well-formed record is no row, with the detail; None for a good one."""
    for column, cell in enumerate(cells, 1):
        if NUL in cell:
            return LineReason.NUL_BYTE, f"column {column}"
        if UNDECODABLE in cell:
            return LineReason.BAD_ENCODING, f"column {column}"
    if len(cells) == width:
        return None
    few = len(cells) < width
    return (
        LineReason.TOO_FEW_COLUMNS if few else LineReason.TOO_MANY_COLUMNS,
        f"{len(cells)} of {width} columns",
    )


# --- the grammar ------------------------------------------------------------------------------------------------


def _run(delimiter: str, width: int, quoting: bool) -> re.Pattern[bytes]:
    """Match the longest run of good records of `width` fields; never fails, at worst it is empty.

    Records without any quote are tried first: they are the most, and the cheapest. A field that begins with spaces and
    a quote is left to the closer look, because DuckDB would take it for quoted; so is a byte-order mark at the start,
    because DuckDB would drop it if it came to begin a piece. A single empty field is a blank line.
    """
    d = re.escape(delimiter.encode())
    text = rb'[^"%s\r\n\x00\xff]' % d
    begin, inside = rb'[^ "%s\r\n\x00\xff]' % d, rb"[^%s\r\n\x00\xff]*+" % d
    plain = text + (b"++" if width == 1 else b"*+")
    quoted = rb'"[^"\x00\xff]*+(?:""[^"\x00\xff]*+)*+"'
    loose = rb"%s%s| ++(?:%s%s)?+" % (begin, inside, begin, inside)
    field = rb"(?>%s|%s%s)" % (quoted, loose, b"" if width == 1 else b"|")
    records = [rb"(?>%s\r?\n)" % d.join([f] * width) for f in ([plain, field] if quoting else [plain])]
    return re.compile(rb"(?!\xef\xbb\xbf)(?:%s)*+" % b"|".join(records))


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

    reason: LineReason
    detail: str


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
            self._field = re.compile(rb"[^%s\r\n]*+" % d)
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
        return (self._delimiter.join(quoted) + LF).replace(b"\r\n", LF)

    def _broken(self, record: bytes, after: bytes) -> _Broken:
        """Name what stopped a record, by what comes after it."""
        if after in (b"", b"\r"):
            return _Broken(LineReason.TOO_LONG, f"more than {MAX_RECORD_BYTES} bytes")
        if after[:1] == self._delimiter:
            return _Broken(LineReason.TOO_MANY_COLUMNS, f"more than {self._most_fields} columns")
        column = f"column {len(self._cells(record))}"
        if after[:1] == QUOTE:
            return _Broken(LineReason.UNTERMINATED_QUOTE, column)
        if after[:1] == b"\r":
            return _Broken(LineReason.BARE_CARRIAGE_RETURN, column)
        return _Broken(LineReason.STRAY_QUOTE, column)

    def _cells(self, record: bytes) -> list[bytes]:
        cells, at = [], 0
        while at <= len(record):
            end = _end(self._field, record, at)
            cells.append(self._value(record[at:end]))
            at = end + 1
        return cells

    def _value(self, field: bytes) -> bytes:
        if self._quoting and field[:1] == QUOTE:
            return field[1:-1].replace(b'""', QUOTE)
        return field


# --- the header -------------------------------------------------------------------------------------------------


def decide_header(
    first_record: Sequence[str],
    *,
    declared: bool | None,
    columns: Sequence[str] | None = None,
    mapped: Sequence[str] = (),
) -> HeaderDecision:
    """Decide whether the first record of a partition holds the column names.

    declared: what model.json says. columns: its names, in order. mapped: names that the mapping uses.
    A first line that repeats known names is a header whatever is declared: where model.json says nothing, that means
    "no header", yet common writers write one. Names are compared without regard to case and outer blanks.
    """
    if _names_columns(first_record, columns or (), mapped):
        contrary = ", although model.json says that there is none" if declared is False else ""
        return _header(first_record, f"The first line holds the column names{contrary}.")
    has_address = any("@" in cell for cell in first_record)
    if declared and not (has_address and (columns or mapped)):
        return _header(first_record, "model.json says that the first line holds the column names.")
    if declared:
        return _no_header(
            first_record, columns, "model.json promises column names, but the first line holds an address"
        )
    if declared is False:
        return _no_header(first_record, columns, "model.json says that there are no column names")
    if columns:
        return _no_header(first_record, columns, "The first line does not repeat the names of model.json")
    if has_address:
        return _no_header(first_record, None, "The first line holds an address, so it is a row")
    if mapped and all(re.fullmatch(r"column_\d+", name) for name in mapped):
        return _no_header(first_record, None, "The mapping counts columns instead of naming them")
    return _header(first_record, "Nothing else is known, so the first line is taken for the column names.")


def _names_columns(cells: Sequence[str], columns: Sequence[str], mapped: Sequence[str]) -> bool:
    """Tell whether the cells are names: all that the mapping needs, or more than half known ones."""
    found, needed = {_key(cell) for cell in cells}, {_key(name) for name in mapped}
    known = needed | {_key(name) for name in columns}
    return bool(needed and needed <= found) or 2 * sum(_key(cell) in known for cell in cells) > len(cells)


def _header(cells: Sequence[str], why: str) -> HeaderDecision:
    names, changed = _unique_names(cells)
    return HeaderDecision(
        True, names, f"{why} Empty or repeated names were changed to unique ones." if changed else why
    )


def _no_header(cells: Sequence[str], columns: Sequence[str] | None, why: str) -> HeaderDecision:
    names, _ = _unique_names(columns or [""] * len(cells))
    given = "the names are those of model.json" if columns else "the columns are called column_1 and so on"
    return HeaderDecision(False, names, f"{why}; {given}.")


def _unique_names(cells: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Make names usable as those of SQL columns: trimmed, never empty, different even without regard to case."""
    wanted = [" ".join(cell.split()) or f"column_{number}" for number, cell in enumerate(cells, 1)]
    names: dict[str, str] = {}
    taken = {name.casefold() for name in wanted}
    for name in wanted:
        unique = name if name.casefold() not in names else _numbered(name, taken)
        names[unique.casefold()] = unique
        taken.add(unique.casefold())
    unique_names = tuple(names.values())
    return unique_names, any(_key(a) != _key(b) for a, b in zip(unique_names, cells, strict=True))


def _numbered(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}".casefold() in taken:
        number += 1
    return f"{name}_{number}"


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _read_header(
    buffer: _Buffer, delimiter: str, declared: Declared, expected: Sequence[str], name: str
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
        return _no_header((), declared.columns, "The first line is damaged")
    raise SnapshotUnreadable(
        f"{name}: the first line cannot be read as column names ({first.reason}, {first.detail})",
        hint="Open the file in an editor, correct its first line and export it again.",
    )


def _first_record(buffer: _Buffer, shape: _Shape) -> _Record | _Broken:
    while (found := shape.parse(buffer.data, buffer.at, whole=buffer.is_last)) is None:
        buffer.read_more()
    flaw = _flaw(found.cells, len(found.cells)) if isinstance(found, _Record) else None
    return _Broken(*flaw) if flaw else found


def _delimiter(head: bytes, declared: Declared, name: str) -> str:
    """Give the declared delimiter, else the candidate that is most frequent in the first record, else a comma."""
    if not declared.delimiter:
        return _likeliest_delimiter(head.lstrip(b"\r\n"), declared.quoting)
    if re.fullmatch(r'[^\w\s"\x00\x80-\U0010ffff]|[\t_]', declared.delimiter):
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


# --- bytes in, UTF-8 out ----------------------------------------------------------------------------------------

# How files begin that are no text. gzip is here for a gzip file inside another.
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\x1f\x8b": "packed with gzip twice",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"BZh91AY&SY": "packed with bzip2",
    b"\x28\xb5\x2f\xfd": "packed with Zstandard",
    b"\xfd7zXZ\x00": "packed with xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"%PDF-": "a PDF document",
    b"Obj\x01": "an Avro file",
}
_MARKUP = re.compile(rb"\s*<(?:!|\?|[a-z][^,;\t|]*>)", re.IGNORECASE)
_NO_TEXT = re.compile(rb"[\x00\x02-\x08\x0e-\x1a\xff]")  # not the control characters that serve as delimiters
_JSON = re.compile(rb'\s*(?:\{\s*"|\[\s*[\[{"])')

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Names and code pages of .NET and Power Query that Python does not know. ASCII is read as UTF-8, which contains it.
_ENCODING_NAMES = {
    "65001": "utf-8", "1200": "utf-16", "unicode": "utf-16", "1201": "utf-16-be", "20127": "utf-8", "28591": "latin-1",
    "ascii": "utf-8", "utf-8-sig": "utf-8",
}  # fmt: skip


def is_parquet(first_bytes: bytes) -> bool:
    """Tell a Parquet file by its first five bytes: the fifth is binary, where CSV could begin with PAR1 too."""
    return bool(re.match(rb"PAR1(?![\s -~])", first_bytes))


def decode(chunks: Iterable[bytes], encoding: str | None, *, name: str) -> Iterator[bytes]:
    """Unpack gzip and turn any encoding into UTF-8 without a byte-order mark.

    Bytes that the encoding does not know become UNDECODABLE, so that they cost no more than their line. A byte-order
    mark wins over the declared encoding. Without either, zero bytes in the first letters show UTF-16; else it is UTF-8.
    Raises SnapshotUnreadable for an encoding that is not known and for files that are no text.
    """
    head, source = _peek(_split(chunks))
    if head.startswith(b"\x1f\x8b"):
        head, source = _peek(_gunzip(source, name))
    what = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if what or is_parquet(head):
        raise SnapshotUnreadable(
            f"{name} is {what or 'a Parquet file'}, not CSV", hint="Export it as CSV, plain or packed with gzip."
        )
    mark, codec = _encoding_of(head, encoding, name)
    text = _drop(source, len(mark))
    return _checked_utf8(text) if codec == "utf-8" else _transcoded(text, codec, name)


def _table_text(chunks: Iterable[bytes], declared: Declared, name: str) -> tuple[bytes, Iterator[bytes]]:
    """Decode, refuse what is no table, and turn CR line ends into LF where a file has no others.

    Gives the beginning, and an iterator over all.
    """
    head, text = _peek(decode(chunks, declared.encoding, name=name), BUFFER_BYTES)
    head = head[:BUFFER_BYTES]
    _refuse_other_text(head[:HEAD_BYTES], declared, name)
    if b"\r" in head and LF not in head:
        return head.replace(b"\r", LF), (chunk.replace(b"\r", LF) for chunk in text)
    return head, text


def _refuse_other_text(head: bytes, declared: Declared, name: str) -> None:
    for pattern, what in ((_MARKUP, "an HTML or XML page"), (_JSON, "a JSON document")):
        if pattern.match(head):
            raise SnapshotUnreadable(f"{name} is {what}, not CSV", hint="Look at how the file came to be; export CSV.")
    if len(head) >= 512 and 3 * len(_NO_TEXT.findall(head)) > len(head):
        raise _wrong_encoding(name, f"the file is not text in the encoding {declared.encoding or 'utf-8'}")


def _peek(chunks: Iterator[bytes], size: int = HEAD_BYTES) -> tuple[bytes, Iterator[bytes]]:
    """Give the first bytes and an iterator over all."""
    seen: list[bytes] = []
    missing = size
    for chunk in chunks:
        seen.append(chunk)
        missing -= len(chunk)
        if missing <= 0:
            break
    head = b"".join(seen)
    return head, chain([head], chunks)


def _split(chunks: Iterable[bytes], size: int = BUFFER_BYTES) -> Iterator[bytes]:
    """Cut long chunks and leave out empty ones."""
    for chunk in chunks:
        for at in range(0, len(chunk), size):
            yield chunk[at : at + size]


def _drop(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Leave out the first bytes, all of which are in the first chunk."""
    yield next(chunks, b"")[count:]
    yield from chunks


def _gunzip(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Unpack gzip, of one member or several, a buffer at a time however much it expands."""
    member = None
    for chunk in chunks:
        data = chunk
        while data:
            if member is None:
                data = data.lstrip(NUL)  # padding, as gzip itself takes it
                member = zlib.decompressobj(wbits=31) if data else None
                continue
            yield _unpack(member, data, name)
            data = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    if member is not None:
        raise _damaged_gzip(name, "ends too early")


def _unpack(unpacker: zlib._Decompress, data: bytes, name: str) -> bytes:
    try:
        return unpacker.decompress(data, BUFFER_BYTES)
    except zlib.error as exc:
        raise _damaged_gzip(name, "is damaged") from exc


def _damaged_gzip(name: str, flaw: str) -> SnapshotUnreadable:
    return SnapshotUnreadable(f"{name}: the gzip file {flaw}", hint="Export or upload the file again.")


def _encoding_of(head: bytes, declared: str | None, name: str) -> tuple[bytes, str]:
    """Give the byte-order mark and the codec."""
    for mark, codec in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return mark, codec
    codec = _known_codec(declared, name) if declared else "utf-8"
    if codec == "utf-16" or not declared:
        codec = _utf16_without_mark(head) or ("utf-16-le" if declared else codec)
    return b"", codec


def _utf16_without_mark(head: bytes) -> str | None:
    if re.match(rb"[^\x00]\x00[^\x00]\x00", head):
        return "utf-16-le"
    return "utf-16-be" if re.match(rb"\x00[^\x00]\x00[^\x00]", head) else None


def _known_codec(encoding: str, name: str) -> str:
    """Give Python's name of an encoding; refuse one that it does not have, or that is no encoding of text."""
    wanted = encoding.strip().lower()
    try:
        codec = codecs.lookup(_ENCODING_NAMES.get(wanted, wanted)).name
        codecs.getincrementaldecoder(codec)
        b"a".decode(codec, _MARK)
    except (LookupError, ValueError) as exc:
        raise _wrong_encoding(name, f"the encoding {encoding!r} is not known") from exc
    return _ENCODING_NAMES.get(codec, codec)


def _checked_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass UTF-8 on as it is but for undecodable bytes; cuts between characters."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        good, used = _check(data, final=False)
        rest = data[used:]
        yield good
    yield _check(rest, final=True)[0]


def _check(data: bytes, *, final: bool) -> tuple[bytes, int]:
    """Mark undecodable bytes; also say how much was used: all but a character that is not complete."""
    if data.isascii():
        return data, len(data)
    try:
        _, used = codecs.utf_8_decode(data, "strict", final)
        return data[:used], used
    except UnicodeDecodeError:
        text, used = codecs.utf_8_decode(data, _MARK, final)
        return text.encode("utf-8", _MARK), used


def _transcoded(chunks: Iterator[bytes], codec: str, name: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(codec)(_MARK)
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", _MARK)
        yield decoder.decode(b"", final=True).encode("utf-8", _MARK)
    except UnicodeError as exc:  # such as UTF-32 without its mark
        raise _wrong_encoding(name, f"the file is not in the declared encoding, {codec}") from exc


def _wrong_encoding(name: str, flaw: str) -> SnapshotUnreadable:
    return SnapshotUnreadable(f"{name}: {flaw}", hint="Export as UTF-8, or declare the file's own encoding.")


def _mark_undecodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Turn undecodable bytes into a lone surrogate, and that, which UTF-8 cannot hold, into UNDECODABLE."""
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return UNDECODABLE * (error.end - error.start), error.end
    raise error


codecs.register_error(_MARK, _mark_undecodable)


# --- buffers and files ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Span:
    """Whole lines of a partition: where they begin in it, and how many they are."""

    data: bytes
    line: int
    lines: int


class _Buffer:
    """What was read and is still to be used: `data` from `at` on, which is line `line` of the source.

    When `is_last`, nothing follows, and the last line has got a line end if it had none.
    """

    def __init__(self, source: Iterator[bytes], *, size: int) -> None:
        self.data = b""
        self.at = 0
        self.line = 1
        self.is_last = False
        self._source = _split(source, size)
        self._size = size
        self._line_is_open = False

    def has_more(self) -> bool:
        """Tell whether anything is left; if so, at least two bytes are held unless there is only one."""
        while len(self.data) - self.at < 2 and not self.is_last:
            self.read_more()
        return self.at < len(self.data)

    def read_more(self) -> None:
        """Read on. A long record doubles what is held, so looking at it again and again costs no more than twice."""
        parts = [self.data[self.at :]]
        held = len(parts[0])
        missing = max(self._size, min(held, MAX_RECORD_BYTES - held))
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
        return piece.size + len(span.data) > self._piece_bytes or len(piece.breaks) >= MAX_LINE_BREAKS

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
            number=self._number,
            delimiter=self._delimiter,
            size_bytes=piece.size,
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
        self.breaks: list[tuple[int, int]] = []
        self._line = 1

    def add(self, span: _Span) -> None:
        local, source = self.breaks[-1] if self.breaks else (0, 0)
        if not self.breaks or source + self._line - local != span.line:
            self.breaks.append((self._line, span.line))
        data = _with_lf(span.data)
        self.size += self.file.write(data)
        self.longest = max(self.longest, len(data))
        self._line += span.lines


def _with_lf(data: bytes) -> bytes:
    """Turn CRLF into LF. Where no other CR is about, taking out all CR does the same in two thirds of the time."""
    if b"\r" not in data:
        return data
    without = data.replace(b"\r", b"")
    only_in_pairs = len(data) - len(without) == data.count(b"\r\n")
    return without if only_in_pairs else data.replace(b"\r\n", LF)
