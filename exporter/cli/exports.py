"""`python -m exporter exports ...` and `segments`: what goes where, one by one or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from exporter.cli import applying
from exporter.cli.options import (
    AppUrl,
    Email,
    Json,
    MappingFile,
    Yes,
    as_json_document,
    confirm,
    errors,
    only_alone,
    print_fields,
    print_json,
    print_rows,
    print_warnings,
    read_mapping,
    shown,
    using,
)
from exporter.errors import ConfigError, ExporterError
from exporter.management.app import App
from exporter.management.forms import ExportForm, NewExportForm, parse
from exporter.management.views import EXPORT_ACTIONS, ExportView

group = typer.Typer(invoke_without_command=True, no_args_is_help=False)

Id = Annotated[str, typer.Argument(metavar="EXPORT", help="An export's id.")]
Connection = Annotated[
    str | None, typer.Option("--connection", metavar="ID", help="A connection's id.")
]
List = Annotated[
    str | None, typer.Option("--list", metavar="LIST", help="The Klaviyo list, by id or name.")
]
Segment = Annotated[
    list[str] | None, typer.Option("--segment", metavar="NAME", help="A segment; can be repeated.")
]
On = Annotated[
    str | None, typer.Option("--on", metavar="WHEN", help="arrival, schedule, demand or off.")
]
At = Annotated[
    list[str] | None, typer.Option("--at", metavar="HH:MM", help="A time of day; can be repeated.")
]
Day = Annotated[
    list[str] | None,
    typer.Option("--day", metavar="DAY", help="Only on this day; can be repeated."),
]
Cron = Annotated[
    str | None,
    typer.Option("--cron", metavar="EXPRESSION", help="A cron expression of five fields."),
]
Zone = Annotated[
    str | None, typer.Option("--time-zone", metavar="NAME", help="Such as Europe/Bucharest.")
]
Maximum = Annotated[
    int | None,
    typer.Option("--max-profiles", metavar="N", help="Send nothing if more; 0: no maximum."),
]
KeepRows = Annotated[
    bool | None,
    typer.Option(
        "--keep-rejected-rows/--no-keep-rejected-rows",
        help="Rejected rows themselves in rejected.csv.",
    ),
]
Reconcile = Annotated[
    bool | None,
    typer.Option("--reconcile/--no-reconcile", help="Compare the list's members at the end."),
]

# Those of the original, with what the next command needs.
COLUMNS = (
    "id",
    "name",
    "connection",
    "type",
    "list",
    "status",
    "schedule",
    "refreshed",
    "created",
    "changed",
    "may",
)


@group.callback()
def exports(context: typer.Context, app: AppUrl = "", as_json: Json = False) -> None:
    """What goes where: list, make, change, remove, apply from a file. Alone, it lists them.

    Example: python -m exporter exports
    """
    if only_alone(context, "app", "as_json"):
        list_exports(app, as_json)


@group.command("list")
def list_exports(app: AppUrl = "", as_json: Json = False) -> None:
    """List the exports with their status.

    Example: python -m exporter exports list
    """
    with using(app) as it:
        documents = [_document(view) for view in it.exports()]
    rows = [_row(document) for document in documents]
    print_rows(documents if as_json else rows, COLUMNS, as_json)


@group.command()
def show(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Show one export.

    Example: python -m exporter exports show high-value
    """
    with using(app) as it:
        _print(it.export(export), as_json)


