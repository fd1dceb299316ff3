"""`python -m exporter connections ...` and `lists`: the Klaviyo accounts that may be sent to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from exporter.cli.options import (
    AppUrl,
    Json,
    Yes,
    as_json_document,
    confirm,
    only_alone,
    print_fields,
    print_json,
    print_rows,
    read_key,
    shown,
    using,
)
from exporter.errors import ConfigError, NotAllowed
from exporter.management.app import App, WithExports
from exporter.management.forms import ConnectionForm, ListForm, NewConnectionForm, parse
from exporter.management.views import ConnectionView

group = typer.Typer(invoke_without_command=True, no_args_is_help=False)

Id = Annotated[str, typer.Argument(metavar="CONNECTION", help="A connection's id.")]
Secret = Annotated[
    str,
    typer.Option("--secret", metavar="NAME", help="The secret in the vault that holds the key."),
]
KeyStdin = Annotated[bool, typer.Option("--key-stdin", help="Read the key from standard input.")]
UsedBy = Annotated[
    str, typer.Option("--used-by", metavar="WHO", help="administrators, or contributors, too.")
]

COLUMNS = ("id", "name", "secret", "used_by", "consent", "account")


@group.callback()
def connections(context: typer.Context, app: AppUrl = "", as_json: Json = False) -> None:
    """Klaviyo accounts: list, make, check, remove. Alone, it lists them.

    Example: python -m exporter connections
    """
    if only_alone(context, "app", "as_json"):
        list_connections(app, as_json)


@group.command("list")
def list_connections(app: AppUrl = "", as_json: Json = False) -> None:
    """List the connections that you may use.

    Example: python -m exporter connections list
    """
    with using(app) as it:
        documents = [_document(view) for view in it.connections()]
    rows = [_row(document) for document in documents]
    print_rows(documents if as_json else rows, COLUMNS, as_json)


@group.command()
def show(connection: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Show one connection.

    Example: python -m exporter connections show main
    """
    with using(app) as it:
        _print(it.connection(connection), as_json)


@group.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    connection_id: Annotated[
        str, typer.Option("--id", help="Its id; made from the name if not given.")
    ] = "",
    used_by: UsedBy = "administrators",
    secret: Secret = "",
    key_stdin: KeyStdin = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Make a connection. The key is asked for, tried in Klaviyo, and put into the vault. Then: connections agree.

    Example: python -m exporter connections create "Main account" --secret klaviyo-main
    """
    form: dict[str, Any] = {"name": name, "used_by": used_by}
    form |= {"id": connection_id} if connection_id else {}
    with using(app) as it:
        if secret:
            _check_one_key(key_stdin)
            form["secret"] = secret
        else:
            form["key"] = read_key(from_stdin=key_stdin)
        _print(it.create_connection(parse(NewConnectionForm, form)), as_json)


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
    """Change what is given, leave the rest.

    Example: python -m exporter connections edit main --used-by contributors
    """
    given = {"name": name, "used_by": used_by, "secret": secret}
    given = {field: value for field, value in given.items() if value is not None}
    if not given:
        raise ConfigError("nothing to change was given", hint="Give --name, --used-by or --secret.")
    with using(app) as it:
        seen, etag = _seen(it, connection)
        assert seen.details is not None
        kept = {"name": seen.name, "used_by": seen.details.used_by}
        _print(
            it.edit_connection(connection, parse(ConnectionForm, {**kept, **given}), etag=etag),
            as_json,
        )


@group.command()
def agree(
    connection: Id,
    version: Annotated[
        str, typer.Option(help="Agree to this version, which you have read: is not asked then.")
    ] = "",
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Read what data leaving for Klaviyo means, and agree. Nothing is sent before somebody did.

    Example: python -m exporter connections agree main
    """
    with using(app) as it:
        if not version:
            text = it.consent_text()
            typer.echo(text.text, err=True)
            confirm("Do you agree?", yes=False)
            version = text.version
        _print(it.agree(connection, version), as_json)


@group.command()
def withdraw(connection: Id, yes: Yes = False, app: AppUrl = "", as_json: Json = False) -> None:
    """Take the agreement back: runs stop.

    Example: python -m exporter connections withdraw main
    """
    with using(app) as it:
        confirm(f"Runs over {connection} stop, and none starts. Withdraw?", yes=yes)
        _print(it.withdraw(connection), as_json)


