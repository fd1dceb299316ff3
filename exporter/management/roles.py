"""Who may do what: one table, which docs/roles.md shows and a test walks. Pure.

Where the table says "shared", a contributor may act over connections that administrators share with
contributors, and where no connection is concerned (a detached export).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from exporter.errors import NotAllowed


class Role(StrEnum):
    """The app roles of Microsoft Entra. A person with several has the highest of them."""

    ADMIN = "Admin"
    CONTRIBUTOR = "Contributor"
    VIEWER = "Viewer"


class May(StrEnum):
    YES = "yes"
    SHARED = "shared"
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A person who asks: `id` in the directory, `name` to be shown. Without a role: may nothing."""

    id: str
    name: str
    role: Role | None


class Action(StrEnum):
    """What a person can ask for; the value is its row in the table."""

    SEE_CONNECTIONS = "see the names and types of connections"
    READ_CONNECTION = "see a connection's details"
    CREATE_CONNECTION = "create a connection"
    EDIT_CONNECTION = "edit a connection"
    CHECK_CONNECTION = "try a connection's key in Klaviyo"
    ROTATE_KEY = "give a connection a new key"
    CONSENT = "agree to send data to Klaviyo, or withdraw that"
    REMOVE_CONNECTION = "remove a connection"
    SEE_LISTS = "see the lists of a connection's account"
    CREATE_LIST = "create a list in a connection's account"
    SEE_SEGMENTS = "see the segments found in storage"
    SUGGEST_MAPPING = "get a mapping suggested"
    SEE_EXPORTS = "see exports and their status"
    CREATE_EXPORT = "create or duplicate an export"
    EDIT_EXPORT = "edit, pause or resume an export"
    DETACH_EXPORT = "detach an export from its connection"
    REMOVE_EXPORT = "remove an export"
    RUN_EXPORT = "run an export, or all with an active schedule"
    PLAN_EXPORT = "see what a run would do"
    SEE_RUNS = "see runs and their reports"
    READ_ROWS = "read rejected and duplicate rows"
    CANCEL_RUN = "cancel a run"
    SEE_API = "see their own role, the text of consent and what the API offers"
    SEE_HEALTH = "see the app's health"
    SEE_AUDIT = "read the record of changes"


# action: (Viewer, Contributor, Admin)
_TABLE: dict[Action, tuple[May, May, May]] = {
    Action.SEE_CONNECTIONS: (May.NO, May.SHARED, May.YES),
    Action.READ_CONNECTION: (May.NO, May.NO, May.YES),
    Action.CREATE_CONNECTION: (May.NO, May.NO, May.YES),
    Action.EDIT_CONNECTION: (May.NO, May.NO, May.YES),
    Action.CHECK_CONNECTION: (May.NO, May.NO, May.YES),
    Action.ROTATE_KEY: (May.NO, May.NO, May.YES),
    Action.CONSENT: (May.NO, May.NO, May.YES),
    Action.REMOVE_CONNECTION: (May.NO, May.NO, May.YES),
    Action.SEE_LISTS: (May.NO, May.SHARED, May.YES),
    Action.CREATE_LIST: (May.NO, May.SHARED, May.YES),
    Action.SEE_SEGMENTS: (May.YES, May.YES, May.YES),
    Action.SUGGEST_MAPPING: (May.NO, May.YES, May.YES),
    Action.SEE_EXPORTS: (May.YES, May.YES, May.YES),
    Action.CREATE_EXPORT: (May.NO, May.SHARED, May.YES),
    Action.EDIT_EXPORT: (May.NO, May.SHARED, May.YES),
    Action.DETACH_EXPORT: (May.NO, May.SHARED, May.YES),
    Action.REMOVE_EXPORT: (May.NO, May.SHARED, May.YES),
    Action.RUN_EXPORT: (May.NO, May.SHARED, May.YES),
    Action.PLAN_EXPORT: (May.NO, May.SHARED, May.YES),
    Action.SEE_RUNS: (May.YES, May.YES, May.YES),
    Action.READ_ROWS: (May.NO, May.SHARED, May.YES),
    Action.CANCEL_RUN: (May.NO, May.SHARED, May.YES),
    Action.SEE_API: (May.YES, May.YES, May.YES),
    Action.SEE_HEALTH: (May.YES, May.YES, May.YES),
    Action.SEE_AUDIT: (May.NO, May.NO, May.YES),
}

PERMISSIONS: dict[Action, dict[Role, May]] = {
    action: dict(zip((Role.VIEWER, Role.CONTRIBUTOR, Role.ADMIN), row, strict=True))
    for action, row in _TABLE.items()
}


def may(actor: Actor, action: Action, *, shared: bool) -> bool:
    """Tell whether somebody may do something. What is not in the table, nobody may do.

    shared: whether every connection that it concerns is shared with contributors.
    """
    if actor.role is None:
        return False
    found = PERMISSIONS.get(action, {}).get(actor.role, May.NO)
    return found is May.YES or (found is May.SHARED and shared)


def check(actor: Actor, action: Action, *, shared: bool) -> None:
    """Raise NotAllowed unless somebody may do something."""
    if not may(actor, action, shared=shared):
        if actor.role is None:
            raise NotAllowed("you have no role in this app")
        where = " over a connection that is not shared" if may(actor, action, shared=True) else ""
        raise NotAllowed(f"the role {actor.role} may not {action}{where}")


def highest(names: set[str]) -> Role | None:
    """Return the highest role among these role claims, compared exactly; None if none is ours."""
    return next((role for role in Role if role.value in names), None)


def as_table() -> str:
    """Write the table as the documentation shows it."""
    lines = ["| | Viewer | Contributor | Admin |", "| --- | --- | --- | --- |"]
    for action, row in PERMISSIONS.items():
        lines.append(
            f"| {action} | {row[Role.VIEWER]} | {row[Role.CONTRIBUTOR]} | {row[Role.ADMIN]} |"
        )
    return "\n".join(lines) + "\n"
