"""When the next request may be sent. Pure: times come in as epoch seconds, nothing sleeps.

`Pacer` keeps one account's use of one endpoint within Klaviyo's two windows:

    wait_s(now) ── 0 ──> sent(now) ──> request ──┬─> any answer: told(..., now)
         ^   │                                   └─> 429:        throttled(retry_after_s, now)
         └───┴── more than 0: sleep

Source: "Rate limits, status codes, and errors", developers.klaviyo.com, and limits.py.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Self

from exporter.klaviyo.limits import BULK_IMPORT, MIN_PAUSE_S, MINUTE_S, SECOND_S, RateLimits

# Klaviyo counts arrivals, we count departures: two departures 1 s apart arrive closer together if
# the first one was held up, by opening a connection or by a busy machine. Measured: with 0.03 s
# every other run on two busy cores met a 429, which costs a second and more; with 0.05 s few do.
# 100 sends at 10/s take 9.5 s.
GUARD_S = 0.05

# Where a request takes 0 s to arrive and the next 0.3 s, or others use the account, that is not
# enough, and nothing but a 429 says so. After one the guard is wide and bursts are smaller, with
# each further round of 429 still smaller, until there was none for a while. In the long run that
# costs nothing: the minute binds. Simulated, 100 sends with 1 s from sending to the answer while
# another tool sends 1, 2 and 5 a second: 1, 1 and 8 to 16 answers 429; with full bursts 20 to 40.
WIDE_GUARD_S, CAREFUL_FOR_S = 0.4, 600.0
CAREFUL_SHARE = 0.7  # of the burst that is left to us by each round
MAX_BACKOFF_S = 60.0  # after 429s without Retry-After: by then the steady window has passed
PROBE_S = 10.0  # without an answer to the probe that follows a 429, another one may be sent
MAX_PAUSE_S = 3600.0  # what we send has no longer window; a wrong number must not stop us for days
# Requests at a time: 10 a second, with 1.3 s from sending to the answer. Each holds up to 4.5 MB.
IN_FLIGHT = 14


class Pacer:
    """Keeps sends within `limits` in any second and minute, however Klaviyo aligns its windows.

    `share` of both windows is ours; the rest stays free for other tools on the account. What they
    use of their part does not slow us down, what they use beyond it does. After a 429 one request
    is sent as a probe; a good answer opens the windows for the rest. One thread calls this. Only
    `to_json` may be called from another: the one that keeps the lease alive.
    """

    def __init__(self, limits: RateLimits = BULK_IMPORT, *, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise ValueError("share is over 0 and at most 1")
        self._limits = limits
        self._share = share
        self._told_limit: int | None = None  # Klaviyo's word on the steady limit, where lower
        self._sent: deque[float] = deque(maxlen=limits.per_minute)
        self._left = 0  # sends left until `_left_until`, because others used the account
        self._left_until = 0.0
        self._shut_until = 0.0
        self._throttles = 0
        self._probed_at = 0.0  # when the last request left that was sent after a 429's pause
        self._careful_until = 0.0  # after a 429
        self._rounds = 0  # of 429 until then, whether or not good answers came in between

    @property
    def throttles(self) -> int:
        """How many rounds of 429 came without a good answer in between."""
        return self._throttles

    @property
    def burst_limit(self) -> int:
        """How many sends we allow ourselves in a second."""
        return max(1, math.floor(self._limits.per_second * self._share + 1e-9))

    @property
    def steady_limit(self) -> int:
        """How many sends we allow ourselves in a minute."""
        return max(1, math.floor(self._klaviyos_limit * self._share + 1e-9))

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next send is allowed; 0 = now. At most MAX_PAUSE_S."""
        self._clamp(now)
        ready_at = self._shut_until
        burst_limit, guard_s = self.burst_limit, GUARD_S
        if now < self._careful_until:
            burst_limit = max(1, math.floor(burst_limit * CAREFUL_SHARE**self._rounds))
            guard_s = WIDE_GUARD_S
        for limit, window_s in ((burst_limit, SECOND_S), (self.steady_limit, MINUTE_S)):
            if len(self._sent) >= limit:
                ready_at = max(ready_at, self._sent[-limit] + window_s + guard_s)
        if self._is_probing:
            ready_at = max(ready_at, self._probed_at + PROBE_S)
        if self._left <= 0:
            ready_at = max(ready_at, self._left_until)
        return max(0.0, ready_at - now)

    def shut_s(self, now: float) -> float:
        """Return for how long Klaviyo's last 429 still forbids sending; 0 = not any more."""
        self._clamp(now)
        return max(0.0, self._shut_until - now)

    def sent(self, now: float) -> None:
        """Count a request that leaves now, whether or not `wait_s` allowed it."""
        self._clamp(now)
        self._sent.append(now)
        self._left -= 1
        if self._throttles and now >= self._shut_until:
            self._probed_at = now

    def told(
        self, limit: int | None, remaining: int | None, reset_s: float | None, now: float
    ) -> None:
        """Take in the RateLimit headers of an answer; None where one is missing.

        They are about the steady window and "approximate". Klaviyo knows others' requests, we know
        our own that are on their way: the smaller number counts, until Klaviyo's window ends.
        """
        self._clamp(now)
        if self._is_probing and now >= self._shut_until:
            self._throttles = 0
        if limit is not None and limit >= 1:
            self._told_limit = limit
        if remaining is None or remaining >= self.steady_limit - self._sent_within(MINUTE_S, now):
            return
        left = max(0, remaining)
        until = now + _within(0.0, MINUTE_S if reset_s is None else reset_s, MINUTE_S) + GUARD_S
        # Answers overtake each other. Within one window what remains only shrinks, so the least is
        # the latest. Two ends of windows less than half a window apart are one end, rounded
        # differently.
        if now >= self._left_until or until > self._left_until + MINUTE_S / 2:
            self._left, self._left_until = left, until
        else:
            self._left, self._left_until = min(self._left, left), max(self._left_until, until)

    def throttled(self, retry_after_s: float | None, now: float) -> None:
        """Take in a 429: nothing is sent before `retry_after_s`; None = Klaviyo named no time."""
        self._clamp(now)
        if (
            now >= self._shut_until
        ):  # several requests may meet one closed window: that is one round
            self._throttles += 1
            self._rounds = self._rounds + 1 if now < self._careful_until else 1
            self._careful_until = now + CAREFUL_FOR_S
        if retry_after_s is None or not math.isfinite(retry_after_s):
            pause_s = min(MAX_BACKOFF_S, MIN_PAUSE_S * 2.0 ** min(self._throttles - 1, 10))
        else:
            pause_s = _within(MIN_PAUSE_S, retry_after_s, MAX_PAUSE_S)
        self._shut_until = max(self._shut_until, now + pause_s)

    def to_json(self) -> dict[str, Any]:
        """Return the used windows, for another instance. Whole milliseconds, rounded up."""
        return {
            "schema": 1,
            "sent_ms": [_to_ms(moment) for moment in tuple(self._sent)],
            "told_limit": self._told_limit,
            "left": self._left,
            "left_until_ms": _to_ms(self._left_until),
            "shut_until_ms": _to_ms(self._shut_until),
            "throttles": self._throttles,
            "probed_at_ms": _to_ms(self._probed_at),
            "careful_until_ms": _to_ms(self._careful_until),
            "rounds": self._rounds,
        }

    @classmethod
    def from_json(
        cls, document: Mapping[str, Any], limits: RateLimits = BULK_IMPORT, *, share: float = 1.0
    ) -> Self:
        """Make a pacer that continues another one. Missing fields count as unused.

        Raises ValueError for a document that `to_json` cannot have written.
        """
        if document.get("schema", 1) != 1:
            raise ValueError("a pacer of an unknown schema")
        pacer = cls(limits, share=share)
        try:
            pacer._sent.extend(sorted(_from_ms(each) for each in document.get("sent_ms", ())))
            told_limit = document.get("told_limit")
            pacer._told_limit = None if told_limit is None else max(1, int(told_limit))
            pacer._left = int(document.get("left", 0))
            pacer._left_until = _from_ms(document.get("left_until_ms", 0))
            pacer._shut_until = _from_ms(document.get("shut_until_ms", 0))
            pacer._throttles = max(0, int(document.get("throttles", 0)))
            pacer._probed_at = _from_ms(document.get("probed_at_ms", 0))
            pacer._careful_until = _from_ms(document.get("careful_until_ms", 0))
            pacer._rounds = min(max(0, int(document.get("rounds", 0))), 100)  # a power, so bounded
        except (TypeError, OverflowError) as exc:
            raise ValueError("not a pacer's document") from exc
        return pacer

    @property
    def _klaviyos_limit(self) -> int:
        """Klaviyo's steady limit: ours from the documentation, or less if it says so itself."""
        return min(self._limits.per_minute, self._told_limit or self._limits.per_minute)

    @property
    def _is_probing(self) -> bool:
        """Whether a probe is on its way: no answer has opened the windows since the last pause."""
        return self._throttles > 0 and self._probed_at >= self._shut_until

    def _sent_within(self, window_s: float, now: float) -> int:
        return sum(moment > now - window_s - GUARD_S for moment in self._sent)

    def _clamp(self, now: float) -> None:
        """Bring moments in the future back: another instance's clock, or ours earlier, ran ahead.

        A send "in the future" counts as sent now; a wait ends no later than it can from now.
        """
        ahead = 0
        while self._sent and self._sent[-1] > now:
            self._sent.pop()
            ahead += 1
        self._sent.extend([now] * ahead)
        self._left_until = min(self._left_until, now + MINUTE_S + GUARD_S)
        self._shut_until = min(self._shut_until, now + MAX_PAUSE_S)
        self._probed_at = min(self._probed_at, now)
        self._careful_until = min(self._careful_until, now + CAREFUL_FOR_S)


def seconds_to_send(requests: int, *, share: float = 1.0) -> float:
    """Return how long so many requests take, from the first to the last, when nobody else sends."""
    pacer, now = Pacer(share=share), 0.0
    for _ in range(requests):
        now += pacer.wait_s(now)
        pacer.sent(now)
    return now


def _to_ms(moment: float) -> int:
    """Return whole milliseconds, rounded up. A moment from `_from_ms` gives the same ones again."""
    return math.ceil(round(moment * 1000, 2))


def _from_ms(milliseconds: float) -> float:
    moment = milliseconds / 1000
    if not math.isfinite(moment):
        raise ValueError("not a moment")
    return moment


def _within(least: float, value: float, most: float) -> float:
    return max(least, min(value, most))  # NaN, which compares to nothing, becomes `least`
