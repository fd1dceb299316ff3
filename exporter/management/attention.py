"""What needs somebody's attention: exports, their connections, and the app itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from exporter.management.views import (
    AttentionView,
    ConnectionView,
    ExportView,
    RunView,
)
from exporter.runs.run import Status


def attention(
    health: Mapping[str, str],
    connections: Sequence[ConnectionView],
    exports: Sequence[ExportView],
) -> list[AttentionView]:
    """List what needs attention, errors first. health: "ok" or what is wrong, for each need."""
    found = [*_of_app(health)]
    for connection in connections:
        found += _of_connection(connection)
    for export in exports:
        found += _of_export(export)
    return sorted(found, key=lambda each: each.severity != "error")


def _of_app(health: Mapping[str, str]) -> Iterator[AttentionView]:
    for name, outcome in health.items():
        if outcome != "ok":
            yield AttentionView(severity="error", about=f"app/{name}", name=name, problem=outcome)


def _of_connection(view: ConnectionView) -> Iterator[AttentionView]:
    about = f"connections/{view.id}"
    if view.problem:
        yield AttentionView(severity="error", about=about, name=view.name, problem=view.problem)
    if view.details is None:
        return
    check = view.details.check
    if check and not check.ok:
        yield AttentionView(
            severity="error",
            about=about,
            name=view.name,
            problem=check.message,
            hint=check.hint,
            since=check.at,
        )
    if view.details.consent is None and view.details.exports:
        yield AttentionView(
            severity="error",
            about=about,
            name=view.name,
            problem="nobody has agreed to send data through this connection: nothing is sent",
            hint="An administrator must agree.",
        )


def _of_export(view: ExportView) -> Iterator[AttentionView]:
    about = f"exports/{view.id}"
    if view.problem:
        yield AttentionView(severity="error", about=about, name=view.name, problem=view.problem)
        return
    if view.paused:
        return  # somebody wanted this
    if view.schedule.is_active and view.connection is None:
        yield AttentionView(
            severity="warning",
            about=about,
            name=view.name,
            problem="the export is detached: it does not run",
            hint="Give it a connection, or remove it.",
        )
    if view.connection is not None and view.connection_name is None:
        yield AttentionView(
            severity="error",
            about=about,
            name=view.name,
            problem=f"its connection {view.connection} was removed or cannot be read",
            hint="Give it another connection, or correct this one.",
        )
    if view.last_run:
        yield from _of_run(view, view.last_run)


def _of_run(view: ExportView, run: RunView) -> Iterator[AttentionView]:
    """Say what a run that failed, delivered with warnings, or is put off at the moment needs."""
    is_failed = run.status == Status.FAILED
    if is_failed or run.status == Status.WARNINGS or (run.is_open and run.message):
        yield AttentionView(
            severity="error" if is_failed else "warning",
            about=f"exports/{view.id}",
            name=view.name,
            problem=run.message,
            hint=run.hint,
            run=run.id,
            since=run.finished_at or run.created_at,
        )
