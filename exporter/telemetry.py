"""Traces and metrics: what a run does, how long it takes and how it ends. Never who is in it.

    step                    one message of the queue, within the invocation that brought it
      phase                 plan, send, confirm or finish, as far as the step got with it
        request             one exchange with Klaviyo
    run                     the whole run, in a trace of its own, recorded when it closes

Every span bears its run's id, so `run_id` finds all spans of a run, whichever instance sent them.

Only OpenTelemetry's API is used: without a provider every call here does nothing. On Azure the
worker sets one up (PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY, azure-monitor-opentelemetry), a
test its own. Elsewhere the sums of each step are in the log lines. Attributes are ids, words of
closed sets and numbers: no address, no name, no body, no query of an address. Errors are told by
their kind, because the text of an error that is not ours may quote anything.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from datetime import datetime
from types import MappingProxyType
from typing import Any, ParamSpec, Protocol, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from exporter.logs import run_bound

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# The names that the queries in docs/how-to/watch.md ask for; a test compares the two.

# A request's span is called "POST /api/lists/{id}".
RUN_SPAN, STEP_SPAN, PHASE_SPAN = SPANS = ("run", "step", "phase")

PROFILES = "exporter.profiles"
JOBS = "exporter.jobs"
WAITS = "exporter.wait.seconds"
THROTTLED = "exporter.throttled"
REQUESTS = "exporter.request.seconds"
PHASES = "exporter.phase.seconds"
METRICS = {
    PROFILES: ("{row}", "Rows of closed runs, by outcome and, if rejected, reason."),
    JOBS: ("{job}", "Import jobs: accepted, complete or lost."),
    WAITS: ("s", "Waiting time: for Klaviyo's pace, to retry a request, to try a step again."),
    THROTTLED: ("{request}", "Requests that Klaviyo answered with 429, by endpoint."),
    REQUESTS: ("s", "Exchanges with Klaviyo, by endpoint and status; 0 where none came back."),
    PHASES: ("s", "What a step spent in a phase, by phase."),
}

# Attributes of spans and metrics. A run's id is on spans only: each run would be a metric's series.
RUN_ID, EXPORT, PHASE, STEP, BATCH = "run_id", "export", "phase", "step", "batch"
STATUS, OUTCOME, REASON, BECAUSE = "status", "outcome", "reason", "because"
CAUSE, ENDPOINT = "cause", "endpoint"
ROWS, DELIVERED, DUPLICATES, REJECTED = "rows", "delivered", "duplicates", "rejected"
JOB_COUNT = "jobs"
# The names of OpenTelemetry's conventions: from them Application Insights makes the type, name and
# target of a dependency.
HTTP_METHOD, HTTP_STATUS, URL = "http.request.method", "http.response.status_code", "url.full"
ATTRIBUTES = (
    *(RUN_ID, EXPORT, PHASE, STEP, BATCH, STATUS, OUTCOME, REASON, BECAUSE, CAUSE, ENDPOINT),
    *(ROWS, DELIVERED, DUPLICATES, REJECTED, JOB_COUNT, HTTP_METHOD, HTTP_STATUS, URL),
)

# Values of `outcome` and `because`.
DELIVERED_ROW, DUPLICATE_ROW, REJECTED_ROW = "delivered", "duplicate", "rejected"
ACCEPTED_JOB, COMPLETE_JOB, LOST_JOB = "accepted", "complete", "lost"
PACE_WAIT, RETRY_WAIT, SETBACK_WAIT = "pace", "retry", "setback"

_tracer = trace.get_tracer("exporter")
_meter = metrics.get_meter("exporter")


def _counter(name: str) -> metrics.Counter:
    unit, description = METRICS[name]
    return _meter.create_counter(name, unit=unit, description=description)


def _histogram(name: str, bounds: Sequence[float]) -> metrics.Histogram:
    unit, description = METRICS[name]
    return _meter.create_histogram(
        name, unit=unit, description=description, explicit_bucket_boundaries_advisory=list(bounds)
    )


_profiles, _jobs = _counter(PROFILES), _counter(JOBS)
_waits, _throttled = _counter(WAITS), _counter(THROTTLED)
_requests = _histogram(REQUESTS, (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))
_phases = _histogram(PHASES, (0.1, 0.5, 1, 5, 15, 60, 120, 240, 480))

# Attributes for the requests of a thread: `batch`, set by `carrying`.
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


class _Spent:
    """Sums up a step's use of Klaviyo for the log, the only record where there is no provider."""

    def __init__(self) -> None:
        self.jobs, self.waited_s = 0, 0.0
        self._started = time.monotonic()
        self._by_endpoint: dict[str, list[float]] = {}  # [requests, throttled, seconds]
        self._lock = threading.Lock()  # requests are made in several threads

    def on_request(self, endpoint: str, status: int, seconds: float) -> None:
        with self._lock:
            spent = self._by_endpoint.setdefault(endpoint, [0, 0, 0.0])
            spent[:] = spent[0] + 1, spent[1] + (status == 429), spent[2] + seconds

    def log(self) -> None:
        for name, (count, throttled, seconds) in self._by_endpoint.items():
            fields = {"requests": count, "throttled": throttled, "seconds": round(seconds, 3)}
            logger.info("requests done", extra={"endpoint": name, **fields})
        seconds = round(time.monotonic() - self._started, 3)
        logger.info(
            "step done",
            extra={"jobs": self.jobs, "waited_s": round(self.waited_s, 3), "seconds": seconds},
        )


_spent: ContextVar[_Spent | None] = ContextVar("spent", default=None)


# Spans


