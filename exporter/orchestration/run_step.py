"""One step of one run: plan, send, confirm, finish, as far as the time allows.

    PLAN ──> SEND ──> CONFIRM ──> FINISH ──> closed
               │         └─ jobs are under way: later, with growing intervals
               └─ no time left: more

A step is taken under the connection's lease and looks now and again whether it may go on. It ends in a value, or in an
error that service.py turns into one.
"""

from __future__ import annotations

import logging
import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from pydantic import SecretStr

from exporter import telemetry
from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection
from exporter.definitions.definition import is_same_document
from exporter.errors import (
    ConfigError,
    ExporterError,
    KeyRefused,
    KlaviyoUnavailable,
    RunCanceled,
    SnapshotUnreadable,
    Transient,
)
from exporter.klaviyo.rate_limit import Pacer
from exporter.klaviyo.responses import KlaviyoList
from exporter.logs import cause_of
from exporter.orchestration import lease
from exporter.orchestration.results import Done, Next, StepResult, step_message
from exporter.planning.plan import DUPLICATES_CSV, REJECTED_CSV, Plan
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.summary import refusal
from exporter.reading.source import PartitionSource
from exporter.runs import report
from exporter.runs.report import NO_EXAMPLES, Examples
from exporter.runs.run import Counts, Phase, Run, Status, close, enter
from exporter.runs.run_store import RunStore
from exporter.runs.verdict import count, doubt, verdict
from exporter.sending.delivery import Delivery
from exporter.sending.job_results import Jobs, confirm, poll_interval_s
from exporter.sending.journal import Journal
from exporter.sending.sender import Imports, Sender, SendLimits
from exporter.snapshots import members
from exporter.snapshots.manifest import ManifestPartition
from exporter.snapshots.paths import NotASnapshot, parse_blob_name
from exporter.storage.protocols import Snapshots, Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

WITHDRAWAL_S = 0.3  # how old our knowledge of a withdrawal may be when a batch leaves
PLANNING_LOOK_S = 1.0  # between two looks for a withdrawal while planning, which may go on for long
PLAN_S, PLAN_STEPS = (
    1_440.0,
    3,
)  # planning cannot be taken up again: it may last so long, or as long as three steps
LONGEST_PAUSE_S = (
    300.0  # between two steps; the timer takes a run for stuck that nothing moves for longer
)
LIST_LOOKS, LIST_LOOK_S = (
    4,
    30.0,
)  # looks again at a list that does not agree, each after twice the time: 8 minutes
LIST_SAMPLE = 100  # delivered profiles that are looked up in it: one request
SETBACKS = 12  # failures in a row without progress; their growing waits make half an hour, then the run ends


