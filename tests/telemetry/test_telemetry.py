"""Spans and metrics of whole runs, as OpenTelemetry's own SDK has them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import ReadableSpan

from exporter import telemetry
from exporter.logs import FieldFormatter, RunIdFilter, bound_run, show_fields
from exporter.runs.run import Status
from tests.journeys.world import World, assert_ended, people
from tests.telemetry.seen import Seen
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.usefixtures("small_batches")


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parents(spans: list[ReadableSpan]) -> set[int]:
    return {span.parent.span_id if span.parent else 0 for span in spans}


def test_every_span_bears_its_run_and_is_below_its_step(world: World, seen: Seen) -> None:
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=30)
    steps, phases, requested = seen.named("step"), seen.named("phase"), seen.requests()
    assert {attributes(span)["run_id"] for span in seen.spans} == {run.run_id}
    assert [attributes(span)["step"] for span in steps] == list(range(len(steps)))
    order = [attributes(span)["phase"] for span in phases]
    assert order == ["plan", "send", *["confirm"] * (len(order) - 3), "finish"]
    assert parents(phases) <= {span.context.span_id for span in steps}
    assert parents(requested) <= {span.context.span_id for span in phases}


def test_a_closed_run_has_a_span_from_creation_to_end(world: World, seen: Seen) -> None:
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=30)
    [whole] = seen.named("run")
    assert whole.parent is None
    assert whole.start_time is not None
    assert run.finished_at is not None
    assert whole.start_time / 1e9 == pytest.approx(run.created_at.timestamp())
    assert (whole.end_time or 0) / 1e9 == pytest.approx(run.finished_at.timestamp())
    told = attributes(whole)
    names = ("run_id", "status", "rows", "delivered", "jobs")
    assert [told[name] for name in names] == [run.run_id, "Successful", 30, 30, 3]


def test_requests_tell_batch_endpoint_and_status(world: World, seen: Seen) -> None:
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    jobs = [
        attributes(span) for span in seen.requests() if attributes(span).get("batch") is not None
    ]
    assert sorted(each["batch"] for each in jobs) == [0, 1, 2]
    assert {(each["endpoint"], each["http.response.status_code"]) for each in jobs} == {
        ("POST /api/profile-bulk-import-jobs", 202)
    }
    assert "GET /api/lists/{id}" in {attributes(span)["endpoint"] for span in seen.requests()}


def test_metrics_count_rows_jobs_throttling_and_waits(world: World, seen: Seen) -> None:
    world.register()
    world.fault("status", status=429, retry_after=2, times=2)
    planted = {3: "none", 4: "p5@example.com"}
    world.drop_people("a.csv", people(30, planted=planted))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=28)
    found = seen.metrics()
    kind = ("export", "vips")
    assert found["exporter.profiles", (kind, ("outcome", "delivered"))] == 28
    assert found["exporter.profiles", (kind, ("outcome", "duplicate"))] == 1
    assert (
        found["exporter.profiles", (kind, ("outcome", "rejected"), ("reason", "placeholder"))] == 1
    )
    assert found["exporter.jobs", (("outcome", "accepted"),)] == 3
    assert found["exporter.jobs", (("outcome", "complete"),)] == 3
    assert found["exporter.throttled", (("endpoint", "POST /api/profile-bulk-import-jobs"),)] == 2
    requests_429 = (("endpoint", "POST /api/profile-bulk-import-jobs"), ("status", 429))
    assert found["exporter.request.seconds", requests_429][0] == 2
    assert found["exporter.wait.seconds", (("because", "pace"),)] > 0
    assert {key[1][0][1] for key in found if key[0] == "exporter.phase.seconds"} == {
        "plan",
        "send",
        "confirm",
        "finish",
    }


def test_without_a_provider_the_log_has_the_sums_of_each_step(world: World, seen: Seen) -> None:
    world.register()
    world.fault("status", status=429, retry_after=2, times=2)
    world.drop_people("a.csv", people(30))
    world.deliver()
    told = {
        name: [line for line in seen.handler.lines if line.startswith(f"{name} run_id=vips/")]
        for name in LINES
    }
    [sent] = [
        line
        for line in told["requests done"]
        if "endpoint=POST /api/profile-bulk-import-jobs" in line
    ]
    assert " requests=5 throttled=2 seconds=" in sent
    steps = [
        re.search(r" jobs=(\d+) waited_s=([\d.]+) seconds=[\d.]+$", line)
        for line in told["step done"]
    ]
    assert len(steps) == len(seen.named("step"))
    assert sum(int(found[1]) for found in steps if found) == 3
    waited = sum(
        value for (name, _), value in seen.metrics().items() if name == "exporter.wait.seconds"
    )
    assert sum(float(found[2]) for found in steps if found) == pytest.approx(waited, abs=0.01)
    assert waited > 0


LINES = ("requests done", "step done")


def test_no_metric_has_a_series_for_every_run(world: World, seen: Seen) -> None:
    world.register()
    world.drop_people("a.csv", people(3))
    world.deliver()
    assert all(name != "run_id" for _, pairs in seen.metrics() for name, _ in pairs)


def test_a_failed_run_and_what_failed_in_it_are_marked_by_kind(world: World, seen: Seen) -> None:
    world.register(list_id="NOPE99")
    world.drop_people("a.csv", people(3))
    world.deliver()
    assert_ended(world, Status.FAILED)
    [whole], [planned] = seen.named("run"), seen.named("phase")
    assert (whole.status.is_ok, planned.status.is_ok, attributes(planned)["cause"]) == (
        False,
        False,
        "ListGone",
    )
    assert planned.events == ()  # an exception event would hold its text and a stack


def test_a_step_is_below_the_invocation_that_brought_its_message(seen: Seen) -> None:
    with (
        trace.get_tracer("host").start_as_current_span("invocation") as invocation,
        telemetry.step("vips/1", 0),
    ):
        pass
    [step] = seen.named("step")
    assert parents([step]) == {invocation.get_span_context().span_id}


def test_automatic_instrumentation_does_not_see_our_requests(world: World, seen: Seen) -> None:
    """It records whole addresses. The app's settings turn it off, but somebody may turn it on."""
    RequestsInstrumentor().instrument()
    URLLib3Instrumentor().instrument()
    try:
        client = world.client(world.read_secret("klaviyo-key"))
        assert client.profiles_by_email(["ada.lovelace@example.com"]) == {}
        ours = [span.name for span in seen.spans]
        requests.get(world.url + "/api/lists?probe=1", timeout=LIMIT_S)  # what it does otherwise
        theirs = [span.to_json() for span in seen.spans[len(ours) :]]
    finally:
        RequestsInstrumentor().uninstrument()
        URLLib3Instrumentor().uninstrument()
        client.close()
    assert ours == ["GET /api/profiles"]
    assert any("probe=1" in span for span in theirs)
    assert "lovelace" not in seen.text()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/lists", "/api/lists"),
        ("/api/lists/Y6nRLr/profiles?page[size]=100", "/api/lists/{id}/profiles"),
        ("/api/lists/Y6nRLr/relationships/profiles", "/api/lists/{id}/relationships/profiles"),
        (
            "/api/profile-bulk-import-jobs/abc%3D%3D/import-errors?x",
            "/api/profile-bulk-import-jobs/{id}/import-errors",
        ),
        ('/api/profiles?filter=any(email,["a@example.com"])', "/api/profiles"),
    ],
)
def test_endpoint_leaves_ids_and_queries_out(target: str, expected: str) -> None:
    assert telemetry.endpoint(target) == expected


