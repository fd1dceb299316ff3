"""What each of Klaviyo's statuses means for us: one table. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from exporter.errors import (
    BatchRefused,
    BatchTooLarge,
    ExporterError,
    KeyRefused,
    KlaviyoRejected,
    ListGone,
    RateLimited,
    RevisionRetired,
    RowRefusal,
    ScopeMissing,
)
from exporter.klaviyo.backoff import Outcome, Unavailable
from exporter.klaviyo.responses import BASE_URL_HINT, ROW, Answer, as_dict, unreadable

EDGE_HINT = (
    "The edge before Klaviyo turned this address away. That happens to outgoing addresses which many share in the "
    "cloud: give the app one of its own (NAT gateway), or ask Klaviyo to let it in."
)
PACKED_HINT = "If KLAVIYO_COMPRESS is on, set it to off: Klaviyo does not take packed requests."


class NotFound(KlaviyoRejected):
    """Klaviyo itself says 404, and not about a list."""


_LIST = "/data/relationships/list"
_ABOUT_THE_KEY = re.compile(r"authenticat|api[ _-]?key|private[ _-]?key|credential", re.IGNORECASE)
_ABOUT_THE_REVISION = re.compile(r"\brevision\b", re.IGNORECASE)


def _bad_request(answer: Answer) -> ExporterError:
    """400 means a bad batch, a list that is gone, a bad key (sources disagree: 400 or 401) or a bad question."""
    if not answer.errors:
        return unreadable(answer)
    sources = [as_dict(each.get("source")) for each in answer.errors]
    pointers = [str(source.get("pointer") or "") for source in sources]
    if answer.call.is_import and any(pointer.startswith(_LIST) for pointer in pointers):
        return _not_found(answer)
    rows = _refused_rows(answer, pointers) if answer.call.is_import else ()
    if not rows:
        # A bad key must not look like a bad batch: halving it would blame every row in turn.
        words = " ".join(
            str(each.get(name)) for each in answer.errors for name in ("code", "title", "detail")
        )
        if _ABOUT_THE_REVISION.search(words):
            return RevisionRetired(
                answer.says("Klaviyo does not take this API revision"), status=answer.status
            )
        is_plain_get = answer.call.method == "GET" and not any(
            source.get("parameter") for source in sources
        )
        if is_plain_get or _ABOUT_THE_KEY.search(words):
            return _key_refused(answer)
    if answer.call.is_import:
        first = answer.errors[0]
        words = answer.safe_words(first.get("detail")) or answer.safe_words(first.get("title"))
        return BatchRefused(answer.says("Klaviyo refused the batch"), rows=rows, words=words)
    return _rejected(answer)


def _refused_rows(answer: Answer, pointers: Sequence[str]) -> tuple[RowRefusal, ...]:
    found = (
        (ROW.fullmatch(pointer), each)
        for pointer, each in zip(pointers, answer.errors, strict=True)
    )
    return tuple(
        RowRefusal(
            index=int(row[1]),
            attribute=answer.safe_words(row[2], most=100),
            reason=answer.safe_words(each.get("detail")) or answer.safe_words(each.get("title")),
        )
        for row, each in found
        if row
    )


def _key_refused(answer: Answer) -> ExporterError:
    return KeyRefused(answer.says("Klaviyo refused the API key"))


def _forbidden(answer: Answer) -> ExporterError:
    """JSON is Klaviyo speaking; anything else is what stands before it (klaviyo-api-python issue 84)."""
    if not answer.errors or "cf-mitigated" in answer.headers:
        return Unavailable(
            answer.says("The edge before Klaviyo turned the request away"),
            outcome=Outcome.EDGE_REFUSED,
            hint=EDGE_HINT,
            retry_after_s=answer.retry_after_s,
        )
    return ScopeMissing(
        answer.says(f"The Klaviyo key may not do this, it needs {answer.call.scopes}")
    )


def _not_found(answer: Answer) -> ExporterError:
    if not answer.errors:
        sentence = "There is no Klaviyo API at this address"
        return KlaviyoRejected(answer.says(sentence), hint=BASE_URL_HINT, status=answer.status)
    if not (answer.call.list_id or answer.call.is_import):
        return NotFound(
            answer.says("Klaviyo does not have what was asked for"), status=answer.status
        )
    name = f"The list {answer.call.list_id}" if answer.call.list_id else "The list of this import"
    return ListGone(
        answer.says(f"{name} does not exist in this Klaviyo account"), status=answer.status
    )


def _rejected(answer: Answer) -> ExporterError:
    hint = (
        BASE_URL_HINT if 300 <= answer.status < 400 else PACKED_HINT if answer.status == 415 else ""
    )
    return KlaviyoRejected(
        answer.says("Klaviyo rejected the request"), hint=hint, status=answer.status
    )


def _conflict(answer: Answer) -> ExporterError:
    return KlaviyoRejected(
        answer.says("Klaviyo reports a conflict between profiles"), status=answer.status
    )


def _retired(answer: Answer) -> ExporterError:
    return RevisionRetired(
        answer.says("Klaviyo has retired this API revision"), status=answer.status
    )


def _too_large(answer: Answer) -> ExporterError:
    return BatchTooLarge(
        answer.says("The request was over Klaviyo's size limit"), status=answer.status
    )


def _rate_limited(answer: Answer) -> ExporterError:
    return RateLimited(
        answer.says("Klaviyo's rate limit is reached"), retry_after_s=answer.retry_after_s
    )


def _server_error(answer: Answer) -> ExporterError:
    return Unavailable(
        answer.says("Klaviyo could not answer"),
        outcome=Outcome.SERVER_ERROR,
        retry_after_s=answer.retry_after_s,
    )


# Source: "Rate limits, status codes, and errors", developers.klaviyo.com; 524 and 525 from the incident of 2026-05-05
# (klaviyo-api-node issue 62), 408 and 414 from HTTP itself. What is not here is `error_for`'s.
STATUSES: Mapping[int, Callable[[Answer], ExporterError]] = {
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


def error_for(answer: Answer) -> ExporterError:
    """The error for an answer whose status is not one of 200 to 299."""
    other = _server_error if answer.status >= 500 else _rejected
    return STATUSES.get(answer.status, other)(answer)
