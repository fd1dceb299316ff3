"""Do the same thing in several threads at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from exporter.errors import StoreMoved
from tests.waiting import LIMIT_S

T = TypeVar("T")


def at_once(times: int, work: Callable[[int], T]) -> tuple[list[T], list[StoreMoved]]:
    """Call work(0), work(1), ... at once. Returns the winners' answers and the losers' errors."""
    start = Barrier(times)

    def one(number: int) -> T | StoreMoved:
        start.wait(timeout=LIMIT_S)
        try:
            return work(number)
        except StoreMoved as lost:
            return lost

    with ThreadPoolExecutor(times) as pool:
        results = list(pool.map(one, range(times)))
    return (
        [result for result in results if not isinstance(result, StoreMoved)],
        [result for result in results if isinstance(result, StoreMoved)],
    )