# Log lines


def a_record(**fields: Any) -> logging.LogRecord:
    record = logging.LogRecord(
        "exporter.x", logging.INFO, __file__, 1, "batch %s", ("taken",), None
    )
    vars(record).update(fields)
    return record


def test_a_line_shows_run_and_fields_whatever_formatter_it_has() -> None:
    formatter, record = (
        FieldFormatter(logging.Formatter("%(levelname)s %(message)s")),
        a_record(batch=3, cause="a\nb"),
    )
    with bound_run("vips/1"):
        RunIdFilter().filter(record)
    assert formatter.format(record) == "INFO batch taken run_id=vips/1 batch=3 cause=a b"
    assert (record.getMessage(), record.msg) == (
        "batch taken",
        "batch %s",
    )  # for the next handler as it was
    assert formatter.format(a_record()) == "INFO batch taken"


def test_show_fields_adds_to_handlers_once_and_leaves_opentelemetrys_message_alone() -> None:
    class Structured(logging.Handler):
        __module__ = "opentelemetry.instrumentation.logging.handler"

    root, plain, structured = logging.getLogger(), logging.StreamHandler(), Structured()
    before = {handler: (handler.formatter, list(handler.filters)) for handler in root.handlers}
    levels = {
        name: logging.getLogger(name).level for name in ("exporter", "azure", "urllib3", "msal")
    }
    root.addHandler(plain)
    root.addHandler(structured)
    try:
        show_fields()
        show_fields()
        assert isinstance(plain.formatter, FieldFormatter)
        assert structured.formatter is None
        assert [len(handler.filters) for handler in (plain, structured)] == [1, 1]
    finally:
        for handler in (plain, structured):
            root.removeHandler(handler)
        for handler, (formatter, filters) in before.items():
            handler.setFormatter(formatter)
            handler.filters = filters
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("is_sent", [True, False])
def test_lines_that_the_worker_sends_itself_stay_away_from_the_hosts_handlers(
    is_sent: bool,
) -> None:
    class Sending(logging.Handler):
        __module__ = (
            "opentelemetry.instrumentation.logging.handler" if is_sent else "somebody.elses"
        )

    ours, sending = logging.getLogger("exporter"), Sending()
    level, ours_before = ours.level, list(ours.handlers)
    ours.handlers = [sending]
    try:
        show_fields()
        assert ours.propagate is not is_sent
    finally:
        ours.handlers, ours.propagate = ours_before, True
        ours.setLevel(level)


def test_threads_that_send_log_under_their_run(world: World, seen: Seen) -> None:
    world.register()
    world.fault("status", status=500, times=1, match="GET /api/lists/.*")
    world.drop_people("a.csv", people(3))
    world.deliver()
    run = world.run()
    again = [line for line in seen.handler.lines if line.startswith("asking Klaviyo again")]
    assert [f"run_id={run.run_id}" in line for line in again] == [True]


def test_telemetry_costs_next_to_nothing_a_request(world: World, seen: Seen) -> None:
    """A tenth of the asking thread's CPU for the smallest request to this machine."""

    def told(number: int) -> None:
        with telemetry.request(
            "POST", "https://a.klaviyo.com", "/api/profile-bulk-import-jobs"
        ) as exchange:
            telemetry.carrying(lambda: None, batch=number)()
            exchange.status = 202

    with requests.Session() as session:
        asked_s = _cpu_s(
            lambda number: session.get(f"{world.url}/_sandbox/settings", timeout=LIMIT_S).close()
        )
    assert _cpu_s(told) < asked_s / 2


def _cpu_s(work: Callable[[int], None]) -> float:
    """The least of three: what else goes on only ever adds."""
    spent = []
    for _ in range(3):
        before = time.thread_time()
        for number in range(100):
            work(number)
        spent.append(time.thread_time() - before)
    return min(spent)
