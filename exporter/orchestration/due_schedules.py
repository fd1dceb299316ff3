"""Schedules: the runs that are due are started, each moment once.

schedules/{export}.json    how far an export's schedule is done with, and what is being started

A moment that is due is claimed together with its manifest, by a conditional write, before the run
is started on that manifest. So there is one run, with any number of instances, and after a crash
between the two.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.definitions.catalog import Catalog
from exporter.definitions.export import Export
from exporter.definitions.schedule import Schedule
from exporter.errors import ExporterError, NoSnapshot, StoreMoved
from exporter.logs import cause_of
from exporter.orchestration.start_run import RunStarter
from exporter.runs.run import Run, Status
from exporter.snapshots.container import SnapshotContainer
from exporter.snapshots.manifest import Manifest
from exporter.storage.protocols import Document, Store

logger = logging.getLogger(__name__)

FOLDER = "schedules/"
RECENT = timedelta(hours=1)  # many ticks: how long ago a new export may have been saved


class Claim(BaseModel):
    """A moment that some instance is starting a run for; without a manifest, why there is none."""

    due: datetime  # the first of the moments that have passed since
    at: datetime  # when it was claimed: every moment up to here is done with it
    manifest: Manifest | None = None
    message: str = ""
    hint: str = ""


class Timetable(BaseModel):
    """How far an export's schedule is done with."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    schedule: Schedule  # the one that this is about; another one begins anew
    since: datetime  # when it began to count: saving an export never runs it
    done: datetime  # every moment up to here
    claim: Claim | None = None
    skipped: str = ""  # the run that the last of these moments was skipped with, if it was


class Timetables:
    """The timetables in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def since(self, export_id: str) -> datetime | None:
        """Return since when an export's schedule counts.

        None where the timer has not seen it yet.
        """
        table = _parse(self._store.read(_name(export_id)))
        return table.since if table else None

    def open(self, export: Export, now: datetime) -> tuple[Timetable, str]:
        """Return the export's timetable and its ETag; a new one for another schedule.

        Raises StoreMoved where another instance writes it.
        """
        name = _name(export.id)
        found = self._store.read(name)
        table = _parse(found)
        if found and table and table.schedule == export.schedule:
            return table, found.etag
        since = _saved_at(export, now)
        table = Timetable(schedule=export.schedule, since=since, done=since)
        if found:
            return table, self.save(export.id, table, etag=found.etag)
        return table, self._store.create(name, _encode(table))

    def save(self, export_id: str, table: Timetable, *, etag: str) -> str:
        """Write over the version that was read; return the new ETag. Raises StoreMoved."""
        return self._store.replace(_name(export_id), _encode(table), etag=etag)

    def keep_only(self, export_ids: set[str]) -> None:
        """Drop the others: paused, switched off or gone.

        Moments that pass meanwhile are not made up for.
        """
        kept = {_name(export_id) for export_id in export_ids}
        for name in self._store.names(FOLDER):
            if name not in kept:
                self._store.delete(name)


class DueSchedules:
    """Starts what is due."""

    def __init__(
        self,
        timetables: Timetables,
        catalog: Catalog,
        container: SnapshotContainer,
        starter: RunStarter,
    ) -> None:
        self._timetables, self._catalog = timetables, catalog
        self._container, self._starter = container, starter

    def start_due(self, now: datetime) -> None:
        """Start the runs that are due.

        An export that cannot be started does not hold up the others.
        """
        active = set()
        for export in self._catalog.exports():
            if not (export.is_active and export.schedule.is_active):
                continue
            active.add(export.id)
            try:
                self._start_if_due(export, now)
            except StoreMoved:
                continue  # another instance is at it
            except ExporterError as exc:
                fields = {"export": export.id, "cause": cause_of(exc)}
                logger.error("export not started", extra=fields)
        self._timetables.keep_only(active)

    def _start_if_due(self, export: Export, now: datetime) -> None:
        table, etag = self._timetables.open(export, now)
        claim = table.claim
        if claim is None:
            due = export.schedule.next_after(table.done)
            if due is None or due > now:
                return
            claim = self._claim(export, due, now)
            table = table.model_copy(update={"claim": claim})
            etag = self._timetables.save(export.id, table, etag=etag)
        run = self._start(export, claim, table.skipped)
        skipped = run.run_id if run.status is Status.SKIPPED else ""
        done = {"done": claim.at, "claim": None, "skipped": skipped}
        self._timetables.save(export.id, table.model_copy(update=done), etag=etag)

    def _start(self, export: Export, claim: Claim, skipped_before: str) -> Run:
        if claim.manifest is None:
            return self._starter.record_skipped(
                export, claim.due, message=claim.message, hint=claim.hint, before=skipped_before
            )
        return self._starter.start_on(
            export,
            claim.manifest,
            because="schedule",
            due_at=claim.due,
            skipped_before=skipped_before,
        )

    def _claim(self, export: Export, due: datetime, now: datetime) -> Claim:
        connection = self._catalog.connection(export.connection) if export.connection else None
        # Without connection or consent a run would be canceled, at every moment anew.
        if connection is None:
            message, hint = "the connection was removed", "Give the export another connection."
            return Claim(due=due, at=now, message=message, hint=hint)
        if connection.consent is None:
            message = "nobody has agreed that data of this connection leaves for Klaviyo"
            return Claim(due=due, at=now, message=message, hint="Agree first.")
        try:
            return Claim(due=due, at=now, manifest=self._container.freeze_newest(export))
        except NoSnapshot as exc:
            return Claim(due=due, at=now, message=exc.message, hint=exc.hint)


def _saved_at(export: Export, now: datetime) -> datetime:
    """Return when an export that is new to the timer was saved: its moments count from then.

    A change of long ago does not explain why the export is new: a person restored its document, or
    took "paused" out of it.
    """
    saved = export.changed.at if export.changed else now
    is_recent = saved.tzinfo is not None and now - RECENT < saved < now
    return saved if is_recent else now


def _parse(found: Document | None) -> Timetable | None:
    """A damaged timetable counts as none: it would keep its export from ever running."""
    try:
        return Timetable.model_validate_json(found.data) if found else None
    except ValidationError:
        return None


def _encode(table: Timetable) -> bytes:
    return table.model_dump_json(by_alias=True).encode()


def _name(export_id: str) -> str:
    return f"{FOLDER}{export_id}.json"
