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
from exporter.klaviyo.responses import (
    BASE_URL_HINT,
    DUPLICATE_PROFILE,
    ROW_POINTER,
    Answer,
    pointed_attribute,
    unreadable,
)

EDGE_HINT = (
    "The network edge before Klaviyo turned this address away. That happens to outgoing addresses "
    "that many share in the cloud: give the app an address of its own (NAT gateway), or ask "
    "Klaviyo to let this one in."
)
REJECTED_HINT = (
    "Look at this account in Klaviyo. Klaviyo's support knows the request by the error's ID."
)


class NotFound(KlaviyoRejected):
    """Klaviyo itself says 404, and not about a list."""


_LIST_POINTER = "/data/relationships/list"
_ABOUT_THE_KEY = re.compile(r"authenticat|api[ _-]?key|private[ _-]?key|credential", re.IGNORECASE)
_ABOUT_THE_REVISION = re.compile(r"\brevision\b", re.IGNORECASE)


def _bad_request(answer: Answer) -> ExporterError:
    """400: a bad batch, a list that is gone, a bad question, or (pages disagree) a bad key."""
    if not answer.errors:
        return unreadable(answer)
    return _refused_import(answer) if answer.call.is_import else _refused_question(answer)


def _refused_import(answer: Answer) -> ExporterError:
    if any(each.pointer.startswith(_LIST_POINTER) for each in answer.errors):
        return _not_found(answer)
    rows = _refused_rows(answer)
    if not rows:
        # A bad key must not look like a bad batch: halving that would blame every row in turn.
        words = _all_words(answer)
        if _ABOUT_THE_REVISION.search(words):
            return _revision_refused(answer)
        if _ABOUT_THE_KEY.search(words):
            return _key_refused(answer)
    return _batch_refused(answer, rows)


def _batch_refused(answer: Answer, rows: Sequence[RowRefusal]) -> ExporterError:
    first = answer.errors[0]
    words = answer.safe_words(first.detail) or answer.safe_words(first.title)
    sentence = answer.says("Klaviyo refused the batch")
    is_duplicate = first.code == DUPLICATE_PROFILE
    return BatchRefused(
        sentence, rows=rows, words=words, is_duplicate=is_duplicate, status=answer.status
    )


def _refused_question(answer: Answer) -> ExporterError:
    words = _all_words(answer)
    if _ABOUT_THE_REVISION.search(words):
        return _revision_refused(answer)
    names_parameter = any(each.parameter for each in answer.errors)
    is_plain_get = answer.call.method == "GET" and not names_parameter
    if is_plain_get or _ABOUT_THE_KEY.search(words):
        return _key_refused(answer)
    return _rejected(answer)


def _all_words(answer: Answer) -> str:
    return " ".join(f"{each.code} {each.title} {each.detail}" for each in answer.errors)


def _refused_rows(answer: Answer) -> tuple[RowRefusal, ...]:
    found = ((ROW_POINTER.fullmatch(each.pointer), each) for each in answer.errors)
    return tuple(
        RowRefusal(
            index=int(row[1]),
            attribute=pointed_attribute(row, answer),
            reason=answer.safe_words(each.detail) or answer.safe_words(each.title),
            is_duplicate=each.code == DUPLICATE_PROFILE,
        )
        for row, each in found
        if row
    )


def _revision_refused(answer: Answer) -> ExporterError:
    sentence = "Klaviyo does not take this API revision"
    return RevisionRetired(answer.says_why(sentence), status=answer.status)


def _key_refused(answer: Answer) -> ExporterError:
    return KeyRefused(answer.says_why("Klaviyo refused the API key"))


def _forbidden(answer: Answer) -> ExporterError:
    """403: JSON is Klaviyo's; a page is the network edge's (klaviyo-api-python issue 84)."""
    if not answer.errors or "cf-mitigated" in answer.headers:
        return Unavailable(
            answer.says("The edge before Klaviyo turned the request away"),
            outcome=Outcome.EDGE_REFUSED,
            hint=EDGE_HINT,
            retry_after_s=answer.retry_after_s,
        )
    sentence = f"The Klaviyo key may not do this, it needs {answer.call.scopes}"
    return ScopeMissing(answer.says_why(sentence))


def _not_found(answer: Answer) -> ExporterError:
    status = answer.status
    if not answer.errors:
        sentence = "There is no Klaviyo API at this address"
        return KlaviyoRejected(answer.says(sentence), hint=BASE_URL_HINT, status=status)
    if not (answer.call.list_id or answer.call.is_import):
        sentence = "Klaviyo does not have what was asked for"
        return NotFound(answer.says_why(sentence), status=status)
    name = f"The list {answer.call.list_id}" if answer.call.list_id else "The list of this import"
    sentence = f"{name} does not exist in this Klaviyo account"
    return ListGone(answer.says_why(sentence), status=status)


def _rejected(answer: Answer) -> ExporterError:
    """Any other refusal. Rows of an import that it points at are refused as by a 400."""
    if answer.call.is_import and (rows := _refused_rows(answer)):
        return _batch_refused(answer, rows)
    is_redirect = 300 <= answer.status < 400
    return KlaviyoRejected(
        answer.says_why("Klaviyo rejected the request"),
        hint=BASE_URL_HINT if is_redirect else REJECTED_HINT,
        status=answer.status,
    )


def _conflict(answer: Answer) -> ExporterError:
    """409: profiles of an import are in conflict with others, or something else is."""
    is_about_profiles = any(each.code == DUPLICATE_PROFILE for each in answer.errors)
    rows = _refused_rows(answer)
    if answer.call.is_import and (rows or is_about_profiles):
        return _batch_refused(answer, rows)
    sentence = "Klaviyo reports a conflict between profiles"
    return KlaviyoRejected(answer.says_why(sentence), hint=REJECTED_HINT, status=answer.status)


def _retired(answer: Answer) -> ExporterError:
    sentence = "Klaviyo has retired this API revision"
    return RevisionRetired(answer.says_why(sentence), status=answer.status)


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


# Source: "Rate limits, status codes, and errors", developers.klaviyo.com; 524 and 525 from the
# incident of 2026-05-05 (klaviyo-api-node issue 62), 402, 408, 414, 422 and 451 from HTTP itself.
# `error_for` decides the others.
STATUSES: Mapping[int, Callable[[Answer], ExporterError]] = {
    400: _bad_request,
    401: _key_refused,
    402: _rejected,
    403: _forbidden,
    404: _not_found,
    405: _rejected,
    408: _server_error,
    409: _conflict,
    410: _retired,
    413: _too_large,
    414: _rejected,
    415: _rejected,
    422: _rejected,
    429: _rate_limited,
    451: _rejected,
    500: _server_error,
    502: _server_error,
    503: _server_error,
    504: _server_error,
    524: _server_error,
    525: _server_error,
}


def error_for(answer: Answer) -> ExporterError:
    """Return the error for an answer whose status is not one of 200 to 299."""
    other = _server_error if answer.status >= 500 else _rejected
    return STATUSES.get(answer.status, other)(answer)
