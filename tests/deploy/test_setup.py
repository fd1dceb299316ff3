"""scripts/setup, with a Python and an npm that only note what they are asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
# `python -m venv --clear DIR` takes its time and puts this same stub into the environment.
PYTHON = """#!/bin/sh
echo "$*" | cut -d' ' -f1-3 >> "$NOTES"
case "$1 $2" in
    "-m venv") sleep 0.5; rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
    "-c "*) exec "$REAL_PYTHON" "$@" ;;
esac
"""
NPM = """#!/bin/sh
echo npm >> "$NOTES"
rm -rf node_modules
sleep 0.5
mkdir node_modules
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What setup reads of the project, and the stubs."""
    for name in (
        "requirements-exporter.txt",
        "requirements-dev.txt",
        "constraints.txt",
        "package-lock.json",
        "scripts/setup",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    for name, text in (("python", PYTHON), ("npm", NPM)):
        (tmp_path / "stubs").mkdir(exist_ok=True)
        (tmp_path / "stubs" / name).write_text(text)
        (tmp_path / "stubs" / name).chmod(0o755)
    return tmp_path


def setup(clone: Path, *words: str) -> subprocess.Popen[str]:
    environ = {
        "PATH": f"{clone / 'stubs'}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(clone / "stubs" / "python"),
        "REAL_PYTHON": sys.executable,
        "NOTES": str(clone / "notes"),
    }
    return subprocess.Popen(
        [clone / "scripts" / "setup", *words], env=environ, stderr=subprocess.PIPE, text=True
    )


def test_two_setups_at_once_make_everything_once(clone: Path) -> None:
    both = [setup(clone), setup(clone)]
    said = [each.communicate(timeout=LIMIT_S)[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    notes = (clone / "notes").read_text().splitlines()
    assert (notes.count("-m venv --clear"), notes.count("npm")) == (1, 1)
    assert sum("waiting for another one" in each for each in said) == 1


def test_a_setup_for_a_laptop_needs_no_node(clone: Path) -> None:
    said = setup(clone, "laptop").communicate(timeout=LIMIT_S)[1]
    assert (clone / ".venv" / ".installed").exists(), said
    assert "npm" not in (clone / "notes").read_text()
    assert not (clone / "node_modules").exists()
    setup(clone).communicate(timeout=LIMIT_S)
    assert (clone / "node_modules" / ".installed").exists(), "what is left comes with the whole"


def test_a_setup_that_was_killed_keeps_nobody_out(clone: Path) -> None:
    killed = setup(clone)
    assert killed.stderr is not None
    killed.stderr.readline()  # it is at work
    killed.kill()
    killed.communicate(timeout=LIMIT_S)
    again = setup(clone)
    assert again.communicate(timeout=LIMIT_S)[1]
    assert again.returncode == 0
    assert (clone / ".venv" / ".installed").exists()
