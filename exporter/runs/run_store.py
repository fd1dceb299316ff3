"""What is kept of runs, from their creation to their end. The journal is beside it: journal.py.

runs/{run}/run.json       the run's document: written over the version that was read, or not at all
runs/{run}/cancel         why somebody wants the run to stop
runs/{run}/report.json    written before the document says that the run is closed
runs/{run}/plan-{token}/  the plan, of which an instance has a copy in its work folder while it is in use
refreshed/{export}.json   when a run of an export last delivered, however many runs have not since
open/{run}                listed while the run is open or not tidied up after: what the timer looks at
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter import telemetry
from exporter.errors import AlreadyThere, DocumentUnreadable, ExporterError, StoreMoved
from exporter.planning.plan import (
    DUPLICATES_CSV,
    DUPLICATES_NAME,
    PLAN_NAME,
    REJECTED_CSV,
    Plan,
    rows_name,
)
from exporter.runs import report
from exporter.runs.notices import Notices, of_run
from exporter.runs.report import NO_EXAMPLES, Examples
from exporter.runs.run import (
    DELIVERED,
    Counts,
    Phase,
    Run,
    Status,
    close,
    run_folder,
    snapshot_minute,
)
from exporter.runs.verdict import count
from exporter.sending.journal import Journal
from exporter.storage.protocols import Document, Store, is_name, parse_document

logger = logging.getLogger(__name__)

OPEN_RUNS = "open/"
AGAIN_HINT = "Mend what the message names, then run the export again, which is harmless."


class Listed(BaseModel):
    """Since when a run has been listed as open."""

    at: datetime


class Refreshed(BaseModel):
    """When a run of an export last delivered, and which."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    run: str
    at: datetime


