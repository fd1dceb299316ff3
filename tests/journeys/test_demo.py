"""`make demo`: two side by side end right, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from sandbox.demo import LOOKS, demo_snapshot, wrong_numbers

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.processes, pytest.mark.azurite]


def demo(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", "demo", *args],
        cwd=ROOT,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "120"},  # as on a terminal
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_demos_side_by_side_each_prove_their_list() -> None:
    both = [
        demo("--rows", rows, "--job-seconds", "0.5", "--settle-seconds", "0.5")
        for rows in ("1000", "25000")
    ]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("exactly what the snapshot should give" in errors for _, errors in said)
    assert "25,000" in said[1][0]
    for rows, (_, errors) in zip(("1000", "25000"), said, strict=True):
        bar = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", errors)
        assert "settle" in bar
        assert re.search(rf"Completed with warnings .* {rows}/{rows} ", bar)


def test_a_demo_of_nothing_is_refused() -> None:
    process = demo("--rows", "0")
    assert "at least one row" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_a_report_with_other_numbers_than_the_snapshots_is_wrong() -> None:
    snapshot = demo_snapshot(10_000)
    right = {"rows": 10_000, "delivered": 9_994, "duplicates": 2, "rejected": 4}
    assert wrong_numbers(snapshot, right) == {}
    assert wrong_numbers(snapshot, {**right, "delivered": 9_995, "rejected": 3}) == {
        "delivered": (9_995, 9_994),
        "rejected": (3, 4),
    }


def test_ctrl_c_leaves_no_process_behind() -> None:
    process = demo("--rows", "200000")
    children = _children_once_started(process)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    deadline = time.monotonic() + 10
    while alive := [
        child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    ]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def test_a_demo_that_stays_is_managed_over_http_by_different_users() -> None:
    process = demo("--rows", "200", "--job-seconds", "0.2", "--settle-seconds", "0.2", "--stay")
    try:
        assert process.stdout is not None
        url = next(json.loads(line)["url"] for line in process.stdout if line.startswith('{"url"'))
        viewer = {"Authorization": "Bearer sandbox-viewer", "X-Exporter": "1"}
        [export] = requests.get(f"{url}/api/exports", headers=viewer, timeout=30).json()["items"]
        assert (export["status"], export["connection_name"]) == (
            "Completed with warnings",
            "Klaviyo",
        )
        runs = f"{url}/api/exports/{export['id']}/runs"
        assert requests.post(runs, headers=viewer, timeout=30).status_code == 403
        admin = {"X-Exporter": "1"}
        check = requests.post(
            f"{url}/api/connections/klaviyo/check", headers=admin, timeout=60
        ).json()
        assert check["details"]["check"]["ok"]
        [listed] = requests.get(
            f"{url}/api/connections/klaviyo/lists", headers=admin, timeout=60
        ).json()["items"]
        assert (listed["id"], listed["flows"]) == (export["list_id"], [])
        started = requests.post(runs, headers=admin, timeout=30)
        assert started.status_code == 202
        run = started.headers["Location"]
        deadline = time.monotonic() + 60
        while requests.get(f"{url}{run}", headers=viewer, timeout=30).json()["is_open"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert [look(url, user, words).returncode for user, words in LOOKS] == [0, 0, 0, 1]
        assert (
            requests.get(f"{url}{run}/rejected.csv", headers=viewer, timeout=30).status_code == 403
        )
        assert requests.get(f"{url}{run}/rejected.csv", headers=admin, timeout=30).text.startswith(
            '"source","line"'
        )
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def look(url: str, user: str, words: str) -> subprocess.CompletedProcess[str]:
    """What a demo that stays proposes to type."""
    environment = {**os.environ, "EXPORTER_TOKEN": f"sandbox-{user}"}
    command = [sys.executable, "-m", "exporter", *words.split(), "--app", url]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


def _children_once_started(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Azurite, Klaviyo, vault and host, once all four are there."""
    deadline = time.monotonic() + 60
    while len(found := psutil.Process(process.pid).children(recursive=True)) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found
