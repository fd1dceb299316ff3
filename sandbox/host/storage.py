"""The host's storage: clients for the app's connections, and the host's own records and locks.

The records are small JSON blobs in `azure-webjobs-hosts`, changed only by compare-and-set on their
ETag. A lock is two fields of such a record, `owner` and `expires_at`. The real host uses leases on
the same blobs; a field can expire sooner than the 15 s that a lease lasts at least, and so a crash
test need not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
from azure.storage.blob.aio import BlobServiceClient, ContainerClient
from azure.storage.queue.aio import QueueServiceClient

from sandbox.host.app import connection_settings
from sandbox.host.waiting import now

logger = logging.getLogger(__name__)

Client = TypeVar("Client", BlobServiceClient, QueueServiceClient)

HOSTS_CONTAINER = "azure-webjobs-hosts"


class Connections:
    """Clients by connection name, one of each. Close it when done."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._clients: dict[tuple[str, type], Any] = {}

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def blobs(self, connection: str) -> BlobServiceClient:
        return await self._client(connection, "blob", BlobServiceClient)

    async def queues(self, connection: str) -> QueueServiceClient:
        return await self._client(connection, "queue", QueueServiceClient)

    async def _client(self, connection: str, service: str, kind: type[Client]) -> Client:
        key = (connection, kind)
        if key not in self._clients:
            self._clients[key] = await self._stack.enter_async_context(
                await self._new(connection, service, kind)
            )
        client: Client = self._clients[key]
        return client

    async def _new(self, connection: str, service: str, kind: type[Client]) -> Client:
        setting = next(
            name for name in connection_settings(connection, service) if name in os.environ
        )
        value = os.environ[setting]
        if setting == connection:
            return kind.from_connection_string(value)
        if setting.endswith("__accountName"):
            value = f"https://{value}.{service}.core.windows.net"
        is_managed = os.environ.get(f"{connection}__credential") == "managedidentity"
        client_id = os.environ.get(f"{connection}__clientId")
        credential = (
            ManagedIdentityCredential(client_id=client_id)
            if is_managed
            else DefaultAzureCredential()
        )
        return kind(value, credential=await self._stack.enter_async_context(credential))


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read, or as we wrote it."""

    value: dict[str, Any]
    etag: str

    @property
    def is_locked(self) -> bool:
        expires_at = self.value.get("expires_at")
        return expires_at is not None and dt.datetime.fromisoformat(expires_at) > now()


class Records:
    """The host's own blobs. One `Records` is one host instance: locks it takes are its own."""

    def __init__(self, container: ContainerClient) -> None:
        self.container = container
        self.owner = str(uuid.uuid4())

    async def read(self, name: str) -> Record | None:
        try:
            blob = await self.container.download_blob(name)
            return Record(json.loads(await blob.readall()), blob.properties.etag)
        except ResourceNotFoundError:
            return None

    async def write(
        self, name: str, value: dict[str, Any], *, seen: Record | None
    ) -> Record | None:
        """Replace `seen`, or create where nothing was seen. None when somebody else was faster."""
        condition: dict[str, Any] = {"overwrite": False}
        if seen is not None:
            condition = {
                "overwrite": True,
                "etag": seen.etag,
                "match_condition": MatchConditions.IfNotModified,
            }
        try:
            written = await self.container.get_blob_client(name).upload_blob(
                json.dumps(value), **condition
            )
        except (ResourceExistsError, ResourceModifiedError):
            return None
        return Record(value, written["etag"])

    async def lock(self, name: str, *, seen: Record | None, lock_s: float) -> Lock | None:
        """Take the record for us alone. None when somebody else has it or was faster."""
        if seen is not None and seen.is_locked:
            return None
        value = {**(seen.value if seen else {}), "owner": self.owner, "expires_at": _after(lock_s)}
        record = await self.write(name, value, seen=seen)
        return None if record is None else Lock(self, name, record, lock_s)


class Lock:
    """A record held by us: renewed while the block runs, let go at its end.

    `lost` is True once it is no longer ours.
    """

    def __init__(self, records: Records, name: str, record: Record, lock_s: float) -> None:
        self.lost = asyncio.Event()
        self._records = records
        self._name = name
        self._record = record
        self._lock_s = lock_s
        self._writing = asyncio.Lock()

    @property
    def value(self) -> dict[str, Any]:
        return self._record.value

    async def __aenter__(self) -> Lock:
        self._renewal = asyncio.create_task(self._renew())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with (
            self._writing
        ):  # not in the middle of a write: we would not know the record's ETag
            self._renewal.cancel()
        await asyncio.gather(self._renewal, return_exceptions=True)
        if not self.lost.is_set():
            with contextlib.suppress(AzureError):  # then it expires by itself
                await self.save(owner=None, expires_at=None)

    async def save(self, **changes: Any) -> None:
        """Change fields of the record.

        Does nothing but set `lost` when the lock is not ours any more.
        """
        async with self._writing:
            record = await self._records.write(
                self._name, {**self.value, **changes}, seen=self._record
            )
            if record is None:
                logger.warning("lost the lock on %s", self._name)
                self.lost.set()
            else:
                self._record = record

    async def _renew(self) -> None:
        deadline = time.monotonic() + self._lock_s
        while not self.lost.is_set():
            await asyncio.sleep(self._lock_s / 3)
            try:
                await self.save(expires_at=_after(self._lock_s))
                deadline = time.monotonic() + self._lock_s
            except AzureError as error:
                logger.warning("could not renew the lock on %s: %s", self._name, error)
                if time.monotonic() > deadline:
                    self.lost.set()


@contextlib.asynccontextmanager
async def surviving_outages(what: str, pause_s: float) -> AsyncIterator[None]:
    """Log an error of the storage service and pause, where the caller's loop then tries again."""
    try:
        yield
    except AzureError as error:
        logger.warning("%s: storage does not answer as it should: %s", what, error)
        await asyncio.sleep(pause_s)


def _after(seconds: float) -> str:
    return (now() + dt.timedelta(seconds=seconds)).isoformat()
