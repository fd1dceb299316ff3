"""Errors as problem details (RFC 9457): what happened, where, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus

from pydantic import BaseModel
from starlette.responses import JSONResponse

from exporter.errors import (
    ConfigError,
    Conflict,
    EditConflict,
    ExporterError,
    Invalid,
    KeyRefused,
    KlaviyoRejected,
    MappingError,
    NotAllowed,
    PartitionChanged,
    Problem,
    Refused,
    ScopeMissing,
    SecretUnavailable,
    SnapshotUnreadable,
    StoreMoved,
    Transient,
    Unknown,
    name_of,
)

MEDIA_TYPE = "application/problem+json"
RETRY_S = 30
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # of every answer

# The first class that fits decides. 409: not possible as things stand. 502: not the caller's fault.
STATUSES: tuple[tuple[type[ExporterError], int], ...] = (
    (NotAllowed, 403),
    (Unknown, 404),
    (Invalid, 422),
    (EditConflict, 412),
    (Conflict, 409),
    (Refused, 409),
    (Transient, 503),
    (MappingError, 409),
    (KeyRefused, 502),
    (ScopeMissing, 502),
    (SecretUnavailable, 502),
    (KlaviyoRejected, 502),
    (SnapshotUnreadable, 409),
    (PartitionChanged, 409),
    (StoreMoved, 409),
    (ConfigError, 409),
    (ExporterError, 500),
)

# What to do about a status if the error itself says nothing.
HINTS = {
    400: "Send a JSON object in the form of /api/openapi.json.",
    404: "Check the id against the list, and the address against /api/openapi.json.",
    405: "Use a method that the header Allow names.",
    409: "Read the current state, then ask again.",
    412: EditConflict.hint,
    413: "Send a smaller body.",
    422: Invalid.hint,
    428: "Read the document first, and send the ETag of that answer as If-Match.",
    500: "Look for the time of this request in the logs.",
    502: "Try the connection's key with the connection's check.",
    503: "Ask again after the number of seconds in the header Retry-After.",
}


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """The body of every answer that is not a success. hint: the one thing to do next."""

    type: str
    title: str
    status: int
    detail: str
    hint: str = ""
    problems: list[FieldProblem] = []


def status_of(error: ExporterError) -> int:
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def answer(
    status: int, detail: str, *, kind: str = "", hint: str = "", problems: Sequence[Problem] = ()
) -> JSONResponse:
    """Answer with a problem. kind: its name for programs; without one its status names it."""
    title = HTTPStatus(status).phrase
    document = ProblemDocument(
        type=f"/problems/{kind}" if kind else "about:blank",
        title=title,
        status=status,
        detail=detail,
        hint=hint or HINTS.get(status, ""),
        problems=[FieldProblem(field=each.field, message=each.message) for each in problems],
    )
    return JSONResponse(
        document.model_dump(), status_code=status, media_type=MEDIA_TYPE, headers=HEADERS
    )


def unknown() -> JSONResponse:
    """Answer with the problem of an unexpected error."""
    hint = "Look for the time of this request in the logs, and report it as a defect."
    return answer(500, "the app failed unexpectedly", hint=hint)


def of_error(error: ExporterError) -> JSONResponse:
    """Answer with the problem that one of our errors describes."""
    status = status_of(error)
    problems = error.problems if isinstance(error, Invalid) else ()
    made = answer(
        status, error.message, kind=name_of(type(error)), hint=error.hint, problems=problems
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        wait_s = error.retry_after_s if isinstance(error, Transient) else None
        made.headers["Retry-After"] = str(math.ceil(wait_s or RETRY_S))
    return made
