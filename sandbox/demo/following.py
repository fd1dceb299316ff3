"""Follow the demo's run in the store, as a page would."""

from __future__ import annotations

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from exporter.runs.run import Phase, Run
from exporter.sending.journal import Journal
from sandbox.demo.export import EXPORT, PARTITIONS
from sandbox.demo.stage import Stage, console


def wait_for_run(stage: Stage, *, rows: int, limit_s: float) -> Run:
    """Follow the run in the store as a page would, until it is closed."""
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    deadline = time.monotonic() + limit_s
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("settle", total=rows)
        while time.monotonic() < deadline:
            run = _newest_run(stage)
            if run is not None and not run.status.is_open:
                bar.update(task, description=str(run.status), completed=rows)
                return run
            if run is not None:
                done = 0
                if run.phase is not Phase.PLAN:
                    done = Journal(stage.store, run.run_id).delivery.accepted_profiles
                bar.update(task, description=str(run.phase), completed=done)
            time.sleep(0.5)
    raise SystemExit(
        f"the run did not end within {limit_s:.0f} s; run again with --keep and read host.log"
    )


def _newest_run(stage: Stage) -> Run | None:
    """The run of the whole snapshot.

    A slow upload may settle in between: then a run of some partitions comes first.
    """
    runs = []
    for name in stage.store.folders(f"runs/{EXPORT}/"):
        if found := stage.store.read(f"runs/{EXPORT}/{name}/run.json"):
            runs.append(Run.model_validate_json(found.data))  # noqa: PERF401 - reads better
    whole = [run for run in runs if len(run.manifest.partitions) == PARTITIONS]
    return whole[0] if whole else None
