"""Requests as people make them, with the header that the platform sets."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import Mapping
from typing import Any

import httpx
from starlette.types import ASGIApp

from exporter.http.identity import PRINCIPAL
from exporter.http.routes import create_app
from exporter.management.management import Management
from exporter.management.roles import Actor

OID = "http://schemas.microsoft.com/identity/claims/objectidentifier"
HERE = "http://testserver"


def principal(actor: Actor, **changes: Any) -> str:
    """The header for somebody."""
    claims = [{"typ": OID, "val": actor.id}, {"typ": "name", "val": actor.name}]
    if actor.role:
        claims.append({"typ": "roles", "val": actor.role.value})
    return encoded(
        {"auth_typ": "aad", "claims": claims, "name_typ": "name", "role_typ": "roles", **changes}
    )


def encoded(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


class Asking:
    """A client of the API."""

    def __init__(self, app: ASGIApp, management: Management) -> None:
        self.app, self.management = app, management

    def ask(
        self,
        actor: Actor | None,
        method: str,
        path: str,
        document: Any = None,
        *,
        etag: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        given = {"X-Exporter": "1"}
        if actor:
            given[PRINCIPAL] = principal(actor)
        if etag:
            given["If-Match"] = etag
        return self.send(method, f"/api{path}", json=document, headers={**given, **(headers or {})})

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request without anything added."""

        async def request() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app), base_url=HERE
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(request())


_asked: list[Management] = []


def api_of(management: Management) -> Asking:
    """The API of this management, under a platform that vouches for identities.

    Asks no longer for the one before.

    FastAPI takes a tenth of a second to make an app of so many routes; there is one for all tests.
    """
    _asked[:] = [management]
    return Asking(_app(), management)


@functools.cache
def _app() -> ASGIApp:
    return create_app(lambda: _asked[0], is_trusted=lambda: True)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer, which must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["detail"]
    assert document["hint"]
    return document
