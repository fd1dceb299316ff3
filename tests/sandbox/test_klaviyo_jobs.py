"""Bulk import jobs: what is refused at once, what fails later, and how a job goes on."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from sandbox.klaviyo import Klaviyo
from sandbox.klaviyo.testing import JOBS, Clock, a_klaviyo, attributes_of, import_now, job_body


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def klaviyo(clock: Clock) -> Klaviyo:
    return a_klaviyo(clock)


def submit(klaviyo: Klaviyo, *profiles: Any) -> Any:
    return klaviyo.call("POST", JOBS, job_body(profiles))


def pointers(response: Any) -> list[str]:
    assert response.status == 400, response
    return [error["source"]["pointer"] for error in response.json()["errors"]]


def job_of(klaviyo: Klaviyo, job_id: str) -> dict[str, Any]:
    attributes: dict[str, Any] = klaviyo.call("GET", f"{JOBS}/{job_id}").json()["data"][
        "attributes"
    ]
    return attributes


def errors_of(klaviyo: Klaviyo, job_id: str) -> list[dict[str, Any]]:
    errors: list[dict[str, Any]] = klaviyo.call(
        "GET", f"{JOBS}/{job_id}/import-errors?page[size]=100"
    ).json()["data"]
    return errors


def member_emails(klaviyo: Klaviyo) -> list[str]:
    data = klaviyo.call("GET", "/api/lists/LIST01/profiles?page[size]=100").json()["data"]
    return [each["attributes"]["email"] for each in data]


def test_an_accepted_job_is_queued_and_expires_after_seven_days(klaviyo: Klaviyo) -> None:
    response = submit(klaviyo, "a@example.com", "b@example.com")
    assert response.status == 202
    job = response.json()["data"]
    assert len(job["id"]) == 59
    attributes = job["attributes"]
    assert (attributes["status"], attributes["total_count"], attributes["started_at"]) == (
        "queued",
        2,
        None,
    )
    lifetime = datetime.fromisoformat(attributes["expires_at"]) - datetime.fromisoformat(
        attributes["created_at"]
    )
    assert lifetime == timedelta(days=7)
    assert job["relationships"]["lists"]["data"] == [{"type": "list", "id": "LIST01"}]


def test_a_job_is_queued_then_processing_then_complete(klaviyo: Klaviyo, clock: Clock) -> None:
    klaviyo.settings.job_seconds = 60
    job_id = submit(klaviyo, "a@example.com").json()["data"]["id"]
    clock.move(30)
    assert job_of(klaviyo, job_id)["status"] == "processing"
    assert member_emails(klaviyo) == []
    clock.move(30)
    job = job_of(klaviyo, job_id)
    assert (job["status"], job["completed_count"], job["failed_count"]) == ("complete", 1, 0)
    assert job["created_at"] < job["started_at"] < job["completed_at"]
    assert member_emails(klaviyo) == ["a@example.com"]


@pytest.mark.parametrize(
    "email",
    [
        "mailto:a@example.com",
        "a!b@example.com",
        "a@example.c0m",
        "a@example",
        "a@@example.com",
        "@example.com",
        "a b@example.com",
        " a@example.com",
        "a@example.com\n",
        "ä@example.com",
        "a..b@example.com",
        "",
        "a" * 60 + "@" + "b" * 36 + ".com",
        "a+sync-fail@example.com",
    ],
)
def test_a_bad_email_refuses_the_whole_job(klaviyo: Klaviyo, clock: Clock, email: str) -> None:
    refused = submit(klaviyo, "good@example.com", {"email": email})
    assert pointers(refused) == ["/data/attributes/profiles/data/1/attributes/email"]
    assert refused.json()["errors"][0]["code"] == "invalid"
    clock.move(60)
    assert klaviyo.account.profiles.count == 0
    assert klaviyo.call("GET", JOBS).json()["data"] == []


def test_a_hundred_characters_of_email_are_accepted(klaviyo: Klaviyo) -> None:
    assert submit(klaviyo, "a" * 60 + "@" + "b" * 35 + ".com").status == 202


@pytest.mark.parametrize(("named", "count"), [("all", 2), ("first", 1)])
def test_a_refusal_names_all_bad_rows_or_the_first(
    klaviyo: Klaviyo, named: Any, count: int
) -> None:
    klaviyo.settings.bad_rows = named
    expected = [f"/data/attributes/profiles/data/{row}/attributes/email" for row in (1, 3)]
    assert pointers(submit(klaviyo, "a@x.com", "b", "c@x.com", "d")) == expected[:count]


def test_a_refusal_may_name_no_row(klaviyo: Klaviyo) -> None:
    klaviyo.settings.bad_rows = "none"
    assert pointers(submit(klaviyo, "a@x.com", "b")) == ["/data/attributes/profiles/data"]


def test_an_unknown_list_refuses_the_job(klaviyo: Klaviyo) -> None:
    refused = klaviyo.call("POST", JOBS, job_body(["a@x.com"], lists=["nope"]))
    assert pointers(refused) == ["/data/relationships/lists/data/0/id"]


def test_a_job_may_name_no_list_or_two(klaviyo: Klaviyo, clock: Clock) -> None:
    klaviyo.call("POST", "/_sandbox/lists", {"id": "LIST02"})
    klaviyo.call("POST", JOBS, job_body(["a@x.com"], lists=[]))
    klaviyo.call("POST", JOBS, job_body(["b@x.com"], lists=["LIST01", "LIST02"]))
    clock.move(60)
    assert klaviyo.call("GET", "/_sandbox/state").json()["lists"] == {"LIST01": 1, "LIST02": 1}


def test_ten_thousand_profiles_are_the_most_and_one_the_least(klaviyo: Klaviyo) -> None:
    rows = [f"p{number}@example.com" for number in range(10_001)]
    assert submit(klaviyo, *rows[:10_000]).status == 202
    assert pointers(submit(klaviyo, *rows)) == ["/data/attributes/profiles/data"]
    assert pointers(submit(klaviyo)) == ["/data/attributes/profiles/data"]


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        (
            {"type": "profile", "attributes": {"email": "a@x.com", "nickname": "A"}},
            "/attributes/nickname",
        ),
        (
            {"type": "profile", "attributes": {"email": "a@x.com", "first_name": 7}},
            "/attributes/first_name",
        ),
        ({"type": "profile", "attributes": {"email": 7}}, "/attributes/email"),
        (
            {"type": "profile", "attributes": {"email": "a@x.com", "properties": []}},
            "/attributes/properties",
        ),
        (
            {"type": "profile", "attributes": {"email": "a@x.com", "location": {"town": "B"}}},
            "/attributes/location",
        ),
        (
            {
                "type": "profile",
                "attributes": {"email": "a@x.com"},
                "meta": {"patch_properties": []},
            },
            "/meta",
        ),
        ({"type": "profile"}, ""),
        ({"type": "person", "attributes": {}}, ""),
        ({"type": "profile", "id": 7, "attributes": {}}, ""),
    ],
)
def test_a_row_of_the_wrong_form_refuses_the_job(
    klaviyo: Klaviyo, profile: Any, field: str
) -> None:
    assert pointers(submit(klaviyo, "good@x.com", profile)) == [
        f"/data/attributes/profiles/data/1{field}"
    ]


@pytest.mark.parametrize(
    "relationships", [None, [], {"lists": {}}, {"lists": {"data": {"type": "list", "id": "x"}}}]
)
def test_relationships_of_the_wrong_form_refuse_the_job(
    klaviyo: Klaviyo, relationships: Any
) -> None:
    body = job_body(["a@x.com"])
    body["data"]["relationships"] = relationships
    assert klaviyo.call("POST", JOBS, body).status == 400


def test_a_bad_phone_number_without_email_refuses_the_job(klaviyo: Klaviyo) -> None:
    bad = {"phone_number": "0151 234", "external_id": "C-1"}
    assert pointers(submit(klaviyo, bad)) == [
        "/data/attributes/profiles/data/0/attributes/phone_number"
    ]


def test_a_bad_phone_number_beside_an_email_is_dropped(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"email": "a@x.com", "phone_number": "0151 234", "title": "Dr"})
    assert attributes_of(klaviyo, "a@x.com") == {"email": "a@x.com", "title": "Dr"}


def test_a_row_that_names_nobody_fails_later_and_alone(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = import_now(klaviyo, clock, "a@x.com", {"first_name": "A"})
    job = job_of(klaviyo, job_id)
    assert (job["status"], job["completed_count"], job["failed_count"]) == ("complete", 1, 1)
    [error] = errors_of(klaviyo, job_id)
    assert error["type"] == "import-error"
    assert error["attributes"]["source"] == {"pointer": "/data/attributes/profiles/data/1"}
    assert error["attributes"]["original_payload"] == {"first_name": "A"}


def test_a_profile_over_100_kb_fails_later_and_alone(klaviyo: Klaviyo, clock: Clock) -> None:
    def sized(size: int) -> dict[str, Any]:
        return {
            "email": "big@x.com",
            "title": "t" * (size - len('{"email":"big@x.com","title":""}')),
        }

    assert job_of(klaviyo, import_now(klaviyo, clock, sized(100_000)))["failed_count"] == 0
    job = job_of(klaviyo, import_now(klaviyo, clock, sized(100_001), "b@x.com"))
    assert (job["completed_count"], job["failed_count"]) == (1, 1)


@pytest.mark.parametrize(
    ("check", "profile"),
    [
        ("email", {"email": "bad"}),
        ("phone_number", {"phone_number": "12"}),
        ("identifier", {"title": "Dr"}),
        ("size", {"email": "a@x.com", "title": "t" * 100_000}),
    ],
)
def test_each_check_can_be_made_at_once_or_later(
    klaviyo: Klaviyo, clock: Clock, check: Any, profile: Any
) -> None:
    klaviyo.settings.async_checks = frozenset()
    assert submit(klaviyo, profile).status == 400
    klaviyo.settings.async_checks = frozenset({check})
    assert job_of(klaviyo, import_now(klaviyo, clock, profile, "ok@x.com"))["failed_count"] == 1
    assert member_emails(klaviyo) == ["ok@x.com"]


def test_planted_addresses_fail_later_some_without_id_and_code(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    planted = ["a+async-fail@x.com", "b+async-fail-null@x.com"]
    job_id = import_now(klaviyo, clock, *planted, "ok@x.com")
    first, second = errors_of(klaviyo, job_id)
    assert first["id"]
    assert first["attributes"]["code"] == "invalid"
    assert (second["id"], second["attributes"]["code"], second["attributes"]["title"]) == (
        None,
        None,
        None,
    )
    assert [each["attributes"]["original_payload"]["email"] for each in (first, second)] == planted


def test_a_phone_number_of_somebody_else_fails_later(klaviyo: Klaviyo, clock: Clock) -> None:
    import_now(klaviyo, clock, {"email": "a@x.com", "phone_number": "+15005550006"})
    job_id = import_now(
        klaviyo, clock, {"email": "b@x.com", "phone_number": "+15005550006", "title": "Dr"}
    )
    [error] = errors_of(klaviyo, job_id)
    assert error["attributes"]["source"]["pointer"].endswith("/0/attributes/phone_number")
    assert error["attributes"]["original_payload"]["title"] == "Dr"
    assert member_emails(klaviyo) == ["a@x.com"]
    klaviyo.settings.unique = frozenset()
    assert (
        errors_of(
            klaviyo,
            import_now(klaviyo, clock, {"email": "b@x.com", "phone_number": "+15005550006"}),
        )
        == []
    )


def test_an_unknown_klaviyo_id_alone_fails_later(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = import_now(
        klaviyo, clock, {"type": "profile", "id": "01K" + "9" * 23, "attributes": {"title": "Dr"}}
    )
    assert job_of(klaviyo, job_id)["failed_count"] == 1


def test_duplicates_in_a_job_merge_in_silence(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = import_now(klaviyo, clock, "a@x.com", {"email": "A@X.com", "title": "Dr"}, "b@x.com")
    job = job_of(klaviyo, job_id)
    assert (job["completed_count"], job["failed_count"]) == (3, 0)
    assert member_emails(klaviyo) == ["a@x.com", "b@x.com"]
    assert attributes_of(klaviyo, "a@x.com")["title"] == "Dr"


def test_an_empty_job_id_reads_the_collection(klaviyo: Klaviyo) -> None:
    submit(klaviyo, "a@x.com")
    assert isinstance(klaviyo.call("GET", f"{JOBS}/").json()["data"], list)


def test_jobs_are_filtered_by_status_and_sorted(klaviyo: Klaviyo, clock: Clock) -> None:
    klaviyo.settings.job_seconds = 10
    ids = []
    for _ in range(3):
        ids.append(submit(klaviyo, "a@x.com").json()["data"]["id"])
        clock.move(5)

    def listed(query: str) -> list[str]:
        return [job["id"] for job in klaviyo.call("GET", f"{JOBS}?{query}").json()["data"]]

    assert listed("") == ids
    assert listed("sort=-created_at") == ids[::-1]
    assert listed('filter=equals(status,"complete")') == ids[:2]
    assert listed("filter=equals(status,'processing')") == ids[2:]
    assert listed('filter=any(status,["queued","processing"])') == ids[2:]
    assert klaviyo.call("GET", f"{JOBS}?filter=equals(id,'x')").status == 400
    assert klaviyo.call("GET", f"{JOBS}?sort=status").status == 400


@pytest.mark.parametrize("sort", ["created_at", "-created_at"])
def test_jobs_come_in_pages(klaviyo: Klaviyo, sort: str) -> None:
    ids = [submit(klaviyo, "a@x.com").json()["data"]["id"] for _ in range(5)]
    url: str | None = f"{JOBS}?page[size]=2&sort={sort}"
    seen, sizes = [], []
    while url:
        page = klaviyo.call("GET", url).json()
        sizes.append(len(page["data"]))
        seen += [job["id"] for job in page["data"]]
        url = page["links"]["next"]
    assert sizes == [2, 2, 1]
    assert seen == (ids if sort == "created_at" else ids[::-1])


def test_import_errors_come_in_pages_of_20_and_at_most_100(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = import_now(klaviyo, clock, *[f"p{n}+async-fail@x.com" for n in range(120)])
    path = f"{JOBS}/{job_id}/import-errors"
    assert len(klaviyo.call("GET", path).json()["data"]) == 20
    page = klaviyo.call("GET", f"{path}?page[size]=100").json()
    rest = klaviyo.call("GET", page["links"]["next"]).json()
    assert (len(page["data"]), len(rest["data"]), rest["links"]["next"]) == (100, 20, None)
    assert klaviyo.call("GET", f"{path}?page[size]=101").status == 400


def test_a_job_tells_its_profiles_and_lists(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = import_now(klaviyo, clock, "a@x.com", "a@x.com", "b@x.com")
    profiles = klaviyo.call("GET", f"{JOBS}/{job_id}/profiles").json()["data"]
    ids = klaviyo.call("GET", f"{JOBS}/{job_id}/relationships/profiles").json()["data"]
    assert [each["attributes"]["email"] for each in profiles] == ["a@x.com", "b@x.com"]
    assert [each["id"] for each in ids] == [each["id"] for each in profiles]
    [known] = klaviyo.call("GET", f"{JOBS}/{job_id}/lists").json()["data"]
    assert klaviyo.call("GET", f"{JOBS}/{job_id}/relationships/lists").json()["data"] == [
        {"type": "list", "id": known["id"]}
    ]
    [included] = klaviyo.call("GET", f"{JOBS}/{job_id}?include=lists").json()["included"]
    assert included["id"] == "LIST01"


def test_a_list_deleted_meanwhile_is_passed_over(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = submit(klaviyo, "a@x.com").json()["data"]["id"]
    klaviyo.call("DELETE", "/api/lists/LIST01")
    clock.move(60)
    job = job_of(klaviyo, job_id)
    assert (job["status"], job["completed_count"], job["failed_count"]) == ("complete", 1, 0)


def test_a_stuck_job_stays_processing_until_it_is_freed(klaviyo: Klaviyo, clock: Clock) -> None:
    klaviyo.settings.job_fate = "stuck"
    job_id = import_now(klaviyo, clock, "a@x.com")
    clock.move(86_400)
    assert job_of(klaviyo, job_id)["status"] == "processing"
    klaviyo.call("POST", f"/_sandbox/jobs/{job_id}", {"fate": "normal"})
    assert job_of(klaviyo, job_id)["status"] == "complete"
    assert member_emails(klaviyo) == ["a@x.com"]


def test_a_vanished_job_is_404_and_imports_nothing(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = submit(klaviyo, "a@x.com").json()["data"]["id"]
    klaviyo.call("POST", f"/_sandbox/jobs/{job_id}", {"fate": "vanish"})
    clock.move(60)
    assert klaviyo.call("GET", f"{JOBS}/{job_id}").status == 404
    assert member_emails(klaviyo) == []


def test_a_cancelled_job_imports_nothing(klaviyo: Klaviyo, clock: Clock) -> None:
    klaviyo.settings.job_fate = "cancelled"
    assert job_of(klaviyo, import_now(klaviyo, clock, "a@x.com"))["status"] == "cancelled"
    assert member_emails(klaviyo) == []


def test_a_job_is_forgotten_after_seven_days(klaviyo: Klaviyo, clock: Clock) -> None:
    job_id = import_now(klaviyo, clock, "a@x.com")
    clock.move(7 * 86_400)
    assert klaviyo.call("GET", f"{JOBS}/{job_id}").status == 404
    assert klaviyo.call("GET", f"{JOBS}/{job_id}/import-errors").status == 404


@pytest.mark.parametrize(("order", "winner"), [("arrival", "second"), ("reversed", "first")])
def test_jobs_that_fall_due_together_may_come_in_any_order(
    klaviyo: Klaviyo, clock: Clock, order: Any, winner: str
) -> None:
    klaviyo.settings.job_order = order
    submit(klaviyo, {"email": "a@x.com", "title": "first"})
    submit(klaviyo, {"email": "a@x.com", "title": "second"})
    clock.move(60)
    assert attributes_of(klaviyo, "a@x.com")["title"] == winner
