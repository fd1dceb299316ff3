"""Pieces: files of clean CSV that hold a partition's good records and that DuckDB reads.

A piece is strict CSV: UTF-8 without byte-order mark or NUL, LF line ends, doubled quotes, no
header, and the same number of fields in every record, unless the rows have drifted (see
`row_widths`). A CRLF inside quotes has become LF; nothing else inside a field has changed.
`read_csv_call` gives the options that a piece is read with.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.reading.line_buffer import Span
from exporter.reading.text_encoding import BUFFER_BYTES, LF
from exporter.sql import literal

PIECE_BYTES = 12_000_000  # large enough to open cheaply, small enough to stage two at a time early
MAX_LINE_BREAKS = 50_000  # of one piece: keeps memory flat when every other line is left out

# DuckDB holds 2,048 records at a time, several times over. So a piece holds few long records.
LONG_RECORD_BYTES = 2_000  # on average
LONG_RECORDS_BYTES = 2_000_000  # in one piece
# A piece of many columns is read by itself, and what it costs to begin with grows with the columns.
MANY_FIELDS = 40
LONG_WIDE_RECORDS_BYTES = 6_000_000
# More bytes than are read of short records at a time: a line of this size is a single record.
HUGE_RECORD_BYTES = 2 * BUFFER_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A local CSV file of whole records. Whoever reads a piece deletes it.

    line_breaks: (line of the piece, line of the source), sorted. Between two of them both count in
    step. longest_line_bytes: no record is longer (DuckDB refuses one above its max_line_size).
    lines: of the piece, line ends inside quotes included. fields: the most that a record has.
    is_uneven: some records have fewer.
    """

    path: Path
    delimiter: str
    lines: int
    fields: int
    is_uneven: bool
    longest_line_bytes: int
    line_breaks: tuple[tuple[int, int], ...]

    @property
    def has_huge_records(self) -> bool:
        return self.longest_line_bytes > HUGE_RECORD_BYTES


def source_line(line_breaks: Sequence[tuple[int, int]], piece_line: int) -> int:
    """Give the line of the source for a line of a piece; both count from 1. See `Piece`."""
    at = bisect_right(line_breaks, piece_line, key=lambda pair: pair[0]) - 1
    local, source = line_breaks[max(at, 0)]
    return source + piece_line - local


def read_csv_call(piece: Piece, columns: Sequence[str]) -> str:
    """Give the SQL that reads a piece: `read_csv(...)` with one VARCHAR for each of `columns`.

    Records with fewer fields than there are columns end in NULL. Fields beyond the columns are
    empty, and follow as x0, x1, ...

    parallel=false: with threads, DuckDB guesses where a record begins in the middle of a file, and
    fails on long quoted texts that hold lines of their own (seen with 2.0.0). It also keeps the
    rows in order. DuckDB reads an empty field, quoted or not, as NULL.
    """
    beyond = [f"x{number}" for number in range(piece.fields - len(columns))]
    types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in (*columns, *beyond))
    uneven = piece.is_uneven or piece.fields < len(columns)
    longest = max(piece.longest_line_bytes, 2_000_000)
    return (
        f"read_csv({literal(str(piece.path))}, auto_detect=false, header=false,"
        f" delim={literal(piece.delimiter)}, quote='\"', escape='\"', new_line='\\n',"
        f" parallel=false, max_line_size={longest}, buffer_size={2 * longest},"
        f"{' null_padding=true,' if uneven else ''} columns={{{types}}})"
    )


class PieceWriter:
    """Writes spans of records to one piece after another. widths: of the records."""

    def __init__(
        self,
        folder: Path,
        partition: str,
        delimiter: str,
        *,
        widths: Sequence[int],
        piece_bytes: int = PIECE_BYTES,
        line_breaks: int = MAX_LINE_BREAKS,
    ) -> None:
        stem = re.sub(r"[^A-Za-z0-9.-]", "_", partition)[-60:]
        self._path = folder / f"{stem}-{zlib.crc32(partition.encode()):08x}"
        self._delimiter = delimiter
        self._widths = widths
        self._piece_bytes = piece_bytes
        self._line_breaks = line_breaks
        is_wide = max(widths) > MANY_FIELDS
        self._long_records_bytes = LONG_WIDE_RECORDS_BYTES if is_wide else LONG_RECORDS_BYTES
        self._number = 0
        self._open: _OpenPiece | None = None

    @property
    def is_begun(self) -> bool:
        """Whether a piece is begun and not finished."""
        return self._open is not None

    def is_full_for(self, span: Span) -> bool:
        """Tell whether the piece must be finished before the span is added."""
        piece = self._open
        if piece is None:
            return False
        return (
            piece.size + len(span.data) > self._piece_bytes
            or piece.long_bytes + _long_bytes(span) > self._long_records_bytes
            or len(piece.breaks) >= self._line_breaks
        )

    def add(self, span: Span) -> None:
        """Write a span to the piece that is begun, or begin one."""
        if self._open is None:
            self._number += 1
            name = f"{self._path.name}-{self._number:05d}.csv"
            self._open = _OpenPiece(self._path.with_name(name))
        self._open.add(span)

    def finish(self) -> Piece:
        """Finish the piece that is begun."""
        piece = self._open
        assert piece is not None
        self.close()
        return Piece(
            path=piece.path,
            delimiter=self._delimiter,
            lines=piece.line - 1,
            fields=max(self._widths),
            is_uneven=len(self._widths) > 1,
            longest_line_bytes=piece.longest,
            line_breaks=tuple(piece.breaks),
        )

    def close(self) -> None:
        """Close the file; a piece that is begun stays unfinished in the folder."""
        if self._open is not None:
            self._open.file.close()
            self._open = None


class _OpenPiece:
    """The file being written, and what must be known about it."""

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
        self.long_bytes += _long_bytes(span)
        self.line += span.lines


def _long_bytes(span: Span) -> int:
    """Give the size of a span if its records are long, else 0."""
    return len(span.data) if len(span.data) > LONG_RECORD_BYTES * span.lines else 0


def _with_lf(data: bytes) -> bytes:
    """Turn CRLF into LF. Without any other CR, removing all CR does the same a third faster."""
    if b"\r" not in data:
        return data
    without = data.replace(b"\r", b"")
    only_in_pairs = len(data) - len(without) == data.count(b"\r\n")
    return without if only_in_pairs else data.replace(b"\r\n", LF)
