"""Blob triggers by polling: each version (ETag) of each blob is delivered at least once.

The host keeps a receipt of what it did with a version. So a restarted host, or a second one, does
not deliver it again. With source Event Grid we deliver the same way, because Azurite sends no
events. Real events can be lost, even all of a snapshot: `lose_events` is the share (0 to 1) of
blobs that are never delivered.

    no receipt --> locked, tries += 1 --succeeded--> completed
                     |--failed--> free: tried again on the next poll
                     |--failed poisonBlobThreshold times--> completed, and a message in
                     |                                      webjobs-blobtrigger-poison
                     '--host died--> free when the lock expires
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import logging
import re
from types import SimpleNamespace
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ResourceModifiedError, ResourceNotFoundError
from azure.functions import meta
from azure.storage.blob import BlobProperties
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient

from sandbox.host.app import Function, HostSettings
from sandbox.host.queues import send
from sandbox.host.runner import Payload, Runner, is_sdk_type
from sandbox.host.storage import Lock, Records, surviving_outages
from sandbox.host.waiting import first_of

logger = logging.getLogger(__name__)

POISON_QUEUE = "webjobs-blobtrigger-poison"


class BlobListener:
    """Feeds one function from its container until `stop` is set."""

    def __init__(
        self,
        function: Function,
        *,
        blobs: BlobServiceClient,
        queues: QueueServiceClient,
        records: Records,
        runner: Runner,
        settings: HostSettings,
        host_id: str,
        poll_s: float,
        lock_s: float,
        lose_events: float = 0,
    ) -> None:
        self.function = function
        self.lose_events = lose_events if function.trigger.get("source") == "EventGrid" else 0
        container, _, self.pattern = function.trigger["path"].partition("/")
        self.container = blobs.get_container_client(container)
        self.poison = queues.get_queue_client(POISON_QUEUE)
        self.records = records
        self.runner = runner
        self.settings = settings
        self.receipts = f"blobreceipts/{host_id}/{function.id}"
        self.poll_s = poll_s
        self.lock_s = lock_s
        self.places = asyncio.Semaphore(settings.max_blobs_at_once)
        self.running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.completed: set[tuple[str, str]] = set()

    async def listen(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            async with surviving_outages(f"container {self.container.container_name}", pause_s=1):
                await self._scan(stop)
            await first_of(stop, timeout_s=self.poll_s)
        await asyncio.gather(*self.running.values())

    async def _scan(self, stop: asyncio.Event) -> None:
        """Start on every version that is new to us; the container may be missing still."""
        matches = path_pattern(self.pattern).fullmatch
        with contextlib.suppress(ResourceNotFoundError):
            async for blob in self.container.list_blobs():
                version = (blob.name, quoted(blob.etag))
                is_known = version in self.completed or version in self.running
                if (
                    matches(blob.name)
                    and not is_known
                    and not is_lost(*version, part=self.lose_events)
                ):
                    task = asyncio.create_task(self._deliver(*version, stop))
                    self.running[version] = task
                    task.add_done_callback(functools.partial(self._forget, version))

    def _forget(self, version: tuple[str, str], _: asyncio.Task[None]) -> None:
        del self.running[version]

    async def _deliver(self, name: str, etag: str, stop: asyncio.Event) -> None:
        """Try one version once, unless it is completed, being handled elsewhere, or gone."""
        receipt = f"{self.receipts}/{etag}/{self.container.container_name}/{name}"
        async with self.places:
            if stop.is_set():
                return
            try:
                seen = await self.records.read(receipt)
                if seen is not None and seen.value.get("completed"):
                    self.completed.add((name, etag))
                elif lock := await self.records.lock(receipt, seen=seen, lock_s=self.lock_s):
                    async with lock:
                        await self._try(name, etag, lock)
            except AzureError as error:
                logger.warning("blob %s: %s", name, error)

    async def _try(self, name: str, etag: str, lock: Lock) -> None:
        tries = lock.value.get("tries", 0) + 1
        if tries <= self.settings.poison_blob_threshold:
            try:
                payload = await self._payload(name, etag)
            except (ResourceNotFoundError, ResourceModifiedError):
                return  # deleted, or replaced: then its new version is delivered
            await lock.save(tries=tries)
            try:
                reason = f"New blob detected: {self.container.container_name}/{name}"
                await self.runner.run(self.function, payload, reason=reason)
            except Exception:
                logger.exception(
                    "'Functions.%s' failed on try %d of blob %s", self.function.name, tries, name
                )
                if tries < self.settings.poison_blob_threshold:
                    return
                await self._report_poison(name, etag)
        else:  # hosts died on it
            await self._report_poison(name, etag)
        await lock.save(completed=True)
        self.completed.add((name, etag))

    async def _payload(self, name: str, etag: str) -> Payload:
        """Make the invocation for one version.

        Raises ResourceNotFoundError or ResourceModifiedError if the version is gone.
        """
        blob = self.container.get_blob_client(name)
        version: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        properties = await blob.get_blob_properties(**version)
        if is_sdk_type(self.function):
            return Payload(
                model_binding_data(self.function.connection, self.container.container_name, name)
            )
        content = await (await blob.download_blob(**version)).readall()
        return Payload(meta.Datum(content, "bytes"), _metadata(properties, blob.url))

    async def _report_poison(self, name: str, etag: str) -> None:
        logger.error(
            "blob %s failed too often. Adding a message to queue '%s'.", name, POISON_QUEUE
        )
        message = {
            "FunctionId": self.function.id,
            "BlobType": "BlockBlob",
            "ContainerName": self.container.container_name,
            "BlobName": name,
            "ETag": etag,
        }
        await send(self.poison, base64.b64encode(json.dumps(message).encode()).decode())


def is_lost(name: str, etag: str, *, part: float) -> bool:
    """Whether the event of this version is lost; every host says the same."""
    return int.from_bytes(hashlib.sha256(f"{name}\n{etag}".encode()).digest()[:4]) < part * 2**32


def path_pattern(pattern: str) -> re.Pattern[str]:
    """The names that a trigger's path admits, container left out.

    Each {x} takes all it can, slashes too.
    """
    if not pattern:
        return re.compile(".*", re.DOTALL)
    literals = re.split(r"\{[^{}]*\}", pattern)
    return re.compile("(.*)".join(re.escape(literal) for literal in literals), re.DOTALL)


def model_binding_data(connection: str, container: str, name: str) -> meta.Datum:
    """What the host sends instead of the blob for an SDK type: where it is."""
    where = {"Connection": connection, "ContainerName": container, "BlobName": name}
    data = SimpleNamespace(
        version="1.0",
        source="AzureStorageBlobs",
        content_type="application/json",
        content=json.dumps(where),
    )
    return meta.Datum(data, "model_binding_data")


def quoted(etag: str) -> str:
    """An ETag in the one form that conditions take; listings leave the quotation marks out."""
    return f'"{etag.strip(chr(34))}"'


def _metadata(properties: BlobProperties, url: str) -> dict[str, meta.Datum]:
    described = {
        "ETag": quoted(properties.etag),
        "LastModified": properties.last_modified.isoformat(),
        "Length": properties.size,
        "ContentType": properties.content_settings.content_type,
    }
    return {
        "BlobTrigger": meta.Datum(f"{properties.container}/{properties.name}", "string"),
        "Uri": meta.Datum(json.dumps(url), "json"),
        "Properties": meta.Datum(json.dumps(described), "json"),
        "Metadata": meta.Datum(json.dumps(properties.metadata), "json"),
    }
