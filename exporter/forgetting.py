"""What we do not keep: plans of closed runs, and one person everywhere.

    runs/{run}/plan-*/          everybody's rows: deleted when the run closes
    runs/{run}/rejected.csv     identifiers of rows that were not delivered: blanked for one person
    the work folder             this machine's copies of plans: deleted when the run closes
    everything else             holds no row's data; it is searched all the same, and what is found is named

An open run is left alone: its plan is in use on some instance, and goes when it closes. Nothing here is logged with an
address in it.
"""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ConfigError
from exporter.planning import REJECTED_COLUMNS
from exporter.plans import REJECTED_CSV
from exporter.runs import run_folder
from exporter.store import Store

if TYPE_CHECKING:
    from exporter.service import Exporter

ERASED = "(erased)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What became of one person's data. Names of ours only, no address."""

    erased: list[tuple[str, str]] = field(default_factory=list)  # (name, what was done)
    open_runs: list[str] = field(default_factory=list)  # these may hold the person until they close
    left: list[str] = field(default_factory=list)  # documents that name the person and that a person must edit

    @property
    def is_complete(self) -> bool:
        return not (self.open_runs or self.left)

    def to_json(self) -> dict[str, Any]:
        erased = [{"name": name, "what": what} for name, what in self.erased]
        return {"complete": self.is_complete, "erased": erased, "open_runs": self.open_runs, "left": self.left}


def forget(exporter: Exporter, identifiers: Sequence[str]) -> Erasure:
    """Erase whoever is known by any of these: addresses, telephone numbers or external ids. Harmless to repeat."""
    person = _Person(identifiers)
    erasure = Erasure()
    store = exporter.store
    for export_id in store.folders("runs/"):
        for name in store.folders(run_folder(export_id)):
            _forget_in_run(exporter, f"{export_id}/{name}", person, erasure)
    for name in store.names(""):
        if not _is_of_plan(name) and not name.endswith(".csv") and (found := store.read(name)):
            text = found.data.decode("utf-8", errors="replace")
            if person.is_named_in(text):
                erasure.left.append(name)
    return erasure


def _forget_in_run(exporter: Exporter, run_id: str, person: _Person, erasure: Erasure) -> None:
    run = exporter.run(run_id)
    if run is not None and run.status.is_open:
        erasure.open_runs.append(run_id)
        return
    store, folder = exporter.store, run_folder(run_id)
    if run is not None:
        if files := exporter.records.drop_plans(run):
            erasure.erased.append((f"{folder}plan-*", f"{files} files with everybody's staged rows deleted"))
        if exporter.records.plan_folder(run, "x").parent.exists():
            exporter.records.forget_plan(run)
            erasure.erased.append(("work folder", f"this machine's copy of the plan of {run_id} deleted"))
    name = folder + REJECTED_CSV
    if name in store.names(name) and (rows := _blank_rows(store, name, person)):
        erasure.erased.append((name, f"identifiers blanked: {rows}"))


def _blank_rows(store: Store, name: str, person: _Person) -> int:
    """Blank the person's identifiers and kept rows in a list of rejected rows. File, line and reason stay."""
    at = REJECTED_COLUMNS.index("identifier")
    with tempfile.TemporaryDirectory() as work:
        before, after = Path(work) / "before.csv", Path(work) / "after.csv"
        store.download(name, before)
        with (
            before.open(encoding="utf-8", newline="") as source,
            after.open("w", encoding="utf-8", newline="") as target,
        ):
            rows = 0
            writer = csv.writer(target, lineterminator="\n")
            for cells in csv.reader(source):
                own = len(cells) > at and person.is_identified_by(cells[at])
                if own or any(person.is_named_in(cell) for cell in cells[at + 1 :]):
                    rows += 1
                    cells[at:] = [ERASED] * len(cells[at:])
                writer.writerow(cells)
        if rows:
            store.upload(name, after)
    return rows


def _is_of_plan(name: str) -> bool:
    """Whether a name is in a plan's folder: deleted by now, or of an open run."""
    segments = name.split("/")
    return segments[0] == "runs" and any(segment.startswith("plan-") for segment in segments[3:4])


class _Person:
    """Somebody, by what they are known by."""

    def __init__(self, identifiers: Sequence[str]) -> None:
        given = [each.strip().lower() for each in identifiers if each.strip()]
        if not given:
            raise ConfigError("nobody is named", hint="Give an e-mail address.")
        self._addresses = re.compile("|".join(_address(each) for each in given if "@" in each) or NEVER)
        self._others = {_plain(each) for each in given if "@" not in each}

    def is_named_in(self, text: str) -> bool:
        """Whether an address of theirs is in a text: also in "Ada <ADA@example.com>", but not in xada@example.com."""
        return self._addresses.search(text.lower()) is not None

    def is_identified_by(self, cell: str) -> bool:
        return self.is_named_in(cell) or _plain(cell) in self._others


NEVER = r"(?!)"
_TELEPHONE = re.compile(r"\+?[\d\s().\-/]{7,}")


def _address(address: str) -> str:
    return rf"(?<![a-z0-9._%+-]){re.escape(address)}(?![a-z0-9-]|\.[a-z0-9])"


def _plain(identifier: str) -> str:
    """For comparing: a telephone number by its digits; without the quote that keeps spreadsheets from calculating."""
    text = identifier.strip().removeprefix("'").strip().lower()
    return re.sub(r"\D", "", text) if _TELEPHONE.fullmatch(text) else text
