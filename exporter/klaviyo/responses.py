"""What Klaviyo answers, and what it means: values to rely on, or an error that says what to do next.

    answer ──> status 2xx ──> read_*     lenient about what is missing, strict about what we rely on
          └──> any other  ──> STATUSES   its error; one for every status

Nothing raised here holds the key, an address, a number or a body.

Source: OpenAPI spec 2026-07-15 of github.com/klaviyo/openapi, and the pages named beside the constants.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from pydantic import SecretStr

from exporter.errors import (
    RateInfo,
)
from exporter.klaviyo.backoff import Outcome, Unavailable

T = TypeVar("T")

JOBS = "/api/profile-bulk-import-jobs"
ID = re.compile(
    r"(?!\.+$)[A-Za-z0-9_.~+/=:-]{1,256}"
)  # opaque; seen: 6 characters, 26, and 59 of URL-safe base64


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
    flows: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportJob:
    """`status`: queued, processing, complete or cancelled. There is no "failed": see `failed`."""

    id: str
    status: str
    completed: int
    failed: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFailure:
    """One row that an import job did not take. `index` counts from 0 within the job's request."""

    index: int | None
    email: str | None = field(repr=False)
    code: str
    title: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for `call`, whatever it says."""

    call: Call
    status: int
    headers: Mapping[str, str] = field(repr=False)
    document: Any = field(repr=False)  # None where the body is no JSON
    key: SecretStr

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The members of `errors`; [] if this is no JSON:API error."""
        return as_dicts(as_dict(self.document).get("errors"))

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
        """What the RateLimit headers say of the steady window.

        Klaviyo's documentation has a single number, about that window. What clients recorded (2026) is the list of
        the IETF's draft: "10, 10;w=1, 150;w=60", where the first number, Remaining and Reset are about the window that
        is used up the most, be it the burst's. Of that one we know ourselves, and take nothing of it for the minute's.
        """
        header = self.headers.get("RateLimit-Limit")
        first, remaining, reset_s = (
            _number(self.headers.get(f"RateLimit-{name}"))
            for name in ("Limit", "Remaining", "Reset")
        )
        minute = _MINUTE.search(header or "")
        limit = float(minute[1]) if minute else first
        if (
            minute
            and first != limit
            and not (remaining is not None and first is not None and remaining > first)
        ):
            remaining = reset_s = None
        return RateInfo(
            limit=None if limit is None else int(limit),
            remaining=None if remaining is None else int(remaining),
            reset_s=reset_s,
        )

    @property
    def next_link(self) -> str:
        """The address of the collection's next page; "" at the end."""
        return as_text(as_dict(as_dict(self.document).get("links")).get("next"))

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
        named = (
            "[address]" if "@" in token or "%40" in token else token for token in plain.split(" ")
        )
        return _LIKE_A_NUMBER.sub("[number]", " ".join(named))[:most]


_MINUTE = re.compile(r"(?<![\d.])(\d{1,9})\s*;\s*w\s*=\s*60(?!\d)")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ERROR_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_WORDS = 2_000  # of an error's text are looked at
_LIKE_A_NUMBER = re.compile(r"\d(?:[\s().\-/]*\d){6,}")  # E.164 numbers have seven digits and more
_UNPRINTABLE = re.compile(r"[^\w\s!-~]")


# --- what comes out: lenient about what is missing, strict about what we rely on ---------------------------------


def parse(body: bytes) -> Any:
    """None for anything but JSON: edges answer in HTML."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def single(read: Callable[[dict[str, Any], Answer], T]) -> Callable[[Answer], T]:
    """Reads an answer that holds one resource. Raises Unavailable for anything else, such as a collection."""

    def read_one(answer: Answer) -> T:
        data = as_dict(answer.document).get("data")
        if not isinstance(data, dict):
            raise unreadable(answer)
        return read(data, answer)

    return read_one


def read_nothing(answer: Answer) -> None:
    """Reads an answer that need not hold anything, but is no page of somebody else's either."""
    if answer.status != 204 and answer.document is None:
        raise unreadable(answer)


def read_taken(answer: Answer) -> None:
    """Reads an answer that says no more than that Klaviyo will do it: 202, with nothing in it."""
    if answer.status != 202:
        raise unreadable(answer)


def read_resources(answer: Answer) -> list[dict[str, Any]]:
    """The resources of a collection. Raises Unavailable for anything else."""
    data = as_dict(answer.document).get("data")
    if not isinstance(data, list) or len(as_dicts(data)) < len(data):
        raise unreadable(answer)
    return data