class RunStore:
    """The runs in a store. Safe to share: it keeps nothing of them itself."""

    def __init__(
        self, store: Store, notices: Notices, *, work: Path, now: Callable[[], datetime]
    ) -> None:
        """work: a folder for copies of plans in use."""
        self._store, self._notices, self._work, self._now = store, notices, work, now

    # Documents

    def read(self, run_id: str) -> tuple[Run, str] | None:
        """A run's document and its ETag; None when there is none. Raises DocumentUnreadable."""
        name = run_folder(run_id) + "run.json"
        found = self._store.read(name) if is_name(name) else None
        return (parse_document(Run, name, found.data), found.etag) if found else None

    def readable(self, run_id: str) -> Run | None:
        """A run, among others that must not suffer for it: None also when its document cannot be read."""
        try:
            found = self.read(run_id)
        except DocumentUnreadable as exc:
            logger.error("run left out", extra={"run_id": run_id, "cause": exc.message})
            return None
        return found[0] if found else None

    def create(self, run: Run) -> None:
        """Raises AlreadyThere. Listed first: wherever its creator dies, the timer looks after the run, or the entry."""
        name = run.folder + "run.json"
        if self._store.read(name) is not None:
            raise AlreadyThere(f"{name} exists")
        self.list_as_open(run)
        self._store.create(name, _encode(run))

    def write(self, run: Run, etag: str) -> tuple[Run, str]:
        """Write a run's document over the version that was read. Raises StoreMoved."""
        changed = run.model_copy(update={"updated_at": self._now()})
        return changed, self._store.replace(run.folder + "run.json", _encode(changed), etag=etag)

    def refreshed(self, export_id: str) -> datetime | None:
        """When a run of an export last delivered; None when none has, or none since that is recorded."""
        known = _parse_refreshed(self._store.read(_refreshed_name(export_id)))
        return known.at if known else None

    def on_snapshots_since(self, export_id: str, moment: datetime) -> Iterator[Run]:
        """The runs of an export on snapshots of a moment's minute, or newer ones."""
        minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
        for name in self._store.folders(run_folder(export_id)):
            found = snapshot_minute(name)
            if found and found >= minute and (run := self.readable(f"{export_id}/{name}")):
                yield run

    def save_report(self, run: Run, plan: Plan | None, undelivered: Examples = NO_EXAMPLES) -> None:
        """Write the report, over that of an attempt to close which did not get to its end.

        undelivered: see `reports.append_undelivered`.
        """
        document = report.report(run, plan, undelivered)
        name, data = (
            run.folder + "report.json",
            json.dumps(document, ensure_ascii=False, indent=1).encode(),
        )
        found = self._store.read(name)
        if found is None:
            self._store.create(name, data)
        elif found.data != data:
            self._store.replace(name, data, etag=found.etag)

    def cancel(self, run_id: str, *, why: str) -> None:
        """Ask a run to stop: no batch leaves later than 0.3 s from now. The first reason stays."""
        with contextlib.suppress(AlreadyThere):
            self._store.create(run_folder(run_id) + "cancel", why.encode())

    def why_cancelled(self, run_id: str) -> str | None:
        """Why a run was asked to stop; None when it was not."""
        found = self._store.read(run_folder(run_id) + "cancel")
        return found.data.decode() if found else None

    def is_overtaken(self, run: Run) -> bool:
        """Whether a run on a newer snapshot got ahead: after it, an older one would bring old values back.

        Runs that a person asked for are never overtaken.
        """
        if run.because == "demand":
            return False
        ours = (run.manifest.exported_at, run.created_at)
        return any(
            (other.manifest.exported_at, other.created_at) > ours
            and other.list_id == run.list_id
            and (
                other.sent_at is not None
                or other.phase in (Phase.SEND, Phase.CONFIRM, Phase.FINISH)
            )
            for other in self.on_snapshots_since(run.export, run.manifest.exported_at)
        )

    # Plans

    def plan_folder(self, run: Run, token: str) -> Path:
        """Where this instance keeps a plan while the run is open."""
        name = hashlib.sha256(run.run_id.encode()).hexdigest()[:16]
        return self._work / name / token

    def fetch_plan(self, run: Run) -> tuple[Plan, Path]:
        """The run's plan, and the local folder that it is in: left there by planning, or fetched from the store."""
        plan = self._fetch_document(run)
        for name in (
            DUPLICATES_NAME,
            DUPLICATES_CSV,
            REJECTED_CSV,
            *(rows_name(n) for n in range(len(plan.pieces))),
        ):
            self._fetch(run, name)
        return plan, self.plan_folder(run, run.plan)

    def forget_plan(self, run: Run) -> None:
        """Remove this instance's copy of a run's plan."""
        shutil.rmtree(self.plan_folder(run, "x").parent, ignore_errors=True)

    def drop_plans(self, run: Run) -> int:
        """Delete a closed run's plans in the store, those of attempts that died included. The number of files."""
        names = list(self._store.names(run.folder + "plan-"))
        for name in names:
            self._store.delete(name)
        return len(names)

    def _fetch_document(self, run: Run) -> Plan:
        return parse_document(
            Plan, f"{run.folder}{run.plan}/{PLAN_NAME}", self._fetch(run, PLAN_NAME).read_bytes()
        )

    def _fetch(self, run: Run, name: str) -> Path:
        path = self.plan_folder(run, run.plan) / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.download(f"{run.folder}{run.plan}/{name}", path)
        return path

    # The end

    def end_early(
        self,
        run: Run,
        etag: str,
        status: Status,
        *,
        message: str,
        hint: str = "",
        undelivered: Examples = NO_EXAMPLES,
    ) -> None:
        """End a run that did not get to its finish. The report says how far it came, and is there first.

        undelivered: see `reports.append_undelivered`.
        Nothing happens to a run that is closed. Raises StoreMoved when somebody else has it by now.
        """
        if not run.status.is_open:
            return
        if status is Status.FAILED:
            hint = hint or AGAIN_HINT
        if (found := self.read(run.run_id)) is None or found[1] != etag:
            raise StoreMoved(
                "somebody else has this run by now"
            )  # before its report is written over
        counts, plan = self._counts_so_far(run)
        closed = close(
            run.model_copy(update={"counts": counts}),
            status,
            now=self._now(),
            message=message,
            hint=hint,
        )
        self.save_report(closed, plan, undelivered)
        self.write(closed, etag)
        self.tidy(closed)
        telemetry.run_closed(closed)
        logger.warning(
            "run closed", extra={"run_id": run.run_id, "status": str(status), "cause": message}
        )

    def create_ended(self, closed: Run) -> None:
        """Record a run that ended before it began, report and all; nothing happens when it is there already."""
        if self._store.read(closed.folder + "run.json") is not None:
            return
        with contextlib.suppress(StoreMoved):  # somebody was faster
            self.list_as_open(closed)  # until it is tidied up after, as every run
            self.save_report(closed, None)
            self._store.create(closed.folder + "run.json", _encode(closed))
            fields = {
                "run_id": closed.run_id,
                "status": str(closed.status),
                "cause": closed.message,
            }
            logger.warning("run closed", extra=fields)
            telemetry.run_closed(closed)
            self.tidy(closed)

    def list_as_open(self, run: Run) -> None:
        """From here on the timer looks after the run."""
        with contextlib.suppress(AlreadyThere):
            self._store.create(OPEN_RUNS + run.run_id, encode_listed(self._now()))

    def tidy(self, run: Run) -> None:
        """After a run closed: its plan goes, here and in the store, for it holds everybody's data; what it came to
        is told or noted.

        Harmless to repeat. What fails is done by the next tick, for as long as the run is listed as open.
        """
        self.forget_plan(run)
        try:
            self.drop_plans(run)
            listed = OPEN_RUNS + run.run_id
            if self._store.read(listed):
                if run.status is Status.FAILED:
                    self._notices.add(of_run(run, now=self._now()))
                elif run.status in DELIVERED:
                    self._note_delivery(run)
                self._store.delete(listed)
        except ExporterError as exc:
            logger.warning(
                "run not tidied up after", extra={"run_id": run.run_id, "cause": exc.message}
            )

    def _note_delivery(self, run: Run) -> None:
        name, at = _refreshed_name(run.export), run.finished_at or self._now()
        found = self._store.read(name)
        known = _parse_refreshed(found)
        if known and known.at >= at:
            return
        data = Refreshed(run=run.run_id, at=at).model_dump_json(by_alias=True).encode()
        if found:
            self._store.replace(name, data, etag=found.etag)
        else:
            self._store.create(name, data)

    def _counts_so_far(self, run: Run) -> tuple[Counts, Plan | None]:
        """The numbers of a run that does not get to its finish, as far as they are recorded."""
        if not run.plan:
            return run.counts, None
        try:
            plan = self._fetch_document(run)
            return count(plan, Journal(self._store, run.folder).delivery), plan
        except ExporterError as exc:  # closing must not fail for want of numbers
            logger.warning("numbers unknown", extra={"run_id": run.run_id, "cause": exc.message})
            return run.counts, None


def _refreshed_name(export_id: str) -> str:
    return f"refreshed/{export_id}.json"


def _parse_refreshed(found: Document | None) -> Refreshed | None:
    """One that cannot be read counts as none: the next delivery writes it anew."""
    try:
        return Refreshed.model_validate_json(found.data) if found else None
    except ValidationError:
        return None


def encode_listed(now: datetime) -> bytes:
    """What an entry of the index of open runs holds."""
    return Listed(at=now).model_dump_json().encode()


def _encode(run: Run) -> bytes:
    return run.model_dump_json(by_alias=True).encode()
