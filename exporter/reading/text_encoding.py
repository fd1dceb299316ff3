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
from dataclasses import dataclass
from itertools import chain

from exporter.errors import SnapshotUnreadable
from exporter.reading.dialect import Dialect, code_page_of

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

# Beside letters, people write these with a word processor.
_USUAL_SIGNS = "\u00a0‘’‚“”„–—…€°«»"

_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")

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


@dataclass(slots=True)
class FoundEncoding:
    """The encoding that a file is read in. `note`: why it is not the expected one.

    Known when all was read: bytes that are not UTF-8 may come late.
    """

    name: str
    note: str = ""


def decode(
    chunks: Iterable[bytes],
    declared: str | None,
    *,
    name: str,
    encoding: str | None = None,
    culture: str | None = None,
) -> tuple[Iterator[bytes], FoundEncoding]:
    """Unpack gzip and turn any encoding into UTF-8 without a byte-order mark.

    A byte-order mark wins over all else. So do zero bytes in the first letters, which show UTF-16.
    Then comes `encoding`, which a person gave, then what model.json `declared`, then UTF-8. A file
    that should be UTF-8 and is not is read in the code page of the `culture`, if its bytes would be
    letters there, unless a person said otherwise.
    Bytes that the encoding does not know become UNDECODABLE.
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
    mark, codec = _encoding_of(head, encoding or declared, name)
    text, found = _drop(source, len(mark)), FoundEncoding(codec)
    if codec != "utf-8":
        return _transcoded(text, codec, name), found
    code_page = None if mark or encoding else code_page_of(culture)
    if code_page is None:
        return _checked_utf8(text), found
    return _utf8_or_code_page(text, code_page, found, culture or "", name), found


def table_text(
    chunks: Iterable[bytes], declared: Dialect, name: str, *, encoding: str | None = None
) -> tuple[bytes, Iterator[bytes], FoundEncoding]:
    """Decode, refuse what is not a table, and make LF or CRLF of odd line ends.

    Odd are CR in a file without any LF, and CR CR LF at the end of the first line.
    Gives the beginning of at most BUFFER_BYTES, an iterator over all, and the encoding.
    """
    decoded, found = decode(
        chunks, declared.encoding, name=name, encoding=encoding, culture=declared.culture
    )
    head, text = peek(decoded, BUFFER_BYTES)
    head = head[:BUFFER_BYTES]
    _refuse_other_text(head[:HEAD_BYTES], encoding or declared.encoding, name)
    if b"\r" in head and LF not in head:
        return head.replace(b"\r", LF), (chunk.replace(b"\r", LF) for chunk in text), found
    if re.match(rb"[^\r\n]*+\r\r\n", head):
        return head.replace(b"\r\r\n", b"\r\n"), _with_crlf(text), found
    return head, text, found


def _with_crlf(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn CR CR LF into CRLF: a text that went through two conversions of line ends has them."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        cut = len(data) - len(data[-2:]) + len(data[-2:].rstrip(b"\r"))
        rest = data[cut:]
        yield data[:cut].replace(b"\r\r\n", b"\r\n")
    yield rest


def _refuse_other_text(head: bytes, encoding: str | None, name: str) -> None:
    for pattern, what in ((_MARKUP, "an HTML or XML page"), (_JSON, "a JSON document")):
        if pattern.match(head):
            raise SnapshotUnreadable(
                f"{name} is {what}, not CSV", hint="Look at how the file was made, and export CSV."
            )
    if len(head) >= 512 and 3 * len(_NOT_TEXT.findall(head)) > len(head):
        raise _wrong_encoding(name, f"the file is not text in the encoding {encoding or 'utf-8'}")


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
    try:
        return codec_of(encoding)
    except (LookupError, ValueError) as exc:
        raise _wrong_encoding(name, f"the encoding {encoding!r} is not known") from exc


def is_encoding(name: str) -> bool:
    """Tell whether files can be read in an encoding of this name."""
    try:
        codec_of(name)
    except (LookupError, ValueError):
        return False
    return True


def codec_of(encoding: str) -> str:
    """Give Python's name of an encoding of text. Raises LookupError or ValueError for others."""
    wanted = encoding.strip().lower()
    codec = codecs.lookup(_ENCODING_NAMES.get(wanted, wanted)).name
    codecs.getincrementaldecoder(codec)
    b"a".decode(codec, _MARK)
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


def _utf8_or_code_page(
    chunks: Iterator[bytes], code_page: str, found: FoundEncoding, culture: str, name: str
) -> Iterator[bytes]:
    """Read UTF-8, or the code page if the first bytes that are not ASCII are letters there only."""
    for chunk in chunks:
        if chunk.isascii():
            yield chunk
            continue
        begin = _BEYOND_ASCII.search(chunk)
        at = begin.start() if begin else 0
        yield chunk[:at]
        sample, rest = peek(chain([chunk[at:]], chunks), BUFFER_BYTES)
        sample = sample[:BUFFER_BYTES]
        if _is_utf8(sample):
            yield from _checked_utf8(rest)
        elif _holds_letters(sample, code_page):
            found.name = code_page
            shown = code_page.replace("cp125", "Windows-125")
            found.note = (
                f"The file is not in UTF-8. It was read as {shown}, the code page of {culture}."
            )
            yield from _transcoded(rest, code_page, name)
        else:
            yield from _checked_utf8(rest)
        return


def _is_utf8(sample: bytes) -> bool:
    """Tell whether more characters beyond ASCII are UTF-8 than bytes are not."""
    marked, _ = codecs.utf_8_decode(sample, _MARK, False)
    bad = marked.count("\udcff")
    good = sum(not one.isascii() for one in marked) - bad
    return good > bad


def _holds_letters(sample: bytes, code_page: str) -> bool:
    """Tell whether nearly all bytes beyond ASCII are letters in a code page, or usual signs."""
    text = codecs.getincrementaldecoder(code_page)(_MARK).decode(sample)
    others = [one for one in text if not one.isascii()]
    letters = sum(one.isalpha() or one in _USUAL_SIGNS for one in others)
    return any(map(str.isalpha, others)) and 10 * letters >= 9 * len(others)


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
        f"{name}: {flaw}",
        hint="Export as UTF-8, or name the encoding: --encoding, or encoding in the mapping.",
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
