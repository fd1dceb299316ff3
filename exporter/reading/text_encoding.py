"""Turns the bytes of a partition, whatever their compression and encoding, into UTF-8.

    unpack gzip -> byte-order mark, else the declared encoding -> UTF-8, in chunks

A byte that the encoding does not know becomes UNDECODABLE, so that it costs no more than its line.
Files that are not text are refused.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from exporter.errors import SnapshotUnreadable
from exporter.reading.dialect import Dialect

BUFFER_BYTES = 1_000_000
HEAD_BYTES = 4_096  # enough to tell what a file is
GZIP_BYTES = 65_536  # unpacked at a time: what is left over is copied for each member
LF, NUL = b"\n", b"\x00"
UNDECODABLE = b"\xff"  # stands for undecodable bytes: never part of UTF-8
_MARK = "exporter.mark-undecodable"

# How files begin that are not text. gzip is here for a gzip file inside another.
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
# Without the control characters that serve as delimiters.
_NOT_TEXT = re.compile(rb"[\x00\x02-\x08\x0e-\x1a\xff]")
_JSON = re.compile(rb'\s*(?:\{\s*"|\[\s*[\[{"])')

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Names and code pages of .NET and Power Query that Python does not know. ASCII is read as UTF-8,
# which contains it.
_ENCODING_NAMES = {
    "65001": "utf-8",
    "1200": "utf-16",
    "unicode": "utf-16",
    "1201": "utf-16-be",
    "20127": "utf-8",
    "28591": "latin-1",
    "ascii": "utf-8",
    "utf-8-sig": "utf-8",
}


def is_parquet(first_bytes: bytes) -> bool:
    """Tell a Parquet file by its first five bytes. A CSV file may begin with PAR1, too, but then
    the fifth byte is text.
    """
    return bool(re.match(rb"PAR1(?![\s -~])", first_bytes))


def decode(
    chunks: Iterable[bytes], encoding: str | None, *, name: str
) -> tuple[Iterator[bytes], str]:
    """Unpack gzip and turn any encoding into UTF-8 without a byte-order mark.

    Also gives the encoding's name. A byte-order mark wins over the declared encoding. So do zero
    bytes in the first letters, which show UTF-16. With neither mark nor declaration the file is
    UTF-8. Bytes that the encoding does not know become UNDECODABLE.
    Raises SnapshotUnreadable for an unknown encoding, and for files that are not text.
    """
    head, source = peek(split(chunks))
    if head.startswith(b"\x1f\x8b"):
        head, source = peek(_gunzip(source, name))
    what = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if what or is_parquet(head):
        raise SnapshotUnreadable(
            f"{name} is {what or 'a Parquet file'}, not CSV",
            hint="Export it as CSV, plain or packed with gzip.",
        )
    mark, codec = _encoding_of(head, encoding, name)
    text = _drop(source, len(mark))
    return (_checked_utf8(text) if codec == "utf-8" else _transcoded(text, codec, name)), codec


def table_text(
    chunks: Iterable[bytes], declared: Dialect, name: str
) -> tuple[bytes, Iterator[bytes], str]:
    """Decode, refuse what is not a table, and turn CR into LF in a file without any LF.

    Gives the beginning, an iterator over all, and the name of the file's encoding.
    """
    decoded, encoding = decode(chunks, declared.encoding, name=name)
    head, text = peek(decoded, BUFFER_BYTES)
    head = head[:BUFFER_BYTES]
    _refuse_other_text(head[:HEAD_BYTES], declared, name)
    if b"\r" in head and LF not in head:
        return head.replace(b"\r", LF), (chunk.replace(b"\r", LF) for chunk in text), encoding
    return head, text, encoding


def _refuse_other_text(head: bytes, declared: Dialect, name: str) -> None:
    for pattern, what in ((_MARKUP, "an HTML or XML page"), (_JSON, "a JSON document")):
        if pattern.match(head):
            raise SnapshotUnreadable(
                f"{name} is {what}, not CSV", hint="Look at how the file was made, and export CSV."
            )
    if len(head) >= 512 and 3 * len(_NOT_TEXT.findall(head)) > len(head):
        encoding = declared.encoding or "utf-8"
        raise _wrong_encoding(name, f"the file is not text in the encoding {encoding}")


def peek(chunks: Iterator[bytes], size: int = HEAD_BYTES) -> tuple[bytes, Iterator[bytes]]:
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


def split(chunks: Iterable[bytes], size: int = BUFFER_BYTES) -> Iterator[bytes]:
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
    for chunk in split(chunks, GZIP_BYTES):
        data = chunk
        while data:
            if member is None:
                data = data.lstrip(NUL)  # padding, which gzip itself accepts
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
    return SnapshotUnreadable(
        f"{name}: the gzip file {flaw}", hint="Export or upload the file again."
    )


def _encoding_of(head: bytes, declared: str | None, name: str) -> tuple[bytes, str]:
    """Give the byte-order mark and the codec."""
    for mark, codec in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return mark, codec
    codec = _known_codec(declared, name) if declared else "utf-8"
    return b"", _utf16_without_mark(head) or ("utf-16-le" if codec == "utf-16" else codec)


def _utf16_without_mark(head: bytes) -> str | None:
    """Recognise UTF-16 by zero bytes at every other place: no other encoding begins so."""
    if re.match(rb"[^\x00]\x00[^\x00]\x00", head):
        return "utf-16-le"
    return "utf-16-be" if re.match(rb"\x00[^\x00]\x00[^\x00]", head) else None


def _known_codec(encoding: str, name: str) -> str:
    """Give Python's name of an encoding. Refuse what Python does not know as one of text."""
    wanted = encoding.strip().lower()
    try:
        codec = codecs.lookup(_ENCODING_NAMES.get(wanted, wanted)).name
        codecs.getincrementaldecoder(codec)
        b"a".decode(codec, _MARK)
    except (LookupError, ValueError) as exc:
        raise _wrong_encoding(name, f"the encoding {encoding!r} is not known") from exc
    return _ENCODING_NAMES.get(codec, codec)


def _checked_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass UTF-8 on, with undecodable bytes marked; cut between characters."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        good, used = _check(data, final=False)
        rest = data[used:]
        yield good
    yield _check(rest, final=True)[0]


def _check(data: bytes, *, final: bool) -> tuple[bytes, int]:
    """Mark undecodable bytes. Also say how much was used: all but an incomplete character."""
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
    return SnapshotUnreadable(
        f"{name}: {flaw}", hint="Export as UTF-8, or declare the file's own encoding."
    )


def _mark_undecodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Turn undecodable bytes into a lone surrogate when decoding, and surrogates into UNDECODABLE
    when encoding: UTF-8 cannot hold them.
    """
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return UNDECODABLE * (error.end - error.start), error.end
    raise error


codecs.register_error(_MARK, _mark_undecodable)
