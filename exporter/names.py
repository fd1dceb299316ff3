"""How names of columns, tables and files are compared. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def comparable(name: str) -> str:
    """Give the form in which names are equal that differ in case, blanks or Unicode form only.

    Customer Insights changes the case between destinations, and people change all three. Marks
    that nobody sees, such as a zero-width space, count as blanks do.
    """
    if not name.isascii():
        decomposed = unicodedata.normalize("NFD", name)
        name = "".join(one for one in decomposed if unicodedata.category(one) != "Cf")
        name = unicodedata.normalize("NFC", name.casefold())
    return " ".join(name.split()).casefold()


def positions_of(name: str, names: Sequence[str]) -> list[int]:
    """Say where a name stands among others: exactly so, else in a form that is `comparable`.

    More than one position means that the name is ambiguous.
    """
    exact = [position for position, other in enumerate(names) if other == name]
    if exact:
        return exact
    key = comparable(name)
    return [position for position, other in enumerate(names) if comparable(other) == key]
