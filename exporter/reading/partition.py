"""Turns the bytes of a partition into pieces that DuckDB reads, and names every line left out.

    bytes -> unzipped -> UTF-8 -> header -> good records -> pieces
                                     |
                                     +-> everything else -> rejected lines, by their line number

DuckDB's own CSV reader stops at the first flaw of a file, or passes over it in silence. Here a flaw
costs its own record only. `csv_grammar` says what a record is, `pieces` what DuckDB gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from exporter.errors import SnapshotUnreadable
from exporter.reading.column_headers import (
    HeaderDecision,
    counts_columns,
    decide_header,
    without_header,
)
from exporter.reading.csv_grammar import BrokenRecord, Record, RecordParser, why_rejected
from exporter.reading.delimiters import choose_delimiter
from exporter.reading.dialect import Dialect
from exporter.reading.good_records import GoodRecords, RejectedLine
from exporter.reading.line_buffer import LineBuffer
from exporter.reading.pieces import MAX_LINE_BREAKS, PIECE_BYTES, Piece, PieceWriter
from exporter.reading.row_widths import describe_drift, find_drift
from exporter.reading.sample import MAX_COLUMNS, Sample
from exporter.reading.text_encoding import BUFFER_BYTES, FoundEncoding, table_text
from exporter.rejection_reasons import RejectReason

ROWS_BELOW = 20  # of the first line, to recognise a header by


def read_partition(
    chunks: Iterable[bytes],
    *,
    folder: Path,
    name: str,
    declared: Dialect | None = None,
    encoding: str | None = None,
    expected: Sequence[str] = (),
    on_rejected: Callable[[RejectedLine], None] = lambda _: None,
    piece_bytes: int = PIECE_BYTES,
    line_breaks: int = MAX_LINE_BREAKS,
) -> Reading:
    """Open a partition and read its header. Each piece is written to `folder` when asked for.

    name: of the partition, for file names and messages. Partitions that share a folder must have
    different names.
    declared: what model.json says. encoding: what a person says, which counts for more.
    expected: source columns of the mapping, to recognise delimiter and header by.
    on_rejected: called for each rejected line while reading, in source order.
    piece_bytes, line_breaks: the most that one piece holds.
    Raises SnapshotUnreadable at once, or from a later piece if a gzip file turns out damaged.
    """
    declared = declared or Dialect()
    mapped = () if counts_columns(expected) else expected
    head, text, found = table_text(chunks, declared, name, encoding=encoding)
    sample = Sample(head, is_whole=len(head) < BUFFER_BYTES)
    choice = choose_delimiter(sample, declared, name, mapped=mapped)
    buffer = LineBuffer(text, size=min(BUFFER_BYTES, max(piece_bytes // 2, 1)))
    buffer.skip_blank_lines()
    if choice.has_sep_line:
        buffer.skip_line()
        buffer.skip_blank_lines()
        sample = sample.without_first_line()
    header = _read_header(buffer, choice.delimiter, declared, expected, name, sample)
    rows = sample.rows(
        choice.delimiter,
        declared.quoting,
        columns=len(header.columns),
        has_header=header.has_header,
    )
    drift = find_drift(rows, len(header.columns))
    records = GoodRecords(
        buffer,
        width=len(header.columns),
        drift=drift,
        delimiter=choice.delimiter,
        quoting=declared.quoting,
        on_rejected=on_rejected,
    )
    writer = PieceWriter(
        folder,
        name,
        choice.delimiter,
        widths=records.widths,
        piece_bytes=piece_bytes,
        line_breaks=line_breaks,
    )
    notes = tuple(filter(None, (choice.note, describe_drift(drift, header.columns))))
    return Reading(buffer, header, choice.delimiter, found, notes, records, writer)


class Reading:
    """The pieces of one partition, in order, each written when it is asked for.

    Known at once: `header`, `columns`, `delimiter`. Complete after the last piece: `encoding`,
    `notes` (sentences for the report), `lines` (of the source) and `rejected` (a count for each
    reason).
    """

    def __init__(
        self,
        buffer: LineBuffer,
        header: HeaderDecision,
        delimiter: str,
        encoding: FoundEncoding,
        notes: tuple[str, ...],
        records: GoodRecords,
        writer: PieceWriter,
    ) -> None:
        self.header = header
        self.delimiter = delimiter
        self._encoding = encoding
        self._notes = notes
        self._buffer = buffer
        self._records = records
        self._pieces = _write_pieces(records, writer)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.header.columns

    @property
    def encoding(self) -> str:
        return self._encoding.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how the file was read; nothing in it comes from a cell."""
        notes = [self._encoding.note, *self._notes]
        if self.rejected[RejectReason.BAD_ENCODING] and self.encoding == "utf-8":
            notes.append(
                "Some rows are not in UTF-8. If the file is in another encoding, such as Excel's"
                " windows-1252, name it: `--encoding`, or `encoding` in the mapping."
            )
        return tuple(filter(None, notes))

    @property
    def lines(self) -> int:
        """Lines of the source read so far, blank ones and the header included."""
        return self._buffer.line - 1

    @property
    def rejected(self) -> Counter[RejectReason]:
        """Rejected records so far, by reason."""
        return self._records.rejected

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Stop before the end; a piece that is begun stays unfinished in the folder."""
        self._pieces.close()


def _write_pieces(records: GoodRecords, writer: PieceWriter) -> Generator[Piece]:
    try:
        for span in records:
            if writer.is_full_for(span):
                yield writer.finish()
            writer.add(span)
        if writer.is_begun:
            yield writer.finish()
    finally:
        writer.close()


def _read_header(
    buffer: LineBuffer,
    delimiter: str,
    declared: Dialect,
    expected: Sequence[str],
    name: str,
    sample: Sample,
) -> HeaderDecision:
    """Read the first record, and pass over it if it is a header."""
    if not buffer.has_more():
        return HeaderDecision(False, (), "The file is empty.")
    parser = RecordParser(delimiter, declared.quoting, most_fields=MAX_COLUMNS)
    first = _first_record(buffer, parser)
    if isinstance(first, Record):
        cells = [cell.decode() for cell in first.cells]
        rows = sample.rows(delimiter, declared.quoting, columns=len(cells), has_header=True)
        below = [
            [cell.decode(errors="replace") for cell in row] for row in islice(rows, ROWS_BELOW)
        ]
        decision = decide_header(
            cells,
            declared=declared.has_header,
            columns=declared.columns,
            mapped=expected,
            below=below,
        )
        if decision.has_header:
            buffer.take(first.end)
        return decision
    if declared.columns and not declared.has_header:
        return without_header((), declared.columns, "The first line is damaged")
    raise SnapshotUnreadable(
        f"{name}: the first line cannot be read as column names ({first.reason}, {first.detail})",
        hint="Open the file in an editor, correct its first line and export it again.",
    )


def _first_record(buffer: LineBuffer, parser: RecordParser) -> Record | BrokenRecord:
    while (found := parser.parse(buffer.data, buffer.at, is_last=buffer.is_last)) is None:
        buffer.read_more()
    flaw = why_rejected(found.cells, len(found.cells)) if isinstance(found, Record) else None
    return BrokenRecord(*flaw) if flaw else found
