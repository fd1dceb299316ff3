"""Query parameters: what the official document has is understood, everything else is a 400."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from openapi_client.api.accounts_api import AccountsApi
from openapi_client.api.lists_api import ListsApi
from openapi_client.api.profiles_api import ProfilesApi

from sandbox.klaviyo import Klaviyo
from sandbox.klaviyo.documented import cut_out, parameters
from sandbox.klaviyo.testing import JOBS, Clock, a_klaviyo, import_now

FIELDS = [
    ("/api/accounts", "account", "timezone,locale"),
    ("/api/accounts/SANDBX", "account", "test_account"),
    ("/api/lists", "list", "name"),
    ("/api/lists/LIST01", "list", "created,updated"),
    ("/api/lists/LIST01/flow-triggers", "flow", "status"),
    ("/api/lists/LIST01/profiles", "profile", "joined_group_at,email"),
    ("/api/profiles", "profile", "email"),
    (JOBS, "profile-bulk-import-job", "status,total_count"),
    (f"{JOBS}/JOB", "profile-bulk-import-job", "failed_count"),
    (f"{JOBS}/JOB/import-errors", "import-error", "detail,source"),
    (f"{JOBS}/JOB/profiles", "profile", "email,created"),
    (f"{JOBS}/JOB/lists", "list", "name"),
]
CLIENTS: dict[str, Any] = {"Accounts": AccountsApi, "Lists": ListsApi, "Profiles": ProfilesApi}
NO_PARAMETERS = {"self", "id", "job_id", "options"}
SDK_CALLS = {
    "GET /api/accounts": ("Accounts", "get_accounts"),
    "GET /api/lists": ("Lists", "get_lists"),
    "GET /api/lists/{id}": ("Lists", "get_list"),
    "GET /api/lists/{id}/profiles": ("Lists", "get_profiles_for_list"),
    "GET /api/lists/{id}/relationships/profiles": ("Lists", "get_profile_ids_for_list"),
    "GET /api/profiles": ("Profiles", "get_profiles"),
    "GET /api/profiles/{id}": ("Profiles", "get_profile"),
    f"GET {JOBS}": ("Profiles", "get_bulk_import_profiles_jobs"),
    f"GET {JOBS}/{{id}}": ("Profiles", "get_bulk_import_profiles_job"),
    f"GET {JOBS}/{{id}}/import-errors": ("Profiles", "get_errors_for_bulk_import_profiles_job"),
    f"GET {JOBS}/{{id}}/profiles": ("Profiles", "get_profiles_for_bulk_import_profiles_job"),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def klaviyo(clock: Clock) -> Klaviyo:
    klaviyo = a_klaviyo(clock)
    klaviyo.call("POST", "/_sandbox/lists", {"id": "LIST01", "flows": [{"id": "F1", "name": "Hi"}]})
    return klaviyo


def refused(klaviyo: Klaviyo, target: str) -> str:
    """The parameter that a 400 is about."""
    response = klaviyo.call("GET", target)
    assert response.status == 400, response.body
    [error] = response.json()["errors"]
    assert error["code"] == "invalid"
    return error["source"]["parameter"]


def emails(klaviyo: Klaviyo, query: str) -> list[str]:
    response = klaviyo.call("GET", f"/api/profiles?{query}")
    assert response.status == 200, response.body
    return [each["attributes"]["email"] for each in response.json()["data"]]


@pytest.mark.parametrize(("path", "resource", "asked"), FIELDS)
def test_fields_leave_out_the_rest(
    klaviyo: Klaviyo, clock: Clock, path: str, resource: str, asked: str
) -> None:
    job = import_now(klaviyo, clock, "a@x.com", "b+async-fail@x.com")
    response = klaviyo.call("GET", f"{path.replace('JOB', job)}?fields[{resource}]={asked}")
    assert response.status == 200, response.body
    data = response.json()["data"]
    for each in data if isinstance(data, list) else [data]:
        assert each["attributes"].keys() == set(asked.split(","))


def test_fields_reach_into_objects(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"email": "a@x.com", "location": {"city": "Köln", "zip": "50667"}})
    asked = "location.city,id"
    [profile] = klaviyo.call("GET", f"/api/profiles?fields[profile]={asked}").json()["data"]
    assert profile["attributes"] == {"location": {"city": "Köln"}}
    asked = "contact_information.street_address.country"
    [account] = klaviyo.call("GET", f"/api/accounts?fields[account]={asked}").json()["data"]
    contact = {"street_address": {"country": "Germany"}}
    assert account["attributes"] == {"contact_information": contact}


def test_fields_shape_what_is_included(klaviyo: Klaviyo, clock: Clock) -> None:
    job = import_now(klaviyo, clock, "a@x.com")
    query = "include=flow-triggers&fields[flow]=name"
    [flow] = klaviyo.call("GET", f"/api/lists/LIST01?{query}").json()["included"]
    assert flow["attributes"] == {"name": "Hi"}
    [known] = klaviyo.call("GET", f"{JOBS}/{job}?include=lists&fields[list]=name").json()[
        "included"
    ]
    assert known["attributes"].keys() == {"name"}


@pytest.mark.parametrize(("path", "resource", "_"), FIELDS)
def test_unknown_fields_are_refused(
    klaviyo: Klaviyo, clock: Clock, path: str, resource: str, _: str
) -> None:
    path = path.replace("JOB", import_now(klaviyo, clock, "a@x.com"))
    parameter = f"fields[{resource}]"
    assert refused(klaviyo, f"{path}?{parameter}=nickname") == parameter


@pytest.mark.parametrize(
    ("target", "parameter"),
    [
        ("/api/lists?include=profiles", "include"),
        ("/api/lists/LIST01?include=flow-triggers,members", "include"),
        ("/api/profiles?include=lists", "include"),
        (f"{JOBS}?include=lists", "include"),
        ("/api/lists/LIST01?additional-fields[list]=count", "additional-fields[list]"),
        ("/api/lists?additional-fields[list]=profile_count", "additional-fields[list]"),
        ("/api/lists?limit=5", "limit"),
        ("/api/lists?fields[profile]=email", "fields[profile]"),
        ("/api/accounts?page[size]=1", "page[size]"),
        ("/api/accounts?filter=equals(id,'x')", "filter"),
        ("/api/lists?sort=profile_count", "sort"),
        ("/api/profiles?sort=joined_group_at", "sort"),
        ("/api/lists/LIST01/relationships/profiles?fields[profile]=email", "fields[profile]"),
        ("/api/lists?page[size]=11", "page[size]"),
    ],
)
def test_what_is_not_documented_is_refused(klaviyo: Klaviyo, target: str, parameter: str) -> None:
    assert refused(klaviyo, target) == parameter


def test_what_is_documented_and_not_here_says_so(klaviyo: Klaviyo) -> None:
    suppressed = 'filter=equals(subscriptions.email.marketing.suppression.reason,"HARD_BOUNCE")'
    assert klaviyo.call("GET", f"/api/profiles?{suppressed}").status == 501


def test_profiles_are_sorted_by_their_last_change(klaviyo: Klaviyo, clock: Clock) -> None:
    for email in ("a@x.com", "b@x.com", "c@x.com"):
        import_now(klaviyo, clock, email)
    import_now(klaviyo, clock, {"email": "b@x.com", "title": "Dr"})
    assert emails(klaviyo, "sort=updated") == ["a@x.com", "c@x.com", "b@x.com"]
    assert emails(klaviyo, "sort=-updated") == ["b@x.com", "c@x.com", "a@x.com"]
    first = klaviyo.call("GET", "/api/profiles?sort=-updated&page[size]=2").json()
    rest = klaviyo.call("GET", first["links"]["next"]).json()
    assert [each["attributes"]["email"] for each in rest["data"]] == ["a@x.com"]


def test_and_joins_comparisons_as_commas_do(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, "a@x.com")
    since = "2026-09-21T00:00:00Z"
    import_now(klaviyo, clock, "b@x.com")
    both = 'any(email,["a@x.com","b@x.com"])'
    assert emails(klaviyo, f"filter=and({both},greater-than(created,{since}))") == [
        "a@x.com",
        "b@x.com",
    ]
    only = 'equals(email,"a@x.com")'
    assert emails(klaviyo, f"filter=and({both},{only})") == ["a@x.com"]
    assert emails(klaviyo, f"filter=and(and({both},{only}),less-than(created,2099-01-01))") == [
        "a@x.com"
    ]
    assert emails(klaviyo, f"filter={both},{only}") == ["a@x.com"]


@pytest.mark.parametrize(
    "text",
    [
        'and(equals(email,"a@x.com"))',
        'and(equals(email,"a@x.com"),)',
        'and(equals(email,"a@x.com"),equals(email,"b@x.com")',
        'or(equals(email,"a@x.com"),equals(email,"b@x.com"))',
        'not(equals(email,"a@x.com"))',
        'greater-than(created,"2026-01-01T00:00:00Z")',
        "less-than(updated,'2026-01-01')",
        "greater-than(created,1790000000)",
        "equals(email,a@x.com)",
        "any(email,[a@x.com])",
        "any(email,[])",
        'greater-than(email,"a")',
        'equals(created,"2026-01-01")',
    ],
)
def test_filters_that_are_not_klaviyos_are_refused(klaviyo: Klaviyo, text: str) -> None:
    assert refused(klaviyo, f"/api/profiles?filter={text}") == "filter"


@pytest.mark.parametrize(("endpoint", "call"), SDK_CALLS.items())
def test_klaviyos_own_package_knows_the_same_parameters(
    endpoint: str, call: tuple[str, str]
) -> None:
    function = getattr(CLIENTS[call[0]], call[1])
    theirs = {
        name
        for name in inspect.signature(function).parameters
        if not name.startswith("_") and name not in NO_PARAMETERS
    }
    ours = {re.sub(r"[^a-z]+", "_", name).strip("_") for name in parameters()[endpoint].names()}
    assert ours == theirs


def test_the_table_is_cut_out_of_the_official_document() -> None:
    fields: dict[str, Any] = {
        "name": "fields[list]",
        "schema": {"type": "array", "items": {"enum": ["name", "id"]}},
    }
    size = {
        "name": "page[size]",
        "schema": {"type": "integer", "default": 10, "minimum": 1, "maximum": 10},
    }
    words = "Allowed:<br>`name`: `any`, `equals`<br>`created`: `greater-than`"
    filtered = {"name": "filter", "schema": {"type": "string"}, "description": words}
    paths = {"/api/lists": {"get": {"parameters": [fields, size, filtered]}}, "/api/tags": {}}
    table = cut_out({"info": {"version": "2026-07-15"}, "paths": paths})
    assert table["sets"] == {"list": ["name", "id"]}
    assert table["endpoints"] == {
        "GET /api/lists": {
            "choices": {"fields[list]": "list"},
            "operators": {"name": ["any", "equals"], "created": ["greater-than"]},
            "page": [10, 1, 10],
        }
    }
