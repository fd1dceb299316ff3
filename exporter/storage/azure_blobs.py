"""Our state and the snapshots in containers of Azure Storage. protocols.py says what both promise.

What the service or the SDK raises becomes one of our errors in `azure_errors`. Losing a condition
is not an error of the service: each write handles its own.

An answer can be lost after the service did what was asked. The SDK then sends the request again,
and this time the condition fails, because the first request changed the blob. So the metadata of
each document holds a mark of the writer of this version: a writer that seems to have lost checks
whether the mark is its own.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobProperties, BlobServiceClient, ContainerClient

from exporter.errors import (
    AlreadyThere,
    BlobTooLarge,
    ExporterError,
    PartitionChanged,
    StoreMoved,
    Terminal,
    Transient,
)
from exporter.storage.azure_account import (
    RETRY_POLICY,
    already_created,
    azure_errors,
    connection_errors,
    error_code,
    service_identity,
)
from exporter.storage.blob_names import check_name, check_prefix, folder_prefix
from exporter.storage.downloads import placing
from exporter.storage.protocols import (
    CHUNK_BYTES,
    MAX_DOCUMENT_BYTES,
    BlobInfo,
    Document,
    NotThere,
    check_lines,
    too_large,
)

T = TypeVar("T")
# A transfer keeps about one chunk in memory for each of its concurrent requests. With chunks of
# 4 MiB, a blob of 50,000 blocks may have 195 GiB.
TRANSFER: dict[str, Any] = {
    "max_single_put_size": CHUNK_BYTES,
    "max_block_size": CHUNK_BYTES,
    "max_single_get_size": CHUNK_BYTES,
    "max_chunk_get_size": CHUNK_BYTES,
}
CONCURRENCY = 2  # enough to keep one core of a small instance busy
READ_ATTEMPTS = 3

# https://learn.microsoft.com/rest/api/storageservices/append-block
MAX_APPENDS = 50_000

BLOB_ROLE = "Storage Blob Data Contributor"
READER_ROLE = "Storage Blob Data Reader"
WRITTEN_BY = "written_by"  # metadata names must be identifiers

# https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
LOST = {"BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet", "BlobNotFound"}
WRONG_LENGTH = {"AppendPositionConditionNotMet", "BlobNotFound", "ContainerNotFound"}


class BlobStore:
    """A Store in a container, which is created by the first write."""

    def __init__(
        self, container: ContainerClient, *, max_document_bytes: int = MAX_DOCUMENT_BYTES
    ) -> None:
        self._container, self._max_bytes = container, max_document_bytes

    def read(self, name: str) -> Document | None:
        blob = self._blob(name)
        with azure_errors(name, BLOB_ROLE):
            for _ in range(READ_ATTEMPTS):
                try:
                    error = too_large(name, self._max_bytes)
                    return _document(blob, max_bytes=self._max_bytes, error=error)
                except ResourceNotFoundError:
                    return None
                except ResourceModifiedError:
                    continue  # over 4 MiB, and written between two requests of this download
        raise Transient(f"{name} changes faster than it can be read")

    def create(self, name: str, data: bytes) -> str:
        return self._write(name, data, lost=AlreadyThere(f"{name} exists"), overwrite=False)

    def replace(self, name: str, data: bytes, *, etag: str) -> str:
        lost = StoreMoved(f"{name} changed or is gone")
        return self._write(name, data, lost=lost, overwrite=True, **_if_match(etag))

    def delete(self, name: str, *, etag: str | None = None) -> None:
        blob = self._blob(name)
        with azure_errors(name, BLOB_ROLE):
            try:
                blob.delete_blob(delete_snapshots="include", **(_if_match(etag) if etag else {}))
            except ResourceNotFoundError:
                return
            except ResourceModifiedError as exc:
                # An absent blob fails the condition too, and is fine: an answer may have been lost.
                if error_code(exc) not in LOST or blob.exists():
                    raise StoreMoved(f"{name} changed") from exc

    def names(self, prefix: str) -> Iterator[str]:
        found = _list(self._container, check_prefix(prefix), BLOB_ROLE)
        return iter(sorted(blob.name for blob in found))

    def folders(self, prefix: str) -> Iterator[str]:
        below = folder_prefix(prefix)
        with azure_errors(prefix or "the container", BLOB_ROLE):
            try:
                found = [item.name for item in self._container.walk_blobs(below, delimiter="/")]
            except ResourceNotFoundError:
                found = []
        return iter(sorted(name[len(below) : -1] for name in found if name.endswith("/")))

    def append(self, name: str, data: bytes, *, at: int) -> int:
        check_lines(data)
        blob = self._blob(name)
        with azure_errors(name, BLOB_ROLE):
            if at == 0:
                self._begin_log(blob)
            try:
                blob.append_block(data, length=len(data), appendpos_condition=at)
            except HttpResponseError as exc:
                if error_code(exc) == "BlockCountExceedsLimit":
                    message = f"{name} has had the {MAX_APPENDS} appends that a log can take"
                    raise Terminal(message) from exc
                if error_code(exc) not in WRONG_LENGTH:
                    raise
                if not _ends_with(blob, data, at=at):
                    raise StoreMoved(f"{name} is not {at} bytes long") from exc
        return at + len(data)

    def upload(self, name: str, path: Path) -> None:
        blob, size = self._blob(name), path.stat().st_size

        def send() -> None:
            with path.open("rb") as file:
                blob.upload_blob(file, length=size, overwrite=True, max_concurrency=CONCURRENCY)

        with azure_errors(name, BLOB_ROLE):
            self._with_container(send)

    def download(self, name: str, path: Path) -> None:
        blob = self._blob(name)
        with (
            azure_errors(name, BLOB_ROLE),
            placing(path) as temporary,
            temporary.open("wb") as file,
        ):
            try:
                # Every later request of a download asks for the version that the first one found.
                blob.download_blob(max_concurrency=CONCURRENCY).readinto(file)
            except ResourceNotFoundError as exc:
                raise NotThere(f"{name} does not exist") from exc
            except ResourceModifiedError as exc:
                raise Transient(f"{name} changed while it was read") from exc

    def ping(self) -> None:
        with azure_errors("the state container", BLOB_ROLE):
            self._with_container(self._container.get_container_properties)

    def _blob(self, name: str) -> BlobClient:
        return self._container.get_blob_client(check_name(name))

    def _write(self, name: str, data: bytes, *, lost: StoreMoved, **condition: Any) -> str:
        blob, mark = self._blob(name), {WRITTEN_BY: uuid.uuid4().hex}
        with azure_errors(name, BLOB_ROLE):
            try:
                written = self._with_container(
                    lambda: blob.upload_blob(data, metadata=mark, **condition)
                )
                return _plain(written["etag"])
            except HttpResponseError as exc:
                if error_code(exc) not in LOST:
                    raise
                etag = _etag_if_marked(blob, mark)
                if etag is None:
                    raise lost from exc
                return etag

    def _begin_log(self, blob: BlobClient) -> None:
        try:
            self._with_container(
                lambda: blob.create_append_blob(match_condition=MatchConditions.IfMissing)
            )
        except HttpResponseError as exc:
            if error_code(exc) not in LOST:
                raise

    def _with_container(self, send: Callable[[], T]) -> T:
        """Send. If there is no container yet, create it and send again."""
        try:
            return send()
        except ResourceNotFoundError as exc:
            if error_code(exc) != "ContainerNotFound":
                raise
        with already_created("ContainerAlreadyExists"):
            self._container.create_container()
        return send()


class BlobSnapshots:
    """Snapshots in a container. Leaves out the folders that a hierarchical namespace lists."""

    def __init__(self, container: ContainerClient) -> None:
        self._container = container

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        return map(_blob_info, _list(self._container, prefix, READER_ROLE))

    def open(self, name: str, *, etag: str) -> Iterator[bytes]:
        with azure_errors(name, READER_ROLE):
            try:
                yield from self._container.download_blob(name, **_if_match(etag)).chunks()
            except (ResourceModifiedError, ResourceNotFoundError) as exc:
                raise PartitionChanged(f"{name} changed or is gone") from exc

    def read(self, name: str, *, max_bytes: int) -> Document | None:
        with azure_errors(name, READER_ROLE):
            blob = self._container.get_blob_client(name)
            try:
                error = BlobTooLarge(f"{name} has over {max_bytes:,} bytes")
                return _document(blob, max_bytes=max_bytes, error=error)
            except ResourceNotFoundError:
                return None
            except ResourceModifiedError as exc:
                raise Transient(f"{name} changed while it was read") from exc

    def ping(self) -> None:
        with azure_errors("the container of snapshots", READER_ROLE):
            self._container.get_container_properties()


def blob_service(prefix: str, environ: Mapping[str, str]) -> BlobServiceClient:
    """Connect to blobs as the bindings of Functions do. Raises ConfigError.

    The setting `prefix` is a connection string. Without it, `prefix`__blobServiceUri is an address
    for the app's identity: the one with the client ID `prefix`__clientId, if that is set.
    """
    with connection_errors(prefix):
        if connection := environ.get(prefix):
            return BlobServiceClient.from_connection_string(connection, **RETRY_POLICY, **TRANSFER)
        url, credential = service_identity(prefix, "blobServiceUri", environ)
        return BlobServiceClient(url, credential=credential, **RETRY_POLICY, **TRANSFER)


def has_soft_delete(service: BlobServiceClient) -> bool | None:
    """Say whether deleted blobs are kept; None where the app's roles do not let it see that."""
    with azure_errors("the account of snapshots", READER_ROLE):
        try:
            found = service.get_service_properties()
        except HttpResponseError as exc:
            if exc.status_code in (401, 403):
                return None
            raise
    policy = found.get("delete_retention_policy")
    return bool(policy and policy.enabled)


