"""What Klaviyo answers, as values that the rest of the program can rely on.

    answer ──> status 2xx ──> read_*      here: lenient about what is missing, strict where used
          └──> any other  ──> STATUSES    in statuses.py: one error for every status

Nothing raised here holds the key, an address, a telephone number or a body.

Source: OpenAPI document 2026-07-15 of github.com/klaviyo/openapi.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from pydantic import SecretStr

from exporter.definitions.mapping import IDENTIFIERS
from exporter.errors import RateInfo
from exporter.klaviyo.backoff import Outcome, Unavailable

T = TypeVar("T")

JOBS_PATH = "/api/profile-bulk-import-jobs"
DUPLICATE_PROFILE = "duplicate_profile"  # klaviyo-api-php issue 63
# IDs are opaque. Seen: 6 characters, 26, and 59 of URL-safe base64.
ID_PATTERN = re.compile(r"(?!\.+$)[A-Za-z0-9_.~+/=:-]{1,256}")
ROW_POINTER = re.compile(
    r"/data/attributes/profiles/data/(\d{1,6})(?:/(?:attributes/)?(.*))?", re.DOTALL
)
BASE_URL_HINT = "Check KLAVIYO_BASE_URL: something other than Klaviyo's API answers there."


# What Klaviyo tells us


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    id: str
    name: str
    asked_at: datetime | None = None  # Klaviyo's clock, to the second


@dataclass(frozen=True, slots=True, kw_only=True)
class KlaviyoList:
    """A list.

    opt_in_process: "double_opt_in" or "single_opt_in"; "" where Klaviyo does not say.
    flows: names of the flows that joining starts; None where nobody asked for them.
    """

    id: str
    name: str
    opt_in_process: str
    flows: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportJob:
    """An import job. `status` is queued, processing, complete or cancelled, and never "failed"."""

    id: str
    status: str
    completed: int
    failed: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFailure:
    """One row that a job did not import. `index` counts from 0 within the job's request.

    attribute: the end of the pointer, "" for the whole row. identifiers: what the row is known by.
    """

    index: int | None
    attribute: str = ""
    identifiers: Mapping[str, str] = field(default_factory=dict, repr=False)
    code: str
    title: str
    detail: str

    @property
    def words(self) -> str:
        return self.detail or self.title or self.code


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUsage:
    """How many people the account holds, and how many its plan has room for."""

    used: int
    most: int

    @property
    def room(self) -> int:
        return max(self.most - self.used, 0)


# One request and its answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `target` is the encoded path and query, `scopes` what the key must have."""

    method: str
    target: str = field(repr=False)
    scopes: str
    body: bytes | None = field(default=None, repr=False)
    list_id: str = ""  # the list that a 404 is about
    read_s: float | None = None  # how long to wait for the answer, where that is less than usual

    @property
    def is_import(self) -> bool:
        return self.method == "POST" and self.target == JOBS_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorItem:
    """One member of `errors` in Klaviyo's own words; `Answer.safe_words` makes them fit to show."""

    id: str
    code: str
    title: str
    detail: str
    pointer: str
    parameter: str

    @property
    def words(self) -> list[str]:
        """Title and detail, as far as there are any and they differ."""
        return [each for each in dict.fromkeys((self.title, self.detail)) if each]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for `call`, whatever its status."""

    call: Call
    status: int
    headers: Mapping[str, str] = field(repr=False)
    document: Any = field(repr=False)  # None where the body is not JSON
    key: SecretStr

    @property
    def errors(self) -> list[ErrorItem]:
        """The members of `errors`; none if this is not a JSON:API error."""
        members = _objects_in(_object(self.document).get("errors"))
        return [_error_item(member) for member in members]

    @property
    def request_id(self) -> str:
        """The ID that Klaviyo's support asks for; "" if there is none that is surely an ID."""
        errors = self.errors
        given = errors[0].id if errors else ""
        if not _ERROR_ID.fullmatch(given):
            return ""
        return given if _UUID.fullmatch(given) or self.safe_words(given) == given else ""

    @property
    def retry_after_s(self) -> float | None:
        """The time that Klaviyo asks us to wait: from the header, else from the text of a 429."""
        header = self.headers.get("Retry-After") or ""
        if (seconds := _number(header)) is not None:
            return seconds
        if (moment := _http_date(header)) is not None:
            told_at = _http_date(self.headers.get("Date")) or datetime.now(UTC)
            return max(0.0, (moment - told_at).total_seconds())
        texts = [text for error in self.errors for text in (error.detail, error.title)]
        return _seconds_in(" ".join(texts)) if self.status == 429 else None

    @property
    def rate(self) -> RateInfo:
        """What the RateLimit headers say about the steady window.

        Klaviyo's documentation has a single number, about that window. Clients recorded (2026) the
        list of the IETF's draft instead: "10, 10;w=1, 150;w=60". There the first number, Remaining
        and Reset are about the window that is fullest, which may be the second. We count seconds
        ourselves, so nothing that is about a second is taken for the minute.
        """
        header = self.headers.get("RateLimit-Limit") or ""
        first = _number(header)
        remaining = _number(self.headers.get("RateLimit-Remaining"))
        reset_s = _number(self.headers.get("RateLimit-Reset"))
        minute = _MINUTE.search(header)
        limit = float(minute[1]) if minute else first
        if minute and first != limit:
            is_about_minute = remaining is not None and first is not None and remaining > first
            if not is_about_minute:
                remaining = reset_s = None
        return RateInfo(
            limit=None if limit is None else int(limit),
            remaining=None if remaining is None else int(remaining),
            reset_s=reset_s,
        )

    @property
    def next_link(self) -> str:
        """The address of the collection's next page; "" at the end."""
        return _text(_object(_object(self.document).get("links")).get("next"))

    def says(self, sentence: str) -> str:
        """Return a message: a constant sentence, the status, and Klaviyo's reference."""
        reference = f", error {self.request_id}" if self.request_id else ""
        return f"{sentence} ({self.status}{reference})."

    def says_why(self, sentence: str) -> str:
        """Return a message with Klaviyo's own title and detail, for an error that ends a run."""
        given = self.errors[0].words if self.errors else []
        words = filter(None, map(self.safe_words, given))
        told = " ".join(each if each[-1] in ".!?" else f"{each}." for each in words)
        return f"{self.says(sentence)} Klaviyo says: {told}" if told else self.says(sentence)

    def safe_words(self, words: Any, *, most: int = 200) -> str:
        """Return Klaviyo's words without the addresses, telephone numbers and key in them."""
        if not isinstance(words, str):
            return ""
        tokens = words[:_MAX_WORDS].split()
        if len(words) > _MAX_WORDS:
            del tokens[-1:]  # it may be half an address
        plain = _UNPRINTABLE.sub("", " ".join(tokens)).replace(self.key.get_secret_value(), "[key]")
        named = " ".join("[address]" if _is_address(each) else each for each in plain.split(" "))
        return _LIKE_A_NUMBER.sub("[number]", named)[:most]


