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
import json
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from exporter.errors import ConfigError, ExporterError, Transient
from exporter.planning import emails, phones
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
    person = _Person(identifiers)
    erasure = Erasure()
    for export_id in store.folders("runs/"):
        for name in store.folders(run_folder(export_id)):
            _forget_in_run(store, runs, plans, f"{export_id}/{name}", person, erasure)
    for name in store.names(""):
        if not _is_of_plan(name) and not name.endswith(".csv") and name not in erasure.left:
            _look_into(store, name, person, erasure)
    return erasure


def _look_into(store: Store, name: str, person: _Person, erasure: Erasure) -> None:
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
    person: _Person,
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


def _blank_rows(store: Store, name: str, person: _Person, region: str | None) -> int:
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


class _Person:
    """A person, by what they are known by."""

    def __init__(self, identifiers: Sequence[str]) -> None:
        given = [each.strip().lower() for each in identifiers if each.strip()]
        if not given:
            raise ConfigError("no person was named", hint="Name at least one person.")
        addresses = {
            spelling for each in given if "@" in each for spelling in emails.spellings(each)
        }
        self._addresses = re.compile("|".join(map(_address, addresses)) or NEVER)
        self._others = [each for each in given if "@" not in each]
        cells = {
            form
            for each in self._others
            for form in (each, each.replace('"', '""'), json.dumps(each, ensure_ascii=False)[1:-1])
        }
        self._cells = re.compile("|".join(map(_cell, cells)) or NEVER)
        self._numbers = lru_cache(self._numbers_in)

    def is_named_in(self, text: str) -> bool:
        """Tell whether a text holds one of the person's addresses.

        "Ada <ADA@example.com>" holds ada@example.com, but xada@example.com does not.
        """
        return self._addresses.search(_plain(text)) is not None

    def is_in(self, cell: str, region: str | None) -> bool:
        """Tell whether a cell, or a cell of the row that it holds, names the person.

        Telephone numbers are found however they are written, see `phones.digits_pattern`. It is
        better to blank one row too many than to leave one because somebody typed "tel:" or left out
        the country code. region: of numbers without a country code.
        """
        text, numbers = _plain(cell), self._numbers(region)
        runs = (part for run in _TELEPHONE.findall(text) for part in {run, *run.split("/")})
        return (
            self._addresses.search(text) is not None
            or self._cells.search(text) is not None
            or any(numbers.fullmatch(re.sub(r"\D", "", run)) for run in runs)
        )

    def _numbers_in(self, region: str | None) -> re.Pattern[str]:
        """Make a pattern of the digits of the person's telephone numbers.

        What is not a telephone number by the rules counts with the digits that were given.
        """
        given = [
            each
            for each in self._others
            if _TELEPHONE.fullmatch(each.removeprefix("tel:").lstrip("+( "))
        ]
        patterns = (
            phones.digits_pattern(each, region) or re.sub(r"\D", "", each) for each in given
        )
        return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or NEVER)


NEVER = r"(?!)"
_TELEPHONE = re.compile(r"(?<![\w@-])\d[\d ().\-/\u00a0]{4,}\d(?![\w@])")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _address(address: str) -> str:
    return rf"(?<![\w.%+-]){re.escape(_plain(address))}(?![\w-]|\.\w)"


def _cell(identifier: str) -> str:
    """Make a pattern of a whole cell, of a row with any separator or of JSON.

    The cell may begin with the quote that keeps a spreadsheet from calculating it.
    """
    return rf"(?:^|[,;|\t\r\n\"'])\s*{re.escape(_plain(identifier))}\s*(?:$|[,;|\t\r\n\"])"
