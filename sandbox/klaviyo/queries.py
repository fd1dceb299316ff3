"""What a query string asks for: filter, sort, page, sparse and additional fields."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlencode

from sandbox.klaviyo.messages import Request, invalid
from sandbox.klaviyo.profiles import Profiles

T = TypeVar("T")

_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\[[^\]]*\]|[^\s,()\[\]"']+)"""
_CLAUSE = re.compile(
    rf"\s*(?P<operator>[a-z-]+)\((?P<field>[\w.$]+),\s*(?P<value>{_VALUE})\s*\)\s*(?:,|$)"
)
_ITEM = re.compile(r""""((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s,\[\]"']+)""")


@dataclass(frozen=True, slots=True)
class Clause:
    """One comparison: `any(email,["a@x.com","b@x.com"])`."""

    operator: str
    field: str
    values: tuple[str, ...]

    @property
    def instant(self) -> float:
        """The value as epoch seconds. Raises Refused if it is no date and time."""
        try:
            moment = datetime.fromisoformat(self.values[0])
        except (ValueError, IndexError):
            raise invalid("Invalid filter provided: not a datetime.", parameter="filter") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def allows(self, moment: float) -> bool:
        """Compare a time with this clause's."""
        return {
            "greater-than": moment > self.instant,
            "greater-or-equal": moment >= self.instant,
            "less-than": moment < self.instant,
            "less-or-equal": moment <= self.instant,
        }[self.operator]


def read_filter(request: Request, allowed: Mapping[str, str]) -> list[Clause]:
    """The clauses of `filter`, which all must hold.

    `allowed`: field -> its operators, space-separated.

    Raises Refused for anything else than clauses joined by commas.
    """
    text, clauses, end = request.query.get("filter", ""), [], 0
    for match in _CLAUSE.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        operator, field, value = match["operator"], match["field"], match["value"]
        if operator not in allowed.get(field, "").split():
            raise invalid(f"Invalid filter provided: {operator}({field},...).", parameter="filter")
        values = tuple(_read_items(value))
        clauses.append(Clause(operator, field, values))
    if end != len(text):
        raise invalid("Invalid filter provided.", parameter="filter")
    return clauses


def _read_items(value: str) -> Iterator[str]:
    for double, single, bare in _ITEM.findall(value):
        yield re.sub(r"\\(.)", r"\1", double or single) if double or single else bare


def numbers_named(profiles: Profiles, clauses: Sequence[Clause]) -> set[int] | None:
    """The profiles that all identity clauses (any, equals) name; None if there is none."""
    found = [
        {profiles.find(clause.field, value) for value in clause.values}
        for clause in clauses
        if clause.operator in ("any", "equals")
    ]
    return {number for number in set.intersection(*found) if number is not None} if found else None


def read_sort(request: Request, *allowed: str) -> tuple[str, bool]:
    """(field, descending). The first allowed field, ascending, is the default."""
    text = request.query.get("sort", allowed[0])
    if text.removeprefix("-") not in allowed:
        raise invalid(f"Invalid sort provided: {text}.", parameter="sort")
    return text.removeprefix("-"), text.startswith("-")


def names(request: Request, parameter: str, *allowed: str) -> set[str]:
    """A comma-separated parameter such as `include`; only `allowed` names if any are given."""
    asked = {name for name in request.query.get(parameter, "").split(",") if name}
    if allowed and not asked <= set(allowed):
        raise invalid(
            f"'{', '.join(sorted(asked - set(allowed)))}' is not allowed here.", parameter=parameter
        )
    return asked


@dataclass(frozen=True, slots=True)
class Page:
    """The page asked for.

    `start` is where the previous one said to go on, None at the beginning.
    """

    size: int
    start: int | None

    def take(self, items: Iterator[tuple[int, T]]) -> tuple[list[T], int | None]:
        """Cut the page out of (place, item) pairs that begin at `start`.

        Also returns the place where the next page starts, None after the last one.
        """
        cut = list(islice(items, self.size + 1))
        following = cut[self.size][0] if len(cut) > self.size else None
        return [item for _, item in cut[: self.size]], following


def read_page(request: Request, *, default: int = 20, most: int = 100) -> Page:
    text = request.query.get("page[size]", str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise invalid(f"Page size must be an integer between 1 and {most}.", parameter="page[size]")
    return Page(int(text), _read_cursor(request.query.get("page[cursor]")))


def _read_cursor(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        # Klaviyo's Python package cuts a cursor out of a link with the "=" before it, and that must
        # work.
        text = base64.urlsafe_b64decode(cursor.lstrip("=").encode()).decode()
        if text.startswith("at:"):
            return int(text[3:])
    except (ValueError, UnicodeError):
        pass
    raise invalid("Invalid page cursor.", parameter="page[cursor]")


def cursor_of(place: int) -> str:
    return base64.urlsafe_b64encode(f"at:{place:012d}".encode()).decode()


def links(request: Request, following: int | None) -> dict[str, Any]:
    """`links` of a collection. `prev` is always null here: nothing we know of goes backwards."""
    here = f"{request.base_url}{request.path.rstrip('/')}/"

    def url(query: Mapping[str, str]) -> str:
        return f"{here}?{urlencode(query)}" if query else here

    onwards = (
        None if following is None else url({**request.query, "page[cursor]": cursor_of(following)})
    )
    return {"self": url(request.query), "next": onwards, "prev": None}
