"""Which character stands between the columns of a file. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.errors import SnapshotUnreadable
from exporter.names import comparable
from exporter.reading.dialect import Dialect
from exporter.reading.sample import Sample

_CANDIDATES = (",", ";", "\t", "|")
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}

# Excel's own line, which names the delimiter.
_SEP_LINE = re.compile(rb'(?:\r?\n)*+"?sep=(\\t|[^\r\n])"?\r?(?:\n|\Z)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DelimiterChoice:
    """The delimiter of a file. note: why it is not the declared one.

    has_sep_line: the first line that is not blank names the delimiter and holds nothing else.
    """

    delimiter: str
    note: str = ""
    has_sep_line: bool = False


def choose_delimiter(
    sample: Sample, declared: Dialect, partition: str, *, mapped: Sequence[str] = ()
) -> DelimiterChoice:
    """Choose the delimiter by Excel's line sep=;, by the mapped columns, or as declared.

    Of several candidates, the one counts under which most of the `mapped` columns exist. Without
    any, the declared one does, unless it does not occur in the first record and others do.
    Raises SnapshotUnreadable for a delimiter that cannot work.
    """
    if sep_line := _SEP_LINE.match(sample.data):
        named = sep_line[1].decode(errors="replace").replace("\\t", "\t")
        _check(named, partition)
        note = f"The file's first line says that the delimiter is {_describe(named)}."
        return DelimiterChoice(named, note, has_sep_line=True)
    if declared.delimiter:
        _check(declared.delimiter, partition)
    likeliest = _likeliest(sample.data.lstrip(b"\r\n"), declared.quoting)
    order = dict.fromkeys([declared.delimiter or likeliest, likeliest, *_CANDIDATES])
    cells = {one: sample.first_record(one, declared.quoting) for one in order}
    best = max(order, key=lambda one: _count_mapped(cells[one], mapped))
    if not _count_mapped(cells[best], mapped):
        is_contradicted = len(cells[next(iter(order))]) < 2 <= len(cells[likeliest])
        fits_model = declared.columns is not None and len(declared.columns) < 2
        best = likeliest if is_contradicted and not fits_model else next(iter(order))
    if not declared.delimiter or best == declared.delimiter:
        return DelimiterChoice(best)
    note = (
        f"The delimiter is {_describe(best)}, although model.json says"
        f" {_describe(declared.delimiter)}."
    )
    return DelimiterChoice(best, note)


def _check(delimiter: str, partition: str) -> None:
    if not re.fullmatch(r'[^A-Za-z0-9 "\r\n\x00\x7f-\U0010ffff]', delimiter):
        raise SnapshotUnreadable(
            f"{partition}: the declared delimiter {delimiter!r} is not supported",
            hint="Export with a comma, semicolon, tab or vertical bar between the columns.",
        )


def _describe(delimiter: str) -> str:
    return _NAMES.get(delimiter, repr(delimiter))


def _count_mapped(cells: Sequence[bytes], mapped: Sequence[str]) -> int:
    found = {comparable(cell.decode(errors="replace")) for cell in cells}
    return len(found & {comparable(name) for name in mapped})


def _likeliest(data: bytes, quoting: bool) -> str:
    """Give the candidate that is most frequent in the first record; a comma if none is there."""
    line = re.match(rb"[^\r\n]*+", data)
    record = re.match(rb'(?:[^"\r\n]++|"[^"]*+")*+(?=[\r\n]|\Z)', data) if quoting else None
    text = (record or line or [b""])[0]  # a record that does not end has a lone quote: it is data
    text = re.sub(rb'"[^"]*+"', b"", text)
    return max(_CANDIDATES, key=lambda one: text.count(one.encode()))  # the first of equals
