"""A thin client for the part of Klaviyo's REST API that the exporter uses.

    reading   account, probe_scopes, find_list, lists, flows_of_list, jobs_since, job, import_errors, list_members,
              profiles_by_email
    writing   start_import, create_list, add_to_list, remove_from_list, ask_for_deletion

Everything but `start_import` and `create_list` can be sent twice without harm and is retried here by `pacing.decide`;
when and whether an import is sent again is its sender's business. Every call has a time-out, every answer a size limit,
and every status its error: see STATUSES. Nothing raised or logged here holds the key, an address, a number or a body.

Source: OpenAPI spec 2026-07-15 of github.com/klaviyo/openapi, and the pages named beside the constants.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

import requests
import urllib3
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from exporter import telemetry
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
    Transient,
)
from exporter.pacing import GiveUp, Outcome, Wait, decide

logger = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = "0.1.0"  # as in pyproject.toml
BASE_URL = "https://a.klaviyo.com"
REVISION = "2026-07-15"  # served until 2028-07-15 by Klaviyo's "API versioning and deprecation policy"
MEDIA_TYPE = "application/vnd.api+json"

CONNECT_S, READ_S = 10.0, 60.0  # Klaviyo's own Go client allows 60 s
ANSWER_S = 120.0  # for the whole body of an answer: READ_S is only about the pause between two pieces
MAX_ANSWER_BYTES = 32_000_000  # 100 import errors with a payload of 100 KB each, three times over
PIECE_BYTES = 65_536

PAGE_SIZE = 100  # most for jobs, import errors and profiles (lists: 10, fixed before revision 2026-04-15)
MAX_EMAILS_PER_QUERY = 100  # one page of profiles
MAX_MEMBERS_PER_CALL = 1_000  # of a list's relationships, adding or removing
MAX_QUERY_BYTES = 6_000  # 100 long addresses pass 8 kB, where common edges answer 414

JOBS = "/api/profile-bulk-import-jobs"
DELETIONS = "/api/data-privacy-deletion-jobs"

EDGE_HINT = (
    "The edge before Klaviyo turned this address away. That happens to outgoing addresses which many share in the "
    "cloud: give the app one of its own (NAT gateway), or ask Klaviyo to let it in."
)
NETWORK_HINT = "Check the way out: DNS, firewall, proxy and its certificate, and KLAVIYO_BASE_URL."
BASE_URL_HINT = "Check KLAVIYO_BASE_URL: something else than Klaviyo's API answers there."


# --- what Klaviyo tells us ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    id: str
    name: str
    asked_at: datetime | None = None  # Klaviyo's clock, to the second


@dataclass(frozen=True, slots=True, kw_only=True)
class KlaviyoList:
    """`opt_in_process` is double_opt_in or single_opt_in; "" where Klaviyo does not say.

    `flows` are the names of those that joining starts; None where they were not asked for.
    """

    id: str
    name: str
    opt_in_process: str
    created: datetime | None
    flows: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportJob:
    """`status`: queued, processing, complete or cancelled. There is no "failed": see `failed`."""

    id: str
    status: str
    total: int
    completed: int
    failed: int
    created_at: datetime
    expires_at: datetime | None  # seven days after `created_at`; import errors cannot be read after it

    @property
    def is_over(self) -> bool:
        return self.status in ("complete", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFailure:
    """One row that an import job did not take. `index` counts from 0 within the job's request."""

    index: int | None
    email: str | None = field(repr=False)
    code: str
    title: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateInfo:
    """The steady window of the endpoint that answered, as `Pacer.told` takes it."""

    limit: int | None
    remaining: int | None
    reset_s: float | None


class Unavailable(KlaviyoUnavailable):
    """With what a retry needs to know: `outcome` is the row of the retry table."""

    def __init__(
        self,
        message: str,
        *,
        outcome: Outcome,
        status: int = 0,
        request_id: str = "",
        retry_after_s: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, hint=hint)
        self.outcome = outcome
        self.status = status
        self.request_id = request_id


class NotFound(KlaviyoRejected):
    """Klaviyo itself says 404, and not about a list."""


