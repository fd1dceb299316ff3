"""Connections and the lists of their Klaviyo accounts, as one person manages them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from exporter.definitions import consent
from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.errors import (
    Conflict,
    EditConflict,
    ExporterError,
    Invalid,
    Problem,
    ScopeMissing,
)
from exporter.management import views
from exporter.management.access import Access, check_etag
from exporter.management.api_keys import Keys, keeping_account, same_account
from exporter.management.app import WithExports
from exporter.management.forms import ConnectionForm, NewConnectionForm
from exporter.management.roles import Action
from exporter.management.views import ConnectionView, ListView, is_shared


@dataclass(frozen=True, kw_only=True)
class Connections:
    """The connections that a person may use, and their lists."""

    access: Access
    catalog: Catalog
    keys: Keys

    def connections(self) -> list[ConnectionView]:
        """List the connections that the actor may use, by name.

        Who may see all of them also sees those that cannot be read.
        """
        self.access.check(Action.SEE_CONNECTIONS)
        uses = self.access.exports_by_connection()
        found = list(self.catalog.every(Connection))
        seen = [
            self._connection_view(connection, etag, uses.get(connection.id, []))
            for connection, etag in found
            if self.access.may(Action.SEE_CONNECTIONS, shared=is_shared(connection))
        ]
        if self.access.may(Action.SEE_CONNECTIONS, shared=False):
            readable = [connection.id for connection, _ in found]
            for connection_id, problem in self.access.damaged(Connection, readable):
                seen.append(views.damaged_connection_view(connection_id, problem))
        return sorted(seen, key=lambda view: view.name.casefold())

    def connection(self, connection_id: str) -> ConnectionView:
        """Show one connection, with details for administrators."""
        connection, etag = self.access.connection(Action.SEE_CONNECTIONS, connection_id)
        return self._connection_view(connection, etag, self._exports_of(connection_id))

    def create_connection(self, form: NewConnectionForm) -> ConnectionView:
        """Try the key, put it into the vault if it was given, then save the connection.

        Nothing is sent before `agree`.
        """
        self.access.check(Action.CREATE_CONNECTION, shared=False)
        self.access.check_name(Connection, form.name)
        connection_id = form.id or self.access.free_id(Connection, form.name)
        checked = self.keys.try_given(form.key or form.secret)
        # Each key gets a secret of a new name: a deleted secret blocks its name for as long as the
        # vault can recover it.
        secret = form.secret or f"klaviyo-{connection_id}-{uuid.uuid4().hex[:6]}"
        change = self.access.change()
        connection = Connection(
            id=connection_id,
            name=form.name,
            used_by=form.used_by,
            secret=secret,
            check=checked,
            created=change,
            changed=change,
        )
        with self.access.recording(Action.CREATE_CONNECTION, None, connection):
            if form.key:
                self.keys.secrets.write(secret, form.key)
            try:
                etag = self.catalog.create(connection)
            except ExporterError:
                if form.key:
                    with contextlib.suppress(ExporterError):
                        self.keys.secrets.delete(secret)
                raise
        return self._connection_view(connection, etag, [])

    def edit_connection(
        self, connection_id: str, form: ConnectionForm, *, etag: str
    ) -> ConnectionView:
        """Replace the settings; exports keep working. etag: of the version that the person saw.

        Repeating an edit changes nothing, and needs no current version.
        """
        old, current = self.access.connection(Action.EDIT_CONNECTION, connection_id)
        kept = (old.name, old.used_by, old.secret)
        if (form.name, form.used_by, form.secret or old.secret) == kept:
            return self._connection_view(old, current, self._exports_of(connection_id))
        check_etag(old, current, etag)
        self.access.check_name(Connection, form.name, but=connection_id)
        update: dict[str, Any] = {
            "name": form.name,
            "used_by": form.used_by,
            "changed": self.access.change(),
        }
        if form.secret and form.secret != old.secret:
            checked = self.keys.try_given(form.secret)
            update["secret"] = form.secret
            update["check"] = same_account(old, checked, "secret")
        new = old.model_copy(update=update)
        uses = self._exports_of(connection_id)  # read first: after saving nothing may fail
        with self.access.recording(Action.EDIT_CONNECTION, old, new):
            etag = self.catalog.replace(new, etag=current)
        return self._connection_view(new, etag, uses)

    def check_connection(self, connection_id: str) -> ConnectionView:
        """Try the connection's key in Klaviyo and keep the result, also if it is bad."""
        connection, _ = self.access.connection(Action.CHECK_CONNECTION, connection_id)
        checked = keeping_account(self.keys.check(connection), connection.check)
        return self._change_connection(
            Action.CHECK_CONNECTION, connection_id, {"check": checked}, secret=connection.secret
        )

    def rotate_key(self, connection_id: str, key: SecretStr) -> ConnectionView:
        """Replace the key by a new one of the same account. Open runs go on with the new key."""
        connection, _ = self.access.connection(Action.ROTATE_KEY, connection_id)
        checked = same_account(connection, self.keys.try_given(key), "key")
        return self._change_connection(
            Action.ROTATE_KEY,
            connection_id,
            {"check": checked, "changed": self.access.change()},
            secret=connection.secret,
            first=lambda: self.keys.secrets.write(connection.secret, key),
        )

    def agree(self, connection_id: str, version: str) -> ConnectionView:
        """Agree to the text of consent.py, in the version that was shown.

        An agreement that the same person repeats stays as it was given.
        """
        connection, etag = self.access.connection(Action.CONSENT, connection_id)
        if version != consent.VERSION:
            wanted = f"the text has the version {consent.VERSION}; read it and agree to that"
            raise Invalid(Problem("version", wanted))
        actor, before = self.access.actor, connection.consent
        if before and (before.by_id, before.version) == (actor.id, version):
            return self._connection_view(connection, etag, self._exports_of(connection_id))
        given = Consent(by=actor.name, by_id=actor.id, at=self.access.now(), version=version)
        return self._change_connection(Action.CONSENT, connection_id, {"consent": given})

    def withdraw(self, connection_id: str) -> ConnectionView:
        """Withdraw the consent: no batch leaves later than 0.3 s from now."""
        return self._change_connection(Action.CONSENT, connection_id, {"consent": None})

    def remove_connection(
        self,
        connection_id: str,
        *,
        etag: str,
        exports: WithExports = "refuse",
        delete_secret: bool = False,
    ) -> None:
        """Remove a connection: its exports, its key if so chosen, then itself. Open runs stop.

        Its consent goes first, so that nothing is sent whatever fails afterwards. Asking for the
        same again then does the rest.
        """
        old, current = self.access.connection(Action.REMOVE_CONNECTION, connection_id)
        check_etag(old, current, etag)
        users = self._exports_of(connection_id)
        if users and exports == "refuse":
            hint = "Detach or remove these exports first, or choose that here."
            raise Conflict(f"{old.name} is used by the exports {', '.join(users)}", hint=hint)
        if delete_secret:
            self._check_only_user(old)
        with self.access.recording(Action.REMOVE_CONNECTION, old, None):
            current = self.catalog.replace(old.model_copy(update={"consent": None}), etag=current)
            try:
                self._let_go(connection_id, users, exports)
                if delete_secret:
                    self.keys.secrets.delete(old.secret)
                self.catalog.remove(Connection, connection_id, etag=current)
            except ExporterError as exc:
                left = f"{old.name} still exists, but without consent: nothing is sent."
                exc.hint = f"{exc.hint} {left} Remove it again to finish.".strip()
                raise

    def _check_only_user(self, connection: Connection) -> None:
        """Raise Conflict if another connection uses the same secret."""
        others = [
            other.name
            for other, _ in self.catalog.every(Connection)
            if other.secret == connection.secret and other.id != connection.id
        ]
        if others:
            raise Conflict(
                f"the secret {connection.secret} is also used by {', '.join(others)}",
                hint="Remove the connection without deleting its secret.",
            )

    def _let_go(self, connection_id: str, users: Sequence[str], exports: WithExports) -> None:
        """Detach or remove the exports of a connection."""
        for export_id in users:
            found = self.catalog.find(Export, export_id)
            if found is None or found[0].connection != connection_id:
                continue  # removed or moved meanwhile
            if exports == "detach":
                self.access.update_export(Action.DETACH_EXPORT, export_id, {"connection": None})
            else:
                with self.access.recording(Action.REMOVE_EXPORT, found[0], None):
                    self.catalog.remove(Export, export_id, etag=found[1])

    # Klaviyo's lists

    def lists(self, connection_id: str) -> list[ListView]:
        """List the account's lists, by name.

        Each comes with the flows that joining it starts, where the key may see them.
        """
        connection, _ = self.access.connection(Action.SEE_LISTS, connection_id)
        client = self.keys.client(connection)
        try:
            found = list(client.lists(with_flows=True))
        except ScopeMissing:
            found = list(client.lists())
        return sorted(map(views.list_view, found), key=lambda view: (view.name.casefold(), view.id))

    def create_list(self, connection_id: str, name: str) -> ListView:
        """Make a list in the account. Raises Conflict if the name is taken."""
        connection, _ = self.access.connection(Action.CREATE_LIST, connection_id)
        client = self.keys.client(connection)
        if same := next(client.lists(name), None):
            raise Conflict(
                f"the list {same.id} already has this name",
                hint="Use that list, or choose another name.",
            )
        with self.access.recording_of(
            Action.CREATE_LIST, f"connections/{connection_id}", after={"list": name}
        ):
            return views.list_view(client.create_list(name))

    def _change_connection(
        self,
        action: Action,
        connection_id: str,
        update: Mapping[str, Any],
        *,
        secret: str | None = None,
        first: Callable[[], None] | None = None,
    ) -> ConnectionView:
        """Change some fields of a connection as it is now; `first` happens once, before.

        secret: the one that the change is about. Raises EditConflict if the connection names
        another one by now.
        """

        def find() -> tuple[Connection, str]:
            found = self.access.connection(action, connection_id)
            if secret is not None and found[0].secret != secret:
                raise EditConflict(f"{found[0].name} was given another secret by somebody else")
            return found

        new, etag = self.access.update(action, find, update, first=first)
        return self._connection_view(new, etag, self._exports_of(connection_id))

    def _exports_of(self, connection_id: str) -> list[str]:
        return self.access.exports_by_connection().get(connection_id, [])

    def _connection_view(
        self, connection: Connection, etag: str, exports: Sequence[str]
    ) -> ConnectionView:
        sees = self.access.may(Action.READ_CONNECTION, shared=is_shared(connection))
        return views.connection_view(
            self.access.actor, connection, etag=etag, exports=exports if sees else None
        )
