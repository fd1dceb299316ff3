"""`make demo`: two side by side end right, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.processes, pytest.mark.azurite]


def demo(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", "demo", *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_demos_side_by_side_each_prove_their_list() -> None:
    both = [demo("--rows", rows, "--job-seconds", "0.5", "--settle-seconds", "0.5") for rows in ("1000", "25000")]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("exactly what the snapshot should give" in errors for _, errors in said)
    assert "25,000" in said[1][0]


def test_ctrl_c_leaves_no_process_behind() -> None:
    process = demo("--rows", "200000")
    children = _children_once_started(process)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    deadline = time.monotonic() + 10
    while alive := [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def _children_once_started(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Azurite, Klaviyo, vault and host, once all four are there."""
    deadline = time.monotonic() + 60
    while len(found := psutil.Process(process.pid).children(recursive=True)) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found