def read_account(answer: Answer) -> Account:
    """Reads a collection of one account: the key's own."""
    for each in read_resources(answer):
        contact = as_dict(_attributes(each).get("contact_information"))
        name, asked_at = (
            as_text(contact.get("organization_name")),
            _http_date(answer.headers.get("Date")),
        )
        return Account(id=_id(each, answer), name=name, asked_at=asked_at)
    raise unreadable(answer)


def read_profile_count(resource: dict[str, Any], answer: Answer) -> int:
    count = _attributes(resource).get("profile_count")
    if not isinstance(count, int) or isinstance(count, bool):
        raise unreadable(answer)
    return count


def read_list(resource: dict[str, Any], answer: Answer) -> KlaviyoList:
    attributes = _attributes(resource)
    return KlaviyoList(
        id=_id(resource, answer),
        name=as_text(attributes.get("name")),
        opt_in_process=as_text(attributes.get("opt_in_process")),
    )


def read_list_with_flows(resource: dict[str, Any], answer: Answer) -> KlaviyoList:
    included = {each.get("id"): each for each in as_dicts(as_dict(answer.document).get("included"))}
    triggers = as_dict(as_dict(resource.get("relationships")).get("flow-triggers")).get("data")
    flows = (read_flow(included.get(each.get("id"), {}), answer) for each in as_dicts(triggers))
    return dataclasses.replace(
        read_list(resource, answer), flows=tuple(name for name in flows if name)
    )


def read_flow(resource: dict[str, Any], _: Answer) -> str:
    """The name of a flow that would start; "" for one that would not."""
    attributes = _attributes(resource)
    if attributes.get("archived") is True or attributes.get("status") == "draft":
        return ""
    return as_text(attributes.get("name")) or as_text(resource.get("id"))


def read_job(resource: dict[str, Any], answer: Answer) -> ImportJob:
    attributes = _attributes(resource)
    status, created_at = as_text(attributes.get("status")), _moment(attributes.get("created_at"))
    if not status or created_at is None:
        raise unreadable(answer)
    return ImportJob(
        id=_id(resource, answer),
        status=status,
        completed=as_count(attributes.get("completed_count")),
        failed=as_count(attributes.get("failed_count")),
        created_at=created_at,
    )


def read_failure(resource: dict[str, Any], answer: Answer) -> ImportFailure:
    """Id, code and title are null at times (klaviyo-api-python issue 88)."""
    attributes = _attributes(resource)
    row = ROW.match(as_text(as_dict(attributes.get("source")).get("pointer")))
    return ImportFailure(
        index=int(row[1]) if row else None,
        email=_email_in(attributes.get("original_payload")),
        code=answer.safe_words(attributes.get("code"), most=60),
        title=answer.safe_words(attributes.get("title")),
        detail=answer.safe_words(attributes.get("detail")),
    )


def _email_in(payload: Any) -> str | None:
    """Its shape is not documented: the attributes themselves, or a profile around them."""
    profile = as_dict(payload)
    for attributes in (profile, _attributes(profile), _attributes(as_dict(profile.get("data")))):
        email = attributes.get("email")
        if isinstance(email, str) and email:
            return email
    return None


def read_profile(resource: dict[str, Any], answer: Answer) -> tuple[str, str | None]:
    return _id(resource, answer), as_text(_attributes(resource).get("email")) or None


def _id(resource: dict[str, Any], answer: Answer) -> str:
    given = resource.get("id")
    if not isinstance(given, str) or not ID.fullmatch(given):
        raise unreadable(answer)
    return given


def _attributes(resource: dict[str, Any]) -> dict[str, Any]:
    return as_dict(resource.get("attributes"))


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _http_date(header: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment(value: Any) -> datetime | None:
    """ISO 8601, in UTC where it has no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(as_text(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(header: str | None) -> float | None:
    """The number that a header begins with ("150", and also "150;w=60"); None without one, as for a date."""
    found = re.match(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(?:$|[,;])", header or "")
    return float(found[1]) if found else None


BASE_URL_HINT = "Check KLAVIYO_BASE_URL: something else than Klaviyo's API answers there."


# --- one request and its answer ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `target` is path and query, already encoded; `scopes` is what it needs of the key."""

    method: str
    target: str = field(repr=False)
    scopes: str
    body: bytes | None = field(default=None, repr=False)
    list_id: str = ""  # the list that a 404 is about

    @property
    def is_import(self) -> bool:
        return self.method == "POST" and self.target == JOBS


# --- status -> error ---------------------------------------------------------------------------------------------

ROW = re.compile(r"/data/attributes/profiles/data/(\d{1,6})(?:/(?:attributes/)?(.*))?", re.DOTALL)


def unreadable(answer: Answer) -> Unavailable:
    return Unavailable(
        answer.says("Klaviyo's answer could not be read"), outcome=Outcome.UNREADABLE
    )
