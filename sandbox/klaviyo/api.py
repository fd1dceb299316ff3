"""The request handler: everything that happens to a call before and after its endpoint."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from sandbox.klaviyo import (
    control,
    endpoints_billing,
    endpoints_jobs,
    endpoints_lists,
    endpoints_profiles,
    revisions,
)
from sandbox.klaviyo.calls import Call, Route
from sandbox.klaviyo.messages import MEDIA_TYPE, Refused, Request, Response, invalid, refusal
from sandbox.klaviyo.queries import check_parameters
from sandbox.klaviyo.settings import FULL_KEY, REVISIONS, Settings
from sandbox.klaviyo.state import State

ROUTES = (
    *endpoints_lists.ROUTES,
    *endpoints_profiles.ROUTES,
    *endpoints_jobs.ROUTES,
    *endpoints_billing.ROUTES,
)
MEDIA_TYPES = frozenset({MEDIA_TYPE, "application/json"})  # the second is only widely used
MAX_URL_BYTES = 8_190  # path and query. Unverified; a common limit of edges


class Klaviyo(State):
    """A whole Klaviyo with one account. `handle` is safe to call from several threads."""

    def __init__(
        self, settings: Settings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(settings, clock=clock)
        self._routes = [(route.pattern(), route) for route in ROUTES]

    def handle(self, request: Request) -> Response:
        """Answer one request. Never raises for what a client can send."""
        if request.path.startswith(control.PREFIX):
            return control.handle(self, request)
        with self.lock:
            fault = self.faults.pick(request)
        if fault is None:
            response, endpoint = self._answer(request)
        elif fault.taken:
            response, endpoint = self._answer(request)
            response = fault.spoil(response, self.clock())
        else:
            response, endpoint = (
                fault.spoil(Response(200), self.clock()),
                self._endpoint_name(request),
            )
        if self.settings.agent_hints:
            revisions.add_hints(response, request, self.settings)
        self.stats.count(endpoint, None if response.drop else response.status, self.clock())
        return response

    def call(
        self,
        method: str,
        target: str,
        json: Any = None,
        *,
        key: str = FULL_KEY,
        revision: str = REVISIONS[-1],
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """`handle` with the usual headers, for tests."""
        given = {
            "Authorization": f"Klaviyo-API-Key {key}",
            "revision": revision,
            "Content-Type": MEDIA_TYPE,
            **(headers or {}),
        }
        body = json if isinstance(json, bytes) else orjson.dumps(json) if json is not None else b""
        return self.handle(Request.of(method, target, headers=given, body=body))

    def _answer(self, request: Request) -> tuple[Response, str]:
        """The true answer, and the endpoint's name."""
        headers: dict[str, str] = {}
        try:
            if request.target_bytes > MAX_URL_BYTES:
                return Response(
                    414, b"<h1>414 URI Too Long</h1>", {"Content-Type": "text/html"}
                ), "none"
            route, params = self._route(request)
            with self.lock:
                scopes = self._scopes(request)
                headers = self._take(request, route, scopes)
            if revisions.effective(request, self.settings) < route.since:
                raise _no_such_path(request)
            response = self._serve(request, route, params)
        except Refused as refused:
            response = refused.response()
        if response.status != 429:
            response.headers.update(headers)
        return response, self._endpoint_name(request)

    def _serve(self, request: Request, route: Route, params: Mapping[str, str]) -> Response:
        known = route.documented()
        check_parameters(request, known)
        body = _body(request, self.settings)
        prepared = route.prepare(body, self.settings, self.planted) if route.prepare else None
        with self.lock:
            now = self.clock()
            self.account.settle(now, self.settings)
            call = Call(
                request=request,
                params=params,
                body=body,
                now=now,
                account=self.account,
                settings=self.settings,
                documented=known,
                prepared=prepared,
            )
            return route.endpoint(call)

    def _take(self, request: Request, route: Route, scopes: frozenset[str]) -> dict[str, str]:
        """Check the scopes and the rate limits; the headers that tell about the latter."""
        needed = route.needed_scopes(request)
        if not needed <= scopes:
            missing = ", ".join(sorted(needed - scopes))
            detail = f"You do not have permission to perform this action. Missing scopes: {missing}"
            raise refusal(403, "permission_denied", "Permission denied.", detail)
        if not self.settings.limits:
            return {}
        now = self.clock() if request.arrived_at is None else request.arrived_at
        return self.limits.take(
            route.counters(request),
            now=now,
            l_steady=self.settings.l_steady,
            daily=route.daily,
            all_windows=self.settings.rate_headers == "windows",
        )

    def _scopes(self, request: Request) -> frozenset[str]:
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        scopes = self.settings.keys.get(key.strip())
        if kind != "Klaviyo-API-Key" or scopes is None:
            detail = "Missing or invalid private key."
            status = self.settings.refused_key_status
            raise refusal(
                status, "not_authenticated", "Authentication credentials were not provided.", detail
            )
        return scopes

    def _route(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        path = request.path.rstrip("/")
        matches = [
            (match, route) for pattern, route in self._routes if (match := pattern.fullmatch(path))
        ]
        for match, route in matches:
            if route.method == request.method:
                return route, match.groupdict()
        if not matches:
            raise _no_such_path(request)
        refused = refusal(
            405, "method_not_allowed", "Method not allowed.", f"{request.method} is not allowed."
        )
        refused.headers["Allow"] = ", ".join(route.method for _, route in matches)
        raise refused

    def _endpoint_name(self, request: Request) -> str:
        try:
            return self._route(request)[0].name
        except Refused:
            return f"{request.method} other"


def _no_such_path(request: Request) -> Refused:
    detail = f"The path {request.path} could not be found."
    return refusal(404, "not_found", "Not found.", detail)


def _body(request: Request, settings: Settings) -> bytes:
    """The body, decompressed and within the size limit.

    Only requests that have one must say its type.
    """
    if not request.body:
        return b""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if media_type not in MEDIA_TYPES or encoding not in _encodings(settings):
        detail = f"Unsupported media type '{media_type}' or encoding '{encoding}'."
        raise refusal(415, "unsupported_media_type", "Unsupported media type.", detail)
    body = (
        request.body if encoding == "identity" else _gunzip(request.body, settings.max_body_bytes)
    )
    if len(body) > settings.max_body_bytes:
        raise refusal(
            413, "payload_too_large", "Payload too large.", "The payload is larger than 5 MB."
        )
    return body


def _encodings(settings: Settings) -> set[str]:
    return {"identity", "gzip"} if settings.gzip_bodies else {"identity"}


def _gunzip(body: bytes, limit: int) -> bytes:
    """Decompress no more than needed to know that the body is over the limit."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, limit + 1)
    except zlib.error as exc:
        raise invalid(f"Invalid gzip body: {exc}") from None
    if len(plain) <= limit and not unzip.eof:
        raise invalid("Invalid gzip body: it is incomplete.")
    return plain
