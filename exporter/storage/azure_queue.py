"""The work queue as a queue of Azure Storage."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from azure.core.exceptions import (
    ResourceNotFoundError,
)
from azure.storage.queue import (
    QueueClient,
    QueueServiceClient,
    TextBase64DecodePolicy,
    TextBase64EncodePolicy,
)

from exporter.storage.protocols import (
    check_delay,
    encode_message,
)

if TYPE_CHECKING:
    pass
from exporter.storage.azure_account import (
    PATIENCE,
    already_made,
    azure_errors,
    bad_connection,
    service_identity,
)

QUEUE_ROLE = "Storage Queue Data Contributor"


class AzureQueue:
    """WorkQueue in a storage queue, which is made when it is first written to. Takes what `steps_queue` gives."""

    def __init__(self, queue: QueueClient) -> None:
        self._queue = queue

    def put(self, message: Mapping[str, object], *, delay_s: float = 0) -> None:
        text, wait_s = encode_message(message), math.ceil(check_delay(delay_s))
        with azure_errors("the queue", QUEUE_ROLE):
            try:
                self._send(text, wait_s)
            except ResourceNotFoundError:
                with already_made("QueueAlreadyExists"):
                    self._queue.create_queue()
                self._send(text, wait_s)

    def _send(self, text: str, wait_s: int) -> None:
        # Without end: by default a message is dropped after 7 days, and with it the run that it carries.
        self._queue.send_message(text, visibility_timeout=wait_s, time_to_live=-1)

    def ping(self) -> None:
        """Raise what would keep the queue from working."""
        with azure_errors("the queue", QUEUE_ROLE), contextlib.suppress(ResourceNotFoundError):
            self._queue.get_queue_properties()


def queue_service(prefix: str, environ: Mapping[str, str]) -> QueueServiceClient:
    """The same for queues, with `prefix`__queueServiceUri."""
    with bad_connection(prefix):
        if connection := environ.get(prefix):
            return QueueServiceClient.from_connection_string(connection, **PATIENCE)
        url, credential = service_identity(prefix, "queueServiceUri", environ)
        return QueueServiceClient(url, credential=credential, **PATIENCE)


def steps_queue(service: QueueServiceClient, name: str) -> QueueClient:
    """A queue whose messages are written as the Functions host reads them, in base64."""
    return service.get_queue_client(
        name,
        message_encode_policy=TextBase64EncodePolicy(),
        message_decode_policy=TextBase64DecodePolicy(),
    )
