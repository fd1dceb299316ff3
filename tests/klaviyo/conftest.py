"""Clients of the stand-in Klaviyo, and of a server that answers whatever a test wants."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

import sandbox.klaviyo as stand_in
from exporter.klaviyo.client import Klaviyo
from tests.klaviyo.scripted import KEY, LIST, Scripted, Waits


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[stand_in.Klaviyo, str]]:
    account = stand_in.Klaviyo()
    with stand_in.serving(account) as url:
        yield account, url


@pytest.fixture
def account(served: tuple[stand_in.Klaviyo, str]) -> stand_in.Klaviyo:
    """An empty account with one list, whose jobs are done at once."""
    account, _ = served
    account.settings = stand_in.Settings(limits=False, job_seconds=0)
    account.reset()
    account.call("POST", "/_sandbox/lists", {"id": LIST, "name": "VIPs"})
    return account


@pytest.fixture
def connect(served: tuple[stand_in.Klaviyo, str], waits: Waits) -> Iterator[Callable[..., Klaviyo]]:
    """Makes clients of the stand-in that do not sleep."""
    with contextlib.ExitStack() as stack:

        def connect(key: str = stand_in.FULL_KEY, **options: Any) -> Klaviyo:
            made = Klaviyo(
                SecretStr(key),
                base_url=served[1],
                sleep=waits.sleep,
                clock=waits.clock,
                jitter=lambda: 0.5,
                **options,
            )
            return stack.enter_context(made)

        yield connect


@pytest.fixture
def klaviyo(account: stand_in.Klaviyo, connect: Callable[..., Klaviyo]) -> Klaviyo:
    return connect()


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            script.connections += 1

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append((self.command, self.path, dict(self.headers), body))
            content = script.pages.pop(0) if script.pages else script.body
            self.send_response_only(script.status)
            for name, value in {"Content-Length": str(len(content)), **script.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_DELETE(self) -> None:
            self.answer()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            """A client that hung up in the middle of an answer is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def asking(scripted: Scripted) -> Iterator[Klaviyo]:
    """A client of the scripted server. Its waiting is over at once and its time stands still."""
    with Klaviyo(
        SecretStr(KEY), base_url=scripted.url, sleep=lambda _: None, clock=lambda: 0.0
    ) as klaviyo:
        yield klaviyo
