"""Once a day, in portions.

What is past its time is deleted, and segments that went quiet raise a notice.

housekeeping.json    the last day whose round is done
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.definitions.catalog import Catalog
from exporter.definitions.export import Export
from exporter.errors import ExporterError, NoSnapshot, StoreMoved
from exporter.logs import cause_of
from exporter.orchestration.due_schedules import Timetables
from exporter.runs import retention
from exporter.runs.notices import Notice, Notices
from exporter.runs.run import RunName, run_folder
from exporter.runs.run_store import RunStore
from exporter.snapshots.container import SnapshotContainer
from exporter.snapshots.manifest import Manifest
from exporter.snapshots.paths import parse_blob_name
from exporter.storage.protocols import Store

logger = logging.getLogger(__name__)

DOCUMENT = "housekeeping.json"
QUIET = "quiet-"  # and the last snapshot's time: what a notice about quiet segments is about
MANIFESTS = (
    20  # of an export's newest runs that are looked at, at most, for its segments' last export
)

_MOMENT = "%Y%m%dT%H%M%SZ"


class _Round(BaseModel):
    """The document."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    done: date


class Cleanup:
    """The day's round. Two instances that do the same do no harm."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        container: SnapshotContainer,
        runs: RunStore,
        notices: Notices,
        timetables: Timetables,
        *,
        runs_kept_days: int,
        rejected_kept_days: int,
        no_snapshot_days: int,
    ) -> None:
        """no_snapshot_days: without a new snapshot, after which a notice is raised; 0 for never."""
        self._store, self._catalog, self._container = store, catalog, container
        self._runs, self._notices, self._timetables = runs, notices, timetables
        self._runs_kept = timedelta(days=runs_kept_days)
        self._rejected_kept = timedelta(days=rejected_kept_days)
        self._no_snapshot = timedelta(days=no_snapshot_days)

    def do_round(self, now: datetime) -> None:
        """Do today's round, or the next portion of it; nothing where it is done."""
        found = self._store.read(DOCUMENT)
        if found and _day_of(found.data) == now.date():
            return
        exports = {export.id: export for export in self._catalog.exports()}
        with_history = {*self._store.folders("runs/"), *self._store.folders("notices/")}
        left = retention.PORTION
        for export_id in sorted({*exports, *with_history}):
            try:
                left -= self._delete_old(export_id, now, most=left)
                quiet = self._tell_if_quiet(exports.get(export_id), now)
                self._drop_notices(export_id, quiet)
            except ExporterError as exc:  # again tomorrow
                fields = {"export": export_id, "cause": cause_of(exc)}
                logger.error("housekeeping failed", extra=fields)
            if left <= 0:
                return  # the next tick goes on
        data = _Round(done=now.date()).model_dump_json(by_alias=True).encode()
        with contextlib.suppress(StoreMoved):  # another instance was faster
            if found:
                self._store.replace(DOCUMENT, data, etag=found.etag)
            else:
                self._store.create(DOCUMENT, data)

    def _delete_old(self, export_id: str, now: datetime, *, most: int) -> int:
        """Delete what is past its time; return how many blobs."""
        deleted = retention.clear_out(
            self._store,
            export_id,
            now=now,
            runs_kept=self._runs_kept,
            rejected_kept=self._rejected_kept,
            most=most,
            read_run=self._runs.readable,
        )
        if deleted:
            fields = {"export": export_id, "outcome": f"{deleted} blobs deleted"}
            logger.info("cleared out", extra=fields)
        return deleted

    # Quiet segments

    def _tell_if_quiet(self, export: Export | None, now: datetime) -> set[str]:
        """Raise one notice about segments of an active export without a new snapshot for too long.

        Returns what the notices are about: one for all segments that are quiet since one moment.
        """
        if export is None or not self._no_snapshot:
            return set()
        known_since = self._timetables.since(export.id)
        if known_since is None:
            return set()
        long_ago = now - self._no_snapshot
        last_seen = self._last_snapshots(export, known_since, now=now, long_ago=long_ago)
        quiet: dict[str, list[str]] = {}
        for segment, last in last_seen.items():
            if last <= long_ago:
                quiet.setdefault(f"{last:{_MOMENT}}", []).append(segment)
        for since, segments in quiet.items():
            moment = datetime.strptime(since, _MOMENT).replace(tzinfo=UTC)
            self._notices.add(
                Notice(
                    kind="quiet",
                    export=export.id,
                    export_name=export.name,
                    about=QUIET + since,
                    message=f"no new snapshot of {', '.join(segments)} since "
                    f"{moment:%Y-%m-%d %H:%M} UTC",
                    hint="Look at the export's status in Customer Insights. If it ran there, look "
                    "at the app's events.",
                    created_at=now,
                )
            )
        return {QUIET + since for since in quiet}

    def _drop_notices(self, export_id: str, quiet: set[str]) -> None:
        """Drop the notices about runs that are gone, and about a quiet that ended."""
        runs = set(self._store.folders(run_folder(export_id)))
        for about in self._notices.abouts(export_id):
            if about not in quiet and about not in runs:
                self._notices.remove(export_id, about)

    def _last_snapshots(
        self, export: Export, known_since: datetime, *, now: datetime, long_ago: datetime
    ) -> dict[str, datetime]:
        """Return when each segment was last exported, or since when it is waited for."""
        changed = export.changed.at if export.changed else known_since  # a segment may be new since
        is_sensible = changed.tzinfo is not None and changed < now
        never = max(known_since, changed) if is_sensible else known_since
        last = _exported(export, self._newest_manifests(export))
        is_quiet = any(last.get(segment, never) <= long_ago for segment in export.segments)
        if is_quiet and export.schedule.on == "schedule":  # newer ones may wait for their moment
            with contextlib.suppress(NoSnapshot):
                arrived = _exported(export, [self._container.freeze_newest(export)])
                for segment, moment in arrived.items():
                    last[segment] = max(moment, last.get(segment, moment))
        return {
            segment: max(known_since, last[segment]) if segment in last else never
            for segment in export.segments
        }

    def _newest_manifests(self, export: Export) -> Iterator[Manifest]:
        """Return the manifests of the newest runs, until every segment is in one.

        The manifest of an incomplete snapshot holds no other segments.
        """
        by_digest = {}
        for name in self._store.folders(run_folder(export.id)):
            found = RunName.parse(name)
            if found and not found.is_skipped:
                by_digest[found.digest] = (found.at, name)
        newest_first = sorted(by_digest.values(), reverse=True)
        missing = set(export.segments)
        for minute, name in newest_first[:MANIFESTS]:
            if not missing and minute < newest_first[0][0]:
                return
            if run := self._runs.run(f"{export.id}/{name}"):
                missing -= set(_exported(export, [run.manifest]))
                yield run.manifest


def _day_of(data: bytes) -> date | None:
    try:
        return _Round.model_validate_json(data).done
    except ValidationError:
        return None


def _exported(export: Export, manifests: Iterable[Manifest]) -> dict[str, datetime]:
    """Return when the newest snapshot of each segment in these manifests was exported."""
    newest: dict[str, datetime] = {}
    for manifest in manifests:
        for ref in {parse_blob_name(part.name) for part in manifest.partitions}:
            moment = manifest.exported.get(ref.prefix, manifest.exported_at)
            for segment in export.segments:
                if ref.is_of(segment):
                    newest[segment] = max(moment, newest.get(segment, moment))
    return newest