def _plain(etag: str) -> str:
    """Remove the quotes, which headers have and listings and Event Grid do not."""
    return etag.strip('"')


def _if_match(etag: str) -> dict[str, Any]:
    return {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}


def _document(blob: BlobClient, *, max_bytes: int, error: ExporterError) -> Document:
    stream = blob.download_blob()
    if stream.size > max_bytes:
        raise error
    return Document(stream.readall(), _plain(stream.properties.etag))


def _etag_if_marked(blob: BlobClient, mark: Mapping[str, str]) -> str | None:
    try:
        found = blob.get_blob_properties()
    except ResourceNotFoundError:
        return None
    return _plain(found.etag) if found.metadata == mark else None


def _ends_with(blob: BlobClient, data: bytes, *, at: int) -> bool:
    """Whether exactly `data` follows byte `at`."""
    try:
        return blob.download_blob(offset=at, length=len(data) + 1).readall() == data
    except HttpResponseError as exc:
        if exc.status_code not in (404, 416):  # absent; shorter than `at`
            raise
        return False


def _list(container: ContainerClient, prefix: str, role: str) -> Iterator[BlobProperties]:
    """List the blobs whose name begins with `prefix`, page by page; none without a container."""
    with azure_errors(prefix or "the container", role), contextlib.suppress(ResourceNotFoundError):
        for blob in container.list_blobs(name_starts_with=prefix, include=["metadata"]):
            if not _is_folder(blob):
                yield blob


def _is_folder(blob: BlobProperties) -> bool:
    """Whether a blob is a folder, as an account with hierarchical namespace lists them.

    https://learn.microsoft.com/azure/storage/blobs/data-lake-storage-known-issues
    """
    return (blob.metadata or {}).get("hdi_isfolder") == "true"


def _blob_info(blob: BlobProperties) -> BlobInfo:
    return BlobInfo(
        name=blob.name, etag=_plain(blob.etag), size_bytes=blob.size, modified_at=blob.last_modified
    )
