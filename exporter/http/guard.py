"""Before any route: refuse requests without identity or role, from other sites, or too large.

The guard stands around the whole app, so that a route which forgets to ask is closed, not open.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.http import problems
from exporter.http.identity import PRINCIPAL, actor_of
from exporter.logs import kind_and_place
from exporter.management.roles import Actor

logger = logging.getLogger(__name__)

CUSTOM = (
    "x-exporter"  # no form and no image of another site can send this header; see docs/roles.md
)
READING = ("GET", "HEAD")
MAX_BODY_BYTES = 262_144  # a mapping of a thousand columns is 60 KB


class Guard:
    """ASGI middleware that puts the actor into `request.state.actor`."""

    def __init__(self, app: ASGIApp, *, is_trusted: Callable[[], bool]) -> None:
        """is_trusted: asked for each request whether the platform vouches for the header."""
        self._app, self._is_trusted = app, is_trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only http is served")
        headers = Headers(scope=scope)
        actor = actor_of(headers.getlist(PRINCIPAL)) if self._is_trusted() else None
        if (refusal := _refusal(actor, scope["method"], headers)) is not None:
            await refusal(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            await problems.answer(413, f"the body has over {MAX_BODY_BYTES:,} bytes")(
                scope, receive, send
            )
            return
        scope["state"] = {"actor": actor}
        started = finished = False

        async def receive_body() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message: Message = {"type": "http.request", "body": body, "more_body": False}
            body = None
            return message

        async def send_on(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(problems.HEADERS)
            finished = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await self._app(scope, receive_body, send_on)
        except Exception as exc:
            # The text of an unknown error may hold anything: only its kind and place are logged.
            cause = kind_and_place(exc)
            logger.error("request failed", extra={"cause": cause})
            if started and not finished:
                raise  # half an answer must not look like a whole one
            if not started:
                await problems.unknown()(scope, receive, send)


def _refusal(actor: Actor | None, method: str, headers: Headers) -> JSONResponse | None:
    if actor is None:
        hint = (
            "Sign in with Microsoft Entra. App Service authentication must be on, and the setting "
            "TRUST_PLATFORM_IDENTITY must be true."
        )
        refusal = problems.answer(401, "nobody is signed in", hint=hint)
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal
    if actor.role is None:
        hint = "Ask an administrator for the role Viewer, Contributor or Admin in Microsoft Entra."
        return problems.answer(403, "you have no role in this app", kind="not-allowed", hint=hint)
    if method not in READING and not _is_from_here(headers):
        hint = f"Send the header {CUSTOM.title()} with any value, and not from another site."
        return problems.answer(
            403, "the request may come from another site", kind="cross-site", hint=hint
        )
    return None


def _is_from_here(headers: Headers) -> bool:
    """Tell whether no page of another site in somebody's browser can have made this request."""
    if not headers.get(CUSTOM):
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:  # set by the browser itself; no page can change it
        return site in ("same-origin", "none")
    origins: Sequence[str] = headers.getlist("origin")
    return not origins or (
        len(origins) == 1 and _host(origins[0]) == headers.get("host", "").lower()
    )


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


async def _read(receive: Receive) -> bytes | None:
    """Read the body; None if it is too large."""
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
