"""Every status has its error, and a 400 means what its pointers and words say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import sandbox.klaviyo as stand_in
from exporter.errors import (
    BatchRefused,
    BatchTooLarge,
    ExporterError,
    KeyRefused,
    KlaviyoRejected,
    KlaviyoUnavailable,
    ListGone,
    RateLimited,
    RevisionRetired,
    RowRefusal,
    ScopeMissing,
)
from exporter.klaviyo.backoff import Outcome, Unavailable, outcome_of
from exporter.klaviyo.client import Klaviyo
from exporter.klaviyo.statuses import STATUSES, NotFound
from tests.klaviyo.scripted import ADDRESS, LIST, PAGE, ROW, Scripted, batch, people, refusal


def test_a_list_that_is_not_there_is_named(klaviyo: Klaviyo) -> None:
    with pytest.raises(
        ListGone, match="The list Xx9999 does not exist in this Klaviyo account"
    ) as caught:
        klaviyo.find_list("Xx9999")
    assert caught.value.status == 404
    assert "error " in caught.value.message


def test_removing_from_a_list_that_is_gone_names_the_list(klaviyo: Klaviyo) -> None:
    with pytest.raises(ListGone, match="Xx9999"):
        klaviyo.remove_from_list("Xx9999", ["01ABC"])


def test_removing_a_profile_that_is_gone_does_not_blame_the_list(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    account.settings.unknown_members = "404"
    with pytest.raises(NotFound):
        klaviyo.remove_from_list(LIST, ["01ABC"])


def test_a_refused_batch_names_its_rows_without_their_addresses(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    with pytest.raises(BatchRefused) as caught:
        klaviyo.start_import(
            batch("ok@example.com", "mailto:jane@example.com", "x@y", "fine@example.com")
        )

    assert [(each.index, each.attribute) for each in caught.value.rows] == [
        (1, "email"),
        (2, "email"),
    ]
    assert all(each.reason for each in caught.value.rows)
    assert "@" not in repr(caught.value.rows)
    assert not list(klaviyo.profiles_of_list(LIST))


def test_a_batch_that_is_refused_without_a_name_has_no_rows(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    account.settings.bad_rows = "none"
    with pytest.raises(BatchRefused) as caught:
        klaviyo.start_import(batch("x@y"))
    assert caught.value.rows == ()
    assert "error " in caught.value.message


def test_an_import_into_a_list_that_is_gone_is_no_refused_batch(klaviyo: Klaviyo) -> None:
    with pytest.raises(ListGone):
        klaviyo.start_import(batch(ADDRESS, list_id="Xx9999"))


def test_a_batch_over_the_size_limit_is_too_large(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    account.settings.max_body_bytes = 10_000
    with pytest.raises(BatchTooLarge):
        klaviyo.start_import(batch(*people(1000)))


def test_a_key_that_may_only_read_is_told_what_it_lacks(
    account: stand_in.Klaviyo, connect: Callable[..., Klaviyo]
) -> None:
    with pytest.raises(ScopeMissing, match="lists:write and profiles:write"):
        connect(stand_in.READONLY_KEY).start_import(batch(ADDRESS))


@pytest.mark.parametrize("status", [400, 401])
def test_a_wrong_key_is_refused_whichever_status_klaviyo_gives_it(
    account: stand_in.Klaviyo, connect: Callable[..., Klaviyo], status: int
) -> None:
    """For an import too: a batch that only the key spoils must not be halved down to its rows."""
    account.settings.refused_key_status = status
    stranger = connect("pk_stranger")
    for ask in (
        stranger.account,
        stranger.probe_scopes,
        lambda: stranger.start_import(batch(ADDRESS)),
    ):
        with pytest.raises(KeyRefused):
            ask()


@pytest.mark.parametrize(("revision", "status"), [("2024-07-15", 410), ("2026-07-16", 400)])
def test_a_revision_that_klaviyo_does_not_serve_is_retired(
    account: stand_in.Klaviyo, connect: Callable[..., Klaviyo], revision: str, status: int
) -> None:
    for ask in (
        connect(revision=revision).account,
        lambda: connect(revision=revision).start_import(batch(ADDRESS)),
    ):
        with pytest.raises(RevisionRetired) as caught:
            ask()
        assert caught.value.status == status


def test_the_hint_of_an_edge_page_is_about_shared_addresses(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    account.faults.add([{"kind": "html_403"}])
    with pytest.raises(KlaviyoUnavailable) as caught:
        klaviyo.start_import(batch(ADDRESS))
    assert "NAT gateway" in caught.value.hint


# Every status of "Rate limits, status codes, and errors", those seen in incidents, and others.
ANSWERS: list[tuple[int, Any, type[ExporterError], Outcome]] = [
    (400, refusal(pointer=ROW), BatchRefused, Outcome.REFUSED),
    (400, PAGE, Unavailable, Outcome.UNREADABLE),
    (401, refusal(), KeyRefused, Outcome.REFUSED),
    (403, refusal(), ScopeMissing, Outcome.REFUSED),
    (403, PAGE, Unavailable, Outcome.EDGE_REFUSED),
    (404, refusal(), ListGone, Outcome.REFUSED),
    (404, PAGE, KlaviyoRejected, Outcome.REFUSED),
    (402, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (405, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (408, PAGE, Unavailable, Outcome.SERVER_ERROR),
    (409, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (409, refusal(pointer=ROW), BatchRefused, Outcome.REFUSED),
    (409, refusal(code="duplicate_profile"), BatchRefused, Outcome.REFUSED),
    (410, refusal(), RevisionRetired, Outcome.REFUSED),
    (413, refusal(), BatchTooLarge, Outcome.REFUSED),
    (413, PAGE, BatchTooLarge, Outcome.REFUSED),
    (414, PAGE, KlaviyoRejected, Outcome.REFUSED),
    (415, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (422, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (422, refusal(pointer=ROW), BatchRefused, Outcome.REFUSED),
    (451, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (429, refusal(), RateLimited, Outcome.RATE_LIMITED),
    *(
        (status, refusal(), Unavailable, Outcome.SERVER_ERROR)
        for status in (500, 502, 503, 504, 524, 525)
    ),
    *(
        (status, PAGE, Unavailable, Outcome.SERVER_ERROR)
        for status in (500, 502, 503, 504, 524, 525, 520, 530)
    ),
    *((status, PAGE, KlaviyoRejected, Outcome.REFUSED) for status in (301, 307, 418, 422)),
    (202, PAGE, Unavailable, Outcome.UNREADABLE),
]


@pytest.mark.parametrize(("status", "body", "error", "outcome"), ANSWERS)
def test_every_status_has_its_error(
    scripted: Scripted,
    asking: Klaviyo,
    status: int,
    body: Any,
    error: type[ExporterError],
    outcome: Outcome,
) -> None:
    scripted.answers(status, body, Location=f"{scripted.url}/elsewhere")
    with pytest.raises(ExporterError, match=rf"\({status}[,)]") as caught:
        asking.start_import(b"{}")

    assert type(caught.value) is error
    assert outcome_of(caught.value) is outcome
    assert getattr(caught.value, "status", status) == status
    assert len(scripted.requests) == 1


def test_no_documented_status_is_missing_from_the_table() -> None:
    documented = {400, 401, 403, 404, 405, 409, 410, 413, 415, 429, 500, 502, 503, 504, 524, 525}

    assert documented <= STATUSES.keys()
    assert STATUSES.keys() <= {status for status, *_ in ANSWERS}


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (refusal(pointer="/data/relationships/lists/data/0/id"), ListGone),
        (refusal(pointer="/data/attributes/profiles"), BatchRefused),
        (refusal(pointer=None), BatchRefused),
        (refusal(source=None), BatchRefused),
        (refusal("Missing or invalid private key.", pointer=None), KeyRefused),
        (refusal(code="not_authenticated"), KeyRefused),
        (refusal("An API key is no e-mail.", pointer=ROW), BatchRefused),
        (refusal("A valid revision header is required."), RevisionRetired),
        ({"errors": []}, Unavailable),
        ({"errors": "no"}, Unavailable),
        ({"message": "Bad request"}, Unavailable),
        ([], Unavailable),
    ],
)
def test_a_400_for_an_import_means_what_its_pointer_says(
    scripted: Scripted, asking: Klaviyo, document: Any, error: type[ExporterError]
) -> None:
    scripted.answers(400, document)
    with pytest.raises(error):
        asking.start_import(b"{}")


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (refusal(pointer=None), KeyRefused),
        (refusal(pointer="/data"), KeyRefused),
        (refusal(pointer=None, source={"parameter": "filter"}), KlaviyoRejected),
    ],
)
def test_a_400_for_a_question_is_about_the_key_unless_it_names_a_parameter(
    scripted: Scripted, asking: Klaviyo, document: Any, error: type[ExporterError]
) -> None:
    scripted.answers(400, document)
    with pytest.raises(error):
        asking.account()


def test_all_rows_of_a_400_are_kept_in_its_order(scripted: Scripted, asking: Klaviyo) -> None:
    pointers = [
        f"/data/attributes/profiles/data/{rest}"
        for rest in ("3/attributes/email", "12", "0/attributes/a/b")
    ]
    errors = [
        refusal(f"Reason {number}.", pointer)["errors"][0]
        for number, pointer in enumerate(pointers)
    ]
    scripted.answers(
        400, {"errors": [*errors, "nonsense", {"source": {"pointer": "/data/attributes"}}]}
    )

    with pytest.raises(BatchRefused) as caught:
        asking.start_import(b"{}")
    assert caught.value.rows == (
        RowRefusal(3, "email", "Reason 0."),
        RowRefusal(12, "", "Reason 1."),
        RowRefusal(0, "a/b", "Reason 2."),
    )
