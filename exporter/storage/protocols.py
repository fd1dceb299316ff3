"""What the exporter needs of storage, as three small protocols.

                                                                    on Azure        on a laptop
    Store       our own state: documents, logs and files by name    BlobStore       FolderStore
    Snapshots   what Customer Insights writes; read-only to us      BlobSnapshots   FolderSnapshots
    WorkQueue   the queue that carries the work                     AzureQueue      MemoryQueue

tests/storage holds both of each to one behavior.

A name stands for one of three kinds, as long as it exists: a *document* (read, create, replace), a
*log* (read, append) or a *file* (upload, download). After a crash a document or file is the old one
or the new one, never a part of it.

A log is text in lines that each end with a newline. Only the `complete_lines` of it count. If the
process or the machine dies during an append, the log may end in an unfinished line, after the first
of several lines. Readers leave the unfinished line out, and the next append, at the length of the
complete lines, overwrites it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from exporter.errors import ConfigError, DocumentUnreadable, ExporterError

# The journal of some million rows that failed; we write nothing larger.
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
# One block of an append blob, in the size that every service version accepts.
MAX_APPEND_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 4 * 1024 * 1024

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Document:
    """What was read, and the ETag that a conditional write must show."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """One blob of a snapshot container. `etag` has no quotes; `modified_at` is aware, in UTC."""

    name: str
    etag: str
    size_bytes: int
    modified_at: datetime


class NotThere(ExporterError):
    """A file to be downloaded does not exist."""


class Store(Protocol):
    """Our own state. A name that `check_name` refuses raises ValueError.

    An ETag changes with every write, even if the content is an earlier one. Every method may raise
    Transient and ConfigError.
    """

    def read(self, name: str) -> Document | None:
        """Read a document or log; None if there is none. Raises ConfigError if it is too large."""

    def create(self, name: str, data: bytes) -> str:
        """Write a document that must not exist, and return its ETag. Raises AlreadyThere."""

    def replace(self, name: str, data: bytes, *, etag: str) -> str:
        """Write over the version that was read, and return the new ETag.

        Raises StoreMoved if the document has changed or no longer exists.
        """

    def delete(self, name: str, *, etag: str | None = None) -> None:
        """Remove it, if it exists. With `etag`, raises StoreMoved if it has changed."""

    def names(self, prefix: str) -> Iterator[str]:
        """List every name that begins with `prefix`, sorted."""

    def folders(self, prefix: str) -> Iterator[str]:
        """List the folders directly below the folder `prefix`, sorted.

        With "runs/vips/1a/run.json" and "runs/vips/note.json", folders("runs/vips/") is "1a".
        """

    def append(self, name: str, data: bytes, *, at: int) -> int:
        """Add whole lines to a log of `at` bytes and return its new length; `at=0` begins it.

        Raises StoreMoved if the log has another length. If exactly `data` already stands at that
        place, then the answer to this same append was lost, and the append counts as done.
        """

    def upload(self, name: str, path: Path) -> None:
        """Write a file of any size, over an older one."""

    def download(self, name: str, path: Path) -> None:
        """Write an uploaded file to `path`, where it never appears unfinished. Raises NotThere."""

    def ping(self) -> None:
        """Raise what would keep the store from working."""


class Snapshots(Protocol):
    """The container of Customer Insights. Every method may raise Transient and ConfigError."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """List the blobs whose name begins with `prefix`, in pages: never all of them at once."""

    def open(self, name: str, *, etag: str) -> Iterator[bytes]:
        """Read one version in chunks of about 4 MB.

        Raises PartitionChanged if the blob no longer has this version, or changes meanwhile.
        """

    def read(self, name: str, *, max_bytes: int) -> Document | None:
        """Read a small blob; None if there is none. Raises BlobTooLarge."""

    def ping(self) -> None:
        """Raise what would keep snapshots from being read."""


class WorkQueue(Protocol):
    """The queue that carries the work: at least once, in no certain order."""

    def put(self, message: Mapping[str, object], *, delay_s: float = 0) -> None:
        """Queue a message that becomes visible after `delay_s`.

        Raises ValueError for a message that is too large, and for more than 7 days.
        """


def too_large(name: str, max_bytes: int) -> ConfigError:
    """Build the error for a document of more than `max_bytes`."""
    hint = "The exporter never writes so large a document. Restore it, or delete it."
    return ConfigError(f"{name} has over {max_bytes:,} bytes", hint=hint)


def check_lines(data: bytes) -> bytes:
    """Return `data` if it may be appended to a log, else raise ValueError."""
    if not data.endswith(b"\n") or b"\0" in data:
        raise ValueError("a log takes whole lines of text, the last one ending with a newline")
    if len(data) > MAX_APPEND_BYTES:
        raise ValueError(f"{len(data)} bytes in one append, at most {MAX_APPEND_BYTES} allowed")
    return data


def complete_lines(log: bytes) -> bytes:
    """Return the part of a log that counts; its length is the `at` of the next append.

    An unfinished last line is left out. So are zero bytes and all that follows them: after a power
    loss, a file system may have lengthened a file without writing its content.
    """
    text = log.partition(b"\0")[0]
    return text[: text.rfind(b"\n") + 1]


def parse_document(kind: type[Model], name: str, data: bytes) -> Model:
    """Parse the document `name`. Raises DocumentUnreadable, which names keys but no values."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        places = [
            ".".join(map(str, error["loc"])) or "not a JSON object"
            for error in exc.errors(include_input=False)
        ]
        raise DocumentUnreadable(f"{name} cannot be read: {', '.join(places)}") from None
