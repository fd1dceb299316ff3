"""The numbers that are Klaviyo's: sizes, pages, windows."""

from __future__ import annotations

from dataclasses import dataclass

PAGE_SIZE = (
    100  # most for jobs, import errors and profiles (lists: 10, fixed before revision 2026-04-15)
)
MAX_EMAILS_PER_QUERY = 100  # one page of profiles
MAX_MEMBERS_PER_CALL = 1_000  # of a list's relationships, adding or removing
MAX_QUERY_BYTES = 6_000  # 100 long addresses pass 8 kB, where common edges answer 414


SECOND_S, MINUTE_S = 1.0, 60.0  # Klaviyo's windows: burst and steady


@dataclass(frozen=True, slots=True)
class RateLimits:
    """How many requests Klaviyo takes in any second and in any minute."""

    per_second: int
    per_minute: int

    def __post_init__(self) -> None:
        if self.per_second < 1 or self.per_minute < 1:
            raise ValueError("limits are at least 1")


BULK_IMPORT = RateLimits(10, 150)  # tier M; unchanged from revision 2024-10-15 to 2026-10-15


MAX_BATCH_PROFILES = 10_000  # Klaviyo, bulk import, revision 2026-07-15
MAX_BATCH_BYTES = (
    4_500_000  # Klaviyo takes 5 MB, decimal or binary is not said; others keep 4.5 to 4.7 MB
)


MIN_PAUSE_S = (
    1.0  # after a 429: Klaviyo's "available in 0 seconds" means 1 (klaviyo-api-node issue 66)
)
