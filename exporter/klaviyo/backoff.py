"""Whether a failed request is tried again, and when. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from exporter.errors import ExporterError, KlaviyoUnavailable, RateLimited, Transient
from exporter.klaviyo.limits import MIN_PAUSE_S


class Outcome(StrEnum):
    """How a request failed, as far as trying again goes."""

    RATE_LIMITED = "rate limited"  # 429
    SERVER_ERROR = "server error"  # 500, 502, 503, 504, 524, 525 and other 5xx
    EDGE_REFUSED = "edge refused"  # 403 from what stands before Klaviyo: a challenge, not JSON
    NOT_CONNECTED = "not connected"  # DNS, TCP, TLS or proxy: nothing was sent
    NO_ANSWER = "no answer"  # read time-out or dropped connection: it may have been taken
    UNREADABLE = "unreadable answer"  # not JSON, truncated, too long: it may have been taken
    REFUSED = "refused"  # everything that the same request would meet again


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How one outcome is retried: `attempts` in total, the last within `within_s` of the first."""

    attempts: int
    within_s: float
    first_s: float = 1.0  # upper end of the first wait; doubles from there
    most_s: float = 30.0
    least_s: float = 0.0


# The whole retry policy. The totals stay far below the invocation's time limit: after them the step
# is put off through the queue. An attempt that ends in NO_ANSWER takes up to a minute by itself. A
# challenge by the network edge is about our address and rarely over within seconds: few attempts,
# long waits.
RETRIES: Mapping[Outcome, Retry] = {
    Outcome.RATE_LIMITED: Retry(
        attempts=8, within_s=300, first_s=2, most_s=60, least_s=MIN_PAUSE_S
    ),
    Outcome.SERVER_ERROR: Retry(attempts=6, within_s=180),
    Outcome.EDGE_REFUSED: Retry(attempts=3, within_s=120, first_s=15, most_s=60, least_s=5),
    Outcome.NOT_CONNECTED: Retry(attempts=6, within_s=120, first_s=0.5, most_s=15),
    Outcome.NO_ANSWER: Retry(attempts=4, within_s=200),
    Outcome.UNREADABLE: Retry(attempts=4, within_s=120, most_s=10),
    Outcome.REFUSED: Retry(attempts=1, within_s=0),
}


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    why: str


def decide(
    attempt: int,
    outcome: Outcome,
    elapsed_s: float,
    *,
    retry_after_s: float | None = None,
    jitter: float,
) -> Wait | GiveUp:
    """Decide what to do after attempt number `attempt` (from 1) ended in `outcome`.

    elapsed_s: since the first attempt began.
    retry_after_s: the time that the server named, which wins over our backoff.
    jitter: a random number from [0, 1), the part of the backoff that is waited ("full jitter").
    """
    retry = RETRIES[outcome]
    if attempt >= retry.attempts:
        return GiveUp(f"{outcome}: {attempt} of {retry.attempts} attempts made")
    if retry_after_s is not None and math.isfinite(retry_after_s):
        seconds = max(retry.least_s, retry_after_s, 0.0)
    else:
        backoff_s = min(retry.most_s, retry.first_s * 2.0 ** (attempt - 1))
        seconds = retry.least_s + jitter * max(0.0, backoff_s - retry.least_s)
    if elapsed_s + seconds > retry.within_s:
        within = f"{retry.within_s:g} s"
        return GiveUp(f"{outcome}: the next attempt would be later than {within} after the first")
    return Wait(seconds)


class Unavailable(KlaviyoUnavailable):
    """KlaviyoUnavailable with its row of the retry table. The app's own API never raises it."""

    def __init__(
        self,
        message: str,
        *,
        outcome: Outcome = Outcome.SERVER_ERROR,
        retry_after_s: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, hint=hint)
        self.outcome = outcome


def outcome_of(error: ExporterError) -> Outcome:
    """Return the row of the retry table for an error."""
    match error:
        case RateLimited():
            return Outcome.RATE_LIMITED
        case Unavailable():
            return error.outcome
        case Transient():
            return Outcome.SERVER_ERROR
        case _:
            return Outcome.REFUSED
