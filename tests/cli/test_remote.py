"""Over HTTP each error is the one of the store; an answer that is not the app's is told as such."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from exporter import errors
from exporter.cli.remote_backend import PIECE_BYTES, RemoteApp
from exporter.errors import (
    ConfigError,
    ExporterError,
    Invalid,
    NotAllowed,
    Problem,
    Transient,
    Unknown,
    name_of,
)
from exporter.http import problems
from exporter.klaviyo import responses
from exporter.snapshots import paths
from exporter.storage import protocols

Answer = tuple[int, dict[str, str], bytes]
KINDS = {
    kind
    for module in (errors, responses, paths, protocols)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, ExporterError) and kind is not Invalid
}
PAGE = {"Content-Type": "text/html"}


@contextlib.contextmanager
def answering(
    status: int, headers: dict[str, str], body: bytes, **options: Any
) -> Iterator[RemoteApp]:
    """An app at an address where every request is answered so."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked may have heard enough
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    app = RemoteApp(url, lambda: SecretStr("token-1"), **options)
    try:
        yield app
        assert set(seen) == {"Bearer token-1"}
    finally:
        app.close()
        server.shutdown()
        thread.join()
        server.server_close()


def of(error: ExporterError) -> Answer:
    made = problems.of_error(error)
    return made.status_code, {"Content-Type": problems.MEDIA_TYPE}, bytes(made.body)


@pytest.mark.parametrize("kind", sorted(KINDS, key=name_of))
def test_an_error_comes_out_as_it_went_in(kind: type[ExporterError]) -> None:
    error = kind("what happened")
    error.hint = "do this"
    with answering(*of(error)) as app, pytest.raises(ExporterError) as caught:
        app.exports()
    assert (type(caught.value), caught.value.message, caught.value.hint) == (
        kind,
        "what happened",
        "do this",
    )


def test_wrong_fields_come_out_as_they_went_in() -> None:
    found = (Problem("name", "is taken"), Problem("schedule.cron", "is none"))
    with answering(*of(Invalid(*found))) as app, pytest.raises(Invalid) as caught:
        app.exports()
    assert (caught.value.problems, caught.value.hint) == (found, Invalid.hint)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((302, {"Location": "https://login.example/"}, b""), ConfigError, "az login"),
        ((401, PAGE, b"You do not have permission."), ConfigError, "az login"),
        ((403, PAGE, b"<html>stopped"), NotAllowed, "administrator"),
        ((404, PAGE, b"<html>nothing"), ConfigError, "address"),
        ((405, PAGE, b""), ExporterError, "address"),
        ((502, PAGE, b"<html>bad gateway"), Transient, "Try again"),
        ((429, PAGE, b""), Transient, "Try again"),
        ((200, PAGE, b"<html>a page"), ExporterError, "version"),
        ((200, {}, b"[]"), ExporterError, "version"),
        ((400, {}, b'{"type": 1}'), ExporterError, "address"),
        ((500, {}, b'["detail"]'), Transient, "Try again"),
        (
            (
                404,
                {},
                b'{"type": "about:blank", "title": "Not Found", "status": 404, '
                b'"detail": "Not Found"}',
            ),
            Unknown,
            "version",
        ),
        (
            (401, {}, b'{"type": "about:blank", "detail": "nobody", "hint": "Sign in."}'),
            ConfigError,
            "Sign in",
        ),
    ],
)
def test_what_is_no_answer_of_the_app_names_a_remedy(
    answer: Answer, kind: type[ExporterError], says: str
) -> None:
    with answering(*answer) as app, pytest.raises(kind) as caught:
        app.exports()
    assert says in caught.value.hint


def test_an_answer_without_end_is_not_read_to_it() -> None:
    for status in (200, 500):
        with answering(status, {}, b" " * 1_000_000, max_answer_bytes=100_000) as app:
            for ask in (
                app.exports,
                lambda app=app: list(app.rows("vips/20260824T1433Z-1a2b3c4d5e", "rejected")),
            ):
                with pytest.raises(ExporterError, match="has no end"):
                    ask()


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    clock = itertools.count(0, 100).__next__
    with (
        answering(200, {}, b" " * 1_000_000, clock=clock) as app,
        pytest.raises(ExporterError, match="has no end"),
    ):
        app.exports()


def test_rows_come_as_they_are_sent() -> None:
    with answering(200, {}, b"row\n" * 200_000) as app:
        pieces = app.rows("vips/20260824T1433Z-1a2b3c4d5e", "rejected")
        first = next(pieces)
        assert 0 < len(first) <= PIECE_BYTES
        assert first + b"".join(pieces) == b"row\n" * 200_000


@pytest.mark.parametrize("given", ["..", ".", "", "a/b", "a?b", "A", "a%2fb", "x" * 100])
def test_what_can_be_no_id_is_not_sent(given: str) -> None:
    app = RemoteApp("https://app.example", lambda: pytest.fail("a request was sent"))
    for ask in (app.export, app.connection, app.plan_export):
        with pytest.raises(Unknown, match="there is no"):
            ask(given)
    for ask in (app.run, app.report):
        with pytest.raises(Unknown, match="there is no"):
            ask(f"{given}/..")
    app.close()


@pytest.mark.parametrize(
    "url",
    ["http://app.example", "app.example", "ftp://localhost", "https://", "http://[broken", ""],
)
def test_a_token_goes_to_https_alone(url: str) -> None:
    with pytest.raises(ConfigError, match="https://"):
        RemoteApp(url, lambda: SecretStr("token-1"))


def test_a_netrc_of_this_machine_does_not_take_the_tokens_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login someone password other\n")
    monkeypatch.setenv("NETRC", str(file))
    with answering(200, {}, b'{"items": [], "next": null}') as app:
        assert app.exports() == []
