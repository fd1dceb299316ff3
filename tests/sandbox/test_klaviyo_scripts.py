"""What a test can script over the control routes: rows that fail, refusals, revisions, billing."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from sandbox.klaviyo import READONLY_KEY, Klaviyo
from sandbox.klaviyo.testing import JOBS, Clock, a_klaviyo, import_now, job_body

ADA = {"email": "ada@x.com", "phone_number": "+15005550006"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def klaviyo(clock: Clock) -> Klaviyo:
    return a_klaviyo(clock)


def script(klaviyo: Klaviyo, **rule: Any) -> None:
    assert klaviyo.call("POST", "/_sandbox/rows", [rule]).status == 200


def errors_of(klaviyo: Klaviyo, job_id: str) -> list[dict[str, Any]]:
    return klaviyo.call("GET", f"{JOBS}/{job_id}/import-errors").json()["data"]


def member_emails(klaviyo: Klaviyo) -> list[str]:
    data = klaviyo.call("GET", "/api/lists/LIST01/profiles").json()["data"]
    return [each["attributes"]["email"] for each in data]


def submit(klaviyo: Klaviyo, *profiles: Any) -> Any:
    return klaviyo.call("POST", JOBS, job_body(profiles))


# --- rows


def test_a_scripted_row_fails_alone_and_says_what_it_is_told_to(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    error = {"code": "duplicate_profile", "title": None, "detail": "Taken.", "id": None}
    script(klaviyo, where={"email": "^ada@", "phone_number": "0006$"}, error=error)
    [failed] = errors_of(klaviyo, import_now(klaviyo, clock, "b@x.com", ADA))
    assert failed["id"] is None
    assert failed["attributes"] == {
        "code": "duplicate_profile",
        "title": None,
        "detail": "Taken.",
        "source": {"pointer": "/data/attributes/profiles/data/1/attributes/email"},
        "original_payload": ADA,
    }
    assert member_emails(klaviyo) == ["b@x.com"]


def test_a_row_without_the_attribute_that_is_refused_arrives(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    script(klaviyo, where={"phone_number": ".", "email": "ada"})
    assert len(errors_of(klaviyo, import_now(klaviyo, clock, ADA))) == 1
    assert errors_of(klaviyo, import_now(klaviyo, clock, {"email": "ada@x.com"})) == []


def test_a_rule_can_hold_for_some_rows_only(klaviyo: Klaviyo, clock: Clock) -> None:
    script(klaviyo, where={"email": "ada"}, after=1, times=1)
    failed = [len(errors_of(klaviyo, import_now(klaviyo, clock, ADA))) for _ in range(3)]
    assert failed == [0, 1, 0]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ({}, {}),
        ({"pointer": "/data/{row}"}, {"pointer": "/data/1"}),
        ({"pointer": None}, {"pointer": None}),
        ({"parameter": "x"}, {"parameter": "x"}),
    ],
)
def test_the_source_of_an_import_error_takes_any_shape(
    klaviyo: Klaviyo, clock: Clock, source: Any, shown: Any
) -> None:
    script(klaviyo, where={"email": "ada"}, error={"source": source})
    [failed] = errors_of(klaviyo, import_now(klaviyo, clock, "b@x.com", ADA))
    assert failed["attributes"]["source"] == shown


def test_the_source_can_be_missing(klaviyo: Klaviyo, clock: Clock) -> None:
    script(klaviyo, where={"email": "ada"}, error={"source": None})
    [failed] = errors_of(klaviyo, import_now(klaviyo, clock, ADA))
    assert "source" not in failed["attributes"]


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("attributes", ADA),
        ("profile", {"type": "profile", "attributes": ADA}),
        ("text", json.dumps(ADA, separators=(",", ":"))),
        ("none", None),
    ],
)
def test_the_original_payload_comes_in_each_form(
    klaviyo: Klaviyo, clock: Clock, form: Any, shown: Any
) -> None:
    script(klaviyo, where={"email": "ada"}, original_payload=form)
    klaviyo.settings.original_payload = form
    for bad in (ADA, {"email": "b+async-fail@x.com"}):
        job = import_now(klaviyo, clock, bad)
        [failed] = errors_of(klaviyo, job)
        if bad == ADA:
            assert failed["attributes"]["original_payload"] == shown
        else:
            assert (failed["attributes"]["original_payload"] is None) == (form == "none")


def test_import_errors_can_name_no_row_at_all(klaviyo: Klaviyo, clock: Clock) -> None:
    changes = {"error_pointers": "none", "original_payload": "none"}
    assert klaviyo.call("POST", "/_sandbox/settings", changes).status == 200
    job = import_now(klaviyo, clock, "a@x.com", "b+async-fail@x.com")
    [failed] = errors_of(klaviyo, job)
    assert (failed["attributes"]["source"], failed["attributes"]["original_payload"]) == ({}, None)
    arrived = klaviyo.call("GET", f"{JOBS}/{job}/profiles?fields[profile]=email").json()["data"]
    assert [each["attributes"]["email"] for each in arrived] == ["a@x.com"]


def test_a_scripted_row_can_refuse_the_job_also_with_409(klaviyo: Klaviyo) -> None:
    pointer = "/data/attributes/profiles/data/{row}/attributes/phone_number"
    error = {"code": "duplicate_profile", "source": {"pointer": pointer}}
    script(klaviyo, where={"email": "ada"}, outcome="refused", status=409, error=error, times=1)
    refused = submit(klaviyo, "b@x.com", ADA)
    assert refused.status == 409
    [shown] = refused.json()["errors"]
    assert (shown["status"], shown["code"]) == (409, "duplicate_profile")
    assert shown["source"]["pointer"] == pointer.replace("{row}", "1")
    assert submit(klaviyo, "b@x.com", ADA).status == 202


def test_rules_can_be_cleared_and_go_with_a_reset(klaviyo: Klaviyo) -> None:
    for method, path in (("DELETE", "rows"), ("POST", "reset")):
        script(klaviyo, where={"email": "."}, outcome="refused")
        assert submit(klaviyo, ADA).status == 400
        klaviyo.call(method, f"/_sandbox/{path}")
        klaviyo.call("POST", "/_sandbox/lists", {"id": "LIST01"})
        assert submit(klaviyo, ADA).status == 202


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"where": {}},
        {"where": {"email": "("}},
        {"where": {"email": "."}, "outcome": "eaten"},
        {"where": {"email": "."}, "colour": "red"},
        {"where": {"email": "."}, "original_payload": "yaml"},
        {"where": "ada"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(klaviyo: Klaviyo, rule: dict[str, Any]) -> None:
    assert klaviyo.call("POST", "/_sandbox/rows", [rule]).status == 400


def test_a_phone_number_of_somebody_else_is_a_duplicate_profile(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    import_now(klaviyo, clock, ADA)
    [failed] = errors_of(klaviyo, import_now(klaviyo, clock, {**ADA, "email": "b@x.com"}))
    assert failed["attributes"]["code"] == "duplicate_profile"
    assert failed["attributes"]["source"]["pointer"].endswith("/0/attributes/phone_number")
    single = {"data": {"type": "profile", "attributes": {**ADA, "email": "b@x.com"}}}
    assert klaviyo.call("POST", "/api/profile-import", single).status == 409


# --- refusals and waits


def fault(klaviyo: Klaviyo, kind: str, **rule: Any) -> None:
    rules = [{"match": f"POST {JOBS}", "kind": kind, **rule}]
    assert klaviyo.call("POST", "/_sandbox/faults", rules).status == 200


@pytest.mark.parametrize("status", [400, 402, 409, 422, 451])
def test_a_refusal_of_the_whole_account_says_what_it_is_told_to(
    klaviyo: Klaviyo, status: int
) -> None:
    words = {"code": "account_closed", "title": "Closed.", "detail": "The account is closed."}
    fault(klaviyo, "status", status=status, times=None, source={}, **words)
    for _ in range(3):
        refused = submit(klaviyo, ADA)
        assert refused.status == status
        [shown] = refused.json()["errors"]
        assert {name: shown[name] for name in words} == words
        assert shown["source"] == {}
    assert len(klaviyo.account.jobs) == 0


def test_the_wait_of_a_429_stands_in_seconds_as_a_date_or_in_the_text_only(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    for form in ("seconds", "date", "none"):
        fault(klaviyo, "throttle", retry_after=7, form=form)
    seconds, date, text = (submit(klaviyo, ADA) for _ in range(3))
    assert seconds.headers["Retry-After"] == "7"
    assert parsedate_to_datetime(date.headers["Retry-After"]).timestamp() == clock.now + 7
    assert "Retry-After" not in text.headers
    assert "available in 7 seconds" in text.json()["errors"][0]["detail"]
    fault(klaviyo, "throttle", retry_after=0, form="none")
    assert "available in 0 seconds" in submit(klaviyo, ADA).json()["errors"][0]["detail"]
    fault(klaviyo, "throttle", form="none", detail="Slow down.")
    assert submit(klaviyo, ADA).json()["errors"][0]["detail"] == "Slow down."
    assert klaviyo.call("POST", "/_sandbox/faults", [{"kind": "throttle", "form": "x"}]).status == (
        400
    )


# --- revisions


def test_a_retired_revision_falls_forward_in_silence(klaviyo: Klaviyo) -> None:
    assert klaviyo.call("GET", "/api/lists", revision="2023-10-15").status == 200


def test_a_retired_revision_is_gone_for_who_opts_out(klaviyo: Klaviyo) -> None:
    opt_out = {"X-Klaviyo-Revision-Fall-Forward-Opt-Out": "1"}
    gone = klaviyo.call("GET", "/api/lists", revision="2023-10-15", headers=opt_out)
    assert (gone.status, gone.json()["errors"][0]["code"]) == (410, "gone")
    assert klaviyo.call("GET", "/api/lists", revision="2025-01-15", headers=opt_out).status == 200


def test_hints_for_agents_are_in_every_answer_of_a_revision_that_has_them(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    klaviyo.settings.agent_hints = True
    fault(klaviyo, "status", status=503)
    answers = [
        submit(klaviyo, ADA),
        submit(klaviyo, ADA),
        klaviyo.call("GET", "/api/lists"),
        klaviyo.call("GET", "/api/nothing"),
        klaviyo.call("GET", "/api/accounts", key="pk_x"),
    ]
    assert [answer.status for answer in answers] == [503, 202, 200, 404, 401]
    for answer in answers:
        [first, *_] = answer.json()["meta"]["agent_hints"]["next_steps"]
        assert isinstance(first, str)
    old = klaviyo.call("GET", "/api/lists", revision="2026-07-15")
    assert "meta" not in old.json()


# --- billing


def test_billing_usage_counts_profiles_or_what_it_is_told_to(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    import_now(klaviyo, clock, "a@x.com", "b@x.com")
    klaviyo.settings.billing_max = 500
    [usage] = klaviyo.call("GET", "/api/billing-usage").json()["data"]
    assert usage["attributes"] == {
        "usage_used": 2,
        "usage_max": 500,
        "unit": "profiles",
        "period_start": "2026-09-01T00:00:00+00:00",
        "period_end": "2026-10-01T00:00:00+00:00",
        "as_of": usage["attributes"]["as_of"],
    }
    klaviyo.call("POST", "/_sandbox/settings", {"billing_used": 480})
    one = klaviyo.call("GET", f"/api/billing-usage/{usage['id']}").json()["data"]
    assert one["attributes"]["usage_used"] == 480
    assert klaviyo.call("GET", "/api/billing-usage/parrots").status == 404


def test_billing_usage_needs_its_scope_and_its_revision(klaviyo: Klaviyo) -> None:
    keys = {"keys": {"pk_lists": ["lists:read"]}}
    klaviyo.call("POST", "/_sandbox/settings", keys)
    assert klaviyo.call("GET", "/api/billing-usage", key="pk_lists").status == 403
    assert klaviyo.call("GET", "/api/billing-usage", key=READONLY_KEY).status == 200
    assert klaviyo.call("GET", "/api/billing-usage", revision="2026-07-15").status == 404


# --- addresses


@pytest.mark.parametrize(
    "email",
    [
        "o'brien@example.org",
        "a#$%&'*+/=?^_`{|}~-b@example.com",
        "a@b-c.d-e.museum",
        "1@1.co",
        "a" * 64 + "@example.com",
        "a" * 60 + "@" + "b" * 35 + ".com",
    ],
)
def test_what_the_rfc_allows_is_taken(klaviyo: Klaviyo, email: str) -> None:
    assert submit(klaviyo, email).status == 202


@pytest.mark.parametrize(
    "email",
    [
        "a" * 65 + "@example.com",
        "a@-example.com",
        "a@example-.com",
        "a@ex_ample.com",
        "a@" + "b" * 64 + ".com",
        "a.@example.com",
        ".a@example.com",
        'a"b@example.com',
        "a(b)@example.com",
        "a,b@example.com",
        "a@[127.0.0.1]",
        "a@example.com.",
        "a@example.xn--p1ai1",
    ],
)
def test_what_the_rfc_does_not_allow_is_refused(klaviyo: Klaviyo, email: str) -> None:
    assert submit(klaviyo, email).status == 400
