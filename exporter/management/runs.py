"""Runs, as one person starts, follows and cancels them."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from exporter.definitions.catalog import Catalog
from exporter.definitions.export import Export
from exporter.errors import Conflict, DocumentUnreadable, ExporterError, Invalid, Unknown
from exporter.management import views
from exporter.management.access import Access, ManagementLimits
from exporter.management.app import Rows
from exporter.management.history import Place, newest_first
from exporter.management.person import Person
from exporter.management.roles import Action
from exporter.management.time_limit import Check, within
from exporter.management.views import (
    DELIVERED,
    NO_CURSOR,
    PAGE,
    Page,
    RunView,
    StartedView,
    WhyView,
    check_limit,
)
from exporter.management.why import PersonSearch
from exporter.orchestration.start_run import RunStarter
from exporter.planning.plan import DUPLICATES_CSV, LEFT_OUT_CSV, REJECTED_CSV
from exporter.runs.run import RUN_ID, Run, RunName
from exporter.runs.run_store import RunStore
from exporter.snapshots.container import SnapshotContainer
from exporter.storage.protocols import NotThere, Store

NEWEST_RUNS = 5  # of an export are read, at most, for its status and when it last delivered
ROW_FILES: dict[Rows, str] = {
    "rejected": REJECTED_CSV,
    "duplicates": DUPLICATES_CSV,
    "left_out": LEFT_OUT_CSV,
}
CHUNK_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs that a person sees."""

    access: Access
    catalog: Catalog
    store: Store
    run_store: RunStore
    container: SnapshotContainer
    limits: ManagementLimits
    starter: RunStarter

    def run_export(self, export_id: str) -> RunView:
        """Start a run of the newest snapshots, or go on with the one that is open on them."""
        export, _ = self.access.export(Action.RUN_EXPORT, export_id)
        return self._start(export)

    def run_all(self) -> list[StartedView]:
        """Start every export with an active schedule that the actor may run.

        What keeps one export from starting is in its answer; the others start.
        """
        self.access.check(Action.RUN_EXPORT)
        started = []
        for export in self.catalog.exports():
            if not (export.is_active and export.schedule.is_active):
                continue
            try:
                shared = self.access.is_shared(export.connection)
                if self.access.may(Action.RUN_EXPORT, shared=shared):
                    started.append(StartedView(export=export.id, run=self._start(export)))
            except ExporterError as exc:
                problem = f"{exc.message}. {exc.hint}".strip()
                started.append(StartedView(export=export.id, run=None, problem=problem))
        return started

    def runs(self, export_id: str, *, limit: int = PAGE, cursor: str = "") -> Page[RunView]:
        """List the runs of an export, newest first; also of an export that was removed.

        cursor: `next` of the previous page.
        """
        self.access.check(Action.SEE_RUNS)
        places = newest_first(self.store, self.run_store, export_id)
        if cursor:
            after = _parse_cursor(cursor)
            places = [place for place in places if place < after]
        elif not places and not self.catalog.find(Export, export_id):
            raise Unknown(f"there is no export {export_id}", hint="Look at the list of exports.")
        shown = places[: check_limit(limit)]
        found = (self._run_in_list(f"{export_id}/{each.name}", each.created_at) for each in shown)
        items = [view for view in found if view]
        return Page[RunView](items=items, next=str(shown[-1]) if len(shown) < len(places) else None)

    def run(self, run_id: str) -> RunView:
        """Show one run."""
        return self._run_view(self._permitted_run(Action.SEE_RUNS, run_id))

    def report(self, run_id: str) -> dict[str, Any]:
        """Show the report of a closed run, as `runs/report.py` writes it, and who canceled it."""
        run = self._permitted_run(Action.SEE_RUNS, run_id)
        found = self.store.read(run.folder + "report.json")
        if found is None:
            raise Unknown(f"there is no report of {run_id}", hint="An open run has none yet.")
        report = dict(json.loads(found.data))
        if by := self.run_store.canceled_by(run_id):
            report["canceled_by"] = by
        return report

    def rows(self, run_id: str, kind: Rows, *, max_bytes: int | None = None) -> Iterator[bytes]:
        """Give the CSV file of rejected rows, which names people, or of duplicates, in chunks.

        Raises Conflict if the file is larger than max_bytes.
        """
        run = self._permitted_run(Action.READ_ROWS, run_id)
        folder = tempfile.TemporaryDirectory()
        path = Path(folder.name) / "rows.csv"
        try:
            self.store.download(run.folder + ROW_FILES[kind], path)
        except NotThere:
            folder.cleanup()
            hint = "An open run has none yet. Those of old runs were deleted."
            raise Unknown(f"there are no {kind} rows of {run_id}", hint=hint) from None
        except ExporterError:
            folder.cleanup()
            raise
        if max_bytes is not None and path.stat().st_size > max_bytes:
            folder.cleanup()
            hint = f"Download {run.folder}{ROW_FILES[kind]} from the state container."
            raise Conflict(f"the file has over {max_bytes:,} bytes", hint=hint)
        return _chunks(path, folder)

    def why(self, identifier: str, *, within_s: float = math.inf) -> list[WhyView]:
        """Say in which runs a person was left out and why, or that they were delivered.

        The runs that left the person out are listed by export, newest first; of runs whose rows the
        actor may not read, nothing. If an export's newest run that was planned left out no row of
        theirs, its snapshot is read again, which takes as long as a plan.
        Raises TookTooLong where it takes longer than within_s.
        """
        self.access.check(Action.READ_ROWS)
        person = Person([identifier])
        return within(within_s, lambda check: list(self._why(person, check)))

    def _why(self, person: Person, check: Check) -> Iterator[WhyView]:
        search = PersonSearch(
            store=self.store, container=self.container, limits=self.limits, check=check
        )
        for export in self.catalog.exports():
            yield from self._why_in(export, person, search)

    def _why_in(self, export: Export, person: Person, search: PersonSearch) -> Iterator[WhyView]:
        is_newest = True
        for place in newest_first(self.store, self.run_store, export.id):
            run = self.run_store.readable(f"{export.id}/{place.name}")
            if run is None or not run.plan:
                continue
            shared = self.access.is_shared(run.connection)
            if not self.access.may(Action.READ_ROWS, shared=shared):
                continue
            found = search.in_rejected_rows(run, person)
            yield from found.rows
            if is_newest and not found.rows:
                yield from search.in_snapshot(run, person, unnamed=found.unnamed)
            is_newest = False

    def cancel_run(self, run_id: str) -> RunView:
        """Stop a run: no batch leaves later than 0.3 s from now."""
        run = self._permitted_run(Action.CANCEL_RUN, run_id)
        if not run.status.is_open:
            raise Conflict(f"the run is over: {run.status}", hint="Look at its report.")
        with self.access.recording_of(Action.CANCEL_RUN, f"runs/{run_id}"):
            self.run_store.cancel(run_id, who=self.access.actor.name)
        return self._run_view(run)

    def _run_in_list(self, run_id: str, at: datetime) -> RunView | None:
        """Show a run among others, a damaged one too. None for a run that retention removed now."""
        try:
            run = self.run_store.run(run_id)
            return self._run_view(run) if run else None
        except DocumentUnreadable as exc:
            return views.damaged_run_view(run_id, at=at, problem=exc)

    def _run_view(self, run: Run) -> RunView:
        """Show a run; of an open one, how far it has come is read from its journal."""
        delivery = self.run_store.journal(run).delivery if run.status.is_open else None
        return views.run_view(run, delivery=delivery)

    def _start(self, export: Export) -> RunView:
        if export.connection is None:
            raise Conflict(f"{export.name} is detached", hint="Give the export a connection.")
        if export.paused:
            raise Conflict(f"{export.name} is paused", hint="Resume the export first.")
        connection = self.catalog.connection(export.connection)
        if connection is None:
            hint = "Give the export another connection."
            raise Conflict(f"the connection of {export.name} was removed", hint=hint)
        if connection.consent is None:
            raise Conflict(
                f"nobody has agreed to send data through {connection.name}",
                hint="An administrator must agree first.",
            )
        with self.access.recording_of(Action.RUN_EXPORT, f"exports/{export.id}"):
            return views.run_view(self.starter.start(export))

    def _permitted_run(self, action: Action, run_id: str) -> Run:
        """Find a run that the actor may do this with."""
        self.access.check(action)
        run = self.run_store.run(run_id) if RUN_ID.fullmatch(run_id) else None
        if run is None:
            raise Unknown(f"there is no run {run_id[:200]}", hint="Look at the runs of its export.")
        self.access.check(action, shared=self.access.is_shared(run.connection))
        return run


def newest_runs(store: Store, run_store: RunStore, export_id: str) -> list[Run]:
    """Read the newest run of an export, and those before it down to one that delivered.

    Skipped runs in between are not read.
    """
    runs: list[Run] = []
    for place in newest_first(store, run_store, export_id):
        if runs and (found := RunName.parse(place.name)) and found.is_skipped:
            continue
        if run := run_store.readable(f"{export_id}/{place.name}"):
            runs.append(run)
        if len(runs) == NEWEST_RUNS or (runs and runs[-1].status in DELIVERED):
            break
    return runs


def _parse_cursor(cursor: str) -> Place:
    try:
        return Place.parse(cursor)
    except ValueError:
        raise Invalid(NO_CURSOR) from None


def _chunks(path: Path, folder: tempfile.TemporaryDirectory[str]) -> Iterator[bytes]:
    with folder, path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
