"""Errors as problem details (RFC 9457): what happened, where, and the one thing to do next."""

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

# The first class that an error is one of decides. 409: as things stand, not; 502: not by fault of who asks.
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

# What to do about a status where nothing better is known.
HINTS = {
    400: "Send a JSON object in the form of /api/openapi.json.",
    404: "Look at the list of what there is, or at /api/openapi.json for the addresses.",
    405: "Use a method that the header Allow names.",
    409: "Look at how things stand now, then ask again.",
    412: EditConflict.hint,
    413: "Send less: a form is far smaller.",
    422: Invalid.hint,
    428: "Read it, and send the ETag of that answer as If-Match.",
    500: "Look for this moment in the logs.",
    502: "Check the connection's key; try it with the connection's check.",
    503: "Ask again after the seconds that the header Retry-After names.",
}


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """The body of every answer that is no success. `hint` is the one thing to do next."""

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
    """A problem. kind: its name for programs; without one it is named by its status."""
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
    """The problem of an error that is none of ours."""
    hint = "Look for this moment in the logs and report it as a defect."
    return answer(500, "the app failed for a reason it does not know", hint=hint)


def of_error(error: ExporterError) -> JSONResponse:
    """The problem that one of our errors is."""
    status = status_of(error)
    problems = error.problems if isinstance(error, Invalid) else ()
    made = answer(
        status, error.message, kind=name_of(type(error)), hint=error.hint, problems=problems
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        wait_s = error.retry_after_s if isinstance(error, Transient) else None
        made.headers["Retry-After"] = str(math.ceil(wait_s or RETRY_S))
    return made
