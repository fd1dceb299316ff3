"""One call to an endpoint, as its function sees it, and the table that endpoints register in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.klaviyo import documented
from sandbox.klaviyo.account import Account
from sandbox.klaviyo.limits import Tier
from sandbox.klaviyo.messages import Request, Response
from sandbox.klaviyo.planted import Planted
from sandbox.klaviyo.queries import names
from sandbox.klaviyo.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    request: Request
    params: Mapping[str, str]
    body: bytes  # decompressed
    now: float
    account: Account
    settings: Settings
    documented: documented.Parameters = documented.NONE
    prepared: Any = None  # what the route's `prepare` made of the body

    @property
    def base_url(self) -> str:
        return self.request.base_url

    def sparse(self, resource: dict[str, Any]) -> dict[str, Any]:
        """The resource with only those attributes that `fields[TYPE]` names."""
        asked = names(self.request, f"fields[{resource['type']}]")
        if not asked:
            return resource
        return {**resource, "attributes": _picked(resource["attributes"], asked)}


def _picked(values: Mapping[str, Any], asked: set[str]) -> dict[str, Any]:
    """The values asked for by name, or by a longer name in one of them: `location.city`."""
    picked: dict[str, Any] = {}
    for name, value in values.items():
        inner = {each.removeprefix(f"{name}.") for each in asked if each.startswith(f"{name}.")}
        if name in asked:
            picked[name] = value
        elif inner:
            picked[name] = _picked(value, inner) if isinstance(value, dict) else value
    return picked


Endpoint = Callable[[Call], Response]
ExtraLimits = Mapping[
    tuple[str, str], tuple[str, Tier]
]  # (parameter, name in it) -> counter, its tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    template: str
    scopes: frozenset[str]
    tier: Tier
    endpoint: Endpoint
    daily: int | None = None
    extra: ExtraLimits = field(default_factory=dict)
    since: str = ""  # the first revision that has it
    parameters: documented.Parameters | None = None  # where the official document has none
    # Work on the body that needs no account, nor its lock.
    prepare: Callable[[bytes, Settings, Planted], Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.template}"

    def documented(self) -> documented.Parameters:
        """The query parameters that the endpoint takes."""
        if self.parameters is not None:
            return self.parameters
        return documented.parameters().get(self.name, documented.NONE)

    def needed_scopes(self, request: Request) -> frozenset[str]:
        """The scopes that a request needs. Included flows need their own (unverified)."""
        included = request.query.get("include", "").split(",")
        return self.scopes | {"flows:read"} if "flow-triggers" in included else self.scopes

    def counters(self, request: Request) -> list[tuple[str, Tier]]:
        """The rate limit counters that count this request: the endpoint's, then its options'."""
        extra = {
            counter
            for (parameter, option), counter in self.extra.items()
            if option in request.query.get(parameter, "").split(",")
        }
        return [(self.name, self.tier), *sorted(extra, key=lambda each: each[0])]

    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.template))