def outcome_of(error: ExporterError) -> Outcome:
    """The row of the retry table for an error raised here."""
    match error:
        case RateLimited():
            return Outcome.RATE_LIMITED
        case Unavailable():
            return error.outcome
        case Transient():
            return Outcome.SERVER_ERROR
        case _:
            return Outcome.REFUSED


# --- one request and its answer ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One request. `target` is path and query, already encoded; `scopes` is what it needs of the key."""

    method: str
    target: str = field(repr=False)
    scopes: str
    body: bytes | None = field(default=None, repr=False)
    list_id: str = ""  # the list that a 404 is about

    @property
    def is_import(self) -> bool:
        return self.method == "POST" and self.target == JOBS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What came back for `call`, whatever it says."""

    call: _Call
    status: int
    headers: Mapping[str, str] = field(repr=False)
    document: Any = field(repr=False)  # None where the body is no JSON
    key: SecretStr

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The members of `errors`; [] if this is no JSON:API error."""
        return _dicts(_dict(self.document).get("errors"))

    @property
    def request_id(self) -> str:
        """The id that Klaviyo's support asks for; "" if there is none, or what is there is not clearly an id."""
        given = self.errors[0].get("id") if self.errors else None
        if not isinstance(given, str) or not _ERROR_ID.fullmatch(given):
            return ""
        return given if _UUID.fullmatch(given) or self.safe_words(given) == given else ""

    @property
    def retry_after_s(self) -> float | None:
        return _number(self.headers.get("Retry-After"))

    @property
    def rate(self) -> RateInfo:
        limit, remaining, reset_s = (
            _number(self.headers.get(f"RateLimit-{name}")) for name in ("Limit", "Remaining", "Reset")
        )
        return RateInfo(
            limit=None if limit is None else int(limit),
            remaining=None if remaining is None else int(remaining),
            reset_s=reset_s,
        )

    def says(self, sentence: str) -> str:
        """A message: a constant sentence, the status, and Klaviyo's reference."""
        reference = f", error {self.request_id}" if self.request_id else ""
        return f"{sentence} ({self.status}{reference})."

    def safe_words(self, words: Any, *, most: int = 200) -> str:
        """Klaviyo's own words without what they may quote: addresses, numbers like a telephone's, our key."""
        if not isinstance(words, str):
            return ""
        tokens = words[:_MAX_WORDS].split()
        if len(words) > _MAX_WORDS:
            del tokens[-1:]  # it may be half an address
        plain = _UNPRINTABLE.sub("", " ".join(tokens)).replace(self.key.get_secret_value(), "[key]")
        named = ("[address]" if "@" in token or "%40" in token else token for token in plain.split(" "))
        return _LIKE_A_NUMBER.sub("[number]", " ".join(named))[:most]


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ERROR_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_WORDS = 2_000  # of an error's text are looked at
_LIKE_A_NUMBER = re.compile(r"\d(?:[\s().\-/]*\d){6,}")  # E.164 numbers have seven digits and more
_UNPRINTABLE = re.compile(r"[^\w\s!-~]")


# --- status -> error ---------------------------------------------------------------------------------------------

_ROW = re.compile(r"/data/attributes/profiles/data/(\d{1,6})(?:/(?:attributes/)?(.*))?", re.DOTALL)
_LIST = "/data/relationships/list"
_ABOUT_THE_KEY = re.compile(r"authenticat|api[ _-]?key|private[ _-]?key|credential", re.IGNORECASE)
_ABOUT_THE_REVISION = re.compile(r"\brevision\b", re.IGNORECASE)


def _bad_request(answer: _Answer) -> ExporterError:
    """400 means a bad batch, a list that is gone, a bad key (sources disagree: 400 or 401) or a bad question."""
    if not answer.errors:
        return _unreadable(answer)
    sources = [_dict(each.get("source")) for each in answer.errors]
    pointers = [str(source.get("pointer") or "") for source in sources]
    if answer.call.is_import and any(pointer.startswith(_LIST) for pointer in pointers):
        return _not_found(answer)
    rows = _refused_rows(answer, pointers) if answer.call.is_import else ()
    if not rows:
        # A bad key must not look like a bad batch: halving it would blame every row in turn.
        words = " ".join(str(each.get(name)) for each in answer.errors for name in ("code", "title", "detail"))
        if _ABOUT_THE_REVISION.search(words):
            return RevisionRetired(answer.says("Klaviyo does not take this API revision"), **_reference(answer))
        is_plain_get = answer.call.method == "GET" and not any(source.get("parameter") for source in sources)
        if is_plain_get or _ABOUT_THE_KEY.search(words):
            return _key_refused(answer)
    if answer.call.is_import:
        return BatchRefused(answer.says("Klaviyo refused the batch"), rows=rows, request_id=answer.request_id)
    return _rejected(answer)


