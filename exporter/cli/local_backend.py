"""The engine on a laptop: files are the snapshot, a folder the state, this process the worker."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from exporter.cli.snapshot_files import dialect_of
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import LIST_ID_PATTERN, Export
from exporter.definitions.mapping import MappingDocument
from exporter.definitions.schedule import Schedule
from exporter.errors import (
    AlreadyThere,
    ConfigError,
    ExporterError,
    ListGone,
    ScopeMissing,
    SecretUnavailable,
    StoreMoved,
)
from exporter.klaviyo.client import Klaviyo
from exporter.logs import kind_and_place
from exporter.management.management import Management
from exporter.management.views import ListView, list_view
from exporter.orchestration import lease
from exporter.orchestration.engine import Engine, build_engine
from exporter.orchestration.results import step_message
from exporter.planning.new_people import NewPeople, count_new_people
from exporter.planning.request_bodies import PlanReader
from exporter.runs.plan_store import ABANDONED_AFTER_S, open_work
from exporter.runs.run import Run
from exporter.settings import StepLimits, setting
from exporter.snapshots.manifest import Manifest, ManifestPartition
from exporter.storage.local_folder import FolderStore, LocalFiles, MemoryQueue

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
Tell = Callable[[str], None]
OpenKlaviyo = Callable[..., Klaviyo]

CONNECTION = "push"
LIST_ID = r"[A-Za-z0-9]{6}"  # as Klaviyo makes them
TRIES = 5  # host.json, maxDequeueCount
WORTH_TELLING_S = 1.0  # a shorter wait is not told
WORK = ".work"  # plans in use, in the state's folder; no name of the store begins with a dot
LIMITS = StepLimits(settle_s=0, step_s=86_400, lease_s=12, setbacks=4)  # somebody waits


def push(
    files: Sequence[Path],
    export: Export,
    *,
    key: SecretStr,
    klaviyo: OpenKlaviyo,
    state: Path,
    limits: StepLimits,
    progress: Progress,
    tell: Tell,
) -> tuple[dict[str, Any], Run]:
    """Send files as one snapshot and give the report. An open run of the same files goes on.

    tell: given a sentence on each wait for something that does not work at the moment.
    """
    snapshots = LocalFiles(files)
    laptop = Laptop(
        _make(state),
        snapshots,
        key=key,
        klaviyo=klaviyo,
        limits=limits,
        progress=progress,
        tell=tell,
    )
    run = laptop.start(export, _manifest(snapshots, len(files)))
    return laptop.report_of(laptop.finish(run))


class Laptop:
    """The engine on a folder, with this process as the only worker of its queue."""

    def __init__(
        self,
        state: Path,
        snapshots: LocalFiles,
        *,
        key: SecretStr,
        klaviyo: OpenKlaviyo,
        limits: StepLimits,
        progress: Progress,
        tell: Tell,
    ) -> None:
        self._store, self._queue, self._tell = FolderStore(state), MemoryQueue(), tell
        self._engine = build_engine(
            store=self._store,
            snapshots=snapshots,
            queue=self._queue,
            read_secret=lambda _: key,
            open_klaviyo=lambda given: klaviyo(given, sleep=self._nap),
            work=_open_work(self._store, state),
            limits=limits,
            progress=progress,
        )

    def start(self, export: Export, manifest: Manifest) -> Run:
        """Start a run, or take up the open one of the same files."""
        for document in (_connection(), export):
            with contextlib.suppress(AlreadyThere, StoreMoved):  # another `push` saves the same
                self._engine.catalog.save(document)
        return self._engine.starter.start_on(export, manifest, because="demand")

    def finish(self, run: Run, *, look_s: float = 0.5, taken_over_after_s: float = 5.0) -> Run:
        """Work until a run is over.

        Another `push` of the same files may have taken its steps, so that this one has none left.
        Then wait for its end. When nobody has held the account for `taken_over_after_s`, that
        process is taken for dead.
        """
        idle_s, is_told = 0.0, False
        while True:
            self._work()
            current = self._engine.runs.run(run.run_id)
            if current is None:
                raise ConfigError(
                    f"The run {run.run_id} was removed while it was open.",
                    hint="Repeat the command.",
                )
            if not current.status.is_open:
                return current
            if not is_told:
                self._tell("Another push of these files is at work. Waiting for its end.")
                is_told = True
            time.sleep(look_s)
            is_at_work = lease.is_held(
                self._store, lease.lease_name(CONNECTION, ""), now=time.time()
            )
            idle_s = 0.0 if is_at_work else idle_s + look_s
            if idle_s >= taken_over_after_s:
                idle_s = 0.0
                self._queue.put(step_message(current))

    def report_of(self, run: Run) -> tuple[dict[str, Any], Run]:
        """Give the report of a run that is over."""
        found = self._store.read(run.folder + "report.json")
        if found is None:
            raise ConfigError(
                f"The report of {run.run_id} was removed.", hint="Repeat the command."
            )
        return json.loads(found.data), run

    def _work(self) -> None:
        """Work the queue until it is empty, waiting where messages are not due yet."""
        while (due := self._queue.next_due()) is not None:
            time.sleep(max(due - time.time(), 0))
            if message := self._queue.take():
                self._handle(message)
                self._tell_setback(str(message["run"]))

    def _handle(self, message: dict[str, object]) -> None:
        """Handle a message as the host does: close a run that keeps failing for unknown reasons.

        Raises what we know of, such as a folder that cannot be written to. The run goes on when
        that is mended.
        """
        for number in range(TRIES):
            try:
                self._engine.dispatcher.handle(message, redelivered=number > 0)
            except ExporterError:
                raise
            except Exception as exc:  # noqa: BLE001 - the outermost edge
                cause = kind_and_place(exc)
                logger.error("message failed", extra={"cause": cause, "attempt": number + 1})
            else:
                return
        self._engine.dispatcher.close_poisoned(message)

    def _tell_setback(self, run_id: str) -> None:
        run, again = self._engine.runs.run(run_id), self._queue.next_due()
        if run and run.setbacks and again is not None:
            wait_s, most = max(again - time.time(), 0), self._engine.limits.setbacks
            tries = f"{run.setbacks} of {most} times"
            self._tell(f"{run.message} Put off for {wait_s:.0f} s ({tries}).")

    def _nap(self, seconds: float) -> None:
        if seconds >= WORTH_TELLING_S:
            self._tell(f"Asking Klaviyo again in {seconds:.0f} s.")
        time.sleep(seconds)


def on_folder(state: Path) -> Engine:
    """Give an engine on the folder where `push` keeps runs, to look at them. It sends nothing.

    Raises ConfigError when there is no such folder.
    """
    if not (state / "runs").is_dir():
        raise ConfigError(
            f"{state} holds no runs.", hint="Give the folder that `push` was given as --state."
        )
    return build_engine(
        store=FolderStore(state),
        snapshots=LocalFiles([]),
        queue=MemoryQueue(),
        read_secret=EnvironmentSecrets().read,
        open_klaviyo=Klaviyo,
        work=state / WORK,
    )


def management(state: Path) -> Management:
    """Give the runs that `push` keeps, to look at. Raises ConfigError if there are none."""
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


class EnvironmentSecrets:
    """The key of a laptop: it is in KLAVIYO_API_KEY, whatever a connection calls it."""

    def read(self, name: str) -> SecretStr:  # noqa: ARG002 - there is one
        key = os.environ.get("KLAVIYO_API_KEY", "")
        if not key:
            hint = "Set it to a private key of the Klaviyo account."
            raise SecretUnavailable("KLAVIYO_API_KEY is not set.", hint=hint)
        return SecretStr(key)

    def write(self, name: str, value: SecretStr) -> None:  # noqa: ARG002 - never kept
        raise ConfigError(
            f"{name} cannot be kept in a folder.", hint="Keep the key in KLAVIYO_API_KEY."
        )

    def delete(self, name: str) -> None:
        """Do nothing: nothing is kept."""


def limits_of(environ: Mapping[str, str]) -> StepLimits:
    """Give the limits of a laptop, with what the environment says of them."""
    share, plan = setting("KLAVIYO_SHARE", environ), setting("MEMORY_MB", environ)
    return dataclasses.replace(LIMITS, pacer_share=share, plan=plan)


def klaviyo_of(environ: Mapping[str, str]) -> OpenKlaviyo:
    """Give clients of the Klaviyo that the environment names."""
    return functools.partial(
        Klaviyo,
        base_url=setting("KLAVIYO_BASE_URL", environ),
        revision=setting("KLAVIYO_REVISION", environ),
        fall_forward=setting("KLAVIYO_FALL_FORWARD", environ),
    )


def new_people(reader: PlanReader) -> NewPeople | None:
    """Count a plan's new people in the account of the key in the environment, if there is one."""
    try:
        with klaviyo_of(os.environ)(EnvironmentSecrets().read(CONNECTION)) as client:
            return count_new_people(client, reader)
    except ExporterError:  # no key, or none that can be one
        return None


