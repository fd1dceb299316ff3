"""What the four parts of management share: who may do what, names and ids, recorded changes."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection
from exporter.definitions.definition import Change
from exporter.definitions.export import Export
from exporter.errors import (
    ConfigError,
    Conflict,
    DocumentUnreadable,
    EditConflict,
    Invalid,
    Problem,
    Unknown,
)
from exporter.management import roles
from exporter.management.audit import Audit
from exporter.management.roles import Action, Actor
from exporter.management.views import is_shared
from exporter.orchestration.lease import lease_name
from exporter.planning.limits import PlanLimits
from exporter.runs.run import run_folder
from exporter.storage.protocols import Store

SAVE_ATTEMPTS = 5  # for a change that nobody must decide on again when somebody else was faster

AnyDocument = TypeVar("AnyDocument", Connection, Export)


@dataclass(frozen=True, kw_only=True)
class ManagementLimits:
    """How much memory and reading one answer may cost."""

    plan: PlanLimits = PlanLimits()
    pacer_share: float = 1.0  # of Klaviyo's limits, for the time that a run would take
    counted_bytes: int = 64_000_000  # read at most to count members for one answer: about a second


DEFAULT_LIMITS = ManagementLimits()


@dataclass(frozen=True, kw_only=True)
class Access:
    """What one person may do, and how their changes are saved and recorded.

    Each method that takes an action raises NotAllowed where the actor's role does not permit it.
    """

    actor: Actor
    catalog: Catalog
    store: Store
    audit: Audit
    now: Callable[[], datetime]

    # Who may

    def check(self, action: Action, *, shared: bool = True) -> None:
        """Raise NotAllowed unless the actor may do this."""
        roles.check(self.actor, action, shared=shared)

    def may(self, action: Action, *, shared: bool) -> bool:
        return roles.may(self.actor, action, shared=shared)

    def connection(self, action: Action, connection_id: str) -> tuple[Connection, str]:
        """Find a connection that the actor may do this with, and its ETag.

        The role is checked first: who may not see connections is not told whether this one exists.
        """
        self.check(action)
        found = self.catalog.find(Connection, connection_id)
        if found is None:
            raise Unknown(
                f"there is no connection {connection_id}", hint="Look at the list of connections."
            )
        self.check(action, shared=is_shared(found[0]))
        return found

    def export(self, action: Action, export_id: str) -> tuple[Export, str]:
        """Find an export that the actor may do this with, and its ETag."""
        self.check(action)
        found = self.catalog.find(Export, export_id)
        if found is None:
            raise Unknown(f"there is no export {export_id}", hint="Look at the list of exports.")
        self.check(action, shared=self.is_shared(found[0].connection))
        return found

    def named_connection(self, action: Action, connection_id: str | None) -> Connection | None:
        """Find the connection that a form names, if it names one. Raises Invalid."""
        if connection_id is None:
            return None
        connection = self.catalog.connection(connection_id)
        if connection is None:
            raise Invalid(Problem("connection", f"there is no connection {connection_id}"))
        self.check(action, shared=is_shared(connection))
        return connection

    def is_shared(self, connection_id: str | None) -> bool:
        """Tell whether contributors may use a connection, or there is none to use.

        A connection that cannot be read counts as not shared.
        """
        if connection_id is None:
            return True
        connection = self.readable_connection(connection_id)
        return connection is not None and is_shared(connection)

    def readable_connection(self, connection_id: str) -> Connection | None:
        """Read a connection; None also if it cannot be read, so that its exports can be shown."""
        try:
            return self.catalog.connection(connection_id)
        except ConfigError:
            return None

    def damaged(
        self, kind: type[AnyDocument], readable: Iterable[str]
    ) -> Iterator[tuple[str, DocumentUnreadable]]:
        """Find the documents of a kind that cannot be read. readable: the ids of those that can."""
        folder, known = "connections/" if kind is Connection else "exports/", set(readable)
        for name in self.store.names(folder):
            document_id = name.removeprefix(folder).removesuffix(".json")
            if document_id in known:
                continue
            try:
                self.catalog.find(kind, document_id)
            except DocumentUnreadable as exc:
                yield document_id, exc

    # Names and ids

    def exports_by_connection(self) -> dict[str, list[str]]:
        """List the ids of the exports of each connection."""
        found: dict[str, list[str]] = {}
        for export in self.catalog.exports():
            if export.connection is not None:
                found.setdefault(export.connection, []).append(export.id)
        return found

    def check_name(self, kind: type[AnyDocument], name: str, *, but: str = "") -> None:
        """Raise Invalid if another document has this name: people would confuse the two.

        but: the id of the document that is being renamed.
        """
        for other, _ in self.catalog.every(kind):
            if other.id != but and other.name.casefold() == name.casefold():
                raise Invalid(Problem("name", "is taken; choose another"))

    def free_id(self, kind: type[AnyDocument], name: str) -> str:
        """Make an id from a name.

        The id of a removed document that left something behind, such as runs, is not given again.
        """
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].strip("-") or kind.__name__.lower()
        for number in range(1, 10_000):
            made = base if number == 1 else f"{base}-{number}"
            if not self.catalog.is_taken(kind, made) and not self._has_history(kind, made):
                return made
        raise Conflict(f"no id is free for {name}", hint="Give an id yourself.")

    def _has_history(self, kind: type[AnyDocument], document_id: str) -> bool:
        left_behind = run_folder(document_id) if kind is Export else lease_name(document_id, "")
        return any(True for _ in self.store.names(left_behind))

    # Saving

    def change(self) -> Change:
        """Say who makes a change, and when."""
        return Change(by=self.actor.name, by_id=self.actor.id, at=self.now())

    def update(
        self,
        action: Action,
        find: Callable[[], tuple[AnyDocument, str]],
        update: Mapping[str, Any],
        *,
        first: Callable[[], None] | None = None,
    ) -> tuple[AnyDocument, str]:
        """Change some fields of a document as it is now; the changed document and its ETag.

        Tries again if somebody else was faster. find: reads the document, if the actor may change
        it. first: what must happen once before the document is saved. Without it, a change that
        changes nothing is neither saved nor recorded.
        """
        is_done = False
        for remaining in reversed(range(SAVE_ATTEMPTS)):
            old, current = find()
            new = old.model_copy(update=update)
            if first is None and is_unchanged(old, new):
                return old, current
            try:
                with self.recording(action, old, new):
                    if first is not None and not is_done:
                        first()
                        is_done = True
                    return new, self.catalog.replace(new, etag=current)
            except EditConflict:
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    def update_export(
        self, action: Action, export_id: str, update: Mapping[str, Any]
    ) -> tuple[Export, str]:
        """Change some fields of an export as it is now; the changed export and its ETag."""
        return self.update(
            action,
            lambda: self.export(action, export_id),
            {**update, "changed": self.change()},
        )

    def recording(
        self,
        action: Action,
        before: Connection | Export | None,
        after: Connection | Export | None,
    ) -> contextlib.AbstractContextManager[None]:
        """Record a change of a document around the block that makes it."""
        document = after or before
        assert document is not None
        folder = "connections" if isinstance(document, Connection) else "exports"
        return self.recording_of(
            action, f"{folder}/{document.id}", before=_recorded(before), after=_recorded(after)
        )

    def recording_of(
        self,
        action: Action,
        what: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        """Record what the actor does, around the block that does it. what: such as exports/vips."""
        return self.audit.recording(self.actor, action, what, before=before, after=after)


def is_unchanged(old: Connection | Export, new: Connection | Export) -> bool:
    """Tell whether two versions of a document differ in nothing but who changed it, and when."""
    return new.model_copy(update={"changed": old.changed}) == old


def check_etag(document: Connection | Export, current: str, etag: str) -> None:
    """Raise EditConflict unless somebody saw the current version of a document."""
    if etag.strip('"') != current.strip('"'):
        raise EditConflict(f"{document.name} was changed by somebody else")


def _recorded(document: Connection | Export | None) -> dict[str, Any] | None:
    return document.model_dump(mode="json", exclude={"schema_"}) if document else None