def _refused_rows(answer: _Answer, pointers: Sequence[str]) -> tuple[RowRefusal, ...]:
    found = ((_ROW.fullmatch(pointer), each) for pointer, each in zip(pointers, answer.errors, strict=True))
    return tuple(
        RowRefusal(
            index=int(row[1]),
            attribute=answer.safe_words(row[2], most=100),
            reason=answer.safe_words(each.get("detail")) or answer.safe_words(each.get("title")),
        )
        for row, each in found
        if row
    )


def _key_refused(answer: _Answer) -> ExporterError:
    return KeyRefused(answer.says("Klaviyo refused the API key"))


def _forbidden(answer: _Answer) -> ExporterError:
    """JSON is Klaviyo speaking; anything else is what stands before it (klaviyo-api-python issue 84)."""
    if not answer.errors or "cf-mitigated" in answer.headers:
        return Unavailable(
            answer.says("The edge before Klaviyo turned the request away"),
            outcome=Outcome.EDGE_REFUSED,
            hint=EDGE_HINT,
            retry_after_s=answer.retry_after_s,
            **_reference(answer),
        )
    return ScopeMissing(answer.says(f"The Klaviyo key may not do this, it needs {answer.call.scopes}"))


def _not_found(answer: _Answer) -> ExporterError:
    if not answer.errors:
        sentence = "There is no Klaviyo API at this address"
        return KlaviyoRejected(answer.says(sentence), hint=BASE_URL_HINT, **_reference(answer))
    if not (answer.call.list_id or answer.call.is_import):
        return NotFound(answer.says("Klaviyo does not have what was asked for"), **_reference(answer))
    name = f"The list {answer.call.list_id}" if answer.call.list_id else "The list of this import"
    return ListGone(answer.says(f"{name} does not exist in this Klaviyo account"), **_reference(answer))


def _rejected(answer: _Answer) -> ExporterError:
    hint = BASE_URL_HINT if 300 <= answer.status < 400 else ""
    return KlaviyoRejected(answer.says("Klaviyo rejected the request"), hint=hint, **_reference(answer))


def _conflict(answer: _Answer) -> ExporterError:
    return KlaviyoRejected(answer.says("Klaviyo reports a conflict between profiles"), **_reference(answer))


def _retired(answer: _Answer) -> ExporterError:
    return RevisionRetired(answer.says("Klaviyo has retired this API revision"), **_reference(answer))


def _too_large(answer: _Answer) -> ExporterError:
    return BatchTooLarge(answer.says("The request was over Klaviyo's size limit"), **_reference(answer))


def _rate_limited(answer: _Answer) -> ExporterError:
    return RateLimited(answer.says("Klaviyo's rate limit is reached"), retry_after_s=answer.retry_after_s)


def _server_error(answer: _Answer) -> ExporterError:
    return Unavailable(
        answer.says("Klaviyo could not answer"),
        outcome=Outcome.SERVER_ERROR,
        retry_after_s=answer.retry_after_s,
        **_reference(answer),
    )


def _unreadable(answer: _Answer) -> Unavailable:
    return Unavailable(
        answer.says("Klaviyo's answer could not be read"), outcome=Outcome.UNREADABLE, **_reference(answer)
    )


def _reference(answer: _Answer) -> dict[str, Any]:
    return {"status": answer.status, "request_id": answer.request_id}


