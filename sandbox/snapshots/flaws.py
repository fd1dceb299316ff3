"""Where the bad rows of a snapshot stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from sandbox.snapshots.kinds import DUPLICATES, Kind

TRIES = 1000  # places tried for a bad row before there is said to be no room


class Flaw(NamedTuple):
    kind: Kind
    number: int  # counts from 0 within the kind
    original: int | None = None  # the row that a duplicate repeats


def plan_flaws(seed: int, bad: Mapping[Kind, int], parts: Sequence[range]) -> dict[int, Flaw]:
    """Give each bad row a place: seeded, one flaw a row, and none in a row that another repeats.

    parts: the rows of each partition. Raises ValueError if there is no room.
    """
    return _Planner(seed, bad, parts).plan()


class _Planner:
    def __init__(self, seed: int, bad: Mapping[Kind, int], parts: Sequence[range]) -> None:
        self._bad = bad
        self._parts = parts
        self._rows = parts[-1].stop
        self._random = Random(f"{seed}/flaws")
        self._flaws: dict[int, Flaw] = {}
        self._originals: set[int] = set()

    def plan(self) -> dict[int, Flaw]:
        self._end_partitions_with_open_quotes()
        for kind in Kind:
            if kind is not Kind.UNTERMINATED_QUOTE:
                for number in range(self._bad.get(kind, 0)):
                    self._place(kind, number)
        return self._flaws

    def _end_partitions_with_open_quotes(self) -> None:
        """Put open quotes in last rows, as in a cut-off file: they swallow what follows."""
        kind = Kind.UNTERMINATED_QUOTE
        parts = [part for part in self._parts if part]
        count = self._bad.get(kind, 0)
        if count > len(parts):
            raise ValueError(f"{count} rows of {kind} need a partition each, not {len(parts)}")
        for number, part in enumerate(self._random.sample(parts, count)):
            self._flaws[part[-1]] = Flaw(kind, number)

    def _place(self, kind: Kind, number: int) -> None:
        for _ in range(TRIES):
            row = self._random.randrange(self._rows)
            if row in self._flaws or row in self._originals:
                continue
            if kind not in DUPLICATES:
                self._flaws[row] = Flaw(kind, number)
                return
            original = self._original_of(row, across=kind is Kind.DUPLICATE_ACROSS)
            if original is not None and original not in self._flaws:
                self._originals.add(original)
                self._flaws[row] = Flaw(kind, number, original)
                return
        raise ValueError(
            f"no room for {kind} in {self._rows} rows of {len(self._parts)} partitions"
        )

    def _original_of(self, row: int, *, across: bool) -> int | None:
        """An earlier row of the same partition, or of an earlier one."""
        part = next(part for part in self._parts if row in part)
        candidates = range(part.start) if across else range(part.start, row)
        return self._random.choice(candidates) if candidates else None