def lists_of_key() -> list[ListView]:
    """Give the lists of the account whose key is in the environment, by name."""
    key = EnvironmentSecrets().read(CONNECTION)
    with klaviyo_of(os.environ)(key) as client:
        try:
            found = list(client.lists(with_flows=True))
        except ScopeMissing:  # of flows
            found = list(client.lists())
    return sorted(map(list_view, found), key=lambda view: (view.name.casefold(), view.id))


def find_list(wanted: str) -> str:
    """Find the ID of a list that is given by ID or name. Raises ConfigError.

    What looks like an ID is one, unless a list is called so. The text is not repeated in an error:
    it may be a key.
    """
    if re.fullmatch(LIST_ID, wanted):
        return _named_list(wanted) or wanted
    hint = "Give the ID, such as Y6nRLr, or the name. `lists` shows both."
    if wanted.startswith("pk_") or "/" in wanted:
        raise ConfigError("--list must be a Klaviyo list's ID or name.", hint=hint)
    key = EnvironmentSecrets().read(CONNECTION)
    with klaviyo_of(os.environ)(key) as client:
        ids = [each.id for each in client.lists(wanted)]
        close = [] if ids else _close_names(wanted, (each.name for each in client.lists()))
    if len(ids) > 1:
        several = f"Give one of the IDs {', '.join(ids)}."
        raise ConfigError("Several lists have this name.", hint=several)
    if close:
        hint = f"Did you mean {' or '.join(close)}?"
    elif not ids and re.fullmatch(LIST_ID_PATTERN, wanted):
        return wanted
    if not ids:
        raise ConfigError("The account has no list with this ID or name.", hint=hint)
    return ids[0]


