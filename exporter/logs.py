"""Logging: short constant messages with fields, and the run's id on everything.

    run created                                           the message, which queries ask for
    run created run_id=vips/20260824T1433Z-1a2b3c4d5e     the line: run and fields follow

Never a row, an address, a body or a key. Where OpenTelemetry takes the records, run and fields are
attributes (in Application Insights: customDimensions) and the message stays as it is.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import PurePath
from typing import ParamSpec, TypeVar

from exporter.errors import ExporterError

P = ParamSpec("P")
R = TypeVar("R")

RUN_ID = "run_id"
FIELDS = (
    *("export", "exports", "segment", "phase", "batch", "job_id", "attempt", "wait_s"),
    *("endpoint", "requests", "throttled", "jobs", "waited_s", "seconds"),
    *("status", "outcome", "cause", "missing", "profiles", "rows"),
)

_run_id: ContextVar[str] = ContextVar("run_id", default="")


def run_bound() -> str:
    """Return the id of the run that this thread works for; "" for none."""
    return _run_id.get()


@contextlib.contextmanager
def bound_run(run_id: str) -> Iterator[None]:
    """Put the run's id on every record of a block."""
    token = _run_id.set(run_id)
    try:
        yield
    finally:
        _run_id.reset(token)


class UnexpectedError(Exception):
    """Stands for an error that is not ours: only its kind and place, none of its text."""


def discreet(trigger: Callable[P, R]) -> Callable[P, R]:
    """Let no text but our own leave a trigger in an error, because hosts log errors in full.

    The text of an unexpected error may quote a cell, an address or a body.
    """

    @functools.wraps(trigger)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return trigger(*args, **kwargs)
        except ExporterError as exc:
            raise exc from None  # its cause holds somebody else's text
        except Exception as exc:  # noqa: BLE001 - the outermost edge; raised again below
            error = UnexpectedError(kind_and_place(exc))
        raise error  # outside the handler: inside, the original would become its context

    return run


def cause_of(exc: Exception) -> str:
    """Describe an error for a log: in our own words, or by its kind and place."""
    return exc.message if isinstance(exc, ExporterError) else kind_and_place(exc)


def kind_and_place(exc: Exception) -> str:
    """Name an error and its way through our code: "KeyError in run_step.py:47 < planner.py:31"."""
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [frame for frame in frames if "exporter" in PurePath(frame.filename).parts]
    shown = ours or frames[-1:]
    place = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in shown)
    return f"{type(exc).__name__} in {place}"


class RunIdFilter(logging.Filter):
    """Adds the bound run's `run_id` to records that have none."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, RUN_ID) and (run_id := _run_id.get()):
            record.run_id = run_id
        return True


class FieldFormatter(logging.Formatter):
    """Adds the record's fields to another formatter's line, after the message."""

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        names = [name for name in (RUN_ID, *FIELDS) if getattr(record, name, "") not in ("", None)]
        if not names:
            return self._inner.format(record)
        # One line, whatever a blob's name holds.
        fields = " ".join(
            f"{name}={' '.join(str(getattr(record, name)).split())}" for name in names
        )
        shown = copy.copy(record)
        shown.msg, shown.args = f"{record.getMessage()} {fields}", ()
        return self._inner.format(shown)


def quiet_sdks() -> None:
    """Silence the Azure SDKs below WARNING: they log each request at INFO, with headers."""
    for name in ("azure", "urllib3", "msal"):
        logging.getLogger(name).setLevel(logging.WARNING)


def show_fields() -> None:
    """Add run and fields to the lines of a functions host's handlers, once the app is loaded."""
    for handler in (*logging.getLogger().handlers, *logging.getLogger("exporter").handlers):
        if not any(isinstance(each, RunIdFilter) for each in handler.filters):
            handler.addFilter(RunIdFilter())
        if not _takes_fields(handler) and not isinstance(handler.formatter, FieldFormatter):
            handler.setFormatter(FieldFormatter(handler.formatter))
    ours = logging.getLogger("exporter")
    # Where the worker sends our lines to Application Insights itself, they stay away from the root:
    # what reaches that is the host's, which would send each a second time.
    if any(_takes_fields(handler) for handler in ours.handlers):
        ours.propagate = False
    # Microsoft's worker does so for all loggers; other hosts may not.
    ours.setLevel(logging.INFO)
    quiet_sdks()


def _takes_fields(handler: logging.Handler) -> bool:
    """Tell whether a handler is OpenTelemetry's, which has a place for fields of their own."""
    return type(handler).__module__.startswith("opentelemetry.")
