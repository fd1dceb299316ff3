"""What the hooks share: the command lines az and azd, and words for the person who waits.

Python 3.9 and nothing installed, because azd runs the hooks with whatever Python it finds. On
Windows az is a script that cmd.exe reads: nothing that cmd would take for its own (& | < > ^ %)
may stand in an argument, so answers are picked apart here and not by --query.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Failed(Exception):
    """A command line refused, or something is missing: the message is what a person is told."""


def say(words: str) -> None:
    """Tell the person. On standard output: azd shows the other one only after a failure."""
    print(f"{Path(sys.argv[0]).stem}: {words}", flush=True)


def run(tool: str, *words: str) -> str:
    """Run az or azd and return what it prints."""
    path = shutil.which(tool)  # the whole name, without which Windows starts no script
    if path is None:
        raise Failed(f"{tool} is not installed")
    done = subprocess.run(
        [path, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise Failed((done.stderr or done.stdout).strip() or f"{tool} failed without a word")
    return done.stdout


def az(*words: str) -> Any:
    """Run the Azure CLI and return its answer, read as JSON; None for none."""
    answer = run("az", *words, "--output", "json")
    try:
        return json.loads(answer) if answer.strip() else None
    except ValueError:
        raise Failed(f"az {' '.join(words[:3])} answered something else than JSON") from None


def given(name: str, default: str = "") -> str:
    """Return a value of the azd environment, which azd hands to its hooks."""
    return os.environ.get(name, "") or default


def needed(name: str, hook: str) -> str:
    """Return a value that provisioning has put there, or fail."""
    if not (value := given(name)):
        raise Failed(f"{name} is not known. Run me as: azd hooks run {hook}")
    return value


def is_on(name: str) -> bool:
    """Tell whether an option is true."""
    return given(name).lower() == "true"


def run_hook(hook: Callable[[], None]) -> None:
    """Run a hook; what it could not do is said, and ends azd's command."""
    try:
        hook()
    except Failed as exc:
        print(f"{Path(sys.argv[0]).stem}: {exc}", file=sys.stderr)
        sys.exit(1)
