"""Every number that Klaviyo sets: sizes, pages, time windows, each with source and date.

"Spec" is the OpenAPI document of revision 2026-07-15 (github.com/klaviyo/openapi, read 2026-11-23).
The limits of one profile are in rejection_reasons.py, because the messages about rejected rows
quote them.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bulk import. Spec, `bulk_import_profiles`; unchanged from revision 2024-10-15 to 2026-10-15.
MAX_BATCH_PROFILES = 10_000
# Klaviyo takes "5MB" and does not say whether decimal or binary; other clients keep to 4.5 to 4.7
# MB (read 2026-11).
MAX_BATCH_BYTES = 4_500_000

# Pages and queries. Spec.
PAGE_SIZE = 100  # of jobs, import errors and profiles; pages of lists hold 10
MAX_MEMBERS_PER_CALL = 1_000  # profiles to remove from a list, `remove_profiles_from_list`
MAX_EMAILS_PER_QUERY = 100  # one page of profiles; Klaviyo names no limit for any(...)
MAX_QUERY_BYTES = 6_000  # ours: 100 long addresses pass 8 kB, where common edges answer 414

# Answers
MAX_ANSWER_BYTES = 32_000_000  # ours: 100 import errors with payloads of 100 kB, three times over
MAX_PAGES = 200_000  # ours: 20 million members of a list
# Klaviyo's own command line allows 60 s for an answer (github.com/klaviyo, read 2026-11).
READ_S = 60.0
CONNECT_S = 10.0  # ours

SECOND_S, MINUTE_S = 1.0, 60.0  # the windows: burst and steady
# "Rate limits, status codes, and errors", developers.klaviyo.com, read 2026-11-23: a 429's text
# says "available in 0 seconds" at times (klaviyo-api-node issue 66), and whoever comes back at once
# meets another 429.
MIN_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class RateLimits:
    """How many requests Klaviyo takes in any second and in any minute."""

    per_second: int
    per_minute: int

    def __post_init__(self) -> None:
        if self.per_second < 1 or self.per_minute < 1:
            raise ValueError("limits are at least 1")


BULK_IMPORT = RateLimits(10, 150)  # spec: tier M, for imports and for reading import jobs
