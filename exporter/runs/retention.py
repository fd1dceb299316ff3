"""What is deleted with time: lists of rows after REJECTED_KEPT_DAYS, runs after RUNS_KEPT_DAYS.

    rejected.csv, duplicates.csv    deleted first, since the former holds personal data
    the rest of a run               deleted with the run; the newest run of an export stays

An open run is left alone. A run's folder is named by its snapshot's time (a skipped run's by its
own), which tells the young ones without opening them. How old the others are is in their run.json.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.planning.plan import DUPLICATES_CSV, LEFT_OUT_CSV, REJECTED_CSV
from exporter.runs.run import Run, RunName, run_folder, snapshot_minute
from exporter.storage.protocols import Store

PORTION = 500  # blobs that a tick deletes at most, about

LISTS_OF_ROWS = (f"/{REJECTED_CSV}", f"/{DUPLICATES_CSV}", f"/{LEFT_OUT_CSV}")


@dataclass(frozen=True, slots=True)
class _Cutoffs:
    """What ended before these moments is past its time."""

    runs: datetime
    lists: datetime

    def may_be_past(self, begun: datetime, *, has_lists: bool) -> bool:
        """Say whether a run that began then may have anything that is past its time."""
        return begun <= (max(self.runs, self.lists) if has_lists else self.runs)


def clear_out(
    store: Store,
    export_id: str,
    *,
    now: datetime,
    runs_kept: timedelta,
    rejected_kept: timedelta,
    most: int,
    read_run: Callable[[str], Run | None],
) -> int:
    """Delete what is past its time, oldest first; return how many blobs.

    `most` or more: there may be others.
    """
    blobs = _blobs_by_run(store, export_id)
    cutoffs = _Cutoffs(runs=now - runs_kept, lists=now - rejected_kept)
    newest = {max(blobs, default=""), _newest(blobs, lambda name: read_run(f"{export_id}/{name}"))}
    deleted = 0
    for name in sorted(blobs):
        if deleted >= most:
            break
        read = functools.partial(read_run, f"{export_id}/{name}")
        for each in _past(name, blobs[name], cutoffs, read, stays=name in newest):
            store.delete(each)
            deleted += 1
    return deleted


def _past(
    name: str,
    blobs: Sequence[str],
    cutoffs: _Cutoffs,
    read_run: Callable[[], Run | None],
    *,
    stays: bool,
) -> Sequence[str]:
    """Return the blobs of a run that are past their time. stays: the run itself is kept."""
    lists = [each for each in blobs if each.endswith(LISTS_OF_ROWS)]
    known = RunName.parse(name)
    begun = known.at if known else None
    if begun and not cutoffs.may_be_past(begun, has_lists=bool(lists)):
        return ()
    run = read_run()
    if run is not None and run.status.is_open:
        return ()
    ended = (run.finished_at or run.created_at) if run else begun
    if ended is None:
        return ()
    if ended <= cutoffs.runs and not stays:
        # run.json last: while a journal is there, no new run may take the name and go on with it.
        return sorted(blobs, key=lambda each: each.endswith("/run.json"))
    return lists if ended <= cutoffs.lists else ()


def _blobs_by_run(store: Store, export_id: str) -> dict[str, list[str]]:
    """Return the names of an export's blobs by the last part of their run's id."""
    blobs: dict[str, list[str]] = {}
    prefix = run_folder(export_id)
    for name in store.names(prefix):
        blobs.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(name)
    return blobs


def _newest(names: Iterable[str], read_run: Callable[[str], Run | None]) -> str:
    """Return the run of the newest snapshot that was created last; "" where all were skipped."""
    minutes = {name: minute for name in names if (minute := snapshot_minute(name))}
    last = max(minutes.values(), default=None)
    runs = [(name, read_run(name)) for name, minute in minutes.items() if minute == last]
    return max(((run.created_at, name) for name, run in runs if run), default=(None, ""))[1]
