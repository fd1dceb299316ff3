"""The client against the stand-in Klaviyo, and what it sends and reads over the network."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

import sandbox.klaviyo as stand_in
from exporter import VERSION
from exporter.errors import (
    ExporterError,
    KeyRefused,
    KlaviyoRejected,
    KlaviyoUnavailable,
    ListGone,
    RateInfo,
    RateLimited,
    ScopeMissing,
)
from exporter.klaviyo.backoff import RETRIES, Outcome, Unavailable, outcome_of
from exporter.klaviyo.client import Klaviyo
from exporter.klaviyo.rate_limit import IN_FLIGHT
from exporter.klaviyo.statuses import NotFound
from tests.klaviyo.scripted import (
    ADDRESS,
    JOB,
    KEY,
    LIST,
    PAGE,
    Scripted,
    Waits,
    batch,
    people,
    refusal,
)


def test_account_says_whose_key_it_is(klaviyo: Klaviyo) -> None:
    found = klaviyo.account()

    assert found.id == "SANDBX"
    assert found.name


def test_find_list_reads_name_and_opt_in(klaviyo: Klaviyo) -> None:
    found = klaviyo.find_list(LIST)

    assert (found.id, found.name, found.opt_in_process) == (LIST, "VIPs", "double_opt_in")


def test_all_lists_are_read_page_by_page(klaviyo: Klaviyo, account: stand_in.Klaviyo) -> None:
    for number in range(24):
        account.call("POST", "/_sandbox/lists", {"id": f"L{number}"})

    assert {each.id for each in klaviyo.lists()} == {LIST, *(f"L{number}" for number in range(24))}


@pytest.mark.parametrize("name", ["VIPs", 'Gold, "A" & B', "Zoë's / 50% + more"])
def test_lists_are_found_by_name_whatever_it_holds(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, name: str
) -> None:
    account.call("POST", "/_sandbox/lists", {"id": "Named1", "name": name})

    assert "Named1" in {each.id for each in klaviyo.lists(name)}
    assert all(each.name == name for each in klaviyo.lists(name))


def test_an_import_becomes_a_job_and_its_profiles_members(klaviyo: Klaviyo) -> None:
    started, rate = klaviyo.start_import(batch(*people(3)))
    job = klaviyo.job(started.id)

    assert job is not None
    assert (job.status, job.completed, job.failed) == ("complete", 3, 0)
    assert sorted(email for _, email in klaviyo.profiles_of_list(LIST)) == people(3)
    assert rate == RateInfo(
        limit=None, remaining=None, reset_s=None
    )  # the stand-in's limits are off


def test_a_job_that_klaviyo_does_not_know_is_none(klaviyo: Klaviyo) -> None:
    assert klaviyo.job("bm9zdWNoam9i") is None


def test_jobs_since_are_newest_first_and_end_at_the_moment(
    connect: Callable[..., Klaviyo], account: stand_in.Klaviyo, monkeypatch: pytest.MonkeyPatch
) -> None:
    klaviyo = connect(page_size=2)
    hour = itertools.count(int(time.time()), 3600)
    started = []
    for _ in range(5):
        moment = next(hour)
        monkeypatch.setattr(account, "clock", lambda moment=moment: float(moment))
        started.append(klaviyo.start_import(batch(ADDRESS))[0])

    assert [each.id for each in klaviyo.jobs_since(started[1].created_at)] == [
        each.id for each in reversed(started[1:])
    ]
    assert not list(klaviyo.jobs_since(started[-1].created_at + timedelta(seconds=1)))
    requests = account.stats.shown()["requests"]["GET /api/profile-bulk-import-jobs"]
    assert requests == 3 + 1  # the page after the moment was not asked for


def test_jobs_since_refuses_a_moment_without_a_zone(klaviyo: Klaviyo) -> None:
    with pytest.raises(ValueError, match="time zone"):
        klaviyo.jobs_since(datetime(2026, 11, 23))


def test_errors_of_a_job_that_is_gone_are_not_found(klaviyo: Klaviyo) -> None:
    with pytest.raises(NotFound):
        list(klaviyo.import_errors("bm9zdWNoam9i"))


def test_members_come_from_every_page(klaviyo: Klaviyo, account: stand_in.Klaviyo) -> None:
    klaviyo.start_import(batch(*people(250)))

    members = list(klaviyo.profiles_of_list(LIST))
    assert {email for _, email in members} == set(people(250))
    assert len({profile_id for profile_id, _ in members}) == 250


def test_profiles_are_found_by_address_in_any_case(klaviyo: Klaviyo) -> None:
    klaviyo.start_import(batch(ADDRESS, "o.neil@example.com"))
    members = {email: profile_id for profile_id, email in klaviyo.profiles_of_list(LIST)}

    found = klaviyo.profiles_by_email([ADDRESS.upper(), "o.neil@example.com", "nobody@example.com"])
    assert found == {
        ADDRESS.upper(): members[ADDRESS],
        "o.neil@example.com": members["o.neil@example.com"],
    }


def test_a_hundred_of_the_longest_addresses_fit_because_they_are_asked_for_in_parts(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    emails = [f"{number:03}+{'x' * 60}@{'y' * 31}.com" for number in range(100)]
    klaviyo.start_import(batch(*emails))

    assert klaviyo.profiles_by_email(emails).keys() == set(emails)
    assert account.stats.shown()["requests"]["GET /api/profiles"] == 2


def test_no_addresses_need_no_request(klaviyo: Klaviyo, account: stand_in.Klaviyo) -> None:
    assert klaviyo.profiles_by_email([]) == {}
    assert account.stats.shown()["requests"] == {}


def test_profiles_leave_a_list(klaviyo: Klaviyo) -> None:
    klaviyo.start_import(batch(*people(5)))
    ids = [profile_id for profile_id, _ in klaviyo.profiles_of_list(LIST)]

    klaviyo.remove_from_list(LIST, ids[:3])
    assert [profile_id for profile_id, _ in klaviyo.profiles_of_list(LIST)] == ids[3:]


def test_removing_nobody_needs_no_request(klaviyo: Klaviyo, account: stand_in.Klaviyo) -> None:
    """Klaviyo answers an empty array with 400."""
    klaviyo.remove_from_list(LIST, [])

    assert account.stats.shown()["requests"] == {}


def test_more_than_a_call_takes_is_refused_before_it_is_sent(klaviyo: Klaviyo) -> None:
    with pytest.raises(ValueError, match="at most 1000"):
        klaviyo.remove_from_list(LIST, ["01"] * 1001)
    with pytest.raises(ValueError, match="at most 100"):
        klaviyo.profiles_by_email(people(101))


def test_the_read_scopes_of_a_key_are_probed_one_by_one(
    account: stand_in.Klaviyo, connect: Callable[..., Klaviyo]
) -> None:
    account.settings.change({"keys": {"pk_lists": ["lists:read"]}})

    assert connect("pk_lists").probe_scopes() == {"lists:read": True, "profiles:read": False}
    assert all(connect().probe_scopes().values())


def test_write_scopes_are_probed_without_writing(
    account: stand_in.Klaviyo, connect: Callable[..., Klaviyo]
) -> None:
    account.settings.change(
        {"keys": {"pk_lists": ["lists:write"], "pk_all": ["lists:write", "profiles:write"]}}
    )
    lists = len(account.account.lists)

    assert connect("pk_all").probe_writing() == {"lists:write": True, "profiles:write": True}
    assert connect("pk_lists").probe_writing() == {"lists:write": True, "profiles:write": False}
    assert connect(stand_in.READONLY_KEY).probe_writing() == {
        "lists:write": False,
        "profiles:write": None,
    }
    assert (len(account.account.lists), len(list(account.account.jobs))) == (lists, 0)


@pytest.mark.parametrize(("patience_s", "requests"), [(5, 1), (25, 2), (1_000, 8)])
def test_who_waits_is_told_in_time(
    account: stand_in.Klaviyo, connect: Callable[..., Klaviyo], patience_s: float, requests: int
) -> None:
    account.faults.add(
        [{"match": "GET /api/accounts", "kind": "throttle", "retry_after": 20, "times": 50}]
    )
    with pytest.raises(RateLimited):
        connect(patience_s=patience_s).account()
    assert account.stats.shown()["requests"]["GET /api/accounts"] == requests


def test_flows_that_joining_a_list_starts_are_named(
    account: stand_in.Klaviyo, klaviyo: Klaviyo
) -> None:
    flows = [
        {"id": "F1", "name": "Welcome"},
        {"id": "F2", "name": "Draft", "status": "draft"},
        {"id": "F3"},
    ]
    account.call("POST", "/_sandbox/lists", {"id": LIST, "name": "VIPs", "flows": flows})

    assert klaviyo.flows_of_list(LIST) == ("Welcome", "F3")
    assert [each.flows for each in klaviyo.lists(with_flows=True)] == [("Welcome", "F3")]
    assert [each.flows for each in klaviyo.lists()] == [None]


def test_flows_need_their_scope(account: stand_in.Klaviyo, connect: Callable[..., Klaviyo]) -> None:
    account.settings.change({"keys": {"pk_lists": ["lists:read"]}})
    stranger = connect("pk_lists")
    with pytest.raises(ScopeMissing, match="flows:read"):
        stranger.flows_of_list(LIST)
    with pytest.raises(ScopeMissing, match="flows:read"):
        list(stranger.lists(with_flows=True))


def test_a_list_is_created_by_one_request_whatever_comes_of_it(
    account: stand_in.Klaviyo, klaviyo: Klaviyo
) -> None:
    made = klaviyo.create_list("New")
    assert klaviyo.find_list(made.id).name == "New"
    account.faults.add([{"match": "POST /api/lists", "kind": "status", "status": 503, "times": 5}])
    with pytest.raises(KlaviyoUnavailable):
        klaviyo.create_list("Newer")
    assert account.stats.shown()["requests"]["POST /api/lists"] == 2


FAULTS = [
    ({"kind": "status", "status": 503}, Outcome.SERVER_ERROR),
    ({"kind": "throttle", "retry_after": 7}, Outcome.RATE_LIMITED),
    ({"kind": "html_403"}, Outcome.EDGE_REFUSED),
    ({"kind": "drop_before"}, Outcome.NO_ANSWER),
    ({"kind": "drop_after"}, Outcome.NO_ANSWER),
    ({"kind": "truncate"}, Outcome.UNREADABLE),
    ({"kind": "non_json", "status": 200}, Outcome.UNREADABLE),
    ({"kind": "non_json", "status": 502}, Outcome.SERVER_ERROR),
]


@pytest.mark.parametrize(("fault", "outcome"), FAULTS)
def test_a_question_is_asked_again_after_a_passing_failure(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, waits: Waits, fault: dict, outcome: Outcome
) -> None:
    account.faults.add([{"match": "GET /api/lists", "times": 2, **fault}])

    assert klaviyo.find_list(LIST).name == "VIPs"
    assert len(waits) == 2
    assert outcome is not Outcome.RATE_LIMITED or waits == [7, 7]


@pytest.mark.parametrize(("fault", "outcome"), FAULTS)
def test_a_failure_that_stays_is_raised_when_the_retry_table_says_so(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, waits: Waits, fault: dict, outcome: Outcome
) -> None:
    account.faults.add([{"match": "GET /api/lists", "times": None, **fault}])

    with pytest.raises((KlaviyoUnavailable, RateLimited)) as caught:
        klaviyo.find_list(LIST)
    assert outcome_of(caught.value) is outcome
    assert len(waits) == RETRIES[outcome].attempts - 1
    assert sum(waits) <= RETRIES[outcome].within_s


@pytest.mark.parametrize(("fault", "outcome"), FAULTS)
def test_an_import_is_never_sent_again_by_the_client(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, waits: Waits, fault: dict, outcome: Outcome
) -> None:
    account.faults.add([{"match": "POST /api/profile-bulk-import-jobs", **fault}])

    with pytest.raises((KlaviyoUnavailable, RateLimited)) as caught:
        klaviyo.start_import(batch(ADDRESS))
    assert outcome_of(caught.value) is outcome
    assert not waits
    assert account.stats.shown()["requests"] == {"POST /api/profile-bulk-import-jobs": 1}


def test_a_page_that_fails_is_asked_for_again_alone(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    klaviyo.start_import(batch(*people(250)))
    account.faults.add([{"match": "GET /api/lists", "kind": "drop_before", "after": 1}])

    assert len(list(klaviyo.profiles_of_list(LIST))) == 250
    assert account.stats.shown()["requests"]["GET /api/lists/{id}/profiles"] == 4


def test_nobody_listening_is_not_connected_and_nothing_was_sent(waits: Waits) -> None:
    with Klaviyo(
        SecretStr(KEY), base_url="http://127.0.0.1:9", sleep=waits.sleep, clock=waits.clock
    ) as klaviyo:
        with pytest.raises(Unavailable, match="could not be reached") as caught:
            klaviyo.start_import(batch(ADDRESS))
        assert caught.value.outcome is Outcome.NOT_CONNECTED
        assert "DNS" in caught.value.hint
        with pytest.raises(Unavailable):
            klaviyo.account()
        assert len(waits) == RETRIES[Outcome.NOT_CONNECTED].attempts - 1


def test_as_many_threads_as_send_share_a_client(
    account: stand_in.Klaviyo, klaviyo: Klaviyo
) -> None:
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        jobs = list(
            pool.map(
                lambda number: klaviyo.start_import(batch(f"p{number}@example.com"))[0], range(60)
            )
        )

    assert len({each.id for each in jobs}) == 60
    assert len(list(klaviyo.profiles_of_list(LIST))) == 60


def test_an_import_is_sent_as_it_is_with_all_that_klaviyo_asks_for(
    scripted: Scripted, asking: Klaviyo
) -> None:
    scripted.answers(202, {"data": JOB})
    body = batch(*people(20_000))
    job, _ = asking.start_import(body)

    assert job.created_at == datetime(2026, 11, 23, 10, tzinfo=UTC)
    method, target, headers, sent = scripted.requests[0]
    assert (method, target) == ("POST", "/api/profile-bulk-import-jobs")
    assert sent == body
    expected = {
        "Authorization": f"Klaviyo-API-Key {KEY}",
        "revision": "2026-10-15",
        "X-Klaviyo-Revision-Fall-Forward-Opt-Out": "1",
        "Accept": "application/vnd.api+json",
        "Content-Type": "application/vnd.api+json",
        "User-Agent": f"segment-exporter/{VERSION}",
    }
    assert headers.items() >= expected.items()


def test_a_netrc_file_does_not_replace_the_key(
    scripted: Scripted, asking: Klaviyo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password tool\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    scripted.answers(202, {"data": JOB})
    asking.start_import(b"{}")

    assert scripted.requests[0][2]["Authorization"] == f"Klaviyo-API-Key {KEY}"


def test_a_connection_is_kept_over_good_answers_and_bad_ones(scripted: Scripted) -> None:
    before = scripted.connections
    with Klaviyo(SecretStr(KEY), base_url=scripted.url) as klaviyo:
        for status, body in (
            (202, {"data": JOB}),
            (400, refusal()),
            (403, PAGE),
            (202, {"data": JOB}),
        ):
            scripted.answers(status, body, Set_Cookie="__cf_bm=abc; path=/")
            with contextlib.suppress(ExporterError):
                klaviyo.start_import(b"{}")

    assert scripted.connections == before + 1
    assert "Cookie" not in scripted.requests[0][2]


def test_no_redirect_is_followed(scripted: Scripted, asking: Klaviyo) -> None:
    scripted.answers(301, b"", Location=f"{scripted.url}/elsewhere")
    with pytest.raises(KlaviyoRejected) as caught:
        asking.account()
    assert len(scripted.requests) == 1
    assert "KLAVIYO_BASE_URL" in caught.value.hint


def test_an_answer_without_end_is_not_read_to_its_end(scripted: Scripted) -> None:
    scripted.answers(202, b" " * 200_000)
    with (
        Klaviyo(SecretStr(KEY), base_url=scripted.url, max_answer_bytes=1000) as klaviyo,
        pytest.raises(Unavailable, match="to its end") as caught,
    ):
        klaviyo.start_import(b"{}")
    assert caught.value.outcome is Outcome.UNREADABLE


def test_an_answer_that_drips_is_given_up(scripted: Scripted) -> None:
    ticks = itertools.count(0, 100)
    scripted.answers(202, b" " * 400_000)
    with (
        Klaviyo(SecretStr(KEY), base_url=scripted.url, clock=lambda: next(ticks)) as klaviyo,
        pytest.raises(Unavailable, match="to its end"),
    ):
        klaviyo.start_import(b"{}")


def test_a_server_that_says_nothing_is_a_time_out(scripted: Scripted) -> None:
    scripted.answers(202, b"", Content_Length="10")
    with (
        Klaviyo(SecretStr(KEY), base_url=scripted.url, read_s=0.05) as klaviyo,
        pytest.raises(Unavailable) as caught,
    ):
        klaviyo.start_import(b"{}")
    assert caught.value.outcome is Outcome.NO_ANSWER


def test_a_connection_that_nobody_takes_is_a_time_out_before_anything_was_sent() -> None:
    """A server whose queue of connections is full leaves the next one hanging."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        klaviyo = stack.enter_context(Klaviyo(SecretStr(KEY), base_url=url, connect_s=0.1))
        with pytest.raises(Unavailable, match="ConnectTimeout") as caught:
            klaviyo.start_import(b"{}")
    assert caught.value.outcome is Outcome.NOT_CONNECTED


