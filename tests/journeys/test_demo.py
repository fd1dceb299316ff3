"""`make demo`: two side by side end right, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import pytest
import requests

from sandbox import processes
from sandbox.demo import LOOKS, demo_snapshot, wrong_numbers
from tests.forking import exporter, forking
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.processes, pytest.mark.azurite]


def demo(*args: str, errors: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", "demo", *args],
        cwd=ROOT,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "120"},  # as on a terminal
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


@dataclass
class Demo:
    process: subprocess.Popen[str]
    said: str  # on standard output
    errors: Path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, Demo]]:
    """Two side by side, a small one that stays and one that ends, once each has proved its list."""
    folder = tmp_path_factory.mktemp("demos")
    with contextlib.ExitStack() as stack:
        started = []
        for args in (("--rows", "1000", "--stay"), ("--rows", "25000")):
            errors = stack.enter_context((folder / args[1]).open("w"))
            process = demo(*args, "--job-seconds", "0.5", "--settle-seconds", "0.5", errors=errors)
            stack.callback(processes.stop, process)
            started.append(process)
        stays, ends = started
        assert stays.stdout is not None
        said = ""
        while not said.endswith("}\n") and (line := stays.stdout.readline()):
            said += line
        yield (
            Demo(stays, said, folder / "1000"),
            Demo(ends, ends.communicate(timeout=LIMIT_S)[0], folder / "25000"),
        )


def test_two_demos_side_by_side_each_prove_their_list(both: tuple[Demo, Demo]) -> None:
    assert [each.process.poll() for each in both] == [None, 0], [
        each.errors.read_text() for each in both
    ]
    assert "25,000" in both[1].said
    for rows, each in zip(("1000", "25000"), both, strict=True):
        errors = each.errors.read_text()
        assert "exactly what the snapshot should give" in errors
        bar = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", errors)
        assert "settle" in bar
        assert re.search(rf"Completed with warnings .* {rows}/{rows} ", bar)


def test_a_demo_of_nothing_is_refused() -> None:
    process = demo("--rows", "0")
    assert "at least one row" in process.communicate(timeout=LIMIT_S)[1]
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
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    wait_until(lambda: not _alive(children), lambda: f"the end of {_alive(children)}")


def test_a_demo_that_stays_is_managed_by_different_users_and_takes_files(
    both: tuple[Demo, Demo], tmp_path: Path
) -> None:
    process = both[0].process
    ready = next(
        json.loads(line) for line in both[0].said.splitlines() if line.startswith('{"url"')
    )
    url = ready["url"]
    try:
        viewer = {"Authorization": "Bearer sandbox-viewer", "X-Exporter": "1"}
        [export] = requests.get(f"{url}/api/exports", headers=viewer, timeout=LIMIT_S).json()[
            "items"
        ]
        assert (export["status"], export["connection_name"]) == (
            "Completed with warnings",
            "Klaviyo",
        )
        runs = f"{url}/api/exports/{export['id']}/runs"
        assert requests.post(runs, headers=viewer, timeout=LIMIT_S).status_code == 403
        admin = {"X-Exporter": "1"}
        check = requests.post(
            f"{url}/api/connections/klaviyo/check", headers=admin, timeout=LIMIT_S
        ).json()
        assert check["details"]["check"]["ok"]
        [listed] = requests.get(
            f"{url}/api/connections/klaviyo/lists", headers=admin, timeout=LIMIT_S
        ).json()["items"]
        assert (listed["id"], listed["flows"]) == (export["list_id"], [])
        started = requests.post(runs, headers=admin, timeout=LIMIT_S)
        assert started.status_code == 202
        run = started.headers["Location"]
        address = f"{url}{run}"
        wait_until(
            lambda: not requests.get(address, headers=viewer, timeout=LIMIT_S).json()["is_open"],
            "the end of the run",
            every_s=0.2,
        )
        assert [look(url, user, words).returncode for user, words in LOOKS] == [0, 0, 0, 1]
        _take_files(tmp_path, both[0], klaviyo=ready["klaviyo"])
        assert (
            requests.get(f"{url}{run}/rejected.csv", headers=viewer, timeout=LIMIT_S).status_code
            == 403
        )
        assert requests.get(
            f"{url}{run}/rejected.csv", headers=admin, timeout=LIMIT_S
        ).text.startswith('"source","line"')
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130


def _take_files(folder: Path, demo: Demo, *, klaviyo: str) -> None:
    """Drop a file twice, then one that cannot be delivered: the list is shown each time."""
    assert f"Klaviyo is at {klaviyo}" in demo.errors.read_text()
    file = folder / "My people.csv"
    for rows, members in (("ada@example.com,Ada\nno-address,Bo", 1), ("bo@example.com,Bo", 2)):
        file.write_text(f"E-Mail,First name\n{rows}\n", "utf-8")
        dropped = drop(file)
        assert dropped.returncode == 0, dropped.stderr
        assert f"(My-people) holds {members} member" in dropped.stdout
        assert "ada@example.com  first_name=Ada" in dropped.stdout
    file.write_text("Name,Town\nAda,Paris\n", "utf-8")
    refused = drop(file)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Name, Town" in refused.stderr


def drop(file: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "sandbox", "drop", str(file)]
    return forking().run(words, cwd=ROOT, env={**os.environ, **settings})


def test_a_file_cannot_be_dropped_where_no_demo_stays(tmp_path: Path) -> None:
    refused = drop(tmp_path / "people.csv", TMPDIR=str(tmp_path))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "make demo ARGS=--stay" in refused.stderr


def look(url: str, user: str, words: str) -> subprocess.CompletedProcess[str]:
    """What a demo that stays proposes to type."""
    return exporter(*words.split(), "--app", url, EXPORTER_TOKEN=f"sandbox-{user}")


def _children_once_started(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Azurite, Klaviyo, vault and host, once all four are there."""

    def children() -> list[psutil.Process]:
        assert process.poll() is None
        return psutil.Process(process.pid).children(recursive=True)

    wait_until(lambda: len(children()) >= 4, "four children", every_s=0.1)
    return children()


def _alive(children: list[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                alive.append(child)
    return alive
