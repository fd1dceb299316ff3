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

from sandbox.klaviyo.documented import Parameters
from sandbox.klaviyo.messages import Refused, Request, invalid, refusal
from sandbox.klaviyo.profiles import Profiles

T = TypeVar("T")

TIME_FIELDS = frozenset({"created", "updated", "joined_group_at"})
TEXT_FIELDS = frozenset({"id", "email", "phone_number", "external_id", "name", "status"})
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_COMPARISON = re.compile(
    rf"\s*([a-z-]+)\(\s*([\w.$]+)\s*,\s*({_STRING}|\[[^\]]*\]|[^\s,()\[\]\"']+)\s*\)\s*"
)
_STRINGS = re.compile(rf"\[\s*{_STRING}(?:\s*,\s*{_STRING})*\s*\]|{_STRING}")
_AND = re.compile(r"\s*and\(")
_SEPARATOR = re.compile(r"\s*,")
_CLOSE = re.compile(r"\s*\)\s*")


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
            raise _bad_filter("not a datetime") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def allows(self, moment: float) -> bool:
        """Compare a time with this clause's."""
        return {
            "greater-than": moment > self.instant,
            "greater-or-equal": moment >= self.instant,
            "less-than": moment < self.instant,
            "less-or-equal": moment <= self.instant,
        }[self.operator]


def read_filter(request: Request, operators: Mapping[str, frozenset[str]]) -> list[Clause]:
    """The clauses of `filter`, which all must hold; `and(...)` and commas join them.

    operators: field -> its operators. Raises Refused for anything else.
    Source: "Filtering", developers.klaviyo.com: text stands in quotes, a datetime does not.
    """
    text = request.query.get("filter", "")
    if not text:
        return []
    clauses, end = _read_clauses(text, 0)
    if end != len(text):
        raise _bad_filter()
    for clause in clauses:
        if clause.operator not in operators.get(clause.field, ()):
            raise _bad_filter(f"{clause.operator}({clause.field},...)")
        if clause.field not in TIME_FIELDS | TEXT_FIELDS:
            detail = f"The stand-in cannot filter by {clause.field}."
            raise refusal(501, "not_implemented", "Not in the stand-in.", detail)
    return clauses


def _read_clauses(text: str, start: int) -> tuple[list[Clause], int]:
    """The clauses from `start` on, separated by commas, and where they end."""
    clauses: list[Clause] = []
    while True:
        if nested := _AND.match(text, start):
            inner, start = _read_clauses(text, nested.end())
            close = _CLOSE.match(text, start)
            if close is None or len(inner) < 2:
                raise _bad_filter()
            clauses, start = clauses + inner, close.end()
        elif found := _COMPARISON.match(text, start):
            clauses.append(_clause(found[1], found[2], found[3]))
            start = found.end()
        else:
            raise _bad_filter()
        separator = _SEPARATOR.match(text, start)
        if separator is None:
            return clauses, start
        start = separator.end()


def _clause(operator: str, field: str, value: str) -> Clause:
    if field in TIME_FIELDS:
        clause = Clause(operator, field, (value,))
        _ = clause.instant  # raises for what is no datetime: one in quotes, too
        return clause
    if not _STRINGS.fullmatch(value):
        raise _bad_filter(f"the value of {field} is not in quotes")
    strings = re.findall(_STRING, value)
    return Clause(operator, field, tuple(re.sub(r"\\(.)", r"\1", each[1:-1]) for each in strings))


def _bad_filter(what: str = "") -> Refused:
    detail = f"Invalid filter provided: {what}." if what else "Invalid filter provided."
    return invalid(detail, parameter="filter")


def numbers_named(profiles: Profiles, clauses: Sequence[Clause]) -> set[int] | None:
    """The profiles that all identity clauses (any, equals) name; None if there is none."""
    found = [
        {profiles.find(clause.field, value) for value in clause.values}
        for clause in clauses
        if clause.operator in ("any", "equals")
    ]
    return {number for number in set.intersection(*found) if number is not None} if found else None


def check_parameters(request: Request, known: Parameters) -> None:
    """Refuse parameters that the endpoint does not have, and names that they do not know."""
    for parameter in request.query:
        if parameter not in known.names():
            raise invalid(f"'{parameter}' is not a parameter of this call.", parameter=parameter)
    for parameter, choices in known.choices.items():
        if unknown := names(request, parameter) - choices:
            detail = f"'{', '.join(sorted(unknown))}' is not allowed here."
            raise invalid(detail, parameter=parameter)


def read_sort(request: Request, *fields: str) -> tuple[str, bool]:
    """(field, descending) for one of `fields`. The first one, ascending, is the default."""
    text = request.query.get("sort", fields[0])
    if text.removeprefix("-") not in fields:
        detail = f"The stand-in cannot sort by {text}."
        raise refusal(501, "not_implemented", "Not in the stand-in.", detail)
    return text.removeprefix("-"), text.startswith("-")


def names(request: Request, parameter: str) -> set[str]:
    """The names in a comma-separated parameter such as `include`."""
    return {name for name in request.query.get(parameter, "").split(",") if name}


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


def read_page(request: Request, known: Parameters) -> Page:
    """The page asked for, within the limits that the endpoint documents."""
    assert known.page is not None
    default, least, most = known.page
    text = request.query.get("page[size]", str(default))
    if not text.isdecimal() or not least <= int(text) <= most:
        detail = f"Page size must be an integer between {least} and {most}."
        raise invalid(detail, parameter="page[size]")
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