@group.command()
def connect(connection: Id, app: AppUrl = "", as_json: Json = False) -> None:
    """Try the key: account, scopes, clock, revision.

    Example: python -m exporter connections connect main
    """
    with using(app) as it:
        view = it.check_connection(connection)
    _print(view, as_json)
    if view.details and view.details.check and not view.details.check.ok:
        raise typer.Exit(1)


@group.command("rotate-key")
def rotate_key(
    connection: Id, key_stdin: KeyStdin = False, app: AppUrl = "", as_json: Json = False
) -> None:
    """Give a new key of the same account; it is asked for. Open runs take it up.

    For a key that somebody put into the vault under another name: connections edit --secret NAME.

    Example: python -m exporter connections rotate-key main
    """
    with using(app) as it:
        _print(it.rotate_key(connection, read_key(from_stdin=key_stdin)), as_json)


@group.command()
def remove(
    connection: Id,
    exports: Annotated[
        str, typer.Option(help="What becomes of its exports: refuse, detach or remove.")
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
            f"--exports: {exports} is no choice", hint="Give refuse, detach or remove."
        )
    with using(app) as it:
        seen, etag = _seen(it, connection)
        users = seen.details.exports if seen.details else []
        with_them = (
            f" and {exports} its exports {', '.join(users)}"
            if users and exports != "refuse"
            else ""
        )
        confirm(
            f"Remove {seen.name}{with_them}{', and delete its key' if delete_secret else ''}?",
            yes=yes,
        )
        it.remove_connection(
            connection, etag=etag, exports=chosen[exports], delete_secret=delete_secret
        )


def lists(
    connection: Id,
    create: Annotated[str, typer.Option(metavar="NAME", help="Make a list of this name.")] = "",
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """List the lists of a connection's Klaviyo account, with the flows that joining each starts.

    Example: python -m exporter lists main
    """
    with using(app) as it:
        found = (
            [it.create_list(connection, parse(ListForm, {"name": create}).name)]
            if create
            else it.lists(connection)
        )
    rows = [as_json_document(each) for each in found]
    print_rows(rows, ("id", "name", "opt_in_process", "flows"), as_json)


def _check_one_key(key_stdin: bool) -> None:
    if key_stdin:
        raise ConfigError("both --secret and --key-stdin were given", hint="Give one of them.")


def _seen(app: App, connection: str) -> tuple[ConnectionView, str]:
    """A connection and the version of it, which only those who may change it are told."""
    view = app.connection(connection)
    if view.details is None:
        raise NotAllowed(f"only administrators may change the connection {connection}")
    return view, view.details.etag


def _document(view: ConnectionView) -> dict[str, Any]:
    """Everything in one level, as the connection's document has it."""
    document = as_json_document(view)
    details = document.pop("details") or {}
    return {"schema": 1, **document, **details}


def _row(document: dict[str, Any]) -> dict[str, Any]:
    consent, check = document.get("consent") or {}, document.get("check") or {}
    return {**document, "consent": consent.get("by"), "account": check.get("account_name")}


def _print(view: ConnectionView, as_json: bool) -> None:
    document = _document(view)
    if as_json:
        print_json(document)
        return
    consent, check = document.get("consent") or {}, document.get("check") or {}
    scopes = check.get("scopes") or {}
    print_fields(
        [
            *(("Connection", view.id), ("Name", view.name), ("Type", view.type)),
            ("Used by", document.get("used_by")),
            ("Secret", document.get("secret")),
            (
                "Consent",
                f"{consent['by']}, {shown(consent['at'])}"
                if consent
                else "nobody agreed yet: nothing is sent",
            ),
            (
                "Account",
                f"{check['account_name']} ({check['account_id']})"
                if check.get("account_id")
                else None,
            ),
            ("Scopes", [name for name, has in scopes.items() if has]),
            ("Lacks", [name for name, has in scopes.items() if has is False]),
            ("Revision", check.get("revision")),
            (
                "Checked",
                f"{shown(check['at'])}: {'ok' if check['ok'] else 'not ok'}" if check else None,
            ),
            *(("", check.get("message")), ("Do", check.get("hint"))),
            ("Exports", document.get("exports")),
        ]
        if view.details
        else [("Connection", view.id), ("Name", view.name), ("Type", view.type)]
    )