@group.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    connection: Connection = None,
    klaviyo_list: List = None,
    segments: Segment = None,
    email: Email = "",
    mapping: MappingFile = None,
    on: On = None,
    at: At = None,
    day: Day = None,
    cron: Cron = None,
    time_zone: Zone = None,
    max_profiles: Maximum = None,
    keep_rejected_rows: KeepRows = None,
    reconcile: Reconcile = None,
    export_id: Annotated[
        str, typer.Option("--id", help="Its id; made from the name if not given.")
    ] = "",
    paused: Annotated[
        bool, typer.Option("--paused", help="Nothing starts it before `exports resume`.")
    ] = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Make an export. Making it does not run it.

    Example: python -m exporter exports create "VIPs" --connection main --list VIPs --segment VIP --email EMail
    """
    form: dict[str, Any] = {"name": name, "segments": segments or [], "paused": paused}
    form["mapping"] = read_mapping(email, mapping)
    form["schedule"] = _schedule({}, on=on, at=at, day=day, cron=cron, time_zone=time_zone)
    form["max_profiles"] = max_profiles or None
    form |= _given(keep_rejected_rows=keep_rejected_rows, reconcile=reconcile)
    form |= {"id": export_id} if export_id else {}
    if not connection or not klaviyo_list:
        missing = "--list" if connection else "--connection"
        raise ConfigError(
            f"{missing} is missing", hint="Give the connection's id and the list's id or name."
        )
    with using(app) as it:
        form |= {"connection": connection, "list_id": _list_id(it, connection, klaviyo_list)}
        _print(it.create_export(parse(NewExportForm, form)), as_json)


@group.command()
def edit(
    export: Id,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    connection: Connection = None,
    klaviyo_list: List = None,
    segments: Segment = None,
    email: Email = "",
    mapping: MappingFile = None,
    on: On = None,
    at: At = None,
    day: Day = None,
    cron: Cron = None,
    time_zone: Zone = None,
    max_profiles: Maximum = None,
    keep_rejected_rows: KeepRows = None,
    reconcile: Reconcile = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Change what is given, leave the rest. --mapping replaces the mapping, --email changes its one column.

    Example: python -m exporter exports edit high-value --at 06:00 --time-zone Europe/Bucharest
    """
    with using(app) as it:
        seen = it.export(export)
        form: dict[str, Any] = {field: getattr(seen, field) for field in ExportForm.model_fields}
        before = dict(form)
        form |= {"name": name} if name is not None else {}
        form |= {"segments": segments} if segments else {}
        form |= {"max_profiles": max_profiles or None} if max_profiles is not None else {}
        form |= _given(keep_rejected_rows=keep_rejected_rows, reconcile=reconcile)
        form |= {"connection": connection} if connection else {}
        if klaviyo_list:
            form["list_id"] = _list_id(it, form["connection"], klaviyo_list)
        if email or mapping:
            form["mapping"] = read_mapping(
                email, mapping, seen.mapping.model_dump(mode="json", exclude_defaults=True)
            )
        kept = {
            "on": seen.schedule.on,
            **seen.schedule.model_dump(mode="json", exclude_defaults=True),
        }
        changed = _schedule(kept, on=on, at=at, day=day, cron=cron, time_zone=time_zone)
        form |= {"schedule": changed} if changed != kept else {}
        if form == before:
            raise ConfigError(
                "nothing to change was given", hint="Give what shall be different; --help lists it."
            )
        _print(it.edit_export(export, parse(ExportForm, form), etag=seen.etag), as_json)