# Source: "Rate limits, status codes, and errors", developers.klaviyo.com; 524 and 525 from the incident of 2026-05-05
# (klaviyo-api-node issue 62), 408 and 414 from HTTP itself. What is not here is `_error_for`'s.
STATUSES: Mapping[int, Callable[[_Answer], ExporterError]] = {
    400: _bad_request,
    401: _key_refused,
    403: _forbidden,
    404: _not_found,
    405: _rejected,
    408: _server_error,
    409: _conflict,
    410: _retired,
    413: _too_large,
    414: _rejected,
    415: _rejected,
    429: _rate_limited,
    500: _server_error,
    502: _server_error,
    503: _server_error,
    504: _server_error,
    524: _server_error,
    525: _server_error,
}


def _error_for(answer: _Answer) -> ExporterError:
    other = _server_error if answer.status >= 500 else _rejected
    return STATUSES.get(answer.status, other)(answer)


def _without_answer(exc: Exception) -> Unavailable:
    """The error for a request that got no answer, or not all of it. Names the kind of failure, never its text."""
    kind = type(exc).__name__
    if _is_before_sending(exc):
        sentence = f"Klaviyo could not be reached ({kind})."
        return Unavailable(sentence, outcome=Outcome.NOT_CONNECTED, hint=NETWORK_HINT)
    if isinstance(exc, urllib3.exceptions.HTTPError) and not isinstance(exc, urllib3.exceptions.TimeoutError):
        return Unavailable(f"Klaviyo's answer could not be read to its end ({kind}).", outcome=Outcome.UNREADABLE)
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


# --- the client --------------------------------------------------------------------------------------------------


