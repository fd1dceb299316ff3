"""What is read from answers: strict about what is used, lenient about what is missing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

import sandbox.klaviyo as stand_in
from exporter.errors import (
    BatchRefused,
    RateInfo,
    RateLimited,
    Transient,
)
from exporter.klaviyo.backoff import Outcome, Unavailable
from exporter.klaviyo.client import Klaviyo
from exporter.klaviyo.responses import ImportFailure
from tests.klaviyo.scripted import (
    ADDRESS,
    JOB,
    LIST,
    PAGE,
    ROW,
    Scripted,
    Waits,
    batch,
    people,
    refusal,
)


def test_the_rate_limit_headers_come_with_the_job(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    account.settings.limits = True
    _, rate = klaviyo.start_import(batch(ADDRESS))

    assert rate == RateInfo(limit=150, remaining=149, reset_s=60)


def test_import_errors_name_the_row_and_its_address(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    emails = people(300)
    for row in range(0, 250, 2):
        emails[row] = f"person{row}+async-fail@example.com"
    emails[299] = "late+async-fail-null@example.com"
    job, _ = klaviyo.start_import(batch(*emails))
    failures = list(klaviyo.import_errors(job.id))

    assert [each.index for each in failures] == [*range(0, 250, 2), 299]
    assert [each.identifiers["email"] for each in failures] == [
        emails[each.index or 0] for each in failures
    ]
    assert {each.code for each in failures[:-1]} == {"invalid"}
    assert (failures[-1].code, failures[-1].title) == ("", "")
    assert all(each.detail for each in failures)
    assert "@" not in repr(failures)


def test_account_tells_klaviyos_time(klaviyo: Klaviyo) -> None:
    asked_at = klaviyo.account().asked_at

    assert asked_at is not None
    assert abs((datetime.now(UTC) - asked_at).total_seconds()) < 60


@pytest.mark.parametrize(
    ("given", "taken"), [("7", 7), ("0", 0), ("2.5", 2.5), ("soon", None), ("-1", None)]
)
def test_retry_after_is_taken_from_a_429(
    scripted: Scripted, asking: Klaviyo, given: str, taken: float | None
) -> None:
    scripted.answers(429, refusal(), Retry_After=given)
    with pytest.raises(RateLimited) as caught:
        asking.start_import(b"{}")
    assert caught.value.retry_after_s == taken


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("date", "taken"),
    [
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wednesday, 21-Oct-26 07:28:05 GMT", 5),
        ("Wed, 21 Oct 2026 07:00:00 GMT", 0),
        ("Wed, 99 Oct 2026 07:00:00 GMT", None),
    ],
)
def test_retry_after_may_be_a_date(
    scripted: Scripted, asking: Klaviyo, status: int, date: str, taken: float | None
) -> None:
    scripted.answers(status, refusal(), Retry_After=date, Date="Wed, 21 Oct 2026 07:28:00 GMT")
    with pytest.raises(Transient) as caught:
        asking.start_import(b"{}")
    assert caught.value.retry_after_s == taken


@pytest.mark.parametrize(
    ("detail", "taken"),
    [
        ("Request was throttled. Expected available in 12 seconds.", 12),
        ("Request was throttled. Expected available in 1 second.", 1),
        ("Request was throttled. Expected available in 0 seconds.", 0),
        ("Expected available in 37 second(s)", 37),
        ("Try again in 2.5s.", 2.5),
        ("Try again in 2 minutes.", 120),
        ("Limit: 150/m. Try again in 500 milliseconds.", None),
        ("Request was throttled.", None),
    ],
)
def test_a_429_may_name_its_time_in_the_text_only(
    scripted: Scripted, asking: Klaviyo, detail: str, taken: float | None
) -> None:
    scripted.answers(429, refusal(detail))
    with pytest.raises(RateLimited) as caught:
        asking.start_import(b"{}")
    assert caught.value.retry_after_s == taken


def test_the_header_wins_over_the_text(scripted: Scripted, asking: Klaviyo) -> None:
    scripted.answers(429, refusal("Expected available in 12 seconds."), Retry_After="3")
    with pytest.raises(RateLimited) as caught:
        asking.start_import(b"{}")
    assert caught.value.retry_after_s == 3


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
def test_however_a_429_names_its_time_a_question_waits_for_it(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, waits: Waits, form: str
) -> None:
    account.faults.add(
        [{"match": "GET /api/lists", "kind": "throttle", "retry_after": 20, "form": form}]
    )
    assert klaviyo.find_list(LIST).name == "VIPs"
    assert 18 <= sum(waits) <= 21


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "taken"),
    [
        ("150", "149", "41", (150, 149, 41)),
        ("150, 150;w=60", "x", "41", (150, None, 41)),
        (
            "10, 10;w=1, 150;w=60",
            "9",
            "1",
            (150, None, None),
        ),  # the burst's window is the one told of
        ("10, 10;w=1, 150;w=60", "149", "42", (150, 149, 42)),  # more than a burst: the minute's
        ("150, 10;w=1, 150;w=60", "5", "30", (150, 5, 30)),
        ("10;w=1, 150;w=60", "9", "1", (150, None, None)),
        ("1, 1;w=1, 2;w=60, 225;w=86400", "0", "0", (2, None, None)),
        ("225, 1;w=1, 2;w=60, 225;w=86400", "0", "7000", (2, None, None)),
        ("many", "x", "", (None, None, None)),
    ],
)
def test_of_the_rate_limit_headers_what_is_about_the_minute_is_taken(
    scripted: Scripted,
    asking: Klaviyo,
    limit: str,
    remaining: str,
    reset: str,
    taken: tuple[int | None, ...],
) -> None:
    scripted.answers(
        202,
        {"data": JOB},
        RateLimit_Limit=limit,
        RateLimit_Remaining=remaining,
        RateLimit_Reset=reset,
    )
    told = asking.start_import(b"{}")[1]
    assert (told.limit, told.remaining, told.reset_s) == taken


@pytest.mark.parametrize("depth", [100, 200_000])
def test_an_answer_nested_without_sense_is_unreadable(
    scripted: Scripted, asking: Klaviyo, depth: int
) -> None:
    scripted.answers(202, b"[" * depth + b"]" * depth)
    with pytest.raises(Unavailable):
        asking.start_import(b"{}")


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": None},
        {"id": ".."},
        {"id": "a b"},
        {"id": "x" * 300},
        {"id": "a?b"},
        {"attributes": None},
        {"attributes": {"status": "queued"}},
    ],
)
def test_a_job_without_a_sane_id_or_time_is_an_unreadable_answer(
    scripted: Scripted, asking: Klaviyo, change: dict[str, Any]
) -> None:
    scripted.answers(202, {"data": JOB | change})
    with pytest.raises(Unavailable) as caught:
        asking.start_import(b"{}")
    assert caught.value.outcome is Outcome.UNREADABLE


def test_a_collection_where_one_job_was_asked_for_is_no_job(
    scripted: Scripted, asking: Klaviyo
) -> None:
    scripted.answers(200, {"data": [JOB]})
    with pytest.raises(Unavailable):
        asking.job("abc")


def test_somebody_elses_page_is_no_proof_that_a_list_changed(
    scripted: Scripted, asking: Klaviyo
) -> None:
    scripted.answers(200, PAGE)
    with pytest.raises(Unavailable):
        asking.remove_from_list(LIST, ["01ABC"])


def test_a_member_of_a_collection_that_cannot_be_read_is_not_passed_over(
    scripted: Scripted, asking: Klaviyo
) -> None:
    scripted.answers(200, {"data": [{"attributes": {}}, None]})
    with pytest.raises(Unavailable):
        list(asking.import_errors("job"))


@pytest.mark.parametrize(
    "payload",
    [
        {"email": ADDRESS},
        {"attributes": {"email": ADDRESS}},
        {"data": {"attributes": {"email": ADDRESS}}},
        json.dumps({"email": ADDRESS}),
        json.dumps({"type": "profile", "attributes": {"email": ADDRESS, "phone_number": None}}),
    ],
)
def test_the_address_of_a_failure_is_found_in_any_payload(
    scripted: Scripted, asking: Klaviyo, payload: Any
) -> None:
    scripted.answers(200, {"data": [{"id": "e", "attributes": {"original_payload": payload}}]})
    assert [each.identifiers for each in asking.import_errors("job")] == [{"email": ADDRESS}]


@pytest.mark.parametrize("payload", ["", "[]", "{", "null", [], 3, {"email": 3}, {"data": []}])
def test_a_payload_without_identifiers_is_no_error(
    scripted: Scripted, asking: Klaviyo, payload: Any
) -> None:
    scripted.answers(200, {"data": [{"id": "e", "attributes": {"original_payload": payload}}]})
    assert [each.identifiers for each in asking.import_errors("job")] == [{}]


@pytest.mark.parametrize(
    ("end", "attribute"),
    [
        ("", ""),
        ("/attributes/phone_number", "phone_number"),
        ("/attributes/properties/a~1b~0c", "properties/a/b~c"),
    ],
)
def test_a_failure_says_which_attribute_it_is_about(
    scripted: Scripted, asking: Klaviyo, end: str, attribute: str
) -> None:
    source = {"pointer": f"/data/attributes/profiles/data/7{end}"}
    scripted.answers(200, {"data": [{"id": "e", "attributes": {"source": source}}]})
    [failure] = asking.import_errors("job")
    assert (failure.index, failure.attribute) == (7, attribute)


USAGE = {"usage_used": 480, "usage_max": 500, "unit": "profiles"}


@pytest.mark.parametrize(
    ("status", "answer", "room"),
    [
        (200, [USAGE], 20),
        (200, [{**USAGE, "unit": "emails"}, USAGE], 20),
        (200, [{**USAGE, "usage_used": 480.0}], 20),
        (200, [{**USAGE, "usage_used": 501}], 0),
        (200, [{**USAGE, "unit": "emails"}], None),
        (200, [{**USAGE, "usage_max": None}], None),
        (200, [{**USAGE, "usage_max": True}], None),
        (200, [{}, {"usage_used": "many"}], None),
        (200, [], None),
        (403, [], None),
        (404, [], None),
        (500, [], None),
    ],
)
def test_room_is_known_only_where_klaviyo_says_it(
    scripted: Scripted, asking: Klaviyo, status: int, answer: Any, room: int | None
) -> None:
    data = [{"type": "billing-usage", "id": "x", "attributes": each} for each in answer]
    scripted.answers(status, {"data": data})
    usage = asking.usage()
    assert (usage.room if usage else None) == room


@pytest.mark.parametrize(
    "attributes", [None, {}, {"source": None, "original_payload": None}, {"source": {"pointer": 3}}]
)
def test_a_failure_that_says_nothing_is_still_a_failure(
    scripted: Scripted, asking: Klaviyo, attributes: Any
) -> None:
    scripted.answers(
        200, {"data": [{"type": "import-error", "id": None, "attributes": attributes}]}
    )

    assert list(asking.import_errors("job")) == [
        ImportFailure(index=None, code="", title="", detail="")
    ]


def test_klaviyos_words_are_kept_as_far_as_they_are_harmless(
    scripted: Scripted, asking: Klaviyo
) -> None:
    detail = f"The email '{ADDRESS}' (or phone +1 500-555-0006) is invalid; see rule 42."
    scripted.answers(400, refusal(detail, ROW))
    with pytest.raises(BatchRefused) as caught:
        asking.start_import(b"{}")
    assert (
        caught.value.rows[0].reason
        == "The email [address] (or phone +[number]) is invalid; see rule 42."
    )
