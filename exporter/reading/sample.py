"""The beginning of a partition, looked at before its records are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from exporter.reading.csv_grammar import (
    LOOKAHEAD_FIELDS,
    BrokenRecord,
    Record,
    RecordParser,
    end_of_match,
)
from exporter.reading.text_encoding import LF

MAX_COLUMNS = 4_096
_BLANK_LINES = re.compile(rb"(?:\r?\n)*+")


@dataclass(frozen=True, slots=True)
class Sample:
    """The first bytes of a partition as UTF-8. is_whole: they are all of it."""

    data: bytes
    is_whole: bool

    def without_first_line(self) -> Sample:
        """Give the sample without the first line that is not blank."""
        _, _, rest = self.data.lstrip(b"\r\n").partition(LF)
        return Sample(rest, self.is_whole)

    def first_record(self, delimiter: str, quoting: bool) -> Sequence[bytes]:
        """Give the cells of the first record; none if it cannot be read."""
        found = next(self._parsed(delimiter, quoting, MAX_COLUMNS), None)
        return found.cells if isinstance(found, Record) else ()

    def rows(
        self, delimiter: str, quoting: bool, *, columns: int, has_header: bool
    ) -> Iterator[Sequence[bytes]]:
        """Give the cells of each whole row. One that cannot be read is passed over."""
        most_fields = max(columns, 1) + LOOKAHEAD_FIELDS
        found = self._parsed(delimiter, quoting, most_fields)
        for one in islice(found, int(has_header), None):
            if isinstance(one, Record):
                yield one.cells

    def _parsed(
        self, delimiter: str, quoting: bool, most_fields: int
    ) -> Iterator[Record | BrokenRecord]:
        parser = RecordParser(delimiter, quoting, most_fields=most_fields)
        data, at = self.data, 0
        if self.is_whole and not data.endswith(LF):
            data += LF
        while (at := end_of_match(_BLANK_LINES, data, at)) < len(data):
            found = parser.parse(data, at, is_last=self.is_whole)
            if found is None:
                return
            yield found
            at = found.end if isinstance(found, Record) else data.find(LF, at) + 1
            if not at:
                return
