"""Snapshots whose events were lost: once an hour the container is compared with the runs.

arrivals.json    when the container was last looked through, and what was found by that
"""

from __future__ import annotations

import contextlib
import logging
from datetime import date, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.definitions.catalog import Catalog
from exporter.definitions.export import Export
from exporter.errors import StoreMoved
from exporter.orchestration.arrivals import Arrivals
from exporter.orchestration.due_schedules import Timetables
from exporter.orchestration.health import OK, Answer
from exporter.snapshots.container import SnapshotContainer
from exporter.storage.protocols import Store

logger = logging.getLogger(__name__)

DOCUMENT = "arrivals.json"
BETWEEN_LOOKS = timedelta(hours=1)
LATE = timedelta(minutes=30)  # several ticks


_TIMER_HINT = (
    "Wait a quarter of an hour after a deployment; then look at the app's Log stream in the portal."
)


class _Looked(BaseModel):
    """The document."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    looked_at: datetime
    missed: dict[date, int] = Field(default_factory=dict)  # snapshots, by the last days

    def found(self, number: int, now: datetime) -> _Looked:
        """Add what was found now, and drop what is older than yesterday."""
        today = now.date()
        missed = {day: n for day, n in self.missed.items() if today - day <= timedelta(days=1)}
        missed[today] = missed.get(today, 0) + number
        return self.model_copy(update={"missed": missed})


class MissedArrivals:
    """Finds complete snapshots that no event told of."""

    def __init__(
        self,
        store: Store,
        container: SnapshotContainer,
        catalog: Catalog,
        arrivals: Arrivals,
        timetables: Timetables,
    ) -> None:
        self._store, self._container, self._catalog = store, container, catalog
        self._arrivals, self._timetables = arrivals, timetables

    def look(self, now: datetime) -> None:
        """Queue a check of each newest snapshot that has no run long after it arrived.

        Once an hour.

        What arrived before its export was saved does not count: saving an export never runs it. A
        check of a snapshot that was not missed after all comes to nothing.
        """
        with contextlib.suppress(StoreMoved):  # another instance is at it
            claim = self._claim(now)
            if claim is None:
                return
            exports = [export for export in self._catalog.exports() if export.is_active]
            # By which an alert can tell an app in which nothing runs from one with nothing to run.
            logger.info("exports waiting", extra={"exports": len(exports)})
            missed = self._missed(exports, now)
            for blob_name, segment in missed.items():
                logger.warning("snapshot missed", extra={"segment": segment})
                self._arrivals.queue_check(blob_name, missed=True)
            if missed:
                looked, etag = claim
                self._save(looked.found(len(missed), now), etag=etag)

    def remark(self, now: datetime) -> Answer | None:
        """Say for the health page how many snapshots no event told of since yesterday.

        A few are nothing; where it is each of them, the subscription to events is missing.
        """
        looked, _ = self._load()
        count = sum(looked.found(0, now).missed.values()) if looked else 0
        if not count:
            return None
        return Answer(
            "attention",
            f"{count} snapshots since yesterday were found by the hourly look, without an event.",
            "Look at the storage account's Event Grid subscription.",
        )

    def last_tick(self, now: datetime) -> Answer:
        """Say when the timer looked last: each tick that is an hour after the last look does."""
        looked, _ = self._load()
        if looked is None:
            return Answer("attention", "The timer has not run yet.", _TIMER_HINT)
        at = f"{looked.looked_at:%Y-%m-%d %H:%M} UTC"
        if now - looked.looked_at > BETWEEN_LOOKS + LATE:
            return Answer("failed", f"The timer has not run since {at}.", _TIMER_HINT)
        return Answer(OK, f"The last hourly look began at {at}.")

    def _missed(self, exports: list[Export], now: datetime) -> dict[str, str]:
        """Return the segments of missed snapshots, each by the blob that was written last."""
        waiting = [(export, since) for export in exports if (since := self._waits_since(export))]
        if not waiting:
            return {}
        segments = [segment for export, _ in waiting for segment in export.segments]
        arrived = self._container.arrived(segments)
        long_ago = now - timedelta(seconds=self._container.patience_s)
        missed = {}
        for export, since in waiting:
            for segment in export.segments:
                newest = next((each for each in arrived if each.ref.is_of(segment)), None)
                if newest is None or not since <= newest.last.modified_at <= long_ago:
                    continue
                if not self._arrivals.has_run(export, newest.ref, since=newest.last.modified_at):
                    missed[newest.last.name] = newest.ref.segment
        return missed

    def _waits_since(self, export: Export) -> datetime | None:
        """Return since when an export waits for snapshots; None where it does not wait."""
        known_since = self._timetables.since(export.id)
        if known_since is None or export.schedule.on != "arrival":
            return None
        saved = export.changed.at if export.changed else known_since
        # Storage tells times by the second.
        return max(known_since, saved if saved.tzinfo else known_since).replace(microsecond=0)

    def _claim(self, now: datetime) -> tuple[_Looked, str] | None:
        """Begin the hour anew, if it has passed since the last look; the document and its ETag.

        Raises StoreMoved where another instance claims it.
        """
        looked, etag = self._load()
        if looked and now - looked.looked_at < BETWEEN_LOOKS:
            return None
        looked = _Looked(looked_at=now, missed=looked.missed if looked else {})
        return looked, self._save(looked, etag=etag)

    def _load(self) -> tuple[_Looked | None, str | None]:
        """Read the document and its ETag. A damaged one counts as none."""
        found = self._store.read(DOCUMENT)
        if found is None:
            return None, None
        with contextlib.suppress(ValidationError):
            return _Looked.model_validate_json(found.data), found.etag
        return None, found.etag

    def _save(self, looked: _Looked, *, etag: str | None) -> str:
        data = looked.model_dump_json(by_alias=True).encode()
        if etag is None:
            return self._store.create(DOCUMENT, data)
        return self._store.replace(DOCUMENT, data, etag=etag)