class Klaviyo:
    """One Klaviyo account through one key. Safe for threads: up to `concurrency` of them keep a connection each."""

    def __init__(
        self,
        key: SecretStr,
        *,
        base_url: str = BASE_URL,
        revision: str = REVISION,
        concurrency: int = 12,
        patience_s: float = math.inf,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """patience_s: after so long a request is not tried again, whatever the retry table says: a person is waiting.

        Raises KeyRefused for a key that no header can carry, ConfigError for an unfit address or revision.
        """
        self._base_url = _checked_base_url(base_url)
        self._auth = _KeyAuth(_checked_key(key))
        self.revision = revision
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._patience_s = patience_s
        self._session = _session(_checked_revision(revision), concurrency)
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

        def read(answer: _Answer) -> Account:
            for each in _resources(answer):
                contact = _dict(_attributes(each).get("contact_information"))
                name, asked_at = _text(contact.get("organization_name")), _http_date(answer.headers.get("Date"))
                return Account(id=_id(each, answer), name=name, asked_at=asked_at)
            raise _unreadable(answer)

        return self._ask(_Call(method="GET", target="/api/accounts", scopes="accounts:read"), read)

    def probe_scopes(self, *but: str) -> dict[str, bool]:
        """Which read scopes the key has. but: those that are known."""
        probes = {
            "accounts:read": "/api/accounts",
            "lists:read": "/api/lists",
            "profiles:read": _target("/api/profiles", {"page[size]": "1", "fields[profile]": "created"}),
        }
        return {
            scope: self._may(_Call(method="GET", target=target, scopes=scope))
            for scope, target in probes.items()
            if scope not in but
        }

    def probe_writing(self) -> dict[str, bool | None]:
        """Which write scopes the key has, by requests that nobody could carry out: a list without a name, no profiles.

        Klaviyo does not document that it looks at scopes before it looks at bodies; None where that is left open.
        """
        no_name = {"data": {"type": "list", "attributes": {}}}
        nobody = {"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": []}}}}
        lists = self._may(_Call(method="POST", target="/api/lists", scopes="lists:write", body=_body(no_name)))
        scopes = "lists:write and profiles:write"
        both = self._may(_Call(method="POST", target=JOBS, scopes=scopes, body=_body(nobody)))
        return {"lists:write": lists, "profiles:write": both if lists else None}

    def find_list(self, list_id: str) -> KlaviyoList:
        """Raises ListGone if the account has no such list."""
        path = f"/api/lists/{_checked_list_id(list_id)}"
        call = _Call(method="GET", target=path, scopes="lists:read", list_id=list_id)
        return self._ask(call, _one(_read_list))

    def count_members(self, list_id: str) -> int:
        """How many profiles the list has; Klaviyo may count late. Limit: 1/s, 15/min."""
        path = f"/api/lists/{_checked_list_id(list_id)}"
        target = _target(path, {"additional-fields[list]": "profile_count"})
        return self._ask(_Call(method="GET", target=target, scopes="lists:read", list_id=list_id), _one(_read_members))

    def lists(self, name: str | None = None, *, with_flows: bool = False) -> Iterator[KlaviyoList]:
        """All lists, or those of this name: names are not unique. 10 a request. `flows` needs the scope flows:read."""
        query = {} if name is None else {"filter": f"any(name,[{_quoted(name)}])"}
        if not with_flows:
            return self._pages(_target("/api/lists", query), _read_list, scopes="lists:read")
        query |= {"include": "flow-triggers", "fields[flow]": "name,status,archived"}
        return self._pages(_target("/api/lists", query), _read_list_with_flows, scopes="lists:read and flows:read")

    def flows_of_list(self, list_id: str) -> tuple[str, ...]:
        """The names of the flows that joining a list starts. Needs the scope flows:read. Limit: 3/s, 60/min."""
        path = f"/api/lists/{_checked_list_id(list_id)}/flow-triggers"
        flows = self._pages(path, lambda each, _: each, scopes="lists:read and flows:read", list_id=list_id)
        return tuple(name for each in flows if (name := _live_flow(each)))

    def jobs_since(self, created_after: datetime) -> Iterator[ImportJob]:
        """Import jobs of the whole account, newest first, back to a moment."""
        if created_after.tzinfo is None:
            raise ValueError("created_after needs a time zone")
        target = _target(JOBS, {"sort": "-created_at", "page[size]": str(PAGE_SIZE)})
        jobs = self._pages(target, _read_job, scopes="lists:read and profiles:read")
        return itertools.takewhile(lambda job: job.created_at >= created_after, jobs)

    def job(self, job_id: str) -> ImportJob | None:
        """None if Klaviyo does not know it, or no longer."""
        path = f"{JOBS}/{_checked_id(job_id)}"  # an empty id would ask for the collection (rudder-server PR 5316)
        call = _Call(method="GET", target=path, scopes="lists:read and profiles:read")
        try:
            return self._ask(call, _one(_read_job))
        except NotFound:
            return None

    def import_errors(self, job_id: str) -> Iterator[ImportFailure]:
        """The rows that a job did not take. Raises NotFound for a job that is gone."""
        target = _target(f"{JOBS}/{_checked_id(job_id)}/import-errors", {"page[size]": str(PAGE_SIZE)})
        return self._pages(target, _read_failure, scopes="profiles:read")

    def list_members(self, list_id: str) -> Iterator[tuple[str, str | None]]:
        """(profile id, e-mail) of everyone in a list: 100 a request, for verification only."""
        path = f"/api/lists/{_checked_list_id(list_id)}/profiles"
        target = _target(path, {"fields[profile]": "email", "page[size]": str(PAGE_SIZE)})
        return self._pages(target, _read_profile, scopes="lists:read and profiles:read", list_id=list_id)

    def profiles_by_email(self, emails: Sequence[str]) -> dict[str, str]:
        """Profile ids by e-mail as it was asked for, compared without regard to case; unknown ones are left out."""
        if len(emails) > MAX_EMAILS_PER_QUERY:
            raise ValueError(f"at most {MAX_EMAILS_PER_QUERY} addresses at once")
        found: dict[str, str] = {}
        for group in _groups([_quoted(each) for each in emails]):
            query = {"fields[profile]": "email", "page[size]": str(PAGE_SIZE), "filter": f"any(email,[{group}])"}
            profiles = self._pages(_target("/api/profiles", query), _read_profile, scopes="profiles:read")
            found.update((email.lower(), profile_id) for profile_id, email in profiles if email)
        return {email: found[email.lower()] for email in emails if email.lower() in found}

    # writing

    def start_import(self, body: bytes) -> tuple[ImportJob, RateInfo]:
        """Send one batch, once. Klaviyo answers 202 and imports later.

        Raises BatchRefused, BatchTooLarge, ListGone, RateLimited, and KlaviyoUnavailable, after which the batch
        may have been taken unless `outcome_of` says NOT_CONNECTED.
        """
        call = _Call(method="POST", target=JOBS, scopes="lists:write and profiles:write", body=body)
        return self._once(call, lambda answer: (_one(_read_job)(answer), answer.rate))

    def create_list(self, name: str) -> KlaviyoList:
        """A new list, asked for once: repeated, it would be a second one. Limit: 10/s, 150/min, 150 a day."""
        body = _body({"data": {"type": "list", "attributes": {"name": name}}})
        return self._once(_Call(method="POST", target="/api/lists", scopes="lists:write", body=body), _one(_read_list))

    def add_to_list(self, list_id: str, profile_ids: Sequence[str]) -> None:
        """Up to 1,000 profiles by Klaviyo's ids. Members stay members."""
        self._change_members("POST", list_id, profile_ids)

    def remove_from_list(self, list_id: str, profile_ids: Sequence[str]) -> None:
        """Up to 1,000 profiles by Klaviyo's ids. Consent stays as it is."""
        self._change_members("DELETE", list_id, profile_ids)

    def ask_for_deletion(self, email: str) -> None:
        """Have Klaviyo delete every profile with this address, for good and later. Limit: 3/s, 60/min."""
        profile = {"type": "profile", "attributes": {"email": email}}
        data = {"type": "data-privacy-deletion-job", "attributes": {"profile": {"data": profile}}}
        body = json.dumps({"data": data}).encode()
        self._ask(_Call(method="POST", target=DELETIONS, scopes="data-privacy:write", body=body), _taken)

    def _change_members(self, method: str, list_id: str, profile_ids: Sequence[str]) -> None:
        if len(profile_ids) > MAX_MEMBERS_PER_CALL:
            raise ValueError(f"at most {MAX_MEMBERS_PER_CALL} profiles at once")
        path = f"/api/lists/{_checked_list_id(list_id)}/relationships/profiles"
        if not profile_ids:
            return  # Klaviyo answers an empty array with 400
        body = json.dumps({"data": [{"type": "profile", "id": each} for each in profile_ids]}).encode()
        call = _Call(method=method, target=path, scopes="lists:write and profiles:write", body=body)
        try:
            self._ask(call, _nothing)
        except NotFound:
            self.find_list(list_id)  # the 404 may also be about a profile; this raises if it is about the list
            raise

    # how

    def _may(self, call: _Call) -> bool:
        """Whether the key has a call's scopes. A request with a body is one that Klaviyo must find wrong: 400."""
        try:
            self._ask(call, _resources if call.body is None else _nothing)
        except ScopeMissing:
            return False
        except KlaviyoRejected as exc:
            if call.body is None or exc.status != 400:
                raise
        return True

    def _pages(
        self, target: str, read: Callable[[dict[str, Any], _Answer], T], *, scopes: str, list_id: str = ""
    ) -> Iterator[T]:
        """All items of a collection, page by page."""

        def read_page(answer: _Answer) -> tuple[list[T], str]:
            items = [read(each, answer) for each in _resources(answer)]
            return items, self._next_target(answer)

        while target:
            call = _Call(method="GET", target=target, scopes=scopes, list_id=list_id)
            items, following = self._ask(call, read_page)
            yield from items
            if following == target:
                raise KlaviyoRejected("Klaviyo's next page is the same page again.")
            target = following

    def _next_target(self, answer: _Answer) -> str:
        """Path and query of the next page, "" at the end. Only the query may change: the key goes nowhere else."""
        link = _dict(answer.document.get("links")).get("next")
        if not isinstance(link, str) or not link:
            return ""
        origin, target = _split(link, base=self._base_url)
        if origin != _split(self._base_url)[0] or _path(target) != _path(answer.call.target):
            raise KlaviyoRejected("Klaviyo's next page is at another address.", hint=BASE_URL_HINT)
        return target

    def _ask(self, call: _Call, read: Callable[[_Answer], T]) -> T:
        """`_once`, again and again as the retry table says."""
        started, attempt = self._clock(), 0
        while True:
            attempt += 1
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
                        fields = {"attempt": attempt, "outcome": outcome.value, "wait_s": round(seconds, 3)}
                        logger.info("asking Klaviyo again", extra=fields)
                        telemetry.waited(seconds, telemetry.RETRY_WAIT)
                        self._sleep(seconds)

    def _once(self, call: _Call, read: Callable[[_Answer], T]) -> T:
        with telemetry.request(call.method, self._base_url, call.target) as exchange:
            answer = self._exchange(call)
            exchange.status = answer.status
        if not 200 <= answer.status < 300:
            raise _error_for(answer)
        return read(answer)

    def _exchange(self, call: _Call) -> _Answer:
        """Send one request and read its answer. Raises Unavailable if there is none to read."""
        try:
            with self._session.request(
                call.method,
                self._base_url + call.target,
                data=call.body,
                headers={"Content-Type": MEDIA_TYPE} if call.body is not None else None,
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
            return _Answer(
                call=call,
                status=response.status_code,
                headers=response.headers,
                document=_parsed(body),
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


def _session(revision: str, concurrency: int) -> requests.Session:
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=concurrency))
    session.headers.update({"Accept": MEDIA_TYPE, "revision": revision, "User-Agent": f"segment-exporter/{VERSION}"})
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


