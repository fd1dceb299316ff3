"""Start the host, and stop it without losing what runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from azure.core.exceptions import ResourceExistsError
from azure.functions import meta

from sandbox.host import people
from sandbox.host.app import HOST_STORAGE, App, AppError, Function, load_app, load_settings
from sandbox.host.blobs import BlobListener
from sandbox.host.queues import QueueListener
from sandbox.host.routes import MAX_BODY_BYTES, Router
from sandbox.host.runner import Payload, Runner, exit_now
from sandbox.host.storage import HOSTS_CONTAINER, Connections, Records
from sandbox.host.timers import TimerListener

logger = logging.getLogger(__name__)

Listener = BlobListener | QueueListener | TimerListener

EXIT_NOT_LOADED = 1
EXIT_CUT_OFF = 4

BY_HAND = "This function was programmatically called via the host APIs."

# How long a reservation outlives its host in the real one.
MESSAGE_LOCK_S = 600
RECEIPT_LOCK_S = 30
TIMER_LOCK_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line. `lock_s` replaces the real host's times, for tests of crashes."""

    app: Path
    port: int
    host_id: str
    poll_s: float
    grace_s: float
    lock_s: float | None
    lose_events: float
    user: str | None


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    directory = arguments.app.resolve()
    ready_line = _take_stdout()
    _log_to_stderr()
    _set_environment(
        arguments.settings or directory / "local.settings.json",
        required=arguments.settings is not None,
    )
    if arguments.user:
        people.switch_on()
    os.chdir(directory)
    host_id = arguments.host_id or os.environ.get("AzureFunctionsWebHost__hostid")  # noqa: SIM112 - their name
    options = Options(
        app=directory,
        port=arguments.port,
        host_id=host_id or _default_host_id(directory),
        poll_s=arguments.poll_seconds,
        grace_s=arguments.grace_seconds,
        lock_s=arguments.lock_seconds,
        lose_events=arguments.lose_events,
        user=arguments.user,
    )
    try:
        exit_code = asyncio.run(Host(load_app(directory), options).serve(ready_line))
    except AppError as error:
        for problem in error.problems:
            logger.error(problem)
        exit_code = EXIT_NOT_LOADED
    return exit_now(
        exit_code
    )  # the app's finalizers must not hold us up: AsgiFunctionApp's waits for ever


