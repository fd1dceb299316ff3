"""The body of a bulk import: read it, refuse it for its bad rows, or pack it for the profile store.

Nothing here knows the account, so it can run beside other requests.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from sandbox.klaviyo.checks import (
    MAX_EMAIL_LENGTH,
    Finding,
    Table,
    are_profiles,
    form_findings,
    identity_findings,
    is_profile,
)
from sandbox.klaviyo.messages import Refused, invalid, refusal
from sandbox.klaviyo.planted import Planted
from sandbox.klaviyo.profiles import EMPTY_ROW, Rows
from sandbox.klaviyo.settings import Settings
from sandbox.klaviyo.usual import read_usual

MAX_ROWS = 10_000  # OpenAPI spec 2026-07-15, unchanged since 2023-12-15
SEPARATOR = secrets.token_hex(16)  # no client can know it, so no row can contain it
ROWS_POINTER = "/data/attributes/profiles/data"
LISTS_POINTER = "/data/relationships/lists/data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a job is to import."""

    rows: Rows
    list_ids: tuple[str, ...]
    import_errors: dict[int, dict[str, Any]] = field(default_factory=dict)  # by row

    def __len__(self) -> int:
        return len(self.rows.lines)


def read_batch(body: bytes, settings: Settings, planted: Planted) -> Batch:
    """Check and pack the body of `POST /api/profile-bulk-import-jobs`.

    Raises Refused for the checks that are made at once: then nothing is taken. The others become
    import errors.
    """
    usual = read_usual(body, settings, planted)
    if usual is None or len(usual[0].lines) > MAX_ROWS:
        return read_closely(body, settings, planted)
    rows, relationships = usual
    list_ids = _list_ids({"relationships": orjson.loads(relationships)})
    return Batch(rows=rows, list_ids=list_ids)


def read_closely(body: bytes, settings: Settings, planted: Planted) -> Batch:
    """`read_batch` for any body, naming whatever is wrong with it."""
    data = read_resource(body, "profile-bulk-import-job")
    list_ids = _list_ids(data)
    table = _table(data)
    _refuse(list(form_findings(table)), settings)
    findings = [*identity_findings(table), *planted.findings(table)]
    _refuse(
        [each for each in findings if each.check not in settings.async_checks | {"planted"}],
        settings,
    )
    import_errors = {
        each.row: each.import_error(dict(table.attributes[each.row]), settings) for each in findings
    }
    rows = _packed(table, settings)
    too_large = list(_too_large(rows, settings.max_profile_bytes))
    if "size" not in settings.async_checks:
        _refuse(too_large, settings)
    import_errors |= {each.row: each.import_error(None, settings) for each in too_large}
    return Batch(rows=rows, list_ids=list_ids, import_errors=import_errors)


def read_resource(body: bytes, kind: str) -> dict[str, Any]:
    """The `data` of a JSON:API document, with an `attributes` object. Raises Refused."""
    document = read_json(body)
    data: dict[str, Any] = _member(document, "data", "/data")
    if data.get("type") != kind:
        raise invalid(f"'{data.get('type')}' is not the type '{kind}'.", pointer="/data/type")
    _member(data, "attributes", "/data/attributes")
    return data


def read_json(body: bytes) -> dict[str, Any]:
    """The object a body holds. Raises Refused."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise invalid(f"Invalid JSON: {exc}") from None
    if not isinstance(document, dict):
        raise invalid("The body must be an object.")
    return document


def _member(parent: Mapping[str, Any], name: str, pointer: str, *, kind: type = dict) -> Any:
    value = parent.get(name)
    if not isinstance(value, kind):
        raise refusal(
            400,
            "required",
            "A required field is missing.",
            f"'{name}' is required.",
            pointer=pointer,
        )
    return value


def _table(data: Mapping[str, Any]) -> Table:
    profiles = _member(data["attributes"], "profiles", "/data/attributes/profiles")
    rows = _member(profiles, "data", ROWS_POINTER, kind=list)
    if not 0 < len(rows) <= MAX_ROWS:
        raise invalid(f"Between 1 and {MAX_ROWS} profiles are needed.", pointer=ROWS_POINTER)
    if not are_profiles(rows):
        row = next(row for row, profile in enumerate(rows) if not is_profile(profile))
        raise invalid(
            "A profile has the type 'profile' and attributes.", pointer=f"{ROWS_POINTER}/{row}"
        )
    return Table(rows)


def _list_ids(data: Mapping[str, Any]) -> tuple[str, ...]:
    relationships = _member({"relationships": {}, **data}, "relationships", "/data/relationships")
    if not relationships:
        return ()
    lists = _member(relationships, "lists", "/data/relationships/lists")
    items = _member(lists, "data", LISTS_POINTER, kind=list)
    for place, item in enumerate(items):
        if (
            not isinstance(item, dict)
            or item.get("type") != "list"
            or not isinstance(item.get("id"), str)
        ):
            raise invalid("A list has a type and an id.", pointer=f"{LISTS_POINTER}/{place}")
    return tuple(item["id"] for item in items)


def _refuse(findings: Sequence[Finding], settings: Settings) -> None:
    """Refuse the whole job for these rows, naming as many as the switch says."""
    if not findings:
        return
    if settings.bad_rows == "none":
        raise invalid("One or more profiles are invalid.", pointer=ROWS_POINTER)
    named = findings[:1] if settings.bad_rows == "first" else findings
    raise Refused(named[0].status, [each.refusal() for each in named])


def _packed(table: Table, settings: Settings) -> Rows:
    emails = table.column("email")
    deciding = {"phone_number", "external_id"} if None in emails else settings.unique
    if "email" in table.columns:
        for each in table.attributes:
            each.pop("email", None)
    return Rows(
        emails=[email.lower() if email is not None else None for email in emails],
        lines=_lines(table),
        phones=table.columns.get("phone_number") if "phone_number" in deciding else None,
        externals=table.columns.get("external_id") if "external_id" in deciding else None,
        ids=[profile.get("id") for profile in table.profiles] if "id" in table.members else None,
    )


def _lines(table: Table) -> list[bytes]:
    """A line per row, see profiles.py.

    All are serialised in one go: row by row costs three times as much.
    """
    values: list[Any] = [SEPARATOR] * (2 * len(table.profiles) - 1)
    values[::2] = table.attributes
    if "meta" in table.members:
        values[::2] = [
            [profile["attributes"], profile["meta"]]
            if profile.get("meta")
            else profile["attributes"]
            for profile in table.profiles
        ]
    lines = orjson.dumps(values)[1:-1].split(b',"' + SEPARATOR.encode() + b'",')
    return [EMPTY_ROW if line == EMPTY_ROW else line for line in lines]


def _too_large(rows: Rows, limit: int) -> Iterator[Finding]:
    """Rows whose attributes are over the limit as compact JSON; a line lacks the e-mail address."""
    if max(map(len, rows.lines)) <= limit - 2 * MAX_EMAIL_LENGTH:
        return
    for row, (line, email) in enumerate(zip(rows.lines, rows.emails, strict=True)):
        if len(line) + len(f'"email":"{email or ""}",') > limit:
            yield Finding(
                check="size", row=row, field="", detail="The profile is larger than 100 KB."
            )
