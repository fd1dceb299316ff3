"""/api/lists and /api/accounts"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sandbox.klaviyo import resources
from sandbox.klaviyo.account import ACCOUNT_ID
from sandbox.klaviyo.batches import read_json, read_resource
from sandbox.klaviyo.calls import Call, Route
from sandbox.klaviyo.limits import Tier
from sandbox.klaviyo.lists import Members, ProfileList
from sandbox.klaviyo.messages import Response, answer, empty, invalid, not_found
from sandbox.klaviyo.queries import (
    Clause,
    links,
    names,
    numbers_named,
    read_filter,
    read_page,
    read_sort,
)

MAX_MEMBERS_PER_CALL = 1_000
OPT_IN = ("double_opt_in", "single_opt_in")


def get_accounts(call: Call) -> Response:
    data = [call.sparse(resources.account(call.base_url))]
    return answer({"data": data, "links": links(call.request, None)})


def get_account(call: Call) -> Response:
    if call.params["id"] != ACCOUNT_ID:
        raise not_found("account", call.params["id"])
    made = call.sparse(resources.account(call.base_url))
    return answer({"data": made, "links": made["links"]})


def get_lists(call: Call) -> Response:
    clauses = read_filter(call.request, call.documented.operators)
    field, descending = read_sort(call.request, "created", "id", "name", "updated")
    found = [
        each for each in call.account.lists if all(_matches(each, clause) for clause in clauses)
    ]
    found.sort(key=lambda each: getattr(each, field), reverse=descending)
    page = read_page(call.request, call.documented)
    start = page.start or 0
    cut, following = page.take(enumerate(found[start:], start))
    with_flows = _with_flows(call)
    document: dict[str, Any] = {
        "data": [
            call.sparse(resources.profile_list(each, call.base_url, with_flows=with_flows))
            for each in cut
        ],
        "links": links(call.request, following),
    }
    return answer(_including_flows(call, document, cut) if with_flows else document)


def create_list(call: Call) -> Response:
    attributes = _list_attributes(call, required=True)
    made = call.account.lists.create(attributes["name"], now=call.now)
    made.opt_in_process = attributes.get("opt_in_process") or made.opt_in_process
    return _one(call, made, status=201)


def get_list(call: Call) -> Response:
    return _one(call, _list(call))


def update_list(call: Call) -> Response:
    known = _list(call)
    attributes = _list_attributes(call, required=False)
    known.name = attributes.get("name") or known.name
    known.opt_in_process = attributes.get("opt_in_process") or known.opt_in_process
    known.updated = call.now
    return _one(call, known)


def delete_list(call: Call) -> Response:
    call.account.lists.delete(_list(call).id)
    return empty(204)


def get_list_profiles(call: Call) -> Response:
    members = _list(call).members
    found, following = _members_page(call, members)
    data = [
        call.sparse(
            resources.profile(
                call.account, number, call.base_url, joined_at=members.joined_at(place)
            )
        )
        for place, number in found
    ]
    return answer({"data": data, "links": links(call.request, following)})


def get_list_profile_ids(call: Call) -> Response:
    found, following = _members_page(call, _list(call).members)
    data = [resources.profile_reference(number) for _, number in found]
    return answer({"data": data, "links": links(call.request, following)})


def add_members(call: Call) -> Response:
    known = _list(call)
    known.members.add(_numbers(call), call.now)
    return empty(204)


def remove_members(call: Call) -> Response:
    known = _list(call)
    known.members.discard(_numbers(call))
    return empty(204)


def get_flow_triggers(call: Call) -> Response:
    data = [call.sparse(resources.flow(each, call.base_url)) for each in _list(call).flows]
    return answer({"data": data, "links": links(call.request, None)})


def get_flow_trigger_ids(call: Call) -> Response:
    data = [{"type": "flow", "id": each["id"]} for each in _list(call).flows]
    return answer({"data": data, "links": links(call.request, None)})


def _list(call: Call) -> ProfileList:
    found = call.account.lists.get(call.params["id"])
    if found is None:
        raise not_found("list", call.params["id"])
    return found


def _one(call: Call, known: ProfileList, status: int = 200) -> Response:
    with_count = bool(names(call.request, "additional-fields[list]"))
    with_flows = _with_flows(call)
    made = resources.profile_list(
        known, call.base_url, with_count=with_count, with_flows=with_flows
    )
    document = {"data": call.sparse(made), "links": made["links"]}
    return answer(_including_flows(call, document, [known]) if with_flows else document, status)


def _with_flows(call: Call) -> bool:
    return "flow-triggers" in names(call.request, "include")


def _including_flows(
    call: Call, document: dict[str, Any], lists: list[ProfileList]
) -> dict[str, Any]:
    flows = {flow["id"]: flow for known in lists for flow in known.flows}
    included = [call.sparse(resources.flow(each, call.base_url)) for each in flows.values()]
    return document | {"included": included}


def _matches(known: ProfileList, clause: Clause) -> bool:
    value = getattr(known, clause.field)
    return clause.allows(value) if clause.operator == "greater-than" else value in clause.values


def _list_attributes(call: Call, *, required: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = read_resource(call.body, "list")["attributes"]
    name = attributes.get("name")
    if not (isinstance(name, str) and name) and (required or name is not None):
        raise invalid("A list needs a name.", pointer="/data/attributes/name")
    if attributes.get("opt_in_process") not in (None, *OPT_IN):
        raise invalid(f"One of {', '.join(OPT_IN)}.", pointer="/data/attributes/opt_in_process")
    return attributes


def _members_page(call: Call, members: Members) -> tuple[list[tuple[int, int]], int | None]:
    """(place, number) of the members on the page asked for, and the place of the next page."""
    clauses = read_filter(call.request, call.documented.operators)
    _, newest_first = read_sort(call.request, "joined_group_at")
    page = read_page(call.request, call.documented)
    times = [clause for clause in clauses if clause.field == "joined_group_at"]
    named = numbers_named(call.account.profiles, clauses)
    if named is None:
        walk = members.walk(page.start, backwards=newest_first)
    else:
        walk = iter(_placed(members, named, page.start, newest_first=newest_first))
    if times:
        walk = (
            each
            for each in walk
            if all(clause.allows(members.joined_at(each[0])) for clause in times)
        )
    return page.take((each[0], each) for each in walk)


def _placed(
    members: Members, numbers: Iterable[int], start: int | None, *, newest_first: bool
) -> list[tuple[int, int]]:
    """(place, number) of those that are members, in order of joining, from `start` on."""
    places = ((members.place_of(number), number) for number in numbers)
    placed = sorted((each for each in places if each[0] is not None), reverse=newest_first)
    return [
        (place, number)
        for place, number in placed
        if place is not None
        and (start is None or (place <= start if newest_first else place >= start))
    ]


def _numbers(call: Call) -> list[int]:
    """The profiles that a relationship body names."""
    data = read_json(call.body).get("data")
    if not isinstance(data, list) or not 0 < len(data) <= MAX_MEMBERS_PER_CALL:
        raise invalid(f"Between 1 and {MAX_MEMBERS_PER_CALL} profiles are needed.", pointer="/data")
    numbers = []
    for place, item in enumerate(data):
        if (
            not isinstance(item, dict)
            or item.get("type") != "profile"
            or not isinstance(item.get("id"), str)
        ):
            raise invalid("A profile has a type and an id.", pointer=f"/data/{place}")
        number = call.account.profiles.number_of(item["id"])
        if number is not None:
            numbers.append(number)
        elif call.settings.unknown_members == "404":
            raise not_found("profile", item["id"])
    return numbers


_READ = frozenset({"lists:read"})
_WRITE = frozenset({"lists:write"})
_READ_MEMBERS = frozenset({"lists:read", "profiles:read"})
_WRITE_MEMBERS = frozenset({"lists:write", "profiles:write"})
_FLOWS = frozenset({"lists:read", "flows:read"})
_ACCOUNT = frozenset({"accounts:read"})
_COUNT = {("additional-fields[list]", "profile_count"): ("profile_count", Tier.XS)}
_PREDICTIVE = {
    ("additional-fields[profile]", "predictive_analytics"): ("predictive_analytics", Tier.M)
}
_LIST = "/api/lists/{id}"

ROUTES = (
    Route(
        method="GET", template="/api/accounts", scopes=_ACCOUNT, tier=Tier.XS, endpoint=get_accounts
    ),
    Route(
        method="GET",
        template="/api/accounts/{id}",
        scopes=_ACCOUNT,
        tier=Tier.XS,
        endpoint=get_account,
    ),
    Route(method="GET", template="/api/lists", scopes=_READ, tier=Tier.L, endpoint=get_lists),
    Route(
        method="POST",
        template="/api/lists",
        scopes=_WRITE,
        tier=Tier.M,
        endpoint=create_list,
        daily=150,
    ),
    Route(method="GET", template=_LIST, scopes=_READ, tier=Tier.L, endpoint=get_list, extra=_COUNT),
    Route(method="PATCH", template=_LIST, scopes=_WRITE, tier=Tier.M, endpoint=update_list),
    Route(method="DELETE", template=_LIST, scopes=_WRITE, tier=Tier.M, endpoint=delete_list),
    Route(
        method="GET",
        template=f"{_LIST}/profiles",
        scopes=_READ_MEMBERS,
        tier=Tier.L,
        endpoint=get_list_profiles,
        extra=_PREDICTIVE,
    ),
    *(
        Route(
            method=method,
            template=f"{_LIST}/relationships/profiles",
            scopes=scopes,
            tier=tier,
            endpoint=endpoint,
        )
        for method, scopes, tier, endpoint in (
            ("GET", _READ_MEMBERS, Tier.L, get_list_profile_ids),
            ("POST", _WRITE_MEMBERS, Tier.M, add_members),
            ("DELETE", _WRITE_MEMBERS, Tier.M, remove_members),
        )
    ),
    Route(
        method="GET",
        template=f"{_LIST}/flow-triggers",
        scopes=_FLOWS,
        tier=Tier.S,
        endpoint=get_flow_triggers,
    ),
    Route(
        method="GET",
        template=f"{_LIST}/relationships/flow-triggers",
        scopes=_FLOWS,
        tier=Tier.S,
        endpoint=get_flow_trigger_ids,
    ),
)