def test_ids_are_quoted_into_the_path(scripted: Scripted, asking: Klaviyo) -> None:
    scripted.answers(200, {"data": JOB})
    asking.job("a/../b+c==")

    assert scripted.requests[0][1] == "/api/profile-bulk-import-jobs/a%2F..%2Fb%2Bc%3D%3D"


@pytest.mark.parametrize("job_id", ["", ".", "..", "a b", "a?b", "a#b", "é", "x" * 257, "a\nb"])
def test_an_id_that_would_change_the_question_is_a_mistake_of_ours(
    asking: Klaviyo, job_id: str
) -> None:
    """An empty one would ask for the collection, and succeed (rudder-server PR 5316)."""
    with pytest.raises(ValueError, match="not an id"):
        asking.job(job_id)
    with pytest.raises(ValueError, match="not an id"):
        asking.import_errors(job_id)


@pytest.mark.parametrize("list_id", ["", "..", "My list", "a/b?c"])
def test_a_list_id_that_cannot_be_one_is_a_list_that_is_not_there(
    asking: Klaviyo, list_id: str
) -> None:
    """It was typed by a person."""
    for ask in (
        asking.find_list,
        asking.profiles_of_list,
        lambda each: asking.remove_from_list(each, ["01"]),
    ):
        with pytest.raises(ListGone, match="list ID"):
            ask(list_id)


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/api/lists?page=2",
        "//evil.example/api/lists",
        "ftp://127.0.0.1/api/lists",
        "http://127.0.0.1:1/api/lists",
        "http://127.0.0.1@evil.example/",
        "http://127.0.0.1:99999999/",
        "http://[",
        "/api/profiles",
        "/api/lists/../accounts",
        "elsewhere",
    ],
)
def test_a_next_page_at_another_address_is_not_followed(
    scripted: Scripted, asking: Klaviyo, link: str
) -> None:
    scripted.answers(200, {"data": [], "links": {"next": link}})
    with pytest.raises(KlaviyoRejected, match="another address"):
        list(asking.lists())
    assert len(scripted.requests) == 1


