"""What people do with connections, exports, runs and segments. API and command line use the same.

    management.as_(actor)       an `App` (see app.py) on the app's own store, for one person
        connections.py          Connections: accounts, keys, consent, lists
        exports.py              Exports: settings, pausing, planning
        runs.py                 Runs: start, follow, cancel
        segments.py             Segments: what is in storage
        access.py               what these four share: who may do what, saving, recording

Each method first asks the table in roles.py, and either does all that was asked or nothing.
audit.py records each change. Methods raise Refused (see errors.py) where a person must ask
differently, and the errors of storage, vault and Klaviyo where one of these fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from pydantic import SecretStr

from exporter.definitions import consent
from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.errors import ExporterError, Invalid
from exporter.klaviyo.base_url import REVISION
from exporter.management.access import (
    DEFAULT_LIMITS,
    Access,
    ManagementLimits,
)
from exporter.management.api_keys import Keys, KlaviyoAccount, Secrets
from exporter.management.attention import attention, attention_to_files
from exporter.management.audit import PLACE, Audit
from exporter.management.connections import Connections
from exporter.management.doctor import (
    KLAVIYO_SILENT,
    connection_checks,
    damaged_view,
    examine,
    exports_check,
    revision_check,
)
from exporter.management.exports import Exports
from exporter.management.roles import Action, Actor
from exporter.management.runs import Runs
from exporter.management.segments import Segments
from exporter.management.views import (
    NO_CURSOR,
    PAGE,
    ActorView,
    AttentionView,
    AuditView,
    ConsentView,
    ExaminedView,
    Page,
    check_limit,
)
from exporter.orchestration.health import OK, Answer, Check
from exporter.orchestration.start_run import RunStarter
from exporter.runs.run_store import RunStore
from exporter.snapshots.container import SnapshotContainer
from exporter.storage.protocols import Store


@dataclass(frozen=True, kw_only=True)
class ActorsApp(Connections, Exports, Runs, Segments):
    """The app as one person uses it.

    check_health: "ok", or what is wrong, for each need. checks: what the doctor looks at besides
    connections and exports.
    """

    check_health: Callable[[], dict[str, str]]
    checks: Mapping[str, Check]

    def whoami(self) -> ActorView:
        """Say who the actor is."""
        self.access.check(Action.SEE_API)
        actor = self.access.actor
        allowed = [action.name.lower() for action in Action if self.access.may(action, shared=True)]
        return ActorView(id=actor.id, name=actor.name, role=str(actor.role), may=allowed)

    def consent_text(self) -> ConsentView:
        """Show the text that an administrator agrees to for each connection."""
        self.access.check(Action.SEE_API)
        return ConsentView(version=consent.VERSION, text=consent.TEXT)

    def health(self) -> dict[str, str]:
        """Check each thing that the app needs: "ok", or what is wrong with it."""
        self.access.check(Action.SEE_HEALTH)
        return self.check_health()

    def attention(self) -> list[AttentionView]:
        """List what needs attention over all exports, errors first.

        Of connections, an actor is told what they may see.
        """
        self.access.check(Action.SEE_EXPORTS)
        sees = self.access.may(Action.SEE_CONNECTIONS, shared=True)
        exports = self.exports()
        found = attention(self.check_health(), self.connections() if sees else [], exports)
        try:
            found += attention_to_files(exports, self.segments(), self.left_aside())
        except ExporterError as exc:
            found.append(
                AttentionView(
                    severity="error",
                    about="app/snapshots",
                    name="snapshots",
                    problem=exc.message,
                    hint=exc.hint,
                )
            )
        return sorted(found, key=lambda each: each.severity != "error")

    def doctor(self) -> list[ExaminedView]:
        """Look at each part of the app: what works, what does not, and what to do.

        Keys, lists and consent are looked at for those who may try a key.
        """
        self.access.check(Action.SEE_HEALTH)
        sees = self.access.may(Action.CHECK_CONNECTION, shared=False)
        connections, exports = list[Connection](), list[Export]()
        damaged = list[ExaminedView]()

        def look_at_exports() -> Answer:
            views = self.exports()
            exports.extend(self.catalog.exports())
            return exports_check(attention({}, [], views), len(views))

        def look_at_connections() -> Answer:
            found = [connection for connection, _ in self.catalog.every(Connection)]
            readable = [connection.id for connection in found]
            for connection_id, problem in self.access.damaged(Connection, readable):
                damaged.append(damaged_view(f"connection {connection_id}", problem))
            connections.extend(found)
            return Answer(OK, f"{len(found)} set up")

        checks = {**self.checks, "exports": look_at_exports}
        if sees:
            checks["connections"] = look_at_connections
        lines = examine(checks)
        of_connections = connection_checks(self.keys, connections, exports)
        return [*lines, *damaged, *examine(of_connections, no_answer=KLAVIYO_SILENT)]

    def changes(self, *, limit: int = PAGE, cursor: str = "") -> Page[AuditView]:
        """List the recorded changes, newest first. cursor: `next` of the previous page."""
        self.access.check(Action.SEE_AUDIT)
        size, last = check_limit(limit), ""
        if cursor and not PLACE.fullmatch(cursor):
            raise Invalid(NO_CURSOR)
        items: list[AuditView] = []
        for line in self.access.audit.newest(before=cursor):
            if len(items) == size:
                return Page[AuditView](items=items, next=last)
            last = line.pop("place")
            items.append(AuditView.model_validate(line))
        return Page[AuditView](items=items, next=None)


class Management:
    """The app for everybody; `as_` binds it to one person. Safe to share: it keeps no state."""

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        runs: RunStore,
        container: SnapshotContainer,
        starter: RunStarter,
        secrets: Secrets,
        open_klaviyo: Callable[[SecretStr], KlaviyoAccount],
        check_health: Callable[[], dict[str, str]],
        checks: Mapping[str, Check] = MappingProxyType({}),
        revision: str = REVISION,
        fall_forward: bool = False,
        limits: ManagementLimits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """open_klaviyo: a client for a key. checks: what the doctor looks at.

        revision, fall_forward: what Klaviyo is asked for, see the settings.
        """
        self._checks: dict[str, Check] = {
            **checks,
            "revision": lambda: revision_check(
                revision, self._now().date(), fall_forward=fall_forward
            ),
        }
        self._store, self._catalog = store, catalog
        self._runs, self._container, self._starter = runs, container, starter
        self._check_health, self._limits, self._clock = check_health, limits, clock
        self._audit = Audit(store, clock=clock)
        self._keys = Keys(secrets=secrets, open_klaviyo=open_klaviyo, now=self._now)

    def as_(self, actor: Actor) -> ActorsApp:
        """Give the app as this person may use it."""
        return ActorsApp(
            access=Access(
                actor=actor,
                catalog=self._catalog,
                store=self._store,
                audit=self._audit,
                now=self._now,
            ),
            catalog=self._catalog,
            keys=self._keys,
            store=self._store,
            run_store=self._runs,
            container=self._container,
            starter=self._starter,
            limits=self._limits,
            check_health=self._check_health,
            checks=self._checks,
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
