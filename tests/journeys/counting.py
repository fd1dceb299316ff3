"""What storage is asked for."""

from __future__ import annotations

from typing import Any


class Counting:
    """A store that counts the calls."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._store, name)
