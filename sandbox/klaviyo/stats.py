"""What the stand-in has seen, for tests and benchmarks to read."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any


class Stats:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()  # by endpoint
        self._statuses: Counter[str] = Counter()  # by "endpoint status"
        self._job_posts: Counter[int] = Counter()  # by second
        self._open = 0
        self._most_open = 0

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """One request, from its first byte to the end of its answer."""
        with self._lock:
            self._open += 1
            self._most_open = max(self._most_open, self._open)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def count(self, endpoint: str, status: int | None, now: float) -> None:
        """A request was answered; without status its connection was dropped."""
        with self._lock:
            self._requests[endpoint] += 1
            self._statuses[f"{endpoint} {status or 'dropped'}"] += 1
            if endpoint == "POST /api/profile-bulk-import-jobs":
                self._job_posts[int(now)] += 1

    def shown(self) -> dict[str, Any]:
        with self._lock:
            return {
                "requests": dict(self._requests),
                "statuses": dict(self._statuses),
                "throttled": sum(n for name, n in self._statuses.items() if name.endswith(" 429")),
                "max_concurrency": self._most_open,
                "job_posts_per_second": {str(second): n for second, n in self._job_posts.items()},
            }
