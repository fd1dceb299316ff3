"""Traces and metrics: what a run does, how long it takes and how it ends. Never who is in it.

    run                       one trace, whose id is made of the run's: every step of it, on any instance, is in it
      step                    one message of the queue; linked to the invocation that it came with
        phase                 plan, send, confirm or finish, as far as the step got with it
          request             one exchange with Klaviyo

Only OpenTelemetry's API is used: without a provider every call here does nothing. On Azure the worker sets one up
(PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY, package azure-monitor-opentelemetry), a test its own. Elsewhere the
sums of each step are in the log lines. Attributes are ids, words of closed sets and numbers: no address, no name, no
body, no query of an address; and errors are told by their kind, because the text of one that is not ours may quote
anything.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from exporter.logs import run_bound

if TYPE_CHECKING:
    from exporter.runs.run import Run

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Names. docs/how-to/watch.md asks for them; a test holds its queries to these.

RUN_SPAN, STEP_SPAN, PHASE_SPAN = SPANS = (
    "run",
    "step",
    "phase",
)  # a request's is "POST /api/lists/{id}"

PROFILES = "exporter.profiles"
JOBS = "exporter.jobs"
WAITS = "exporter.wait.seconds"
THROTTLED = "exporter.throttled"
REQUESTS = "exporter.request.seconds"
PHASES = "exporter.phase.seconds"
METRICS = {
    PROFILES: ("{row}", "Rows of closed runs, by outcome and, if rejected, reason."),
    JOBS: ("{job}", "Import jobs: accepted, complete or lost."),
    WAITS: (
        "s",
        "Time spent waiting: for Klaviyo's pace, to retry a request, or to try a step again.",
    ),
    THROTTLED: ("{request}", "Requests that Klaviyo answered with 429, by endpoint."),
    REQUESTS: ("s", "Exchanges with Klaviyo, by endpoint and status; 0 where none came back."),
    PHASES: ("s", "What a step spent in a phase, by phase."),
}

# Attributes of spans and metrics; a run's id is on spans only, for it would make a series of every run.
RUN_ID, EXPORT, PHASE, STEP, BATCH = "run_id", "export", "phase", "step", "batch"
STATUS, OUTCOME, REASON, BECAUSE, CAUSE, ENDPOINT = (
    "status",
    "outcome",
    "reason",
    "because",
    "cause",
    "endpoint",
)
ROWS, DELIVERED, DUPLICATES, REJECTED, JOB_COUNT = (
    "rows",
    "delivered",
    "duplicates",
    "rejected",
    "jobs",
)
# As OpenTelemetry's conventions have them: Application Insights makes type, name and target of a dependency of them.
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


_profiles, _jobs, _waits, _throttled = (
    _counter(name) for name in (PROFILES, JOBS, WAITS, THROTTLED)
)
_requests = _histogram(REQUESTS, (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))
_phases = _histogram(PHASES, (0.1, 0.5, 1, 5, 15, 60, 120, 240, 480))

# What the requests of a block are about: `batch`, set by the thread that hands them out.
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


class _Spent:
    """What a step took of Klaviyo, for the log: without a provider nothing else tells."""

    def __init__(self) -> None:
        self.jobs, self.waited_s = 0, 0.0
        self._started = time.monotonic()
        self._by_endpoint: dict[str, list[float]] = {}  # requests, of them throttled, seconds
        self._lock = threading.Lock()  # requests are made in several threads

    def on_request(self, endpoint: str, status: int, seconds: float) -> None:
        with self._lock:
            spent = self._by_endpoint.setdefault(endpoint, [0, 0, 0.0])
            spent[:] = spent[0] + 1, spent[1] + (status == 429), spent[2] + seconds

    def tell(self) -> None:
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
    """One step of a run. What invoked it has a trace of its own: the two are linked."""
    invocation = trace.get_current_span().get_span_context()
    links = [Link(invocation)] if invocation.is_valid else []
    spent = _Spent()
    token = _spent.set(spent)
    try:
        with _span(STEP_SPAN, {RUN_ID: run_id, STEP: number}, parent=_inside(run_id), links=links):
            yield
    finally:
        _spent.reset(token)
        spent.tell()


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """What this step does of a phase; also a decorator. Told to the log as well."""
    started = time.monotonic()
    with _span(PHASE_SPAN, {PHASE: name}):
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            _phases.record(seconds, {PHASE: name})
            logger.info("phase done", extra={"phase": name, "seconds": round(seconds, 3)})


class Exchange:
    """A request to Klaviyo under way, to be told its answer's status."""

    def __init__(self) -> None:
        self.status = 0


