"""Plans of runs: in the store, and as copies in a folder of this machine while they are in use.

runs/{run}/plan-{token}/    the plan in the store, written file by file while it is made
{work}/{hash}/{token}/      this machine's copy: left there by planning, or fetched for sending
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from exporter.errors import ConfigError
from exporter.planning.plan import (
    DUPLICATES_CSV,
    DUPLICATES_NAME,
    LEFT_OUT_CSV,
    PLAN_NAME,
    REJECTED_CSV,
    Plan,
    rows_name,
)
from exporter.planning.request_bodies import LocalPieces
from exporter.runs.run import Run
from exporter.storage.protocols import Store, parse_document

ABANDONED_AFTER_S = 24 * 3600  # a copy that nobody added to for so long is of a process that died
QUIET_AFTER_S = 1_800  # longer than a step; a run that needs its copy again fetches it

_FOLDER_OF_RUN = re.compile(r"[0-9a-f]{16}")


class PlanStore:
    """The plans of runs. Safe to share: it keeps nothing of them in memory."""

    def __init__(self, store: Store, *, work: Path) -> None:
        """work: the folder for this machine's copies."""
        self._store, self._work = store, work

    def folder(self, run: Run, token: str) -> Path:
        """Return where this machine keeps a plan while the run is open."""
        return self._folder_of_run(run) / token

    def upload(self, run: Run, token: str) -> Callable[[Path], None]:
        """Return what puts a finished file of a plan that is being made into the store."""
        return lambda path: self._store.upload(f"{run.folder}{token}/{path.name}", path)

    def fetch(self, run: Run) -> tuple[Plan, Path]:
        """Return the run's plan and the local folder that holds its files, but for staged rows."""
        plan = self.read(run)
        lists = [DUPLICATES_NAME, DUPLICATES_CSV, REJECTED_CSV]
        if plan.dropped_reasons:
            lists.append(LEFT_OUT_CSV)
        for name in lists:
            self._fetch(run, name)
        return plan, self.folder(run, run.plan)

    def pieces(self, run: Run, *, most: int) -> LocalPieces:
        """Return the staged rows of the run's plan, of which few are kept on this machine."""

        def fetch(piece: int) -> None:
            self._fetch(run, rows_name(piece))

        return LocalPieces(self.folder(run, run.plan), fetch, most=most)

    def remove_pieces(self, run: Run, token: str, *, but: int) -> None:
        """Remove this machine's staged rows of a plan that is in the store, but the first few."""
        kept = {rows_name(piece) for piece in range(but)}
        for path in self.folder(run, token).glob("rows-*.parquet"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def read(self, run: Run) -> Plan:
        """Return the plan's document alone. Raises DocumentUnreadable, NotThere."""
        data = self._fetch(run, PLAN_NAME).read_bytes()
        return parse_document(Plan, f"{run.folder}{run.plan}/{PLAN_NAME}", data)

    def has_local_copy(self, run: Run) -> bool:
        """Say whether this machine has a copy of any plan of the run."""
        return self._folder_of_run(run).exists()

    def remove_local_copy(self, run: Run) -> None:
        """Remove this machine's copies of the run's plans."""
        shutil.rmtree(self._folder_of_run(run), ignore_errors=True)

    def remove_abandoned(self, after_s: float = QUIET_AFTER_S) -> None:
        """Remove copies that nobody has added to for a while, to have their room for a plan."""
        open_work(self._work, abandoned_after_s=after_s)

    def delete(self, run: Run) -> int:
        """Delete the run's plans in the store, those of attempts that died too.

        Returns how many files.

        Only for a run that is over: an open one needs its plan.
        """
        names = list(self._store.names(run.folder + "plan-"))
        for name in names:
            self._store.delete(name)
        return len(names)

    def _folder_of_run(self, run: Run) -> Path:
        return self._work / hashlib.sha256(run.run_id.encode()).hexdigest()[:16]

    def _fetch(self, run: Run, name: str) -> Path:
        path = self.folder(run, run.plan) / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.download(f"{run.folder}{run.plan}/{name}", path)
        return path


def open_work(folder: Path, *, abandoned_after_s: float = ABANDONED_AFTER_S) -> Path:
    """Make the folder for copies of plans, closed to other users: plans hold everybody's data.

    Copies older than `abandoned_after_s` are removed: the process that had them died, and a run
    that needs one fetches it again. Raises ConfigError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        oldest = time.time() - abandoned_after_s
        for copies in folder.iterdir():
            if _FOLDER_OF_RUN.fullmatch(copies.name) and _last_added(copies) < oldest:
                shutil.rmtree(copies, ignore_errors=True)
    except OSError as exc:
        raise ConfigError(
            f"{folder} cannot hold plans: {exc.strerror or type(exc).__name__}",
            hint="Name a folder of your own that can be written to.",
        ) from exc
    return folder


def _last_added(copies: Path) -> float:
    """Return when something was last added to one of a run's copies."""
    with contextlib.suppress(OSError):  # another process removes it
        return max(each.stat().st_mtime for each in (copies, *copies.iterdir()))
    return time.time()
