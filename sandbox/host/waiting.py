"""The clock, and waits that end early."""

from __future__ import annotations

import asyncio
import datetime as dt


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


async def first_of(*events: asyncio.Event, timeout_s: float) -> None:
    """Wait until one of the events is set, at most `timeout_s`."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=max(0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
