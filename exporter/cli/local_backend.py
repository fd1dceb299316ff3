"""The same engine on a laptop, without Azure: files are the snapshot, a folder the state, this process the queue."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import MappingDocument
from exporter.definitions.schedule import Schedule
from exporter.errors import ConfigError, ExporterError, SecretUnavailable
from exporter.klaviyo.client import Klaviyo
from exporter.logs import kind_and_place
from exporter.management.management import Management
from exporter.orchestration import lease
from exporter.orchestration.engine import Engine, build_engine
from exporter.reading.dialect import Dialect
from exporter.runs.plan_store import ABANDONED_AFTER_S, open_work
from exporter.runs.run import Run
from exporter.settings import StepLimits
from exporter.snapshots.manifest import Manifest, ManifestPartition
from exporter.snapshots.model_json import parse_table
from exporter.snapshots.paths import DATA_SUFFIXES, MODEL_NAME, NotASnapshot, parse_blob_name
from exporter.storage.blob_names import check_name
from exporter.storage.local_folder import (
    FolderStore,
    LocalFiles,
    MemoryQueue,
)

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
TRIES = 5  # host.json, maxDequeueCount
Tell = Callable[[str], None]
CONNECTION = "push"
WORTH_TELLING_S = 1.0  # shorter waits are not told
WORK = ".work"  # plans in use, in the state's folder; no name of the store begins with a dot


def data_files(paths: Sequence[Path]) -> list[Path]:
    """The files of one snapshot: those given, and the data files directly in the folders given, each once.

    Raises ConfigError.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            # macOS leaves ._a.csv beside a.csv on other systems' disks.
            files += sorted(
                file
                for file in path.iterdir()
                if file.name.lower().endswith(DATA_SUFFIXES) and not file.name.startswith(".")
            )
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"there is no file {path}", hint="Check the path.")
    if not files:
        raise ConfigError(
            "the folder holds no data files", hint=f"Only {', '.join(DATA_SUFFIXES)} are read."
        )
    return [_readable(file) for file in dict.fromkeys(file.resolve() for file in files)]


def _readable(file: Path) -> Path:
    try:
        check_name(file.name)
    except ValueError as exc:
        hint = "Give it a short name without backslash, control characters, or a dot at either end."
        raise ConfigError(f"{file} cannot be read by this name", hint=hint) from exc
    return file


def dialect_of(file: Path) -> Dialect:
    """What model.json says of a file: the one where Customer Insights puts it, else the one beside the file.

    Of the latter the table is called like the folder, as in storage, or like the file.
    """
    path, beside = file.as_posix().lstrip("/"), file.with_name(MODEL_NAME)
    places = [(beside, file.parent.name), (beside, re.sub(r"(_\d+)?(\.csv)?\.\w+$", "", file.name))]
    with contextlib.suppress(NotASnapshot):
        ref = parse_blob_name(path)
        if ref.model:
            places.insert(0, (Path(file.anchor) / ref.model, ref.segment))
    for model, table in places:
        if model.is_file() and (found := parse_table(model.read_bytes(), table)):
            return found.dialect_of(path)
    return Dialect()


def push(
    files: Sequence[Path],
    *,
    list_id: str,
    mapping: MappingDocument,
    keep_rejected_rows: bool,
    key: SecretStr,
    state: Path,
    base_url: str,
    revision: str,
    limits: StepLimits,
    progress: Progress,
    tell: Tell,
) -> tuple[Engine, Run]:
    """Send files as one snapshot to a list, to the end. An interrupted run of the same files is taken up again.

    tell: given a sentence on each wait for something that does not work at the moment.
    """

    def nap(seconds: float) -> None:
        if seconds >= WORTH_TELLING_S:
            tell(f"Asking Klaviyo again in {seconds:.0f} s.")
        time.sleep(seconds)

    steps = MemoryQueue()
    store, snapshots = FolderStore(_make(state)), LocalFiles(files)
    engine = build_engine(
        store=store,
        snapshots=snapshots,
        queue=steps,
        read_secret=lambda _: key,
        open_klaviyo=lambda given: Klaviyo(given, base_url=base_url, revision=revision, sleep=nap),
        work=_open_work(store, state),
        limits=limits,
        progress=progress,
    )
    export = _export(list_id, mapping, keep_rejected_rows=keep_rejected_rows)
    engine.catalog.save(_connection())
    engine.catalog.save(export)
    run = engine.starter.start_on(export, _manifest(snapshots, len(files)), because="demand")
    drive(engine, steps, tell)
    ended = engine.runs.run(run.run_id)
    assert ended is not None
    return engine, ended


def on_folder(state: Path) -> Engine:
    """An exporter on the state that `push` keeps, to look at it or tidy it up: it reads no snapshot and sends nothing.

    Raises ConfigError when there is no such state.
    """
    if not (state / "runs").is_dir():
        raise ConfigError(
            f"{state} holds no runs", hint="Name the folder that `push` was given as --state."
        )

    return build_engine(
        store=FolderStore(state),
        snapshots=LocalFiles([]),
        queue=MemoryQueue(),
        read_secret=EnvironmentSecrets().read,
        open_klaviyo=Klaviyo,
        work=state / WORK,
    )


