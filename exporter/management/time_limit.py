"""Work that a person waits for: it ends in time, with what is asked for or with the reason."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from exporter.errors import TookTooLong

Result = TypeVar("Result")


class Check(Protocol):
    """Raises TookTooLong once nobody waits any more. It takes whatever a callback is given."""

    def __call__(self, *_: object) -> None: ...


def within(seconds: float, work: Callable[[Check], Result]) -> Result:
    """Return what `work` returns. Raises TookTooLong when that takes longer.

    The work is given a check, to be called often: by it, work that nobody waits for ends itself.
    It runs in a thread of its own, so that the answer is in time even where one of its parts hangs.
    """
    if math.isinf(seconds):
        return work(lambda *_: None)
    deadline = time.monotonic() + seconds
    reason = f"it took longer than the {seconds:.0f} s that a request may take"

    def check(*_: object) -> None:
        if time.monotonic() >= deadline:
            raise TookTooLong(reason)

    done = Future[Result]()

    def run() -> None:
        try:
            done.set_result(work(check))
        except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits
            done.set_exception(exc)

    threading.Thread(target=run, name="in time", daemon=True).start()
    try:
        return done.result(timeout=seconds)
    except TimeoutError:
        if done.done():  # the error is the work's own, or it was done just now
            return done.result()
        raise TookTooLong(reason) from None
