"""`python -m exporter run`, `runs`, `cancel`, `report`, `whoami`: what happens, and who asks."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from exporter.cli.options import (
    AppUrl,
    Json,
    State,
    as_json_document,
    errors,
    print_document,
    print_json,
    print_rows,
    progress_bar,
    using,
)
from exporter.cli.wording import report_as_text
from exporter.errors import ConfigError
from exporter.management.app import App, Rows
from exporter.management.views import DELIVERED, MAX_PAGE, RunView
from exporter.runs.run import Status

POLL_S = 2.0

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `runs` lists it.")]


def run(
    export: Annotated[str, typer.Argument(metavar="[EXPORT]", help="An export's id.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Every export with an active schedule.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end; code 1 if it is no success.")
    ] = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Start a run on the newest snapshots; the app does the work.

    Example: python -m exporter run high-value
    """
    if bool(export) == every or (every and wait):
        raise ConfigError(
            "one export, or --all (which does not --wait)",
            hint="python -m exporter exports lists them.",
        )
    with using(app) as it:
        if every:
            _run_all(it, as_json)
            return
        started = it.run_export(export)
        ended = _wait(it, started) if wait else None
        if ended and not as_json:
            print(report_as_text(it.report(ended.id)))
    shown = ended or started
    if as_json or not ended:
        print_document(
            {"run": shown.id, "status": shown.status},
            lambda document: str(document["run"]),
            as_json,
        )
    if ended and Status(ended.status) not in DELIVERED:
        raise typer.Exit(1)


def _run_all(app: App, as_json: bool) -> None:
    rows = [
        {
            "export": one.export,
            "run": one.run.id if one.run else None,
            "status": one.run.status if one.run else None,
            "problem": one.problem,
        }
        for one in app.run_all()
    ]
    print_rows(rows, ("export", "run", "status", "problem"), as_json)
    if any(row["problem"] for row in rows):
        raise typer.Exit(1)


def _wait(app: App, started: RunView) -> RunView:
    with progress_bar() as progress:
        view = started
        while view.is_open:
            time.sleep(POLL_S)
            view = app.run(started.id)
            progress(view.phase, view.accepted or 0, view.counts.profiles if view.counts else 0)
    return view


def runs(
    export: Annotated[str, typer.Argument(metavar="EXPORT", help="An export's id.")],
    limit: Annotated[int, typer.Option(min=1, help="Only so many.")] = sys.maxsize,
    state: State = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """List the runs of an export, newest first.

    Example: python -m exporter runs high-value --limit 10
    """
    with using(app, state) as it:
        found, cursor = list[RunView](), ""
        while len(found) < limit:
            page = it.runs(export, limit=min(limit - len(found), MAX_PAGE), cursor=cursor)
            found += page.items
            if not page.next:
                break
            cursor = page.next
    print_rows(
        [_row(one) for one in found],
        ("run", "status", "created", "delivered", "rejected", "message"),
        as_json,
    )


def _row(view: RunView) -> dict[str, Any]:
    return {
        "run": view.id,
        "status": view.status,
        "created": view.created_at.isoformat(timespec="seconds"),
        "delivered": view.counts.delivered if view.counts else None,
        "rejected": sum(view.counts.rejected.values()) if view.counts else None,
        "message": view.message,
    }


def report(
    run_id: Run,
    rows: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="The CSV of rejected (it names people) or duplicates instead."
        ),
    ] = "",
    state: State = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Print the report of a run.

    Example: python -m exporter report high-value/20260824T1433Z-1a2b3c4d5e
    """
    kinds: dict[str, Rows] = {"rejected": "rejected", "duplicates": "duplicates"}
    if rows and rows not in kinds:
        raise ConfigError(f"--rows: {rows} is no choice", hint="Give rejected or duplicates.")
    with using(app, state) as it:
        if rows:
            for chunk in it.rows(run_id, kinds[rows]):
                sys.stdout.buffer.write(chunk)
            return
        print_document(it.report(run_id), report_as_text, as_json)


def cancel(run_id: Run, app: AppUrl = "") -> None:
    """Stop a run: no batch leaves later than 0.3 s from now.

    Example: python -m exporter cancel high-value/20260824T1433Z-1a2b3c4d5e
    """
    with using(app) as it:
        it.cancel_run(run_id)
    errors.print("No batch leaves later than 0.3 s from now. The run ends within minutes.")


def whoami(app: AppUrl = "", as_json: Json = False) -> None:
    """Say who you are to the app, and with which role.

    Example: python -m exporter whoami
    """
    with using(app) as it:
        document = as_json_document(it.whoami())
    if as_json:
        print_json(document)
    else:
        print(f"{document['name']} ({document['role']})")
