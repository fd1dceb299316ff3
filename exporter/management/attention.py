"""What needs somebody's attention: exports, their connections, and the app itself. Pure.

Hints name the command of the command line: `exports resume vips`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from exporter.management.views import (
    AttentionView,
    ConnectionView,
    ExportView,
    LeftAsideView,
    RunView,
    SegmentView,
)
from exporter.names import comparable
from exporter.runs.run import Status


def attention(
    health: Mapping[str, str],
    connections: Sequence[ConnectionView],
    exports: Sequence[ExportView],
) -> list[AttentionView]:
    """List what needs attention. health: "ok" or what is wrong, for each need."""
    found = [*_of_app(health)]
    for connection in connections:
        found += _of_connection(connection)
    for export in exports:
        found += _of_export(export)
    return found


def attention_to_files(
    exports: Sequence[ExportView],
    arrived: Sequence[SegmentView],
    left_aside: Sequence[LeftAsideView],
) -> Iterator[AttentionView]:
    """Tell of segments that never arrived, and of files that bear their names and are left aside.

    Exports that wait for nothing are left out.
    """
    names = {comparable(view.name) for view in arrived}
    known = names | {name.rpartition("/")[2] for name in names}
    for export in exports:
        if export.paused or not export.schedule.is_active:
            continue
        for segment in export.segments:
            files = [each for each in left_aside if each.segment == segment]
            if files:
                number = f", and {len(files) - 1:,} more" if len(files) > 1 else ""
                problem = f"{files[0].name}{number} bears the name of {segment} and is not read."
                yield _of(export, problem, hint=files[0].why, is_error=True)
            elif comparable(segment) not in known:
                problem = f"No snapshot of {segment} has arrived."
                yield _of(export, problem, hint="segments lists those that have.")


def _of_app(health: Mapping[str, str]) -> Iterator[AttentionView]:
    for name, outcome in health.items():
        if outcome != "ok":
            yield AttentionView(severity="error", about=f"app/{name}", name=name, problem=outcome)


def _of_connection(view: ConnectionView) -> Iterator[AttentionView]:
    if view.problem:
        yield _of(view, view.problem, is_error=True)
    if view.details is None:
        return
    if view.details.consent is None and view.details.exports:
        hint = f"connections agree {view.id}"
        yield _of(view, "Nobody has agreed yet: nothing is sent.", hint=hint, is_error=True)
    check = view.details.check
    if check and not check.ok:
        found = _of(view, check.message, hint=check.hint, is_error=True)
        yield found.model_copy(update={"since": check.at})


def _of_export(view: ExportView) -> Iterator[AttentionView]:
    if view.problem:
        yield _of(view, view.problem, is_error=True)
        return
    hint = f"exports edit {view.id} --connection ID"
    if view.connection is None:
        yield _of(view, "It has no connection, so it does not run.", hint=hint)
    elif view.connection_name is None:
        problem = f"The connection {view.connection} was removed or cannot be read."
        yield _of(view, problem, hint=hint, is_error=True)
    if view.paused:
        yield _of(view, "It is paused.", hint=f"exports resume {view.id}")
    if view.last_run:
        yield from _of_run(view, view.last_run)


def _of_run(view: ExportView, run: RunView) -> Iterator[AttentionView]:
    """Tell of a run that failed, or is put off at the moment.

    One that delivered with warnings does not need anybody at once: most segments have a bad row.
    """
    if run.status == Status.FAILED:
        problem = f"The last run failed: {run.message}"
    elif run.is_open and run.message:
        problem = f"The open run waits: {run.message}"
    else:
        return
    found = _of(view, problem, hint=run.hint, is_error=not run.is_open)
    since = run.finished_at or run.created_at
    yield found.model_copy(update={"run": run.id, "since": since})


def _of(
    view: ConnectionView | ExportView, problem: str, *, hint: str = "", is_error: bool = False
) -> AttentionView:
    kind = "connections" if isinstance(view, ConnectionView) else "exports"
    return AttentionView(
        severity="error" if is_error else "warning",
        about=f"{kind}/{view.id}",
        name=view.name,
        problem=problem,
        hint=hint,
    )
