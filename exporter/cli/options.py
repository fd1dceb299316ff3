"""The options that several commands take. Quick to import: `--help` and each Tab need them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from exporter.errors import ConfigError

AppUrl = Annotated[
    str,
    typer.Option(
        "--app",
        metavar="URL",
        envvar="EXPORTER_APP",
        help="Use the deployed app at this address, as the person who is signed in. "
        "Without it, the command works on the app's own storage.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
State = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="Use the folder where `push` keeps its runs."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Email = Annotated[
    str, typer.Option("--email", metavar="COLUMN", help="The column with the e-mail address.")
]
MappingFile = Annotated[
    Path | None, typer.Option("--mapping", help="A YAML file: Klaviyo attribute: source column.")
]

Encoding = Annotated[
    str,
    typer.Option(
        "--encoding", metavar="NAME", help="How CSV files are encoded, such as windows-1252."
    ),
]


def is_alone(context: typer.Context, *names: str) -> bool:
    """Tell whether a group is called without one of its commands.

    names: options of the group, which have no effect before a command. Raises ConfigError then.
    """
    if context.invoked_subcommand is None:
        return True
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            command = context.invoked_subcommand
            raise ConfigError(
                f"Options of {context.info_name} stand before {command}.",
                hint=f"Put the options behind {command}.",
            )
    return False


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """When an export runs."""

    on: Annotated[
        str | None, typer.Option("--on", metavar="WHEN", help="arrival, schedule, demand or off.")
    ] = None
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="HH:MM", help="A time of day. Can be repeated."),
    ] = None
    day: Annotated[
        list[str] | None,
        typer.Option("--day", metavar="DAY", help="Only on this day. Can be repeated."),
    ] = None
    cron: Annotated[
        str | None,
        typer.Option("--cron", metavar="EXPRESSION", help="A cron expression of five fields."),
    ] = None
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", metavar="NAME", help="Such as Europe/Bucharest.")
    ] = None

    def change(self, document: dict[str, Any]) -> dict[str, Any]:
        """Give a schedule's document with these options. Times of day and cron exclude each other.

        A schedule on arrival or on demand has neither; `off` keeps them for later.
        """
        changed = dict(document)
        has_no_times = self.on in ("arrival", "demand")
        if self.at or self.day or has_no_times:
            changed.pop("cron", None)
        if self.cron or has_no_times:
            changed.pop("times", None)
            changed.pop("days", None)
        given = {
            "times": self.at,
            "days": self.day,
            "cron": self.cron,
            "time_zone": self.time_zone,
        }
        changed |= {field: value for field, value in given.items() if value}
        if self.on or self.at or self.cron:
            changed["on"] = self.on or "schedule"
        return changed


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What an export says, but for its name and its schedule. None: not given."""

    connection: Annotated[
        str | None, typer.Option("--connection", metavar="ID", help="A connection's ID.")
    ] = None
    list_name: Annotated[
        str | None, typer.Option("--list", metavar="LIST", help="The Klaviyo list, by ID or name.")
    ] = None
    segments: Annotated[
        list[str] | None,
        typer.Option("--segment", metavar="NAME", help="A segment. Can be repeated."),
    ] = None
    email: Email = ""
    mapping: MappingFile = None
    max_profiles: Annotated[
        int | None,
        typer.Option("--max-profiles", metavar="N", help="Send nothing if more. 0: no maximum."),
    ] = None
    keep_rejected_rows: Annotated[
        bool | None,
        typer.Option(
            "--keep-rejected-rows/--no-keep-rejected-rows",
            help="Put each rejected row itself into rejected.csv.",
        ),
    ] = None
    reconcile: Annotated[
        bool | None,
        typer.Option("--reconcile/--no-reconcile", help="Compare the list's members at the end."),
    ] = None

    def fields(self) -> dict[str, Any]:
        """Give the form's fields that are the same here and there."""
        given: dict[str, Any] = {
            "segments": self.segments or None,
            "connection": self.connection,
            "keep_rejected_rows": self.keep_rejected_rows,
            "reconcile": self.reconcile,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        if self.max_profiles is not None:
            fields["max_profiles"] = self.max_profiles or None
        return fields


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take options in groups: a parameter whose type is a dataclass of options.

    Typer sees each field of the dataclass as an option of the command.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)
    }
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _options_of(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            fields = [field.name for field in dataclasses.fields(group)]
            given[name] = group(**{field: given.pop(field) for field in fields})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
