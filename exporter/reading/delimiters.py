"""Which character stands between the columns of a file. Pure."""

from __future__ import annotations

import re

from exporter.errors import SnapshotUnreadable
from exporter.reading.dialect import Dialect

_CANDIDATES = (b",", b";", b"\t", b"|")


def choose_delimiter(head: bytes, declared: Dialect, partition: str) -> str:
    """Give the declared delimiter, else the likeliest one by the file's first record.

    head: the beginning of the file. Raises SnapshotUnreadable for a delimiter that cannot work.
    """
    if not declared.delimiter:
        return _likeliest(head.lstrip(b"\r\n"), declared.quoting)
    if re.fullmatch(r'[^A-Za-z0-9 "\r\n\x00\x7f-\U0010ffff]', declared.delimiter):
        return declared.delimiter
    raise SnapshotUnreadable(
        f"{partition}: the declared delimiter {declared.delimiter!r} is not supported",
        hint="Export with a comma, semicolon, tab or vertical bar between the columns.",
    )


def _likeliest(data: bytes, quoting: bool) -> str:
    """Give the candidate that is most frequent in the first record; a comma if none is there."""
    line = re.match(rb"[^\r\n]*+", data)
    record = re.match(rb'(?:[^"\r\n]++|"[^"]*+")*+(?=[\r\n]|\Z)', data) if quoting else None
    text = (record or line or [b""])[0]  # a record that does not end has a lone quote: it is data
    text = re.sub(rb'"[^"]*+"', b"", text)
    best = max(_CANDIDATES, key=text.count)  # the first of equals
    return best.decode()
