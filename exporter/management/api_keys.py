"""Trying a connection's key: whose account it is, what it may do, whose clock is wrong, is the revision served."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Protocol

from exporter.definitions.connection import Check
from exporter.errors import ExporterError, ScopeMissing
from exporter.klaviyo.responses import Account, KlaviyoList

NEEDED = ("accounts:read", "lists:read", "lists:write", "profiles:read", "profiles:write")
SKEW_S = 120.0  # beyond this, times in reports and in Klaviyo cannot be compared


class KlaviyoAccount(Protocol):
    """What setting up needs of Klaviyo."""

    revision: str

    def account(self) -> Account: ...
    def probe_scopes(self) -> dict[str, bool]: ...
    def probe_writing(self) -> dict[str, bool | None]: ...
    def find_list(self, list_id: str) -> KlaviyoList: ...
    def lists(
        self, name: str | None = None, *, with_flows: bool = False
    ) -> Iterator[KlaviyoList]: ...
    def flows_of_list(self, list_id: str) -> tuple[str, ...]: ...
    def create_list(self, name: str) -> KlaviyoList: ...


def try_key(client: KlaviyoAccount, *, now: datetime) -> Check:
    """What the key is good for. Raises KeyRefused, RevisionRetired and KlaviyoUnavailable."""
    scopes: dict[str, bool | None] = {"accounts:read": True}
    try:
        account = client.account()
    except ScopeMissing:
        account = Account(id="", name="")
        scopes["accounts:read"] = False
    scopes |= client.probe_scopes() | client.probe_writing()
    skew_s = (now - account.asked_at).total_seconds() if account.asked_at else None
    missing = [scope for scope in NEEDED if scopes.get(scope) is False]
    message, hint = "", ""
    if missing:
        message, hint = f"the key lacks {', '.join(missing)}", ScopeMissing.hint
    elif skew_s is not None and abs(skew_s) > SKEW_S:
        message = f"this app's clock and Klaviyo's differ by {abs(skew_s):.0f} s"
        hint = "Runs work all the same; their times will not match Klaviyo's."
    return Check(
        at=now,
        ok=not missing,
        account_id=account.id,
        account_name=account.name,
        scopes=scopes,
        clock_skew_s=skew_s,
        revision=client.revision,
        message=message,
        hint=hint,
    )


def failed(error: ExporterError, *, now: datetime, revision: str) -> Check:
    """The check that an error ended."""
    return Check(at=now, ok=False, revision=revision, message=error.message, hint=error.hint)


def account_mismatch(check: Check, before: Check | None) -> str:
    """Why a key is not that of the account known before, or cannot be told to be; "" where nothing speaks against it.

    Lists and exports would not fit another account.
    """
    known = before.account_id if before else ""
    if not known or check.account_id == known:
        return ""
    if not check.account_id:
        return f"may be of another account than {known}: it lacks accounts:read"
    return f"belongs to the account {check.account_id}, not {known}: make a connection of its own for it"


def keeping_account(check: Check, before: Check | None) -> Check:
    """A check of a connection's own key. The account stays the one known before; a key of another is not ok."""
    if before is None or not (why := account_mismatch(check, before)):
        return check
    update: dict[str, Any] = {"account_id": before.account_id, "account_name": before.account_name}
    if check.account_id:
        hint = "Put a key of this connection's account into its secret."
        update |= {"ok": False, "message": f"the key {why}", "hint": hint}
    return check.model_copy(update=update)
