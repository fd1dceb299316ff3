"""Lists and their members. A page of members costs the page, however long the list is."""

from __future__ import annotations

import random
import string
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

GONE = -1


class Members:
    """Profile numbers in the order in which they joined.

    A member's place never changes, so it serves as paging cursor; leaving the list empties the
    place.
    """

    def __init__(self) -> None:
        self._numbers = array("q")  # by place
        self._joined = array("d")  # by place
        self._places = array("q")  # by profile number
        self.count = 0

    def __contains__(self, number: int) -> bool:
        return self.place_of(number) is not None

    def place_of(self, number: int) -> int | None:
        place = self._places[number] if number < len(self._places) else GONE
        return None if place == GONE else place

    def joined_at(self, place: int) -> float:
        return self._joined[place]

    def add(self, numbers: Iterable[int], now: float) -> None:
        for number in numbers:
            if number >= len(self._places):
                missing = number + 1 - len(self._places)
                self._places.extend([GONE] * max(missing, len(self._places) // 8))
            if self._places[number] != GONE:
                continue
            self._places[number] = len(self._numbers)
            self._numbers.append(number)
            self._joined.append(now)
            self.count += 1

    def discard(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            place = self.place_of(number)
            if place is not None:
                self._numbers[place] = self._places[number] = GONE
                self.count -= 1

    def walk(
        self, start: int | None = None, *, backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        """(place, number) from a place on, oldest member first (backwards: from there down)."""
        if backwards:
            places = range(len(self._numbers) - 1 if start is None else start, -1, -1)
        else:
            places = range(start or 0, len(self._numbers))
        return ((place, self._numbers[place]) for place in places if self._numbers[place] != GONE)


@dataclass(slots=True, kw_only=True)
class ProfileList:
    id: str
    name: str
    created: float
    updated: float
    opt_in_process: str = "double_opt_in"
    flows: list[dict[str, Any]] = field(
        default_factory=list
    )  # the flows that joining this list starts
    members: Members = field(default_factory=Members)


class Lists:
    def __init__(self) -> None:
        self._lists: dict[str, ProfileList] = {}

    def __iter__(self) -> Iterator[ProfileList]:
        return iter(self._lists.values())

    def __len__(self) -> int:
        return len(self._lists)

    def get(self, list_id: str) -> ProfileList | None:
        return self._lists.get(list_id)

    def create(self, name: str, *, now: float, list_id: str | None = None) -> ProfileList:
        """A new list; names need not be unique. With the id of an existing one it replaces that."""
        made = ProfileList(id=list_id or self._free_id(), name=name, created=now, updated=now)
        self._lists[made.id] = made
        return made

    def delete(self, list_id: str) -> None:
        """The list only: its profiles stay."""
        del self._lists[list_id]

    def forget_profile(self, number: int) -> None:
        for each in self:
            each.members.discard([number])

    def _free_id(self) -> str:
        while True:
            made = "".join(random.choices(string.ascii_letters + string.digits, k=6))
            if made not in self._lists:
                return made
