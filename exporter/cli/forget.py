"""`python -m exporter forget`: erase a person from what the exporter keeps, and from Klaviyo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exporter.cli.asking import confirm
from exporter.cli.backends import open_store
from exporter.cli.options import Json
from exporter.cli.printing import print_document
from exporter.errors import ConfigError, ExporterError, Unknown

if TYPE_CHECKING:
    from exporter.orchestration.engine import Engine


def forget(
    known_by: Annotated[
        list[str],
        typer.Argument(
            metavar="EMAIL...", help="The person's address, and phone number or external ID."
        ),
    ],
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Use the folder where `push` keeps runs, not an app."),
    ] = None,
    klaviyo: Annotated[
        bool,
        typer.Option("--klaviyo", help="Also have Klaviyo delete the profile, permanently."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before the request to Klaviyo.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Erase a person from everything that the exporter keeps. You can repeat this.

    With --klaviyo the keys need the scope data-privacy:write. Klaviyo finds people by address, or
    by a phone number that begins with +. First erase the person in Customer Insights: the next
    snapshot would bring them back.

    Example: python -m exporter forget ada@example.com
    """
    from exporter.cli.wording import erasure_as_text
    from exporter.management import erasure as erasing

    people = _as_klaviyo_knows(known_by)
    if klaviyo and not people:
        hint = "Give the e-mail address, or the phone number beginning with +."
        raise ConfigError("Klaviyo finds people by address or phone number.", hint=hint)
    if state is None and os.environ.get("EXPORTER_APP"):
        hint = "Unset EXPORTER_APP and set the app's settings, or give --state."
        raise ConfigError("`forget` works on the storage itself, not through the app.", hint=hint)
    engine = open_store(state)
    if klaviyo:
        confirm("Klaviyo deletes the profile and its history for good. Continue?", yes=yes)
    erasure = erasing.forget(engine.store, engine.runs, engine.plans, known_by)
    asked: list[str] = []
    failed: list[dict[str, str]] = []
    for connection_id in engine.catalog.connection_ids() if klaviyo else ():
        errors = _ask_klaviyo(engine, connection_id, people)
        for message, hint in errors:
            failed.append({"connection": connection_id, "message": message, "hint": hint})
        if not errors:
            asked.append(connection_id)
    document = {**erasure.to_json(), "klaviyo_asked": asked, "klaviyo_failed": failed}
    print_document(document, erasure_as_text, as_json)
    if failed or not erasure.is_complete:
        raise typer.Exit(1)


def _as_klaviyo_knows(known_by: list[str]) -> list[dict[str, str]]:
    """Give what Klaviyo finds the person by, as it was sent.

    Digits without + are left out: they may be somebody else's number.
    """
    from exporter.planning import emails, phones

    people = []
    for each in known_by:
        number = each.strip().lower().removeprefix("tel:").strip()
        if "@" in each:
            people.append({"email": emails.to_ascii(each) or each.strip().lower()})
        elif number.startswith("+") and (e164 := phones.to_e164(number, None)):
            people.append({"phone_number": e164})
    return people


def _ask_klaviyo(
    engine: Engine, connection_id: str, people: list[dict[str, str]]
) -> list[tuple[str, str]]:
    """Ask one account to delete these people, each in turn. Give what failed, with what to do."""
    from exporter.cli.local_backend import klaviyo_of

    open_klaviyo = klaviyo_of(os.environ)
    failed: dict[tuple[str, str], None] = {}  # each once, in order
    try:
        connection = engine.catalog.connection(connection_id)
        if connection is None:
            raise Unknown(f"There is no connection {connection_id}.")
        with open_klaviyo(engine.read_secret(connection.secret)) as client:
            for person in people:
                try:
                    client.ask_for_deletion(**person)
                except ExporterError as exc:
                    failed[exc.message, exc.hint] = None
    except ExporterError as exc:
        failed[exc.message, exc.hint] = None
    return list(failed)
