"""`python -m sandbox demo`"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests

from exporter.cli.wording import report_as_text
from exporter.runs.run import Run
from sandbox.demo.export import CONNECTION, EXPORT, LIST_ID, demo_snapshot, register
from sandbox.demo.following import wait_for_run
from sandbox.demo.proof import delivered, differences, wrong_numbers
from sandbox.demo.running import FOLDER_PREFIX, RunningDemo
from sandbox.demo.stage import CONTAINER, ROOT, Stage, console, host, stand_ins
from sandbox.klaviyo import FULL_KEY
from sandbox.snapshots import ContainerWriter, Snapshot, write_snapshot

SUMMARY = "the whole app on the stand-ins, from a blob to a list, and the proof that it is right"
KEEP = "Run again with --keep to keep the logs."
# Who may do what can be seen with these, once a demo stays.
LOOKS = (
    ("admin", f"connections show {CONNECTION}"),
    ("contributor", f"run {EXPORT}"),
    ("viewer", f"runs {EXPORT}"),
    ("viewer", f"exports pause {EXPORT}"),
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox demo", description=f"Run {SUMMARY}.")
    parser.add_argument("--rows", type=_some, default=5_000)
    parser.add_argument("--limits", choices=("klaviyo", "off"), default="klaviyo")
    parser.add_argument(
        "--job-seconds", type=float, default=2.0, help="how long the stand-in works on a job"
    )
    parser.add_argument("--settle-seconds", type=float, default=2.0)
    parser.add_argument(
        "--stay", action="store_true", help="then keep it all running until Ctrl-C, to look around"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and state")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    try:
        return _demo(options, folder)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _demo(options: argparse.Namespace, folder: Path) -> int:
    snapshot = demo_snapshot(options.rows)
    with stand_ins(
        folder,
        limits=options.limits,
        job_seconds=options.job_seconds,
        settle_seconds=options.settle_seconds,
    ) as stage:
        register(stage)
        with host(stage, folder) as url:
            exit_code = _conclude(stage, snapshot, _run(stage, snapshot))
            if options.stay:
                _stay(stage, url, folder)
            else:
                console.print("With ARGS=--stay everything keeps running, for you to look around.")
        return exit_code


def _run(stage: Stage, snapshot: Snapshot) -> Run:
    """Drop the snapshot and wait for its run."""
    started = time.monotonic()
    console.print(f"Dropping a snapshot of {snapshot.rows:,} rows into blob storage ...")
    write_snapshot(snapshot, ContainerWriter(stage.snapshots.get_container_client(CONTAINER)))
    dropped = time.monotonic()
    run = wait_for_run(stage, rows=snapshot.rows, limit_s=300 + snapshot.rows / 1_000)
    took_s, later_s = dropped - started, time.monotonic() - dropped
    console.print(f"Dropped in {took_s:.1f} s, done {later_s:.1f} s later.")
    return run


def _stay(stage: Stage, url: str, folder: Path) -> None:
    """Say how to look at everything as different people, and wait for Ctrl-C."""
    demo = RunningDemo(
        process_id=os.getpid(),
        app=url,
        klaviyo=stage.klaviyo_url,
        control=stage.control_url,
        storage=stage.environment["SnapshotsStorage"],
    )
    demo.announce(folder)
    console.print("Everything keeps running until Ctrl-C. In another terminal, in this folder:")
    python = Path(sys.executable)
    place = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    for user, words in LOOKS:
        command = f"EXPORTER_TOKEN=sandbox-{user} {place} -m exporter {words} --app {url}"
        console.print(f"  {command}", soft_wrap=True, markup=False)
    console.print(f"  {place} -m sandbox drop my.csv    (a file of your own)", soft_wrap=True)
    console.print(f"Klaviyo is at {stage.klaviyo_url}, with the key {FULL_KEY}.", soft_wrap=True)
    console.print(f"What the list holds: {stage.control_url}/lists/{LIST_ID}", soft_wrap=True)
    viewer = f"{url}/.auth/login/viewer"
    console.print(
        f"In a browser you are an administrator. Open {viewer} to become a viewer:",
        soft_wrap=True,
    )
    console.print(f"  {url}/api/exports", soft_wrap=True)
    print(json.dumps({"url": url, "klaviyo": stage.klaviyo_url, "list": LIST_ID}), flush=True)
    threading.Event().wait()


def _conclude(stage: Stage, snapshot: Snapshot, run: Run) -> int:
    found = stage.store.read(run.folder + "report.json")
    assert found is not None
    report = json.loads(found.data)
    print(report_as_text(report))
    console.print("Reading the list back through Klaviyo's own endpoints ...")
    # Limits off: at Klaviyo's 700 pages a minute a million members take a quarter of an hour.
    requests.post(
        f"{stage.control_url}/settings", json={"limits": False}, timeout=10
    ).raise_for_status()
    wrong = differences(snapshot, delivered(stage.klaviyo_url))
    if wrong:
        kinds = {kind: wrong.count(kind) for kind in sorted(set(wrong))}
        console.print(f"[red]The list is not what the snapshot should give: {kinds}. {KEEP}[/]")
        return 1
    console.print("[green]The list holds exactly what the snapshot should give.[/]")
    if numbers := wrong_numbers(snapshot, report):
        console.print(f"[red]The report has other numbers (found, right): {numbers}. {KEEP}[/]")
        return 1
    return 0


def _some(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(
            "at least one row is needed: an empty snapshot is a failed run"
        )
    return number
