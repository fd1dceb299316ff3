"""What the exporter needs of storage, as three small protocols, and their laptop implementations in a folder.

    Store       our own state: documents, logs and files by name     FolderStore      (cloud: BlobStore)
    Snapshots   what Customer Insights writes; read-only to us       FolderSnapshots  (cloud: BlobSnapshots)
    WorkQueue       the queue that carries the work                      MemoryQueue      (cloud: AzureQueue)

The cloud's own are in azure_blobs.py; tests/storage holds each pair to one behaviour.

A name is one of three kinds, for as long as it exists: a *document* (read, create, replace), a *log* (read,
append) or a *file* (upload, download). Documents and files are old or new after a crash, never torn. A log is
text in lines, each ending with a newline; only `complete_lines` of what was read count. An append that the
process or the machine did not survive may leave an unfinished last line (and of several lines the first ones):
readers leave it out, and the next append at the length of the complete lines puts its own in that place.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from exporter.errors import (
    ConfigError,
    DocumentUnreadable,
    ExporterError,
)

if sys.platform == "win32":
    pass
else:
    pass

# https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
MAX_NAME_CHARACTERS = 1_024
MAX_SEGMENT_BYTES = 255  # NAME_MAX of ext4, xfs and APFS
MAX_APPEND_BYTES = (
    4 * 1024 * 1024
)  # one block of an append blob, the size that every service version takes
# 64 KiB, of which base64 leaves this: https://learn.microsoft.com/azure/storage/queues/storage-queues-introduction
MAX_MESSAGE_BYTES = 48 * 1024
MAX_DELAY_S = (
    7 * 24 * 3600
)  # https://learn.microsoft.com/rest/api/storageservices/put-message, visibilitytimeout

Model = TypeVar("Model", bound=BaseModel)

MAX_DOCUMENT_BYTES = (
    256 * 1024 * 1024
)  # the journal of some million rows that failed; more is no work of ours
CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Document:
    """What was read, and the ETag that a conditional write must show."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """One blob of a snapshot container. `etag` is without quotes; `modified_at` is aware, in UTC."""

    name: str
    etag: str
    size_bytes: int
    modified_at: datetime


class NotThere(ExporterError):
    """A file to be downloaded does not exist."""


class Store(Protocol):
    """Our own state. Names are those that `check_name` lets pass, else ValueError.

    An ETag changes with every write, also when the content of earlier comes back. Every method may raise
    Transient and ConfigError.
    """

    def read(self, name: str) -> Document | None:
        """Read a document or log; None if there is none. Raises ConfigError for more than MAX_DOCUMENT_BYTES."""

    def create(self, name: str, data: bytes) -> str:
        """Write a document that must not exist; its ETag. Raises AlreadyThere."""

    def replace(self, name: str, data: bytes, *, etag: str) -> str:
        """Write over the version that was read; the new ETag. Raises StoreMoved if it changed or is gone."""

    def delete(self, name: str, *, etag: str | None = None) -> None:
        """Remove it; absent is fine. With `etag`, raises StoreMoved if it is there and changed."""

    def names(self, prefix: str) -> Iterator[str]:
        """Every name that begins with `prefix`, sorted."""

    def folders(self, prefix: str) -> Iterator[str]:
        """The next segment of names below the folder `prefix` that go on after it, sorted, each once.

        With "runs/vips/1a/run.json" and "runs/vips/note.json", folders("runs/vips/") is "1a".
        """

    def append(self, name: str, data: bytes, *, at: int) -> int:
        """Add whole lines to a log of `at` bytes and return its new length; `at=0` begins it.

        Raises StoreMoved if the log has another length, except when exactly `data` is what stands there
        already: then the answer to this same append was lost, and it counts as done.
        """

    def upload(self, name: str, path: Path) -> None:
        """Write a file of any size, over an older one."""

    def download(self, name: str, path: Path) -> None:
        """Write what was uploaded to `path`, which is complete whenever it is there. Raises NotThere."""

    def ping(self) -> None:
        """Raise what would keep the store from working."""


class Snapshots(Protocol):
    """The container into which Customer Insights writes. Every method may raise Transient and ConfigError."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """The blobs whose name begins with `prefix`, as storage lists them: never all of them at once."""

    def open(self, name: str, *, etag: str) -> Iterator[bytes]:
        """Read one version in chunks of about 4 MB.

        Raises PartitionChanged if the blob is another one by now, is gone, or changes while it is read.
        """

    def read(self, name: str, *, max_bytes: int) -> Document | None:
        """Read a small blob; None if there is none. Raises BlobTooLarge."""

    def ping(self) -> None:
        """Raise what would keep snapshots from being read."""


class WorkQueue(Protocol):
    """The queue that carries the work: at least once, in no certain order."""

    def put(self, message: Mapping[str, object], *, delay_s: float = 0) -> None:
        """Queue a message that becomes visible after `delay_s`. ValueError: too large, or over 7 days."""


def too_large(name: str) -> ConfigError:
    hint = "The exporter writes none so large: restore the document, or delete it."
    return ConfigError(f"{name} has over {MAX_DOCUMENT_BYTES:,} bytes", hint=hint)


def check_name(name: str) -> str:
    """Return `name` if every store can hold it, else raise ValueError.

    Relative, "/" between segments, none of which is empty, begins or ends with a dot, or is over 255 bytes;
    no backslash, no control character; at most 1,024 characters.
    """
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"name of {len(name)} characters, at most {MAX_NAME_CHARACTERS} are possible"
        )
    if "\\" in name or any(unicodedata.category(character) == "Cc" for character in name):
        raise ValueError(f"backslash or control character in name {name!r}")
    for segment in name.split("/"):
        # A dot at the end: Azure's page on naming says to avoid it, as URLs lose it on the way.
        if not segment or segment.startswith(".") or segment.endswith("."):
            raise ValueError(
                f"empty segment, or one that begins or ends with a dot, in name {name!r}"
            )
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise ValueError(f"segment over {MAX_SEGMENT_BYTES} bytes in name {name!r}")
    return name


def check_prefix(prefix: str) -> str:
    """Return `prefix` if a name could begin with it up to its last "/", else raise ValueError."""
    folder = prefix.rpartition("/")[0]
    if folder or prefix.startswith("/"):
        check_name(folder)
    return prefix


def folder_prefix(prefix: str) -> str:
    """Return `prefix` with the "/" at its end that makes it a folder; "" is the root. Raises ValueError."""
    return check_prefix(prefix if not prefix or prefix.endswith("/") else prefix + "/")


def check_lines(data: bytes) -> bytes:
    """Return `data` if it may be appended to a log, else raise ValueError."""
    if not data.endswith(b"\n") or b"\0" in data:
        raise ValueError("a log takes whole lines of text, the last one ending with a newline")
    if len(data) > MAX_APPEND_BYTES:
        raise ValueError(
            f"{len(data)} bytes in one append, at most {MAX_APPEND_BYTES} are possible"
        )
    return data


def complete_lines(log: bytes) -> bytes:
    """The part of a log that counts; its length is the `at` of the next append.

    Left out is an unfinished last line. So are zero bytes and what follows: after a power loss a file system
    may have made a file longer without having written its content.
    """
    text = log.partition(b"\0")[0]
    return text[: text.rfind(b"\n") + 1]


def parse_document(kind: type[Model], name: str, data: bytes) -> Model:
    """What the document `name` says. Raises DocumentUnreadable, which names keys and quotes no value."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        places = [
            ".".join(map(str, error["loc"])) or "not a JSON object"
            for error in exc.errors(include_input=False)
        ]
        raise DocumentUnreadable(f"{name} cannot be read: {', '.join(places)}") from None


def encode_message(message: Mapping[str, object]) -> str:
    """Write a message as compact JSON. Raises ValueError if a queue could not take it."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    size = len(text.encode())
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {size} bytes, at most {MAX_MESSAGE_BYTES} are possible")
    return text


def decode_message(body: bytes) -> Mapping[str, object]:
    """Read a message. One that is no JSON object, so none of ours, counts as empty."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def check_delay(delay_s: float) -> float:
    """Return `delay_s` if a queue can wait so long, else raise ValueError."""
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise ValueError(f"delay of {delay_s} s, possible is 0 to {MAX_DELAY_S}")
    return delay_s


@contextlib.contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; what was written there becomes `path` if the block succeeds."""
    fd, temporary = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    os.close(fd)
    try:
        yield Path(temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def is_name(name: str) -> bool:
    """Whether every store can hold it."""
    try:
        check_name(name)
    except ValueError:
        return False
    return True
