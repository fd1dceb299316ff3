"""`python -m exporter exports ...` and `segments`: what goes where, one by one or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.asking import confirm
from exporter.cli.backends import open_app
from exporter.cli.options import (
    AppUrl,
    ExportOptions,
    Json,
    ScheduleOptions,
    Yes,
    is_alone,
    with_option_groups,
)
from exporter.cli.printing import (
    CONTRACT,
    as_json_document,
    print_fields,
    print_json,
    print_rows,
    print_warnings,
    say,
    shown,
)
from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    from exporter.cli import applying
    from exporter.management.app import App
    from exporter.management.views import ExportView

group = typer.Typer(invoke_without_command=True, no_args_is_help=False)

Id = Annotated[str, typer.Argument(metavar="EXPORT", help="An export's ID.")]

# Those of the original, with what the next command needs.
COLUMNS = (
    "id", "name", "connection", "type", "list", "status", "schedule", "next", "refreshed",
    "created", "changed", "may",
)  # fmt: skip
FILE_LEAST = ("modified_at",)
LEAST_NEEDED = ("type", "created", "changed", "connection", "may", "refreshed")


@group.callback()
def exports(context: typer.Context, app: AppUrl = "", as_json: Json = False) -> None:
    """List, make, change and remove exports. An export says which segments go to which list.

    Example: python -m exporter exports
    """
    if is_alone(context, "app", "as_json"):
        list_exports(app, as_json)


@group.command("list")
def list_exports(app: AppUrl = "", as_json: Json = False) -> None:
    """List the exports with their status.

    Example: python -m exporter exports list
    """
    with open_app(app) as it:
        documents = [_document(view) for view in it.exports()]
    rows = documents if as_json else [*map(_row, documents)]
    print_rows(rows, COLUMNS, as_json, least=LEAST_NEEDED)


@group.command()
def show(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Show one export.

    Example: python -m exporter exports show high-value
    """
    with open_app(app) as it:
        _print(it.export(export), as_json)


@group.command()
@with_option_groups
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    options: ExportOptions,
    schedule: ScheduleOptions,
    export_id: Annotated[
        str, typer.Option("--id", help="Its ID. Without this option it is made from the name.")
    ] = "",
    paused: Annotated[
        bool, typer.Option("--paused", help="Nothing starts it before `exports resume`.")
    ] = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Make an export. This does not run it.

    Example: python -m exporter exports create VIPs --connection main --list VIPs --segment VIP
    --email EMail
    """
    from exporter.cli.yaml_files import read_mapping
    from exporter.management.forms import NewExportForm, parse

    form: dict[str, Any] = {"segments": [], **options.fields(), "name": name, "paused": paused}
    form["mapping"] = read_mapping(options.email, options.mapping)
    form["schedule"] = schedule.change({})
    if export_id:
        form["id"] = export_id
    if not options.connection or not options.list_name:
        missing = "--list" if options.connection else "--connection"
        raise ConfigError(
            f"{missing} is missing.", hint="Give the connection's ID and the list's ID or name."
        )
    with open_app(app) as it:
        form["list_id"] = _list_id(it, options.connection, options.list_name)
        _print(it.create_export(parse(NewExportForm, form)), as_json)


@group.command()
@with_option_groups
def edit(
    export: Id,
    options: ExportOptions,
    schedule: ScheduleOptions,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Change what you give, keep the rest. --mapping replaces the mapping, --email only its column.

    Example: python -m exporter exports edit high-value --at 06:00 --time-zone Europe/Bucharest
    """
    from exporter.management.forms import ExportForm, parse

    with open_app(app) as it:
        seen = it.export(export)
        before = {field: getattr(seen, field) for field in ExportForm.model_fields}
        form = {**before, **options.fields(), **_changed(seen, options, schedule)}
        if name is not None:
            form["name"] = name
        if options.list_name:
            form["list_id"] = _list_id(it, form["connection"], options.list_name)
        if form == before:
            raise ConfigError(
                "Nothing to change was given.",
                hint="Add the options with the new values. --help lists them.",
            )
        _print(it.edit_export(export, parse(ExportForm, form), etag=seen.etag), as_json)


def _changed(seen: ExportView, options: ExportOptions, schedule: ScheduleOptions) -> dict[str, Any]:
    """Give the mapping and the schedule where options change a part of them."""
    from exporter.cli.yaml_files import read_mapping

    form: dict[str, Any] = {}
    if options.email or options.mapping:
        assert seen.mapping is not None  # a damaged export is shown in lists alone
        mapping = seen.mapping.model_dump(mode="json", exclude_defaults=True)
        form["mapping"] = read_mapping(options.email, options.mapping, mapping)
    kept = seen.schedule.model_dump(mode="json", exclude_defaults=True)
    kept = {"on": seen.schedule.on, **kept}
    changed = schedule.change(kept)
    if changed != kept:
        form["schedule"] = changed
    return form


