"""Profiles: how imports merge, and the calls for single profiles."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.klaviyo import Klaviyo
from sandbox.klaviyo.testing import Clock, a_klaviyo, attributes_of, import_now

PROFILES = "/api/profiles"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def klaviyo(clock: Clock) -> Klaviyo:
    return a_klaviyo(clock)


def one(profile_id: str | None = None, meta: Any = None, **attributes: Any) -> dict[str, Any]:
    data = {"type": "profile", "attributes": attributes, "id": profile_id, "meta": meta}
    return {"data": {name: value for name, value in data.items() if value is not None}}


def find(klaviyo: Klaviyo, filter_: str) -> list[str]:
    found = klaviyo.call("GET", f"{PROFILES}?filter={filter_}").json()["data"]
    return [each["attributes"]["email"] for each in found]


def test_imports_merge_attribute_by_attribute(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"email": "a@x.com", "first_name": "A", "last_name": "B"})
    import_now(klaviyo, clock, {"email": "A@x.com", "last_name": "C"})
    assert attributes_of(klaviyo, "a@x.com") == {
        "email": "a@x.com",
        "first_name": "A",
        "last_name": "C",
    }


def test_properties_and_location_merge_key_by_key(klaviyo: Klaviyo, clock: Clock) -> None:
    first = {"properties": {"tier": "gold", "n": 1}, "location": {"city": "Ulm", "latitude": 48.4}}
    import_now(klaviyo, clock, {"email": "a@x.com", **first})
    import_now(
        klaviyo, clock, {"email": "a@x.com", "properties": {"n": 2}, "location": {"city": "Bonn"}}
    )
    known = attributes_of(klaviyo, "a@x.com")
    assert known["properties"] == {"tier": "gold", "n": 2}
    assert known["location"] == {"city": "Bonn", "latitude": 48.4}


def test_a_null_in_an_import_clears_nothing(klaviyo: Klaviyo, clock: Clock) -> None:
    given = {"email": "a@x.com", "title": "Dr", "properties": {"n": 1}, "location": {"city": "Ulm"}}
    import_now(klaviyo, clock, given)
    nulls = {
        "email": "a@x.com",
        "title": None,
        "properties": {"n": None},
        "location": None,
        "image": None,
    }
    import_now(klaviyo, clock, nulls)
    assert attributes_of(klaviyo, "a@x.com") == given


def test_patches_append_unappend_and_unset(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(
        klaviyo,
        clock,
        {"email": "a@x.com", "properties": {"skus": ["1", "2"], "old": 1, "older": 2}},
    )
    patches = {
        "append": {"skus": "3", "new": [1]},
        "unappend": {"skus": "1"},
        "unset": ["old", "older"],
    }
    profile = {
        "type": "profile",
        "attributes": {"email": "a@x.com"},
        "meta": {"patch_properties": patches},
    }
    import_now(klaviyo, clock, profile)
    assert attributes_of(klaviyo, "a@x.com")["properties"] == {"skus": ["2", "3"], "new": [1]}


def test_repeating_an_import_changes_nothing_but_repeats_appends(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    plain = {"email": "a@x.com", "properties": {"n": 1}}
    patches = {"patch_properties": {"append": {"skus": "1"}}}
    appending = {"type": "profile", "attributes": {"email": "a@x.com"}, "meta": patches}
    for _ in range(2):
        import_now(klaviyo, clock, plain)
    for _ in range(2):
        import_now(klaviyo, clock, appending)
    assert attributes_of(klaviyo, "a@x.com")["properties"] == {"n": 1, "skus": ["1", "1"]}


def test_many_imports_of_one_profile_still_add_up(klaviyo: Klaviyo, clock: Clock) -> None:
    for number in range(20):
        import_now(klaviyo, clock, {"email": "a@x.com", "properties": {f"k{number}": number}})
    assert attributes_of(klaviyo, "a@x.com")["properties"] == {f"k{n}": n for n in range(20)}


def test_without_email_a_row_is_matched_by_phone_then_external_id_then_klaviyo_id(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    import_now(
        klaviyo,
        clock,
        {"email": "a@x.com", "phone_number": "+15005550006"},
        {"email": "b@x.com", "external_id": "B"},
    )
    b_id = klaviyo.call("GET", f"{PROFILES}?filter=equals(email,'b@x.com')").json()["data"][0]["id"]
    import_now(
        klaviyo,
        clock,
        {"phone_number": "+15005550006", "external_id": "X", "title": "by phone"},
        {"external_id": "B", "title": "by external id"},
        {"type": "profile", "id": b_id, "attributes": {"first_name": "by id"}},
    )
    assert attributes_of(klaviyo, "a@x.com")["title"] == "by phone"
    assert attributes_of(klaviyo, "b@x.com")["title"] == "by external id"
    assert attributes_of(klaviyo, "b@x.com")["first_name"] == "by id"


def test_an_email_finds_its_profile_by_phone_if_that_had_none(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    import_now(klaviyo, clock, {"phone_number": "+15005550006", "title": "Dr"})
    import_now(klaviyo, clock, {"email": "a@x.com", "phone_number": "+15005550006"})
    assert klaviyo.account.profiles.count == 1
    assert attributes_of(klaviyo, "a@x.com")["title"] == "Dr"


def test_external_ids_do_not_merge_profiles(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"external_id": "C-1"}, {"email": "a@x.com", "external_id": "C-1"})
    assert klaviyo.account.profiles.count == 2


def test_indexes_follow_a_changed_identifier(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"email": "a@x.com", "external_id": "old"})
    assert find(klaviyo, "equals(external_id,'old')") == ["a@x.com"]
    import_now(
        klaviyo,
        clock,
        {"email": "a@x.com", "external_id": "new"},
        {"email": "b@x.com", "external_id": "old"},
    )
    assert find(klaviyo, "equals(external_id,'new')") == ["a@x.com"]
    assert find(klaviyo, "equals(external_id,'old')") == ["b@x.com"]


def test_profiles_are_found_by_each_identifier(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(
        klaviyo,
        clock,
        {"email": "a@x.com", "external_id": "A"},
        {"email": "b@x.com", "phone_number": "+15005550006"},
    )
    assert find(klaviyo, 'any(email,["A@x.com","b@x.com","c@x.com"])') == ["a@x.com", "b@x.com"]
    assert find(klaviyo, 'any(external_id,["A"])') == ["a@x.com"]
    assert find(klaviyo, "equals(phone_number,'%2B15005550006')") == ["b@x.com"]
    assert find(klaviyo, 'equals(email,"a@x.com"),equals(external_id,"B")') == []


def test_profiles_are_filtered_by_time_and_paged(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com")
    clock.move(100)
    import_now(klaviyo, clock, "b@x.com", "c@x.com")
    created = (
        klaviyo.call("GET", PROFILES).json()["data"][0]["attributes"]["created"].replace("+", "%2B")
    )
    assert find(klaviyo, f"greater-than(created,{created})") == ["b@x.com", "c@x.com"]
    assert find(klaviyo, f"less-than(created,{created})") == []
    page = klaviyo.call("GET", f"{PROFILES}?page[size]=2&sort=-email").json()
    rest = klaviyo.call("GET", page["links"]["next"]).json()
    assert [each["attributes"]["email"] for each in page["data"] + rest["data"]] == [
        "c@x.com",
        "b@x.com",
        "a@x.com",
    ]


@pytest.mark.parametrize(
    "query",
    [
        "filter=email",
        "filter=equals(email)",
        "filter=equals(title,'x')",
        "filter=contains(email,'x')",
        "filter=equals(email,'a')x",
        "filter=greater-than(created,yesterday)",
        "sort=title",
        "page[size]=0",
        "page[size]=101",
        "page[size]=x",
        "page[cursor]=x",
        "page[cursor]=YXQ6eA==",
    ],
)
def test_questions_that_make_no_sense_are_refused(
    klaviyo: Klaviyo, clock: Clock, query: str
) -> None:
    import_now(klaviyo, clock, "a@x.com")
    assert klaviyo.call("GET", f"{PROFILES}?{query}").status == 400


def test_twenty_profiles_are_a_page_unless_asked_otherwise(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, *[f"p{n}@x.com" for n in range(30)])
    assert len(klaviyo.call("GET", PROFILES).json()["data"]) == 20


def test_sparse_fields_leave_the_rest_out(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"email": "a@x.com", "title": "Dr"})
    [found] = klaviyo.call("GET", f"{PROFILES}?fields[profile]=email").json()["data"]
    assert found["attributes"] == {"email": "a@x.com"}


def test_a_created_profile_can_be_read_and_not_created_twice(klaviyo: Klaviyo) -> None:
    created = klaviyo.call(
        "POST", PROFILES, one(email="a@x.com", external_id="A", properties={"n": 1})
    )
    assert created.status == 201
    profile = created.json()["data"]
    assert klaviyo.call("GET", f"{PROFILES}/{profile['id']}").json()["data"] == profile
    for again in (one(email="A@X.com"), one(email="b@x.com", external_id="A")):
        conflict = klaviyo.call("POST", PROFILES, again)
        assert conflict.status == 409
        [error] = conflict.json()["errors"]
        assert (error["code"], error["meta"]["duplicate_profile_id"]) == (
            "duplicate_profile",
            profile["id"],
        )


def test_updating_a_profile_clears_with_null_and_moves_its_email(klaviyo: Klaviyo) -> None:
    body = one(email="a@x.com", title="Dr", properties={"n": 1, "m": 2})
    profile_id = klaviyo.call("POST", PROFILES, body).json()["data"]["id"]
    path = f"{PROFILES}/{profile_id}"
    changed = one(profile_id, email="b@x.com", title=None, properties={"n": None})
    assert klaviyo.call("PATCH", path, changed).status == 200
    assert attributes_of(klaviyo, "b@x.com") == {"email": "b@x.com", "properties": {"m": 2}}
    assert find(klaviyo, "equals(email,'a@x.com')") == []
    klaviyo.call("POST", PROFILES, one(email="c@x.com"))
    assert klaviyo.call("PATCH", path, one(profile_id, email="c@x.com")).status == 409
    assert klaviyo.call("PATCH", f"{PROFILES}/nobody", changed).status == 404


def test_profile_import_creates_with_201_and_updates_with_200(klaviyo: Klaviyo) -> None:
    assert (
        klaviyo.call("POST", "/api/profile-import", one(email="a@x.com", title="Dr")).status == 201
    )
    unset = {"patch_properties": {"append": {"skus": "1"}}}
    assert (
        klaviyo.call(
            "POST", "/api/profile-import", one(email="a@x.com", title=None, meta=unset)
        ).status
        == 200
    )
    assert attributes_of(klaviyo, "a@x.com") == {"email": "a@x.com", "properties": {"skus": ["1"]}}


def test_profile_import_of_two_peoples_identifiers_is_a_conflict(klaviyo: Klaviyo) -> None:
    klaviyo.call("POST", "/api/profile-import", one(email="a@x.com"))
    klaviyo.call("POST", "/api/profile-import", one(phone_number="+15005550006"))
    both = one(email="a@x.com", phone_number="+15005550006")
    assert klaviyo.call("POST", "/api/profile-import", both).status == 409


@pytest.mark.parametrize("path", [PROFILES, "/api/profile-import"])
@pytest.mark.parametrize(
    "attributes", [{}, {"email": "bad"}, {"phone_number": "1"}, {"email": "a@x.com", "x": 1}]
)
def test_single_writes_check_their_attributes(
    klaviyo: Klaviyo, path: str, attributes: dict[str, Any]
) -> None:
    assert klaviyo.call("POST", path, one(**attributes)).status == 400


def test_profile_import_takes_100_kb(klaviyo: Klaviyo) -> None:
    assert (
        klaviyo.call(
            "POST", "/api/profile-import", one(email="a@x.com", title="t" * 100_000)
        ).status
        == 413
    )


def test_a_deleted_profile_leaves_its_lists(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"email": "a@x.com", "external_id": "A"}, "b@x.com")
    wanted = {"type": "profile", "attributes": {"email": "a@x.com"}}
    body = {
        "data": {"type": "data-privacy-deletion-job", "attributes": {"profile": {"data": wanted}}}
    }
    assert klaviyo.call("POST", "/api/data-privacy-deletion-jobs", body).status == 202
    assert find(klaviyo, "any(email,['a@x.com','b@x.com'])") == ["b@x.com"]
    assert find(klaviyo, "equals(external_id,'A')") == []
    assert klaviyo.call("GET", "/_sandbox/state").json()["lists"] == {"LIST01": 1}
    wanted["attributes"] = {"email": "b@x.com", "phone_number": "+15005550006"}
    assert klaviyo.call("POST", "/api/data-privacy-deletion-jobs", body).status == 400


def test_a_profile_knows_its_lists(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com")
    [found] = klaviyo.call("GET", PROFILES).json()["data"]
    path = f"{PROFILES}/{found['id']}"
    assert klaviyo.call("GET", f"{path}?include=lists").json()["included"][0]["id"] == "LIST01"
    assert klaviyo.call("GET", f"{path}/lists").json()["data"][0]["id"] == "LIST01"
    assert klaviyo.call("GET", f"{path}/relationships/lists").json()["data"] == [
        {"type": "list", "id": "LIST01"}
    ]


people = st.fixed_dictionaries(
    {"email": st.sampled_from(["a@x.com", "A@x.com", "b@x.com", "c+async-fail@x.com"])},
    optional={
        "title": st.sampled_from(["Dr", None]),
        "external_id": st.sampled_from(["1", "2"]),
        "properties": st.dictionaries(
            st.sampled_from("kl"), st.integers(0, 3) | st.none(), max_size=2
        ),
    },
)


@given(st.lists(st.lists(people, min_size=1, max_size=4), min_size=1, max_size=5))
def test_counts_add_up_and_profiles_hold_the_last_value_of_each_field(
    jobs: list[list[dict[str, Any]]],
) -> None:
    clock = Clock()
    klaviyo = a_klaviyo(clock)
    expected: dict[str, dict[str, Any]] = {}
    for rows in jobs:
        import_now(klaviyo, clock, *rows)
        for row in rows:
            if "+async-fail" not in row["email"]:
                _merge(expected.setdefault(row["email"].lower(), {"properties": {}}), row)
    state = klaviyo.call("GET", "/_sandbox/state").json()
    assert (
        state["rows"]["accepted"]
        == state["rows"]["completed"] + state["rows"]["failed"]
        == sum(map(len, jobs))
    )
    assert state["lists"]["LIST01"] == state["profiles"] == len(expected)
    for email, known in expected.items():
        shown = attributes_of(klaviyo, email)
        assert {"properties": {}, **shown} == {**known, "email": email}


@given(st.permutations([{"email": "a@x.com", "properties": {key: 1}} for key in "klmn"]))
def test_imports_of_different_fields_merge_in_any_order(rows: list[dict[str, Any]]) -> None:
    clock = Clock()
    klaviyo = a_klaviyo(clock)
    for row in rows:
        import_now(klaviyo, clock, row)
    assert attributes_of(klaviyo, "a@x.com")["properties"] == dict.fromkeys("klmn", 1)


def _merge(known: dict[str, Any], row: dict[str, Any]) -> None:
    for name, value in row.items():
        if name == "properties":
            known["properties"] |= {key: each for key, each in value.items() if each is not None}
        elif value is not None:
            known[name] = value
