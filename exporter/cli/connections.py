"""`python -m exporter connections ...` and `lists`: the Klaviyo accounts that may be sent to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.asking import confirm, read_key
from exporter.cli.backends import open_app
from exporter.cli.options import AppUrl, Json, Yes, is_alone
from exporter.cli.printing import (
    CONTRACT,
    as_json_document,
    print_fields,
    print_json,
    print_rows,
    shown,
)
from exporter.errors import ConfigError, NotAllowed

if TYPE_CHECKING:
    from exporter.management.app import App, WithExports
    from exporter.management.views import ConnectionDetails, ConnectionView

group = typer.Typer(invoke_without_command=True, no_args_is_help=False)

Id = Annotated[str, typer.Argument(metavar="CONNECTION", help="A connection's ID.")]
Secret = Annotated[
    str,
    typer.Option("--secret", metavar="NAME", help="The name of the vault's secret with the key."),
]
KeyStdin = Annotated[bool, typer.Option("--key-stdin", help="Read the key from standard input.")]
UsedBy = Annotated[
    str,
    typer.Option(
        "--used-by", metavar="WHO", help="administrators, or contributors (and administrators)."
    ),
]

COLUMNS = ("id", "name", "secret", "used_by", "consent", "account")


@group.callback()
def connections(context: typer.Context, app: AppUrl = "", as_json: Json = False) -> None:
    """List, make, check and remove connections. A connection is a Klaviyo account.

    Example: python -m exporter connections
    """
    if is_alone(context, "app", "as_json"):
        list_connections(app, as_json)


@group.command("list")
def list_connections(app: AppUrl = "", as_json: Json = False) -> None:
    """List the connections that you may use.

    Example: python -m exporter connections list
    """
    with open_app(app) as it:
        documents = [_document(view) for view in it.connections()]
    print_rows(documents if as_json else [*map(_row, documents)], COLUMNS, as_json)


@group.command()
def show(connection: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Show one connection.

    Example: python -m exporter connections show main
    """
    with open_app(app) as it:
        _print(it.connection(connection), as_json)


@group.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    connection_id: Annotated[
        str, typer.Option("--id", help="Its ID. Without this option it is made from the name.")
    ] = "",
    used_by: UsedBy = "administrators",
    secret: Secret = "",
    key_stdin: KeyStdin = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Make a connection. The key is asked for, tried in Klaviyo, and kept in the vault.

    Next: connections agree.

    Example: python -m exporter connections create "Main account" --secret klaviyo-main
    """
    from exporter.management.forms import NewConnectionForm, parse

    form: dict[str, Any] = {"name": name, "used_by": used_by}
    if connection_id:
        form["id"] = connection_id
    with open_app(app) as it:
        if secret:
            _check_one_key(key_stdin)
            form["secret"] = secret
        else:
            _check_role(it, "create_connection")
            form["key"] = read_key(from_stdin=key_stdin)
        view = it.create_connection(parse(NewConnectionForm, form))
    _print_checked(view, as_json)


@group.command()
def edit(
    connection: Id,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    used_by: Annotated[
        str | None, typer.Option("--used-by", metavar="WHO", help="See create.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another secret with a key of the account.")
    ] = None,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Change what you give, keep the rest.

    Example: python -m exporter connections edit main --used-by contributors
    """
    from exporter.management.forms import ConnectionForm, parse

    given = {"name": name, "used_by": used_by, "secret": secret}
    given = {field: value for field, value in given.items() if value is not None}
    if not given:
        raise ConfigError("Nothing to change was given.", hint="Add --name, --used-by or --secret.")
    with open_app(app) as it:
        seen, details = _seen(it, connection)
        kept = {"name": seen.name, "used_by": details.used_by}
        form = parse(ConnectionForm, {**kept, **given})
        view = it.edit_connection(connection, form, etag=details.etag)
    show = _print_checked if secret else _print
    show(view, as_json)