@group.command()
def duplicate(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Make a paused copy under another name.

    Example: python -m exporter exports duplicate high-value
    """
    with using(app) as it:
        _print(it.duplicate_export(export), as_json)


@group.command()
def detach(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Take it off its connection: it does not run until it has one.

    Example: python -m exporter exports detach vips
    """
    with using(app) as it:
        _print(it.detach_export(export), as_json)


@group.command()
def pause(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Nothing starts it, and no batch leaves later than 0.3 s from now.

    Example: python -m exporter exports pause vips
    """
    with using(app) as it:
        _print(it.pause_export(export, paused=True), as_json)


@group.command()
def resume(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Let a paused export run again.

    Example: python -m exporter exports resume vips
    """
    with using(app) as it:
        _print(it.pause_export(export, paused=False), as_json)


@group.command()
def remove(export: Id, yes: Yes = False, app: AppUrl = "") -> None:
    """Remove an export; its history stays.

    Example: python -m exporter exports remove vips
    """
    with using(app) as it:
        seen = it.export(export)
        confirm(f"Remove {seen.name}? An open run stops; nobody is removed from the list.", yes=yes)
        it.remove_export(export, etag=seen.etag)


@group.command()
def apply(
    file: Annotated[
        Path, typer.Option("-f", "--file", metavar="FILE", help="A YAML file, as `dump` prints it.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the exports that are not in the file.")
    ] = False,
    yes: Yes = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Make the exports what FILE says. Everything is checked and shown before the first change.

    Example: python -m exporter exports apply -f exports.yaml --dry-run
    """
    try:
        documents = applying.read(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{file} cannot be read: {type(exc).__name__}", hint="Give a YAML file."
        ) from exc
    with using(app) as it:
        edits = applying.plan(it, documents, prune=prune)
        if as_json:
            print_json([edit.to_json() for edit in edits])
        else:
            print(applying.as_text(edits))
        if dry_run or not edits:
            return
        removed = sum(edit.kind is applying.Kind.REMOVE for edit in edits)
        confirm(f"Change {len(edits)}, of which {removed} are removed?", yes=yes)
        _apply(it, edits)


def _apply(app: App, edits: list[applying.Edit]) -> None:
    done = 0
    try:
        for view in applying.apply(app, edits):
            done += 1
            if view:
                print_warnings([f"{view.id}: {warning}" for warning in view.warnings])
    except ExporterError:
        errors.print(
            f"{done} of {len(edits)} were changed before this; applying the file again does the rest."
        )
        raise
    errors.print(f"{done} changed.")


@group.command()
def dump(
    exports: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPORT]...", help="Only these; else all.")
    ] = None,
    app: AppUrl = "",
) -> None:
    """Print the exports as a file for `apply`.

    Example: python -m exporter exports dump > exports.yaml
    """
    with using(app) as it:
        views = [it.export(each) for each in exports] if exports else it.exports()
    print(applying.dump(views), end="")


def segments(app: AppUrl = "", as_json: Json = False) -> None:
    """List the segments that were found in storage, by their newest snapshots.

    Example: python -m exporter segments
    """
    with using(app) as it:
        documents = [as_json_document(each) for each in it.segments()]
    rows = [
        {**each, "age": _age(each["age_s"]), "megabytes": f"{each['size_bytes'] / 1e6:,.1f}"}
        for each in documents
    ]
    print_rows(
        documents if as_json else rows,
        ("name", "members", "newest_at", "age", "files", "megabytes"),
        as_json,
    )


def _age(seconds: float) -> str:
    hours = int(seconds // 3_600)
    return (
        f"{hours // 24} d {hours % 24} h"
        if hours >= 24
        else f"{hours} h {int(seconds // 60) % 60} min"
    )


def _list_id(app: App, connection: str | None, wanted: str) -> str:
    return applying.find_list(app.lists(connection), wanted) if connection else wanted


def _schedule(
    kept: dict[str, Any],
    *,
    on: str | None,
    at: list[str] | None,
    day: list[str] | None,
    cron: str | None,
    time_zone: str | None,
) -> dict[str, Any]:
    """The document of a schedule with the options that were given. Times of day and cron exclude each other.

    On arrival and on demand there are neither; off keeps them for later.
    """
    document = dict(kept)
    is_without = on in ("arrival", "demand")
    if at or day or is_without:
        document.pop("cron", None)
    if cron or is_without:
        document.pop("times", None)
        document.pop("days", None)
    given = {"times": at, "days": day, "cron": cron, "time_zone": time_zone}
    document |= {field: value for field, value in given.items() if value}
    if on or at or cron:
        document["on"] = on or "schedule"
    return document


def _document(view: ExportView) -> dict[str, Any]:
    return {"schema": 1, **as_json_document(view)}


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """As in a table: of moments the day, of permissions whether there are any or all."""
    is_all = set(document["may"]) == {action.name.lower() for action in EXPORT_ACTIONS}
    return {
        **document,
        "list": document["list_id"],
        "schedule": "Paused" if document["paused"] else document["schedule_text"],
        "refreshed": (document["refreshed"] or "")[:10],
        **{
            name: f"{each['by']} {each['at'][:10]}" if (each := document[name]) else ""
            for name in ("created", "changed")
        },
        "may": "all" if is_all else shown(document["may"]).replace("_", " ") or "see",
    }


def _print(view: ExportView, as_json: bool) -> None:
    if as_json:
        print_json(_document(view))
    else:
        document = as_json_document(view)
        people = {
            name: f"{each['by']}, {shown(each['at'])}"
            for name in ("created", "changed")
            if (each := document[name]) is not None
        }
        mapping = view.mapping.model_dump(mode="json", exclude_defaults=True)
        print_fields(
            [
                *(("Export", view.id), ("Name", view.name)),
                ("Connection", view.connection or "detached: it does not run"),
                ("List", f"{view.list_id} {view.list_name}".strip()),
                ("Segments", view.segments),
                *_mapping_fields(mapping),
                *(("Schedule", view.schedule_text), ("Maximum", view.max_profiles)),
                ("Rejected rows", "kept" if view.keep_rejected_rows else None),
                ("Reconciled", "yes" if view.reconcile else None),
                ("Paused", "yes: nothing starts it" if view.paused else None),
                *(("Status", view.status), ("Refreshed", document["refreshed"])),
                *(("Created", people.get("created")), ("Changed", people.get("changed"))),
                ("You may", [action.replace("_", " ") for action in view.may]),
            ]
        )
    print_warnings(view.warnings)


def _given(**switches: bool | None) -> dict[str, bool]:
    return {name: value for name, value in switches.items() if value is not None}


def _mapping_fields(mapping: dict[str, Any]) -> list[tuple[str, str]]:
    text = yaml.safe_dump(
        mapping, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1_000
    )
    return [
        ("Mapping" if not number else " ", line) for number, line in enumerate(text.splitlines())
    ]
