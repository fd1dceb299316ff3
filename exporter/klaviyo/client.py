"""A thin client for the part of Klaviyo's REST API that the exporter uses.

    reading   account, probe_scopes, find_list, count_list, lists, flows_of_list, jobs_since, job, import_errors,
              profiles_of_list, profiles_by_email, found_in_list
    writing   probe_writing, start_import, create_list, add_to_list, remove_from_list, ask_for_deletion

Everything but `start_import` and `create_list` can be sent twice without harm and is retried here by `pacing.decide`;
when and whether an import is sent again is its sender's business. Every call has a time-out and every answer a size
limit; what an answer means is in klaviyo_answers.py. Nothing raised or logged here holds the key, an address, a number
or a body.

Source: OpenAPI spec 2026-07-15 of github.com/klaviyo/openapi, and the pages named beside the constants.
"""

from __future__ import annotations

import gzip
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
from exporter.errors import (
    ConfigError,
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
    MAX_EMAILS_PER_QUERY,
    MAX_MEMBERS_PER_CALL,
    MAX_QUERY_BYTES,
    PAGE_SIZE,
)
from exporter.klaviyo.rate_limit import IN_FLIGHT, Pacer
from exporter.klaviyo.responses import (
    BASE_URL_HINT,
    ID,
    JOBS,
    Account,
    Answer,
    Call,
    ImportFailure,
    ImportJob,
    KlaviyoList,
    parse,
    read_account,
    read_failure,
    read_flow,
    read_job,
    read_list,
    read_list_with_flows,
    read_nothing,
    read_profile,
    read_profile_count,
    read_resources,
    read_taken,
    single,
)
from exporter.klaviyo.statuses import NotFound, error_for

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEDIA_TYPE = "application/vnd.api+json"

CONNECT_S, READ_S = 10.0, 60.0  # Klaviyo's own Go client allows 60 s
ANSWER_S = (
    120.0  # for the whole body of an answer: READ_S is only about the pause between two pieces
)
MAX_ANSWER_BYTES = 32_000_000  # 100 import errors with a payload of 100 KB each, three times over
PIECE_BYTES = 65_536
FASTEST = 1  # of gzip's levels

MAX_PAGES = 200_000  # 20 million members of a list: more are none of Klaviyo's

DELETIONS = "/api/data-privacy-deletion-jobs"

NETWORK_HINT = "Check the way out: DNS, firewall, proxy and its certificate, and KLAVIYO_BASE_URL."


# --- the client --------------------------------------------------------------------------------------------------