class EnvironmentSecrets:
    """The key of a laptop: it is in KLAVIYO_API_KEY and nowhere else, whatever a connection calls it."""

    def read(self, name: str) -> SecretStr:  # noqa: ARG002 - there is one
        key = os.environ.get("KLAVIYO_API_KEY", "")
        if not key:
            hint = "Set it to a private key of the Klaviyo account."
            raise SecretUnavailable("no key: KLAVIYO_API_KEY is not set", hint=hint)
        return SecretStr(key)

    def write(self, name: str, value: SecretStr) -> None:  # noqa: ARG002 - a key must not get into a folder
        raise ConfigError(
            f"{name} cannot be kept in a folder", hint="Keep the key in KLAVIYO_API_KEY."
        )

    def delete(self, name: str) -> None:
        """There is nothing of it here."""


def management(state: Path) -> Management:
    """The runs that `push` keeps, for people to look at. Raises ConfigError when there are none."""
    parts = on_folder(state)
    return Management(
        store=parts.store,
        catalog=parts.catalog,
        runs=parts.runs,
        container=parts.container,
        starter=parts.starter,
        check_health=parts.health.check,
        secrets=EnvironmentSecrets(),
        open_klaviyo=Klaviyo,
    )


def drive(engine: Engine, steps: MemoryQueue, tell: Tell) -> None:
    """Work the queue until it is empty, waiting where messages are not due yet."""
    while (due := steps.next_due()) is not None:
        time.sleep(max(due - time.time(), 0))
        if message := steps.take():
            _handle(engine, message)
            run, again = engine.runs.run(str(message["run"])), steps.next_due()
            if run and run.setbacks and again is not None:
                wait_s = max(again - time.time(), 0)
                tell(
                    f"{run.message} Put off for {wait_s:.0f} s ({run.setbacks} of {engine.limits.setbacks} times)."
                )


def _make(state: Path) -> Path:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        hint = "Name another folder with --state."
        raise ConfigError(
            f"{state} cannot be made: {exc.strerror or type(exc).__name__}", hint=hint
        ) from exc
    return state


def _open_work(store: FolderStore, state: Path) -> Path:
    """The work folder. Unless another process is at work, whatever is left in it is of one that died."""
    is_alone = not lease.is_held(store, lease.lease_name(CONNECTION, ""), now=time.time())
    return open_work(state / WORK, abandoned_after_s=0 if is_alone else ABANDONED_AFTER_S)


def _handle(engine: Engine, message: dict[str, object]) -> None:
    """Handle a message as the host does: when it fails for an unknown reason time and again, its run is closed.

    Raises what we know of, such as a folder that cannot be written to: the run is taken up when that is mended.
    """
    for number in range(TRIES):
        try:
            engine.dispatcher.handle(message, redelivered=number > 0)
        except ExporterError:
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost edge
            logger.error(
                "message failed", extra={"cause": kind_and_place(exc), "attempt": number + 1}
            )
        else:
            return
    engine.dispatcher.close_poisoned(message)


def _manifest(snapshots: LocalFiles, files: int) -> Manifest:
    """The manifest of so many files. Raises ConfigError when one of them was deleted meanwhile."""
    blobs = list(snapshots.list(""))
    if len(blobs) < files:
        raise ConfigError(
            "a file was deleted before it was read", hint="Give the files that are there."
        )
    partitions = [
        ManifestPartition(
            name=blob.name,
            etag=blob.etag,
            size_bytes=blob.size_bytes,
            dialect=dialect_of(Path(blob.name)),
        )
        for blob in blobs
    ]
    exported_at = max(blob.modified_at for blob in blobs)
    return Manifest(
        snapshots=[blob.name for blob in blobs], exported_at=exported_at, partitions=partitions
    )


def _connection() -> Connection:
    """Whoever runs `push` with a key has agreed by doing so."""
    consent = Consent(by="the person who ran push", at=datetime.now(UTC))
    return Connection(id=CONNECTION, name="push", secret="KLAVIYO-API-KEY", consent=consent)  # noqa: S106 - a name


def _export(list_id: str, mapping: MappingDocument, *, keep_rejected_rows: bool) -> Export:
    # Klaviyo's list ids tell upper from lower case, our ids do not.
    digest = hashlib.sha256(list_id.encode()).hexdigest()[:4]
    return Export(
        id=f"push-{list_id.lower()[:50]}-{digest}",
        name=f"push to list {list_id}",
        connection=CONNECTION,
        list_id=list_id,
        segments=["files"],
        mapping=mapping,
        schedule=Schedule(on="demand"),
        keep_rejected_rows=keep_rejected_rows,
    )
