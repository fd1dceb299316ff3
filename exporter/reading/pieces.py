"""A partition's good records as pieces: files of clean CSV that DuckDB reads."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.reading.csv_grammar import (
    MAX_RECORD_BYTES,
    line_end_of,
)
from exporter.reading.text_encoding import BUFFER_BYTES, LF, split
from exporter.sql import literal

PIECE_BYTES = (
    12_000_000  # enough to make opening one cheap, few enough for two to be staged from early on
)


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


# Buffers and files


@dataclass(frozen=True, slots=True)
class Span:
    """Whole lines of a partition: where they begin in it, and how many they are."""

    data: bytes
    line: int
    lines: int

    @property
    def long_bytes(self) -> int:
        """Its bytes, if its records are long."""
        return len(self.data) if len(self.data) > LONG_RECORD_BYTES * self.lines else 0


class Buffer:
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

    def take(self, end: int) -> Span:
        data, line = self.data[self.at : end], self.line
        lines = data.count(LF)
        self.at, self.line = end, line + lines
        return Span(data, line, lines)

    def skip_blank_lines(self) -> bool:
        """Pass over blank lines; tell whether there were any."""
        begin = self.line
        while self.has_more() and (end := line_end_of(_BLANK_LINES, self.data, self.at)) > self.at:
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


class PieceWriter:
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

    def is_full_for(self, span: Span) -> bool:
        """Tell whether the piece should be finished before the span is added."""
        piece = self._open
        if piece is None:
            return False
        is_long = piece.long_bytes + span.long_bytes > LONG_RECORDS_BYTES
        return (
            piece.size + len(span.data) > self._piece_bytes
            or is_long
            or len(piece.breaks) >= MAX_LINE_BREAKS
        )

    def add(self, span: Span) -> None:
        if self._open is None:
            self._number += 1
            self._open = _OpenPiece(
                self._path.with_name(f"{self._path.name}-{self._number:05d}.csv")
            )
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

    def add(self, span: Span) -> None:
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


LONG_RECORD_BYTES = 2_000  # on average: DuckDB holds 2,048 records at a time, several times over
LONG_RECORDS_BYTES = 2_000_000  # a piece holds no more of long records
HUGE_RECORD_BYTES = (
    2 * BUFFER_BYTES
)  # more than is read of short records at a time: a single one must be larger
MAX_LINE_BREAKS = 50_000  # of one piece: keeps memory flat when every other line is left out
