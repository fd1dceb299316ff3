"""Exports, as one person manages them, and what a run of one would do."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.definitions.mapped_fields import resolve
from exporter.errors import Conflict, ExporterError, MappingError, ScopeMissing, Transient
from exporter.klaviyo.responses import KlaviyoList
from exporter.management import views
from exporter.management.access import Access, ManagementLimits, check_etag, is_unchanged
from exporter.management.api_keys import Keys
from exporter.management.forms import ExportForm, NewExportForm
from exporter.management.roles import Action
from exporter.management.runs import newest_runs
from exporter.management.segments import columns_of
from exporter.management.time_limit import Check, within
from exporter.management.views import ExportView
from exporter.planning.new_people import NewPeople, count_new_people
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.summary import plan_summary
from exporter.runs.run_store import RunStore
from exporter.snapshots.container import SnapshotContainer
from exporter.snapshots.segments import newest_snapshots
from exporter.storage.protocols import Store

SAMPLES = 3  # profiles that a plan shows


@dataclass(frozen=True, kw_only=True)
class Exports:
    """The exports that a person sees."""

    access: Access
    catalog: Catalog
    keys: Keys
    store: Store
    run_store: RunStore
    container: SnapshotContainer
    limits: ManagementLimits

    def exports(self) -> list[ExportView]:
        """List every export with its status, by name."""
        self.access.check(Action.SEE_EXPORTS)
        connections = {
            connection.id: connection for connection, _ in self.catalog.every(Connection)
        }
        found = list(self.catalog.every(Export))
        seen = [self._export_view(export, etag, connections=connections) for export, etag in found]
        for export_id, problem in self.access.damaged(Export, [export.id for export, _ in found]):
            seen.append(views.damaged_export_view(export_id, problem))
        return sorted(seen, key=lambda view: view.name.casefold())

    def export(self, export_id: str) -> ExportView:
        """Show one export."""
        export, etag = self.access.export(Action.SEE_EXPORTS, export_id)
        return self._export_view(export, etag)

    def create_export(self, form: NewExportForm) -> ExportView:
        """Save a new export. Saving does not run it."""
        self.access.check(Action.CREATE_EXPORT)
        connection = self.access.named_connection(Action.CREATE_EXPORT, form.connection)
        self.access.check_name(Export, form.name)
        found = self.keys.find_list(connection, form.list_id)
        change = self.access.change()
        export = Export(
            **_fields(form),
            id=form.id or self.access.free_id(Export, form.name),
            paused=form.paused,
            list_name=found.name if found else "",
            created=change,
            changed=change,
        )
        view = self._export_view(export, warnings=self._warnings(export, connection, found))
        with self.access.recording(Action.CREATE_EXPORT, None, export):
            return views.saved(view, self.catalog.create(export))

    def edit_export(self, export_id: str, form: ExportForm, *, etag: str) -> ExportView:
        """Replace the settings. etag: of the version that the person saw.

        Repeating an edit changes nothing, and needs no current version.
        """
        old, current = self.access.export(Action.EDIT_EXPORT, export_id)
        if any(getattr(old, name) != value for name, value in _fields(form).items()):
            check_etag(old, current, etag)
        connection = self.access.named_connection(Action.EDIT_EXPORT, form.connection)
        self.access.check_name(Export, form.name, but=export_id)
        found = self.keys.find_list(connection, form.list_id)
        list_name = old.list_name if form.list_id == old.list_id else ""
        if found:
            list_name = found.name
        update = {**_fields(form), "list_name": list_name, "changed": self.access.change()}
        new = old.model_copy(update=update)
        warnings = self._warnings(new, connection, found)
        if is_unchanged(old, new):
            return self._export_view(old, current, warnings=warnings)
        view = self._export_view(new, warnings=warnings)
        with self.access.recording(Action.EDIT_EXPORT, old, new):
            return views.saved(view, self.catalog.replace(new, etag=current))

    def duplicate_export(self, export_id: str) -> ExportView:
        """Make a paused copy under another name, to be edited."""
        old, _ = self.access.export(Action.CREATE_EXPORT, export_id)
        name = self._name_of_copy(old.name)
        change = self.access.change()
        update = {
            "id": self.access.free_id(Export, name),
            "name": name,
            "paused": True,
            "created": change,
            "changed": change,
        }
        new = old.model_copy(update=update)
        view = self._export_view(new)
        with self.access.recording(Action.CREATE_EXPORT, None, new):
            return views.saved(view, self.catalog.create(new))

    def _name_of_copy(self, name: str) -> str:
        """Make a name that no export has: "Name (copy)", "Name (copy 2)" and so on."""
        taken = {export.name.casefold() for export in self.catalog.exports()}
        number = 1
        while True:
            suffix = f" (copy {number})" if number > 1 else " (copy)"
            made = name[:105] + suffix
            if made.casefold() not in taken:
                return made
            number += 1

    def detach_export(self, export_id: str) -> ExportView:
        """Take an export off its connection. It does not run until it has another one."""
        return self._update_export(Action.DETACH_EXPORT, export_id, {"connection": None})

    def pause_export(self, export_id: str, *, paused: bool) -> ExportView:
        """Pause or resume. Nothing starts a paused export; its open run stops within 0.3 s."""
        return self._update_export(Action.EDIT_EXPORT, export_id, {"paused": paused})

    def _update_export(self, action: Action, export_id: str, update: dict[str, Any]) -> ExportView:
        new, etag = self.access.update_export(action, export_id, update)
        return self._export_view(new, etag)

    def remove_export(self, export_id: str, *, etag: str) -> None:
        """Remove an export: no batch leaves later than 0.3 s from now. Its history stays."""
        old, current = self.access.export(Action.REMOVE_EXPORT, export_id)
        check_etag(old, current, etag)
        with self.access.recording(Action.REMOVE_EXPORT, old, None):
            self.catalog.remove(Export, export_id, etag=current)

    # Planning

    def plan_export(
        self, export_id: str, *, show_values: bool = False, within_s: float = math.inf
    ) -> dict[str, Any]:
        """Say what a run would do now, as `plan_summary`. Sends and changes nothing.

        show_values: show the first profiles as they are, to an actor who may read rows.
        Raises TookTooLong where it takes longer than within_s.
        """
        export, _ = self.access.export(Action.PLAN_EXPORT, export_id)
        if show_values:
            self.access.export(Action.READ_ROWS, export_id)
        return within(within_s, functools.partial(self._plan, export, show_values))

    def _plan(self, export: Export, show_values: bool, check: Check) -> dict[str, Any]:
        obstacle = self._obstacle(export)
        manifest = self.container.freeze_newest(export)
        limits = self.limits.plan
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sources = [self.container.source(part) for part in manifest.partitions]
            plan = make_plan(
                sources,
                export.mapping,
                folder,
                limits=limits,
                progress=check,
                finished_file=check,
            )
            reader = PlanReader(plan, folder, list_id=export.list_id, memory_mb=limits.memory_mb)
            try:
                summary = plan_summary(
                    plan,
                    reader.sample(SAMPLES),
                    max_profiles=export.max_profiles,
                    share=self.limits.pacer_share,
                    show_values=show_values,
                    new_people=self._new_people(export, reader),
                )
            finally:
                reader.close()
        if obstacle and not summary["message"]:
            summary |= {"message": obstacle.message, "hint": obstacle.hint}
        return summary

    def _obstacle(self, export: Export) -> ExporterError | None:
        """Say why a run would fail whatever its rows: no consent, no key, no list."""
        if export.connection is None:
            return Conflict("the export is detached", hint="Give the export a connection.")
        try:
            connection = self.catalog.connection(export.connection)
            if connection is None:
                hint = "Give the export another connection."
                return Conflict(f"the connection {export.connection} was removed", hint=hint)
            if connection.consent is None:
                return Conflict(
                    f"nobody has agreed to send data through {connection.name}",
                    hint="An administrator must agree first.",
                )
            self.keys.client(connection).find_list(export.list_id)
        except Transient:
            return None  # a run would try again
        except ExporterError as exc:
            return exc
        return None

    def _new_people(self, export: Export, reader: PlanReader) -> NewPeople | None:
        """Count a plan's new people; None without a connection or a key that works."""
        found = self.catalog.find(Connection, export.connection) if export.connection else None
        try:
            return count_new_people(self.keys.client(found[0]), reader) if found else None
        except ExporterError:  # no key
            return None

    # What a person should know who saved an export. Nothing here keeps it from being saved.

    def _warnings(
        self, export: Export, connection: Connection | None, found: KlaviyoList | None
    ) -> list[str]:
        warnings = []
        if connection is None:
            warnings.append("The export is detached: it does not run until it has a connection.")
        elif connection.consent is None:
            warnings.append(
                f"Nobody has agreed yet to send data through {connection.name}: nothing is sent."
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
        unknown = "It is not known whether joining the list starts a flow"
        try:
            flows = self.keys.client(connection).flows_of_list(found.id)
            if flows:
                warnings.append(f"Joining the list starts these flows: {', '.join(flows)}.")
        except ScopeMissing:
            warnings.append(f"{unknown}: the key lacks flows:read.")
        except ExporterError as exc:
            warnings.append(f"{unknown}: {exc.message}.")
        if found.opt_in_process == "double_opt_in":
            warnings.append(
                "The list has double opt-in. Members added by an export are not asked to confirm."
            )
        warnings.append(
            "Being in the list is not consent to marketing. Consent in Klaviyo stays as it is."
        )
        return warnings

    def _segment_warnings(self, export: Export) -> list[str]:
        try:
            arrived = newest_snapshots(self.container.blobs())
        except ExporterError as exc:
            return [f"It is not known whether snapshots have arrived: {exc.message}."]
        warnings = []
        for segment in export.segments:
            if not any(found.ref.is_of(segment) for found in arrived):
                warnings.append(f"No snapshot of {segment} has arrived yet.")
            else:
                warnings += self._mapping_warnings(export, segment)
        return warnings

    def _mapping_warnings(self, export: Export, segment: str) -> list[str]:
        try:
            resolve(export.mapping, columns_of(self.container, segment))
        except MappingError as exc:
            return [f"In the newest snapshot of {segment}: {exc.message}."]
        except ExporterError as exc:
            return [f"The newest snapshot of {segment} could not be read: {exc.message}."]
        return []

    def _export_view(
        self,
        export: Export,
        etag: str = "",
        *,
        connections: dict[str, Connection] | None = None,
        warnings: Sequence[str] = (),
    ) -> ExportView:
        """Show an export. connections: those that were read already."""
        connection = None
        if export.connection is not None:
            connection = (connections or {}).get(export.connection)
            connection = connection or self.access.readable_connection(export.connection)
        return views.export_view(
            self.access.actor,
            export,
            etag=etag,
            connection=connection,
            runs=newest_runs(self.store, self.run_store, export.id),
            refreshed=self.run_store.refreshed(export.id),
            now=self.access.now(),
            warnings=warnings,
        )


def _fields(form: ExportForm) -> dict[str, Any]:
    """Return a form's values as they are: dumping would make dicts of mapping and schedule."""
    return {name: getattr(form, name) for name in ExportForm.model_fields}
