"""What makes a profile acceptable, for one profile and for the ten thousand of a job.

A job is checked by column: a check runs over all rows at once, and only if it fails are the rows
looked at singly. An e-mail address with "+sync-fail" in it is refused although it is well-formed,
so that an exporter can be tested on it; planted.py has rows that fail later.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sandbox.klaviyo.messages import error
from sandbox.klaviyo.settings import Settings

MAX_EMAIL_LENGTH = 100  # "Profiles API overview", developers.klaviyo.com

# Klaviyo's own pattern is not published. This is what RFC 5321 and RFC 1035 allow, without quoted
# local parts and addresses in brackets, and less what a public migration log of June 2026 saw
# refused: "!" in the local part and a digit in the top-level domain ("mailto:" is no RFC address).
_ATOM = r"[A-Za-z0-9#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EMAIL = re.compile(
    rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+[A-Za-z](?:[A-Za-z]{{0,61}}[A-Za-z])"
)
# E.164's shape. Klaviyo also checks that the number can exist.
PHONE = re.compile(r"\+[1-9][0-9]{6,14}")

SYNC_FAIL = "+sync-fail"

TEXT_FIELDS = frozenset(
    {
        "email",
        "phone_number",
        "external_id",
        "_kx",
        "first_name",
        "last_name",
        "organization",
        "locale",
        "title",
        "image",
    }
)
OBJECT_FIELDS = frozenset({"location", "properties"})
LOCATION_FIELDS = frozenset(
    {
        "address1",
        "address2",
        "city",
        "country",
        "region",
        "zip",
        "timezone",
        "ip",
        "latitude",
        "longitude",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with one row of a job.

    field: the end of the pointer, "" for the whole row.
    overrides: members that replace those of the error, see planted.py.
    """

    check: str
    row: int
    field: str
    detail: str
    code: str = "invalid"
    title: str = "Invalid input."
    status: int = 400
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    original_payload: str | None = None

    def refusal(self) -> dict[str, Any]:
        """The error for a 400 that refuses the whole job."""
        made = error(self.status, self.code, self.title, self.detail, pointer=self.pointer)
        return _without(made | self._overrides(), "source")

    def import_error(
        self, original: Mapping[str, Any] | None, settings: Settings
    ) -> dict[str, Any]:
        """The import error, if the job is taken and this row fails later."""
        attributes = {
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "source": {"pointer": self.pointer} if settings.error_pointers == "row" else {},
            "original_payload": _payload(
                original, self.original_payload or settings.original_payload
            ),
        } | self._overrides()
        made = attributes.pop("id", uuid.uuid4().hex)
        return {
            "type": "import-error",
            "id": made,
            "attributes": _without(attributes, "source"),
        }

    @property
    def pointer(self) -> str:
        return f"/data/attributes/profiles/data/{self.row}{self.field}"

    def _overrides(self) -> dict[str, Any]:
        made = dict(self.overrides)
        source = made.get("source")
        if isinstance(source, dict) and isinstance(source.get("pointer"), str):
            made["source"] = {
                **source,
                "pointer": source["pointer"].replace("{row}", str(self.row)),
            }
        return made


def _without(members: dict[str, Any], name: str) -> dict[str, Any]:
    """Leave a member out that is null."""
    return {key: value for key, value in members.items() if key != name or value is not None}


def _payload(original: Mapping[str, Any] | None, form: str) -> Any:
    if original is None or form == "none":
        return None
    if form == "profile":
        return {"type": "profile", "attributes": original}
    return orjson.dumps(original).decode() if form == "text" else original


class Table:
    """The profiles of a job, by row and by column.

    A column lists None where a row lacks the attribute.
    """

    def __init__(self, profiles: list[dict[str, Any]]) -> None:
        self.profiles = profiles
        self.members: set[str] = set().union(*profiles)
        self.attributes: list[dict[str, Any]] = [profile["attributes"] for profile in profiles]
        names: set[str] = set().union(*self.attributes)
        self.columns = {name: [each.get(name) for each in self.attributes] for name in names}

    def column(self, name: str) -> list[Any]:
        return self.columns.get(name) or [None] * len(self.profiles)

    def drop(self, row: int, name: str) -> None:
        del self.attributes[row][name]
        self.columns[name][row] = None


def is_email(text: str) -> bool:
    return (
        len(text) <= MAX_EMAIL_LENGTH
        and EMAIL.fullmatch(text) is not None
        and SYNC_FAIL not in text
    )


