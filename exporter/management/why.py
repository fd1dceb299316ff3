"""Why a person is not in a list: in which runs they were left out, or that they were delivered."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import ExporterError, Transient
from exporter.management.access import ManagementLimits
from exporter.management.person import Person
from exporter.management.views import DELIVERED, WhyView
from exporter.planning.plan import REJECTED_CSV
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.row_lists import REJECTED_COLUMNS
from exporter.runs.run import Run
from exporter.snapshots.container import SnapshotContainer
from exporter.storage.protocols import NotThere, Store


@dataclass(frozen=True, kw_only=True)
class PersonSearch:
    """Looks for a person in what is kept of runs, and in the snapshot of a run."""

    store: Store
    container: SnapshotContainer
    limits: ManagementLimits

    def in_rejected_rows(self, run: Run, person: Person) -> Iterator[WhyView]:
        """Find the person among the rows that a run left out."""
        at = REJECTED_COLUMNS.index("identifier")
        for cells in self._rejected(run):
            if any(person.is_in(cell, run.mapping.phone_region) for cell in cells[at:]):
                source, line, column, reason, message = cells[:at]
                yield _view(
                    run,
                    "left out",
                    message=message,
                    source=source,
                    line=int(line) if line.isdigit() else None,
                    column=column,
                    reason=reason,
                )

    def in_snapshot(self, run: Run, person: Person) -> WhyView:
        """Find the person in the snapshot of a run that left out no row of theirs, by planning it anew."""
        try:
            is_there = self._is_planned(run, person)
        except Transient:
            raise
        except ExporterError as exc:
            return _view(
                run, "unknown", message=f"the snapshot cannot be read again: {exc.message}"
            )
        if not is_there:
            return _view(run, "not in the snapshot", message="no row of the snapshot names them")
        if run.status in DELIVERED:
            return _view(run, "delivered", message="a row of theirs was sent and confirmed")
        return _view(
            run, "unknown", message=f"a row of theirs was to be sent; the run is {run.status}"
        )

    def _is_planned(self, run: Run, person: Person) -> bool:
        limits = self.limits.plan
        sources = [self.container.source(part) for part in run.manifest.partitions]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plan = make_plan(sources, run.mapping, folder, limits=limits)
            reader = PlanReader(plan, folder, list_id=run.list_id, memory_mb=limits.memory_mb)
            try:
                return any(reader.positions_of(batch, person.identifiers) for batch in plan.batches)
            finally:
                reader.close()

    def _rejected(self, run: Run) -> Iterator[Sequence[str]]:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / REJECTED_CSV
            try:
                self.store.download(run.folder + REJECTED_CSV, path)
            except (
                NotThere
            ):  # nothing was left out, the run is open, or its rows are past their time
                return
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                next(rows, None)  # the header
                yield from rows


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
