"""The client against the stand-in Klaviyo, and against a server that answers whatever a test wants."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import socket
import threading
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

import sandbox.klaviyo as stand_in
from exporter.errors import (
    BatchRefused,
    BatchTooLarge,
    ConfigError,
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
from exporter.klaviyo import client
from exporter.klaviyo.backoff import RETRIES, Outcome, Unavailable, outcome_of
from exporter.klaviyo.client import Klaviyo
from exporter.klaviyo.rate_limit import IN_FLIGHT
from exporter.klaviyo.statuses import STATUSES, NotFound

KEY = "pk_" + "0a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6e"
LIST = "Y6nRLr"
ADDRESS, PHONE = "jane.doe+vip@example.com", "+15005550006"


class Waits(list):
    """Instead of sleeping: what was waited, and a clock that moved on by it."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    def clock(self) -> float:
        return sum(self)


@pytest.fixture
def waits() -> Waits:
    return Waits()


# --- the stand-in ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[stand_in.Klaviyo, str]]:
    account = stand_in.Klaviyo()
    with stand_in.serving(account) as url:
        yield account, url


@pytest.fixture
def account(served: tuple[stand_in.Klaviyo, str]) -> stand_in.Klaviyo:
    """An empty account with one list, whose jobs are done at once."""
    account, _ = served
    account.settings = stand_in.Settings(limits=False, job_seconds=0)
    account.reset()
    account.call("POST", "/_sandbox/lists", {"id": LIST, "name": "VIPs"})
    return account


@pytest.fixture
def connect(served: tuple[stand_in.Klaviyo, str], waits: Waits) -> Iterator[Callable[..., Klaviyo]]:
    """Makes clients of the stand-in that do not sleep."""
    with contextlib.ExitStack() as stack:

        def connect(key: str = stand_in.FULL_KEY, **options: Any) -> Klaviyo:
            made = Klaviyo(
                SecretStr(key),
                base_url=served[1],
                sleep=waits.sleep,
                clock=waits.clock,
                jitter=lambda: 0.5,
                **options,
            )
            return stack.enter_context(made)

        yield connect


@pytest.fixture
def klaviyo(account: stand_in.Klaviyo, connect: Callable[..., Klaviyo]) -> Klaviyo:
    return connect()


def batch(*emails: str, list_id: str = LIST) -> bytes:
    profiles = [{"type": "profile", "attributes": {"email": each}} for each in emails]
    document = {
        "type": "profile-bulk-import-job",
        "attributes": {"profiles": {"data": profiles}},
        "relationships": {"lists": {"data": [{"type": "list", "id": list_id}]}},
    }
    return json.dumps({"data": document}).encode()


def people(count: int) -> list[str]:
    return [f"person{number}@example.com" for number in range(count)]


def test_account_says_whose_key_it_is(klaviyo: Klaviyo) -> None:
    found = klaviyo.account()

    assert found.id == "SANDBX"
    assert found.name


def test_find_list_reads_name_and_opt_in(klaviyo: Klaviyo) -> None:
    found = klaviyo.find_list(LIST)

    assert (found.id, found.name, found.opt_in_process) == (LIST, "VIPs", "double_opt_in")


def test_a_list_that_is_not_there_is_named(klaviyo: Klaviyo) -> None:
    with pytest.raises(
        ListGone, match="The list Xx9999 does not exist in this Klaviyo account"
    ) as caught:
        klaviyo.find_list("Xx9999")
    assert caught.value.status == 404
    assert "error " in caught.value.message


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
    assert rate == client.RateInfo(
        limit=None, remaining=None, reset_s=None
    )  # the stand-in's limits are off


