"""What the commands have in common: the app that they are about, options, questions, tables."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from exporter.cli import local_backend
from exporter.cli.remote_backend import RemoteApp, user_token
from exporter.definitions.mapping import MappingDocument, parse_mapping
from exporter.errors import ConfigError
from exporter.management.app import App
from exporter.management.roles import Actor, Role

errors = Console(stderr=True, highlight=False)
WHOLE = ("id", "run", "export")  # columns that are copied into the next command
PIPED_COLUMNS = 240  # where no terminal says how wide it is
MAX_KEY_CHARACTERS = 1_000
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")

AppUrl = Annotated[
    str,
    typer.Option(
        "--app",
        metavar="URL",
        envvar="EXPORTER_APP",
        help="Ask the deployed app there, as the person who is signed in; else work on its store.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
State = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="Where `push` keeps runs, instead of an app's."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Email = Annotated[
    str, typer.Option("--email", metavar="COLUMN", help="The column with the e-mail address.")
]
MappingFile = Annotated[
    Path | None, typer.Option("--mapping", help="A YAML file: Klaviyo attribute: source column.")
]


@contextmanager
def using(url: str, state: Path | None = None) -> Iterator[App]:
    """The app at an address, the folder where `push` keeps runs, or the app whose settings are in the environment.

    There, whoever reaches storage and vault may do everything: they could do so without us.
    """
    actor = Actor(id="command-line", name=_user(), role=Role.ADMIN)
    if state:
        yield local_backend.management(state).as_(actor)
    elif url:
        remote = RemoteApp(url, _token)
        try:
            yield remote
        finally:
            remote.close()
    else:
        from exporter import wiring

        yield wiring.management().as_(actor)


def _token() -> SecretStr:
    given = os.environ.get("EXPORTER_TOKEN", "")
    return SecretStr(given) if given else user_token(os.environ.get("AUTH_CLIENT_ID", ""))


def _user() -> str:
    """Who the Azure CLI says is signed in: for the record of changes, not a proof."""
    folder = Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")
    try:
        profile = json.loads((folder / "azureProfile.json").read_text(encoding="utf-8-sig"))
        names = [each["user"]["name"] for each in profile["subscriptions"] if each.get("isDefault")]
        return str(names[0])[:120]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return "command line"


def only_alone(context: typer.Context, *names: str) -> bool:
    """Whether a group is called without a command of it. Its own options before a command would do nothing: misuse."""
    if context.invoked_subcommand is None:
        return True
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(
                f"options of {context.info_name} stand before {context.invoked_subcommand}",
                hint=f"Put them behind {context.invoked_subcommand}.",
            )
    return False


# Asking


def confirm(question: str, *, yes: bool) -> None:
    """Go on, or end with code 1. Where nobody can be asked, that is misuse."""
    if yes:
        return
    typer.echo(
        f"{question} [y/N]: ", err=True, nl=False
    )  # typer's own leaves a blank on standard output
    answer = sys.stdin.readline()
    if not answer:
        raise ConfigError(
            "nobody answered, so nothing was done",
            hint="Answer y, or give --yes (agree: --version).",
        )
    if answer.strip().lower() not in ("y", "yes"):
        errors.print("Nothing was done.")
        raise typer.Exit(1)


def read_key(*, from_stdin: bool) -> SecretStr:
    """A Klaviyo key, typed without echo or from standard input: never from the command line, which others can see."""
    if from_stdin:
        key = sys.stdin.read(MAX_KEY_CHARACTERS).strip()
    elif sys.stdin.isatty():
        key = str(typer.prompt("Klaviyo private key", hide_input=True, err=True)).strip()
    else:
        key = ""
    if not key:
        raise ConfigError(
            "no key was given", hint="Type it at the prompt, or pipe it in with --key-stdin."
        )
    return SecretStr(key)


def read_mapping(
    email: str, file: Path | None, base: dict[str, Any] | None = None
) -> MappingDocument:
    """A mapping of a file, and of --email, which goes before. base: what --email alone is a change of."""
    if file is None and not email:
        raise ConfigError(
            "no column for the e-mail address", hint="Give --email COLUMN or --mapping FILE.yaml."
        )
    document: Any = base or {}
    if file is not None:
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise ConfigError(
                f"{file} cannot be read: {type(exc).__name__}", hint="Give a YAML file."
            ) from exc
        if not isinstance(document, dict):
            raise ConfigError(f"{file} is no mapping", hint="Write lines such as `email: EMail`.")
    return parse_mapping({**document, **({"email": email} if email else {})})


# Printing


def print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=1))


def as_json_document(view: BaseModel) -> dict[str, Any]:
    return dict(view.model_dump(mode="json"))


def print_document(
    document: dict[str, Any], as_text: Callable[[dict[str, Any]], str], as_json: bool
) -> None:
    if as_json:
        print_json(document)
    else:
        print(as_text(document))


def print_rows(rows: Sequence[dict[str, Any]], columns: Iterable[str], as_json: bool) -> None:
    """A table of some columns, or everything as JSON."""
    if as_json:
        print_json(list(rows))
        return
    columns = [
        column
        for column in columns
        if not rows or any(row.get(column) not in (None, "") for row in rows)
    ]
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, no_wrap=column in WHOLE, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(row.get(column))) for column in columns))
    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    Console(highlight=False, width=PIPED_COLUMNS if is_piped else None).print(table)


def print_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """A line for each field that there is."""
    for name, value in fields:
        if value not in (None, "", [], {}):
            print(f"{name:14}{shown(value)}")


def shown(value: Any) -> str:
    """A value in a line for a person, without what a terminal would act on."""
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case list():
            text = ", ".join(map(str, value))
        case str() if found := MOMENT.fullmatch(value):
            text = f"{found[1]} {found[2]} UTC"
        case _:
            text = str(value)
    return "".join(one if one.isprintable() else " " for one in text)


def print_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        errors.print(f"Warning: {warning}", style="yellow", markup=False)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=None)
            bar.update(tasks[phase], completed=done, total=total or None)

        yield show
