"""What goes in and out of the handler: requests, responses and JSON:API errors."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

MEDIA_TYPE = "application/vnd.api+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. `path` is decoded and without the query; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    base_url: str = "http://klaviyo.invalid"
    target_bytes: int = 0  # length of path and query as sent
    arrived_at: float | None = (
        None  # epoch seconds at which a server saw its headers: rate limits count these
    )

    @classmethod
    def of(
        cls,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        base_url: str = "http://klaviyo.invalid",
        arrived_at: float | None = None,
    ) -> Request:
        """Build a request from a target as sent: "/api/lists?page%5Bsize%5D=10".

        A full URL works too.
        """
        parts = urlsplit(target)
        return cls(
            method=method.upper(),
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in (headers or {}).items()},
            body=body,
            base_url=base_url,
            target_bytes=len(parts.path) + len(parts.query),
            arrived_at=arrived_at,
        )


@dataclass(slots=True)
class Response:
    """One answer.

    The last three fields tell a server how to misbehave; in process they are just data.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0
    drop: bool = False  # close the connection instead of answering
    send_only: int | None = None  # send this many bytes of the body, then close

    def json(self) -> Any:
        return orjson.loads(self.body)


def answer(document: Any, status: int = 200) -> Response:
    return Response(status, orjson.dumps(document), {"Content-Type": MEDIA_TYPE})


def empty(status: int) -> Response:
    return Response(status)


class Refused(Exception):
    """An answer with JSON:API errors, raised from wherever the request turned out to be wrong."""

    def __init__(self, status: int, errors: Sequence[dict[str, Any]]) -> None:
        super().__init__(status, errors)
        self.status = status
        self.errors = list(errors)
        self.headers: dict[str, str] = {}

    def response(self) -> Response:
        response = answer({"errors": self.errors}, self.status)
        response.headers.update(self.headers)
        return response


def error(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    pointer: str | None = None,
    parameter: str | None = None,
    meta: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One member of an `errors` array."""
    source = {"parameter": parameter} if parameter else {"pointer": pointer or "/data"}
    return {
        "id": str(uuid.uuid4()),
        "status": status,
        "code": code,
        "title": title,
        "detail": detail,
        "source": source,
        "links": {},
        "meta": meta or {},
    }


def refusal(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    pointer: str | None = None,
    parameter: str | None = None,
    meta: dict[str, Any] | None = None,
) -> Refused:
    return Refused(
        status,
        [error(status, code, title, detail, pointer=pointer, parameter=parameter, meta=meta)],
    )


def invalid(detail: str, *, pointer: str | None = None, parameter: str | None = None) -> Refused:
    """The common 400."""
    return refusal(400, "invalid", "Invalid input.", detail, pointer=pointer, parameter=parameter)


def not_found(what: str, identifier: str) -> Refused:
    return refusal(404, "not_found", "Not found.", f"A {what} with id {identifier} does not exist.")
