"""Keys of Klaviyo accounts: where they are kept, and what trying one tells.

A trial finds out whose account the key belongs to, what the key may do, whether the clocks agree
and whether Klaviyo serves our revision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic import SecretStr

from exporter.definitions.connection import Check, Connection
from exporter.errors import (
    ExporterError,
    Invalid,
    KeyRefused,
    ListGone,
    Problem,
    RevisionRetired,
    ScopeMissing,
    SecretUnavailable,
)
from exporter.klaviyo.base_url import retirement_warning
from exporter.klaviyo.responses import Account, AccountUsage, KlaviyoList

NEEDED = ("accounts:read", "lists:read", "lists:write", "profiles:read", "profiles:write")
SKEW_S = 120.0  # if clocks differ by more, times in reports and in Klaviyo cannot be compared


class KlaviyoAccount(Protocol):
    """What management needs of Klaviyo."""

    revision: str

    def account(self) -> Account: ...
    def probe_scopes(self) -> dict[str, bool]: ...
    def probe_writing(self) -> dict[str, bool | None]: ...
    def usage(self) -> AccountUsage | None: ...
    def profiles_by_email(self, emails: Sequence[str]) -> dict[str, str]: ...
    def find_list(self, list_id: str) -> KlaviyoList: ...
    def lists(
        self, name: str | None = None, *, with_flows: bool = False
    ) -> Iterator[KlaviyoList]: ...
    def flows_of_list(self, list_id: str) -> tuple[str, ...]: ...
    def create_list(self, name: str) -> KlaviyoList: ...


class Secrets(Protocol):
    """Where keys are kept: the vault, or on a laptop the environment."""

    def read(self, name: str) -> SecretStr: ...
    def write(self, name: str, value: SecretStr) -> None: ...
    def delete(self, name: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys of connections, and Klaviyo as seen with them. open_klaviyo: a client for a key."""

    secrets: Secrets
    open_klaviyo: Callable[[SecretStr], KlaviyoAccount]
    now: Callable[[], datetime]

    def client(self, connection: Connection) -> KlaviyoAccount:
        return self.open_klaviyo(self.secrets.read(connection.secret))

    def try_given(self, given: SecretStr | str | None) -> Check:
        """Try a key, or the key of a named secret.

        Raises Invalid for a key that Klaviyo refuses and a secret that does not exist.
        """
        field = "secret" if isinstance(given, str) else "key"
        try:
            key = self.secrets.read(given) if isinstance(given, str) else given
            assert key is not None
            return try_key(self.open_klaviyo(key), now=self.now())
        except (KeyRefused, SecretUnavailable) as exc:
            raise Invalid(Problem(field, exc.message), hint=exc.hint) from exc

    def check(self, connection: Connection) -> Check:
        """Try a connection's key; what keeps it from working is part of the result."""
        try:
            return try_key(self.client(connection), now=self.now())
        except ExporterError as exc:
            revision = connection.check.revision if connection.check else ""
            return failed(exc, now=self.now(), revision=revision)

    def find_list(self, connection: Connection | None, list_id: str) -> KlaviyoList | None:
        """Find a list; None without a connection. Raises Invalid if there is none."""
        if connection is None:
            return None
        try:
            return self.client(connection).find_list(list_id)
        except ListGone as exc:
            problem = Problem("list_id", f"{connection.name} has no list {list_id}")
            raise Invalid(problem, hint=exc.hint) from exc


def try_key(client: KlaviyoAccount, *, now: datetime) -> Check:
    """Find out what a key may do. Raises KeyRefused, RevisionRetired and KlaviyoUnavailable."""
    scopes: dict[str, bool | None] = {"accounts:read": True}
    try:
        account = client.account()
    except ScopeMissing:
        account = Account(id="", name="")
        scopes["accounts:read"] = False
    scopes |= client.probe_scopes() | client.probe_writing()
    usage = client.usage()
    skew_s = (now - account.asked_at).total_seconds() if account.asked_at else None
    missing = [scope for scope in NEEDED if scopes.get(scope) is False]
    message, hint = "", ""
    unknown = [scope for scope in NEEDED if scopes.get(scope) is None]
    if missing:
        message, hint = f"the key lacks {', '.join(missing)}", ScopeMissing.hint
        if unknown:
            message += f"; it is not known whether it has {', '.join(unknown)}"
    elif message := retirement_warning(client.revision, now.date()):
        hint = RevisionRetired.hint
    elif skew_s is not None and abs(skew_s) > SKEW_S:
        message = f"this app's clock and Klaviyo's differ by {abs(skew_s):.0f} s"
        hint = "Runs work all the same, but their times do not match Klaviyo's."
    return Check(
        at=now,
        ok=not missing,
        account_id=account.id,
        account_name=account.name,
        scopes=scopes,
        clock_skew_s=skew_s,
        revision=client.revision,
        room=usage.room if usage else None,
        message=message,
        hint=hint,
    )


def failed(error: ExporterError, *, now: datetime, revision: str) -> Check:
    """Describe a check that ended in an error."""
    return Check(at=now, ok=False, revision=revision, message=error.message, hint=error.hint)


def account_mismatch(check: Check, before: Check | None) -> str:
    """Say why a key does not belong to the account known before, or may not; "" if it does.

    Lists and exports would not fit another account.
    """
    known = before.account_id if before else ""
    if not known or check.account_id == known:
        return ""
    if not check.account_id:
        return f"may belong to another account than {known}: it lacks accounts:read"
    other = f"belongs to the account {check.account_id}, not {known}"
    return f"{other}; create another connection for it"


def same_account(connection: Connection, checked: Check, field: str) -> Check:
    """Return the check of a new key. Raises Invalid unless the key belongs to the same account."""
    if why := account_mismatch(checked, connection.check):
        raise Invalid(Problem(field, why))
    return checked


def keeping_account(check: Check, before: Check | None) -> Check:
    """Return the check of a connection's own key with the account that was known before.

    A key of another account is not ok.
    """
    if before is None or not (why := account_mismatch(check, before)):
        return check
    update: dict[str, Any] = {"account_id": before.account_id, "account_name": before.account_name}
    if check.account_id:
        hint = "Put a key of this connection's account into its secret."
        update |= {"ok": False, "message": f"the key {why}", "hint": hint}
    return check.model_copy(update=update)
