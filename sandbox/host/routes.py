"""HTTP triggers: routes as ASP.NET reads them, requests and answers as the host passes them on.

Function keys are not asked for, as in Core Tools: the host says so when it starts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import unquote

import azure.functions as func
from aiohttp import web
from azure.functions import meta

from sandbox.host.app import AppError, Function
from sandbox.host.people import People
from sandbox.host.runner import Payload, Runner

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = (
    104_857_600  # the limit of the real host (Microsoft Learn, "HTTP trigger", 2026-11)
)
METHODS = ("GET", "POST", "DELETE", "HEAD", "PATCH", "PUT", "OPTIONS")
PARAMETER = re.compile(
    r"\{(?P<catch_all>\*{0,2})(?P<name>\w+)(?::(?P<constraint>[^}?]+))?(?P<optional>\?)?\}"
)
CONSTRAINTS = {
    "int": r"-?\d+",
    "long": r"-?\d+",
    "alpha": r"[A-Za-z]+",
    "bool": r"true|false",
    "guid": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    function: Function
    methods: tuple[str, ...]
    template: str
    pattern: re.Pattern[str]
    rank: tuple[
        int, ...
    ]  # the lowest that matches wins: literals before parameters before a catch-all

    @classmethod
    def of(cls, function: Function, *, prefix: str) -> Route:
        """Raises ValueError for a template that this host cannot read."""
        template = "/".join(
            filter(None, (prefix, function.trigger.get("route", function.name).strip("/")))
        )
        patterns, rank = [], []
        for segment in template.split("/"):
            pattern, weight = _segment(segment)
            patterns.append(pattern)
            rank.append(weight)
        return cls(
            function=function,
            methods=tuple(method.upper() for method in function.trigger.get("methods") or METHODS),
            template=template,
            pattern=re.compile("".join(patterns), re.IGNORECASE | re.DOTALL),
            rank=tuple(rank),
        )

    def collides_with(self, other: Route) -> bool:
        return self.pattern == other.pattern and not set(self.methods).isdisjoint(other.methods)


class Router:
    """Finds the function for a request and runs it."""

    def __init__(
        self,
        functions: Sequence[Function],
        *,
        prefix: str,
        runner: Runner,
        people: People | None = None,
    ) -> None:
        """Raises AppError for routes that cannot be read or that are the same.

        people: None if authentication is off.
        """
        problems = []
        routes: list[Route] = []
        for function in functions:
            try:
                route = Route.of(function, prefix=prefix)
            except ValueError as error:
                problems.append(f"function {function.name!r} does not load: {error}")
                continue
            same = [other.function.name for other in routes if route.collides_with(other)]
            problems += [
                f"functions {other!r} and {function.name!r} have the same route" for other in same
            ]
            routes.append(route)
        if problems:
            raise AppError(problems)
        self.routes = sorted(routes, key=lambda route: route.rank)
        self.runner = runner
        self.people = people

    def find(self, method: str, raw_path: str) -> tuple[Function, dict[str, str]] | None:
        """The function for a request, and the route's parameters."""
        for route in self.routes:
            match = route.pattern.fullmatch(raw_path)
            if match and method in route.methods:
                return route.function, {
                    k: unquote(value) for k, value in match.groupdict().items() if value
                }
        return None

    async def answer(self, request: web.Request) -> web.Response:
        if self.people and (refusal := self.people.answer(request)):
            return refusal
        found = self.find(request.method, request.rel_url.raw_path)
        if found is None:
            return web.Response(status=404)  # for a wrong method too: the real host answers no 405
        function, parameters = found
        payload = await http_payload(request, parameters, self.people)
        reason = "This function was programmatically called via the host APIs."
        try:
            result = await self.runner.run(function, payload, reason=reason)
            answer = func.get_binding_registry().get("http").encode(result, expected_type=None)
        except Exception:
            logger.exception("'Functions.%s' failed", function.name)
            return web.Response(status=500)
        return http_response(answer)


async def http_payload(
    request: web.Request, parameters: dict[str, str], people: People | None = None
) -> Payload:
    """Make the invocation as the real host does.

    Header names are in lower case, empty query values are left out, repeated ones joined.
    """
    headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
    if people:
        headers = people.headers(request, headers)
    query = {name: ",".join(request.query.getall(name)) for name in request.query}
    value = {
        "method": meta.Datum(request.method, "string"),
        "url": meta.Datum(str(request.url), "string"),
        "headers": _strings(headers),
        "query": _strings({name: text for name, text in query.items() if text}),
        "params": _strings(parameters),
        "body": meta.Datum(await request.read(), "bytes"),
    }
    return Payload(meta.Datum(value, "http"))


def http_response(answer: meta.Datum) -> web.Response:
    """Turn a function's return value, an HttpResponse or plain text, into an answer."""
    if answer.type == "string":
        return web.Response(text=answer.value)
    headers = {name: value.value for name, value in answer.value["headers"].items()}
    response = web.Response(
        status=int(answer.value["status_code"].value),
        headers=headers,
        body=answer.value["body"].value,
    )
    cookies: list[SimpleCookie] = answer.value.get("cookies") or []
    for cookie in cookies:
        for morsel in cookie.values():
            response.headers.add("Set-Cookie", morsel.OutputString())
    return response


def _segment(segment: str) -> tuple[str, int]:
    """The pattern of one segment with the slash before it, and its place in the order of routes."""
    parameter = PARAMETER.fullmatch(segment)
    if parameter is None:
        if "{" in segment:
            raise ValueError(f"this host cannot read the route segment {segment!r}")
        return "/" + re.escape(segment), 0
    name, constraint = parameter["name"], parameter["constraint"]
    if parameter["catch_all"]:
        return f"(?:/(?P<{name}>.*))?", 3
    if constraint and constraint not in CONSTRAINTS:
        raise ValueError(
            f"this host knows the constraints {', '.join(CONSTRAINTS)}, not {constraint!r}"
        )
    pattern = f"/(?P<{name}>{CONSTRAINTS[constraint] if constraint else '[^/]+'})"
    return f"(?:{pattern})?" if parameter["optional"] else pattern, 1 if constraint else 2


def _strings(values: dict[str, str]) -> dict[str, meta.Datum]:
    return {name: meta.Datum(value, "string") for name, value in values.items()}
