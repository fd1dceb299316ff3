"""Whether everything that the app needs is within reach."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from exporter.errors import ExporterError

FRESH_S = 20.0  # how old an answer may be: anybody may ask, and each new one reads the vault


class Health:
    """Asks each collaborator, and keeps the answers for a while."""

    def __init__(
        self, checks: Mapping[str, Callable[[], None]], *, clock: Callable[[], float]
    ) -> None:
        """checks: by name, what raises an ExporterError where something is wrong."""
        self._checks, self._clock = checks, clock
        self._answers: dict[str, str] = {}
        self._asked_at = -FRESH_S
        self._lock = threading.Lock()

    def check(self) -> dict[str, str]:
        """Return for each collaborator "ok", or what is wrong with it."""
        with self._lock:  # whoever asks meanwhile waits for the same answer
            if not 0 <= self._clock() - self._asked_at < FRESH_S:
                self._answers = {name: _outcome(check) for name, check in self._checks.items()}
                self._asked_at = self._clock()
            return dict(self._answers)


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except ExporterError as exc:
        return f"{exc.message} {exc.hint}".strip()
    return "ok"