def test_the_rate_limit_headers_come_with_the_job(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    account.settings.limits = True
    _, rate = klaviyo.start_import(batch(ADDRESS))

    assert rate == client.RateInfo(limit=150, remaining=149, reset_s=60)


def test_a_job_that_klaviyo_does_not_know_is_none(klaviyo: Klaviyo) -> None:
    assert klaviyo.job("bm9zdWNoam9i") is None


def test_jobs_since_are_newest_first_and_end_at_the_moment(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = itertools.count(int(time.time()), 3600)
    started = []
    for _ in range(5):
        moment = next(hour)
        monkeypatch.setattr(account, "clock", lambda moment=moment: float(moment))
        started.append(klaviyo.start_import(batch(ADDRESS))[0])
    monkeypatch.setattr(client, "PAGE_SIZE", 2)

    assert [each.id for each in klaviyo.jobs_since(started[1].created_at)] == [
        each.id for each in reversed(started[1:])
    ]
    assert not list(klaviyo.jobs_since(started[-1].created_at + timedelta(seconds=1)))
    requests = account.stats.shown()["requests"]["GET /api/profile-bulk-import-jobs"]
    assert requests == 3 + 1  # the page after the moment was not asked for


def test_jobs_since_refuses_a_moment_without_a_zone(klaviyo: Klaviyo) -> None:
    with pytest.raises(ValueError, match="time zone"):
        klaviyo.jobs_since(datetime(2026, 11, 23))


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
    assert [each.email for each in failures] == [emails[each.index or 0] for each in failures]
    assert {each.code for each in failures[:-1]} == {"invalid"}
    assert (failures[-1].code, failures[-1].title) == ("", "")
    assert all(each.detail for each in failures)
    assert "@" not in repr(failures)


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


def test_profiles_leave_and_join_a_list(klaviyo: Klaviyo) -> None:
    klaviyo.start_import(batch(*people(5)))
    ids = [profile_id for profile_id, _ in klaviyo.profiles_of_list(LIST)]

    klaviyo.remove_from_list(LIST, ids[:3])
    assert [profile_id for profile_id, _ in klaviyo.profiles_of_list(LIST)] == ids[3:]
    klaviyo.add_to_list(LIST, ids[:1])
    assert {profile_id for profile_id, _ in klaviyo.profiles_of_list(LIST)} == {ids[0], *ids[3:]}


def test_removing_nobody_needs_no_request(klaviyo: Klaviyo, account: stand_in.Klaviyo) -> None:
    """Klaviyo answers an empty array with 400."""
    klaviyo.remove_from_list(LIST, [])

    assert account.stats.shown()["requests"] == {}


def test_more_than_a_call_takes_is_refused_before_it_is_sent(klaviyo: Klaviyo) -> None:
    with pytest.raises(ValueError, match="at most 1000"):
        klaviyo.remove_from_list(LIST, ["01"] * 1001)
    with pytest.raises(ValueError, match="at most 100"):
        klaviyo.profiles_by_email(people(101))


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


def test_account_tells_klaviyos_time(klaviyo: Klaviyo) -> None:
    asked_at = klaviyo.account().asked_at

    assert asked_at is not None
    assert abs((datetime.now(UTC) - asked_at).total_seconds()) < 60


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


# --- failures on the way -----------------------------------------------------------------------------------------

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


def test_the_hint_of_an_edge_page_is_about_shared_addresses(
    klaviyo: Klaviyo, account: stand_in.Klaviyo
) -> None:
    account.faults.add([{"kind": "html_403"}])
    with pytest.raises(KlaviyoUnavailable) as caught:
        klaviyo.start_import(batch(ADDRESS))
    assert "NAT gateway" in caught.value.hint


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


# --- a server that answers whatever a test wants -----------------------------------------------------------------


@dataclass
class Scripted:
    """`answer` is what every request gets, `pages` the first ones instead; what came in is kept."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    pages: list[bytes] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0

    def answers(self, status: int, body: Any, **headers: str) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages.clear()
        self.requests.clear()

    def links_to(self, *numbers: int) -> None:
        """Empty pages, each of which names another as the next one."""
        self.answers(200, {"data": []})
        documents = (
            {"data": [], "links": {"next": f"/api/lists?page={number}"}} for number in numbers
        )
        self.pages += [json.dumps(document).encode() for document in documents]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            script.connections += 1

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append((self.command, self.path, dict(self.headers), body))
            content = script.pages.pop(0) if script.pages else script.body
            self.send_response(script.status)
            for name, value in {"Content-Length": str(len(content)), **script.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_DELETE(self) -> None:
            self.answer()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            """A client that hung up in the middle of an answer is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def asking(scripted: Scripted) -> Iterator[Klaviyo]:
    """A client of the scripted server. Its waiting is over at once and its time stands still."""
    with Klaviyo(
        SecretStr(KEY), base_url=scripted.url, sleep=lambda _: None, clock=lambda: 0.0
    ) as klaviyo:
        yield klaviyo


def refusal(detail: str = "No.", pointer: str | None = "/data", **more: Any) -> dict[str, Any]:
    source = {"pointer": pointer} if pointer is not None else {}
    error = {
        "id": "67ed6dbf-1653-499a-a11d-31310aa01ff7",
        "code": "x",
        "title": "X",
        "detail": detail,
    }
    return {"errors": [{**error, "source": source, **more}]}


PAGE = b"<html><title>Just a moment...</title></html>"
ROW = "/data/attributes/profiles/data/7/attributes/email"

# Every status of "Rate limits, status codes, and errors", those seen in incidents, and some that nobody announced.
ANSWERS: list[tuple[int, Any, type[ExporterError], Outcome]] = [
    (400, refusal(pointer=ROW), BatchRefused, Outcome.REFUSED),
    (400, PAGE, Unavailable, Outcome.UNREADABLE),
    (401, refusal(), KeyRefused, Outcome.REFUSED),
    (403, refusal(), ScopeMissing, Outcome.REFUSED),
    (403, PAGE, Unavailable, Outcome.EDGE_REFUSED),
    (404, refusal(), ListGone, Outcome.REFUSED),
    (404, PAGE, KlaviyoRejected, Outcome.REFUSED),
    (405, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (408, PAGE, Unavailable, Outcome.SERVER_ERROR),
    (409, refusal(), KlaviyoRejected, Outcome.REFUSED),
    (410, refusal(), RevisionRetired, Outcome.REFUSED),
    (413, refusal(), BatchTooLarge, Outcome.REFUSED),
    (413, PAGE, BatchTooLarge, Outcome.REFUSED),
    (414, PAGE, KlaviyoRejected, Outcome.REFUSED),
    (415, refusal(), KlaviyoRejected, Outcome.REFUSED),
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


def test_retry_after_as_a_date_is_left_to_our_own_backoff(
    scripted: Scripted, asking: Klaviyo
) -> None:
    scripted.answers(503, PAGE, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")
    with pytest.raises(Unavailable) as caught:
        asking.start_import(b"{}")
    assert caught.value.retry_after_s is None


JOB = {
    "type": "profile-bulk-import-job",
    "id": "Q09NMTIzOm1haW50ZW5hbmNlOmFiYy4xNzMyNTI5MzA5LjQ1Njc4OQ",
    "attributes": {"status": "queued", "created_at": "2026-11-23T10:00:00", "total_count": 2},
}


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
    version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "version"
    ]
    expected = {
        "Authorization": f"Klaviyo-API-Key {KEY}",
        "revision": "2026-07-15",
        "Accept": "application/vnd.api+json",
        "Content-Type": "application/vnd.api+json",
        "User-Agent": f"segment-exporter/{version}",
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


def test_an_answer_without_end_is_not_read_to_its_end(
    scripted: Scripted, asking: Klaviyo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1000)
    scripted.answers(202, b" " * 200_000)
    with pytest.raises(Unavailable, match="to its end") as caught:
        asking.start_import(b"{}")
    assert caught.value.outcome is Outcome.UNREADABLE


def test_an_answer_that_drips_is_given_up(scripted: Scripted) -> None:
    ticks = itertools.count(0, 100)
    scripted.answers(202, b" " * 400_000)
    with (
        Klaviyo(SecretStr(KEY), base_url=scripted.url, clock=lambda: next(ticks)) as klaviyo,
        pytest.raises(Unavailable, match="to its end"),
    ):
        klaviyo.start_import(b"{}")


def test_a_server_that_says_nothing_is_a_time_out(
    scripted: Scripted, asking: Klaviyo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_S", 0.05)
    scripted.answers(202, b"", Content_Length="10")
    with pytest.raises(Unavailable) as caught:
        asking.start_import(b"{}")
    assert caught.value.outcome is Outcome.NO_ANSWER


def test_a_connection_that_nobody_takes_is_a_time_out_before_anything_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server whose queue of connections is full leaves the next one hanging."""
    monkeypatch.setattr(client, "CONNECT_S", 0.1)
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        klaviyo = stack.enter_context(
            Klaviyo(SecretStr(KEY), base_url=f"http://127.0.0.1:{full.getsockname()[1]}")
        )
        with pytest.raises(Unavailable, match="ConnectTimeout") as caught:
            klaviyo.start_import(b"{}")
    assert caught.value.outcome is Outcome.NOT_CONNECTED


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


def test_pages_have_an_end(
    scripted: Scripted, asking: Klaviyo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.klaviyo.client.MAX_PAGES", 5)
    scripted.links_to(*range(9))
    with pytest.raises(KlaviyoRejected, match="no end"):
        list(asking.lists())
    assert len(scripted.requests) == 5


@pytest.mark.parametrize("links", [None, {}, {"next": None}, {"next": ""}, {"next": 7}, []])
def test_no_next_page_is_the_end(scripted: Scripted, asking: Klaviyo, links: Any) -> None:
    scripted.answers(200, {"data": [], "links": links})
    assert list(asking.lists()) == []


@pytest.mark.parametrize(
    "payload",
    [
        {"email": ADDRESS},
        {"attributes": {"email": ADDRESS}},
        {"data": {"attributes": {"email": ADDRESS}}},
    ],
)
def test_the_address_of_a_failure_is_found_in_any_payload(
    scripted: Scripted, asking: Klaviyo, payload: Any
) -> None:
    scripted.answers(200, {"data": [{"id": "e", "attributes": {"original_payload": payload}}]})
    assert [each.email for each in asking.import_errors("job")] == [ADDRESS]


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
        client.ImportFailure(index=None, email=None, code="", title="", detail="")
    ]


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


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://a.klaviyo.com",
        "ftp://a.klaviyo.com",
        "a.klaviyo.com",
        "",
        "https://",
        "https://a.klaviyo.com/api",
        "https://user:pw@a.klaviyo.com",
        "https://a.klaviyo.com?x=1",
        "https://a.klaviyo.com#x",
        "https://a.klaviyo.com?",
        "https://a.klaviyo.com:port",
        "https://[",
    ],
)
def test_an_unfit_base_url_is_a_matter_of_settings(url: str) -> None:
    with pytest.raises(ConfigError, match="KLAVIYO_BASE_URL"):
        Klaviyo(SecretStr(KEY), base_url=url)


@pytest.mark.parametrize(
    "url", ["https://a.klaviyo.com", "https://a.klaviyo.com/", "http://localhost:8080"]
)
def test_a_fit_base_url_is_taken(url: str) -> None:
    Klaviyo(SecretStr(KEY), base_url=url).close()


@pytest.mark.parametrize("revision", ["", "latest", "2026-07-15\r\nX: y"])
def test_an_unfit_revision_is_a_matter_of_settings(revision: str) -> None:
    with pytest.raises(ConfigError, match="KLAVIYO_REVISION"):
        Klaviyo(SecretStr(KEY), revision=revision)


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


# --- nothing personal and nothing secret gets out ----------------------------------------------------------------

PRIVATE = [
    KEY,
    ADDRESS,
    ADDRESS.upper(),
    ADDRESS.replace("@", "%40"),
    quote(ADDRESS),
    f"mailto:{ADDRESS}",
    PHONE,
    PHONE[1:],
]
PRIVATE += ["+1 500 555 0006", "(500) 555-0006", "500.555.0006"]


@contextlib.contextmanager
def everything_logged() -> Iterator[list[str]]:
    """The text of every log record of every logger, DEBUG included, with all of its fields."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.getMessage()} {record.__dict__}")

    root, handler = logging.getLogger(), Keep()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def everything_about(error: BaseException | None) -> str:
    """Its text, fields and traceback, and those of everything it is chained to, shown or not."""
    if error is None:
        return ""
    lines = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    return "\n".join(lines) + everything_about(error.__cause__ or error.__context__)


words = st.text(max_size=20) | st.sampled_from(["", " ", '"', "'", "<", ".", ", ", "Invalid "])
indiscreet = st.builds("{}{}{}".format, words, st.sampled_from(PRIVATE), words)
anything = st.recursive(
    st.none() | st.integers() | indiscreet, lambda inner: st.lists(inner, max_size=2), max_leaves=3
)
long_words = st.builds("{} {}".format, st.integers(1960, 1999).map("x".__mul__), indiscreet)
row_pointers = st.builds(
    "/data/attributes/profiles/data/{}/attributes/properties/{}".format,
    st.integers(0, 9),
    indiscreet,
)
pointers = st.sampled_from([ROW, "/data", "/data/relationships/lists/data/0/id"]) | row_pointers
errors = st.fixed_dictionaries(
    {},
    optional={
        "id": anything,
        "code": anything,
        "title": anything,
        "detail": anything | long_words,
        "source": st.fixed_dictionaries(
            {}, optional={"pointer": pointers | anything, "parameter": anything}
        ),
    },
)
resources = st.fixed_dictionaries(
    {"attributes": errors}, optional={"id": anything | st.just("abc"), "original_payload": anything}
)
bodies = st.one_of(
    st.builds(lambda found: {"errors": found}, st.lists(errors, max_size=3)),
    st.builds(
        lambda found: {"data": found, "links": {"next": None}},
        st.lists(resources, max_size=3) | resources,
    ),
    st.builds(
        lambda link: {"data": [], "links": {"next": link}},
        indiscreet
        | st.builds(
            "{}{}".format, st.sampled_from(["/", "/api/profiles?", "http://127.0.0.1/"]), indiscreet
        ),
    ),
    anything,
    st.builds(lambda word: f"<html>{word}</html>".encode(), indiscreet),
    st.binary(max_size=20).map(lambda noise: noise + ADDRESS.encode()),
)
statuses = st.sampled_from([*STATUSES, 200, 202, 418, 599])

QUESTIONS: list[Callable[[Klaviyo], Any]] = [
    lambda klaviyo: klaviyo.start_import(batch(ADDRESS)),
    lambda klaviyo: klaviyo.account(),
    lambda klaviyo: klaviyo.find_list(LIST),
    lambda klaviyo: list(klaviyo.import_errors("job")),
    lambda klaviyo: klaviyo.profiles_by_email([ADDRESS]) and None,
    lambda klaviyo: klaviyo.remove_from_list(LIST, ["01ABC"]),
]


@given(status=statuses, body=bodies, ask=st.sampled_from(QUESTIONS), edge=st.booleans())
def test_whatever_klaviyo_answers_nothing_private_gets_out(
    scripted: Scripted,
    asking: Klaviyo,
    status: int,
    body: Any,
    ask: Callable[[Klaviyo], Any],
    edge: bool,
) -> None:
    scripted.answers(status, body, **({"cf_mitigated": "challenge"} if edge else {}))
    told = ""
    with everything_logged() as lines:
        try:
            told = repr(ask(asking))
        except ExporterError as exc:
            told = everything_about(exc) + repr(getattr(exc, "rows", ""))
    told += "".join(lines)

    assert not [each for each in PRIVATE if each in told]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "source": st.fixed_dictionaries({"pointer": row_pointers}),
                "detail": indiscreet | long_words,
            },
            optional={"id": indiscreet | st.sampled_from(PRIVATE), "title": indiscreet},
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_klaviyo_says_about_rows_nothing_private_gets_out(
    scripted: Scripted, asking: Klaviyo, found: list[Any]
) -> None:
    scripted.answers(400, {"errors": found})
    with pytest.raises(BatchRefused) as caught:
        asking.start_import(b"{}")
    told = everything_about(caught.value)
    assert not [each for each in PRIVATE if each in told]

    scripted.answers(
        200,
        {
            "data": [
                {"attributes": {"code": "x", **each, "original_payload": each}} for each in found
            ]
        },
    )
    told = repr(list(asking.import_errors("job")))
    assert not [each for each in PRIVATE if each in told]


@pytest.mark.parametrize(
    "detail",
    [
        f"{KEY[:9]}\u200b{KEY[9:]}",
        "+1\u200b500\u200b555\u200b0006",
        "x" * 1985 + f"@b {ADDRESS}",  # what is looked at ends in the middle of the second address
    ],
)
def test_what_is_private_is_found_although_it_is_split_or_cut(
    scripted: Scripted, asking: Klaviyo, detail: str
) -> None:
    scripted.answers(400, refusal(detail, ROW))
    with pytest.raises(BatchRefused) as caught:
        asking.start_import(b"{}")
    reason = caught.value.rows[0].reason.replace("\u200b", "")
    assert not [each for each in (*PRIVATE, "jane") if each in reason]


def broken_off(klaviyo: Klaviyo, ask: Callable[[Klaviyo], Any]) -> str:
    with everything_logged() as lines, pytest.raises(Unavailable) as caught:
        ask(klaviyo)
    return everything_about(caught.value) + "".join(lines)


@pytest.mark.parametrize("ask", QUESTIONS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", None])
def test_when_there_is_no_answer_nothing_private_gets_out_either(
    scripted: Scripted, ask: Callable[[Klaviyo], Any], url: str | None
) -> None:
    """Errors of the libraries hold the address that was asked for, and with it the e-mails of its filter."""
    scripted.answers(200, b"{", Content_Length="5", Connection="close")
    with Klaviyo(
        SecretStr(KEY),
        base_url=url or scripted.url,
        sleep=lambda _: None,
        jitter=lambda: 0.0,
        clock=lambda: 0.0,
    ) as klaviyo:
        told = broken_off(klaviyo, ask)

    assert not [each for each in PRIVATE if each in told]


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


def test_neither_client_nor_key_shows_the_key(asking: Klaviyo) -> None:
    assert KEY not in repr(asking)
    assert KEY not in repr(vars(asking))


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


def test_the_library_errors_cause_is_kept_where_it_is_harmless() -> None:
    with (
        Klaviyo(SecretStr(KEY), base_url="http://127.0.0.1:9") as klaviyo,
        pytest.raises(Unavailable) as caught,
    ):
        klaviyo.start_import(b"{}")
    cause = caught.value.__cause__
    assert isinstance(cause, requests.ConnectionError)
    assert "refused" in str(cause)
    assert cause.request is None  # it holds the key and the body


def test_a_retry_is_logged_with_its_reason(
    klaviyo: Klaviyo, account: stand_in.Klaviyo, caplog: pytest.LogCaptureFixture
) -> None:
    account.faults.add([{"kind": "throttle", "retry_after": 3}])
    with caplog.at_level(logging.INFO, logger="exporter.klaviyo.client"):
        klaviyo.account()

    assert [(each.attempt, each.outcome, each.wait_s) for each in caplog.records] == [
        (1, "rate limited", 3.0)
    ]