# --- what may go in ----------------------------------------------------------------------------------------------

_ID = re.compile(r"(?!\.+$)[A-Za-z0-9_.~+/=:-]{1,256}")  # opaque; seen: 6 characters, 26, and 59 of URL-safe base64
_KEY = re.compile(r"[!-~]{1,512}")
_REVISION = re.compile(r"\d{4}-\d{2}-\d{2}(?:\.pre)?")
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


def _checked_id(given: str) -> str:
    """An id, quoted for a path. Raises ValueError for what would change the meaning of the path."""
    if not _ID.fullmatch(given):
        raise ValueError("not an id of Klaviyo's")
    return quote(given, safe="")


def _checked_list_id(given: str) -> str:
    try:
        return _checked_id(given)
    except ValueError:
        raise ListGone("The list ID is empty or holds characters that no list ID of Klaviyo's has.") from None


def _checked_key(key: SecretStr) -> SecretStr:
    value = key.get_secret_value().strip()  # a line break comes along easily when a key is pasted
    if not _KEY.fullmatch(value):
        raise KeyRefused("The Klaviyo key is empty or holds characters that no key has.")
    return SecretStr(value)


def _checked_revision(revision: str) -> str:
    if not _REVISION.fullmatch(revision):
        raise ConfigError("KLAVIYO_REVISION is not a date like 2026-07-15.")
    return revision


