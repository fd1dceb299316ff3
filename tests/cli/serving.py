"""The HTTP API on a port of this machine, under a platform that knows people by their tokens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from exporter.http.identity import PRINCIPAL
from exporter.management.management import Management
from tests.http.asking import api_of, principal
from tests.management.managing import ACTORS

TOKENS = {actor.name.lower(): actor for actor in ACTORS}
NOT_PASSED_ON = ("host", "content-length", PRINCIPAL)


@contextlib.contextmanager
def serving_api(management: Management) -> Iterator[str]:
    """Yields the address. `Authorization: Bearer ada` is Ada."""
    asking = api_of(management)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in NOT_PASSED_ON
            }
            actor = TOKENS.get(headers.pop("Authorization", "").removeprefix("Bearer "))
            if actor is None:  # the platform's own refusal, before the app
                self._answer(401, {"Content-Type": "text/plain"}, b"You do not have permission.")
                return
            headers[PRINCIPAL] = principal(actor)
            answer = asking.send(self.command, self.path, content=body, headers=headers)
            self._answer(answer.status_code, dict(answer.headers), answer.content)

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def do_PUT(self) -> None:
            self._serve()

        def do_DELETE(self) -> None:
            self._serve()

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding"):
                    self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
