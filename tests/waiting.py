"""Waiting for a state.

A test names what it waits for, never how long a machine takes until it is there.

The limits only find what hangs: they are far from what the slowest machine needs, and pytest's own
(pyproject.toml) is beyond them. How fast things are is measured by `make bench`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 300.0  # of a state, a process, an answer


def wait_until(
    is_so: Callable[[], object],
    what: str | Callable[[], str],
    *,
    every_s: float = 0.02,
    limit_s: float = LIMIT_S,
) -> None:
    """Ask again and again until it is so.

    `what` is said when it never is; a function says what there is by then.
    """
    deadline = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit_s:.0f} s for {what() if callable(what) else what}")
        time.sleep(every_s)
