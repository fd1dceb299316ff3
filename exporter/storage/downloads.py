"""Local files that are complete whenever they are there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`, and rename it to `path` if the block succeeds."""
    fd, temporary = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    os.close(fd)
    try:
        yield Path(temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
