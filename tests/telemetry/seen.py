"""What telemetry told, kept in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from exporter.logs import FieldFormatter, RunIdFilter

Key = tuple[str, tuple[tuple[str, Any], ...]]


class _Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.on = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.on:
            self.spans += spans
        return SpanExportResult.SUCCESS


class _Lines(logging.Handler):
    """Records as lines with fields, and as Application Insights gets them: message, attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []
        self.setFormatter(FieldFormatter())
        self.addFilter(RunIdFilter())

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(self.format(record))


class Seen:
    def __init__(self) -> None:
        self._kept = _Kept()
        self.handler = _Lines()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._kept))
        delta = AggregationTemporality.DELTA
        self._reader = InMemoryMetricReader(
            preferred_temporality={Counter: delta, Histogram: delta}
        )
        self.meter_provider = MeterProvider([self._reader])

    def begin(self) -> None:
        self._kept.spans.clear()
        self.handler.records.clear()
        self.handler.lines.clear()
        self._reader.get_metrics_data()
        self._kept.on = True

    def end(self) -> None:
        self._kept.on = False

    @property
    def spans(self) -> list[ReadableSpan]:
        return self._kept.spans

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def requests(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.CLIENT]

    def metrics(self) -> dict[Key, Any]:
        """The points since the last look: a number, or a histogram's (count, sum)."""
        found: dict[Key, Any] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        key = metric.name, tuple(sorted((point.attributes or {}).items()))
                        found[key] = (
                            point.value if hasattr(point, "value") else (point.count, point.sum)
                        )
        return found

    def text(self) -> str:
        """All of it, as it could be read by whoever reads telemetry."""
        spans = [span.to_json() for span in self.spans]
        records = [repr(sorted(vars(record).items(), key=str)) for record in self.handler.records]
        return "\n".join(
            [
                *spans,
                *self.handler.lines,
                *records,
                json.dumps(list(self.metrics().items()), default=str),
            ]
        )
