"""What is kept of runs, from their creation to their end. Every run ends here, in `end`.

runs/{run}/run.json         the run's document: written over the version that was read
runs/{run}/journal.jsonl    what became of the batches: sending/journal.py
runs/{run}/cancel           why somebody wants the run to stop
runs/{run}/report.json      written before the run is closed
refreshed/{export}.json     when a run of the export last delivered, however many runs failed since
open/{run}                  an index for the timer: runs that are open, or not cleaned up after
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter import telemetry
from exporter.errors import AlreadyThere, DocumentUnreadable, ExporterError, StoreMoved
from exporter.planning.plan import Plan
from exporter.runs import report
from exporter.runs.notices import Notices, of_run
from exporter.runs.plan_store import PlanStore
from exporter.runs.report import NO_ROWS, FirstRows
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
from exporter.storage.blob_names import is_name
from exporter.storage.protocols import Document, Store, parse_document

logger = logging.getLogger(__name__)

OPEN_RUNS = "open/"
YOUNG = timedelta(
    hours=1
)  # an entry of the index without a run: the run may be about to be written
AGAIN_HINT = "Mend what the message names, then run the export again. That is harmless."


class Listed(BaseModel):
    """An entry of the index of open runs: since when it is there."""

    at: datetime


class Refreshed(BaseModel):
    """When a run of an export last delivered, and which."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    run: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ends, and what its report is made of.

    counts, plan: None where the run ends early: then they are what is recorded so far.
    first_rows: the first of what Klaviyo did not take.
    """

    status: Status
    message: str
    hint: str = ""
    counts: Counts | None = None
    plan: Plan | None = None
    first_rows: FirstRows = NO_ROWS


class RunStore:
    """The runs in a store. Safe to share: it keeps nothing of them in memory."""

    def __init__(
        self, store: Store, plans: PlanStore, notices: Notices, *, now: Callable[[], datetime]
    ) -> None:
        self._store, self._plans, self._notices, self._now = store, plans, notices, now

    # Documents

    def read(self, run_id: str) -> tuple[Run, str] | None:
        """Return a run's document and its ETag; None where there is none.

        Raises DocumentUnreadable.
        """
        name = run_folder(run_id) + "run.json"
        found = self._store.read(name) if is_name(name) else None
        return (parse_document(Run, name, found.data), found.etag) if found else None

    def run(self, run_id: str) -> Run | None:
        """Return a run's document; None where there is none. Raises DocumentUnreadable."""
        found = self.read(run_id)
        return found[0] if found else None

    def readable(self, run_id: str) -> Run | None:
        """Return a run among others that must not suffer for it.

        None also for a damaged document.
        """
        try:
            return self.run(run_id)
        except DocumentUnreadable as exc:
            logger.error("run left out", extra={"run_id": run_id, "cause": exc.message})
            return None

    def create(self, run: Run) -> None:
        """Record a new run. Raises AlreadyThere.

        The index comes first: wherever the creator dies, the timer finds the run, or an entry
        without one.
        """
        if self._store.read(_document_name(run)) is not None:
            raise AlreadyThere(f"{run.run_id} exists")
        self.list_as_open(run)
        self._store.create(_document_name(run), _encode(run))

    def save(self, run: Run, etag: str) -> tuple[Run, str]:
        """Write a run's document over the version that was read; return both anew.

        Raises StoreMoved.
        """
        changed = run.model_copy(update={"updated_at": self._now()})
        return changed, self._store.replace(_document_name(run), _encode(changed), etag=etag)

    def journal(self, run: Run) -> Journal:
        """Open the run's journal: what became of its batches. Raises DocumentUnreadable."""
        return Journal(self._store, run.folder)

    # Questions

    def refreshed(self, export_id: str) -> datetime | None:
        """Return when a run of an export last delivered; None where none is known to have."""
        known = _parse_refreshed(self._store.read(_refreshed_name(export_id)))
        return known.at if known else None

    def on_snapshots_since(self, export_id: str, moment: datetime) -> Iterator[Run]:
        """Return the runs of an export on snapshots of a moment's minute, or newer ones."""
        minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
        for name in self._store.folders(run_folder(export_id)):
            found = snapshot_minute(name)
            if found and found >= minute and (run := self.readable(f"{export_id}/{name}")):
                yield run

    def is_overtaken(self, run: Run) -> bool:
        """Say whether a run on a newer snapshot got ahead.

        After it, this one would bring old values back.

        Runs that a person asked for are never overtaken.
        """
        if run.because == "demand":
            return False
        since = run.manifest.exported_at
        return any(_got_ahead(other, run) for other in self.on_snapshots_since(run.export, since))

    # Cancelling

    def cancel(self, run_id: str, *, why: str = "cancelled by a person", who: str = "") -> None:
        """Ask a run to stop: no batch leaves later than 0.3 s from now. The first reason counts.

        who: the person's name. It stays apart from the reason, which goes into the log.
        """
        with contextlib.suppress(AlreadyThere):
            self._store.create(run_folder(run_id) + "cancel", f"{why}\n{who}".strip().encode())

    def why_cancelled(self, run_id: str) -> str | None:
        """Return why a run was asked to stop; None where it was not."""
        found = self._store.read(run_folder(run_id) + "cancel")
        return found.data.decode().partition("\n")[0] if found else None

    def canceled_by(self, run_id: str) -> str:
        """Return the name of the person who asked a run to stop; "" where nobody did."""
        found = self._store.read(run_folder(run_id) + "cancel")
        return found.data.decode().partition("\n")[2] if found else ""

    # The index of open runs

    def list_as_open(self, run: Run) -> None:
        """Put the run into the index: from here on the timer looks after it."""
        with contextlib.suppress(AlreadyThere):
            self._store.create(OPEN_RUNS + run.run_id, encode_listed(self._now()))

    def listed_as_open(self) -> list[str]:
        """Return the ids in the index: of runs that are open, or that were not cleaned up after."""
        return [name.removeprefix(OPEN_RUNS) for name in self._store.names(OPEN_RUNS)]

    def drop_entry_without_run(self, run_id: str, now: datetime) -> None:
        """Remove an entry of the index without a run, unless the run is about to be written."""
        found = self._store.read(OPEN_RUNS + run_id)
        if found and parse_document(Listed, OPEN_RUNS + run_id, found.data).at < now - YOUNG:
            self._store.delete(OPEN_RUNS + run_id, etag=found.etag)

    # The end

    def end(self, run: Run, ending: Ending, *, etag: str | None) -> Run:
        """End a run: report, document, clean-up, telemetry and log, in this order.

        Whoever sees the run closed finds its report. etag: of the version that was read; None for a
        run that is recorded only now that it is over. A run that is closed stays as it is. Raises
        StoreMoved where somebody else changed the run meanwhile; its report is untouched then.
        """
        if not run.status.is_open:
            return run
        self._check_unchanged(run, etag)
        counts, plan = ending.counts, ending.plan
        if counts is None:
            counts, plan = self._counts_so_far(run)
        hint = ending.hint
        if ending.status is Status.FAILED:
            hint = hint or AGAIN_HINT
        if counts.under_way:
            hint = f"{hint} {_under_way(counts.under_way)}".strip()
        closed = close(
            run.model_copy(update={"counts": counts}),
            ending.status,
            now=self._now(),
            message=ending.message,
            hint=_named(hint, run),
        )
        if etag is None:
            self.list_as_open(closed)  # until it is cleaned up after, like every run
        self._save_report(closed, plan, ending.first_rows)
        if etag is None:
            self._store.create(_document_name(closed), _encode(closed))
        else:
            closed, _ = self.save(closed, etag)
        self.clean_up_after(closed)
        telemetry.run_closed(closed)
        _log_end(closed)
        return closed

    def clean_up_after(self, run: Run) -> None:
        """Remove a closed run's plan, which holds personal data, and tell what became of the run.

        Harmless to repeat. What fails is done by the next tick, as long as the run is in the index.
        """
        self._plans.remove_local_copy(run)
        try:
            self._plans.delete(run)
            if self._store.read(OPEN_RUNS + run.run_id):
                if run.status is Status.FAILED:
                    self._notices.add(of_run(run, now=self._now()))
                elif run.status in DELIVERED:
                    self._note_delivery(run)
                self._store.delete(OPEN_RUNS + run.run_id)
        except ExporterError as exc:
            fields = {"run_id": run.run_id, "cause": exc.message}
            logger.warning("run not cleaned up after", extra=fields)

    def _check_unchanged(self, run: Run, etag: str | None) -> None:
        found = self._store.read(_document_name(run))
        if (found.etag if found else None) != etag:
            raise StoreMoved("somebody else has this run by now")

    def _save_report(self, run: Run, plan: Plan | None, first_rows: FirstRows) -> None:
        """Write the report, over that of an attempt to end the run which did not get further."""
        document = report.report(run, plan, first_rows)
        name = run.folder + "report.json"
        data = json.dumps(document, ensure_ascii=False, indent=1).encode()
        found = self._store.read(name)
        if found is None:
            self._store.create(name, data)
        elif found.data != data:
            self._store.replace(name, data, etag=found.etag)

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
        """Return the numbers of a run that ends early, as far as they are recorded."""
        if not run.plan:
            return run.counts, None
        try:
            plan = self._plans.read(run)
            return count(plan, self.journal(run).delivery), plan
        except ExporterError as exc:  # a run must be able to end without its numbers
            fields = {"run_id": run.run_id, "cause": exc.message}
            logger.warning("numbers unknown", extra=fields)
            return run.counts, None


