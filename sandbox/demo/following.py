"""Follow a run in the store, as a page would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from exporter.runs.run import Phase, Run
from exporter.sending.journal import Journal
from exporter.storage.azure_blobs import BlobStore
from sandbox.demo.export import EXPORT, PARTITIONS
from sandbox.demo.stage import Stage, console


def wait_for_run(stage: Stage, *, rows: int, limit_s: float) -> Run:
    """Follow the run of the demo's whole snapshot until it is closed.

    A slow upload may settle in between: then a run of some partitions comes first.
    """

    def find() -> Run | None:
        runs = runs_of(stage.store, EXPORT)
        return next((run for run in runs if len(run.manifest.partitions) == PARTITIONS), None)

    return follow(stage.store, find, rows=rows, limit_s=limit_s)


def follow(
    store: BlobStore, find: Callable[[], Run | None], *, limit_s: float, rows: int | None = None
) -> Run:
    """Follow the run that `find` gives until it is closed. Exits if that takes too long."""
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
            run = find()
            if run is not None and not run.status.is_open:
                bar.update(task, description=str(run.status), completed=rows)
                return run
            if run is not None:
                done = 0
                if run.phase is not Phase.PLAN:
                    done = Journal(store, run.run_id).delivery.accepted_profiles
                bar.update(task, description=str(run.phase), completed=done)
            time.sleep(0.5)
    raise SystemExit(
        f"The run did not end within {limit_s:.0f} s. Run the demo with --keep and read host.log."
    )


def runs_of(store: BlobStore, export_id: str) -> Iterator[Run]:
    """The runs of an export, newest first."""
    for name in store.folders(f"runs/{export_id}/"):
        if found := store.read(f"runs/{export_id}/{name}/run.json"):
            yield Run.model_validate_json(found.data)
