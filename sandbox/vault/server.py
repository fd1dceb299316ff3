"""Serve the vault over https and the identity endpoint over http, on loopback only."""

from __future__ import annotations

import contextlib
import json
import ssl
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sandbox.vault.certificate import make_certificate
from sandbox.vault.messages import Answer, Request
from sandbox.vault.service import Vault

IDLE_S = 60  # an idle connection must not hold a thread for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningVault:
    """A vault that is being served. `env` is all that a child process needs to use it."""

    url: str
    ca: Path
    env: Mapping[str, str]
    vault: Vault

    def ready_line(self) -> str:
        return json.dumps({"url": self.url, "ca": str(self.ca), "env": dict(self.env)})


@contextlib.contextmanager
def serving(*, port: int = 0, cert_dir: Path | None = None) -> Iterator[RunningVault]:
    """Serve a new, empty vault from this process until the block ends; 0 is a free port.

    The certificates go to `cert_dir`, or to a temporary folder that goes away with the block.
    """
    with contextlib.ExitStack() as stack:
        folder = cert_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vault-")))
        folder.mkdir(parents=True, exist_ok=True)
        vault_server = stack.enter_context(_Server(port))
        identity_server = stack.enter_context(_Server(0))
        url = f"https://127.0.0.1:{vault_server.server_port}"
        vault = Vault(url)
        certificate = make_certificate(folder)
        vault_server.use_tls(certificate.context)
        vault_server.answer = vault.answer_vault
        identity_server.answer = vault.answer_identity
        stack.enter_context(_in_background(vault_server))
        stack.enter_context(_in_background(identity_server))
        env = {
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{identity_server.server_port}/msi/token",
            "IDENTITY_HEADER": vault.identity_header,
            "REQUESTS_CA_BUNDLE": str(certificate.bundle),
        }
        yield RunningVault(url=url, ca=certificate.authority, env=env, vault=vault)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    timeout = IDLE_S

    server: _Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._send(self.server.answer(Request(self.command, parts.path, query, self.headers, body)))

    do_GET = do_PUT = do_DELETE = do_PATCH = do_POST = _serve  # noqa: N815 (http.server's names)

    def _send(self, answer: Answer) -> None:
        content = json.dumps(answer.content).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in {"x-ms-request-id": str(uuid.uuid4()), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """Listens at once; give it an `answer` before it serves."""

    answer: Callable[[Request], Answer]

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)

    def use_tls(self, context: ssl.SSLContext) -> None:
        # The handshake is left to the connection's own thread, so that a slow client holds up
        # no other.
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that distrust the certificate or go away; report everything else."""
        if not isinstance(sys.exception(), (OSError, ssl.SSLError)):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def _in_background(server: _Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
