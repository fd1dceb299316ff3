"""How a message of the work queue is written and read. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

# A message holds 64 KiB, of which base64 leaves this:
# https://learn.microsoft.com/azure/storage/queues/storage-queues-introduction
MAX_MESSAGE_BYTES = 48 * 1024
# https://learn.microsoft.com/rest/api/storageservices/put-message, visibilitytimeout
MAX_DELAY_S = 7 * 24 * 3600


def encode_message(message: Mapping[str, object]) -> str:
    """Write a message as compact JSON. Raises ValueError if it is too large for a queue."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    size = len(text.encode())
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {size} bytes, at most {MAX_MESSAGE_BYTES} allowed")
    return text


def decode_message(body: bytes) -> Mapping[str, object]:
    """Read a message. A body that is not a JSON object was not written by us: it counts as {}."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def check_delay(delay_s: float) -> float:
    """Return `delay_s` if a queue can wait so long, else raise ValueError."""
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise ValueError(f"delay of {delay_s} s, 0 to {MAX_DELAY_S} allowed")
    return delay_s