_DURATION = re.compile(
    r"(?<![\d.])(\d{1,6}(?:\.\d{1,6})?)\s*(s|secs?|seconds?|mins?|minutes?)\b", re.IGNORECASE
)
_MINUTE = re.compile(r"(?<![\d.])(\d{1,9})\s*;\s*w\s*=\s*60(?!\d)")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ERROR_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_WORDS = 2_000  # of an error's text are looked at
_PEOPLE = "profiles"  # the unit of the usage that counts people
_LIKE_A_NUMBER = re.compile(r"\d(?:[\s().\-/]*\d){6,}")  # E.164 numbers have seven digits and more
_UNPRINTABLE = re.compile(r"[^\w\s!-~]")


def _is_address(token: str) -> bool:
    return "@" in token or "%40" in token


def _error_item(member: dict[str, Any]) -> ErrorItem:
    source = _object(member.get("source"))
    return ErrorItem(
        id=_text(member.get("id")),
        code=_text(member.get("code")),
        title=_text(member.get("title")),
        detail=_text(member.get("detail")),
        pointer=_text(source.get("pointer")),
        parameter=_text(source.get("parameter")),
    )


def unreadable(answer: Answer) -> Unavailable:
    """Return the error for an answer that is not what Klaviyo documents."""
    sentence = answer.says("Klaviyo's answer could not be read")
    return Unavailable(sentence, outcome=Outcome.UNREADABLE)


# Readers: lenient about what is missing, strict about what we use


def parse_json(body: bytes) -> Any:
    """Return a document, or None for anything but JSON: network edges answer in HTML."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def one_resource(read: Callable[[dict[str, Any], Answer], T]) -> Callable[[Answer], T]:
    """Make a reader of answers with one resource. It raises Unavailable for anything else."""

    def read_one(answer: Answer) -> T:
        data = _object(answer.document).get("data")
        if not isinstance(data, dict):
            raise unreadable(answer)
        return read(data, answer)

    return read_one


def read_nothing(answer: Answer) -> None:
    """Accept any answer of Klaviyo's. Raises Unavailable for somebody else's page."""
    if answer.status != 204 and answer.document is None:
        raise unreadable(answer)


def read_promise(answer: Answer) -> None:
    """Accept a 202, which says that Klaviyo will do it. Raises Unavailable for anything else."""
    if answer.status != 202:
        raise unreadable(answer)


def read_resources(answer: Answer) -> list[dict[str, Any]]:
    """Return the resources of a collection. Raises Unavailable for anything else."""
    data = _object(answer.document).get("data")
    if not isinstance(data, list) or len(_objects_in(data)) < len(data):
        raise unreadable(answer)
    return data


def read_account(answer: Answer) -> Account:
    """Return the account of a collection of one: the key's own."""
    for each in read_resources(answer):
        contact = _object(_attributes(each).get("contact_information"))
        return Account(
            id=_id(each, answer),
            name=_text(contact.get("organization_name")),
            asked_at=_http_date(answer.headers.get("Date")),
        )
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
        name=_text(attributes.get("name")),
        opt_in_process=_text(attributes.get("opt_in_process")),
    )


