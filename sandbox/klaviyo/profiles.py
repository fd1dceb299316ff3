"""The profiles of an account, kept small enough for ten million of them.

A profile is a number (its place in the columns below). Its row is JSON as it came: one line per
import that touched it, the oldest first, folded into attributes only when somebody reads. A line is

    {...}            attributes; an e-mail address among them is passed over: it has its own column
    [{...}, {...}]   the same and the `meta` of that import

so that importing costs no merge at all. Nulls stay in the lines and are skipped while folding: a
bulk import never clears a field.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import orjson

ID_PREFIX = "01K"  # ids look like Klaviyo's ULIDs: 26 characters, growing with time
EMPTY_ROW = b"{}"
FOLD_AT_LINES = 8
MERGED_BY_KEY = ("location", "properties")


class Conflict(Exception):
    """An identifier belongs to another profile or, without `owner`, to none."""

    def __init__(self, field: str, owner: int | None) -> None:
        super().__init__(f"{field} belongs to {'no' if owner is None else 'another'} profile")
        self.field = field
        self.owner = owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows to import, in columns of the same length.

    `emails` are lower case. The other identifiers are there only if they can decide where a row
    goes.
    """

    emails: list[str | None]
    lines: list[bytes]
    phones: list[str | None] | None = None
    externals: list[str | None] | None = None
    ids: list[str | None] | None = None

    def original(self, row: int) -> dict[str, Any]:
        """The attributes of a row as they came."""
        parsed = orjson.loads(self.lines[row])
        attributes: dict[str, Any] = parsed[0] if isinstance(parsed, list) else parsed
        return {"email": self.emails[row], **attributes}

    def others(self) -> Iterator[tuple[str, list[str | None]]]:
        """The columns of the other identifiers that can decide."""
        if self.phones is not None:
            yield "phone_number", self.phones
        if self.externals is not None:
            yield "external_id", self.externals

    def __iter__(self) -> Iterator[tuple[str | None, str | None, str | None, str | None, bytes]]:
        nothing = repeat(None)
        return zip(
            self.emails,
            self.phones or nothing,
            self.externals or nothing,
            self.ids or nothing,
            self.lines,
            strict=False,
        )