@group.command()
def duplicate(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Make a paused copy under another name.

    Example: python -m exporter exports duplicate high-value
    """
    with open_app(app) as it:
        _print(it.duplicate_export(export), as_json)


@group.command()
def detach(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Take an export off its connection. It does not run until it has one.

    Example: python -m exporter exports detach vips
    """
    with open_app(app) as it:
        _print(it.detach_export(export), as_json)


@group.command()
def pause(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Stop an export: nothing starts it, and an open run sends no batch after 0.3 s.

    Example: python -m exporter exports pause vips
    """
    with open_app(app) as it:
        _print(it.pause_export(export, paused=True), as_json)


@group.command()
def resume(export: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Let a paused export run again.

    Example: python -m exporter exports resume vips
    """
    with open_app(app) as it:
        _print(it.pause_export(export, paused=False), as_json)


@group.command()
def remove(export: Id, yes: Yes = False, app: AppUrl = "") -> None:
    """Remove an export. Its history stays.

    Example: python -m exporter exports remove vips
    """
    with open_app(app) as it:
        seen = it.export(export)
        confirm(f"Remove {seen.name}? An open run stops. Nobody is removed from the list.", yes=yes)
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
    from exporter.cli import applying
    from exporter.cli.yaml_files import read_text

    documents = applying.read(read_text(file))
    with open_app(app) as it:
        edits = applying.plan(it, documents, prune=prune)
        if as_json:
            print_json([edit.to_json() for edit in edits])
        else:
            print(applying.as_text(edits))
        if dry_run or not edits:
            return
        removed = sum(edit.kind is applying.Kind.REMOVE for edit in edits)
        confirm(f"Change {len(edits)} exports, of which {removed} are removed?", yes=yes)
        _apply(it, edits)


def _apply(app: App, edits: list[applying.Edit]) -> None:
    from exporter.cli import applying

    done = 0
    try:
        for view in applying.apply(app, edits):
            done += 1
            if view:
                print_warnings([f"{view.id}: {warning}" for warning in view.warnings])
    except ExporterError:
        say(f"{done} of {len(edits)} were changed before this. Apply the file again for the rest.")
        raise
    say(f"{done} changed.")


@group.command()
def dump(
    exports: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPORT]...", help="Only these, instead of all.")
    ] = None,
    app: AppUrl = "",
) -> None:
    """Print the exports as a file for `apply`.

    Example: python -m exporter exports dump > exports.yaml
    """
    from exporter.cli import applying

    with open_app(app) as it:
        views = (
            [it.export(each) for each in exports]
            if exports
            else [each for each in it.exports() if not each.problem]
        )
    print(applying.dump(views), end="")


def segments(
    left_aside: Annotated[
        bool,
        typer.Option(
            "--left-aside", help="Instead, list the files that belong to no snapshot, and why."
        ),
    ] = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """List the segments found in storage, by their newest snapshots.

    Example: python -m exporter segments
    """
    with open_app(app) as it:
        if left_aside:
            files = [as_json_document(each) for each in it.left_aside()]
            print_rows(files, ("name", "modified_at", "segment", "why"), as_json, least=FILE_LEAST)
            return
        documents = [as_json_document(each) for each in it.segments()]
    rows = [
        {**each, "age": _age(each["age_s"]), "megabytes": f"{each['size_bytes'] / 1e6:,.1f}"}
        for each in documents
    ]
    columns = ("name", "members", "newest_at", "age", "files", "megabytes")
    print_rows(documents if as_json else rows, columns, as_json)


def _age(seconds: float) -> str:
    hours, minutes = int(seconds // 3_600), int(seconds // 60) % 60
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min"


def _list_id(app: App, connection: str | None, wanted: str) -> str:
    from exporter.cli import applying

    return applying.find_list(app.lists(connection), wanted) if connection else wanted


def _document(view: ExportView) -> dict[str, Any]:
    return {**CONTRACT, **as_json_document(view)}


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """Give an export as a row of the table: of moments the day, of permissions a word."""
    from exporter.management.views import EXPORT_ACTIONS

    has_all = set(document["may"]) == {action.name.lower() for action in EXPORT_ACTIONS}
    return {
        **document,
        "list": document["list_id"],
        "schedule": "Paused" if document["paused"] else document["schedule_text"],
        "next": (document["next_run_at"] or "")[:16].replace("T", " "),
        "refreshed": (document["refreshed"] or "")[:10],
        "created": _who_and_day(document["created"]),
        "changed": _who_and_day(document["changed"]),
        "may": "all" if has_all else shown(document["may"]).replace("_", " ") or "see",
    }


def _who_and_day(change: dict[str, Any] | None) -> str:
    return f"{change['by']} {change['at'][:10]}" if change else ""


def _who_and_when(change: dict[str, Any] | None) -> str:
    return f"{change['by']}, {shown(change['at'])}" if change else ""


def _print(view: ExportView, as_json: bool) -> None:
    if as_json:
        print_json(_document(view))
    else:
        print_fields(_lines(view))
    print_warnings(view.warnings)


def _lines(view: ExportView) -> list[tuple[str, Any]]:
    document = as_json_document(view)
    assert view.mapping is not None  # a damaged export is shown in lists alone
    return [
        ("Export", view.id),
        ("Name", view.name),
        ("Connection", view.connection or "detached: it does not run"),
        ("List", f"{view.list_id} {view.list_name}".strip()),
        ("Segments", view.segments),
        *_mapping_lines(view.mapping.model_dump(mode="json", exclude_defaults=True)),
        ("Schedule", view.schedule_text),
        ("Maximum", view.max_profiles),
        ("Rejected rows", "kept" if view.keep_rejected_rows else None),
        ("Reconciled", "yes" if view.reconcile else None),
        ("Paused", "yes: nothing starts it" if view.paused else None),
        ("Next run", document["next_run_at"]),
        ("Status", view.status),
        ("", view.last_run.message if view.last_run else None),
        ("Refreshed", document["refreshed"]),
        ("Created", _who_and_when(document["created"])),
        ("Changed", _who_and_when(document["changed"])),
        ("You may", [action.replace("_", " ") for action in view.may]),
    ]


def _mapping_lines(mapping: dict[str, Any]) -> list[tuple[str, str]]:
    from exporter.cli.yaml_files import dump_yaml

    lines = dump_yaml(mapping, default_flow_style=None, width=1_000).splitlines()
    return [(" " if number else "Mapping", line) for number, line in enumerate(lines)]
