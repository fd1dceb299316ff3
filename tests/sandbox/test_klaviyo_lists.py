"""Lists and their members."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from sandbox.klaviyo import Klaviyo, digest_of
from sandbox.klaviyo.testing import Clock, a_klaviyo, import_now

MEMBERS = "/api/lists/LIST01/relationships/profiles"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def klaviyo(clock: Clock) -> Klaviyo:
    return a_klaviyo(clock)


def make_list(klaviyo: Klaviyo, **attributes: Any) -> Any:
    return klaviyo.call("POST", "/api/lists", {"data": {"type": "list", "attributes": attributes}})


def names(klaviyo: Klaviyo, query: str = "") -> list[str]:
    return [
        each["attributes"]["name"]
        for each in klaviyo.call("GET", f"/api/lists?{query}").json()["data"]
    ]


def ids_of(klaviyo: Klaviyo) -> list[str]:
    return [each["id"] for each in klaviyo.call("GET", f"{MEMBERS}?page[size]=100").json()["data"]]


def references(*ids: str) -> dict[str, Any]:
    return {"data": [{"type": "profile", "id": each} for each in ids]}


def all_of(klaviyo: Klaviyo, url: str) -> list[str]:
    return [email for page in walk(klaviyo, url) for email in page]


def walk(klaviyo: Klaviyo, url: str | None) -> list[list[str]]:
    pages = []
    while url:
        page = klaviyo.call("GET", url).json()
        pages.append([each["attributes"]["email"] for each in page["data"]])
        url = page["links"]["next"]
    return pages


def test_a_new_list_is_double_opt_in_and_can_be_read(klaviyo: Klaviyo) -> None:
    created = make_list(klaviyo, name="VIPs")
    assert created.status == 201
    known = created.json()["data"]
    assert known["attributes"]["opt_in_process"] == "double_opt_in"
    assert klaviyo.call("GET", f"/api/lists/{known['id']}").json()["data"] == known


def test_names_are_not_unique(klaviyo: Klaviyo) -> None:
    ids = {make_list(klaviyo, name="VIPs").json()["data"]["id"] for _ in range(2)}
    assert len(ids) == 2
    assert names(klaviyo, 'filter=any(name,["VIPs"])') == ["VIPs", "VIPs"]


def test_a_list_needs_a_name_and_a_known_opt_in_process(klaviyo: Klaviyo) -> None:
    for attributes in ({}, {"name": ""}, {"name": 7}, {"name": "x", "opt_in_process": "triple"}):
        assert make_list(klaviyo, **attributes).status == 400


def test_a_list_can_be_renamed_and_deleted(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com")
    body = {
        "data": {
            "type": "list",
            "id": "LIST01",
            "attributes": {"name": "New", "opt_in_process": "single_opt_in"},
        }
    }
    changed = klaviyo.call("PATCH", "/api/lists/LIST01", body).json()["data"]["attributes"]
    assert (changed["name"], changed["opt_in_process"]) == ("New", "single_opt_in")
    assert changed["updated"] > changed["created"]
    assert klaviyo.call("DELETE", "/api/lists/LIST01").status == 204
    assert klaviyo.call("GET", "/api/lists/LIST01").status == 404
    assert klaviyo.account.profiles.count == 1


def test_lists_come_ten_at_a_time_in_any_order(klaviyo: Klaviyo) -> None:
    for number in range(11):
        make_list(klaviyo, name=f"n{number:02}")
    assert len(names(klaviyo)) == 10
    assert names(klaviyo, "sort=-name&page[size]=2") == ["n10", "n09"]
    second = klaviyo.call("GET", klaviyo.call("GET", "/api/lists").json()["links"]["next"]).json()
    assert [each["attributes"]["name"] for each in second["data"]] == ["n09", "n10"]
    assert klaviyo.call("GET", "/api/lists?page[size]=11").status == 400


def test_lists_are_filtered_by_name_id_and_time(klaviyo: Klaviyo, clock: Clock) -> None:
    created = (
        klaviyo.call("GET", "/api/lists/LIST01")
        .json()["data"]["attributes"]["created"]
        .replace("+", "%2B")
    )
    clock.move(10)
    make_list(klaviyo, name='An "odd", (name)')
    assert names(klaviyo, "filter=equals(id,'LIST01')") == ["LIST01"]
    assert names(klaviyo, "filter=equals(name,['LIST01'])") == ["LIST01"]
    assert names(klaviyo, 'filter=any(name,["An \\"odd\\", (name)","x"])') == ['An "odd", (name)']
    assert names(klaviyo, f"filter=greater-than(created,{created})") == ['An "odd", (name)']


def test_the_profile_count_is_shown_only_when_asked_for(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com", "b@x.com")
    assert (
        "profile_count" not in klaviyo.call("GET", "/api/lists/LIST01").json()["data"]["attributes"]
    )
    counted = klaviyo.call("GET", "/api/lists/LIST01?additional-fields[list]=profile_count").json()
    assert counted["data"]["attributes"]["profile_count"] == 2


def test_flow_triggers_are_shown_and_included(klaviyo: Klaviyo) -> None:
    assert klaviyo.call("GET", "/api/lists/LIST01/flow-triggers").json()["data"] == []
    klaviyo.call(
        "POST", "/_sandbox/lists", {"id": "LIST02", "flows": [{"id": "F1", "name": "Welcome"}]}
    )
    [flow] = klaviyo.call("GET", "/api/lists/LIST02/flow-triggers").json()["data"]
    assert (flow["id"], flow["attributes"]["name"]) == ("F1", "Welcome")
    reference = [{"type": "flow", "id": "F1"}]
    assert (
        klaviyo.call("GET", "/api/lists/LIST02/relationships/flow-triggers").json()["data"]
        == reference
    )
    for path in ("/api/lists/LIST02", "/api/lists"):
        assert klaviyo.call("GET", f"{path}?include=flow-triggers").json()["included"] == [flow]


def test_members_come_in_pages_of_20_and_at_most_100(klaviyo: Klaviyo, clock: Clock) -> None:
    emails = [f"p{number:03}@x.com" for number in range(230)]
    import_now(klaviyo, clock, *emails)
    path = "/api/lists/LIST01/profiles"
    pages = walk(klaviyo, f"{path}?page[size]=100")
    assert list(map(len, pages)) == [100, 100, 30]
    assert list(chain.from_iterable(pages)) == emails
    assert len(klaviyo.call("GET", path).json()["data"]) == 20
    assert klaviyo.call("GET", f"{path}?page[size]=101").status == 400
    assert all_of(klaviyo, f"{path}?page[size]=100&sort=-joined_group_at") == emails[::-1]


def test_a_walk_survives_members_leaving_and_joining(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, *[f"p{number}@x.com" for number in range(6)])
    first = klaviyo.call("GET", "/api/lists/LIST01/profiles?page[size]=2").json()
    klaviyo.call("DELETE", MEMBERS, references(*ids_of(klaviyo)[1:3]))
    import_now(klaviyo, clock, "late@x.com")
    rest = walk(klaviyo, first["links"]["next"])
    assert rest == [["p3@x.com", "p4@x.com"], ["p5@x.com", "late@x.com"]]


def test_members_are_filtered_by_identity_and_time(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com", "b@x.com")
    import_now(klaviyo, clock, "c@x.com")
    joined = klaviyo.call("GET", "/api/lists/LIST01/profiles").json()["data"][0]["attributes"][
        "joined_group_at"
    ]

    def found(filter_: str, sort: str = "joined_group_at") -> list[str]:
        return all_of(
            klaviyo, f"/api/lists/LIST01/profiles?filter={filter_}&sort={sort}&page[size]=1"
        )

    assert found('any(email,["C@x.com","a@x.com","d@x.com"])') == ["a@x.com", "c@x.com"]
    assert found('any(email,["c@x.com","a@x.com"])', "-joined_group_at") == ["c@x.com", "a@x.com"]
    moment = joined.replace("+", "%2B")
    assert found(f"greater-than(joined_group_at,{moment})") == ["c@x.com"]
    assert found(f"less-or-equal(joined_group_at,{moment}),equals(email,'a@x.com')") == ["a@x.com"]


def test_members_are_added_and_removed_by_id(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com", "b@x.com")
    a, b = ids_of(klaviyo)
    assert klaviyo.call("DELETE", MEMBERS, references(a)).status == 204
    assert ids_of(klaviyo) == [b]
    assert klaviyo.call("POST", MEMBERS, references(a, b)).status == 204
    assert ids_of(klaviyo) == [b, a]
    assert klaviyo.account.profiles.count == 2


def test_unknown_members_are_ignored_or_refused(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com")
    unknown = references("01K" + "9" * 23, *ids_of(klaviyo))
    assert klaviyo.call("DELETE", MEMBERS, unknown).status == 204
    assert ids_of(klaviyo) == []
    klaviyo.settings.unknown_members = "404"
    assert klaviyo.call("POST", MEMBERS, unknown).status == 404


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_one_to_a_thousand_members_go_into_a_call(klaviyo: Klaviyo, method: str) -> None:
    for body in (references(), references(*["x"] * 1_001), {}, {"data": ["x"]}):
        assert klaviyo.call(method, MEMBERS, body).status == 400
    assert klaviyo.call(method, MEMBERS, references(*["x"] * 1_000)).status == 204
    assert (
        klaviyo.call(method, "/api/lists/none/relationships/profiles", references("x")).status
        == 404
    )


def test_a_digest_tells_lists_with_the_same_content_apart_from_others(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    import_now(
        klaviyo,
        clock,
        {"email": "B@x.com", "properties": {"b": 1, "a": None}},
        {"email": "a@x.com"},
    )
    shown = klaviyo.call("GET", "/_sandbox/lists/LIST01/digest").json()
    rows: list[Any] = [
        ("a@x.com", {"title": None, "location": {}}),
        ("b@x.com", {"properties": {"b": 1}}),
    ]
    assert shown == digest_of(rows) == digest_of(reversed(rows))
    assert shown["members"] == 2
    assert shown != digest_of(
        [("a@x.com", {"title": None, "location": {}}), ("b@x.com", {"properties": {"b": 2}})]
    )
    assert klaviyo.call("GET", "/_sandbox/lists/none/digest").status == 404
