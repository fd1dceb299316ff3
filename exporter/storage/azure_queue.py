"""The work queue as a queue of Azure Storage."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue import (
    QueueClient,
    QueueServiceClient,
    TextBase64DecodePolicy,
    TextBase64EncodePolicy,
)

from exporter.storage.azure_account import (
    RETRY_POLICY,
    already_created,
    azure_errors,
    connection_errors,
    service_identity,
)
from exporter.storage.messages import check_delay, encode_message

QUEUE_ROLE = "Storage Queue Data Contributor"


class AzureQueue:
    """A WorkQueue in a storage queue, which is created by the first write.

    queue: from `steps_queue`.
    """

    def __init__(self, queue: QueueClient) -> None:
        self._queue = queue

    def put(self, message: Mapping[str, object], *, delay_s: float = 0) -> None:
        text, wait_s = encode_message(message), math.ceil(check_delay(delay_s))
        with azure_errors("the queue", QUEUE_ROLE):
            try:
                self._send(text, wait_s)
            except ResourceNotFoundError:
                with already_created("QueueAlreadyExists"):
                    self._queue.create_queue()
                self._send(text, wait_s)

    def _send(self, text: str, wait_s: int) -> None:
        # By default a message is dropped after 7 days, and the run that it carries would stop.
        self._queue.send_message(text, visibility_timeout=wait_s, time_to_live=-1)

    def ping(self) -> None:
        """Raise what would keep the queue from working."""
        with azure_errors("the queue", QUEUE_ROLE), contextlib.suppress(ResourceNotFoundError):
            self._queue.get_queue_properties()


def count_messages(queue: QueueClient) -> int:
    """Return about how many messages a queue has; 0 where there is no such queue."""
    with azure_errors(f"the queue {queue.queue_name}", QUEUE_ROLE):
        try:
            return int(queue.get_queue_properties().approximate_message_count or 0)
        except ResourceNotFoundError:
            return 0


def queue_service(prefix: str, environ: Mapping[str, str]) -> QueueServiceClient:
    """Connect to queues as the bindings of Functions do. Raises ConfigError.

    The settings are those of `blob_service`, with `prefix`__queueServiceUri.
    """
    with connection_errors(prefix):
        if connection := environ.get(prefix):
            return QueueServiceClient.from_connection_string(connection, **RETRY_POLICY)
        url, credential = service_identity(prefix, "queueServiceUri", environ)
        return QueueServiceClient(url, credential=credential, **RETRY_POLICY)


def steps_queue(service: QueueServiceClient, name: str) -> QueueClient:
    """Open a queue whose messages are in base64, as the Functions host reads them."""
    return service.get_queue_client(
        name,
        message_encode_policy=TextBase64EncodePolicy(),
        message_decode_policy=TextBase64DecodePolicy(),
    )