class Klaviyo(Imports, Jobs, Protocol):
    """What a step needs of Klaviyo."""

    def find_list(self, list_id: str) -> KlaviyoList: ...
    def count_list(self, list_id: str) -> int: ...
    def found_in_list(self, list_id: str, emails: Sequence[str]) -> set[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The outside world of a step, and how much of this machine it may take."""

    store: Store
    snapshots: Snapshots
    catalog: Catalog
    records: RunStore
    read_secret: Callable[[str], SecretStr]
    open_klaviyo: Callable[[SecretStr], Klaviyo]
    now: Callable[[], datetime]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    progress: Callable[[str, int, int], None]
    memory_mb: int
    setbacks: int  # steps put off in a row without progress, before the run ends
    send: SendLimits

    def source(self, part: ManifestPartition) -> PartitionSource:
        """A manifest's partition, to be read as it was when the manifest was frozen."""
        return PartitionSource(
            name=part.name,
            open=lambda: self.snapshots.open(part.name, etag=part.etag),
            dialect=part.dialect,
        )

    def read_key(self, connection: Connection) -> SecretStr:
        return self.read_secret(connection.secret)


class Step:
    """One step of one run: the phases in order, until the run ends or time runs out."""

    def __init__(
        self, outside: Outside, run: Run, etag: str, held: lease.HeldLease, pacer: Pacer
    ) -> None:
        self.run, self.etag = run, etag
        self._outside, self._held, self._pacer = outside, held, pacer
        self._klaviyo: Klaviyo | None = None
        self._journal: Journal | None = None
        self._facts_before = 0
        self._requests_failed, self._pause_s = False, 0.0
        self._reader: PlanReader | None = None

    def take(self, *, deadline: float) -> StepResult:
        began_at, began_in = self._outside.clock(), self.run.phase
        self._held.check()
        self._look()
        try:
            while True:
                match self.run.phase:
                    case Phase.PLAN:
                        if self._outside.records.is_overtaken(self.run):
                            message = "a newer snapshot was delivered before this one could be"
                            self._outside.records.end_early(
                                self.run, self.etag, Status.SKIPPED, message=message
                            )
                            return Done()
                        self._plan(
                            deadline=began_at + max(PLAN_S, PLAN_STEPS * (deadline - began_at))
                        )
                        self._enter(Phase.SEND)
                    case Phase.SEND:
                        if not self._send(deadline):
                            return self._more()
                        self._enter(Phase.CONFIRM, sent_at=self._outside.now())
                    case Phase.CONFIRM:
                        if not self._confirm(deadline, is_whole_step=began_in is Phase.CONFIRM):
                            return self._ask_later()
                        self._enter(Phase.FINISH)
                    case Phase.FINISH:
                        if not self._finish():
                            return self._look_at_list_again()
                        return Done()
                    case Phase.CLOSED:
                        return Done()
        finally:
            self._close_reader()

    def error_of_key(self, error: KeyRefused) -> ExporterError:
        """What a refused key means: try again if another one is in the vault by now, else `error`."""
        try:
            if self._renew_key() is None:
                return error
        except ExporterError as exc:
            return exc
        return Transient("the Klaviyo key was replaced while it was in use", retry_after_s=1)

    @property
    def has_progressed(self) -> bool:
        """Whether this step recorded anything about the batches."""
        return self._journal is not None and self._journal.length > self._facts_before

    def save_rows_so_far(self) -> Examples:
        """The lists of rows of a run that ends early, where that is possible: closing it must not fail for them.

        Returns the first rows that Klaviyo did not take.
        """
        if not self.run.plan:
            return NO_EXAMPLES
        try:
            return self._save_rows()
        except (ExporterError, OSError) as exc:
            logger.warning("rows not listed", extra={"cause": cause_of(exc)})
            return NO_EXAMPLES
        finally:
            self._close_reader()

    # Phases

    @telemetry.phase(Phase.PLAN)
    def _plan(self, *, deadline: float) -> None:
        """Plan, and ask Klaviyo for the list meanwhile. The plan is in the store before the run names it."""
        if not self.run.manifest.partitions:
            raise SnapshotUnreadable(
                "the snapshot has no partitions", hint="Run the export in Customer Insights again."
            )
        outside, run, token = self._outside, self.run, f"plan-{uuid.uuid4().hex[:8]}"
        outside.records.forget_plan(run)
        looked_at = outside.clock()
        with ThreadPoolExecutor(1, thread_name_prefix="list") as beside:
            asked = beside.submit(telemetry.carrying(self.klaviyo.find_list), run.list_id)

            def progress(rows: int) -> None:
                nonlocal looked_at
                outside.progress("plan", rows, 0)
                now = outside.clock()
                if now > deadline:
                    raise _too_slow(run, rows)
                if now - looked_at > PLANNING_LOOK_S:
                    looked_at = now
                    self._look()
                if asked.done():
                    asked.result()  # no list or no key: no need to plan on

            plan = make_plan(
                [outside.source(part) for part in run.manifest.partitions],
                run.mapping,
                outside.records.plan_folder(run, token),
                memory_mb=outside.memory_mb,
                keep_rows=run.keep_rejected_rows,
                progress=progress,
                finished_file=lambda path: outside.store.upload(
                    f"{run.folder}{token}/{path.name}", path
                ),
            )
            asked.result()
        self._held.check()
        created = _connection(outside, run).created
        counts = count(plan, Delivery())  # known from here on, for whoever watches
        self._save(plan=token, counts=counts, connection_created_at=created.at if created else None)
        self._note_members(plan)
        if error := refusal(plan, run.max_profiles):
            raise error

    def _note_members(self, plan: Plan) -> None:
        """Note how many people each segment has by this plan; the run does without."""
        rows, parts = {note.name: note.rows for note in plan.sources}, self.run.manifest.partitions
        try:
            refs = {parse_blob_name(part.name) for part in parts}
            blobs = {ref: [part for part in parts if ref.holds(part.name)] for ref in refs}
            members.keep(
                self._outside.store,
                {ref: (own, sum(rows[part.name] for part in own)) for ref, own in blobs.items()},
            )
        except NotASnapshot:  # files of a laptop
            return
        except ExporterError as exc:
            logger.warning("members not noted", extra={"cause": exc.message})

    @telemetry.phase(Phase.SEND)
    def _send(self, deadline: float) -> bool:
        plan = self.reader.plan
        with ThreadPoolExecutor(1, thread_name_prefix="watch") as beside:
            watch = _Watch(self._look, beside, self._outside.clock)

            def check() -> None:
                self._held.check()
                watch.check()

            sender = Sender(
                self.reader,
                self.journal,
                self.klaviyo,
                self._pacer,
                check=check,
                renew_key=self._renew_key,
                clock=self._outside.clock,
                sleep=self._outside.sleep,
                limits=self._outside.send,
                repairs=self.run.repairs,
                progress=lambda accepted: self._outside.progress("send", accepted, plan.profiles),
            )
            try:
                is_all_sent = sender.send(deadline=deadline)
            finally:
                self.run = self.run.model_copy(update={"repairs": sender.repairs})
        self._requests_failed, self._pause_s = sender.failures > 0, sender.pause_s
        return is_all_sent

    @telemetry.phase(Phase.CONFIRM)
    def _confirm(self, deadline: float, *, is_whole_step: bool) -> bool:
        unseen = confirm(
            self.journal,
            self.klaviyo,
            lambda: self.reader,
            now=self._outside.now(),
            check=self._held.check,
            clock=self._outside.clock,
            deadline=deadline,
            may_cut=is_whole_step,
            is_last_try=self.run.setbacks >= self._outside.setbacks,
            unseen=self.run.unseen_jobs,
        )
        self.run = self.run.model_copy(update={"unseen_jobs": unseen or []})
        return unseen is None

    @telemetry.phase(Phase.FINISH)
    def _finish(self) -> bool:
        """The lists of rows, the report, then the run closes: whoever sees it closed finds its report.

        False when the list does not agree with what was delivered, and may be late.
        """
        plan, delivery = self.reader.plan, self.journal.delivery
        counts = count(plan, delivery)
        if self.run.reconcile:
            counts = self._reconciled(counts)
            if doubt(counts)[0] and self.run.list_looks < LIST_LOOKS:
                return False
        status, message, hint = verdict(
            counts, self.run.manifest.missing, reconciles=self.run.reconcile
        )
        undelivered = self._save_rows()
        closed = close(
            self.run.model_copy(update={"counts": counts}),
            status,
            now=self._outside.now(),
            message=message,
            hint=hint,
        )
        self._outside.records.save_report(closed, plan, undelivered)
        self.run, self.etag = self._outside.records.write(closed, self.etag)
        self._close_reader()
        self._outside.records.tidy(self.run)
        telemetry.run_closed(self.run)
        logger.info(
            "run finished",
            extra={"status": str(status), "profiles": counts.delivered, "rows": counts.rows},
        )
        return True

    def _reconciled(self, counts: Counts) -> Counts:
        """The numbers with what Klaviyo says of the list. It may not answer: what was delivered is delivered."""
        list_id, emails = self.run.list_id, self._sample()
        counted = _answered(lambda: self.klaviyo.count_list(list_id))
        found = _answered(lambda: self.klaviyo.found_in_list(list_id, emails) if emails else set())
        sampled, missing = (None, 0) if found is None else (len(emails), len(emails) - len(found))
        update = {"list_members": counted, "list_sampled": sampled, "list_missing": missing}
        return counts.model_copy(update=update)

    def _sample(self) -> list[str]:
        """Addresses of delivered profiles from all over the run; none where people are not known by their address."""
        plan = self.reader.plan
        if plan.identifier != "email":
            return []
        sampled = self.journal.delivery.sample(LIST_SAMPLE)
        rows = [
            self.reader.rows_at(plan.batches[batch], positions)
            for batch, positions in sampled.items()
        ]
        return [row.identifier for found in rows for row in found.values()]

    def _save_rows(self) -> Examples:
        folder = self.reader.folder
        rejected = folder / "undelivered.csv"
        shutil.copyfile(folder / REJECTED_CSV, rejected)
        undelivered = report.append_undelivered(rejected, self.reader, self.journal.delivery)
        self._outside.store.upload(self.run.folder + REJECTED_CSV, rejected)
        self._outside.store.upload(self.run.folder + DUPLICATES_CSV, folder / DUPLICATES_CSV)
        return undelivered

    # Between phases

    def _enter(self, phase: Phase, **changes: Any) -> None:
        self.run = enter(self.run, phase, now=self._outside.now())
        self._save(setbacks=0, **changes)

    def _more(self) -> StepResult:
        # A step that is shorter than the time for which a request is tried again never gives up by itself.
        setbacks = 0 if self.has_progressed else self.run.setbacks + self._requests_failed
        if setbacks > self._outside.setbacks:
            raise KlaviyoUnavailable("Klaviyo took no batch")
        self._save(step=self.run.step + 1, setbacks=setbacks)
        return Next(step_message(self.run), after_s=min(self._pause_s, LONGEST_PAUSE_S))

    def _ask_later(self) -> StepResult:
        self._outside.progress(
            "confirm", len(self.journal.delivery.ended), len(self.journal.delivery.jobs)
        )
        self._save(step=self.run.step + 1, polls=self.run.polls + 1, setbacks=0)
        wait_s = poll_interval_s(self.run.polls, longest_s=self._outside.send.longest_poll_s)
        return Next(step_message(self.run), after_s=wait_s)

    def _look_at_list_again(self) -> StepResult:
        looks = self.run.list_looks
        self._save(step=self.run.step + 1, list_looks=looks + 1)
        return Next(step_message(self.run), after_s=LIST_LOOK_S * 2**looks)

    def _close_reader(self) -> None:
        if self._reader:
            self._reader.close()
            self._reader = None

    def _save(self, **changes: Any) -> None:
        self.run, self.etag = self._outside.records.write(
            self.run.model_copy(update=changes), self.etag
        )

    def _look(self) -> None:
        _check_not_withdrawn(self._outside, self.run)

    # What a phase needs, opened when it is first needed

    @property
    def klaviyo(self) -> Klaviyo:
        if self._klaviyo is None:
            self._key = self._outside.read_key(_connection(self._outside, self.run))
            self._klaviyo = self._outside.open_klaviyo(self._key)
        return self._klaviyo

    def _renew_key(self) -> Klaviyo | None:
        """A client for the key that is in the vault by now; None when it is the one that was refused."""
        key = self._outside.read_key(_connection(self._outside, self.run))
        if key == self._key:
            return None
        self._key, self._klaviyo = key, self._outside.open_klaviyo(key)
        return self._klaviyo

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self._outside.store, self.run.folder)
            self._facts_before = self._journal.length
        return self._journal

    @property
    def reader(self) -> PlanReader:
        if self._reader is None:
            plan, folder = self._outside.records.fetch_plan(self.run)
            memory_mb = self._outside.memory_mb
            self._reader = PlanReader(plan, folder, list_id=self.run.list_id, memory_mb=memory_mb)
        return self._reader


