"""`python -m exporter run`, `runs`, `cancel`, `report`, `whoami`: what happens, and who asks."""

from __future__ import annotations

import sys
import time
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.backends import open_app
from exporter.cli.options import AppUrl, Json, State
from exporter.cli.printing import (
    as_json_document,
    print_document,
    print_json,
    print_rows,
    say,
)
from exporter.cli.progress import show_progress
from exporter.errors import ConfigError, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.cli.progress import Progress
    from exporter.management.app import App, Rows
    from exporter.management.views import RunView

FIRST_LOOK_S, LONGEST_LOOK_S = 0.25, 2.0  # between two looks at a run that is waited for
PAGE = 200  # runs asked for at once: the most that the app gives

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's ID, as `runs` lists it.")]


def run(
    export: Annotated[str, typer.Argument(metavar="[EXPORT]", help="An export's ID.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Run every export with an active schedule.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end. Exit code 1 if it fails.")
    ] = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Start a run on the newest snapshots. The app does the work.

    Example: python -m exporter run high-value
    """
    from exporter.cli.wording import report_as_text
    from exporter.runs.run import DELIVERED, Status

    if bool(export) == every or (every and wait):
        raise ConfigError(
            "Give one export, or --all. --wait is for one export only.",
            hint="python -m exporter exports lists the exports.",
        )
    with open_app(app) as it:
        if every:
            _run_all(it, as_json)
            return
        started = it.run_export(export)
        ended = wait_for(it, started) if wait else None
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


def wait_for(
    app: App,
    started: RunView,
    *,
    show: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> RunView:
    """Follow a run to its end. show: told its progress, instead of a bar."""
    if show is None:
        with show_progress() as bar:
            return wait_for(app, started, show=bar, sleep=sleep)
    view, pause_s = started, FIRST_LOOK_S
    while view.is_open:
        sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_LOOK_S)
        view = app.run(started.id)
        accepted = view.accepted or 0
        profiles = view.counts.profiles if view.counts else 0
        if view.phase in ("plan", "send"):
            show(view.phase, accepted, profiles)
        else:  # how many jobs are over is not known here
            show("send", accepted, profiles)
            show("confirm", 0, 0)
    return view


def runs(
    export: Annotated[str, typer.Argument(metavar="EXPORT", help="An export's ID.")],
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the newest N. Default: all.")
    ] = None,
    state: State = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """List the runs of an export, newest first.

    Example: python -m exporter runs high-value --limit 10
    """
    with open_app(app, state) as it:
        rows = [_row(view) for view in islice(_newest(it, export, limit), limit)]
    columns = (
        "run", "status", "created", "accepted", "confirmed", "unknown", "rejected", "message",
    )  # fmt: skip
    print_rows(rows, columns, as_json, least=("created", "message", "rejected"))


def _newest(app: App, export: str, limit: int | None) -> Iterator[RunView]:
    """Give the runs of an export, newest first, by pages no longer than needed."""
    size, cursor = min(limit or PAGE, PAGE), ""
    while True:
        page = app.runs(export, limit=size, cursor=cursor)
        yield from page.items
        if not page.next:
            return
        cursor = page.next


def _row(view: RunView) -> dict[str, Any]:
    return {
        "run": view.id,
        "status": view.status,
        "created": view.created_at.isoformat(timespec="seconds"),
        "accepted": view.accepted,
        "confirmed": view.confirmed,
        "unknown": view.unknown,
        "delivered": view.confirmed,  # the name of `confirmed` in earlier versions
        "rejected": sum(view.counts.rejected.values()) if view.counts else None,
        "message": view.message,
    }


def report(
    run_id: Run,
    rows: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="Print the CSV of rejected (it names people), duplicates or left_out.",
        ),
    ] = "",
    state: State = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Print the report of a run, or how far an open run is.

    Example: python -m exporter report high-value/20260824T1433Z-1a2b3c4d5e
    """
    from exporter.cli.wording import open_run_as_text, report_as_text

    kinds: dict[str, Rows] = {
        "rejected": "rejected",
        "duplicates": "duplicates",
        "left_out": "left_out",
    }
    if rows and rows not in kinds:
        raise ConfigError(
            f"--rows cannot be {rows}.", hint="Choose rejected, duplicates or left_out."
        )
    with open_app(app, state) as it:
        if rows:
            for chunk in it.rows(run_id, kinds[rows]):
                sys.stdout.buffer.write(chunk)
            return
        try:
            document = it.report(run_id)
        except Unknown:
            view = it.run(run_id)
            if not view.is_open:
                raise
            print_document(as_json_document(view), open_run_as_text, as_json)
            return
    print_document(document, report_as_text, as_json)


def cancel(run_id: Run, app: AppUrl = "") -> None:
    """Stop a run. No batch is sent after 0.3 s.

    Example: python -m exporter cancel high-value/20260824T1433Z-1a2b3c4d5e
    """
    with open_app(app) as it:
        it.cancel_run(run_id)
    say("No batch is sent after 0.3 s from now. The run ends within minutes.")


def whoami(app: AppUrl = "", as_json: Json = False) -> None:
    """Say who you are to the app, and which role you have.

    Example: python -m exporter whoami
    """
    with open_app(app) as it:
        document = as_json_document(it.whoami())
    if as_json:
        print_json(document)
    else:
        print(f"{document['name']} ({document['role']})")
