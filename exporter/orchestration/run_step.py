"""One step of one run: plan, send, confirm, finish, as far as the time allows.

    PLAN ──> SEND ──> CONFIRM ──> FINISH ──> closed
             ^ │       │ └─ jobs are under way: later, with growing intervals
             │ └───────┼─ no time left: more
             └─────────┘ rows are sent once more, without what Klaviyo refused of them

A step keeps one of the instance's work places while it works, and none while it waits for an
answer: see work_places.py.

A step is taken under the lease on the run's account and looks now and again whether it may go on.
It ends in a result, or in an error that attempt.py turns into one.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import SecretStr

from exporter import telemetry
from exporter.errors import (
    ConfigError,
    ExporterError,
    KeyRefused,
    KlaviyoUnavailable,
    SnapshotUnreadable,
    Transient,
)
from exporter.klaviyo.rate_limit import Pacer
from exporter.klaviyo.responses import KlaviyoList
from exporter.logs import cause_of
from exporter.orchestration.lease import HeldLease
from exporter.orchestration.results import (
    LONGEST_WAIT_S,
    Again,
    StepResult,
    run_over,
    step_message,
)
from exporter.orchestration.withdrawal import Watch, Withdrawal
from exporter.orchestration.work_places import WorkPlaces
from exporter.planning.disk_space import DiskSpace
from exporter.planning.plan import DUPLICATES_CSV, LEFT_OUT_CSV, REJECTED_CSV, Plan
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.summary import refusal
from exporter.runs import report
from exporter.runs.plan_store import PlanStore
from exporter.runs.report import NO_ROWS, FirstRows
from exporter.runs.run import Counts, Phase, Run, Status, enter
from exporter.runs.run_store import Ending, RunStore
from exporter.runs.verdict import count, doubt, verdict
from exporter.sending.delivery import Delivery
from exporter.sending.job_results import Jobs, confirm, poll_interval_s
from exporter.sending.journal import Journal
from exporter.sending.sender import Imports, Sender
from exporter.settings import StepLimits
from exporter.snapshots.container import SnapshotContainer
from exporter.snapshots.paths import NotASnapshot, parse_blob_name
from exporter.snapshots.segments import save_members
from exporter.storage.protocols import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S = 1.0  # between two looks for a withdrawal while planning, which may go on for long
# Planning cannot be interrupted and taken up again: it may last so long, or as long as three steps.
PLAN_S, PLAN_STEPS = 1_440.0, 3
LIST_LOOKS = 4  # looks again at a list that does not agree with what was delivered, ...
LIST_LOOK_S = 30.0  # ... each after twice the time: 8 minutes in all
PROBE_S = 5.0  # for an answer that shows whether an account is there; they mostly take 0.3 s
LIST_SAMPLE = 100  # delivered profiles that are looked up in the list: one request


class Klaviyo(Imports, Jobs, Protocol):
    """What a step needs of Klaviyo."""

    def find_list(self, list_id: str, *, read_s: float | None = None) -> KlaviyoList: ...
    def count_list(self, list_id: str) -> int: ...
    def found_in_list(self, list_id: str, emails: Sequence[str]) -> set[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What a step works with."""

    store: Store
    container: SnapshotContainer
    runs: RunStore
    plans: PlanStore
    withdrawal: Withdrawal
    places: WorkPlaces
    disk: DiskSpace
    read_secret: Callable[[str], SecretStr]
    open_klaviyo: Callable[[SecretStr], Klaviyo]
    limits: StepLimits
    now: Callable[[], datetime]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    progress: Callable[[str, int, int], None]