@contextlib.contextmanager
def step(run_id: str, number: int) -> Iterator[None]:
    """Record a block as one step of a run, with a log line of what it used."""
    spent = _Spent()
    token = _spent.set(spent)
    try:
        with _span(STEP_SPAN, {RUN_ID: run_id, STEP: number}):
            yield
    finally:
        _spent.reset(token)
        spent.log()


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Record a block as a step's part of a phase, also in the log. Works as a decorator too."""
    started = time.monotonic()
    with _span(PHASE_SPAN, {PHASE: name}):
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            _phases.record(seconds, {PHASE: name})
            logger.info("phase done", extra={"phase": name, "seconds": round(seconds, 3)})


class Exchange:
    """A request to Klaviyo under way. Set `status` to that of its answer; 0 means no answer."""

    def __init__(self) -> None:
        self.status = 0


@contextlib.contextmanager
def request(method: str, base_url: str, target: str) -> Iterator[Exchange]:
    """Record a block as one request to Klaviyo.

    target: path and query. The query is not recorded, nor are ids in the path. The block is hidden
    from automatic instrumentation of HTTP clients, because that records whole addresses.
    """
    path, exchange = endpoint(target), Exchange()
    name = f"{method} {path}"
    attributes = {ENDPOINT: name, HTTP_METHOD: method, URL: base_url + path, **_about.get()}
    started = time.monotonic()
    with _span(name, attributes, kind=SpanKind.CLIENT) as span, _uninstrumented():
        try:
            yield exchange
        finally:
            kind, seconds = {ENDPOINT: name}, time.monotonic() - started
            _requests.record(seconds, {**kind, STATUS: exchange.status})
            if spent := _spent.get():
                spent.on_request(name, exchange.status, seconds)
            if exchange.status:
                span.set_attribute(HTTP_STATUS, exchange.status)
            if exchange.status == 429:
                _throttled.add(1, kind)
            if exchange.status >= 400:
                span.set_status(Status(StatusCode.ERROR))


def endpoint(target: str) -> str:
    """Return a request's path with "{id}" for its id and no query: /api/lists/{id}/profiles."""
    segments = target.partition("?")[0].strip("/").split("/")
    if len(segments) > 2:
        segments[2] = "{id}"
    return "/" + "/".join(segments)


class RowCounts(Protocol):
    """A run's rows by how they ended, as far as telemetry tells them."""

    @property
    def rows(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def rejected(self) -> Mapping[str, int]: ...
    @property
    def jobs(self) -> int: ...


class ClosedRun(Protocol):
    """A run that has ended, as far as telemetry tells it."""

    @property
    def run_id(self) -> str: ...
    @property
    def export(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def because(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def finished_at(self) -> datetime | None: ...
    @property
    def counts(self) -> RowCounts: ...


def run_closed(run: ClosedRun) -> None:
    """Record the span of a whole run, once it has ended, and count its rows by outcome."""
    counts, kind = run.counts, {EXPORT: run.export}
    attributes: dict[str, Any] = {
        RUN_ID: run.run_id,
        EXPORT: run.export,
        STATUS: str(run.status),
        BECAUSE: run.because,
        ROWS: counts.rows,
        DELIVERED: counts.delivered,
        DUPLICATES: counts.duplicates,
        JOB_COUNT: counts.jobs,
        REJECTED: sum(counts.rejected.values()),
    }
    span = _tracer.start_span(
        RUN_SPAN,
        context=otel_context.Context(),
        attributes=attributes,
        start_time=_nanoseconds(run.created_at),
    )
    if run.status == "Failed":
        span.set_status(Status(StatusCode.ERROR))
    span.end(_nanoseconds(run.finished_at) if run.finished_at else None)
    _count(_profiles, counts.delivered, {**kind, OUTCOME: DELIVERED_ROW})
    _count(_profiles, counts.duplicates, {**kind, OUTCOME: DUPLICATE_ROW})
    for reason, number in counts.rejected.items():
        _count(_profiles, number, {**kind, OUTCOME: REJECTED_ROW, REASON: str(reason)})


# Metrics without a span


def job(outcome: str) -> None:
    """Count an import job that was accepted, ended or was lost."""
    _jobs.add(1, {OUTCOME: outcome})
    if (spent := _spent.get()) and outcome == ACCEPTED_JOB:
        spent.jobs += 1


def waited(seconds: float, because: str) -> None:
    """Count seconds of waiting, past or about to begin."""
    _count(_waits, seconds, {BECAUSE: because})
    if spent := _spent.get():
        spent.waited_s += seconds


def carrying(call: Callable[P, R], **about: Any) -> Callable[P, R]:
    """Wrap `call` for another thread, so that it runs within this thread's run and span.

    about: attributes for the requests that it makes.
    """
    context = copy_context()
    context.run(_about.set, about)
    return functools.partial(context.run, call)


@contextlib.contextmanager
def _span(
    name: str,
    attributes: Mapping[str, Any],
    *,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[Span]:
    """Put a span around a block. An error that leaves the block is told by its kind alone."""
    run_id = run_bound()
    of_run = {RUN_ID: run_id} if run_id else {}
    with _tracer.start_as_current_span(
        name,
        kind=kind,
        attributes={**of_run, **attributes},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as exc:
            span.set_attribute(CAUSE, type(exc).__name__)
            span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
            raise


@contextlib.contextmanager
def _uninstrumented() -> Iterator[None]:
    # opentelemetry-instrumentation's `suppress_http_instrumentation` sets this key and no more.
    token = otel_context.attach(
        otel_context.set_value(otel_context._SUPPRESS_HTTP_INSTRUMENTATION_KEY, True)
    )
    try:
        yield
    finally:
        otel_context.detach(token)


def _count(counter: metrics.Counter, number: float, attributes: Mapping[str, Any]) -> None:
    if number:
        counter.add(number, dict(attributes))


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1_000
