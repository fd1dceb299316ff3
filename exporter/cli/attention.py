"""`python -m exporter status`, `doctor`, `why`, `audit`: what needs attention, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.backends import open_app
from exporter.cli.options import AppUrl, Json, State
from exporter.cli.printing import as_json_document, print_json, print_rows
from exporter.errors import SettingsWrong

if TYPE_CHECKING:
    from exporter.management.views import AttentionView

MOST_CHANGES = 200  # that the app gives at once


def status(state: State = None, app: AppUrl = "", as_json: Json = False) -> None:
    """List all that needs attention, over all exports. Exit code 1 if anything does.

    Example: python -m exporter status
    """
    with open_app(app, state) as it:
        found = it.attention()
        number = 0 if found else len(it.exports())
    if as_json:
        print_json([as_json_document(each) for each in found])
    elif found:
        print_rows([*map(_row, found)], ("what", "problem", "do"), as_json=False)
    else:
        print(f"Nothing needs attention ({number} {'export' if number == 1 else 'exports'}).")
    if found:
        raise typer.Exit(1)


def doctor(app: AppUrl = "", as_json: Json = False) -> None:
    """Look at the whole app: storage, queues, keys, lists, events. Exit code 1 if anything failed.

    Example: python -m exporter doctor
    """
    from exporter.management.views import ExaminedView

    try:
        with open_app(app) as it:
            found = it.doctor()
    except SettingsWrong as exc:  # of the app, or here
        found = [ExaminedView(part="settings", state="failed", said=exc.message, hint=exc.hint)]
    rows = [as_json_document(each) for each in found]
    shown = [{**row, "do": row["hint"] if row["state"] != "ok" else ""} for row in rows]
    print_rows(rows if as_json else shown, ("part", "state", "said", "do"), as_json)
    if any(each.state == "failed" for each in found):
        raise typer.Exit(1)


def _row(view: AttentionView) -> dict[str, str]:
    kind, _, document_id = view.about.partition("/")
    what = f"{kind.removesuffix('s')} {document_id}"
    return {"what": what, "problem": view.problem, "do": view.hint}


def why(
    person: Annotated[
        str,
        typer.Argument(metavar="EMAIL", help="The person's address, phone number or external ID."),
    ],
    state: State = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Say in which runs a person was left out and why, or that they were delivered.

    The newest snapshot of each export is read again, unless its run has left the person out.

    Example: python -m exporter why ada@example.com
    """
    with open_app(app, state) as it:
        found = [as_json_document(each) for each in it.why(person)]
    if not found and not as_json:
        print("No run that you may read rows of has been planned yet.")
        return
    rows = [{**each, "where": _place(each)} for each in found]
    columns = ("run", "outcome", "message", "where")
    print_rows(found if as_json else rows, columns, as_json)


def _place(found: dict[str, Any]) -> str:
    from exporter.cli.wording import shortened

    if not found["source"]:
        return ""
    column = f", column {found['column']}" if found["column"] else ""
    return f"{shortened(found['source'])}:{found['line'] or ''}{column}"


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