class RunStep:
    """One step of one run: the phases in order, until the run ends or time runs out."""

    def __init__(
        self, with_: Collaborators, run: Run, etag: str, held: HeldLease, pacer: Pacer
    ) -> None:
        self.run, self.etag = run, etag
        self._with, self._held, self._pacer = with_, held, pacer
        self._klaviyo: Klaviyo | None = None
        self._key: SecretStr | None = None
        self._journal: Journal | None = None
        self._journal_length_before = 0
        self._requests_failed, self._pause_s = False, 0.0
        self._reader: PlanReader | None = None

    def take(self, *, deadline: float) -> StepResult:
        """Go as far as the time allows. Raises what stands in the way."""
        began_at, began_in = self._with.clock(), self.run.phase
        self._held.check()
        self._check_withdrawal()
        try:
            while True:
                match self.run.phase:
                    case Phase.PLAN:
                        if self._with.runs.is_overtaken(self.run):
                            return self.end_early(
                                Status.SKIPPED,
                                message="a newer snapshot was delivered before this one could be",
                            )
                        step_s = deadline - began_at
                        self._plan(deadline=began_at + max(PLAN_S, PLAN_STEPS * step_s))
                        self._enter(Phase.SEND)
                    case Phase.SEND:
                        self._probe_after_setback()
                        if not self._send(deadline):
                            return self._send_more()
                        self._enter(Phase.CONFIRM, sent_at=self._with.now())
                    case Phase.CONFIRM:
                        self._probe_after_setback()
                        is_whole_step = began_in is Phase.CONFIRM
                        with self._with.places.one():
                            have_ended = self._confirm(deadline, is_whole_step=is_whole_step)
                        if not have_ended:
                            return self._ask_later()
                        is_sent = not self._has_rows_again()
                        self._enter(Phase.FINISH if is_sent else Phase.SEND, polls=0)
                    case Phase.FINISH:
                        with self._with.places.one():
                            return self._finish()
                    case Phase.CLOSED:
                        return run_over(self.run)
        finally:
            self._close_reader()

    def end_early(self, status: Status, *, message: str, hint: str = "") -> StepResult:
        """End a run that cannot go on, with the lists of rows so far. Raises StoreMoved."""
        ending = Ending(
            status=status, message=message, hint=hint, first_rows=self._save_rows_so_far()
        )
        self.run = self._with.runs.end(self.run, ending, etag=self.etag)
        return run_over(self.run)

    def error_of_key(self, error: KeyRefused) -> ExporterError:
        """Return what a refused key means.

        Try again if the vault holds another one now, else `error`.
        """
        try:
            if self._renew_key() is None:
                return error
        except ExporterError as exc:
            return exc
        return Transient("the Klaviyo key was replaced while it was in use", retry_after_s=1)

    @property
    def has_progressed(self) -> bool:
        """Whether this step recorded anything about the batches."""
        return self._journal is not None and self._journal.length > self._journal_length_before

    # Plan

    @telemetry.phase(Phase.PLAN)
    def _plan(self, *, deadline: float) -> None:
        """Plan, and ask Klaviyo for the list meanwhile.

        The plan is in the store before the run names it.
        """
        run, token = self.run, f"plan-{uuid.uuid4().hex[:8]}"
        if not run.manifest.partitions:
            raise SnapshotUnreadable(
                "the snapshot has no partitions",
                hint="Run the export in Customer Insights again.",
            )
        self._probe_after_setback()
        self._with.plans.remove_local_copy(run)
        find_list = telemetry.carrying(partial(self.klaviyo.find_list, read_s=PROBE_S))
        with ThreadPoolExecutor(1, thread_name_prefix="list") as beside:
            asked = beside.submit(find_list, run.list_id)
            with self._with.places.one():
                progress = self._planning_progress(asked, deadline)
                plan = self._make_plan(token, progress)
            asked.result()
        self._held.check()
        created = self._with.withdrawal.connection_of(run).created
        self._save(
            plan=token,
            counts=count(plan, Delivery()),  # from here on whoever watches sees them
            connection_created_at=created.at if created else None,
        )
        self._note_members(plan)
        if error := refusal(plan, run.max_profiles):
            raise error

    def _make_plan(self, token: str, progress: Callable[[int], None]) -> Plan:
        """Make the plan where the disk has room, and leave little of it there."""
        run, plans, limits = self.run, self._with.plans, self._with.limits.plan
        parts, upload = run.manifest.partitions, plans.upload(run, token)
        plans.remove_abandoned()
        with self._with.disk.reserved(parts) as watch:

            def finished_file(path: Path) -> None:
                watch.finished_file(path)
                upload(path)

            try:
                plan = make_plan(
                    [watch.source(self._with.container.source(part)) for part in parts],
                    run.mapping,
                    plans.folder(run, token),
                    limits=limits,
                    keep_rows=run.keep_rejected_rows,
                    progress=progress,
                    finished_file=finished_file,
                )
            except BaseException:
                plans.remove_local_copy(run)
                raise
            plans.remove_pieces(run, token, but=limits.local_pieces)
        return plan

    def _planning_progress(
        self, asked: Future[KlaviyoList], deadline: float
    ) -> Callable[[int], None]:
        """Return what planning calls with the rows so far.

        It raises where there is no need to go on.
        """
        looked_at = self._with.clock()

        def progress(rows: int) -> None:
            nonlocal looked_at
            self._with.progress("plan", rows, 0)
            now = self._with.clock()
            if now > deadline:
                raise _too_slow(self.run, rows)
            if now - looked_at > LOOK_S:
                looked_at = now
                self._check_withdrawal()
            if asked.done():
                asked.result()  # no list or no key: no need to plan on

        return progress

    def _note_members(self, plan: Plan) -> None:
        """Note how many people each segment has by this plan. The run does without."""
        rows = {note.name: note.rows for note in plan.sources}
        parts = self.run.manifest.partitions
        counted = {}
        try:
            for ref in {parse_blob_name(part.name) for part in parts}:
                own = [part for part in parts if ref.holds(part.name)]
                counted[ref] = own, sum(rows[part.name] for part in own)
            save_members(self._with.store, counted)
        except NotASnapshot:  # files of a laptop
            return
        except ExporterError as exc:
            logger.warning("members not noted", extra={"cause": exc.message})

    def _probe_after_setback(self) -> None:
        """Ask the account for something small, if it stood in the way the last time.

        So one request finds out that it is still silent, and no work is begun for it.
        """
        if self.run.setbacks:
            self.klaviyo.find_list(self.run.list_id, read_s=PROBE_S)

    # Send

    @telemetry.phase(Phase.SEND)
    def _send(self, deadline: float) -> bool:
        """Send what is not accepted yet. True when all of it is."""
        clock = self._with.clock
        with (
            self._with.places.one() as should_yield,
            ThreadPoolExecutor(1, thread_name_prefix="watch") as beside,
        ):
            plan = self.reader.plan
            watch = Watch(self._check_withdrawal, beside, clock)

            def check() -> None:
                self._held.check()
                watch.check()

            sender = Sender(
                self.reader,
                self.journal,
                self.klaviyo,
                self._pacer,
                check=check,
                should_yield=should_yield,
                renew_key=self._renew_key,
                clock=clock,
                sleep=self._with.sleep,
                limits=self._with.limits.send,
                repairs=self.run.repairs,
                progress=lambda accepted: self._with.progress("send", accepted, plan.profiles),
            )
            try:
                is_all_sent = sender.send(deadline=deadline)
            finally:
                self.run = self.run.model_copy(update={"repairs": sender.repairs})
        self._requests_failed, self._pause_s = sender.failures > 0, sender.pause_s
        return is_all_sent

    def _send_more(self) -> StepResult:
        # A step that is shorter than the time for which a request is tried again never gives up by
        # itself. So failed requests without progress count as a setback of the step.
        setbacks = 0 if self.has_progressed else self.run.setbacks + self._requests_failed
        if setbacks > self._with.limits.setbacks:
            raise KlaviyoUnavailable("Klaviyo took no batch")
        wait_s = max(self._pause_s, 2.0**setbacks if setbacks else 0.0)
        message = "Klaviyo took no batch" if setbacks else ""
        return self._next_step(
            min(wait_s, LONGEST_WAIT_S), "send", setbacks=setbacks, message=message, hint=""
        )

    # Confirm

    @telemetry.phase(Phase.CONFIRM)
    def _confirm(self, deadline: float, *, is_whole_step: bool) -> bool:
        """Ask what became of the import jobs. True when all of them have ended."""
        unseen = confirm(
            self.journal,
            self.klaviyo,
            lambda: self.reader,
            now=self._with.now(),
            check=self._held.check,
            clock=self._with.clock,
            deadline=deadline,
            may_cut=is_whole_step,
            is_last_try=self.run.setbacks >= self._with.limits.setbacks,
            unseen=self.run.unseen_jobs,
        )
        self.run = self.run.model_copy(update={"unseen_jobs": unseen or []})
        return unseen is None

    def _has_rows_again(self) -> bool:
        """Whether rows that Klaviyo could not import are to be sent once more."""
        delivery = self.journal.delivery
        return bool(delivery.sent_again) and delivery.has_remaining(self.reader.plan.batches)

    def _ask_later(self) -> StepResult:
        delivery = self.journal.delivery
        self._with.progress("confirm", len(delivery.ended), len(delivery.jobs))
        polls = self.run.polls + 1
        wait_s = poll_interval_s(polls, longest_s=self._with.limits.send.longest_poll_s)
        return self._next_step(wait_s, "confirm", polls=polls, setbacks=0, message="", hint="")

    # Finish

    @telemetry.phase(Phase.FINISH)
    def _finish(self) -> StepResult:
        """End the run, unless the list does not agree with what was delivered.

        Klaviyo may be late.
        """
        plan = self.reader.plan
        counts = count(plan, self.journal.delivery)
        if self.run.reconcile:
            counts = self._reconciled(counts)
            if doubt(counts)[0] and self.run.list_looks < LIST_LOOKS:
                looks = self.run.list_looks
                return self._next_step(LIST_LOOK_S * 2**looks, "finish", list_looks=looks + 1)
        status, message, hint = verdict(
            counts, self.run.manifest.missing, reconciles=self.run.reconcile
        )
        ending = Ending(
            status=status,
            message=message,
            hint=hint,
            counts=counts,
            plan=plan,
            first_rows=self._save_rows(),
        )
        self._close_reader()
        self.run = self._with.runs.end(self.run, ending, etag=self.etag)
        return run_over(self.run)

    def _reconciled(self, counts: Counts) -> Counts:
        """Add what Klaviyo says of the list. It may not answer: what was delivered is delivered."""
        list_id, emails = self.run.list_id, self._sample()
        counted = _answered(lambda: self.klaviyo.count_list(list_id))
        found = _answered(lambda: self.klaviyo.found_in_list(list_id, emails) if emails else set())
        sampled, missing = None, 0
        if found is not None:
            sampled, missing = len(emails), len(emails) - len(found)
        update = {"list_members": counted, "list_sampled": sampled, "list_missing": missing}
        return counts.model_copy(update=update)

    def _sample(self) -> list[str]:
        """Return addresses of delivered profiles from all over the run.

        None for other identifiers.
        """
        plan = self.reader.plan
        if plan.identifier != "email":
            return []
        addresses: list[str] = []
        for batch, positions in self.journal.delivery.sample(LIST_SAMPLE).items():
            rows = self.reader.rows_at(plan.batches[batch], positions)
            addresses += [row.identifier for row in rows.values()]
        return addresses

    def _save_rows(self) -> FirstRows:
        """Write the lists of rows into the store.

        Return the first of what Klaviyo did not take.
        """
        folder, delivery = self.reader.folder, self.journal.delivery
        rejected, left_out = folder / "undelivered.csv", folder / "lacking.csv"
        shutil.copyfile(folder / REJECTED_CSV, rejected)
        undelivered = report.append_undelivered(rejected, self.reader, delivery)
        left_out.unlink(missing_ok=True)
        if (folder / LEFT_OUT_CSV).exists():
            shutil.copyfile(folder / LEFT_OUT_CSV, left_out)
        attributes = report.append_left_out(left_out, self.reader, delivery)
        self._with.store.upload(self.run.folder + REJECTED_CSV, rejected)
        self._with.store.upload(self.run.folder + DUPLICATES_CSV, folder / DUPLICATES_CSV)
        if self.reader.plan.dropped_reasons or attributes:
            self._with.store.upload(self.run.folder + LEFT_OUT_CSV, left_out)
        return FirstRows(undelivered=undelivered, attributes=attributes)

    def _save_rows_so_far(self) -> FirstRows:
        """Do the same for a run that ends early, where that is possible.

        Ending it must not fail for it.
        """
        if not self.run.plan:
            return NO_ROWS
        try:
            return self._save_rows()
        except (ExporterError, OSError) as exc:
            logger.warning("rows not listed", extra={"cause": cause_of(exc)})
            return NO_ROWS
        finally:
            self._close_reader()

    # Between phases and steps

    def _enter(self, phase: Phase, **changes: Any) -> None:
        self.run = enter(self.run, phase, now=self._with.now())
        self._save(setbacks=0, **changes)

    def _next_step(self, after_s: float, why: str, **changes: Any) -> StepResult:
        waits_until = self._with.now() + timedelta(seconds=after_s) if after_s else None
        self._save(step=self.run.step + 1, waits_until=waits_until, **changes)
        return Again(step_message(self.run), after_s, why)

    def _save(self, **changes: Any) -> None:
        changed = self.run.model_copy(update=changes)
        self.run, self.etag = self._with.runs.save(changed, self.etag)

    def _check_withdrawal(self) -> None:
        self._with.withdrawal.check(self.run)

    # What a phase needs, opened when it is first needed

    @property
    def klaviyo(self) -> Klaviyo:
        if self._klaviyo is None:
            self._use_key(self._read_key())
        assert self._klaviyo is not None
        return self._klaviyo

    def _renew_key(self) -> Klaviyo | None:
        """Return a client for the key in the vault; None when it is the one that was refused."""
        key = self._read_key()
        if key == self._key:
            return None
        self._use_key(key)
        return self._klaviyo

    def _read_key(self) -> SecretStr:
        return self._with.read_secret(self._with.withdrawal.connection_of(self.run).secret)

    def _use_key(self, key: SecretStr) -> None:
        self._key, self._klaviyo = key, self._with.open_klaviyo(key)

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            self._journal = self._with.runs.journal(self.run)
            self._journal_length_before = self._journal.length
        return self._journal

    @property
    def reader(self) -> PlanReader:
        if self._reader is None:
            plan, folder = self._with.plans.fetch(self.run)
            limits = self._with.limits.plan
            self._reader = PlanReader(
                plan,
                folder,
                list_id=self.run.list_id,
                memory_mb=limits.memory_mb,
                pieces=self._with.plans.pieces(self.run, most=limits.local_pieces),
            )
        return self._reader

    def _close_reader(self) -> None:
        if self._reader:
            self._reader.close()
            self._reader = None


def _too_slow(run: Run, rows: int) -> ConfigError:
    size = sum(part.size_bytes for part in run.manifest.partitions)
    return ConfigError(
        f"the snapshot of {size:,} bytes could not be planned in time: {rows:,} rows were read; "
        "nothing was sent",
        hint="Run the export again if storage was slow. Else give the app more memory, or raise "
        "STEP_SECONDS, and functionTimeout in host.json to four times that.",
    )


def _answered(ask: Callable[[], T]) -> T | None:
    """Return an answer of Klaviyo's that the run can do without."""
    try:
        return ask()
    except ExporterError as exc:
        logger.warning("list not looked at", extra={"cause": type(exc).__name__})
        return None