def is_phone(text: str) -> bool:
    return PHONE.fullmatch(text) is not None


def is_profile(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("type") == "profile"
        and isinstance(value.get("attributes"), dict)
        and isinstance(value.get("id"), str | None)
    )


def are_profiles(rows: Sequence[Any]) -> bool:
    """`is_profile` of every row, quickly."""
    try:
        kinds = {row["type"] for row in rows}
        attributes = {type(row["attributes"]) for row in rows}
        has_ids = any("id" in row for row in rows)
    except (KeyError, TypeError):
        return False
    return all(map(is_profile, rows)) if has_ids else (kinds, attributes) == ({"profile"}, {dict})


def misfits(attributes: Mapping[str, Any], meta: Any = None) -> Iterator[tuple[str, str]]:
    """What is wrong with the form of one profile: (end of the pointer, detail)."""
    for name, value in attributes.items():
        if name not in TEXT_FIELDS | OBJECT_FIELDS:
            yield (
                f"/attributes/{name}",
                f"'{name}' is not a valid field for the resource 'profile'.",
            )
        elif value is not None and not isinstance(value, str if name in TEXT_FIELDS else dict):
            yield (
                f"/attributes/{name}",
                f"'{name}' must be {'a string' if name in TEXT_FIELDS else 'an object'}.",
            )
    location = attributes.get("location")
    for name in (location.keys() if isinstance(location, dict) else set()) - LOCATION_FIELDS:
        yield "/attributes/location", f"'{name}' is not a valid field for the resource 'location'."
    if not _is_meta(meta):
        yield "/meta", "'meta' must hold 'patch_properties' with 'append', 'unappend' and 'unset'."


def _is_meta(meta: Any) -> bool:
    patches = (meta or {}).get("patch_properties") if isinstance(meta, dict | None) else 0
    return patches is None or (
        isinstance(patches, dict)
        and isinstance(patches.get("append"), dict | None)
        and isinstance(patches.get("unappend"), dict | None)
        and isinstance(patches.get("unset"), list | str | None)
    )


def form_findings(table: Table) -> Iterator[Finding]:
    """Unknown fields and values of a wrong type."""
    if "meta" not in table.members and all(
        _column_fits(*column) for column in table.columns.items()
    ):
        return
    for row, profile in enumerate(table.profiles):
        for field, detail in misfits(profile["attributes"], profile.get("meta")):
            yield Finding(check="form", row=row, field=field, detail=detail)


def _column_fits(name: str, values: Sequence[Any]) -> bool:
    if name not in TEXT_FIELDS | OBJECT_FIELDS:
        return False
    if not set(map(type, values)) <= {str if name in TEXT_FIELDS else dict, type(None)}:
        return False
    return name != "location" or LOCATION_FIELDS.issuperset(set().union(*filter(None, values)))


def identity_findings(table: Table) -> Iterator[Finding]:
    """Bad e-mail addresses, bad phone numbers, rows that name nobody.

    A bad phone number beside an e-mail address is dropped from its row instead.
    """
    emails, phones = table.column("email"), table.column("phone_number")
    if are_emails(emails) and all(map(PHONE.fullmatch, filter(None, phones))) and "" not in phones:
        return
    for row, (email, phone) in enumerate(zip(emails, phones, strict=True)):
        if email is not None and not is_email(email):
            yield Finding(
                check="email", row=row, field="/attributes/email", detail="Invalid email address"
            )
        if email is None and phone is None and not _is_named(table.profiles[row]):
            detail = "One of email, phone_number, external_id or id is required."
            yield Finding(check="identifier", row=row, field="", detail=detail)
        if phone is None or is_phone(phone):
            continue
        if email is not None:
            table.drop(row, "phone_number")
        else:
            detail = "Invalid phone number format"
            yield Finding(
                check="phone_number", row=row, field="/attributes/phone_number", detail=detail
            )


def are_emails(emails: Sequence[str | None]) -> bool:
    """Whether every row has a good e-mail address: the usual case, answered quickly."""
    present = [email for email in emails if email is not None]
    return (
        len(present) == len(emails)
        and max(map(len, present)) <= MAX_EMAIL_LENGTH
        and SYNC_FAIL not in " ".join(present)
        and all(map(EMAIL.fullmatch, present))
    )


def _is_named(profile: Mapping[str, Any]) -> bool:
    return profile.get("id") is not None or profile["attributes"].get("external_id") is not None