def _checked_base_url(url: str) -> str:
    """Scheme and host. Raises ConfigError, also for an address to which a key should not go unencrypted."""
    url = url.strip()
    (scheme, host, _), target = _split(url)
    if not host or target not in ("", "/") or any(each in url for each in "@?#"):
        raise ConfigError("KLAVIYO_BASE_URL is not an address like https://a.klaviyo.com.")
    if scheme != "https" and not (scheme == "http" and host in _HERE):
        raise ConfigError("KLAVIYO_BASE_URL must begin with https, unless it is on this machine.")
    return url.removesuffix("/")


def _split(url: str, *, base: str = "") -> tuple[tuple[str, str, int | None], str]:
    """(scheme, host, port) and path with query; all of it empty if this is no address."""
    try:
        parts = urlsplit(urljoin(base, url))
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", "", None), ""
    return (parts.scheme, parts.hostname or "", port), f"{parts.path}?{parts.query}".removesuffix("?")


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


# --- what comes out: lenient about what is missing, strict about what we rely on ---------------------------------


def _parsed(body: bytes) -> Any:
    """None for anything but JSON: edges answer in HTML."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _one(read: Callable[[dict[str, Any], _Answer], T]) -> Callable[[_Answer], T]:
    """Reads an answer that holds one resource. Raises Unavailable for anything else, such as a collection."""

    def read_one(answer: _Answer) -> T:
        data = _dict(answer.document).get("data")
        if not isinstance(data, dict):
            raise _unreadable(answer)
        return read(data, answer)

    return read_one


def _nothing(answer: _Answer) -> None:
    """Reads an answer that need not hold anything, but is no page of somebody else's either."""
    if answer.status != 204 and answer.document is None:
        raise _unreadable(answer)


