"""What people do with connections, exports and runs. API and CLI call these methods, and show the same.

Each method takes the actor first, asks the table in roles.py before anything else, and either does all that was asked
or nothing. Changes are recorded by audit.py. Raises Refused (see errors.py) for what a person must ask otherwise, and
the errors of storage, vault and Klaviyo where those fail.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import tempfile
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import SecretStr

from exporter.definitions import consent
from exporter.definitions.connection import Check, Connection, Consent
from exporter.definitions.definition import Change
from exporter.definitions.export import Export
from exporter.definitions.mapped_fields import resolve
from exporter.definitions.suggestions import suggest
from exporter.errors import (
    ConfigError,
    Conflict,
    EditConflict,
    ExporterError,
    Invalid,
    KeyRefused,
    ListGone,
    MappingError,
    Problem,
    ScopeMissing,
    SecretUnavailable,
    Unknown,
)
from exporter.klaviyo.responses import KlaviyoList
from exporter.management import views
from exporter.management.api_keys import (
    KlaviyoAccount,
    account_mismatch,
    failed,
    keeping_account,
    try_key,
)
from exporter.management.audit import PLACE, Audit
from exporter.management.forms import ConnectionForm, ExportForm, NewConnectionForm, NewExportForm
from exporter.management.roles import Action, Actor, check, may
from exporter.management.views import (
    DELIVERED,
    ActorView,
    AuditView,
    ConnectionView,
    ConsentView,
    ExportView,
    ListView,
    Page,
    RunView,
    SegmentView,
    StartedView,
    SuggestionView,
    is_shared,
)
from exporter.orchestration.dispatcher import Exporter
from exporter.orchestration.lease import lease_name
from exporter.planning.plan import DUPLICATES_CSV, REJECTED_CSV
from exporter.planning.request_bodies import PlanReader
from exporter.planning.summary import plan_summary
from exporter.runs.run import RUN_ID, Run, RunName, run_folder
from exporter.sending.journal import Journal
from exporter.snapshots import members
from exporter.snapshots.segments import Found, newest_snapshots
from exporter.storage.protocols import NotThere

logger = logging.getLogger(__name__)

TRIES = 5  # a change that needs nobody's decision is made again when somebody else was faster
NEWEST_RUNS = 5  # of an export are looked at, at most, for its status and when it last delivered
PAGE, MAX_PAGE = 50, 200
NO_CURSOR = Problem("cursor", "is of no page: give `next` of the page before")
ROW_FILES = {"rejected": REJECTED_CSV, "duplicates": DUPLICATES_CSV}
CHUNK_BYTES = 65_536
SAMPLES = 3
COUNTED_BYTES = 64_000_000  # read at most to count members for one answer: about a second
GZIP_RATIO = 10

AnyDocument = TypeVar("AnyDocument", Connection, Export)


class Secrets(Protocol):
    """Where keys are kept: the vault, or on a laptop the environment."""

    def read(self, name: str) -> SecretStr: ...
    def write(self, name: str, value: SecretStr) -> None: ...
    def delete(self, name: str) -> None: ...


class Management:
    """The product as people see it. Safe to share between requests: it keeps no state."""

    def __init__(
        self,
        exporter: Exporter,
        *,
        secrets: Secrets,
        klaviyo: Callable[[SecretStr], KlaviyoAccount],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """klaviyo: a client for a key."""
        self.exporter, self.catalog = exporter, exporter.catalog
        self.audit = Audit(exporter.store, clock=clock)
        self._secrets, self._klaviyo, self._clock = secrets, klaviyo, clock

    # Connections

    def connections(self, actor: Actor) -> list[ConnectionView]:
        """Those that the actor may use, by name."""
        check(actor, Action.SEE_CONNECTIONS, shared=True)
        uses = self._uses()
        seen = [
            self._connection_view(actor, connection, etag, uses.get(connection.id, []))
            for connection, etag in self.catalog.every(Connection)
            if may(actor, Action.SEE_CONNECTIONS, shared=is_shared(connection))
        ]
        return sorted(seen, key=lambda view: view.name.casefold())

    def connection(self, actor: Actor, connection_id: str) -> ConnectionView:
        connection, etag = self._permitted_connection(actor, Action.SEE_CONNECTIONS, connection_id)
        return self._connection_view(actor, connection, etag, self._uses().get(connection_id, []))

    def create_connection(self, actor: Actor, form: NewConnectionForm) -> ConnectionView:
        """Try the key, put it into the vault if it was given, then save. Nothing is sent before `agree`."""
        check(actor, Action.CREATE_CONNECTION, shared=False)
        self._check_name(Connection, form.name)
        connection_id = form.id or self._free_id(Connection, form.name)
        checked = self._try_form(form.key or form.secret)
        # A new name for each: a deleted secret blocks its name for as long as the vault keeps it recoverable.
        secret = form.secret or f"klaviyo-{connection_id}-{uuid.uuid4().hex[:6]}"
        change = self._change(actor)
        connection = Connection(
            id=connection_id,
            name=form.name,
            used_by=form.used_by,
            secret=secret,
            check=checked,
            created=change,
            changed=change,
        )
        with self._recording(actor, Action.CREATE_CONNECTION, None, connection):
            if form.key:
                self._secrets.write(secret, form.key)
            try:
                etag = self.catalog.create(connection)
            except ExporterError:
                if form.key:
                    with contextlib.suppress(ExporterError):
                        self._secrets.delete(secret)
                raise
        return self._connection_view(actor, connection, etag, [])

    def edit_connection(
        self, actor: Actor, connection_id: str, form: ConnectionForm, *, etag: str
    ) -> ConnectionView:
        """Replace the settings. etag: of the version that the person saw. Exports keep working."""
        old, current = self._permitted_connection(actor, Action.EDIT_CONNECTION, connection_id)
        _check_etag(old, current, etag)
        self._check_name(Connection, form.name, but=connection_id)
        update: dict[str, Any] = {
            "name": form.name,
            "used_by": form.used_by,
            "changed": self._change(actor),
        }
        if form.secret and form.secret != old.secret:
            update |= {
                "secret": form.secret,
                "check": self._same_account(old, self._try_form(form.secret), "secret"),
            }
        new = old.model_copy(update=update)
        uses = self._uses().get(
            connection_id, []
        )  # before it is saved: afterwards nothing may fail
        with self._recording(actor, Action.EDIT_CONNECTION, old, new):
            etag = self.catalog.replace(new, etag=current)
        return self._connection_view(actor, new, etag, uses)

    def check_connection(self, actor: Actor, connection_id: str) -> ConnectionView:
        """Try the connection's key against Klaviyo and keep the result, a bad one too."""
        connection, _ = self._permitted_connection(actor, Action.CHECK_CONNECTION, connection_id)
        try:
            client = self._klaviyo(self._secrets.read(connection.secret))
            checked = try_key(client, now=self._now())
        except ExporterError as exc:
            revision = connection.check.revision if connection.check else ""
            checked = failed(exc, now=self._now(), revision=revision)
        update = {"check": keeping_account(checked, connection.check)}
        return self._change_connection(
            actor, Action.CHECK_CONNECTION, connection_id, update, secret=connection.secret
        )

    def rotate_key(self, actor: Actor, connection_id: str, key: SecretStr) -> ConnectionView:
        """Put a new key of the same account in the place of the old one. Open runs take it up by themselves."""
        connection, _ = self._permitted_connection(actor, Action.ROTATE_KEY, connection_id)
        checked = self._same_account(connection, self._try_form(key), "key")
        update = {"check": checked, "changed": self._change(actor)}
        return self._change_connection(
            actor,
            Action.ROTATE_KEY,
            connection_id,
            update,
            secret=connection.secret,
            first=lambda: self._secrets.write(connection.secret, key),
        )

    def agree(self, actor: Actor, connection_id: str, version: str) -> ConnectionView:
        """Agree to the text of consent.py, in the version that was shown."""
        self._permitted_connection(actor, Action.CONSENT, connection_id)
        if version != consent.VERSION:
            raise Invalid(
                Problem(
                    "version",
                    f"the text's version is {consent.VERSION}: read it, then agree to that",
                )
            )
        given = Consent(by=actor.name, by_id=actor.id, at=self._now(), version=version)
        return self._change_connection(actor, Action.CONSENT, connection_id, {"consent": given})

    def withdraw(self, actor: Actor, connection_id: str) -> ConnectionView:
        """Take the consent back: no batch leaves later than 0.3 s from now."""
        return self._change_connection(actor, Action.CONSENT, connection_id, {"consent": None})

    def remove_connection(
        self,
        actor: Actor,
        connection_id: str,
        *,
        etag: str,
        exports: Literal["refuse", "detach", "remove"] = "refuse",
        delete_secret: bool = False,
    ) -> None:
        """Remove a connection: its exports, its key if so chosen, then itself. Open runs stop.

        First its consent goes, so that nothing is sent whatever fails after; then the same again does the rest.
        """
        old, current = self._permitted_connection(actor, Action.REMOVE_CONNECTION, connection_id)
        _check_etag(old, current, etag)
        users = self._uses().get(connection_id, [])
        if users and exports == "refuse":
            hint = "Detach or remove them first, or choose that here."
            raise Conflict(f"{old.name} is used by the exports {', '.join(users)}", hint=hint)
        sharing = [
            other for other, _ in self.catalog.every(Connection) if other.secret == old.secret
        ]
        others = [other.name for other in sharing if other.id != connection_id]
        if delete_secret and others:
            hint = "Remove it without deleting its secret."
            raise Conflict(
                f"the secret {old.secret} is used by {', '.join(others)}, too", hint=hint
            )
        with self._recording(actor, Action.REMOVE_CONNECTION, old, None):
            current = self.catalog.replace(old.model_copy(update={"consent": None}), etag=current)
            try:
                self._let_go(actor, connection_id, users, exports)
                if delete_secret:
                    self._secrets.delete(old.secret)
                self.catalog.remove(Connection, connection_id, etag=current)
            except ExporterError as exc:
                left = f"{old.name} is still there, without consent: nothing is sent. Remove it again to go on."
                exc.hint = f"{exc.hint} {left}".strip()
                raise

    def _let_go(
        self,
        actor: Actor,
        connection_id: str,
        users: Sequence[str],
        exports: Literal["refuse", "detach", "remove"],
    ) -> None:
        """Detach or remove the exports of a connection."""
        for export_id in users:
            found = self.catalog.find(Export, export_id)
            if found is None or found[0].connection != connection_id:
                continue  # removed or moved meanwhile
            if exports == "detach":
                self._update_export(actor, Action.DETACH_EXPORT, export_id, {"connection": None})
            else:
                with self._recording(actor, Action.REMOVE_EXPORT, found[0], None):
                    self.catalog.remove(Export, export_id, etag=found[1])

    # Klaviyo's lists

    def lists(self, actor: Actor, connection_id: str) -> list[ListView]:
        """The account's lists, by name, with the flows that joining each starts where the key may see them."""
        connection, _ = self._permitted_connection(actor, Action.SEE_LISTS, connection_id)
        client = self._client(connection)
        try:
            found = list(client.lists(with_flows=True))
        except ScopeMissing:
            found = list(client.lists())
        return sorted(map(views.list_view, found), key=lambda view: (view.name.casefold(), view.id))

    def create_list(self, actor: Actor, connection_id: str, name: str) -> ListView:
        """A new list in the account. Klaviyo would take a name twice; we do not."""
        connection, _ = self._permitted_connection(actor, Action.CREATE_LIST, connection_id)
        client = self._client(connection)
        if same := next(client.lists(name), None):
            raise Conflict(
                f"there is a list {same.id} of this name", hint="Use it, or choose another name."
            )
        with self.audit.recording(
            actor, Action.CREATE_LIST, f"connections/{connection_id}", after={"list": name}
        ):
            return views.list_view(client.create_list(name))

    # Segments

    def segments(self, actor: Actor) -> list[SegmentView]:
        """What was found in storage, by name."""
        check(actor, Action.SEE_SEGMENTS, shared=True)
        arrived, now = newest_snapshots(self.exporter.snapshots.list("")), self._now()
        counted = self._members(arrived)
        return [
            SegmentView(
                name=found.name,
                newest_at=found.newest_at,
                age_s=max((now - found.newest_at).total_seconds(), 0),
                files=found.files,
                size_bytes=found.size_bytes,
                members=counted.get(found.name),
            )
            for found in arrived
        ]

    def suggest_mapping(self, actor: Actor, segment: str) -> SuggestionView:
        """The columns of the newest snapshot, and a mapping from their names and model.json's data types."""
        check(actor, Action.SUGGEST_MAPPING, shared=True)
        columns = self.exporter.columns_of(segment)
        return SuggestionView(
            columns=list(columns), mapping=suggest(columns, self.exporter.types_of(segment))
        )

    # Exports

    def exports(self, actor: Actor) -> list[ExportView]:
        """Every export, by name."""
        check(actor, Action.SEE_EXPORTS, shared=True)
        connections = {
            connection.id: connection for connection, _ in self.catalog.every(Connection)
        }
        seen = [
            self._export_view(actor, export, etag, connections=connections)
            for export, etag in self.catalog.every(Export)
        ]
        return sorted(seen, key=lambda view: view.name.casefold())

    def export(self, actor: Actor, export_id: str) -> ExportView:
        export, etag = self._permitted_export(actor, Action.SEE_EXPORTS, export_id)
        return self._export_view(actor, export, etag)

    def create_export(self, actor: Actor, form: NewExportForm) -> ExportView:
        """Save a new export. It does not run by that."""
        check(actor, Action.CREATE_EXPORT, shared=True)
        connection = self._connection_of(actor, Action.CREATE_EXPORT, form.connection)
        self._check_name(Export, form.name)
        found = self._find_list(connection, form.list_id)
        change = self._change(actor)
        export = Export(
            **_fields(form),
            id=form.id or self._free_id(Export, form.name),
            paused=form.paused,
            list_name=found.name if found else "",
            created=change,
            changed=change,
        )
        view = self._export_view(actor, export, warnings=self._warnings(export, connection, found))
        with self._recording(actor, Action.CREATE_EXPORT, None, export):
            return views.saved(view, self.catalog.create(export))

    def edit_export(
        self, actor: Actor, export_id: str, form: ExportForm, *, etag: str
    ) -> ExportView:
        """Replace the settings. etag: of the version that the person saw."""
        old, current = self._permitted_export(actor, Action.EDIT_EXPORT, export_id)
        _check_etag(old, current, etag)
        connection = self._connection_of(actor, Action.EDIT_EXPORT, form.connection)
        self._check_name(Export, form.name, but=export_id)
        found = self._find_list(connection, form.list_id)
        list_name = found.name if found else old.list_name if form.list_id == old.list_id else ""
        update = {**_fields(form), "list_name": list_name, "changed": self._change(actor)}
        new = old.model_copy(update=update)
        view = self._export_view(actor, new, warnings=self._warnings(new, connection, found))
        with self._recording(actor, Action.EDIT_EXPORT, old, new):
            return views.saved(view, self.catalog.replace(new, etag=current))

    def duplicate_export(self, actor: Actor, export_id: str) -> ExportView:
        """A paused copy under another name, to be edited."""
        old, _ = self._permitted_export(actor, Action.CREATE_EXPORT, export_id)
        taken = {export.name.casefold() for export in self.catalog.exports()}
        names = (
            f"{old.name[:105]} (copy{f' {number}' if number > 1 else ''})"
            for number in range(1, 10_000)
        )
        name = next(each for each in names if each.casefold() not in taken)
        change = self._change(actor)
        update = {
            "id": self._free_id(Export, name),
            "name": name,
            "paused": True,
            "created": change,
            "changed": change,
        }
        new = old.model_copy(update=update)
        view = self._export_view(actor, new)
        with self._recording(actor, Action.CREATE_EXPORT, None, new):
            return views.saved(view, self.catalog.create(new))

    def detach_export(self, actor: Actor, export_id: str) -> ExportView:
        """Take the export off its connection: it keeps the rest and does not run until it has another."""
        return self._update_export(actor, Action.DETACH_EXPORT, export_id, {"connection": None})

    def pause_export(self, actor: Actor, export_id: str, *, paused: bool) -> ExportView:
        """Pause or resume. Paused, nothing starts it, and no batch leaves later than 0.3 s from now."""
        return self._update_export(actor, Action.EDIT_EXPORT, export_id, {"paused": paused})

    def remove_export(self, actor: Actor, export_id: str, *, etag: str) -> None:
        """Remove an export: no batch leaves later than 0.3 s from now. The history stays."""
        old, current = self._permitted_export(actor, Action.REMOVE_EXPORT, export_id)
        _check_etag(old, current, etag)
        with self._recording(actor, Action.REMOVE_EXPORT, old, None):
            self.catalog.remove(Export, export_id, etag=current)

    def plan_export(
        self, actor: Actor, export_id: str, *, show_values: bool = False
    ) -> dict[str, Any]:
        """What a run would do now, as `reports.plan_summary`. Sends and changes nothing.

        show_values: the first profiles as they are, for whoever may read rows.
        """
        export, _ = self._permitted_export(actor, Action.PLAN_EXPORT, export_id)
        if show_values:
            self._permitted_export(actor, Action.READ_ROWS, export_id)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            planned = self.exporter.dry_run(export, folder)
            reader = PlanReader(
                planned, folder, list_id=export.list_id, memory_mb=self.exporter.limits.memory_mb
            )
            try:
                return plan_summary(
                    planned,
                    reader.sample(SAMPLES),
                    max_profiles=export.max_profiles,
                    share=self.exporter.limits.pacer_share,
                    show_values=show_values,
                )
            finally:
                reader.close()

    # Runs

    def run_export(self, actor: Actor, export_id: str) -> RunView:
        """Start a run of the newest snapshots, or take up the one that is open on them."""
        export, _ = self._permitted_export(actor, Action.RUN_EXPORT, export_id)
        return self._start(actor, export)

    def run_all(self, actor: Actor) -> list[StartedView]:
        """Start every export with an active schedule that the actor may run; what keeps one back is in its answer."""
        check(actor, Action.RUN_EXPORT, shared=True)
        started = []
        for export in self.catalog.exports():
            if not (export.is_active and export.schedule.is_active):
                continue
            try:
                if not self._may_run(actor, export):
                    continue
                started.append(StartedView(export=export.id, run=self._start(actor, export)))
            except ExporterError as exc:
                problem = f"{exc.message}. {exc.hint}".strip()
                started.append(StartedView(export=export.id, run=None, problem=problem))
        return started

    def runs(
        self, actor: Actor, export_id: str, *, limit: int = PAGE, cursor: str = ""
    ) -> Page[RunView]:
        """The runs of an export, newest first; also of one that was removed. cursor: `next` of the page before."""
        check(actor, Action.SEE_RUNS, shared=True)
        every = self._run_names(export_id)
        if cursor and not RunName.parse(cursor) and cursor not in every:
            raise Invalid(NO_CURSOR)
        names = [name for name in every if not cursor or _age(name) < _age(cursor)]
        if not names and not self.catalog.find(Export, export_id) and not cursor:
            raise Unknown(f"there is no export {export_id}", hint="Look at the list of exports.")
        shown = names[: _limited(limit)]
        items = [
            views.run_view(run)
            for name in shown
            if (run := self.exporter.records.readable(f"{export_id}/{name}"))
        ]
        return Page[RunView](items=items, next=shown[-1] if len(shown) < len(names) else None)

    def run(self, actor: Actor, run_id: str) -> RunView:
        """One run; of an open one also how many profiles Klaviyo has taken."""
        run = self._permitted_run(actor, Action.SEE_RUNS, run_id)
        accepted = run.counts.accepted
        if run.status.is_open:
            accepted = Journal(self.exporter.store, run_id).delivery.accepted_profiles
        return views.run_view(run, accepted=accepted)

    def report(self, actor: Actor, run_id: str) -> dict[str, Any]:
        """The report of a closed run, as `reports.report`."""
        run = self._permitted_run(actor, Action.SEE_RUNS, run_id)
        found = self.exporter.store.read(run.folder + "report.json")
        if found is None:
            raise Unknown(f"there is no report of {run_id}", hint="An open run has none yet.")
        return dict(json.loads(found.data))

    def rows(
        self,
        actor: Actor,
        run_id: str,
        kind: Literal["rejected", "duplicates"],
        *,
        max_bytes: int | None = None,
    ) -> Iterator[bytes]:
        """The CSV file of rejected rows, which names people, or of duplicates, in chunks. Conflict: it is too large."""
        run = self._permitted_run(actor, Action.READ_ROWS, run_id)
        folder = tempfile.TemporaryDirectory()
        path = Path(folder.name) / "rows.csv"
        try:
            self.exporter.store.download(run.folder + ROW_FILES[kind], path)
        except NotThere:
            folder.cleanup()
            hint = "An open run has none yet; of old runs they were deleted."
            raise Unknown(f"there are no {kind} rows of {run_id}", hint=hint) from None
        except ExporterError:
            folder.cleanup()
            raise
        if max_bytes is not None and path.stat().st_size > max_bytes:
            folder.cleanup()
            hint = f"Download {run.folder}{ROW_FILES[kind]} from the state container."
            raise Conflict(f"the file is over {max_bytes:,} bytes", hint=hint)
        return _chunks(path, folder)

    def cancel_run(self, actor: Actor, run_id: str) -> RunView:
        """Stop a run: no batch leaves later than 0.3 s from now."""
        run = self._permitted_run(actor, Action.CANCEL_RUN, run_id)
        if not run.status.is_open:
            raise Conflict(f"the run is over: {run.status}", hint="Look at its report.")
        with self.audit.recording(actor, Action.CANCEL_RUN, f"runs/{run_id}"):
            self.exporter.cancel(
                run_id
            )  # who did is in the record of changes: what goes into the run is logged
        return views.run_view(run)

    # The app

    def whoami(self, actor: Actor) -> ActorView:
        check(actor, Action.SEE_API, shared=True)
        return ActorView(id=actor.id, name=actor.name, role=str(actor.role))

    def consent_text(self, actor: Actor) -> ConsentView:
        check(actor, Action.SEE_API, shared=True)
        return ConsentView(version=consent.VERSION, text=consent.TEXT)

    def health(self, actor: Actor) -> dict[str, str]:
        """Each thing the app needs: "ok", or what is wrong with it."""
        check(actor, Action.SEE_HEALTH, shared=True)
        return self.exporter.health()

    def changes(self, actor: Actor, *, limit: int = PAGE, cursor: str = "") -> Page[AuditView]:
        """The record of changes, newest first."""
        check(actor, Action.SEE_AUDIT, shared=True)
        size, last = _limited(limit), ""
        if cursor and not PLACE.fullmatch(cursor):
            raise Invalid(NO_CURSOR)
        items: list[AuditView] = []
        for line in self.audit.newest(before=cursor):
            if len(items) == size:
                return Page[AuditView](items=items, next=last)
            last = line.pop("place")
            items.append(AuditView.model_validate(line))
        return Page[AuditView](items=items, next=None)

    # Who may

    def _permitted_connection(
        self, actor: Actor, action: Action, connection_id: str
    ) -> tuple[Connection, str]:
        """A connection for somebody who may do this with it. Without a role for it, not even its existence is told."""
        check(actor, action, shared=True)
        found = self.catalog.find(Connection, connection_id)
        if found is None:
            raise Unknown(
                f"there is no connection {connection_id}", hint="Look at the list of connections."
            )
        check(actor, action, shared=is_shared(found[0]))
        return found

    def _permitted_export(self, actor: Actor, action: Action, export_id: str) -> tuple[Export, str]:
        check(actor, action, shared=True)
        found = self.catalog.find(Export, export_id)
        if found is None:
            raise Unknown(f"there is no export {export_id}", hint="Look at the list of exports.")
        check(actor, action, shared=self._is_shared(found[0].connection))
        return found

    def _permitted_run(self, actor: Actor, action: Action, run_id: str) -> Run:
        check(actor, action, shared=True)
        run = self.exporter.run(run_id) if RUN_ID.fullmatch(run_id) else None
        if run is None:
            raise Unknown(f"there is no run {run_id[:200]}", hint="Look at the runs of its export.")
        check(actor, action, shared=self._is_shared(run.connection))
        return run

    def _is_shared(self, connection_id: str | None) -> bool:
        """Whether contributors may use a connection, or there is none to use. One that cannot be seen is not shared."""
        if connection_id is None:
            return True
        connection = self._seen_connection(connection_id)
        return connection is not None and is_shared(connection)

    def _seen_connection(self, connection_id: str) -> Connection | None:
        """A connection that is there and can be read; of one that cannot, what uses it is seen all the same."""
        try:
            return self.catalog.connection(connection_id)
        except ConfigError:
            return None

    def _may_run(self, actor: Actor, export: Export) -> bool:
        return may(actor, Action.RUN_EXPORT, shared=self._is_shared(export.connection))

    def _connection_of(
        self, actor: Actor, action: Action, connection_id: str | None
    ) -> Connection | None:
        """The connection that a form names, if the actor may use it. Raises Invalid."""
        if connection_id is None:
            return None
        connection = self.catalog.connection(connection_id)
        if connection is None:
            raise Invalid(Problem("connection", f"there is no connection {connection_id}"))
        check(actor, action, shared=is_shared(connection))
        return connection

    # Keys

    def _client(self, connection: Connection) -> KlaviyoAccount:
        return self._klaviyo(self._secrets.read(connection.secret))

    def _try_form(self, given: SecretStr | str | None) -> Check:
        """Try a key, or the one of a named secret. Raises Invalid for one that is refused or is not there."""
        field = "secret" if isinstance(given, str) else "key"
        try:
            key = self._secrets.read(given) if isinstance(given, str) else given
            assert key is not None
            return try_key(self._klaviyo(key), now=self._now())
        except (KeyRefused, SecretUnavailable) as exc:
            raise Invalid(Problem(field, exc.message), hint=exc.hint) from exc

    def _same_account(self, connection: Connection, checked: Check, field: str) -> Check:
        """The check of a new key, if it is of the connection's account. Raises Invalid."""
        if why := account_mismatch(checked, connection.check):
            raise Invalid(Problem(field, why))
        return checked

    # Saving

    def _change_connection(
        self,
        actor: Actor,
        action: Action,
        connection_id: str,
        update: dict[str, Any],
        *,
        secret: str | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> ConnectionView:
        """Change some fields of a connection as it is by now; `first` happens before, once.

        secret: the one that the change is about. Raises EditConflict if the connection names another by now.
        """

        def find() -> tuple[Connection, str]:
            found = self._permitted_connection(actor, action, connection_id)
            if secret is not None and found[0].secret != secret:
                raise EditConflict(f"{found[0].name} was given another secret by somebody else")
            return found

        new, etag = self._update(actor, action, find, update, first=first)
        return self._connection_view(actor, new, etag, self._uses().get(connection_id, []))

    def _update_export(
        self, actor: Actor, action: Action, export_id: str, update: dict[str, Any]
    ) -> ExportView:
        """Change some fields of an export as it is by now."""
        find = functools.partial(self._permitted_export, actor, action, export_id)
        new, etag = self._update(actor, action, find, {**update, "changed": self._change(actor)})
        return self._export_view(actor, new, etag)

    def _update(
        self,
        actor: Actor,
        action: Action,
        find: Callable[[], tuple[AnyDocument, str]],
        update: dict[str, Any],
        *,
        first: Callable[[], None] = lambda: None,
    ) -> tuple[AnyDocument, str]:
        """Save a change that needs no decision, again if somebody else was faster. find: the document, if one may."""
        done_first = False
        for remaining in reversed(range(TRIES)):
            old, current = find()
            new = old.model_copy(update=update)
            try:
                with self._recording(actor, action, old, new):
                    if not done_first:
                        first()
                        done_first = True
                    return new, self.catalog.replace(new, etag=current)
            except EditConflict:
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    def _recording(
        self,
        actor: Actor,
        action: Action,
        before: Connection | Export | None,
        after: Connection | Export | None,
    ) -> contextlib.AbstractContextManager[None]:
        document = after or before
        assert document is not None
        folder = "connections" if isinstance(document, Connection) else "exports"
        old, new = (
            one.model_dump(mode="json", exclude={"schema_"}) if one else None
            for one in (before, after)
        )
        return self.audit.recording(actor, action, f"{folder}/{document.id}", before=old, after=new)

    def _change(self, actor: Actor) -> Change:
        return Change(by=actor.name, by_id=actor.id, at=self._now())

    def _check_name(self, kind: type[AnyDocument], name: str, *, but: str = "") -> None:
        """Names are for people: two alike would be mistaken for each other."""
        others = (other for other, _ in self.catalog.every(kind))
        if any(other.name.casefold() == name.casefold() and other.id != but for other in others):
            raise Invalid(Problem("name", "is taken; choose another"))

    def _free_id(self, kind: type[AnyDocument], name: str) -> str:
        """An id made from a name. The history of a removed export is not taken over by a new one."""
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].strip("-") or kind.__name__.lower()
        for number in range(1, 10_000):
            made = base if number == 1 else f"{base}-{number}"
            history = f"{run_folder(made)}" if kind is Export else lease_name(made, "")
            if not self.catalog.is_taken(kind, made) and not any(
                True for _ in self.exporter.store.names(history)
            ):
                return made
        raise Conflict(f"no id is free for {name}", hint="Give one.")

    def _find_list(self, connection: Connection | None, list_id: str) -> KlaviyoList | None:
        """The list as Klaviyo has it. Raises Invalid if the account has none; None for a detached export."""
        if connection is None:
            return None
        try:
            return self._client(connection).find_list(list_id)
        except ListGone as exc:
            raise Invalid(
                Problem("list_id", f"{connection.name} has no list {list_id}"), hint=exc.hint
            ) from exc

    def _warnings(
        self, export: Export, connection: Connection | None, found: KlaviyoList | None
    ) -> list[str]:
        """What somebody who saved an export should know. Nothing here keeps it from being saved."""
        warnings = []
        if connection is None:
            warnings.append("The export is detached: it does not run until it has a connection.")
        elif connection.consent is None:
            warnings.append(
                f"Nobody has agreed yet that data leaves through {connection.name}: nothing is sent."
            )
        if connection and found:
            warnings += self._list_warnings(connection, found)
        same = [
            other.name
            for other in self.catalog.exports()
            if (other.connection, other.list_id) == (export.connection, export.list_id)
            and other.id != export.id
        ]
        if same:
            warnings.append(f"The list is also filled by {', '.join(same)}.")
        return warnings + self._segment_warnings(export)

    def _list_warnings(self, connection: Connection, found: KlaviyoList) -> list[str]:
        warnings = []
        try:
            flows = self._client(connection).flows_of_list(found.id)
            if flows:
                warnings.append(f"Joining the list starts these flows: {', '.join(flows)}.")
        except ScopeMissing:
            warnings.append(
                "Whether joining the list starts a flow is not known: the key lacks flows:read."
            )
        except ExporterError as exc:
            warnings.append(
                f"Whether joining the list starts a flow could not be found out: {exc.message}."
            )
        if found.opt_in_process == "double_opt_in":
            warnings.append(
                "The list has double opt-in. Members added by an export are not asked to confirm."
            )
        warnings.append(
            "Being in the list is no consent to marketing; Klaviyo's consent is left as it is."
        )
        return warnings

    def _segment_warnings(self, export: Export) -> list[str]:
        try:
            arrived = newest_snapshots(self.exporter.snapshots.list(""))
        except ExporterError as exc:
            return [f"Whether snapshots have arrived could not be found out: {exc.message}."]
        warnings = []
        for segment in export.segments:
            if not any(found.ref.is_of(segment) for found in arrived):
                warnings.append(f"No snapshot of {segment} has arrived yet.")
            else:
                warnings += self._mapping_warnings(export, segment)
        return warnings

    def _mapping_warnings(self, export: Export, segment: str) -> list[str]:
        try:
            resolve(export.mapping, self.exporter.columns_of(segment))
        except MappingError as exc:
            return [f"In the newest snapshot of {segment}: {exc.message}."]
        except ExporterError as exc:
            return [f"The newest snapshot of {segment} could not be looked at: {exc.message}."]
        return []

    # Runs

    def _start(self, actor: Actor, export: Export) -> RunView:
        if export.connection is None:
            raise Conflict(f"{export.name} is detached", hint="Give it a connection.")
        if export.paused:
            raise Conflict(f"{export.name} is paused", hint="Resume it first.")
        connection = self.catalog.connection(export.connection)
        if connection is None:
            raise Conflict(
                f"the connection of {export.name} was removed", hint="Give it another one."
            )
        if connection.consent is None:
            hint = "An administrator agrees first."
            raise Conflict(
                f"nobody has agreed that data leaves through {connection.name}", hint=hint
            )
        with self.audit.recording(actor, Action.RUN_EXPORT, f"exports/{export.id}"):
            return views.run_view(self.exporter.start(export))

    def _run_names(self, export_id: str) -> list[str]:
        """Folder names of an export's runs, newest first."""
        if not RUN_ID.fullmatch(f"{export_id}/x"):
            return []
        return sorted(self.exporter.store.folders(run_folder(export_id)), key=_age, reverse=True)

    def _newest_runs(self, export_id: str) -> list[Run]:
        """The newest run, and those before it down to one that delivered. Skipped ones in between are not read."""
        runs: list[Run] = []
        for name in self._run_names(export_id):
            if runs and (found := RunName.parse(name)) and found.is_skipped:
                continue
            if run := self.exporter.records.readable(f"{export_id}/{name}"):
                runs.append(run)
            if len(runs) == NEWEST_RUNS or (runs and runs[-1].status in DELIVERED):
                break
        return runs

    # Segments

    def _members(self, arrived: Sequence[Found]) -> dict[str, int]:
        """How many people segments have, by name: as counted before, else counted now, the smallest first."""
        known = members.read(self.exporter.store)
        counted = {
            found.name: rows
            for found in arrived
            if (rows := known.of(found.ref, found.blobs)) is not None
        }
        left = COUNTED_BYTES
        for found in sorted(
            (each for each in arrived if each.name not in counted), key=_unpacked_bytes
        ):
            left -= _unpacked_bytes(found)
            if left < 0:
                break
            try:
                counted[found.name] = self.exporter.count_members(found.ref)
            except (ExporterError, OSError) as exc:  # the rest of the list is shown
                logger.warning(
                    "members not counted",
                    extra={"segment": found.name, "cause": type(exc).__name__},
                )
        return counted

    # Views

    def _connection_view(
        self, actor: Actor, connection: Connection, etag: str, exports: Sequence[str]
    ) -> ConnectionView:
        sees = may(actor, Action.READ_CONNECTION, shared=is_shared(connection))
        return views.connection_view(
            actor, connection, etag=etag, exports=exports if sees else None
        )

    def _export_view(
        self,
        actor: Actor,
        export: Export,
        etag: str = "",
        *,
        connections: dict[str, Connection] | None = None,
        warnings: Sequence[str] = (),
    ) -> ExportView:
        connection = None
        if export.connection is not None:
            known = connections or {}
            connection = known.get(export.connection) or self._seen_connection(export.connection)
        return views.export_view(
            actor,
            export,
            etag=etag,
            connection=connection,
            runs=self._newest_runs(export.id),
            refreshed=self.exporter.records.refreshed(export.id),
            warnings=warnings,
        )

    def _uses(self) -> dict[str, list[str]]:
        """The ids of the exports of each connection."""
        uses: dict[str, list[str]] = {}
        for export in self.catalog.exports():
            if export.connection is not None:
                uses.setdefault(export.connection, []).append(export.id)
        return uses

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _check_etag(document: Connection | Export, current: str, etag: str) -> None:
    if etag.strip('"') != current.strip('"'):
        raise EditConflict(f"{document.name} was changed by somebody else")


def _fields(form: ExportForm) -> dict[str, Any]:
    """What a form says of the document, as it is: dumping would make other objects of mapping and schedule."""
    return {name: getattr(form, name) for name in ExportForm.model_fields}


def _limited(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(Problem("limit", f"must be from 1 to {MAX_PAGE}"))
    return limit


def _age(name: str) -> tuple[RunName, str]:
    """By what folder names of runs are sorted: the snapshot's time, then the attempt. What names no run is oldest."""
    return RunName.parse(name) or RunName(datetime.min.replace(tzinfo=UTC)), name


def _unpacked_bytes(found: Found) -> int:
    """What a snapshot comes to when it is read, about."""
    return sum(
        blob.size_bytes * (GZIP_RATIO if blob.name.lower().endswith(".gz") else 1)
        for blob in found.blobs
    )


def _chunks(path: Path, folder: tempfile.TemporaryDirectory[str]) -> Iterator[bytes]:
    with folder, path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
