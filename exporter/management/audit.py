"""The record of changes: who did what to what. Appended to, never edited.

    audit/2026-11-23.jsonl     one line for each change of that day:
                               at, by, action, object, before, after, outcome

A line is written before the change is made, so that nothing changes without a line. A change that
failed gets a second line with its outcome. Lines hold what changed: names of secrets, but no key.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from exporter.errors import ExporterError, StoreMoved
from exporter.management.roles import Action, Actor
from exporter.storage.protocols import Store, complete_lines

PLACE = re.compile(r"\d{4}-\d\d-\d\d\.\d{6,}")  # of a record: its day and line number
APPEND_ATTEMPTS = 20  # of two who append at once, the later one reads the log's length again


class Audit:
    """The record of changes in a store."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock

    @contextlib.contextmanager
    def recording(
        self,
        actor: Actor,
        action: Action,
        what: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Record a change around the block that makes it. what: such as "exports/vips"."""
        old, new = _differing(before, after)
        line = {
            "at": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds"),
            "by": {"id": actor.id, "name": actor.name, "role": str(actor.role)},
            "action": action.name.lower(),
            "object": what,
            "before": old,
            "after": new,
        }
        self._append(line)
        try:
            yield
        except Exception as exc:
            with contextlib.suppress(ExporterError):  # the first error is the one to be seen
                self._append(
                    {
                        **line,
                        "before": None,
                        "after": None,
                        "outcome": f"failed: {type(exc).__name__}",
                    }
                )
            raise

    def newest(self, *, before: str = "") -> Iterator[dict[str, Any]]:
        """Read every record, newest first. before: only records further back than this `place`."""
        for name in sorted(self._store.names("audit/"), reverse=True):
            day = name.removeprefix("audit/").removesuffix(".jsonl")
            if before and day > before:
                continue
            found = self._store.read(name)
            lines = complete_lines(found.data).splitlines() if found else []
            for number in range(len(lines) - 1, -1, -1):
                place = f"{day}.{number:06}"
                if not before or place < before:
                    yield {"place": place, **json.loads(lines[number])}

    def _append(self, line: Mapping[str, Any]) -> None:
        name = f"audit/{line['at'][:10]}.jsonl"
        data = (
            json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str).encode()
            + b"\n"
        )
        for remaining in reversed(range(APPEND_ATTEMPTS)):
            found = self._store.read(name)
            try:
                self._store.append(name, data, at=len(complete_lines(found.data)) if found else 0)
            except StoreMoved:
                if not remaining:
                    raise
            else:
                return


def _differing(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Return the fields that differ; the whole document if it was created or removed."""
    if before is None or after is None:
        return before, after
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return {key: before.get(key) for key in keys}, {key: after.get(key) for key in keys}
