"""Faults on request: what networks, edges and overloaded servers do to a call.

A rule is JSON:

    match        regular expression searched in "METHOD /path": "POST /api/profile-import$"
    kind         status        an error answer with `status` (503) and a JSON:API body; `code`,
                               `title`, `detail`, `source`, `meta`: what its error says.
                               {"status": 400, "detail": "The account is closed.", "times": null}
                               is a refusal about the whole account
                 latency       the answer comes `seconds` (1) later. {"seconds": 86400,
                               "taken": false, "times": null} is an account that never answers
                 drop_before   the connection closes, nothing was taken
                 drop_after    the call was carried out, then the connection closes
                 html_403      Cloudflare's challenge page (klaviyo-api-python issue 84)
                 throttle      a 429 with `retry_after` (1), whatever the counters say; `form`:
                               the header as "seconds", as "date", or "none", and then the seconds
                               stand in the text only, or nowhere if `detail` replaces it
                 truncate      the answer breaks off in the middle
                 non_json      `status` (502) with an HTML page
    times        how often, 1 unless given; null = always
    after        how many matching requests pass first, 0 unless given
    taken        whether the call is carried out all the same; by default as the kind says:
                 latency, drop_after and truncate yes, the others no

The first rule that matches and is not used up wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from sandbox.klaviyo.limits import throttled
from sandbox.klaviyo.messages import Request, Response, refusal

KINDS = frozenset(
    (
        "status",
        "latency",
        "drop_before",
        "drop_after",
        "html_403",
        "throttle",
        "truncate",
        "non_json",
    )
)
FORMS = ("seconds", "date", "none")
TAKEN = frozenset({"latency", "drop_after", "truncate"})
HTML = "text/html; charset=UTF-8"


@dataclass(slots=True, kw_only=True)
class Rule:
    match: re.Pattern[str]
    kind: str
    times: int | None = 1
    after: int = 0
    status: int | None = None
    seconds: float = 1.0
    retry_after: int = 1
    form: str = "seconds"
    code: str = "error"
    title: str = "A server error occurred."
    detail: str | None = None
    source: Mapping[str, Any] | None = None
    meta: Mapping[str, Any] | None = None
    taken: bool

    @classmethod
    def read(cls, rule: Mapping[str, Any]) -> Rule:
        """A rule from JSON. Raises ValueError for what it cannot mean."""
        kind = rule.get("kind")
        if kind not in KINDS:
            raise ValueError(f"kind: one of {', '.join(sorted(KINDS))}")
        try:
            match = re.compile(rule.get("match", ""))
            made = cls(**{"taken": kind in TAKEN, **rule, "match": match})
        except (TypeError, re.error) as exc:
            raise ValueError(str(exc)) from None
        if made.form not in FORMS:
            raise ValueError(f"form: one of {', '.join(FORMS)}")
        return made

    def applies(self, request: Request) -> bool:
        """Whether this request gets the fault; counts it."""
        if self.times == 0 or not self.match.search(f"{request.method} {request.path}"):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def spoil(self, response: Response, now: float) -> Response:
        """The answer the client gets instead of `response`."""
        match self.kind:
            case "latency":
                response.delay_s = self.seconds
            case "drop_before" | "drop_after":
                response.drop = True
            case "truncate":
                response.send_only = len(response.body) // 2
            case "throttle":
                return self._throttled(now)
            case "html_403":
                return Response(403, CHALLENGE, {"Content-Type": HTML, "cf-mitigated": "challenge"})
            case "non_json":
                return Response(self.status or 502, BAD_GATEWAY, {"Content-Type": HTML})
            case _:
                return self._refused()
        return response

    def _refused(self) -> Response:
        detail = self.detail or "A fault was asked for."
        refused = refusal(self.status or 503, self.code, self.title, detail)
        if self.source is not None:
            refused.errors[0]["source"] = self.source
        if self.meta is not None:
            refused.errors[0]["meta"] = self.meta
        return refused.response()

    def _throttled(self, now: float) -> Response:
        refused = throttled(self.retry_after)
        if self.detail is not None:
            refused.errors[0]["detail"] = self.detail
        if self.form == "date":
            refused.headers["Retry-After"] = formatdate(now + self.retry_after, usegmt=True)
        elif self.form == "none":
            del refused.headers["Retry-After"]
        return refused.response()


class Faults:
    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rules: list[Mapping[str, Any]]) -> None:
        self._rules += [Rule.read(rule) for rule in rules]

    def clear(self) -> None:
        self._rules = []

    def pick(self, request: Request) -> Rule | None:
        return next((rule for rule in self._rules if rule.applies(request)), None)


CHALLENGE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>"
BAD_GATEWAY = (
    b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)
