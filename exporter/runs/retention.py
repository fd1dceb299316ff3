"""What goes with time: lists of rows after REJECTED_KEPT_DAYS, whole runs after RUNS_KEPT_DAYS.

    rejected.csv, duplicates.csv    deleted first, since the former holds personal data
    the rest of a run               deleted with the run; the newest run of an export stays

A run's folder is named by its snapshot's time (or, of a skipped one, by its own), which tells the
young ones without opening them; how old the others are, their run.json says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from exporter.planning.plan import DUPLICATES_CSV, REJECTED_CSV
from exporter.runs.run import Run, RunName, run_folder, snapshot_minute
from exporter.storage.protocols import Store

PORTION = 500  # blobs that a tick deletes at most, about


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
    """Delete what is past its time, oldest first.

    The number of blobs deleted; `most` or more: there may be others.
    """
    blobs: dict[str, list[str]] = {}
    prefix = run_folder(export_id)
    for name in store.names(prefix):
        blobs.setdefault(name.removeprefix(prefix).partition("/")[0], []).append(name)
    newest = {max(blobs, default=""), _newest(blobs, lambda name: read_run(f"{export_id}/{name}"))}
    deleted = 0
    for name in sorted(blobs):
        if deleted >= most:
            break
        lists = [
            each
            for each in blobs[name]
            if each.endswith((f"/{REJECTED_CSV}", f"/{DUPLICATES_CSV}"))
        ]
        begun = known.at if (known := RunName.parse(name)) else None
        if begun and begun > now - (min(runs_kept, rejected_kept) if lists else runs_kept):
            continue
        run = read_run(f"{export_id}/{name}")
        if run is not None and run.status.is_open:
            continue
        ended = (run.finished_at or run.created_at) if run else begun
        if ended and ended <= now - runs_kept and name not in newest:
            # run.json last: while a journal is there, no new run may take the name and go on with
            # it.
            going = sorted(blobs[name], key=lambda each: each.endswith("/run.json"))
        elif ended and ended <= now - rejected_kept:
            going = lists
        else:
            going = []
        for each in going:
            store.delete(each)
        deleted += len(going)
    return deleted


def _newest(names: Iterable[str], read_run: Callable[[str], Run | None]) -> str:
    """Of the runs of the newest snapshot the one that was created last.

    "" where all were skipped.
    """
    minutes = {name: minute for name in names if (minute := snapshot_minute(name))}
    last = max(minutes.values(), default=None)
    runs = [(name, read_run(name)) for name, minute in minutes.items() if minute == last]
    return max(((run.created_at, name) for name, run in runs if run), default=(None, ""))[1]
