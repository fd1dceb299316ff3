"""Queue triggers: receive, run, delete; on failure try again, in the end move to QUEUE-poison.

    visible --receive--> hidden (renewed while it runs) --succeeded--> deleted
                           |--failed--> visible again after visibilityTimeout
                           |--failed maxDequeueCount times, or not decodable--> QUEUE-poison
                           '--host died--> visible again when it is no longer renewed

A queue that is itself a -poison queue has none: what fails there stays hidden until it comes again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import logging
from typing import Any

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.functions import meta
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from sandbox.host.app import Function, QueueSettings
from sandbox.host.runner import Payload, Runner
from sandbox.host.storage import surviving_outages
from sandbox.host.waiting import first_of

logger = logging.getLogger(__name__)

MIN_POLLING_S = 0.1


class QueueListener:
    """Feeds one function from its queue until `stop` is set."""

    def __init__(
        self,
        function: Function,
        *,
        service: QueueServiceClient,
        runner: Runner,
        settings: QueueSettings,
        lock_s: float,
    ) -> None:
        self.function = function
        name = function.trigger["queueName"]
        self.queue = service.get_queue_client(name)
        self.poison = (
            None if name.endswith("-poison") else service.get_queue_client(f"{name}-poison")
        )
        self.runner = runner
        self.settings = settings
        self.lock_s = max(1, round(lock_s))  # storage takes whole seconds
        self.running: set[asyncio.Task[None]] = set()

    async def listen(self, stop: asyncio.Event) -> None:
        pause_s = MIN_POLLING_S
        while not stop.is_set():
            async with surviving_outages(f"queue {self.queue.queue_name}", pause_s=1):
                if len(self.running) > self.settings.new_batch_threshold:
                    await asyncio.wait(
                        self.running, return_when=asyncio.FIRST_COMPLETED, timeout=MIN_POLLING_S
                    )
                elif await self._take_batch(stop):
                    pause_s = MIN_POLLING_S
                else:
                    await first_of(stop, timeout_s=pause_s)
                    pause_s = min(pause_s * 2, self.settings.max_polling_s)
        await asyncio.gather(*self.running)

    async def _take_batch(self, stop: asyncio.Event) -> int:
        """Receive and start up to batchSize messages; return how many."""
        size = self.settings.batch_size
        try:
            received = self.queue.receive_messages(
                messages_per_page=size, max_messages=size, visibility_timeout=self.lock_s
            )
            messages = [message async for message in received]
        except ResourceNotFoundError:
            await create_queue(self.queue)
            return 0
        for message in messages:
            if stop.is_set():
                await self.queue.update_message(message, visibility_timeout=0)
                continue
            task = asyncio.create_task(self._process(message))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
        return len(messages)

    async def _process(self, message: QueueMessage) -> None:
        try:
            await self._try(message)
        except AzureError as error:
            # The message comes again when it is no longer hidden.
            logger.warning("message %s of %s: %s", message.id, self.queue.queue_name, error)

    async def _try(self, message: QueueMessage) -> None:
        tries = message.dequeue_count or 0
        if self.poison is not None and tries > self.settings.max_dequeue_count:  # hosts died on it
            await self._move_to(self.poison, message)
            return
        try:
            payload = queue_payload(message, base64_encoded=self.settings.base64)
        except ValueError as error:
            logger.warning(
                "message %s of %s cannot be decoded: %s", message.id, self.queue.queue_name, error
            )
            if self.poison is not None:
                await self._move_to(self.poison, message)
            return
        ended = asyncio.Event()
        renewal = asyncio.create_task(self._keep_hidden(message, ended))
        try:
            await self.runner.run(
                self.function, payload, reason=f"New queue message on '{self.queue.queue_name}'"
            )
        except Exception:
            logger.exception(
                "'Functions.%s' failed on try %d of message %s",
                self.function.name,
                tries,
                message.id,
            )
            succeeded = False
        else:
            succeeded = True
        finally:
            ended.set()
            await renewal  # not cancelled in the middle: we would not know the new pop receipt
        if succeeded:
            await self.queue.delete_message(message)
        elif self.poison is None:
            return
        elif tries >= self.settings.max_dequeue_count:
            await self._move_to(self.poison, message)
        else:
            delay_s = round(self.settings.visibility_timeout_s)
            await self.queue.update_message(message, visibility_timeout=delay_s)

    async def _keep_hidden(self, message: QueueMessage, ended: asyncio.Event) -> None:
        while True:
            await first_of(ended, timeout_s=self.lock_s / 2)
            if ended.is_set():
                return
            try:
                updated = await self.queue.update_message(message, visibility_timeout=self.lock_s)
                message.pop_receipt = updated.pop_receipt
            except AzureError as error:
                logger.warning("could not keep message %s hidden: %s", message.id, error)

    async def _move_to(self, poison: QueueClient, message: QueueMessage) -> None:
        logger.error("Moving message %s to queue '%s'.", message.id, poison.queue_name)
        await send(poison, message.content)
        await self.queue.delete_message(message)


def queue_payload(message: QueueMessage, *, base64_encoded: bool) -> Payload:
    """The invocation for one message. Raises ValueError when it is not base64 but should be."""
    content = message.content
    data = meta.Datum(content, "string")
    if base64_encoded:
        try:
            data = text_or_bytes(base64.b64decode(content, validate=True))
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from error
    metadata = {
        "Id": meta.Datum(message.id, "string"),
        "DequeueCount": meta.Datum(str(message.dequeue_count), "json"),
        "PopReceipt": meta.Datum(message.pop_receipt, "string"),
        "InsertionTime": _time(message.inserted_on),
        "ExpirationTime": _time(message.expires_on),
        "NextVisibleTime": _time(message.next_visible_on),
    }
    return Payload(data, metadata)


def text_or_bytes(content: bytes) -> meta.Datum:
    """The real host sends text where it is text."""
    try:
        return meta.Datum(content.decode(), "string")
    except UnicodeDecodeError:
        return meta.Datum(content, "bytes")


async def create_queue(queue: QueueClient) -> None:
    with contextlib.suppress(ResourceExistsError):
        await queue.create_queue()


async def send(queue: QueueClient, content: str) -> None:
    """Send a message as it is, to a queue that may be missing."""
    await create_queue(queue)
    await queue.send_message(content)


def _time(moment: Any) -> meta.Datum:
    return meta.Datum(json.dumps(moment.isoformat()), "json")
