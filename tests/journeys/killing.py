"""Kill an instance at one of its effects, in process.

From then on nothing that it does reaches the outside.

An effect is a write to the store, a message to the queue, or an import sent to Klaviyo. What an
instance only reads needs no crash of its own: dying there is dying after the effect before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

from exporter.orchestration.engine import Engine
from tests.journeys.world import EXPORT, World

EFFECTS = {
    "store": frozenset({"create", "replace", "delete", "append", "upload"}),
    "steps": frozenset({"put"}),
    "klaviyo": frozenset({"start_import"}),
    "snapshots": frozenset[str](),
}
When = Literal["before", "after"]


class Killed(BaseException):
    """The process is gone. No handler of ours catches it."""


class Killer:
    """Counts effects and kills at number `at` (from 1), before or after it happened; 0 = never.

    meanwhile: called instead of killing, before the effect: what the world does while the instance
    is frozen.
    """

    def __init__(
        self, at: int = 0, when: When = "after", *, meanwhile: Callable[[], None] | None = None
    ) -> None:
        self.at, self.when, self.meanwhile = at, when, meanwhile
        self.names: list[str] = []  # of the effects so far
        self.is_dead = False
        self._lock = threading.Lock()

    def watching(self, part: str, target: Any) -> Any:
        """`target` with every method under watch."""
        return _Watched(self, part, target)

    def call(
        self, name: str, is_effect: bool, method: Callable[..., Any], args: Any, options: Any
    ) -> Any:
        with self._lock:
            self._die_if(self.is_dead)
            if is_effect:
                self.names.append(name)
            is_last = is_effect and len(self.names) == self.at
            self.is_dead = self.is_dead or (is_last and not self.meanwhile)
            self._die_if(self.is_dead and self.when == "before")
        if is_last and self.meanwhile:
            self.meanwhile()
        result = method(*args, **options)
        self._die_if(is_last and self.is_dead)
        return result

    def _die_if(self, condition: bool) -> None:
        if condition:
            raise Killed


class _Watched:
    def __init__(self, killer: Killer, part: str, target: Any) -> None:
        self._killer, self._part, self._target = killer, part, target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        is_effect = name in EFFECTS[self._part]

        def watched(*args: Any, **options: Any) -> Any:
            return self._killer.call(f"{self._part}.{name}", is_effect, method, args, options)

        return watched


def mortal(world: World, killer: Killer, **changes: Any) -> Engine:
    """An instance on the world's state that dies when the killer says so."""
    engine = world.again(**changes)
    return world.again(
        store=killer.watching("store", engine.store),
        snapshots=killer.watching("snapshots", engine.snapshots),
        queue=killer.watching("steps", world.queue),
        open_klaviyo=lambda key: killer.watching("klaviyo", world.client(key)),
        **changes,
    )


def unrecorded_rows(world: World) -> int:
    """Rows that Klaviyo took and the journals do not know of."""
    recorded = sum(
        world.engine.runs.journal(run).delivery.accepted_profiles for run in world.runs(EXPORT)
    )
    return world.accepted_rows() - recorded
