"""Read the usual job quickly: rows with good e-mail addresses and nothing odd about any of them.

Typed decoding checks a row's form while it parses it, and a row is kept in the bytes it came in:
half the cost of parsing, checking by column and writing again. Whatever is not plainly in order is
left to `batches`, which finds out what it is. Both give the same for what both accept.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import orjson

from sandbox.klaviyo.checks import MAX_EMAIL_LENGTH, PHONE, are_emails
from sandbox.klaviyo.planted import Planted
from sandbox.klaviyo.profiles import Rows
from sandbox.klaviyo.settings import Settings


class _Location(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    address1: Any = None
    address2: Any = None
    city: Any = None
    country: Any = None
    region: Any = None
    zip: Any = None
    timezone: Any = None
    ip: Any = None
    latitude: Any = None
    longitude: Any = None


class _Attributes(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    email: str
    phone_number: str | None = None
    external_id: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    organization: str | None = None
    locale: str | None = None
    title: str | None = None
    image: str | None = None
    location: _Location | None = None
    properties: dict[str, Any] | None = None


class _Profile(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Neither `id` nor `meta`: these rows are not the usual ones."""

    type: Literal["profile"]
    attributes: msgspec.Raw


class _Profiles(msgspec.Struct, gc=False):
    data: list[_Profile]


class _JobAttributes(msgspec.Struct, gc=False):
    profiles: _Profiles


class _Job(msgspec.Struct, gc=False):
    type: Literal["profile-bulk-import-job"]
    attributes: _JobAttributes
    relationships: msgspec.Raw = msgspec.Raw(b"{}")


class _Document(msgspec.Struct, gc=False):
    data: _Job


# What orjson refuses and msgspec takes is longer: integers of 309 digits, and arrays a thousand
# deep.
_SURELY_JSON_BYTES = 300

_DOCUMENT = msgspec.json.Decoder(_Document)
_ATTRIBUTES = msgspec.json.Decoder(_Attributes)


def read_usual(body: bytes, settings: Settings, planted: Planted) -> tuple[Rows, bytes] | None:
    """The rows of a job and its `relationships` as they came; None if it is not a usual job."""
    if b"\n" in body:  # it separates the lines of a profile
        return None
    try:
        job = _DOCUMENT.decode(body).data
        lines = [bytes(profile.attributes) for profile in job.attributes.profiles.data]
        attributes = list(map(_ATTRIBUTES.decode, lines))
        for line in lines:
            if len(line) > _SURELY_JSON_BYTES:
                orjson.loads(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    emails = [each.email for each in attributes]
    phones = [each.phone_number for each in attributes]
    are_usual = (
        len(lines) > 0
        and are_emails(emails)
        and not planted.may_touch(emails)
        and all(phone is None or PHONE.fullmatch(phone) for phone in phones)
        and max(map(len, lines)) <= settings.max_profile_bytes - 2 * MAX_EMAIL_LENGTH
    )
    if not are_usual:
        return None
    externals = [each.external_id for each in attributes]
    rows = Rows(
        emails=[email.lower() for email in emails],
        lines=lines,
        phones=_deciding("phone_number", phones, settings),
        externals=_deciding("external_id", externals, settings),
    )
    return rows, bytes(job.relationships)


def _deciding(field: str, values: list[str | None], settings: Settings) -> list[str | None] | None:
    return values if field in settings.unique and any(values) else None