class _Watch:
    """Whether somebody withdrew. It is looked at beside the sending: three reads each time would hold up the pace."""

    def __init__(
        self, look: Callable[[], None], beside: ThreadPoolExecutor, clock: Callable[[], float]
    ) -> None:
        self._look, self._beside, self._clock = look, beside, clock
        self._looked_at = -math.inf
        self._looking: tuple[float, Future[None]] | None = None

    def check(self) -> None:
        """Raise what a look found. Waits for one only where the last began more than WITHDRAWAL_S ago."""
        now = self._clock()
        if self._looking and self._looking[1].done():
            self._take()
        if not self._looking and now - self._looked_at > WITHDRAWAL_S / 2:
            self._begin(now)
        if now - self._looked_at > WITHDRAWAL_S:
            self._take()
        if now - self._looked_at > WITHDRAWAL_S:  # that one took too long itself
            self._begin(now)
            self._take()

    def _begin(self, now: float) -> None:
        self._looking = now, self._beside.submit(telemetry.carrying(self._look))

    def _take(self) -> None:
        if self._looking:
            (began_at, looking), self._looking = self._looking, None
            looking.result()
            self._looked_at = began_at


def _connection(outside: Outside, run: Run) -> Connection:
    connection = outside.catalog.connection(run.connection)
    if connection is None or not is_same_document(connection, run.connection_created_at):
        raise RunCanceled("the connection was removed")
    return connection


