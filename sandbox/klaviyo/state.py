"""Everything that the stand-in knows: its account, its switches, its counters, its faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sandbox.klaviyo.account import Account
from sandbox.klaviyo.faults import Faults
from sandbox.klaviyo.limits import Limits
from sandbox.klaviyo.planted import Planted
from sandbox.klaviyo.settings import Settings
from sandbox.klaviyo.stats import Stats


class State:
    """What requests read and change; `lock` guards it."""

    def __init__(
        self, settings: Settings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings or Settings()
        self.clock = clock
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Start again with an empty account, full counters and nothing scripted. Settings stay."""
        with self.lock:
            self.account = Account()
            self.limits = Limits()
            self.faults = Faults()
            self.planted = Planted()
            self.stats = Stats()

    def settle(self) -> None:
        """Complete the import jobs that are due.

        Every request does so too; a server calls it in between.
        """
        with self.lock:
            self.account.settle(self.clock(), self.settings)
