"""Why a person is not in a list: in which runs they were left out, or that they were delivered.

It shows where a row is and why it was left out, and never a row or an identifier.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import ExporterError, TookTooLong, Transient
from exporter.management.access import ManagementLimits
from exporter.management.person import Person
from exporter.management.time_limit import Check
from exporter.management.views import DELIVERED, WhyView
from exporter.planning.plan import REJECTED_CSV, PlannedBatch
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.row_lists import REJECTED_COLUMNS
from exporter.rejection_reasons import MESSAGES, RejectReason
from exporter.runs.run import Run
from exporter.snapshots.container import SnapshotContainer
from exporter.storage.protocols import NotThere, Store

# What Klaviyo did to rows that were planned; a plan made anew does not know of it.
BY_KLAVIYO = (
    RejectReason.REFUSED_BY_KLAVIYO,
    RejectReason.FAILED_IN_KLAVIYO,
    RejectReason.UNCONFIRMED,
    RejectReason.JOB_LOST,
)


@dataclass(frozen=True, slots=True)
class Found:
    """The person's rows among those that a run left out.

    unnamed: how many rows Klaviyo did not import without saying which.
    """

    rows: tuple[WhyView, ...]
    unnamed: int = 0


@dataclass(frozen=True, kw_only=True)
class PersonSearch:
    """Looks for a person in what is kept of runs, and in the snapshot of a run.

    check: ends the search when nobody waits for it any more.
    """

    store: Store
    container: SnapshotContainer
    limits: ManagementLimits
    check: Check

    def in_rejected_rows(self, run: Run, person: Person) -> Found:
        """Find the person among the rows that a run left out, as far as these are kept."""
        self.check()
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / REJECTED_CSV
            try:
                self.store.download(run.folder + REJECTED_CSV, path)
            except NotThere:  # the run is open, or its rows are past their time
                return Found((), sum(run.counts.rejected.get(reason, 0) for reason in BY_KLAVIYO))
            return _found(run, person, path)

    def in_snapshot(self, run: Run, person: Person, *, unnamed: int) -> list[WhyView]:
        """Find the person in a run's snapshot, by planning it anew.

        For a run whose kept rows do not name them. unnamed: see Found.
        """
        try:
            is_planned, left_out = self._planned_anew(run, person)
        except (Transient, TookTooLong):
            raise
        except ExporterError as exc:
            message = f"the snapshot cannot be read again: {exc.message}"
            return [_view(run, "unknown", message=message)]
        if not is_planned:
            gone = _view(run, "not in the snapshot", message="no row of the snapshot names them")
            return list(left_out) or [gone]
        if run.status not in DELIVERED:
            message = f"a row of theirs was to be sent; the run is {run.status}"
            return [_view(run, "unknown", message=message)]
        if unnamed:
            message = (
                f"a row of theirs was sent; of {unnamed:,} rows of this run it is not known which"
                " ones Klaviyo did not import"
            )
            return [_view(run, "unknown", message=message)]
        return [_view(run, "delivered", message="a row of theirs was sent and confirmed")]

    def _planned_anew(self, run: Run, person: Person) -> tuple[bool, tuple[WhyView, ...]]:
        """Tell whether a plan would send a row of the person's, and which of theirs it leaves out.

        Rejected rows are kept whole meanwhile, so that a phone number is found as well.
        """
        limits = self.limits.plan
        sources = [self.container.source(part) for part in run.manifest.partitions]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plan = make_plan(
                sources,
                run.mapping,
                folder,
                limits=limits,
                keep_rows=True,
                progress=self.check,
                finished_file=self.check,
            )
            reader = PlanReader(plan, folder, list_id=run.list_id, memory_mb=limits.memory_mb)
            try:
                is_planned = _is_planned(reader, person, run.mapping.phone_region, self.check)
            finally:
                reader.close()
            return is_planned, _found(run, person, folder / REJECTED_CSV).rows


def _is_planned(reader: PlanReader, person: Person, region: str | None, check: Check) -> bool:
    """Tell whether a profile of the person's is planned: by address, else by all that it holds."""

    def batches() -> Iterator[PlannedBatch]:
        for batch in reader.plan.batches:
            check()
            yield batch

    if reader.plan.identifier == "email" and person.addresses:
        return any(reader.positions_of(batch, person.addresses) for batch in batches())
    return any(
        person.is_in(row.profile, region)
        for batch in batches()
        for row in reader.rows_at(batch, range(batch.profiles)).values()
    )


def _found(run: Run, person: Person, rejected: Path) -> Found:
    at, rows, unnamed = REJECTED_COLUMNS.index("identifier"), list[WhyView](), 0
    for cells in _read(rejected):
        source, line, column, reason, _ = cells[:at]
        if not source:
            unnamed += 1
        elif any(person.is_in(cell, run.mapping.phone_region) for cell in cells[at:]):
            rows.append(
                _view(
                    run,
                    "left out",
                    message=_words(reason),
                    source=source,
                    line=int(line) if line.isdigit() else None,
                    column=column,
                    reason=reason,
                )
            )
    return Found(tuple(rows), unnamed)


def _read(path: Path) -> Iterator[Sequence[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows, None)  # the header
        yield from rows


def _words(reason: str) -> str:
    """Give our own words for a reason: Klaviyo's, behind them in the file, may name others."""
    return MESSAGES[RejectReason(reason)] if reason in list(RejectReason) else reason


def _view(
    run: Run,
    outcome: str,
    *,
    message: str,
    source: str = "",
    line: int | None = None,
    column: str = "",
    reason: str = "",
) -> WhyView:
    return WhyView(
        run=run.run_id,
        export=run.export,
        created_at=run.created_at,
        status=str(run.status),
        outcome=outcome,
        message=message,
        source=source,
        line=line,
        column=column,
        reason=reason,
    )