class Profiles:
    def __init__(self) -> None:
        self._emails: list[str | None] = []
        self._rows: list[bytes | None] = []  # None = deleted
        self._created = array("d")
        self._updated = array("d")
        self._by_email: dict[str, int] = {}
        self._others = {field: _Index(field, self) for field in ("phone_number", "external_id")}
        self.count = 0

    # --- reading

    def attributes(self, number: int) -> dict[str, Any]:
        """What is known of a profile: only fields with a value."""
        row = self._rows[number]
        assert row is not None, "the profile is deleted"
        folded = fold(row)
        email = self._emails[number]
        return folded if email is None else {"email": email, **folded}

    def times(self, number: int) -> tuple[float, float]:
        """When it was created and last updated."""
        return self._created[number], self._updated[number]

    def exists(self, number: int) -> bool:
        return 0 <= number < len(self._rows) and self._rows[number] is not None

    def number_of(self, profile_id: str) -> int | None:
        digits = profile_id.removeprefix(ID_PREFIX)
        if (
            len(profile_id) != 26
            or len(digits) != 23
            or not digits.isascii()
            or not digits.isdigit()
        ):
            return None
        number = int(digits)
        return number if self.exists(number) else None

    def find(self, field: str, value: str) -> int | None:
        """The profile whose `field` (id, email, phone_number, external_id) has this value."""
        if field == "id":
            return self.number_of(value)
        return (
            self._by_email.get(value.lower())
            if field == "email"
            else self._others[field].owner(value)
        )

    def numbers(self) -> range:
        """All numbers ever given, in order of creation, those of deleted profiles too."""
        return range(len(self._rows))

    def email(self, number: int) -> str | None:
        return self._emails[number]

    # --- writing

    def import_rows(
        self, rows: Rows, *, now: float, skip: Mapping[int, Any], unique: frozenset[str]
    ) -> tuple[list[int], dict[int, Conflict]]:
        """Create or update a profile per row.

        Returns their numbers (row order, skipped rows left out) and the rows that could not be
        written because of another profile.
        """
        if not skip and self._are_new(rows):
            return list(self._create_all(rows, now)), {}
        numbers: list[int] = []
        conflicts: dict[int, Conflict] = {}
        for place, (email, phone, external, profile_id, line) in enumerate(rows):
            if place in skip:
                continue
            try:
                number = self._match(email, phone, external, profile_id, unique)
            except Conflict as conflict:
                conflicts[place] = conflict
                continue
            if number is None:
                number = self._create(email, line, now)
            else:
                self._add_line(number, email, line, now)
            numbers.append(number)
        return numbers, conflicts

    def create(self, attributes: Mapping[str, Any], *, now: float) -> int:
        """A new profile. The caller has made sure that nobody owns its identifiers."""
        number = self._create(None, EMPTY_ROW, now)
        self.update(number, attributes, now=now)
        return number

    def update(
        self,
        number: int,
        changes: Mapping[str, Any],
        meta: Mapping[str, Any] | None = None,
        *,
        now: float,
    ) -> None:
        """Change one profile; a null clears.

        Raises Conflict if another profile owns a new identifier.
        """
        for field in ("email", "phone_number", "external_id"):
            value = changes.get(field)
            owner = self.find(field, value) if value is not None else None
            if owner is not None and owner != number:
                raise Conflict(field, owner)
        attributes = self.attributes(number)
        _apply(attributes, changes, clear=True)
        patch(attributes, meta)
        self._set_email(number, attributes.pop("email", None))
        self._rows[number] = orjson.dumps(attributes)
        self._touch(number, now)

    def delete(self, number: int) -> None:
        self._set_email(number, None)
        self._rows[number] = None
        self.count -= 1

    def _are_new(self, rows: Rows) -> bool:
        """Whether all rows have an address, and are new and different: a first export, mostly."""
        return (
            rows.ids is None
            and None not in rows.emails
            and len(set(rows.emails)) == len(rows.emails)
            and self._by_email.keys().isdisjoint(rows.emails)
            and all(self._others[field].are_new(values) for field, values in rows.others())
        )

    def _create_all(self, rows: Rows, now: float) -> range:
        """Create what `_are_new`, a column at a time."""
        numbers = range(len(self._rows), len(self._rows) + len(rows.lines))
        self._rows += rows.lines
        self._emails += rows.emails
        self._created.extend([now] * len(numbers))
        self._updated.extend([now] * len(numbers))
        self._by_email.update(
            (email, n) for email, n in zip(rows.emails, numbers, strict=True) if email
        )
        for field, values in rows.others():
            self._others[field].add(values, numbers)
        self.count += len(numbers)
        return numbers

    def _match(
        self,
        email: str | None,
        phone: str | None,
        external: str | None,
        profile_id: str | None,
        unique: frozenset[str],
    ) -> int | None:
        """The profile a row updates, by the first identifier that it has."""
        if email is None:
            return self._match_other(phone, external, profile_id)
        number = self._by_email.get(email)
        for field, value in (("phone_number", phone), ("external_id", external)):
            owner = self.find(field, value) if value is not None and field in unique else None
            if owner is None or owner == number:
                continue
            if number is not None or self._emails[owner] is not None:
                raise Conflict(field, owner)
            number = owner
        return number

    def _match_other(
        self, phone: str | None, external: str | None, profile_id: str | None
    ) -> int | None:
        if phone is not None:
            return self.find("phone_number", phone)
        if external is not None:
            return self.find("external_id", external)
        number = self.number_of(profile_id or "")
        if number is None:
            raise Conflict("id", None)
        return number

    def _touch(self, number: int, now: float) -> None:
        self._updated[number] = now
        for index in self._others.values():
            index.touch(number)

    def _create(self, email: str | None, line: bytes, now: float) -> int:
        number = len(self._rows)
        self._rows.append(line)
        self._emails.append(email)
        self._created.append(now)
        self._updated.append(now)
        self.count += 1
        if email is not None:
            self._by_email[email] = number
        return number

    def _add_line(self, number: int, email: str | None, line: bytes, now: float) -> None:
        row = self._rows[number]
        assert row is not None
        if email is not None and self._emails[number] is None:
            self._set_email(number, email)
        repeated = line.startswith(b"{") and (line == row or row.endswith(b"\n" + line))
        if repeated or line == EMPTY_ROW:
            self._updated[number] = now
            return
        self._touch(number, now)
        row += b"\n" + line
        self._rows[number] = row if row.count(b"\n") < FOLD_AT_LINES else orjson.dumps(fold(row))

    def _set_email(self, number: int, email: str | None) -> None:
        old = self._emails[number]
        if old is not None:
            del self._by_email[old]
        self._emails[number] = email.lower() if email is not None else None
        if email is not None:
            self._by_email[email.lower()] = number


