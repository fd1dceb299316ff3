"""A thin client for the part of Klaviyo's REST API that the exporter uses.

    reading   account, probe_scopes, find_list, count_list, lists, flows_of_list, jobs_since, job,
              import_errors, arrivals, usage, profiles_of_list, profiles_by_email, found_in_list
    writing   probe_writing, start_import, create_list, remove_from_list, ask_for_deletion

Every request but those of `start_import` and `create_list` can be repeated without harm: the client
repeats it as `backoff.decide` says. The sender decides when an import is sent again. Every call has
a time-out and every answer a size limit; responses.py and statuses.py say what an answer means. No
error and no log line holds the key, an address, a telephone number or a body.

Under each method stands the page of Klaviyo's reference that it follows.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import requests
import urllib3
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from exporter import VERSION, telemetry
from exporter.definitions.mapping import IDENTIFIERS
from exporter.errors import (
    ConfigError,
    ExporterError,
    KeyRefused,
    KlaviyoRejected,
    ListGone,
    RateInfo,
    ScopeMissing,
    Transient,
)
from exporter.klaviyo import base_url as addresses
from exporter.klaviyo.backoff import GiveUp, Outcome, Unavailable, Wait, decide, outcome_of
from exporter.klaviyo.base_url import BASE_URL, REVISION
from exporter.klaviyo.limits import (
    CONNECT_S,
    MAX_ANSWER_BYTES,
    MAX_EMAILS_PER_QUERY,
    MAX_MEMBERS_PER_CALL,
    MAX_PAGES,
    MAX_QUERY_BYTES,
    PAGE_SIZE,
    READ_S,
)
from exporter.klaviyo.rate_limit import IN_FLIGHT, Pacer
from exporter.klaviyo.responses import (
    BASE_URL_HINT,
    ID_PATTERN,
    JOBS_PATH,
    Account,
    AccountUsage,
    Answer,
    Call,
    ImportFailure,
    ImportJob,
    KlaviyoList,
    one_resource,
    parse_json,
    read_account,
    read_failure,
    read_flow,
    read_identifiers,
    read_job,
    read_list,
    read_list_with_flows,
    read_nothing,
    read_profile,
    read_profile_count,
    read_promise,
    read_resources,
    read_usage,
)
from exporter.klaviyo.statuses import NotFound, error_for

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEDIA_TYPE = "application/vnd.api+json"

ANSWER_S = 120.0  # for a whole answer: `read_s` only limits the pause between two pieces of it
PIECE_BYTES = 65_536

DELETIONS_PATH = "/api/data-privacy-deletion-jobs"

NETWORK_HINT = (
    "Check the way to the internet: DNS, firewall, proxy and its certificate, and KLAVIYO_BASE_URL."
)


class Klaviyo:
    """One Klaviyo account, used with one key. Safe for up to IN_FLIGHT threads at once."""

    def __init__(
        self,
        key: SecretStr,
        *,
        base_url: str = BASE_URL,
        revision: str = REVISION,
        fall_forward: bool = False,
        patience_s: float = math.inf,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_pages: int = MAX_PAGES,
        page_size: int = PAGE_SIZE,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Check what was given; no request is made yet.

        fall_forward: Klaviyo may answer as another revision once it has retired ours.
        patience_s: no request is repeated later than this after its first attempt, whatever the
        retry table says, because a person is waiting.
        Raises KeyRefused for a key that no header can carry, ConfigError for an address or a
        revision that cannot be right.
        """
        self._base_url = _checked("KLAVIYO_BASE_URL", addresses.parse_base_url, base_url)
        self._auth = _KeyAuth(_checked_key(key))
        self.revision = revision
        self._patience_s = patience_s
        self._timeout = (connect_s, read_s)
        self._max_answer_bytes = max_answer_bytes
        self._max_pages = max_pages
        self._page_size = str(page_size)
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._pacers: dict[str, Pacer] = {}
        self._session = _session(_checked("KLAVIYO_REVISION", addresses.parse_revision, revision))
        if not fall_forward:
            # Else Klaviyo answers a retired revision as a younger one, maybe in another shape.
            self._session.headers[addresses.OPT_OUT_HEADER] = "1"
        for name in ("urllib3.connectionpool", "urllib3.util.retry"):
            logging.getLogger(name).addFilter(_hide_queries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    # Reading

    def account(self) -> Account:
        """Say whose key this is: a person checks that before anything is sent. 1/s, 15/min.

        https://developers.klaviyo.com/en/reference/get_accounts
        """
        return self._ask(
            Call(method="GET", target="/api/accounts", scopes="accounts:read"), read_account
        )

    def probe_scopes(self) -> dict[str, bool]:
        """Say which read scopes the key has; `account` shows whether it has accounts:read.

        https://developers.klaviyo.com/en/reference/get_lists
        https://developers.klaviyo.com/en/reference/get_profiles
        """
        profiles = {"page[size]": "1", "fields[profile]": "created"}
        probes = {"lists:read": "/api/lists", "profiles:read": _target("/api/profiles", profiles)}
        return {
            scope: self._has_scopes(Call(method="GET", target=target, scopes=scope))
            for scope, target in probes.items()
        }

    def probe_writing(self) -> dict[str, bool | None]:
        """Say which write scopes the key has, by requests that Klaviyo must refuse.

        One names no list, the other no profiles, so nothing is written. Klaviyo does not document
        that it checks scopes before bodies. None where the answers leave a scope open.

        https://developers.klaviyo.com/en/reference/create_list
        https://developers.klaviyo.com/en/reference/bulk_import_profiles
        """
        no_name = {"data": {"type": "list", "attributes": {}}}
        no_profiles = {
            "data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": []}}}
        }
        lists = self._has_scopes(
            Call(method="POST", target="/api/lists", scopes="lists:write", body=_body(no_name))
        )
        scopes = "lists:write and profiles:write"
        both = self._has_scopes(
            Call(method="POST", target=JOBS_PATH, scopes=scopes, body=_body(no_profiles))
        )
        return {"lists:write": lists, "profiles:write": both if lists else None}

    def find_list(self, list_id: str, *, read_s: float | None = None) -> KlaviyoList:
        """Return a list. Raises ListGone if the account does not have it.

        read_s: how long to wait for the answer, repetitions included, where that is less than
        usual: for callers that only want to know whether the account answers.

        https://developers.klaviyo.com/en/reference/get_list
        """
        path = f"/api/lists/{_checked_list_id(list_id)}"
        call = Call(method="GET", target=path, scopes="lists:read", list_id=list_id, read_s=read_s)
        return self._ask(call, one_resource(read_list))

    def count_list(self, list_id: str) -> int:
        """Return how many profiles a list has. Klaviyo's count may be late. 1/s, 15/min.

        https://developers.klaviyo.com/en/reference/get_list
        """
        path = f"/api/lists/{_checked_list_id(list_id)}"
        target = _target(path, {"additional-fields[list]": "profile_count"})
        call = Call(method="GET", target=target, scopes="lists:read", list_id=list_id)
        return self._ask(call, one_resource(read_profile_count))

    def lists(self, name: str | None = None, *, with_flows: bool = False) -> Iterator[KlaviyoList]:
        """Return all lists, or those with this name: names are not unique. 10 lists a request.

        with_flows: also the flows that joining each list starts; needs the scope flows:read.

        https://developers.klaviyo.com/en/reference/get_lists
        """
        query = {} if name is None else {"filter": f"any(name,[{_quoted(name)}])"}
        if not with_flows:
            return self._pages(_target("/api/lists", query), read_list, scopes="lists:read")
        query |= {"include": "flow-triggers", "fields[flow]": "name,status,archived"}
        return self._pages(
            _target("/api/lists", query), read_list_with_flows, scopes="lists:read and flows:read"
        )

    def flows_of_list(self, list_id: str) -> tuple[str, ...]:
        """Name the flows that joining a list starts. Needs the scope flows:read. 3/s, 60/min.

        https://developers.klaviyo.com/en/reference/get_flows_triggered_by_list
        """
        path = f"/api/lists/{_checked_list_id(list_id)}/flow-triggers"
        flows = self._pages(path, read_flow, scopes="lists:read and flows:read", list_id=list_id)
        return tuple(name for name in flows if name)

    def jobs_since(self, created_after: datetime, *statuses: str) -> Iterator[ImportJob]:
        """Return the account's import jobs, newest first, back to a moment.

        statuses: "queued", "processing", "complete"; none means all.

        https://developers.klaviyo.com/en/reference/get_bulk_import_profiles_jobs
        """
        if created_after.tzinfo is None:
            raise ValueError("created_after needs a time zone")
        query = {"sort": "-created_at", "page[size]": self._page_size}
        if statuses:
            query["filter"] = f"any(status,[{','.join(map(_quoted, statuses))}])"
        target = _target(JOBS_PATH, query)
        jobs = self._pages(target, read_job, scopes="lists:read and profiles:read")
        return itertools.takewhile(lambda job: job.created_at >= created_after, jobs)

    def job(self, job_id: str) -> ImportJob | None:
        """Return an import job, or None if Klaviyo does not know it.

        https://developers.klaviyo.com/en/reference/get_bulk_import_profiles_job
        """
        # An empty id would ask for the collection, and succeed (rudder-server PR 5316).
        path = f"{JOBS_PATH}/{_checked_id(job_id)}"
        call = Call(method="GET", target=path, scopes="lists:read and profiles:read")
        try:
            return self._ask(call, one_resource(read_job))
        except NotFound:
            return None

    def import_errors(self, job_id: str) -> Iterator[ImportFailure]:
        """Return the rows that a job did not import. Raises NotFound for a job that is gone.

        https://developers.klaviyo.com/en/reference/get_errors_for_bulk_import_profiles_job
        """
        path = f"{JOBS_PATH}/{_checked_id(job_id)}/import-errors"
        target = _target(path, {"page[size]": self._page_size})
        return self._pages(target, read_failure, scopes="profiles:read")

    def arrivals(self, job_id: str) -> Iterator[dict[str, str]]:
        """Return the identifiers of the profiles that a job imported, 100 a request.

        Raises NotFound for a job that is gone.

        https://developers.klaviyo.com/en/reference/get_profiles_for_bulk_import_profiles_job
        """
        path = f"{JOBS_PATH}/{_checked_id(job_id)}/profiles"
        query = {"fields[profile]": ",".join(IDENTIFIERS), "page[size]": self._page_size}
        return self._pages(_target(path, query), read_identifiers, scopes="profiles:read")

    def usage(self) -> AccountUsage | None:
        """Return how many people the account holds and has room for; None if there is no telling.

        Needs the scope usage:read and a revision from 2026-10-15 on. Asked once: nobody fails or
        waits for want of it. 10/s, 150/min.

        https://developers.klaviyo.com/en/reference/get_billing_usages
        """
        call = Call(method="GET", target="/api/billing-usage", scopes="usage:read")
        try:
            resources = self._once(call, read_resources)
        except ExporterError as exc:
            logger.info("usage not known", extra={"cause": type(exc).__name__})
            return None
        return next(filter(None, map(read_usage, resources)), None)

    def profiles_of_list(self, list_id: str) -> Iterator[tuple[str, str | None]]:
        """Return (profile ID, e-mail address) of every member of a list, 100 a request.

        Nothing calls this yet: removing leavers will.

        https://developers.klaviyo.com/en/reference/get_profiles_for_list
        """
        path = f"/api/lists/{_checked_list_id(list_id)}/profiles"
        target = _target(path, {"fields[profile]": "email", "page[size]": self._page_size})
        return self._pages(
            target, read_profile, scopes="lists:read and profiles:read", list_id=list_id
        )

    def profiles_by_email(self, emails: Sequence[str]) -> dict[str, str]:
        """Return profile IDs by the addresses as given, compared without regard to case.

        Unknown addresses are left out. Nothing calls this yet: removing leavers will.

        https://developers.klaviyo.com/en/reference/get_profiles
        """
        return self._by_email("/api/profiles", emails, scopes="profiles:read")

    def found_in_list(self, list_id: str, emails: Sequence[str]) -> set[str]:
        """Return those of the addresses that belong to members of a list.

        https://developers.klaviyo.com/en/reference/get_profiles_for_list
        """
        path = f"/api/lists/{_checked_list_id(list_id)}/profiles"
        return set(
            self._by_email(path, emails, scopes="lists:read and profiles:read", list_id=list_id)
        )

    # Writing

    def start_import(self, body: bytes) -> tuple[ImportJob, RateInfo]:
        """Send one batch, once. Klaviyo answers 202 and imports it later.

        Raises BatchRefused, BatchTooLarge, ListGone, RateLimited and KlaviyoUnavailable. After the
        last one the batch may have been taken, unless `outcome_of` says NOT_CONNECTED.

        https://developers.klaviyo.com/en/reference/bulk_import_profiles
        """
        scopes = "lists:write and profiles:write"
        call = Call(method="POST", target=JOBS_PATH, scopes=scopes, body=body)
        return self._once(call, lambda answer: (one_resource(read_job)(answer), answer.rate))

    def create_list(self, name: str) -> KlaviyoList:
        """Create a list. Sent once, because a second request would create a second list.

        10/s, 150/min, 150 a day.

        https://developers.klaviyo.com/en/reference/create_list
        """
        body = _body({"data": {"type": "list", "attributes": {"name": name}}})
        call = Call(method="POST", target="/api/lists", scopes="lists:write", body=body)
        return self._once(call, one_resource(read_list))

    def remove_from_list(self, list_id: str, profile_ids: Sequence[str]) -> None:
        """Remove up to 1,000 profiles, given by Klaviyo's IDs, from a list. Consent stays as it is.

        Nothing calls this yet: removing leavers will.

        https://developers.klaviyo.com/en/reference/remove_profiles_from_list
        """
        if len(profile_ids) > MAX_MEMBERS_PER_CALL:
            raise ValueError(f"at most {MAX_MEMBERS_PER_CALL} profiles at once")
        path = f"/api/lists/{_checked_list_id(list_id)}/relationships/profiles"
        if not profile_ids:
            return  # Klaviyo answers an empty array with 400
        body = _body({"data": [{"type": "profile", "id": each} for each in profile_ids]})
        scopes = "lists:write and profiles:write"
        try:
            self._ask(Call(method="DELETE", target=path, scopes=scopes, body=body), read_nothing)
        except NotFound:
            # The 404 may be about a profile instead; this raises if it is about the list.
            self.find_list(list_id)
            raise

    def ask_for_deletion(self, **identifier: str) -> None:
        """Ask Klaviyo to delete, for good, every profile with this `email` or `phone_number`.

        Klaviyo does it later. 3/s, 60/min.

        https://developers.klaviyo.com/en/reference/request_profile_deletion
        """
        profile = {"type": "profile", "attributes": identifier}
        data = {"type": "data-privacy-deletion-job", "attributes": {"profile": {"data": profile}}}
        body, scopes = _body({"data": data}), "data-privacy:write"
        self._ask(
            Call(method="POST", target=DELETIONS_PATH, scopes=scopes, body=body), read_promise
        )

    # Requests

    def _has_scopes(self, call: Call) -> bool:
        """Say whether the key has a call's scopes. A call with a body must be one that gets 400."""
        try:
            self._ask(call, read_resources if call.body is None else read_nothing)
        except ScopeMissing:
            return False
        except KlaviyoRejected as exc:
            if call.body is None or exc.status != 400:
                raise
        return True

    def _by_email(
        self, path: str, emails: Sequence[str], *, scopes: str, list_id: str = ""
    ) -> dict[str, str]:
        if len(emails) > MAX_EMAILS_PER_QUERY:
            raise ValueError(f"at most {MAX_EMAILS_PER_QUERY} addresses at once")
        found: dict[str, str] = {}
        for group in _groups([_quoted(each) for each in emails]):
            query = {
                "fields[profile]": "email",
                "page[size]": self._page_size,
                "filter": f"any(email,[{group}])",
            }
            profiles = self._pages(
                _target(path, query), read_profile, scopes=scopes, list_id=list_id
            )
            found.update((email.lower(), profile_id) for profile_id, email in profiles if email)
        return {email: found[email.lower()] for email in emails if email.lower() in found}

    def _pages(
        self,
        target: str,
        read: Callable[[dict[str, Any], Answer], T],
        *,
        scopes: str,
        list_id: str = "",
    ) -> Iterator[T]:
        """Return the items of a collection, page by page.

        Raises KlaviyoRejected for pages without end.
        """

        def read_page(answer: Answer) -> tuple[list[T], str]:
            items = [read(each, answer) for each in read_resources(answer)]
            return items, self._next_target(answer)

        seen: set[str] = set()
        while target:
            seen.add(target)
            call = Call(method="GET", target=target, scopes=scopes, list_id=list_id)
            items, target = self._ask(call, read_page)
            yield from items
            if target in seen:
                raise KlaviyoRejected("Klaviyo's next page is one that was read already.")
            if len(seen) >= self._max_pages:
                pages = f"{self._max_pages:,}"
                raise KlaviyoRejected(f"Klaviyo's pages have no end: {pages} were read.")

    def _next_target(self, answer: Answer) -> str:
        """Return path and query of the next page, "" at the end.

        Only the query may change: the key is sent to no other address.
        """
        if not answer.next_link:
            return ""
        own_origin, _ = addresses.split(self._base_url)
        origin, target = addresses.split(answer.next_link, base=self._base_url)
        if origin != own_origin or _path(target) != _path(answer.call.target):
            raise KlaviyoRejected("Klaviyo's next page is at another address.", hint=BASE_URL_HINT)
        return target

    def _ask(self, call: Call, read: Callable[[Answer], T]) -> T:
        """Make a request, and repeat it as the retry table says."""
        started, attempt = self._clock(), 0
        patience_s = min(self._patience_s, call.read_s or math.inf)
        while True:
            attempt += 1
            self._pace(call)
            try:
                return self._once(call, read)
            except Transient as exc:
                elapsed_s = self._clock() - started
                wait_s = self._wait_s(exc, attempt, elapsed_s)
                if wait_s is None or elapsed_s + wait_s > patience_s:
                    raise
                outcome, waited = outcome_of(exc).value, round(wait_s, 3)
            logger.info(
                "asking Klaviyo again",
                extra={"attempt": attempt, "outcome": outcome, "wait_s": waited},
            )
            telemetry.waited(wait_s, telemetry.RETRY_WAIT)
            self._sleep(wait_s)

    def _wait_s(self, error: Transient, attempt: int, elapsed_s: float) -> float | None:
        """Return how long to wait before the next attempt, None for no other attempt."""
        verdict = decide(
            attempt,
            outcome_of(error),
            elapsed_s,
            retry_after_s=error.retry_after_s,
            jitter=self._jitter(),
        )
        match verdict:
            case Wait(seconds):
                return seconds
            case GiveUp():
                return None

    def _pace(self, call: Call) -> None:
        """Wait for Klaviyo's limits where many requests follow each other: reading import jobs.

        One thread at a time does that. Each of these endpoints has the limits of the imports.
        """
        if call.method != "GET" or not call.target.startswith(JOBS_PATH):
            return
        pacer = self._pacers.setdefault(telemetry.endpoint(call.target), Pacer())
        now = self._clock()
        if wait_s := pacer.wait_s(now):
            telemetry.waited(wait_s, telemetry.PACE_WAIT)
            self._sleep(wait_s)
        pacer.sent(now + wait_s)

    def _once(self, call: Call, read: Callable[[Answer], T]) -> T:
        with telemetry.request(call.method, self._base_url, call.target) as exchange:
            answer = self._exchange(call)
            exchange.status = answer.status
        if not 200 <= answer.status < 300:
            error = error_for(answer)
            if isinstance(error, KlaviyoRejected):
                error.rate = answer.rate
            raise error
        return read(answer)

    def _exchange(self, call: Call) -> Answer:
        """Send one request and read its answer. Raises Unavailable if there is none to read."""
        try:
            with self._session.request(
                call.method,
                self._base_url + call.target,
                data=call.body,
                headers={} if call.body is None else {"Content-Type": MEDIA_TYPE},
                auth=self._auth,
                timeout=self._timeout_of(call),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = self._read(response)
        except (OSError, urllib3.exceptions.HTTPError) as exc:  # requests' own are OSErrors too
            if isinstance(exc, requests.RequestException):
                exc.request = None  # it holds the key and the body
            # The text may hold the address, and the e-mails in its filter: then it is not chained.
            error, cause = _without_answer(exc), None if "?" in call.target else exc
        else:
            return Answer(
                call=call,
                status=response.status_code,
                headers=response.headers,
                document=parse_json(body),
                key=self._auth.key,
            )
        raise error from cause

    def _timeout_of(self, call: Call) -> tuple[float, float]:
        connect_s, read_s = self._timeout
        if call.read_s is None:
            return connect_s, read_s
        return min(connect_s, call.read_s), min(read_s, call.read_s)

    def _read(self, response: requests.Response) -> bytes:
        """Return the decompressed body, unless it is too long or takes too long."""
        pieces: list[bytes] = []
        size, deadline = 0, self._clock() + ANSWER_S
        while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > self._max_answer_bytes or self._clock() > deadline:
                raise urllib3.exceptions.ProtocolError("too long")
        return b"".join(pieces)


class _KeyAuth(AuthBase):
    """Sets the key as late as possible, and so keeps a .netrc file from replacing it."""

    def __init__(self, key: SecretStr) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Klaviyo-API-Key {self.key.get_secret_value()}"
        return request


def _session(revision: str) -> requests.Session:
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=IN_FLIGHT))
    session.headers.update(
        {"Accept": MEDIA_TYPE, "revision": revision, "User-Agent": f"segment-exporter/{VERSION}"}
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # the edge's; we need none
    return session


class _HideQueries(logging.Filter):
    """Cuts what follows the "?": urllib3 logs addresses, and ours hold e-mails in filters."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{each.partition('?')[0]}?..." if isinstance(each, str) and "?" in each else each
                for each in record.args
            )
        return True


_hide_queries = _HideQueries()


def _without_answer(exc: Exception) -> Unavailable:
    """Return the error for a request that got no whole answer. Names its kind, never its text."""
    kind = type(exc).__name__
    if _is_before_sending(exc):
        sentence = f"Klaviyo could not be reached ({kind})."
        return Unavailable(sentence, outcome=Outcome.NOT_CONNECTED, hint=NETWORK_HINT)
    is_timeout = isinstance(exc, urllib3.exceptions.TimeoutError)
    if isinstance(exc, urllib3.exceptions.HTTPError) and not is_timeout:
        sentence = f"Klaviyo's answer could not be read to its end ({kind})."
        return Unavailable(sentence, outcome=Outcome.UNREADABLE)
    return Unavailable(f"Klaviyo did not answer ({kind}).", outcome=Outcome.NO_ANSWER)


def _is_before_sending(exc: Exception) -> bool:
    """Say whether a request certainly did not leave: DNS, TCP, proxy or certificate failed."""
    match exc:
        case requests.exceptions.ConnectTimeout() | requests.exceptions.ProxyError():
            return True
        case requests.exceptions.RequestException():
            if isinstance(exc, ValueError):  # our address, or the proxy's, is none
                return True
        case _:
            return type(exc) is OSError  # requests did not find a file of certificates
    reason = getattr(exc.args[0], "reason", None) if exc.args else None
    if isinstance(reason, urllib3.exceptions.SSLError):
        return any(isinstance(each, ssl.SSLCertVerificationError) for each in reason.args)
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


# What may be part of a request

_KEY_PATTERN = re.compile(r"[!-~]{1,512}")


def _checked_id(given: str) -> str:
    """Quote an ID for a path. Raises ValueError for an ID that would change the path's meaning."""
    if not ID_PATTERN.fullmatch(given):
        raise ValueError("not an id of Klaviyo's")
    return quote(given, safe="")


def _checked_list_id(given: str) -> str:
    try:
        return _checked_id(given)
    except ValueError:
        message = "The list ID is empty or holds characters that no Klaviyo list ID has."
        raise ListGone(message) from None


def _checked_key(key: SecretStr) -> SecretStr:
    value = key.get_secret_value().strip()  # a line break comes along easily when a key is pasted
    if not _KEY_PATTERN.fullmatch(value):
        raise KeyRefused("The Klaviyo key is empty or holds characters that no key has.")
    return SecretStr(value)


def _checked(setting: str, parse: Callable[[str], str], text: str) -> str:
    try:
        return parse(text)
    except ValueError as exc:
        raise ConfigError(f"{setting} {exc}.") from None


def _path(target: str) -> str:
    """Return the path without the query. Klaviyo's links end it with a slash, its pages do not."""
    return target.partition("?")[0].rstrip("/")


def _target(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query, quote_via=quote)}" if query else path


def _quoted(value: str) -> str:
    """Quote a text as Klaviyo's filters take it."""
    return json.dumps(value, ensure_ascii=False)


def _groups(quoted: Iterable[str]) -> Iterator[str]:
    """Join filter values with commas, in groups that an address has room for."""
    group: list[str] = []
    size = 0
    for each in quoted:
        length = len(quote(f"{each},"))
        if group and size + length > MAX_QUERY_BYTES:
            yield ",".join(group)
            group, size = [], 0
        group.append(each)
        size += length
    if group:
        yield ",".join(group)


def _body(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