def _named(hint: str, run: Run) -> str:
    """Fill in a hint's commands which run and connection it is."""
    hint = re.sub(r"\bRUN\b", run.run_id, hint)
    return re.sub(r"\bCONNECTION\b", run.connection, hint)


def _under_way(profiles: int) -> str:
    of = "1 profile" if profiles == 1 else f"{profiles:,} profiles"
    return f"Klaviyo goes on with {of} that it accepted: they join the list all the same."


def _got_ahead(other: Run, run: Run) -> bool:
    """Say whether `other` sends a newer snapshot to the same list, or has sent it."""
    ours, theirs = (
        (each.manifest.exported_at, each.created_at, each.list_id) for each in (run, other)
    )
    has_sent = other.sent_at is not None or other.phase in (
        Phase.SEND,
        Phase.CONFIRM,
        Phase.FINISH,
    )
    return theirs[:2] > ours[:2] and theirs[2] == ours[2] and has_sent


def _log_end(closed: Run) -> None:
    fields = {
        "run_id": closed.run_id,
        "status": str(closed.status),
        "profiles": closed.counts.delivered,
        "rows": closed.counts.rows,
        "cause": closed.message,
    }
    logger.log(
        logging.INFO if closed.status in DELIVERED else logging.WARNING, "run ended", extra=fields
    )


def _document_name(run: Run) -> str:
    return run.folder + "run.json"


def _refreshed_name(export_id: str) -> str:
    return f"refreshed/{export_id}.json"


def _parse_refreshed(found: Document | None) -> Refreshed | None:
    """A document that cannot be read counts as none: the next delivery writes it anew."""
    try:
        return Refreshed.model_validate_json(found.data) if found else None
    except ValidationError:
        return None


def encode_listed(now: datetime) -> bytes:
    """Write an entry of the index of open runs."""
    return Listed(at=now).model_dump_json().encode()


def _encode(run: Run) -> bytes:
    return run.model_dump_json(by_alias=True).encode()