def _check_not_withdrawn(outside: Outside, run: Run) -> None:
    """Raise RunCanceled when a person took back what the run stands on."""
    export = outside.catalog.export(run.export)
    if export is None or not is_same_document(export, run.export_created_at):
        raise RunCanceled("the export was removed")
    if export.paused or export.connection != run.connection:
        raise RunCanceled("the export was paused or given another connection")
    if _connection(outside, run).consent is None:
        raise RunCanceled(
            "nobody has agreed that data of this connection leaves for Klaviyo", hint="Agree first."
        )
    if (why := outside.records.why_cancelled(run.run_id)) is not None:
        raise RunCanceled(why)


def _too_slow(run: Run, rows: int) -> ConfigError:
    size = sum(part.size_bytes for part in run.manifest.partitions)
    return ConfigError(
        f"the snapshot of {size:,} bytes could not be planned in time: {rows:,} rows were read; nothing was sent",
        hint="Run the export again if storage was slow. Else give the app more memory, or raise STEP_SECONDS, and "
        "functionTimeout in host.json to four times that.",
    )


def _answered(ask: Callable[[], T]) -> T | None:
    """An answer of Klaviyo's that we can do without."""
    try:
        return ask()
    except ExporterError as exc:
        logger.warning("list not looked at", extra={"cause": type(exc).__name__})
        return None