def test_a_next_page_that_is_this_page_does_not_go_on_for_ever(
    scripted: Scripted, asking: Klaviyo
) -> None:
    scripted.answers(200, {"data": [], "links": {"next": "/api/lists?page=2"}})
    with pytest.raises(KlaviyoRejected, match="read already"):
        list(asking.lists())
    assert len(scripted.requests) == 2


def test_pages_that_go_round_do_not_go_on_for_ever(scripted: Scripted, asking: Klaviyo) -> None:
    scripted.links_to(1, 2, 1, 2)
    with pytest.raises(KlaviyoRejected, match="read already"):
        list(asking.lists())
    assert len(scripted.requests) == 3


def test_pages_have_an_end(scripted: Scripted) -> None:
    scripted.links_to(*range(9))
    with (
        Klaviyo(SecretStr(KEY), base_url=scripted.url, max_pages=5) as klaviyo,
        pytest.raises(KlaviyoRejected, match="no end"),
    ):
        list(klaviyo.lists())
    assert len(scripted.requests) == 5


@pytest.mark.parametrize("links", [None, {}, {"next": None}, {"next": ""}, {"next": 7}, []])
def test_no_next_page_is_the_end(scripted: Scripted, asking: Klaviyo, links: Any) -> None:
    scripted.answers(200, {"data": [], "links": links})
    assert list(asking.lists()) == []


