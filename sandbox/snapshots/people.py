"""Synthetic people: person `n` is a function of the seed and `n` alone.

So nothing is stored: any part can be made again, two snapshots overlap as their numbers do, and
memory stays the same for ten rows and ten million.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple, TypeVar

from sandbox.snapshots.columns import Column
from sandbox.snapshots.words import (
    DOMAINS,
    FIRST_NAMES,
    LAST_NAMES,
    PLACES,
    RARE_FIRST_NAMES,
    RARE_LAST_NAMES,
    RARE_PLACES,
    SEPARATORS,
    TIERS,
    Place,
)

T = TypeVar("T")

BLOCK = 4096  # people drawn at once
WHEEL = 1 << 16  # every table has this many slots, so that two random bytes pick one
SERIALS = 10_000_000  # phone numbers repeat after so many people
SERIAL_STEP = 7_368_787  # has no factor in common with SERIALS, so each serial comes once
THREE_DIGITS = tuple(f"{number:03d}" for number in range(1000))


def _wheel(common: Sequence[T], rare: Sequence[T] = (), *, one_in: int = 256) -> tuple[T, ...]:
    """Spread `common` over all slots, and give one slot in `one_in` to one of `rare`."""
    slots = list(itertools.islice(itertools.cycle(common), WHEEL))
    if rare:
        slots[::one_in] = itertools.islice(itertools.cycle(rare), len(slots[::one_in]))
    return tuple(slots)


def _stem(first_name: str) -> str:
    """The part of an address that comes from a name: ASCII letters only."""
    letters = unicodedata.normalize(
        "NFKD", first_name.lower().translate(str.maketrans("łøđ", "lod"))
    )
    return "".join(letter for letter in letters if "a" <= letter <= "z") or "member"


class Tables:
    """What a person is put together from: a wheel for each thing drawn.

    They hold only what `encoding` can write.
    """

    def __init__(self, encoding: str) -> None:
        def writable(text: str) -> bool:
            return text.encode(encoding, errors="ignore").decode(encoding) == text

        common = [name for name in FIRST_NAMES if writable(name)]
        self.first_names = _wheel(common, RARE_FIRST_NAMES)
        self.last_names = _wheel([name for name in LAST_NAMES if writable(name)], RARE_LAST_NAMES)
        places = _wheel([place for place in PLACES if writable(place.city)], RARE_PLACES)
        self.cities = tuple(place.city for place in places)
        self.countries = tuple(place.country for place in places)
        self.phone_plans = tuple(self._phone_plan(place, slot) for slot, place in enumerate(places))
        self.stems = tuple(
            (stem.capitalize() if slot % 101 == 0 else stem)
            + SEPARATORS[slot // 64 % len(SEPARATORS)]
            for slot, stem in enumerate(_stem(name) for name in self.first_names)
        )
        self.domains = _wheel(DOMAINS)
        self.tiers = _wheel(TIERS)
        oldest = date(1940, 1, 1)
        self.birthdays = tuple(
            "" if slot % 5 < 2 else (oldest + timedelta(days=slot % 24_837)).isoformat()
            for slot in range(WHEEL)
        )
        self.values = tuple(
            "" if slot % 9 == 0 else f"{(slot / WHEEL) ** 4 * 9000:.2f}" for slot in range(WHEEL)
        )

    @staticmethod
    def _phone_plan(place: Place, slot: int) -> tuple[tuple[str, ...], str] | None:
        """Prefixes and the gap between groups of digits.

        One number in four is missing, one in eight has gaps.
        """
        if slot // 64 % 4 == 0:
            return None
        gap = " " if slot // 512 % 8 == 0 else ""
        return tuple(
            f"{place.country_code}{gap}{prefix}{gap}" for prefix in place.phone_prefixes
        ), gap


@functools.cache
def tables_of(encoding: str) -> Tables:
    return Tables(encoding)


class _Draws(NamedTuple):
    """Random material for people of one block: `ids` in hex, then one number below WHEEL each."""

    ids: str
    name: array[int]
    surname: array[int]
    place: array[int]
    birthday: array[int]
    tier: array[int]
    value: array[int]


@functools.lru_cache(maxsize=4)
def _draw(seed: int, block: int) -> _Draws:
    count = len(_Draws._fields) - 1
    # A hash and not `random`: it gives the same bytes for ever, and many at once.
    material = hashlib.shake_128(f"{seed}/{block}".encode()).digest(BLOCK * (16 + 2 * count))
    numbers = array("H", material[BLOCK * 16 :])
    return _Draws(
        material[: BLOCK * 16].hex(),
        *(numbers[BLOCK * item : BLOCK * (item + 1)] for item in range(count)),
    )


@dataclass(frozen=True, slots=True)
class People:
    """People numbered `start` to `stop` of one seed, all within one block, as lists of cells."""

    seed: int
    start: int
    stop: int
    tables: Tables
    changed_every: int

    def cells(self, column: Column) -> list[str]:
        return _CELLS[column](self)

    def _pick(self, wheel: Sequence[T], item: str) -> Iterator[T]:
        return map(wheel.__getitem__, self._numbers(item))

    def _numbers(self, item: str) -> array[int]:
        numbers: array[int] = getattr(_draw(self.seed, self.start // BLOCK), item)
        begin = self.start % BLOCK
        return numbers[begin : begin + self.stop - self.start]

    def customer_ids(self) -> list[str]:
        ids = _draw(self.seed, self.start // BLOCK).ids
        begin = self.start % BLOCK * 32
        return [ids[at : at + 32] for at in range(begin, begin + 32 * (self.stop - self.start), 32)]

    def first_names(self) -> list[str]:
        return list(self._pick(self.tables.first_names, "name"))

    def last_names(self) -> list[str]:
        names = list(self._pick(self.tables.last_names, "surname"))
        if self.changed_every:
            for index in range(-self.start % self.changed_every, len(names), self.changed_every):
                names[index] += "-Newman"
        return names

    def emails(self) -> list[str]:
        """Unique: the person's number stands between a separator and the domain."""
        stems, domains = (
            self._pick(self.tables.stems, "name"),
            self._pick(self.tables.domains, "surname"),
        )
        numbers = range(self.start, self.stop)
        return [
            f"{stem}{number}{domain}"
            for stem, number, domain in zip(stems, numbers, domains, strict=True)
        ]

    def telephones(self) -> list[str]:
        plans, numbers = self._pick(self.tables.phone_plans, "place"), range(self.start, self.stop)
        return [
            _telephone(plan, number) if plan else ""
            for plan, number in zip(plans, numbers, strict=True)
        ]

    def cities(self) -> list[str]:
        return list(self._pick(self.tables.cities, "place"))

    def countries(self) -> list[str]:
        return list(self._pick(self.tables.countries, "place"))

    def birthdays(self) -> list[str]:
        return list(self._pick(self.tables.birthdays, "birthday"))

    def tiers(self) -> list[str]:
        return list(self._pick(self.tables.tiers, "tier"))

    def values(self) -> list[str]:
        return list(self._pick(self.tables.values, "value"))


def _telephone(plan: tuple[tuple[str, ...], str], number: int) -> str:
    prefixes, gap = plan
    serial = number * SERIAL_STEP % SERIALS
    first, rest = divmod(serial, 1_000_000)
    return f"{prefixes[first]}{THREE_DIGITS[rest // 1000]}{gap}{THREE_DIGITS[rest % 1000]}"


_CELLS: dict[Column, Callable[[People], list[str]]] = {
    Column.CUSTOMER_ID: People.customer_ids,
    Column.FIRST_NAME: People.first_names,
    Column.LAST_NAME: People.last_names,
    Column.EMAIL: People.emails,
    Column.TELEPHONE: People.telephones,
    Column.CITY: People.cities,
    Column.COUNTRY: People.countries,
    Column.DATE_OF_BIRTH: People.birthdays,
    Column.LOYALTY_TIER: People.tiers,
    Column.LIFETIME_VALUE: People.values,
}