@contextlib.contextmanager
def request(method: str, base_url: str, target: str) -> Iterator[Exchange]:
    """One request to Klaviyo. `target` is path and query; only the former is looked at, and ids in it are left out.

    Automatic instrumentation of HTTP clients records whole addresses, so it is kept out of the block.
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
    """The path of a request with "{id}" in place of ids: /api/lists/{id}/profiles. The query is left out."""
    segments = target.partition("?")[0].strip("/").split("/")
    return "/" + "/".join(
        "{id}" if place == 2 else segment for place, segment in enumerate(segments)
    )


def run_closed(run: Run) -> None:
    """The span of a whole run, at its end, and what became of its rows."""
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
        context=_inside(run.run_id),
        attributes=attributes,
        start_time=_nanoseconds(run.created_at),
    )
    if (
        span.is_recording()
    ):  # the API lets nobody choose an id: the SDK's span is given what its children know it by
        vars(span).update(_context=_span_of(run.run_id), _parent=None)
    if run.status == "Failed":
        span.set_status(Status(StatusCode.ERROR))
    span.end(_nanoseconds(run.finished_at) if run.finished_at else None)
    _count(_profiles, counts.delivered, {**kind, OUTCOME: DELIVERED_ROW})
    _count(_profiles, counts.duplicates, {**kind, OUTCOME: DUPLICATE_ROW})
    for reason, number in counts.rejected.items():
        _count(_profiles, number, {**kind, OUTCOME: REJECTED_ROW, REASON: str(reason)})


# Metrics that belong to no span


def job(outcome: str) -> None:
    """An import job was accepted, ended or was lost."""
    _jobs.add(1, {OUTCOME: outcome})
    if (spent := _spent.get()) and outcome == ACCEPTED_JOB:
        spent.jobs += 1


def waited(seconds: float, because: str) -> None:
    """So long was, or will be, waited."""
    _count(_waits, seconds, {BECAUSE: because})
    if spent := _spent.get():
        spent.waited_s += seconds


# Threads


def carrying(call: Callable[P, R], **about: Any) -> Callable[P, R]:
    """`call` for another thread: there it belongs to this one's run and span. `about`: attributes of its requests."""
    context = copy_context()
    context.run(_about.set, about)
    return functools.partial(context.run, call)


# How


@contextlib.contextmanager
def _span(
    name: str,
    attributes: Mapping[str, Any],
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: otel_context.Context | None = None,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """A span around a block. An error that passes through is told by its kind, not by its text."""
    with _tracer.start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes={**({RUN_ID: run_id} if (run_id := run_bound()) else {}), **attributes},
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as exc:
            span.set_attribute(CAUSE, type(exc).__name__)
            span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
            raise


def _span_of(run_id: str) -> SpanContext:
    """The span of a run, which ends with it: steps on any instance find the same without being told."""
    digest = hashlib.sha256(run_id.encode()).digest()
    return SpanContext(
        trace_id=int.from_bytes(digest[:16]) or 1,
        span_id=int.from_bytes(digest[16:24]) or 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _inside(run_id: str) -> otel_context.Context:
    return trace.set_span_in_context(NonRecordingSpan(_span_of(run_id)), otel_context.Context())


@contextlib.contextmanager
def _uninstrumented() -> Iterator[None]:
    # The public `suppress_http_instrumentation` of opentelemetry-instrumentation sets this key, and nothing else.
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
