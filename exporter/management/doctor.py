"""Look at the app from inside: each part side by side with the others, and none for too long.

First come the parts that the whole app needs, and what is set up; then, for each connection, its
key, its lists and its consent. Nothing of what is said holds a key, a row or a person.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date

from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.errors import ExporterError, ListGone, RevisionRetired
from exporter.klaviyo.base_url import retired_on, retirement_warning
from exporter.management.api_keys import Keys, keeping_account
from exporter.management.views import AttentionView, ExaminedView
from exporter.orchestration.health import NO_ANSWER, OK, Answer, Check, Health

# Both rounds together end well within the 230 s of a request. A client of Klaviyo's asks again for
# 20 s.
PART_S = 40.0


KLAVIYO_SILENT = Answer(
    "failed",
    "Klaviyo or the vault did not answer in time.",
    "Look at status.klaviyo.com, then ask again.",
)


def examine(
    checks: Mapping[str, Check], *, part_s: float = PART_S, no_answer: Answer = NO_ANSWER
) -> list[ExaminedView]:
    """Look at all parts side by side. no_answer: of a part that hangs."""
    health = Health(checks, clock=time.monotonic, answer_s=part_s, no_answer=no_answer)
    answers = health.answers()
    return [
        ExaminedView(part=name, state=answer.state, said=answer.said, hint=answer.hint)
        for name, answer in answers.items()
    ]


def revision_check(revision: str, today: date, *, fall_forward: bool) -> Answer:
    """Say how long Klaviyo serves the revision that is asked for, by its date.

    No answer tells that Klaviyo served a newer one: a retired revision is, where the settings let
    Klaviyo do that.
    """
    end = retired_on(revision)
    if fall_forward and end and today >= end:
        said = f"Klaviyo retired {revision} on {end} and serves a newer revision than asked for."
        return Answer("attention", said, RevisionRetired.hint)
    if said := retirement_warning(revision, today):
        return Answer("attention", f"{said}.", RevisionRetired.hint)
    return Answer(OK, f"{revision}, served until {end}" if end else revision)


def exports_check(found: Sequence[AttentionView], number: int) -> Answer:
    """Say which exports need attention."""
    if not found:
        return Answer(OK, f"{number} set up")
    worst = sorted(found, key=lambda each: each.severity != "error")
    first, *others = worst
    said = f"{first.name}: {first.problem}"
    if others:
        said += f" And {len(others)} more."
    hint = "status lists all." if others or not first.hint else first.hint
    return Answer("failed" if first.severity == "error" else "attention", said, hint)


def connection_checks(
    keys: Keys, connections: Iterable[Connection], exports: Iterable[Export]
) -> dict[str, Check]:
    """Look at the key, the lists and the consent of each connection."""
    lists: dict[str, list[Export]] = {}
    for export in exports:
        if export.connection is not None:
            lists.setdefault(export.connection, []).append(export)
    checks: dict[str, Check] = {}
    for connection in connections:
        about = f"connection {connection.id}"
        used_by = lists.get(connection.id, [])
        checks[f"{about}: key"] = _bound(_key_check, keys, connection)
        checks[f"{about}: lists"] = _bound(_lists_check, keys, connection, used_by)
        checks[f"{about}: consent"] = _bound(_consent_check, connection, used_by)
    return checks


def _bound(check: Callable[..., Answer | None], *args: object) -> Check:
    return lambda: check(*args)


def _key_check(keys: Keys, connection: Connection) -> Answer:
    """Try the key: its scopes, whose account it is of, the clocks."""
    check = keeping_account(keys.check(connection), connection.check)
    if not check.ok:
        return Answer("failed", check.message, check.hint)
    if check.message:
        return Answer("attention", check.message, check.hint)
    unknown = [scope for scope, has in check.scopes.items() if has is None]
    said = f"It has the scopes that it needs, in the account {check.account_id}."
    if unknown:
        said += f" Klaviyo did not tell about {', '.join(unknown)}."
    return Answer(OK, said)


def _lists_check(keys: Keys, connection: Connection, exports: Sequence[Export]) -> Answer:
    """Find the list of each export."""
    if not exports:
        return Answer(OK, "No export uses it.")
    client, gone = keys.client(connection), []
    for export in exports:
        try:
            client.find_list(export.list_id)
        except ListGone:
            gone.append(export)
    if not gone:
        return Answer(OK, f"{len({export.list_id for export in exports})} found")
    named = ", ".join(f"{export.list_id} of {export.id}" for export in gone)
    hint = f"exports edit {gone[0].id} --list ID, for each of them."
    return Answer("failed", f"The account does not have the list {named}.", hint)


def _consent_check(connection: Connection, exports: Sequence[Export]) -> Answer | None:
    if connection.consent is not None:
        return None
    hint = f"connections agree {connection.id}"
    said = "Nobody has agreed yet: nothing is sent."
    return Answer("failed" if exports else "attention", said, hint)


def damaged_view(about: str, error: ExporterError) -> ExaminedView:
    """Tell of a document that cannot be read."""
    return ExaminedView(part=about, state="failed", said=error.message, hint=error.hint)
