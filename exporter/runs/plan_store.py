"""Copies of plans on this machine."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path

from exporter.errors import ConfigError
from exporter.storage.local_folder import ABANDONED_AFTER_S

_PLANS_OF_RUN = re.compile(r"[0-9a-f]{16}")


def open_work(folder: Path, *, abandoned_after_s: float = ABANDONED_AFTER_S) -> Path:
    """Make a work folder, for this user's eyes only: plans hold everybody's data. Raises ConfigError.

    Plans older than `abandoned_after_s` go: the process that had them died. A run that needs one fetches it again.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        oldest = time.time() - abandoned_after_s
        for plans in folder.iterdir():
            if _PLANS_OF_RUN.fullmatch(plans.name) and _newest(plans) < oldest:
                shutil.rmtree(plans, ignore_errors=True)
    except OSError as exc:
        hint = "Name a folder of your own that can be written to."
        raise ConfigError(
            f"{folder} cannot hold plans: {exc.strerror or type(exc).__name__}", hint=hint
        ) from exc
    return folder


def _newest(plans: Path) -> float:
    """When something was last added to one of a run's plans."""
    with contextlib.suppress(OSError):  # another process removes it
        return max(each.stat().st_mtime for each in (plans, *plans.iterdir()))
    return time.time()
