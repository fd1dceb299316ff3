"""What the exporter does not keep: plans of closed runs, and one person everywhere.

    runs/{run}/plan-*/          everybody's rows: deleted when the run closes
    runs/{run}/rejected.csv     identifiers of rows that were not delivered: blanked for one person
    the work folder             this machine's copies of plans: deleted when the run closes
    everything else             holds no rows; it is searched anyway, and what is found is named

An open run is left alone: some instance uses its plan, which is deleted when the run closes.
Nothing that is logged here holds an address.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError, Transient
from exporter.management.person import Person
from exporter.planning.plan import REJECTED_CSV
from exporter.planning.row_lists import REJECTED_COLUMNS, csv_writer
from exporter.runs.plan_store import PlanStore
from exporter.runs.run import run_folder
from exporter.runs.run_store import RunStore
from exporter.storage.protocols import Store

ERASED = "(erased)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What became of one person's data, by names of documents; it holds no address.

    open_runs may hold the person until they close. left are documents that name the person or
    cannot be read: somebody must look at them.
    """

    erased: list[tuple[str, str]] = field(default_factory=list)  # (name, what was done)
    open_runs: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return not (self.open_runs or self.left)

    def to_json(self) -> dict[str, Any]:
        erased = [{"name": name, "what": what} for name, what in self.erased]
        return {
            "complete": self.is_complete,
            "erased": erased,
            "open_runs": self.open_runs,
            "left": self.left,
        }


def forget(store: Store, runs: RunStore, plans: PlanStore, identifiers: Sequence[str]) -> Erasure:
    """Erase a person who is known by any of these: addresses, telephone numbers or external ids.

    Repeating it is harmless.
    """
    person = Person(identifiers)
    erasure = Erasure()
    for export_id in store.folders("runs/"):
        for name in store.folders(run_folder(export_id)):
            _forget_in_run(store, runs, plans, f"{export_id}/{name}", person, erasure)
    for name in store.names(""):
        if not _is_of_plan(name) and not name.endswith(".csv") and name not in erasure.left:
            _look_into(store, name, person, erasure)
    return erasure


def _look_into(store: Store, name: str, person: Person, erasure: Erasure) -> None:
    try:
        found = store.read(name)
    except Transient:
        raise
    except ExporterError:
        erasure.left.append(name)
        return
    if found and person.is_named_in(found.data.decode("utf-8", errors="replace")):
        erasure.left.append(name)


def _forget_in_run(
    store: Store,
    runs: RunStore,
    plans: PlanStore,
    run_id: str,
    person: Person,
    erasure: Erasure,
) -> None:
    folder = run_folder(run_id)
    try:
        run = runs.run(run_id)
    except Transient:
        raise
    except ExporterError:  # the run may be open, so its plan is left alone, too
        run = None
        erasure.left.append(folder + "run.json")
    if run is not None and run.status.is_open:
        erasure.open_runs.append(run_id)
        return
    if run is not None:
        if files := plans.delete(run):
            what = f"{files} files with everybody's staged rows deleted"
            erasure.erased.append((f"{folder}plan-*", what))
        if plans.has_local_copy(run):
            plans.remove_local_copy(run)
            what = f"this machine's copy of the plan of {run_id} deleted"
            erasure.erased.append(("work folder", what))
    name = folder + REJECTED_CSV
    region = run.mapping.phone_region if run else None
    if name in store.names(name) and (rows := _blank_rows(store, name, person, region)):
        erasure.erased.append((name, f"identifiers blanked: {rows}"))


def _blank_rows(store: Store, name: str, person: Person, region: str | None) -> int:
    """Blank the person's identifiers and kept rows in a list of rejected rows; count these rows.

    File, line and reason stay. region: of the run's telephone numbers.
    """
    at = REJECTED_COLUMNS.index("identifier")
    with tempfile.TemporaryDirectory() as work:
        before, after = Path(work) / "before.csv", Path(work) / "after.csv"
        store.download(name, before)
        with (
            before.open(encoding="utf-8", newline="") as source,
            after.open("w", encoding="utf-8", newline="") as target,
        ):
            rows = 0
            writer = csv_writer(target)
            for cells in csv.reader(source):
                if any(person.is_in(cell, region) for cell in cells[at:]):
                    rows += 1
                    cells[at:] = [ERASED] * len(cells[at:])
                writer.writerow(cells)
        if rows:
            store.upload(name, after)
    return rows


def _is_of_plan(name: str) -> bool:
    """Tell whether a name is in a plan's folder: deleted by now, or part of an open run."""
    segments = name.split("/")
    return segments[0] == "runs" and any(segment.startswith("plan-") for segment in segments[3:4])