def test_questions_go_out_as_klaviyo_documents_them(scripted: Scripted, asking: Klaviyo) -> None:
    scripted.answers(200, {"data": []})
    asking.profiles_by_email(["a+b@x.com", 'q"uote@x.com'])
    list(asking.jobs_since(datetime(2026, 11, 1, tzinfo=UTC)))
    list(asking.profiles_of_list(LIST))
    list(asking.lists("VIPs"))

    asked = [
        (urlsplit(target).path, parse_qs(urlsplit(target).query))
        for _, target, _, _ in scripted.requests
    ]
    assert asked == [
        (
            "/api/profiles",
            {
                "filter": [r'any(email,["a+b@x.com","q\"uote@x.com"])'],
                "fields[profile]": ["email"],
                "page[size]": ["100"],
            },
        ),
        ("/api/profile-bulk-import-jobs", {"sort": ["-created_at"], "page[size]": ["100"]}),
        (f"/api/lists/{LIST}/profiles", {"fields[profile]": ["email"], "page[size]": ["100"]}),
        ("/api/lists", {"filter": ['any(name,["VIPs"])']}),
    ]


@pytest.mark.parametrize("key", ["", "  ", "pk_a\r\nX: y", "pk_ä", "two words"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(KeyRefused) as caught:
        Klaviyo(SecretStr(key))
    assert not key.strip() or key not in str(caught.value)


def test_a_line_break_that_came_along_with_the_key_is_left_off(scripted: Scripted) -> None:
    scripted.answers(202, {"data": JOB})
    with Klaviyo(SecretStr(f" {KEY}\n"), base_url=scripted.url) as klaviyo:
        klaviyo.start_import(b"{}")
    assert scripted.requests[0][2]["Authorization"] == f"Klaviyo-API-Key {KEY}"


def test_a_certificate_file_that_is_missing_is_a_matter_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """requests raises a bare OSError for it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with (
        Klaviyo(SecretStr(KEY), base_url="https://127.0.0.1:9") as klaviyo,
        pytest.raises(Unavailable) as caught,
    ):
        klaviyo.start_import(b"{}")
    assert "certificate" in caught.value.hint


def test_a_retry_is_logged_with_its_reason(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, caplog: pytest.LogCaptureFixture
) -> None:
    account.faults.add([{"kind": "throttle", "retry_after": 3}])
    with caplog.at_level(logging.INFO, logger="exporter.klaviyo.client"):
        klaviyo.account()

    assert [(each.attempt, each.outcome, each.wait_s) for each in caplog.records] == [
        (1, "rate limited", 3.0)
    ]