def read_list_with_flows(resource: dict[str, Any], answer: Answer) -> KlaviyoList:
    included = {
        each.get("id"): each for each in _objects_in(_object(answer.document).get("included"))
    }
    triggers = _object(_object(resource.get("relationships")).get("flow-triggers")).get("data")
    names = [read_flow(included.get(each.get("id"), {}), answer) for each in _objects_in(triggers)]
    found = read_list(resource, answer)
    return dataclasses.replace(found, flows=tuple(name for name in names if name))


def read_flow(resource: dict[str, Any], _: Answer) -> str:
    """Return the name of a flow that would start, "" for a flow that would not."""
    attributes = _attributes(resource)
    if attributes.get("archived") is True or attributes.get("status") == "draft":
        return ""
    return _text(attributes.get("name")) or _text(resource.get("id"))


def read_job(resource: dict[str, Any], answer: Answer) -> ImportJob:
    attributes = _attributes(resource)
    status = _text(attributes.get("status"))
    created_at = _moment(attributes.get("created_at"))
    if not status or created_at is None:
        raise unreadable(answer)
    return ImportJob(
        id=_id(resource, answer),
        status=status,
        completed=_count(attributes.get("completed_count")),
        failed=_count(attributes.get("failed_count")),
        created_at=created_at,
    )


def read_failure(resource: dict[str, Any], answer: Answer) -> ImportFailure:
    """Return an import error. Code and title are null at times (klaviyo-api-python issue 88)."""
    attributes = _attributes(resource)
    row = ROW_POINTER.match(_text(_object(attributes.get("source")).get("pointer")))
    return ImportFailure(
        index=int(row[1]) if row else None,
        attribute=pointed_attribute(row, answer) if row else "",
        identifiers=_identifiers_in(attributes.get("original_payload")),
        code=answer.safe_words(attributes.get("code"), most=60),
        title=answer.safe_words(attributes.get("title")),
        detail=answer.safe_words(attributes.get("detail")),
    )


def pointed_attribute(row: re.Match[str], answer: Answer) -> str:
    """Return the attribute that `ROW_POINTER` found, as `MappedField.path` writes it."""
    unescaped = (row[2] or "").replace("~1", "/").replace("~0", "~")  # RFC 6901
    return answer.safe_words(unescaped, most=100)


def _identifiers_in(payload: Any) -> dict[str, str]:
    """Return the identifiers in an `original_payload`, whose shape Klaviyo does not document.

    It may be an object, or an object as JSON text.
    """
    profile = _object(parse_json(payload.encode()) if isinstance(payload, str) else payload)
    for attributes in (profile, _attributes(profile), _attributes(_object(profile.get("data")))):
        if found := _identifiers(attributes):
            return found
    return {}


def _identifiers(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return those of a profile's identifiers that it has."""
    given = {name: _text(attributes.get(name)) for name in IDENTIFIERS}
    return {name: value for name, value in given.items() if value}


def read_identifiers(resource: dict[str, Any], _: Answer) -> dict[str, str]:
    """Return the identifiers of a profile."""
    return _identifiers(_attributes(resource))


def read_usage(resource: dict[str, Any]) -> AccountUsage | None:
    """Return how many profiles a plan has room for; None for a usage of something else.

    Klaviyo does not list which usages there are.
    """
    attributes = _attributes(resource)
    used, most = (_whole(attributes.get(name)) for name in ("usage_used", "usage_max"))
    if _text(attributes.get("unit")) != _PEOPLE or used is None or most is None:
        return None
    return AccountUsage(used=used, most=most)


def _whole(value: Any) -> int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and math.isfinite(value) and value >= 0 else None


def read_profile(resource: dict[str, Any], answer: Answer) -> tuple[str, str | None]:
    return _id(resource, answer), _text(_attributes(resource).get("email")) or None


def _id(resource: dict[str, Any], answer: Answer) -> str:
    given = resource.get("id")
    if not isinstance(given, str) or not ID_PATTERN.fullmatch(given):
        raise unreadable(answer)
    return given


def _attributes(resource: dict[str, Any]) -> dict[str, Any]:
    return _object(resource.get("attributes"))


def _object(value: Any) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _objects_in(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a JSON array; none for anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _seconds_in(text: str) -> float | None:
    """Return the time in "Expected available in 12 seconds."; None if there is none.

    Klaviyo names it in the text only, at times (klaviyo-api-node issue 66).
    """
    found = _DURATION.search(text)
    if not found:
        return None
    unit_s = 60.0 if found[2].lower().startswith("m") else 1.0
    return float(found[1]) * unit_s


def _http_date(header: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment(value: Any) -> datetime | None:
    """Read ISO 8601, as UTC where it has no time zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(header: str | None) -> float | None:
    """Return the number that a header begins with ("150", also "150;w=60"); None without one."""
    found = re.match(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(?:$|[,;])", header or "")
    return float(found[1]) if found else None