class _Index:
    """Profiles by phone number or external id.

    It reads what is new only when somebody asks: most never do.

    Where several profiles have a value, one of them owns it for as long as it has it.
    """

    def __init__(self, field: str, profiles: Profiles) -> None:
        self._field = field
        self._profiles = profiles
        self._numbers: dict[str, int] = {}
        self._read_to = 0  # profiles from this number on have not been read
        self._touched: list[int] = []  # those before it that have changed since

    def touch(self, number: int) -> None:
        if number < self._read_to:
            self._touched.append(number)

    def owner(self, value: str) -> int | None:
        self._catch_up()
        number = self._numbers.get(value)
        return number if number is not None and self._has(number, value) else None

    def are_new(self, values: Sequence[str | None]) -> bool:
        """Whether no two of these are the same, and nobody has had any of them."""
        self._catch_up()
        known = [value for value in values if value is not None]
        return len(set(known)) == len(known) and self._numbers.keys().isdisjoint(known)

    def add(self, values: Sequence[str | None], numbers: range) -> None:
        """Take in newly created profiles with values that `are_new`."""
        self._numbers.update(
            (value, n) for value, n in zip(values, numbers, strict=True) if value is not None
        )
        self._read_to = numbers.stop

    def _catch_up(self) -> None:
        unread = [*self._touched, *range(self._read_to, len(self._profiles.numbers()))]
        self._read_to, self._touched = len(self._profiles.numbers()), []
        for number in unread:
            if self._profiles.exists(number):
                self._claim(self._profiles.attributes(number).get(self._field), number)

    def _claim(self, value: str | None, number: int) -> None:
        if value is not None:
            owner = self._numbers.setdefault(value, number)
            if owner != number and not self._has(owner, value):
                self._numbers[value] = number

    def _has(self, number: int, value: str) -> bool:
        """The entry may be out of date."""
        return (
            self._profiles.exists(number)
            and self._profiles.attributes(number).get(self._field) == value
        )


def profile_id(number: int) -> str:
    return f"{ID_PREFIX}{number:023d}"


def fold(row: bytes) -> dict[str, Any]:
    """The attributes that a row's lines amount to."""
    attributes: dict[str, Any] = {}
    for line in row.split(b"\n"):
        parsed = orjson.loads(line)
        changes, meta = parsed if isinstance(parsed, list) else (parsed, None)
        _apply(attributes, changes, clear=False)
        patch(attributes, meta)
    attributes.pop("email", None)
    return attributes


def _apply(attributes: dict[str, Any], changes: Mapping[str, Any], *, clear: bool) -> None:
    for field, value in changes.items():
        if value is None:
            if clear:
                attributes.pop(field, None)
        elif field in MERGED_BY_KEY:
            kept = attributes.setdefault(field, {})
            kept.update({key: new for key, new in value.items() if new is not None})
            if clear:
                _drop(kept, [key for key, new in value.items() if new is None])
        elif field != "_kx":
            attributes[field] = value


def patch(attributes: dict[str, Any], meta: Mapping[str, Any] | None) -> None:
    """Carry out `meta.patch_properties`: append, unappend, unset."""
    patches = (meta or {}).get("patch_properties") or {}
    if not patches:
        return
    properties = attributes.setdefault("properties", {})
    for key, value in (patches.get("append") or {}).items():
        properties[key] = _as_list(properties.get(key)) + _as_list(value)
    for key, value in (patches.get("unappend") or {}).items():
        gone = _as_list(value)
        properties[key] = [item for item in _as_list(properties.get(key)) if item not in gone]
    _drop(properties, _as_list(patches.get("unset")))


def _drop(mapping: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        mapping.pop(key, None)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
