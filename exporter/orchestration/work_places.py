"""How many steps may do heavy work at a time on this instance: plan, send, write lists of rows.

An instance takes more messages than it has memory for work. Waiting is cheap: a step that waits
for an answer of Klaviyo's keeps no place. A step that finds no place is put off through the queue.
A step that sends for long gives its place up when others want one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from exporter.errors import LeaseHeld

PLACES = 2  # each may use MEMORY_MB, which the templates set to a quarter of an instance's memory
TRY_AGAIN_S = 1.0
WANTED_FOR_S = 5.0  # a step that was turned away is back by then, or has found a place
LEAST_WORK_S = 10.0  # to take up a run costs about half a second: work is not interrupted sooner


class WorkPlaces:
    """The places of one instance. Safe for threads."""

    def __init__(self, count: int = PLACES, *, clock: Callable[[], float]) -> None:
        self._free, self._clock = threading.Semaphore(count), clock
        self._turned_away_at = -WANTED_FOR_S

    @contextlib.contextmanager
    def one(self) -> Iterator[Callable[[], bool]]:
        """Keep a place while the block runs. Gives what says whether it should end soon.

        Raises LeaseHeld, with the seconds to wait, when all are taken.
        """
        if not self._free.acquire(blocking=False):
            self._turned_away_at = self._clock()
            message = "this instance is busy with other runs"
            raise LeaseHeld(message, retry_after_s=TRY_AGAIN_S)
        began_at = self._clock()
        try:
            yield lambda: self._is_wanted() and self._clock() - began_at > LEAST_WORK_S
        finally:
            self._free.release()

    def _is_wanted(self) -> bool:
        return self._clock() - self._turned_away_at < WANTED_FOR_S