@group.command()
def agree(
    connection: Id,
    version: Annotated[
        str, typer.Option(help="Agree to this version of the text without being asked.")
    ] = "",
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Read what it means that data goes to Klaviyo, and agree. Nothing is sent before that.

    Example: python -m exporter connections agree main
    """
    with open_app(app) as it:
        if not version:
            text = it.consent_text()
            typer.echo(text.text, err=True)
            confirm("Do you agree?")
            version = text.version
        _print(it.agree(connection, version), as_json)


@group.command()
def withdraw(connection: Id, yes: Yes = False, app: AppUrl = "", as_json: Json = False) -> None:
    """Take the agreement back. Runs stop.

    Example: python -m exporter connections withdraw main
    """
    with open_app(app) as it:
        confirm(f"All runs over {connection} stop, and no run starts. Withdraw?", yes=yes)
        _print(it.withdraw(connection), as_json)


@group.command()
def connect(connection: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Try the key in Klaviyo: account, scopes, clock, revision.

    Example: python -m exporter connections connect main
    """
    with open_app(app) as it:
        view = it.check_connection(connection)
    _print_checked(view, as_json)


@group.command("rotate-key")
def rotate_key(
    connection: Id, key_stdin: KeyStdin = False, app: AppUrl = "", as_json: Json = False
) -> None:
    """Replace the key by a new one of the same account. It is asked for. Open runs use it.

    For a key that is in the vault under another name: connections edit --secret NAME.

    Example: python -m exporter connections rotate-key main
    """
    with open_app(app) as it:
        _check_role(it, "rotate_key")
        view = it.rotate_key(connection, read_key(from_stdin=key_stdin))
    _print_checked(view, as_json)


@group.command()
def remove(
    connection: Id,
    exports: Annotated[
        str, typer.Option(help="What to do with its exports: refuse, detach or remove.")
    ] = "refuse",
    delete_secret: Annotated[
        bool, typer.Option("--delete-secret", help="Delete the key from the vault, too.")
    ] = False,
    yes: Yes = False,
    app: AppUrl = "",
) -> None:
    """Remove a connection. Its open runs stop.

    Example: python -m exporter connections remove main --exports detach
    """
    chosen: dict[str, WithExports] = {"refuse": "refuse", "detach": "detach", "remove": "remove"}
    if exports not in chosen:
        raise ConfigError(
            f"--exports cannot be {exports}.", hint="Choose refuse, detach or remove."
        )
    with open_app(app) as it:
        seen, details = _seen(it, connection)
        question = f"Remove {seen.name}"
        if details.exports and exports != "refuse":
            question += f" and {exports} its exports {', '.join(details.exports)}"
        if delete_secret:
            question += ", and delete its key"
        confirm(f"{question}?", yes=yes)
        it.remove_connection(
            connection, etag=details.etag, exports=chosen[exports], delete_secret=delete_secret
        )


def lists(
    connection: Annotated[
        str,
        typer.Argument(
            metavar="[CONNECTION]",
            help="A connection's ID. Without it, the account of the key in KLAVIYO_API_KEY.",
        ),
    ] = "",
    create: Annotated[str, typer.Option(metavar="NAME", help="Make a list with this name.")] = "",
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """List the lists of a Klaviyo account, with the flows that start when somebody joins.

    Example: python -m exporter lists main
    """
    from exporter.management.forms import ListForm, parse

    if not connection:
        if create:
            hint = "Create the list in Klaviyo, or give a connection."
            raise ConfigError("--create needs a connection.", hint=hint)
        from exporter.cli.local_backend import lists_of_key

        rows = [as_json_document(each) for each in lists_of_key()]
        print_rows(rows, ("id", "name", "opt_in_process", "flows"), as_json)
        return
    with open_app(app) as it:
        if create:
            found = [it.create_list(connection, parse(ListForm, {"name": create}).name)]
        else:
            found = it.lists(connection)
    rows = [as_json_document(each) for each in found]
    print_rows(rows, ("id", "name", "opt_in_process", "flows"), as_json)


def _check_role(app: App, action: str) -> None:
    """Refuse who may not do this before they are asked for a key. Raises NotAllowed."""
    from exporter.management.roles import Action

    actor = app.whoami()
    if action not in actor.may:
        raise NotAllowed(f"the role {actor.role} may not do this: {Action[action.upper()]}")


def _check_one_key(key_stdin: bool) -> None:
    if key_stdin:
        raise ConfigError("Both --secret and --key-stdin were given.", hint="Choose one of them.")


def _seen(app: App, connection: str) -> tuple[ConnectionView, ConnectionDetails]:
    """Give a connection with the details that only those who may change it see."""
    view = app.connection(connection)
    if view.details is None:
        raise NotAllowed(f"Only administrators may change the connection {connection}.")
    return view, view.details


def _document(view: ConnectionView) -> dict[str, Any]:
    """Give everything in one level, as the connection's document has it."""
    document = as_json_document(view)
    details = document.pop("details") or {}
    return {**CONTRACT, **document, **details}


def _row(document: dict[str, Any]) -> dict[str, Any]:
    consent, check = document.get("consent") or {}, document.get("check") or {}
    return {**document, "consent": consent.get("by"), "account": check.get("account_name")}


def _print(view: ConnectionView, as_json: bool) -> None:
    document = _document(view)
    if as_json:
        print_json(document)
        return
    print_fields([("Connection", view.id), ("Name", view.name), ("Type", view.type)])
    if view.details:
        print_fields(_detail_lines(document))


def _print_checked(view: ConnectionView, as_json: bool) -> None:
    """Print a connection whose key was just tried; exit 1 where something is wrong with it."""
    _print(view, as_json)
    if view.details and view.details.check and not view.details.check.ok:
        raise typer.Exit(1)


def _room(number: int | None) -> str:
    return "" if number is None else f"the account has room for {number:,} more people"


def _detail_lines(document: dict[str, Any]) -> list[tuple[str, Any]]:
    consent, check = document["consent"], document["check"] or {}
    scopes = check.get("scopes") or {}
    agreed = "Nobody has agreed yet. Nothing is sent."
    if consent:
        agreed = f"{consent['by']}, {shown(consent['at'])}"
    lines = [
        ("Used by", document["used_by"]),
        ("Secret", document["secret"]),
        ("Consent", agreed),
    ]
    if check.get("account_id"):
        lines.append(("Account", f"{check['account_name']} ({check['account_id']})"))
    if check:
        lines += [
            ("Scopes", [name for name, has in scopes.items() if has]),
            ("Lacks", [name for name, has in scopes.items() if has is False]),
            ("Revision", check["revision"]),
            ("Room", _room(check.get("room"))),
            ("Checked", f"{shown(check['at'])}: {'ok' if check['ok'] else 'not ok'}"),
            ("", check["message"]),
            ("Do", check["hint"]),
        ]
    return [*lines, ("Exports", document["exports"])]
