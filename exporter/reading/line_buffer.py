"""The lines of a partition while they are read: a window that moves on and counts lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.reading.csv_grammar import MAX_RECORD_BYTES, end_of_match
from exporter.reading.text_encoding import LF, split

_BLANK_LINES = re.compile(rb"(?:\r?\n)*+")


@dataclass(frozen=True, slots=True)
class Span:
    """Whole lines of a partition: the first one's number in the source, and how many they are."""

    data: bytes
    line: int
    lines: int


class LineBuffer:
    """What was read and is not used yet: `data` from `at` on, which is line `line` of the source.

    When `is_last`, nothing follows, and the last line has a line end even if the file has none.
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
        """Tell whether anything is left. If so, hold at least two bytes if there are two."""
        while len(self.data) - self.at < 2 and not self.is_last:
            self.read_more()
        return self.at < len(self.data)

    def read_more(self) -> None:
        """Read on, at least half a buffer: of short records, less than two buffers are held.

        For a long record the buffer doubles, so parsing it again and again costs at most twice.
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
        """Take the lines up to `end`, and move on behind them."""
        data, line = self.data[self.at : end], self.line
        lines = data.count(LF)
        self.at, self.line = end, line + lines
        return Span(data, line, lines)

    def skip_blank_lines(self) -> bool:
        """Pass over blank lines; tell whether there were any."""
        begin = self.line
        while self.has_more() and (end := end_of_match(_BLANK_LINES, self.data, self.at)) > self.at:
            self.take(end)
        return self.line > begin

    def rest_of_line(self) -> bytes:
        """Give what is held of the rest of this line."""
        end = self.data.find(LF, self.at)
        return self.data[self.at : end if end >= 0 else len(self.data)]

    def skip_line(self) -> None:
        """Pass over the rest of this line, however long it is."""
        while self.has_more():
            end = self.data.find(LF, self.at) + 1
            if end:
                self.take(end)
                return
            self.at = len(self.data)