def _named_list(wanted: str) -> str | None:
    """Find the only list with a name that looks like an ID, as Summer does, but is none.

    Where Klaviyo does not tell, the run will say why.
    """
    key = EnvironmentSecrets().read(CONNECTION)
    try:
        with klaviyo_of(os.environ)(key, patience_s=0, read_s=5) as client:
            ids = [each.id for each in client.lists(wanted)]
            if len(ids) != 1:
                return None
            try:
                return client.find_list(wanted).id
            except ListGone:
                return ids[0]
    except ExporterError:
        return None


def _close_names(wanted: str, names: Iterable[str]) -> list[str]:
    by_folded = {name.casefold(): name for name in names}
    return [by_folded[each] for each in difflib.get_close_matches(wanted.casefold(), by_folded)]


def export_to(list_id: str, mapping: MappingDocument, *, keep_rejected_rows: bool) -> Export:
    """Give the export that a `push` to a list is."""
    # Klaviyo's list IDs tell upper from lower case, ours do not.
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


def _connection() -> Connection:
    """Give the connection of `push`: whoever runs it with a key has agreed by doing so."""
    consent = Consent(by="the person who ran push", at=datetime.now(UTC))
    secret = "KLAVIYO-API-KEY"  # noqa: S105 - a name
    return Connection(id=CONNECTION, name="push", secret=secret, consent=consent)


def _make(state: Path) -> Path:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        hint = "Give another folder with --state."
        raise ConfigError(f"The folder {state} cannot be made: {why}.", hint=hint) from exc
    return state


def _open_work(store: FolderStore, state: Path) -> Path:
    """Open the work folder. What a dead process left there goes, unless another one is at work."""
    is_alone = not lease.is_held(store, lease.lease_name(CONNECTION, ""), now=time.time())
    return open_work(state / WORK, abandoned_after_s=0 if is_alone else ABANDONED_AFTER_S)


def _manifest(snapshots: LocalFiles, files: int) -> Manifest:
    """Give the manifest of so many files. Raises ConfigError when one of them was deleted."""
    blobs = list(snapshots.list(""))
    if len(blobs) < files:
        raise ConfigError(
            "A file was deleted before it was read.", hint="Give the files that are there."
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
