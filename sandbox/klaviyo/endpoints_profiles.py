"""/api/profiles, /api/profile-import and /api/data-privacy-deletion-jobs"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sandbox.klaviyo import resources
from sandbox.klaviyo.batches import read_resource
from sandbox.klaviyo.calls import Call, Route
from sandbox.klaviyo.checks import is_email, is_phone, misfits
from sandbox.klaviyo.limits import Tier
from sandbox.klaviyo.messages import (
    Refused,
    Response,
    answer,
    empty,
    error,
    invalid,
    not_found,
    refusal,
)
from sandbox.klaviyo.profiles import Conflict, profile_id
from sandbox.klaviyo.queries import (
    Clause,
    links,
    names,
    numbers_named,
    read_filter,
    read_page,
    read_sort,
)

IDENTIFIERS = ("email", "phone_number", "external_id")


def get_profiles(call: Call) -> Response:
    clauses = read_filter(call.request, call.documented.operators)
    field, descending = read_sort(call.request, "created", "id", "email", "updated")
    page = read_page(call.request, call.documented)
    places = _places(call, numbers_named(call.account.profiles, clauses), field)
    ordered = _from(places, page.start, descending=descending)
    found, following = page.take(each for each in ordered if _is_in_time(call, each[1], clauses))
    data = [call.sparse(resources.profile(call.account, number, call.base_url)) for number in found]
    return answer({"data": data, "links": links(call.request, following)})


def get_profile(call: Call) -> Response:
    return _one(call, _number(call))


def create_profile(call: Call) -> Response:
    attributes = _profile_attributes(call)[0]
    for field in IDENTIFIERS:
        value = attributes.get(field)
        owner = call.account.profiles.find(field, value) if value is not None else None
        if owner is not None:
            raise _duplicate(owner)
    if not any(attributes.get(field) for field in IDENTIFIERS):
        raise invalid(
            "One of email, phone_number or external_id is required.", pointer="/data/attributes"
        )
    return _one(call, call.account.profiles.create(attributes, now=call.now), status=201)


def update_profile(call: Call) -> Response:
    number = _number(call)
    attributes, meta = _profile_attributes(call)
    return _one(call, _write(call, number, attributes, meta))


def import_profile(call: Call) -> Response:
    """Create or update one profile; unlike in a bulk import a null clears."""
    attributes, meta = _profile_attributes(call)
    if len(call.body) > call.settings.max_profile_bytes:
        raise refusal(
            413, "payload_too_large", "Payload too large.", "The profile is larger than 100 KB."
        )
    profiles = call.account.profiles
    number = None
    for field in IDENTIFIERS:
        if attributes.get(field) is not None:
            number = profiles.find(field, attributes[field])
            break
    else:
        number = profiles.number_of(str(read_resource(call.body, "profile").get("id")))
        if number is None:
            raise invalid(
                "One of email, phone_number or external_id is required.", pointer="/data/attributes"
            )
    if number is not None:
        return _one(call, _write(call, number, attributes, meta))
    return _one(call, _create(call, attributes, meta), status=201)


def delete_profile_data(call: Call) -> Response:
    """Delete every profile with the one identifier given. Klaviyo does it later, we at once."""
    attributes = read_resource(call.body, "data-privacy-deletion-job")["attributes"]
    profile = (attributes.get("profile") or {}).get("data") or {}
    given = {"id": profile.get("id"), **(profile.get("attributes") or {})}
    identifiers = {field: value for field, value in given.items() if value is not None}
    if len(identifiers) != 1 or not identifiers.keys() <= {"id", "email", "phone_number"}:
        raise invalid(
            "Exactly one identifier is needed.", pointer="/data/attributes/profile/data/attributes"
        )
    [(field, value)] = identifiers.items()
    number = call.account.profiles.find(field, value)
    if number is not None:
        call.account.delete_profile(number)
    return empty(202)


def get_profile_lists(call: Call) -> Response:
    number = _number(call)
    known = [each for each in call.account.lists if number in each.members]
    if "/relationships/" in call.request.path:
        data: list[Any] = [resources.list_reference(each.id) for each in known]
    else:
        data = [call.sparse(resources.profile_list(each, call.base_url)) for each in known]
    return answer({"data": data, "links": links(call.request, None)})


def _number(call: Call) -> int:
    number = call.account.profiles.number_of(call.params["id"])
    if number is None:
        raise not_found("profile", call.params["id"])
    return number


def _one(call: Call, number: int, status: int = 200) -> Response:
    made = call.sparse(resources.profile(call.account, number, call.base_url))
    document: dict[str, Any] = {"data": made, "links": made["links"]}
    if "lists" in names(call.request, "include"):
        known = [each for each in call.account.lists if number in each.members]
        included = [resources.profile_list(each, call.base_url) for each in known]
        document["included"] = [call.sparse(each) for each in included]
    return answer(document, status)


def _profile_attributes(call: Call) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """Attributes and meta of a body with one profile, checked."""
    data = read_resource(call.body, "profile")
    attributes: dict[str, Any] = data["attributes"]
    problems = dict(misfits(attributes, data.get("meta")))
    email, phone = attributes.get("email"), attributes.get("phone_number")
    if isinstance(email, str) and not is_email(email):
        problems["/attributes/email"] = "Invalid email address"
    if isinstance(phone, str) and not is_phone(phone):
        problems["/attributes/phone_number"] = "Invalid phone number format"
    if problems:
        errors = [
            error(400, "invalid", "Invalid input.", detail, pointer=f"/data{field}")
            for field, detail in problems.items()
        ]
        raise Refused(400, errors)
    return attributes, data.get("meta")


def _write(
    call: Call, number: int, attributes: Mapping[str, Any], meta: Mapping[str, Any] | None
) -> int:
    try:
        call.account.profiles.update(number, attributes, meta, now=call.now)
    except Conflict as conflict:
        raise _duplicate(conflict.owner) from None
    return number


def _create(call: Call, attributes: Mapping[str, Any], meta: Mapping[str, Any] | None) -> int:
    profiles = call.account.profiles
    for field in IDENTIFIERS:
        value = attributes.get(field)
        owner = profiles.find(field, value) if value is not None else None
        if owner is not None:
            raise _duplicate(owner)
    number = profiles.create(attributes, now=call.now)
    return _write(call, number, {}, meta)


def _duplicate(owner: int | None) -> Refused:
    detail = "A profile already exists with one of these identifiers."
    meta = {"duplicate_profile_id": profile_id(owner) if owner is not None else None}
    return refusal(
        409, "duplicate_profile", "Conflict.", detail, pointer="/data/attributes", meta=meta
    )


def _places(call: Call, named: set[int] | None, by: str) -> Sequence[int]:
    """Profile numbers in ascending order; the index is the cursor.

    Numbers are in the order of creation. Any other order costs the whole account.
    """
    profiles = call.account.profiles
    if by in ("created", "id"):
        return profiles.numbers() if named is None else sorted(named)
    wanted = profiles.numbers() if named is None else named
    living = filter(profiles.exists, wanted)
    if by == "email":
        return sorted(living, key=lambda number: (profiles.email(number) or "", number))
    return sorted(living, key=lambda number: (profiles.times(number)[1], number))


def _from(
    numbers: Sequence[int], start: int | None, *, descending: bool
) -> Iterator[tuple[int, int]]:
    last = len(numbers) - 1
    places = (
        range(last if start is None else start, -1, -1)
        if descending
        else range(start or 0, last + 1)
    )
    return ((place, numbers[place]) for place in places)


def _is_in_time(call: Call, number: int, clauses: list[Clause]) -> bool:
    if not call.account.profiles.exists(number):
        return False
    created, updated = call.account.profiles.times(number)
    moments = {"created": created, "updated": updated}
    return all(
        clause.allows(moments[clause.field]) for clause in clauses if clause.field in moments
    )


_READ = frozenset({"profiles:read"})
_WRITE = frozenset({"profiles:write"})
_LISTS = frozenset({"profiles:read", "lists:read"})
_PREDICTIVE = {
    ("additional-fields[profile]", "predictive_analytics"): ("predictive_analytics", Tier.M)
}
_INCLUDED = {
    ("include", "lists"): ("include lists", Tier.XS),
    ("include", "segments"): ("include segments", Tier.XS),
}
_PROFILE = "/api/profiles/{id}"

ROUTES = (
    *(
        Route(
            method=method,
            template=template,
            scopes=scopes,
            tier=Tier.L,
            endpoint=endpoint,
            extra=extra,
        )
        for method, template, scopes, endpoint, extra in (
            ("GET", "/api/profiles", _READ, get_profiles, _PREDICTIVE),
            ("POST", "/api/profiles", _WRITE, create_profile, {}),
            ("GET", _PROFILE, _READ, get_profile, _PREDICTIVE | _INCLUDED),
            ("PATCH", _PROFILE, _WRITE, update_profile, {}),
            ("POST", "/api/profile-import", _WRITE, import_profile, {}),
        )
    ),
    *(
        Route(
            method="GET",
            template=f"{_PROFILE}{rest}",
            scopes=_LISTS,
            tier=Tier.S,
            endpoint=get_profile_lists,
        )
        for rest in ("/lists", "/relationships/lists")
    ),
    Route(
        method="POST",
        template="/api/data-privacy-deletion-jobs",
        scopes=frozenset({"data-privacy:write"}),
        tier=Tier.S,
        endpoint=delete_profile_data,
    ),
)