def _taken(answer: _Answer) -> None:
    """Reads an answer that says no more than that Klaviyo will do it: 202, with nothing in it."""
    if answer.status != 202:
        raise _unreadable(answer)


def _resources(answer: _Answer) -> list[dict[str, Any]]:
    data = _dict(answer.document).get("data")
    if not isinstance(data, list) or len(_dicts(data)) < len(data):
        raise _unreadable(answer)
    return data


def _read_members(resource: dict[str, Any], answer: _Answer) -> int:
    count = _attributes(resource).get("profile_count")
    if not isinstance(count, int) or isinstance(count, bool):
        raise _unreadable(answer)
    return count


def _read_list(resource: dict[str, Any], answer: _Answer) -> KlaviyoList:
    attributes = _attributes(resource)
    return KlaviyoList(
        id=_id(resource, answer),
        name=_text(attributes.get("name")),
        opt_in_process=_text(attributes.get("opt_in_process")),
        created=_moment(attributes.get("created")),
    )


def _read_list_with_flows(resource: dict[str, Any], answer: _Answer) -> KlaviyoList:
    included = {each.get("id"): each for each in _dicts(_dict(answer.document).get("included"))}
    triggers = _dict(_dict(resource.get("relationships")).get("flow-triggers")).get("data")
    flows = (_live_flow(included.get(each.get("id"), {})) for each in _dicts(triggers))
    return dataclasses.replace(_read_list(resource, answer), flows=tuple(name for name in flows if name))


def _live_flow(resource: dict[str, Any]) -> str:
    """The name of a flow that would start; "" for one that would not."""
    attributes = _attributes(resource)
    if attributes.get("archived") is True or attributes.get("status") == "draft":
        return ""
    return _text(attributes.get("name")) or _text(resource.get("id"))


def _read_job(resource: dict[str, Any], answer: _Answer) -> ImportJob:
    attributes = _attributes(resource)
    status, created_at = _text(attributes.get("status")), _moment(attributes.get("created_at"))
    if not status or created_at is None:
        raise _unreadable(answer)
    return ImportJob(
        id=_id(resource, answer),
        status=status,
        total=_count(attributes.get("total_count")),
        completed=_count(attributes.get("completed_count")),
        failed=_count(attributes.get("failed_count")),
        created_at=created_at,
        expires_at=_moment(attributes.get("expires_at")),
    )


def _read_failure(resource: dict[str, Any], answer: _Answer) -> ImportFailure:
    """Id, code and title are null at times (klaviyo-api-python issue 88)."""
    attributes = _attributes(resource)
    row = _ROW.match(_text(_dict(attributes.get("source")).get("pointer")))
    return ImportFailure(
        index=int(row[1]) if row else None,
        email=_email_in(attributes.get("original_payload")),
        code=answer.safe_words(attributes.get("code"), most=60),
        title=answer.safe_words(attributes.get("title")),
        detail=answer.safe_words(attributes.get("detail")),
    )


def _email_in(payload: Any) -> str | None:
    """Its shape is not documented: the attributes themselves, or a profile around them."""
    profile = _dict(payload)
    for attributes in (profile, _attributes(profile), _attributes(_dict(profile.get("data")))):
        email = attributes.get("email")
        if isinstance(email, str) and email:
            return email
    return None


def _read_profile(resource: dict[str, Any], answer: _Answer) -> tuple[str, str | None]:
    return _id(resource, answer), _text(_attributes(resource).get("email")) or None


def _id(resource: dict[str, Any], answer: _Answer) -> str:
    given = resource.get("id")
    if not isinstance(given, str) or not _ID.fullmatch(given):
        raise _unreadable(answer)
    return given


def _attributes(resource: dict[str, Any]) -> dict[str, Any]:
    return _dict(resource.get("attributes"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _body(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _http_date(header: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment(value: Any) -> datetime | None:
    """ISO 8601, in UTC where it has no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(header: str | None) -> float | None:
    """The number that a header begins with ("150", and also "150;w=60"); None without one, as for a date."""
    found = re.match(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(?:$|[,;])", header or "")
    return float(found[1]) if found else None
