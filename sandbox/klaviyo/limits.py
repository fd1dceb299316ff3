"""Rate limits: fixed windows per endpoint, a burst of one second and a steady minute.

RateLimit headers are about the minute, as the documentation says. With `all_windows` they list each
window behind the one that has the least left, and are about that one: "10, 10;w=1, 150;w=60".
Recorded from the real service by the tests of public clients (2026), after the IETF's draft
draft-ietf-httpapi-ratelimit-headers-03.

A window starts with the first request after the previous one ended (Klaviyo does not say how its
windows are aligned). A request over a limit is not counted, but shuts its counter until the
announced `Retry-After` has passed: retrying earlier is always 429, also when the window itself
ended sooner.

Source: "Rate limits, status codes, and errors", developers.klaviyo.com, and the limits in the
OpenAPI spec 2026-07-15.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sandbox.klaviyo.messages import Refused, refusal

SECOND, MINUTE, DAY = 1.0, 60.0, 86_400.0


class Tier(Enum):
    """Requests in a second and in a minute."""

    XS = (1, 15)
    S = (3, 60)
    M = (10, 150)
    L = (75, 750)


@dataclass(slots=True)
class Window:
    limit: int
    length_s: float
    started_at: float = -math.inf
    used: int = 0

    def refresh(self, now: float) -> None:
        if now >= self.started_at + self.length_s:
            self.started_at, self.used = now, 0

    @property
    def left(self) -> int:
        """Requests that it still takes."""
        return self.limit - self.used

    def left_s(self, now: float) -> int:
        return max(1, math.ceil(self.started_at + self.length_s - now))


class Counter:
    """The windows of one endpoint, or of one option with limits of its own."""

    def __init__(self, burst: int, steady: int, daily: int | None = None) -> None:
        self.steady = Window(steady, MINUTE)
        self._windows = [Window(burst, SECOND), self.steady]
        if daily is not None:
            self._windows.append(Window(daily, DAY))
        self._shut_until = -math.inf

    def wait_s(self, now: float) -> int:
        """Seconds until a request may come, 0 = now."""
        for window in self._windows:
            window.refresh(now)
        if now < self._shut_until:
            return math.ceil(self._shut_until - now)
        full = [window.left_s(now) for window in self._windows if window.used >= window.limit]
        if full:
            self._shut_until = now + max(full)
        return max(full, default=0)

    def take(self) -> None:
        for window in self._windows:
            window.used += 1

    def headers(self, now: float, *, all_windows: bool = False) -> dict[str, str]:
        told, limit = self.steady, str(self.steady.limit)
        if all_windows:
            told = min(self._windows, key=lambda window: window.left)
            policies = (f"{window.limit};w={window.length_s:.0f}" for window in self._windows)
            limit = f"{told.limit}, {', '.join(policies)}"
        return {
            "RateLimit-Limit": limit,
            "RateLimit-Remaining": str(told.left),
            "RateLimit-Reset": str(told.left_s(now)),
        }


class Limits:
    """All counters of an account, made on first use."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}

    def take(
        self,
        wanted: Sequence[tuple[str, Tier]],
        *,
        now: float,
        l_steady: int,
        daily: int | None = None,
        all_windows: bool = False,
    ) -> dict[str, str]:
        """Count one request against every named counter and return the headers of the first.

        Raises Refused (429), counting nothing, if any of them is full. `daily` belongs to the
        first.
        """
        counters = [
            self._counter(name, tier, l_steady, daily if place == 0 else None)
            for place, (name, tier) in enumerate(wanted)
        ]
        wait_s = max(counter.wait_s(now) for counter in counters)
        if wait_s:
            raise throttled(wait_s)
        for counter in counters:
            counter.take()
        return counters[0].headers(now, all_windows=all_windows)

    def _counter(self, name: str, tier: Tier, l_steady: int, daily: int | None) -> Counter:
        if name not in self._counters:
            burst, steady = tier.value
            self._counters[name] = Counter(burst, l_steady if tier is Tier.L else steady, daily)
        return self._counters[name]


def throttled(wait_s: int) -> Refused:
    """The 429. Text from a captured answer (klaviyo-api-node issue 66)."""
    detail = (
        f"Request was throttled. Expected available in {wait_s} second{'' if wait_s == 1 else 's'}."
    )
    refused = refusal(429, "throttled", "Request was throttled.", detail)
    refused.headers["Retry-After"] = str(wait_s)
    return refused
