"""Logging: short constant messages with fields; the run's id on everything.

Fields: run_id, segment, batch, job_id, attempt, wait_s, status, cause, profiles, rows. Never a row, an address, a body
or a key.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

FIELDS = ("segment", "batch", "job_id", "attempt", "wait_s", "status", "cause", "missing", "profiles", "rows")

_run_id: ContextVar[str] = ContextVar("run_id", default="")


@contextlib.contextmanager
def bound_run(run_id: str) -> Iterator[None]:
    """Name the run on every record of the block."""
    token = _run_id.set(run_id)
    try:
        yield
    finally:
        _run_id.reset(token)


class RunIdFilter(logging.Filter):
    """Adds `run_id` to records that have none."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "run_id"):
            record.run_id = _run_id.get()
        return True


class FieldFormatter(logging.Formatter):
    """One line: time, level, message, then the fields that are there."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        names = ("run_id", *FIELDS)
        fields = " ".join(f"{name}={value}" for name in names if (value := getattr(record, name, "")) not in ("", None))
        return f"{super().formatMessage(record)} {fields}".rstrip()


def quiet_sdks() -> None:
    """The Azure SDKs log each request at INFO, with headers."""
    for name in ("azure", "urllib3", "msal"):
        logging.getLogger(name).setLevel(logging.WARNING)


def log_to_stderr(level: int = logging.INFO) -> None:
    """For the command line and the local host."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    handler.addFilter(RunIdFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet_sdks()
