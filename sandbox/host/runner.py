"""Run functions as Microsoft's worker does.

Payloads go through the SDK's own converters; `def` functions run in threads, `async def` functions
share one loop; a function that exceeds functionTimeout ends the whole process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NoReturn

import azure.functions as func
from azure.functions import meta

from sandbox.host.app import Function

logger = logging.getLogger(__name__)

EXIT_TIMED_OUT = 3


@dataclass(frozen=True, slots=True)
class Payload:
    """What the real host would send for one invocation: the trigger's data and metadata."""

    data: meta.Datum
    metadata: Mapping[str, meta.Datum] = field(default_factory=dict)


class Runner:
    """Runs functions and knows how many are running."""

    def __init__(self, *, directory: str, timeout_s: float | None) -> None:
        self.directory = directory
        self.timeout_s = timeout_s
        threads = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT") or (os.cpu_count() or 1) + 4
        self.threads = ThreadPoolExecutor(int(threads), thread_name_prefix="function")
        # A loop apart from ours: a function that blocks it stalls other functions, but no renewal
        # of locks.
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="async-functions", daemon=True).start()
        self.running = 0

    async def run(self, function: Function, payload: Payload, *, reason: str) -> Any:
        """Run `function` to its end; return what it returned, raise what it raised."""
        invocation = str(uuid.uuid4())
        started = time.monotonic()
        logger.info(
            "Executing 'Functions.%s' (Reason='%s', Id=%s)", function.name, reason, invocation
        )
        self.running += 1
        outcome = "Failed"
        try:
            result = await self._within_timeout(
                function, self._start(function, payload, invocation)
            )
            if result is not None and not function.has_return:
                raise RuntimeError(
                    f"function {function.name!r} has no return binding but returned a value"
                )
            outcome = "Succeeded"
            return result
        finally:
            self.running -= 1
            took_ms = round((time.monotonic() - started) * 1000)
            logger.info(
                "Executed 'Functions.%s' (%s, Id=%s, Duration=%dms)",
                function.name,
                outcome,
                invocation,
                took_ms,
            )

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self.running:
            await asyncio.sleep(0.05)

    def _start(self, function: Function, payload: Payload, invocation: str) -> asyncio.Future[Any]:
        def arguments() -> dict[str, Any]:
            values = {function.trigger["name"]: decode(function, payload)}
            if function.wants_context:
                values["context"] = self._context(function, invocation)
            return values

        async def call() -> Any:
            coroutine: Coroutine[Any, Any, Any] = function.call(**arguments())
            return await coroutine

        if function.is_async:
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self.loop))
        return asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: function.call(**arguments())
        )

    def _context(self, function: Function, invocation: str) -> SimpleNamespace:
        """Stands in for func.Context."""
        return SimpleNamespace(
            invocation_id=invocation,
            function_name=function.name,
            function_directory=self.directory,
            trace_context=SimpleNamespace(trace_parent="", trace_state="", attributes={}),
            retry_context=SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
            thread_local_storage=threading.local(),
        )

    async def _within_timeout(self, function: Function, future: asyncio.Future[Any]) -> Any:
        done, _ = await asyncio.wait({future}, timeout=self.timeout_s)
        if not done:
            logger.critical(
                "'Functions.%s' exceeded functionTimeout of %s s: ending the process",
                function.name,
                self.timeout_s,
            )
            exit_now(EXIT_TIMED_OUT)
        return future.result()


def is_sdk_type(function: Function) -> bool:
    """Say whether the trigger's parameter is a client (`blob.BlobClient`), not the data."""
    extensions = _extensions()
    return extensions is not None and bool(extensions.check_supported_type(function.annotation))


def decode(function: Function, payload: Payload) -> Any:
    """Make the value of the trigger's parameter, by the converters that the real worker uses."""
    if is_sdk_type(function):
        converter = _extensions().get(function.type)
        return converter.decode(
            payload.data, trigger_metadata=payload.metadata, pytype=function.annotation
        )
    converter = func.get_binding_registry().get(function.type)
    return converter.decode(payload.data, trigger_metadata=payload.metadata)


def _extensions() -> Any:
    """The registry of SDK types, if the app imported any."""
    base = sys.modules.get("azurefunctions.extensions.base")
    return base and base.get_binding_registry()


def exit_now(code: int) -> NoReturn:
    """End the process although functions still run in threads."""
    logging.shutdown()
    os._exit(code)