class Klaviyo:
    """One Klaviyo account through one key. Safe for threads: up to IN_FLIGHT of them keep a connection each."""

    def __init__(
        self,
        key: SecretStr,
        *,
        base_url: str = BASE_URL,
        revision: str = REVISION,
        compress: bool = False,
        patience_s: float = math.inf,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """compress: send batches packed with gzip; unverified with Klaviyo, whose size limit counts unpacked bytes.
        patience_s: after so long a request is not tried again, whatever the retry table says: a person is waiting.

        Raises KeyRefused for a key that no header can carry, ConfigError for an unfit address or revision.
        """
        self._base_url = _checked("KLAVIYO_BASE_URL", addresses.parse_base_url, base_url)
        self._auth = _KeyAuth(_checked_key(key))
        self.revision = revision
        self._compress = compress
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._patience_s = patience_s
        self._pacers: dict[str, Pacer] = {}
        self._session = _session(_checked("KLAVIYO_REVISION", addresses.parse_revision, revision))
        for name in ("urllib3.connectionpool", "urllib3.util.retry"):
            logging.getLogger(name).addFilter(_hide_queries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    # reading

    def account(self) -> Account:
        """Whose key this is, to be shown before anything is sent. Limit: 1/s, 15/min."""
        return self._ask(
            Call(method="GET", target="/api/accounts", scopes="accounts:read"), read_account
        )

    def probe_scopes(self) -> dict[str, bool]:
        """Which read scopes the key has; whether accounts:read, `account` shows."""
        probes = {
            "lists:read": "/api/lists",
            "profiles:read": _target(
                "/api/profiles", {"page[size]": "1", "fields[profile]": "created"}
            ),
        }
        return {
            scope: self._may(Call(method="GET", target=target, scopes=scope))
            for scope, target in probes.items()
        }

    def probe_writing(self) -> dict[str, bool | None]:
        """Which write scopes the key has, by requests that nobody could carry out: a list without a name, no profiles.

        Klaviyo does not document that it looks at scopes before it looks at bodies; None where that is left open.
        """
        no_name = {"data": {"type": "list", "attributes": {}}}
        nobody = {
            "data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": []}}}
        }
        lists = self._may(
            Call(method="POST", target="/api/lists", scopes="lists:write", body=_body(no_name))
        )
        scopes = "lists:write and profiles:write"
        both = self._may(Call(method="POST", target=JOBS, scopes=scopes, body=_body(nobody)))
        return {"lists:write": lists, "profiles:write": both if lists else None}

    def find_list(self, list_id: str) -> KlaviyoList:
        """Raises ListGone if the account has no such list."""
        path = f"/api/lists/{_checked_list_id(list_id)}"
        call = Call(method="GET", target=path, scopes="lists:read", list_id=list_id)
        return self._ask(call, single(read_list))

    def count_list(self, list_id: str) -> int:
        """How many profiles the list has; Klaviyo may count late. Limit: 1/s, 15/min."""
        path = f"/api/lists/{_checked_list_id(list_id)}"
        target = _target(path, {"additional-fields[list]": "profile_count"})
        return self._ask(
            Call(method="GET", target=target, scopes="lists:read", list_id=list_id),
            single(read_profile_count),
        )

    def lists(self, name: str | None = None, *, with_flows: bool = False) -> Iterator[KlaviyoList]:
        """All lists, or those of this name: names are not unique. 10 a request. `flows` needs the scope flows:read."""
        query = {} if name is None else {"filter": f"any(name,[{_quoted(name)}])"}
        if not with_flows:
            return self._pages(_target("/api/lists", query), read_list, scopes="lists:read")
        query |= {"include": "flow-triggers", "fields[flow]": "name,status,archived"}
        return self._pages(
            _target("/api/lists", query), read_list_with_flows, scopes="lists:read and flows:read"
        )

    def flows_of_list(self, list_id: str) -> tuple[str, ...]:
        """The names of the flows that joining a list starts. Needs the scope flows:read. Limit: 3/s, 60/min."""
        path = f"/api/lists/{_checked_list_id(list_id)}/flow-triggers"
        flows = self._pages(path, read_flow, scopes="lists:read and flows:read", list_id=list_id)
        return tuple(name for name in flows if name)

    def jobs_since(self, created_after: datetime, *statuses: str) -> Iterator[ImportJob]:
        """Import jobs of the whole account, newest first, back to a moment. statuses: queued, processing, complete."""
        if created_after.tzinfo is None:
            raise ValueError("created_after needs a time zone")
        query = {"sort": "-created_at", "page[size]": str(PAGE_SIZE)}
        if statuses:
            query["filter"] = f"any(status,[{','.join(_quoted(each) for each in statuses)}])"
        target = _target(JOBS, query)
        jobs = self._pages(target, read_job, scopes="lists:read and profiles:read")
        return itertools.takewhile(lambda job: job.created_at >= created_after, jobs)

    def job(self, job_id: str) -> ImportJob | None:
        """None if Klaviyo does not know it, or no longer."""
        path = f"{JOBS}/{_checked_id(job_id)}"  # an empty id would ask for the collection (rudder-server PR 5316)
        call = Call(method="GET", target=path, scopes="lists:read and profiles:read")
        try:
            return self._ask(call, single(read_job))
        except NotFound:
            return None

    def import_errors(self, job_id: str) -> Iterator[ImportFailure]:
        """The rows that a job did not take. Raises NotFound for a job that is gone."""
        target = _target(
            f"{JOBS}/{_checked_id(job_id)}/import-errors", {"page[size]": str(PAGE_SIZE)}
        )
        return self._pages(target, read_failure, scopes="profiles:read")

    def profiles_of_list(self, list_id: str) -> Iterator[tuple[str, str | None]]:
        """(profile id, e-mail) of everyone in a list: 100 a request. Awaits mirroring of leavers."""
        path = f"/api/lists/{_checked_list_id(list_id)}/profiles"
        target = _target(path, {"fields[profile]": "email", "page[size]": str(PAGE_SIZE)})
        return self._pages(
            target, read_profile, scopes="lists:read and profiles:read", list_id=list_id
        )

    def profiles_by_email(self, emails: Sequence[str]) -> dict[str, str]:
        """Profile ids by e-mail as it was asked for, compared without regard to case; unknown ones are left out.

        Awaits mirroring of leavers.
        """
        return self._by_email("/api/profiles", emails, scopes="profiles:read")

    def found_in_list(self, list_id: str, emails: Sequence[str]) -> set[str]:
        """Which of these addresses belong to members of a list."""
        path = f"/api/lists/{_checked_list_id(list_id)}/profiles"
        return set(
            self._by_email(path, emails, scopes="lists:read and profiles:read", list_id=list_id)
        )

    # writing

    def start_import(self, body: bytes) -> tuple[ImportJob, RateInfo]:
        """Send one batch, once. Klaviyo answers 202 and imports later.

        Raises BatchRefused, BatchTooLarge, ListGone, RateLimited, and KlaviyoUnavailable, after which the batch
        may have been taken unless `outcome_of` says NOT_CONNECTED.
        """
        call = Call(method="POST", target=JOBS, scopes="lists:write and profiles:write", body=body)
        return self._once(call, lambda answer: (single(read_job)(answer), answer.rate))

    def create_list(self, name: str) -> KlaviyoList:
        """A new list, asked for once: repeated, it would be a second one. Limit: 10/s, 150/min, 150 a day."""
        body = _body({"data": {"type": "list", "attributes": {"name": name}}})
        return self._once(
            Call(method="POST", target="/api/lists", scopes="lists:write", body=body),
            single(read_list),
        )

    def add_to_list(self, list_id: str, profile_ids: Sequence[str]) -> None:
        """Up to 1,000 profiles by Klaviyo's ids. Members stay members. Awaits mirroring of leavers."""
        self._change_members("POST", list_id, profile_ids)

    def remove_from_list(self, list_id: str, profile_ids: Sequence[str]) -> None:
        """Up to 1,000 profiles by Klaviyo's ids. Consent stays as it is. Awaits mirroring of leavers."""
        self._change_members("DELETE", list_id, profile_ids)

    def ask_for_deletion(self, **identifier: str) -> None:
        """Have Klaviyo delete every profile with this `email` or `phone_number`, for good and later. 3/s, 60/min."""
        profile = {"type": "profile", "attributes": identifier}
        data = {"type": "data-privacy-deletion-job", "attributes": {"profile": {"data": profile}}}
        body = json.dumps({"data": data}).encode()
        self._ask(
            Call(method="POST", target=DELETIONS, scopes="data-privacy:write", body=body),
            read_taken,
        )

    def _change_members(self, method: str, list_id: str, profile_ids: Sequence[str]) -> None:
        if len(profile_ids) > MAX_MEMBERS_PER_CALL:
            raise ValueError(f"at most {MAX_MEMBERS_PER_CALL} profiles at once")
        path = f"/api/lists/{_checked_list_id(list_id)}/relationships/profiles"
        if not profile_ids:
            return  # Klaviyo answers an empty array with 400
        body = json.dumps(
            {"data": [{"type": "profile", "id": each} for each in profile_ids]}
        ).encode()
        call = Call(method=method, target=path, scopes="lists:write and profiles:write", body=body)
        try:
            self._ask(call, read_nothing)
        except NotFound:
            self.find_list(
                list_id
            )  # the 404 may also be about a profile; this raises if it is about the list
            raise

    # how

    def _may(self, call: Call) -> bool:
        """Whether the key has a call's scopes. A request with a body is one that Klaviyo must find wrong: 400."""
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
                "page[size]": str(PAGE_SIZE),
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
        """All items of a collection, page by page. Raises KlaviyoRejected for pages without end."""

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
            if len(seen) >= MAX_PAGES:
                raise KlaviyoRejected(f"Klaviyo's pages have no end: {MAX_PAGES:,} were read.")

    def _next_target(self, answer: Answer) -> str:
        """Path and query of the next page, "" at the end. Only the query may change: the key goes nowhere else."""
        if not answer.next_link:
            return ""
        origin, target = addresses.split(answer.next_link, base=self._base_url)
        if origin != addresses.split(self._base_url)[0] or _path(target) != _path(
            answer.call.target
        ):
            raise KlaviyoRejected("Klaviyo's next page is at another address.", hint=BASE_URL_HINT)
        return target

    def _ask(self, call: Call, read: Callable[[Answer], T]) -> T:
        """`_once`, again and again as the retry table says."""
        started, attempt = self._clock(), 0
        while True:
            attempt += 1
            self._pace(call)
            try:
                return self._once(call, read)
            except Transient as exc:
                outcome = outcome_of(exc)
                elapsed_s = self._clock() - started
                match decide(
                    attempt,
                    outcome,
                    elapsed_s,
                    retry_after_s=exc.retry_after_s,
                    jitter=self._jitter(),
                ):
                    case GiveUp():
                        raise
                    case Wait(seconds) if elapsed_s + seconds > self._patience_s:
                        raise
                    case Wait(seconds):
                        fields = {
                            "attempt": attempt,
                            "outcome": outcome.value,
                            "wait_s": round(seconds, 3),
                        }
                        logger.info("asking Klaviyo again", extra=fields)
                        telemetry.waited(seconds, telemetry.RETRY_WAIT)
                        self._sleep(seconds)

    def _pace(self, call: Call) -> None:
        """Wait for Klaviyo's limits where many requests follow each other: what is read of jobs, one thread at a time.

        Each of these endpoints has the limits of the imports.
        """
        if call.method != "GET" or not call.target.startswith(JOBS):
            return
        pacer, now = (
            self._pacers.setdefault(telemetry.endpoint(call.target), Pacer()),
            self._clock(),
        )
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
        packed = self._compress and call.is_import
        try:
            with self._session.request(
                call.method,
                self._base_url + call.target,
                data=gzip.compress(call.body, FASTEST)
                if packed and call.body is not None
                else call.body,
                headers=_headers(call, packed=packed),
                auth=self._auth,
                timeout=(CONNECT_S, READ_S),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = self._read(response)
        except (OSError, urllib3.exceptions.HTTPError) as exc:  # requests' own are OSErrors too
            if isinstance(exc, requests.RequestException):
                exc.request = None  # it holds the key and the body
            # The text may hold the address, and that a filter's e-mails: then it is not even our context.
            error, cause = _without_answer(exc), None if "?" in call.target else exc
        else:
            return Answer(
                call=call,
                status=response.status_code,
                headers=response.headers,
                document=parse(body),
                key=self._auth.key,
            )
        raise error from cause

    def _read(self, response: requests.Response) -> bytes:
        """The body, decompressed, unless it is too long or takes too long."""
        pieces: list[bytes] = []
        size, deadline = 0, self._clock() + ANSWER_S
        while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES or self._clock() > deadline:
                raise urllib3.exceptions.ProtocolError("too long")
        return b"".join(pieces)


class _KeyAuth(AuthBase):
    """Sets the key as late as possible. Being an `auth`, it also keeps a .netrc from replacing the key."""

    def __init__(self, key: SecretStr) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Klaviyo-API-Key {self.key.get_secret_value()}"
        return request


def _headers(call: Call, *, packed: bool) -> dict[str, str]:
    headers = {"Content-Type": MEDIA_TYPE} if call.body is not None else {}
    return headers | ({"Content-Encoding": "gzip"} if packed else {})


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
    """urllib3 logs every address at DEBUG, and ours hold e-mails in their filters: what follows the "?" is cut."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{each.partition('?')[0]}?..." if isinstance(each, str) and "?" in each else each
                for each in record.args
            )
        return True


_hide_queries = _HideQueries()


def _without_answer(exc: Exception) -> Unavailable:
    """The error for a request that got no answer, or not all of it. Names the kind of failure, never its text."""
    kind = type(exc).__name__
    if _is_before_sending(exc):
        sentence = f"Klaviyo could not be reached ({kind})."
        return Unavailable(sentence, outcome=Outcome.NOT_CONNECTED, hint=NETWORK_HINT)
    if isinstance(exc, urllib3.exceptions.HTTPError) and not isinstance(
        exc, urllib3.exceptions.TimeoutError
    ):
        return Unavailable(
            f"Klaviyo's answer could not be read to its end ({kind}).", outcome=Outcome.UNREADABLE
        )
    return Unavailable(f"Klaviyo did not answer ({kind}).", outcome=Outcome.NO_ANSWER)


def _is_before_sending(exc: Exception) -> bool:
    """Whether a request certainly did not leave: DNS, TCP, proxy, certificate. Whatever is not here may have."""
    match exc:
        case requests.exceptions.ConnectTimeout() | requests.exceptions.ProxyError():
            return True
        case requests.exceptions.RequestException():
            if isinstance(exc, ValueError):  # an address or a proxy's address that cannot be one
                return True
        case _:
            return type(exc) is OSError  # requests did not find a file of certificates
    reason = getattr(exc.args[0], "reason", None) if exc.args else None
    if isinstance(reason, urllib3.exceptions.SSLError):
        return any(isinstance(each, ssl.SSLCertVerificationError) for each in reason.args)
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


# --- what may go in ----------------------------------------------------------------------------------------------

_KEY = re.compile(r"[!-~]{1,512}")


def _checked_id(given: str) -> str:
    """An id, quoted for a path. Raises ValueError for what would change the meaning of the path."""
    if not ID.fullmatch(given):
        raise ValueError("not an id of Klaviyo's")
    return quote(given, safe="")


def _checked_list_id(given: str) -> str:
    try:
        return _checked_id(given)
    except ValueError:
        raise ListGone(
            "The list ID is empty or holds characters that no list ID of Klaviyo's has."
        ) from None


def _checked_key(key: SecretStr) -> SecretStr:
    value = key.get_secret_value().strip()  # a line break comes along easily when a key is pasted
    if not _KEY.fullmatch(value):
        raise KeyRefused("The Klaviyo key is empty or holds characters that no key has.")
    return SecretStr(value)


def _checked(setting: str, parse: Callable[[str], str], text: str) -> str:
    try:
        return parse(text)
    except ValueError as exc:
        raise ConfigError(f"{setting} {exc}.") from None


def _path(target: str) -> str:
    """Of path and query the former. Klaviyo's links end it with a slash, its documentation does not."""
    return target.partition("?")[0].rstrip("/")


def _target(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query, quote_via=quote)}" if query else path


def _quoted(value: str) -> str:
    """A string as Klaviyo's filters take it."""
    return json.dumps(value, ensure_ascii=False)


def _groups(quoted: Iterable[str]) -> Iterator[str]:
    """Filter values joined by commas, in groups that an address has room for."""
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
