"""What the doctor tries out besides the health check: storage roles, disk and versions."""

from __future__ import annotations

import platform
import shutil
import uuid
from pathlib import Path

import duckdb

from exporter import VERSION
from exporter.errors import ConfigError
from exporter.orchestration.health import OK, Answer
from exporter.storage.protocols import Snapshots, Store

FOLDER = "doctor/"
# An instance of Flex Consumption has 0.8 GB of disk; staging keeps a few pieces on it at a time.
LOW_DISK_BYTES = 200_000_000


def write_and_read(store: Store) -> Answer | None:
    """Write a document of its own into the state container, read it and remove it."""
    name, data = f"{FOLDER}{uuid.uuid4().hex}.json", b"{}"
    etag = store.create(name, data)
    found = store.read(name)
    store.delete(name, etag=etag)
    if found is None or found.data != data:
        hint = "Check that nothing else writes to the state container."
        return Answer("failed", "What was written could not be read again.", hint)
    return None


def list_snapshots(snapshots: Snapshots) -> Answer | None:
    """List the container of snapshots as far as its first blob. Raises where there is none."""
    snapshots.ping()
    if next(iter(snapshots.list("")), None) is None:
        return Answer(OK, "Nothing has arrived yet.")
    return None


def free_disk(work: Path) -> Answer:
    """Say how much room the work folder has, where plans are staged."""
    try:
        free = shutil.disk_usage(work).free
    except OSError as exc:
        hint = "Set WORK_FOLDER to a folder that the app can write to."
        raise ConfigError(f"The work folder cannot be used: {exc.strerror}.", hint=hint) from exc
    said = f"{free / 1e6:,.0f} MB are free for plans on this instance."
    if free < LOW_DISK_BYTES:
        return Answer("attention", said, "Restart the app in the portal: that empties its disk.")
    return Answer(OK, said)


def versions() -> Answer:
    """Name what runs here."""
    python = platform.python_version()
    return Answer(OK, f"segment-exporter {VERSION}, Python {python}, DuckDB {duckdb.__version__}")
