"""`python -m exporter status` and `audit`: what needs attention, and who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.backends import open_app
from exporter.cli.options import AppUrl, Json
from exporter.cli.printing import as_json_document, print_json, print_rows
from exporter.errors import ExporterError, NotAllowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exporter.management.app import App
    from exporter.management.views import ExportView

MOST_CHANGES = 200  # that the app gives at once


def status(app: AppUrl = "", as_json: Json = False) -> None:
    """List all that needs attention, over all exports. Exit code 1 if anything does.

    Example: python -m exporter status
    """
    with open_app(app) as it:
        exports = it.exports()
        found = [*_of_connections(it), *_of_exports(exports), *_of_segments(it, exports)]
    if as_json:
        print_json(found)
    elif found:
        print_rows(found, ("what", "problem", "do"), as_json=False)
    else:
        number = len(exports)
        print(f"Nothing needs attention ({number} {'export' if number == 1 else 'exports'}).")
    if found:
        raise typer.Exit(1)


def _problem(what: str, problem: str, hint: str) -> dict[str, str]:
    return {"what": what, "problem": problem, "do": hint}


def _of_connections(app: App) -> Iterator[dict[str, str]]:
    """Find connections that nothing can be sent over. Only administrators see that."""
    try:
        views = app.connections()
    except NotAllowed:
        return
    for view in views:
        what, details = f"connection {view.id}", view.details
        if details is None:
            continue
        if details.consent is None:
            yield _problem(what, "Nobody has agreed yet.", f"connections agree {view.id}")
        if details.check and not details.check.ok:
            yield _problem(what, details.check.message, details.check.hint)


def _of_exports(views: Sequence[ExportView]) -> Iterator[dict[str, str]]:
    for view in views:
        what, last = f"export {view.id}", view.last_run
        if view.connection is None:
            hint = f"exports edit {view.id} --connection ID"
            yield _problem(what, "It has no connection, so it does not run.", hint)
        elif view.connection_name is None:
            hint = f"exports edit {view.id} --connection ID"
            yield _problem(what, f"The connection {view.connection} was removed.", hint)
        if view.paused:
            yield _problem(what, "It is paused.", f"exports resume {view.id}")
        if last and last.status == "Failed":
            yield _problem(what, f"The last run failed: {last.message}", last.hint)
        elif last and last.is_open and last.message:
            yield _problem(what, f"The open run waits: {last.message}", last.hint)


def _of_segments(app: App, exports: Sequence[ExportView]) -> Iterator[dict[str, str]]:
    """Find active exports whose segment has never arrived."""
    try:
        names = {view.name.casefold() for view in app.segments()}
    except ExporterError as exc:
        yield _problem("storage", exc.message, exc.hint)
        return
    tables = {name.rpartition("/")[2] for name in names}
    for view in exports:
        for segment in view.segments:
            if not view.paused and segment.casefold() not in names | tables:
                problem = f"No snapshot of {segment} has arrived."
                yield _problem(f"export {view.id}", problem, "segments lists those that have.")


def audit(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Only the newest N.")] = 50,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """List who changed what, newest first.

    Example: python -m exporter audit --limit 20
    """
    found, cursor = list[dict[str, Any]](), ""
    with open_app(app) as it:
        while len(found) < limit:
            page = it.changes(limit=min(limit - len(found), MOST_CHANGES), cursor=cursor)
            found += map(as_json_document, page.items)
            if not page.next:
                break
            cursor = page.next
    rows = [{**each, "by": each["by"].get("name", "")} for each in found]
    columns = ("at", "by", "action", "object", "outcome")
    print_rows(found if as_json else rows, columns, as_json)
