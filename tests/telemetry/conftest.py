"""OpenTelemetry's own SDK in memory, and the small world of the service tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from opentelemetry import metrics, trace

from tests.telemetry.seen import Seen


@pytest.fixture(scope="session")
def _provided() -> Seen:
    """The providers can be set once for a process; they keep nothing while no test looks."""
    seen = Seen()
    trace.set_tracer_provider(seen.tracer_provider)
    metrics.set_meter_provider(seen.meter_provider)
    return seen


@pytest.fixture
def seen(_provided: Seen) -> Iterator[Seen]:
    """What was told from here on: spans, metrics, and log records of every level and library."""
    loggers = [logging.getLogger(name) for name in ("", "exporter", "azure", "urllib3", "msal")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(_provided.handler)
    _provided.begin()
    yield _provided
    _provided.end()
    loggers[0].removeHandler(_provided.handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
