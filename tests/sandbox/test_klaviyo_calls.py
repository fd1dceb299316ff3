"""What happens to a call before its endpoint: keys, revisions, routes, bodies, limits."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest

from sandbox.klaviyo import READONLY_KEY, Klaviyo, Settings
from sandbox.klaviyo.testing import JOBS, Clock, a_klaviyo, job_body


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def klaviyo(clock: Clock) -> Klaviyo:
    return a_klaviyo(clock)


@pytest.fixture
def limited(clock: Clock) -> Klaviyo:
    return a_klaviyo(clock, limits=True)


def error_of(response: Any) -> dict[str, Any]:
    [error] = response.json()["errors"]
    assert {"id", "code", "title", "detail", "status", "source"} <= error.keys()
    assert error["status"] == response.status
    return error


def test_missing_and_unknown_keys_are_refused_with_401(klaviyo: Klaviyo) -> None:
    assert klaviyo.call("GET", "/api/accounts", key="pk_unknown").status == 401
    bearer = klaviyo.call(
        "GET", "/api/accounts", headers={"Authorization": "Bearer pk_sandbox_full"}
    )
    assert error_of(bearer)["code"] == "not_authenticated"


def test_a_refused_key_answers_400_when_switched(clock: Clock) -> None:
    assert (
        a_klaviyo(clock, refused_key_status=400).call("GET", "/api/accounts", key="pk_x").status
        == 400
    )


def test_a_key_without_the_scope_is_refused_with_json_403(klaviyo: Klaviyo) -> None:
    assert klaviyo.call("GET", "/api/lists", key=READONLY_KEY).status == 200
    refused = klaviyo.call("POST", JOBS, job_body(["a@example.com"]), key=READONLY_KEY)
    assert refused.status == 403
    assert error_of(refused)["code"] == "permission_denied"
    assert "lists:write, profiles:write" in error_of(refused)["detail"]


def test_keys_can_be_added_and_revoked_while_running(klaviyo: Klaviyo) -> None:
    changes = {"keys": {"pk_new": ["accounts:read"]}, "revoke": ["pk_sandbox_full"]}
    assert klaviyo.call("POST", "/_sandbox/settings", changes).status == 200
    assert klaviyo.call("GET", "/api/accounts").status == 401
    assert klaviyo.call("GET", "/api/accounts", key="pk_new").status == 200
    assert klaviyo.call("GET", "/api/lists", key="pk_new").status == 403


@pytest.mark.parametrize(
    ("revision", "status"),
    [
        ("2026-10-15", 200),
        ("2025-01-15", 200),
        ("2024-10-15", 200),
        ("2026-10-16", 400),
        ("", 400),
        ("new", 400),
    ],
)
def test_only_known_revisions_are_served(klaviyo: Klaviyo, revision: str, status: int) -> None:
    response = klaviyo.call("GET", "/api/lists", revision=revision)
    assert response.status == status
    if status != 200:
        error_of(response)


def test_unknown_paths_are_404_and_wrong_methods_405(klaviyo: Klaviyo) -> None:
    assert error_of(klaviyo.call("GET", "/api/nothing"))["code"] == "not_found"
    refused = klaviyo.call("DELETE", "/api/accounts")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET")


def test_a_trailing_slash_is_tolerated(klaviyo: Klaviyo) -> None:
    assert klaviyo.call("GET", "/api/lists/LIST01/").status == 200


def test_media_type_and_encoding_must_be_known(klaviyo: Klaviyo) -> None:
    body = job_body(["a@example.com"])
    assert klaviyo.call("POST", JOBS, body, headers={"Content-Type": "text/plain"}).status == 415
    assert klaviyo.call("POST", JOBS, body, headers={"Content-Encoding": "br"}).status == 415
    assert (
        klaviyo.call(
            "POST", JOBS, body, headers={"Content-Type": "application/json; charset=utf-8"}
        ).status
        == 202
    )


def test_malformed_bodies_are_refused_with_400(klaviyo: Klaviyo) -> None:
    for body in (
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"data":[]}',
        b'{"data":{"type":"list","attributes":{}}}',
    ):
        assert klaviyo.call("POST", JOBS, body).status == 400, body


def test_five_million_bytes_pass_and_one_more_is_413(klaviyo: Klaviyo) -> None:
    body = orjson.dumps(job_body(["a@example.com"]))
    padded = body + b" " * (5_000_000 - len(body))
    assert klaviyo.call("POST", JOBS, padded).status == 202
    assert error_of(klaviyo.call("POST", JOBS, padded + b" "))["status"] == 413


def test_gzip_bodies_are_measured_decompressed(klaviyo: Klaviyo) -> None:
    body = orjson.dumps(job_body(["a@example.com"]))
    headers = {"Content-Encoding": "gzip"}
    assert klaviyo.call("POST", JOBS, gzip.compress(body), headers=headers).status == 202
    padded = body + b" " * (5_000_001 - len(body))
    assert klaviyo.call("POST", JOBS, gzip.compress(padded), headers=headers).status == 413
    assert klaviyo.call("POST", JOBS, gzip.compress(body)[:-9], headers=headers).status == 400
    assert klaviyo.call("POST", JOBS, body, headers=headers).status == 400


def test_gzip_can_be_switched_off(clock: Clock) -> None:
    klaviyo = a_klaviyo(clock, gzip_bodies=False)
    body = gzip.compress(orjson.dumps(job_body(["a@example.com"])))
    assert klaviyo.call("POST", JOBS, body, headers={"Content-Encoding": "gzip"}).status == 415


def test_an_overlong_url_is_refused_without_json(klaviyo: Klaviyo) -> None:
    response = klaviyo.call("GET", "/api/profiles?filter=" + "x" * 8_190)
    assert (response.status, response.headers["Content-Type"]) == (414, "text/html")


def test_an_eleventh_job_in_a_second_is_throttled(limited: Klaviyo, clock: Clock) -> None:
    statuses = [limited.call("POST", JOBS, job_body(["a@example.com"])).status for _ in range(11)]
    assert statuses == [202] * 10 + [429]
    clock.move(1)
    assert limited.call("POST", JOBS, job_body(["a@example.com"])).status == 202


def test_a_throttled_answer_carries_retry_after_and_no_rate_limit_headers(limited: Klaviyo) -> None:
    limited.call("GET", "/api/accounts")
    throttled = limited.call("GET", "/api/accounts")
    assert throttled.headers["Retry-After"] == "1"
    assert not [name for name in throttled.headers if name.startswith("RateLimit")]
    assert error_of(throttled)["code"] == "throttled"
    assert error_of(throttled)["detail"] == "Request was throttled. Expected available in 1 second."


def test_headers_tell_about_the_steady_window(limited: Klaviyo, clock: Clock) -> None:
    limited.call("GET", "/api/lists")
    clock.move(10)
    headers = limited.call("GET", "/api/lists").headers
    shown = [headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")]
    assert shown == ["750", "748", "50"]


def test_refusals_carry_the_headers_too(limited: Klaviyo) -> None:
    assert limited.call("GET", "/api/lists/nothing").headers["RateLimit-Remaining"] == "749"


def test_the_steady_window_closes_after_its_number(limited: Klaviyo, clock: Clock) -> None:
    for _ in range(15):
        assert limited.call("GET", "/api/accounts").status == 200
        clock.move(1)
    throttled = limited.call("GET", "/api/accounts")
    assert (throttled.status, throttled.headers["Retry-After"]) == (429, "45")
    clock.move(45)
    assert limited.call("GET", "/api/accounts").status == 200


def test_retrying_before_retry_after_is_throttled_even_when_the_window_has_ended(
    limited: Klaviyo, clock: Clock
) -> None:
    limited.call("GET", "/api/accounts")
    clock.move(0.75)
    assert limited.call("GET", "/api/accounts").headers["Retry-After"] == "1"
    clock.move(0.5)
    assert limited.call("GET", "/api/accounts").headers["Retry-After"] == "1"
    clock.move(0.5)
    assert limited.call("GET", "/api/accounts").status == 200


def test_each_endpoint_counts_for_itself(limited: Klaviyo) -> None:
    assert limited.call("GET", "/api/accounts").status == 200
    assert limited.call("GET", "/api/accounts/SANDBX").status == 200


def test_all_lists_share_the_counter_of_their_endpoint(limited: Klaviyo) -> None:
    for _ in range(75):
        limited.call("GET", "/api/lists/one")
    assert limited.call("GET", "/api/lists/another").status == 429


def test_the_profile_count_has_a_stricter_counter_of_its_own(limited: Klaviyo) -> None:
    counted = "/api/lists/LIST01?additional-fields[list]=profile_count"
    assert limited.call("GET", counted).status == 200
    assert limited.call("GET", counted).status == 429
    assert limited.call("GET", "/api/lists/LIST01").headers["RateLimit-Remaining"] == "748"


def test_only_150_lists_can_be_made_in_a_day(limited: Klaviyo, clock: Clock) -> None:
    body = {"data": {"type": "list", "attributes": {"name": "x"}}}
    for _ in range(150):
        assert limited.call("POST", "/api/lists", body).status == 201
        clock.move(1)
    throttled = limited.call("POST", "/api/lists", body)
    assert (throttled.status, throttled.headers["Retry-After"]) == (429, str(86_400 - 150))


def test_refused_keys_use_up_no_quota(limited: Klaviyo) -> None:
    limited.call("GET", "/api/accounts", key="pk_wrong")
    assert limited.call("GET", "/api/accounts").status == 200


def test_the_lower_documented_limit_of_tier_l_is_a_switch(clock: Clock) -> None:
    klaviyo = a_klaviyo(clock, limits=True, l_steady=700)
    assert klaviyo.call("GET", "/api/lists").headers["RateLimit-Limit"] == "700"


def test_settings_are_changed_together_or_not_at_all(klaviyo: Klaviyo) -> None:
    refused = klaviyo.call("POST", "/_sandbox/settings", {"job_seconds": 9, "bad_rows": "some"})
    assert refused.status == 400
    assert klaviyo.settings.job_seconds == Settings().job_seconds
    changed = klaviyo.call(
        "POST", "/_sandbox/settings", {"job_seconds": 9, "async_checks": ["email"]}
    ).json()
    assert (changed["job_seconds"], changed["async_checks"]) == (9.0, ["email"])
    assert klaviyo.call("POST", "/_sandbox/settings", {"nonsense": 1}).status == 400


def test_the_state_counts_requests_and_answers(limited: Klaviyo) -> None:
    for _ in range(2):
        limited.call("GET", "/api/accounts")
    limited.call("POST", JOBS, job_body(["a@example.com", "b@example.com"]))
    state = limited.call("GET", "/_sandbox/state").json()
    assert state["requests"] == {"GET /api/accounts": 2, f"POST {JOBS}": 1}
    assert state["statuses"]["GET /api/accounts 429"] == 1
    assert state["throttled"] == 1
    assert state["jobs"] == {"queued": 1}
    assert state["rows"] == {"accepted": 2, "completed": 0, "failed": 0}
    assert list(state["job_posts_per_second"].values()) == [1]


def test_reset_empties_the_account_and_keeps_the_settings(klaviyo: Klaviyo) -> None:
    klaviyo.call("POST", "/_sandbox/settings", {"job_seconds": 7})
    klaviyo.call("POST", "/_sandbox/reset")
    assert klaviyo.call("GET", "/api/lists").json()["data"] == []
    assert klaviyo.settings.job_seconds == 7


def test_account_shows_who_it_belongs_to(klaviyo: Klaviyo) -> None:
    [account] = klaviyo.call("GET", "/api/accounts").json()["data"]
    assert account["id"] == account["attributes"]["public_api_key"]
    assert account["attributes"]["contact_information"]["organization_name"]
    assert klaviyo.call("GET", f"/api/accounts/{account['id']}").json()["data"] == account
    assert klaviyo.call("GET", "/api/accounts/other").status == 404
