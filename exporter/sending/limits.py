"""How much sending may use. Imports little: settings are read at every cold start."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.klaviyo.rate_limit import IN_FLIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLimits:
    """How much sending may use: of this machine, of Klaviyo, and for rows that Klaviyo refuses."""

    in_flight: int = IN_FLIGHT
    # Refusals in a run beyond one for each batch. To find one bad row among 10,000 by halving costs
    # about 14 of them.
    repairs: int = 1_000
    # Refusals for size in a step beyond 20 for each batch: a limit of 0.25 MB costs about as many.
    splits: int = 1_000
    # Rows refused in a run. They are kept in memory, and so many are not "some bad rows" any more.
    most_refused: int = 1_000_000
    longest_poll_s: float = 300.0  # between two rounds of questions about open import jobs
