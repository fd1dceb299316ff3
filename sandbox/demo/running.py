"""How other commands find a demo that stays: a file in its own folder says where everything is."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

FOLDER_PREFIX = "segment-demo-"
FILE = "running.json"


@dataclass(frozen=True, kw_only=True)
class RunningDemo:
    """Where the parts of a demo are. `storage` is a connection string of Azurite."""

    process_id: int
    app: str
    klaviyo: str
    control: str
    storage: str

    def announce(self, folder: Path) -> None:
        """Write it down. The folder is the user's own, and goes when the demo ends."""
        (folder / FILE).write_text(json.dumps(asdict(self)), "utf-8")


def find_demo() -> RunningDemo | None:
    """The demo of this user that stays, the youngest if there are several."""
    files = [
        file
        for file in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/{FILE}")
        if file.stat().st_uid == os.getuid()
    ]
    for file in sorted(files, key=lambda each: each.stat().st_mtime, reverse=True):
        found = RunningDemo(**json.loads(file.read_text("utf-8")))
        if psutil.pid_exists(found.process_id):
            return found
    return None