class Host:
    """All of one app's triggers, from start to stop.

    Raises AppError when its routes cannot be served.
    """

    def __init__(self, app: App, options: Options) -> None:
        self.app = app
        self.options = options
        self.stop = asyncio.Event()
        self.runner = Runner(
            directory=str(app.directory), timeout_s=app.settings.function_timeout_s
        )
        self.router = Router(
            app.triggered_by("httpTrigger"),
            prefix=app.settings.route_prefix,
            runner=self.runner,
            people=people.People(options.user) if options.user else None,
        )
        self.listeners: dict[str, Listener] = {}
        self.admin_runs: set[asyncio.Task[None]] = set()

    async def serve(self, ready_line: int) -> int:
        """Run until SIGTERM or SIGINT, and return an exit code.

        Write one line to `ready_line` when ready.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop.set)
        async with Connections() as connections, self._http_server() as url:
            self.listeners = {
                listener.function.name: listener for listener in await self._listeners(connections)
            }
            listening = [
                asyncio.create_task(listener.listen(self.stop))
                for listener in self.listeners.values()
            ]
            self._say_ready(url, ready_line)
            stopped = asyncio.create_task(self.stop.wait())
            done, _ = await asyncio.wait({stopped, *listening}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task  # a listener ends only by a bug of ours: show it
            logger.info(
                "Stopping: waiting up to %s s for %d functions",
                self.options.grace_s,
                self.runner.running,
            )
            ending = {*listening, *self.admin_runs, asyncio.create_task(self.runner.idle())}
            _, unfinished = await asyncio.wait(ending, timeout=self.options.grace_s)
            if unfinished:
                logger.error(
                    "Stopped with %d functions running; their work comes again", self.runner.running
                )
                exit_now(EXIT_CUT_OFF)
        return 0

    async def _listeners(self, connections: Connections) -> list[Listener]:
        functions = [function for function in self.app.functions if function.type != "httpTrigger"]
        if not functions:
            return []
        container = (await connections.blobs(HOST_STORAGE)).get_container_client(HOSTS_CONTAINER)
        with contextlib.suppress(ResourceExistsError):
            await container.create_container()
        records = Records(container)
        return [await self._listener(function, connections, records) for function in functions]

    async def _listener(
        self, function: Function, connections: Connections, records: Records
    ) -> Listener:
        options, settings = self.options, self.app.settings
        match function.type:
            case "blobTrigger":
                return BlobListener(
                    function,
                    blobs=await connections.blobs(function.connection),
                    queues=await connections.queues(function.connection),
                    records=records,
                    runner=self.runner,
                    settings=settings,
                    host_id=options.host_id,
                    poll_s=options.poll_s,
                    lock_s=options.lock_s or RECEIPT_LOCK_S,
                    lose_events=options.lose_events,
                )
            case "queueTrigger":
                return QueueListener(
                    function,
                    service=await connections.queues(function.connection),
                    runner=self.runner,
                    settings=settings.queues,
                    lock_s=options.lock_s or MESSAGE_LOCK_S,
                )
            case _:
                return TimerListener(
                    function,
                    records=records,
                    runner=self.runner,
                    host_id=options.host_id,
                    lock_s=options.lock_s or TIMER_LOCK_S,
                )

    @contextlib.asynccontextmanager
    async def _http_server(self) -> AsyncIterator[str]:
        """Serve on the loopback interface until the block ends; yields the address."""
        server = web.Application(client_max_size=MAX_BODY_BYTES)
        server.router.add_post("/admin/functions/{name}", self._admin_run)
        server.router.add_route("*", "/{path:.*}", self._http)
        runner = web.AppRunner(server, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.options.port, shutdown_timeout=1)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _http(self, request: web.Request) -> web.Response:
        if self.stop.is_set():
            return web.Response(status=503)
        return await self.router.answer(request)

    async def _admin_run(self, request: web.Request) -> web.Response:
        """Run a timer now, or a queue function on {"input": text}, as the real host does."""
        function = next(
            (f for f in self.app.functions if f.name == request.match_info["name"]), None
        )
        if function is None:
            return web.Response(status=404)
        if function.type not in ("timerTrigger", "queueTrigger"):
            return web.Response(status=400, text=f"{function.type} cannot be run by hand here")
        text = (await request.json()).get("input") or "" if request.can_read_body else ""
        task = asyncio.create_task(self._run_by_hand(function, text))
        self.admin_runs.add(task)
        task.add_done_callback(self.admin_runs.discard)
        return web.Response(status=202)

    async def _run_by_hand(self, function: Function, text: str) -> None:
        listener = self.listeners[function.name]
        if isinstance(listener, TimerListener):
            await listener.run_once(reason=BY_HAND)
            return
        try:
            await self.runner.run(function, Payload(meta.Datum(text, "string")), reason=BY_HAND)
        except Exception:
            logger.exception("'Functions.%s' failed", function.name)

    def _say_ready(self, url: str, ready_line: int) -> None:
        for route in self.router.routes:
            needs_key = route.function.trigger.get("authLevel", "FUNCTION") != "ANONYMOUS"
            note = " (its key is not asked for here)" if needs_key else ""
            methods = ",".join(route.methods)
            logger.info("%s: [%s] %s/%s%s", route.function.name, methods, url, route.template, note)
        for function in self.app.functions:
            if function.type != "httpTrigger":
                logger.info("%s: %s", function.name, function.type)
        names = [function.name for function in self.app.functions]
        os.write(ready_line, (json.dumps({"url": url, "functions": names}) + "\n").encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox host", description="Run a function app locally."
    )
    parser.add_argument(
        "--app", type=Path, default=Path(), help="folder of function_app.py (this one)"
    )
    parser.add_argument("--port", type=int, default=0, help="HTTP port (a free one)")
    parser.add_argument(
        "--settings", type=Path, help="file with settings (local.settings.json of the app)"
    )
    parser.add_argument(
        "--host-id", help="name under which records are kept (from the app's folder)"
    )
    parser.add_argument(
        "--poll-seconds", type=float, default=1, help="between looks into containers (1)"
    )
    parser.add_argument(
        "--grace-seconds", type=float, default=10, help="for functions running at the end (10)"
    )
    parser.add_argument(
        "--lock-seconds",
        type=float,
        help="until work of a host that died comes again (messages 600, blobs 30, timers 15)",
    )
    parser.add_argument(
        "--lose-events", type=float, default=0, help="part of the blobs' events that is lost (0)"
    )
    parser.add_argument(
        "--user",
        choices=people.USERS,
        help="switch App Service authentication on: who everybody is, unless signed in",
    )
    return parser


def _take_stdout() -> int:
    """Keep standard output for the ready line; what functions print goes to standard error."""
    ready_line = os.dup(1)
    os.dup2(2, 1)
    return ready_line


def _log_to_stderr() -> None:
    line = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=line)
    for noisy in ("azure", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _set_environment(settings: Path, *, required: bool) -> None:
    """Add the settings file, if there is one, and what Core Tools sets."""
    if required or settings.exists():
        load_settings(settings)
    os.environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
    os.environ.setdefault("FUNCTIONS_WORKER_RUNTIME", "python")


def _default_host_id(directory: Path) -> str:
    return f"{directory.name.lower()}-{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"
