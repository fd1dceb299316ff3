"""A thin HTTP server around the handler, on loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from aiohttp import web

from sandbox.klaviyo import control
from sandbox.klaviyo.api import Klaviyo
from sandbox.klaviyo.messages import Request, Response

HOST = "127.0.0.1"
INLINE_BYTES = 32_768  # larger bodies, and digests, are worked on beside the event loop
LINE_BYTES = 65_536  # the handler itself refuses URLs that are too long
READ_BYTES = 8_388_608  # so that a whole job is read without stopping in between
SETTLE_EVERY_S = 0.05
SHUTDOWN_S = 0.5


@contextlib.contextmanager
def serving(klaviyo: Klaviyo, *, port: int = 0) -> Iterator[str]:
    """Serve from a thread of its own until the block ends; yields the URL.

    Raises OSError if the port is taken.
    """
    stop = asyncio.Event()
    ready: Future[str] = Future()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(
            target=runner.run, args=(_serve_until(stop, ready, klaviyo, port),), name="klaviyo"
        )
        thread.start()
        try:
            yield ready.result()
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


async def _serve_until(
    stop: asyncio.Event, ready: Future[str], klaviyo: Klaviyo, port: int
) -> None:
    try:
        async with running(klaviyo, port=port) as url:
            ready.set_result(url)
            await stop.wait()
    except OSError as exc:
        ready.set_exception(exc)


@contextlib.asynccontextmanager
async def running(klaviyo: Klaviyo, *, port: int = 0) -> AsyncIterator[str]:
    """Serve in the running event loop; yields the URL."""
    with ThreadPoolExecutor(2, thread_name_prefix="klaviyo") as beside:
        front = _Front(klaviyo, beside)
        server = web.Server(
            front.answer,
            auto_decompress=False,
            access_log=None,
            max_line_size=LINE_BYTES,
            read_bufsize=READ_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        settling = asyncio.create_task(front.keep_settling())
        try:
            site = web.TCPSite(runner, HOST, port)
            await site.start()
            yield f"http://{HOST}:{runner.addresses[0][1]}"
        finally:
            settling.cancel()
            await runner.cleanup()


class _Front:
    def __init__(self, klaviyo: Klaviyo, beside: ThreadPoolExecutor) -> None:
        self._klaviyo = klaviyo
        self._beside = beside

    async def answer(self, http: web.BaseRequest) -> web.StreamResponse:
        if http.path.startswith(control.PREFIX):
            return await self._answer(http)
        with self._klaviyo.stats.in_flight():
            return await self._answer(http)

    async def keep_settling(self) -> None:
        """Complete due jobs also while no request comes, so that the next one need not wait."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            await loop.run_in_executor(self._beside, self._klaviyo.settle)

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        arrived_at = (
            self._klaviyo.clock()
        )  # before the body has come, and before it waits for its turn
        request = Request.of(
            http.method,
            http.raw_path,
            headers=http.headers,
            body=await http.content.read(),
            base_url=f"http://{http.host}",
            arrived_at=arrived_at,
        )
        response = await self._handle(request)
        await asyncio.sleep(response.delay_s)
        return await _send(http, response)

    async def _handle(self, request: Request) -> Response:
        if len(request.body) <= INLINE_BYTES and not request.path.endswith("/digest"):
            return self._klaviyo.handle(request)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._beside, self._klaviyo.handle, request)


async def _send(http: web.BaseRequest, response: Response) -> web.StreamResponse:
    if response.drop or response.send_only is not None:
        return await _break_off(http, response)
    return web.Response(status=response.status, body=response.body, headers=response.headers)


async def _break_off(http: web.BaseRequest, response: Response) -> web.StreamResponse:
    """Close the connection, after a part of the answer if the fault says so."""
    broken = web.StreamResponse(status=response.status, headers=response.headers)
    if response.send_only is not None:
        broken.content_length = len(response.body)
        await broken.prepare(http)
        await broken.write(response.body[: response.send_only])
    if http.transport is not None:
        http.transport.close()
    return broken
