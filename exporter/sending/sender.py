"""Batches become import jobs, at Klaviyo's pace. Each acceptance is recorded in the journal.

    ranges that remain --> body --> [pacer] --> some requests in flight --> accepted: journal
            ^                                            |
            |-- without these attributes <-- rows refused by name, for the first time
            |-- without these rows <-------- rows refused by name
            |-- in two halves <------------- refused, no row named
            +-- later <--------------------- failed: again, or give up

One thread orders everything, the others only wait for answers. So no lock is needed, and every
decision knows all that was recorded before it.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from exporter import telemetry
from exporter.errors import (
    BatchRefused,
    BatchTooLarge,
    ExporterError,
    KeyRefused,
    KlaviyoRejected,
    RateInfo,
    RateLimited,
    Transient,
)
from exporter.klaviyo.backoff import GiveUp, decide, outcome_of
from exporter.klaviyo.rate_limit import Pacer
from exporter.klaviyo.responses import ImportJob
from exporter.planning.plan import PlannedBatch
from exporter.planning.request_bodies import PlanReader
from exporter.sending.delivery import (
    AttributesRefused,
    BatchAccepted,
    Event,
    RowsRefused,
    Saying,
    grouped,
    left_out,
    stretches,
)
from exporter.sending.journal import Journal
from exporter.sending.limits import SendLimits
from exporter.sending.second_try import Complaint, suspected

logger = logging.getLogger(__name__)

REPAIR_HINT = (
    "Mostly one column is the cause: it is mapped to the wrong attribute, or holds something else. "
    "`report RUN --rows rejected` names the rows found so far. Correct the mapping or the "
    "segment, then run the export again."
)
SIZE_HINT = (
    "A proxy or firewall between the app and Klaviyo may limit the size of requests. Raise its "
    "limit to 5 MB, or let requests to Klaviyo pass it by. Then run the export again."
)
ACCOUNT_HINT = (
    "Klaviyo refuses rows from all over the file for the same reason. So the cause is the account, "
    "the list or the mapping, not these people. Look at the account in Klaviyo, then run the "
    "export again."
)
PROBES = 5  # single rows, spread over the first batch that is refused without a name
# For longer no place is kept: the step ends, and comes back through the queue.
LONG_PAUSE_S = 5.0
_AHEAD = 3  # bodies built before their turn: a slow one does not slow down the pace
_BUILD_S = 0.05  # mostly enough to build a body: with less time left, none is begun
# Between two looks for a withdrawal: shorter than what we know of one may be old, so that no batch
# waits for a look. Longer while no batch may be sent anyway: looking costs more than all else then.
_NAP_S, _LONG_NAP_S = 0.25, 1.0


class Imports(Protocol):
    """What sending needs of Klaviyo. Called from several threads."""

    def start_import(self, body: bytes) -> tuple[ImportJob, RateInfo]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A range of a batch to be sent."""

    batch: PlannedBatch
    first: int
    last: int
    attempt: int = 1
    key: int = 0  # which of the keys read so far it was sent with
    began_at: float = 0.0  # of the first attempt; 0 = not yet
    not_before: float = 0.0
    is_probe: bool = False  # one row, sent alone to see whether rows are the cause at all


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A row that was refused alone, while nothing of the run was accepted."""

    batch: int
    position: int
    words: str


class Sender:
    """Sends what a run's journal says is not accepted yet."""

    def __init__(
        self,
        reader: PlanReader,
        journal: Journal,
        klaviyo: Imports,
        pacer: Pacer,
        *,
        check: Callable[[], None],
        renew_key: Callable[[], Imports | None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        should_yield: Callable[[], bool] = lambda: False,
        limits: SendLimits = SendLimits(),
        repairs: int = 0,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare to send; nothing is sent yet.

        check: asked before every batch; raises when this instance must not send any more.
        should_yield: says whether others wait for this place of work.
        renew_key: reads the key again after a 401; returns a client for it, or None if it is the
        same.
        repairs: refusals that the run has spent on bad rows before.
        progress: told how many profiles were accepted so far.
        """
        self._reader, self._journal, self._klaviyo, self._pacer = reader, journal, klaviyo, pacer
        self._check, self._renew_key, self._clock, self._sleep = check, renew_key, clock, sleep
        self._should_yield = should_yield
        self._limits, self._progress = limits, progress
        self._tasks: deque[_Task] = deque()
        self._ready: deque[tuple[_Task, bytes]] = deque()
        self._flying: dict[Future[tuple[ImportJob, RateInfo]], _Task] = {}
        self._throttles_before = pacer.throttles  # this step
        self._key = 0
        self._refused_attributes: Counter[str] = Counter()  # this step
        self._splits = 0  # this step
        self._open_probes = 0
        self._has_probed = False  # this step
        self._suspects: list[_Suspect] = []  # all for the same words, and not recorded yet
        self.repairs = repairs  # with those of this step
        self.failures = 0  # requests to be tried again
        self.pause_s = 0.0  # until anything may be sent again, where that is why `send` ended

    def send(self, *, deadline: float) -> bool:
        """Send until everything is accepted (True), or until the deadline or a long pause (False).

        Raises what ends the attempt.
        """
        for batch in self._reader.plan.batches:
            for first, last in self._journal.delivery.remaining(batch):
                self._tasks.append(_Task(batch=batch, first=first, last=last))
        failure: Exception | None = None
        with ThreadPoolExecutor(self._limits.in_flight, thread_name_prefix="send") as pool:
            try:
                while not failure and self._may_go_on(deadline):
                    self._check()
                    self._launch(pool)
                    failure = self._collect()
                    pause_s = 0.0 if self._flying else self._pause()
                    if pause_s > LONG_PAUSE_S:
                        self.pause_s = pause_s
                        break
            finally:
                failure = self._land() or failure
        if failure:
            raise failure
        is_done = not (self._tasks or self._ready)
        self._judge_suspects(is_done=is_done)
        return is_done

    def _may_go_on(self, deadline: float) -> bool:
        has_work = bool(self._tasks or self._ready or self._flying)
        has_time = self._clock() < deadline and not self._should_yield()
        return has_work and has_time and not self._is_account_refused()

    def _pause(self) -> float:
        """Return for how long nothing can be sent, because Klaviyo refused or did not answer.

        Our own pace is no such pause: the next turn may be most of a minute away.
        """
        now = self._clock()
        if self._ready:
            return self._pacer.shut_s(now)
        later = min((task.not_before for task in self._tasks), default=now)
        return max(later - now, self._pacer.shut_s(now))

    # Requests

    def _launch(self, pool: ThreadPoolExecutor) -> None:
        """Send what may be sent now. Then build ahead, or wait for an answer or the next turn."""
        wait_s = self._send_allowed(pool)
        if any(flying.done() for flying in self._flying):
            return
        if wait_s > _BUILD_S and len(self._ready) < _AHEAD and self._build_next():
            return
        self._nap(wait_s)

    def _send_allowed(self, pool: ThreadPoolExecutor) -> float:
        """Send until the pacer says to wait, nothing is left to send, or an answer has come.

        Returns the time until the next turn.
        """
        while len(self._flying) < self._limits.in_flight and (self._ready or self._build_next()):
            wait_s = self._pacer.wait_s(self._clock())
            if wait_s > 0:
                return wait_s
            self._check()
            self._send_one(pool)
            if any(flying.done() for flying in self._flying):
                return 0.0
        return _NAP_S

    def _send_one(self, pool: ThreadPoolExecutor) -> None:
        task, body = self._ready.popleft()
        now = self._clock()
        self._pacer.sent(now)
        start_import = telemetry.carrying(self._klaviyo.start_import, batch=task.batch.number)
        future = pool.submit(start_import, body)
        self._flying[future] = replace(task, began_at=task.began_at or now, key=self._key)

    def _nap(self, wait_s: float) -> None:
        """Wait for the first answer, or for the next turn, but no longer than a nap."""
        began_at = self._clock()
        has_next = bool(self._ready or self._tasks)
        is_paced = has_next and self._pacer.wait_s(began_at) > 0
        nap_s = min(wait_s, max(_NAP_S, min(wait_s - _NAP_S, _LONG_NAP_S)))
        if self._flying:
            wait(self._flying, timeout=nap_s, return_when=FIRST_COMPLETED)
        else:
            self._sleep(nap_s)
        if is_paced:
            telemetry.waited(self._clock() - began_at, telemetry.PACE_WAIT)

    def _build_next(self) -> bool:
        """Build the next body, if a task's time has come."""
        now = self._clock()
        for _ in range(len(self._tasks)):
            task = self._tasks.popleft()
            if task.not_before <= now and (task.is_probe or not self._open_probes):
                self._ready.append((task, self._body(task)))
                return True
            self._tasks.append(task)
        return False

    def _body(self, task: _Task) -> bytes:
        without = self._without(task)
        delivery, number = self._journal.delivery, task.batch.number
        omitted = delivery.omitted_in(number, range(task.first, task.last))
        if not (without or omitted) and (task.first, task.last) == (0, task.batch.profiles):
            return self._reader.body(task.batch)
        return self._reader.body(
            task.batch, first=task.first, last=task.last, without=without, omitted=omitted
        )

    def _without(self, task: _Task) -> list[int]:
        return self._journal.delivery.without(task.batch.number, task.first, task.last)

    # Answers

    def _collect(self) -> Exception | None:
        """Record the answers that are there. Returns the first error that ends the attempt."""
        events: list[Event] = []
        failure: Exception | None = None
        for future in [future for future in self._flying if future.done()]:
            task = self._flying.pop(future)
            try:
                events += self._answer(task, future)
            except Exception as exc:  # noqa: BLE001 - `send` raises it once all is recorded
                failure = failure or exc
        if self._suspects and any(isinstance(event, BatchAccepted) for event in events):
            events += self._take_suspects()
        self._journal.append(events)
        if events:
            self._progress(self._journal.delivery.accepted_profiles)
        return failure

    def _land(self) -> Exception | None:
        """Wait for what is in flight and record it: otherwise it would be sent a second time."""
        failure: Exception | None = None
        while self._flying:
            wait(self._flying)
            failure = self._collect() or failure
        return failure

    def _answer(self, task: _Task, future: Future[tuple[ImportJob, RateInfo]]) -> list[Event]:
        try:
            job, rate = future.result()
        except ExporterError as exc:
            if isinstance(exc, KlaviyoRejected) and exc.rate:
                self._told(exc.rate)
            return self._after(task, exc)
        self._told(rate)
        return [self._accepted(task, job)]

    def _told(self, rate: RateInfo) -> None:
        self._pacer.told(rate.limit, rate.remaining, rate.reset_s, self._clock())
        self._throttles_before = min(self._throttles_before, self._pacer.throttles)

    def _accepted(self, task: _Task, job: ImportJob) -> Event:
        self._open_probes -= task.is_probe
        telemetry.job(telemetry.ACCEPTED_JOB)
        is_scattered = task.batch.number in self._journal.delivery.sent_again
        return BatchAccepted(
            batch=task.batch.number,
            first=task.first,
            last=task.last,
            without=[] if is_scattered else self._without(task),
            only=stretches(self._positions(task)) if is_scattered else "",
            job=job.id,
            at=datetime.fromtimestamp(self._clock(), UTC),
        )

    def _after(self, task: _Task, error: ExporterError) -> list[Event]:
        """Return the events that follow from a failed request and put back its tasks, or raise."""
        cause = type(error).__name__
        logger.info("batch not accepted", extra={"batch": task.batch.number, "cause": cause})
        match error:
            case BatchRefused():
                return self._repair(task, error)
            case BatchTooLarge():
                self._spend_split(error)
                return self._halve(task, "the profile alone is over Klaviyo's size limit")
            case KeyRefused():
                self._renew(task, error)
                self._tasks.appendleft(task)
            case Transient():
                self._again(task, error)
            case _:
                raise error
        return []

    def _repair(self, task: _Task, error: BatchRefused) -> list[Event]:
        """Leave out what Klaviyo named and send the rest. Nothing named: send two halves."""
        positions = self._positions(task)
        rows = [row for row in error.rows if row.index < len(positions)]
        if not self._spend_repair(task, error):
            return self._refuse_all(task, error.words or error.message)
        if not rows:
            complaint = Complaint(
                attribute="",
                words=error.words or error.message,
                is_duplicate=error.is_duplicate,
            )
            return self._search(task, complaint)
        complaints: dict[int, list[Complaint]] = {}
        for row in rows:
            complaint = Complaint(
                attribute=row.attribute, words=row.reason, is_duplicate=row.is_duplicate
            )
            complaints.setdefault(positions[row.index], []).append(complaint)
        self._refused_attributes.update(row.attribute for row in rows)
        events = self._left_out(task, complaints)
        if _omits(events) or len(complaints) < len(positions):
            self._tasks.appendleft(replace(task, attempt=1, began_at=0.0))
        else:
            self._open_probes -= task.is_probe
        return events

    def _refuse_all(self, task: _Task, words: str) -> list[Event]:
        """Give up the rows of a task, which Klaviyo refused together."""
        self._open_probes -= task.is_probe
        positions = self._positions(task)
        told = words if len(positions) == 1 else f"{words} (said of {len(positions):,} rows)"
        said = grouped((position, told) for position in positions)
        return [RowsRefused(batch=task.batch.number, said=said)]

    def _left_out(self, task: _Task, complaints: Mapping[int, Sequence[Complaint]]) -> list[Event]:
        """Leave attributes out of rows where that may help, the others altogether."""
        again = self._second_tries(task, complaints)
        refused: list[Saying] = []
        omitted: dict[tuple[str, ...], list[Saying]] = {}
        for position, about in complaints.items():
            told = "; ".join(complaint.told() for complaint in about)
            if attributes := again.get(position):
                words = "; ".join(complaint.words for complaint in about)
                omitted.setdefault(attributes, []).append((position, words))
            else:
                refused.append((position, told))
        number = task.batch.number
        events: list[Event] = []
        if refused:
            events.append(RowsRefused(batch=number, said=grouped(refused)))
        if omitted:
            events.append(AttributesRefused(batch=number, left_out=left_out(omitted)))
        return events

    def _second_tries(
        self, task: _Task, complaints: Mapping[int, Sequence[Complaint]]
    ) -> dict[int, tuple[str, ...]]:
        """Return which attributes to leave out of which rows: each is sent twice at most.

        All complaints about a row must be about attributes that it can do without.
        """
        omitted = self._journal.delivery.omitted.get(task.batch.number, {})
        by_paths: dict[tuple[str, ...], list[int]] = {}
        for position, about in complaints.items():
            paths = [suspected(self._reader.plan.fields, complaint) for complaint in about]
            if all(paths) and position not in omitted:
                distinct = tuple(dict.fromkeys(itertools.chain.from_iterable(paths)))
                by_paths.setdefault(distinct, []).append(position)
        return {
            position: attributes
            for paths, positions in by_paths.items()
            for position, attributes in self._reader.filled(task.batch, positions, paths).items()
            if attributes
        }

    def _search(self, task: _Task, complaint: Complaint) -> list[Event]:
        """Look for the row that is the cause, unless it is the account."""
        positions, words = self._positions(task), complaint.words
        if len(positions) == 1 and _omits(
            events := self._left_out(task, {positions[0]: [complaint]})
        ):
            self._tasks.appendleft(replace(task, attempt=1, began_at=0.0))
            return events
        if len(positions) == 1 and self._is_unproven():
            self._open_probes -= task.is_probe
            return self._suspect(_Suspect(task.batch.number, positions[0], words))
        if len(positions) > 1 and self._is_unproven() and not self._has_probed:
            self._has_probed = True
            self._probe(task, positions)
            return []
        return self._halve(task, words)

    def _halve(self, task: _Task, words: str) -> list[Event]:
        positions = self._positions(task)
        if len(positions) == 1:
            self._open_probes -= task.is_probe
            return [_refused(_Suspect(task.batch.number, positions[0], words))]
        middle = positions[len(positions) // 2]
        for first, last in ((middle, task.last), (task.first, middle)):
            self._put_back(task, first, last)
        return []

    def _put_back(self, task: _Task, first: int, last: int, *, is_probe: bool = False) -> None:
        part = replace(task, first=first, last=last, attempt=1, began_at=0.0, is_probe=is_probe)
        self._tasks.appendleft(part)

    # Is it a row at all?

    def _probe(self, task: _Task, positions: Sequence[int]) -> None:
        """Send rows from all over a task alone, before anything else; the rest waits."""
        count = min(PROBES, len(positions))
        step = (len(positions) - 1) / max(count - 1, 1)
        probes = sorted({positions[round(number * step)] for number in range(count)})
        ends = [task.first - 1, *probes, task.last]
        for before, after in itertools.pairwise(ends):
            if after - before > 1:
                self._put_back(task, before + 1, after)
        for position in reversed(probes):
            self._put_back(task, position, position + 1, is_probe=True)
        self._open_probes = len(probes)

    def _is_unproven(self) -> bool:
        """Say whether nothing shows yet that Klaviyo accepts rows, or refuses single ones."""
        delivery = self._journal.delivery
        return not delivery.jobs and not delivery.refused

    def _suspect(self, found: _Suspect) -> list[Event]:
        """Keep a refused row in mind; record all of them when their words differ."""
        self._suspects.append(found)
        is_same = found.words == self._suspects[0].words
        return [] if is_same else self._take_suspects()

    def _take_suspects(self) -> list[Event]:
        found, self._suspects = self._suspects, []
        return [_refused(each) for each in found]

    def _is_account_refused(self) -> bool:
        return len(self._suspects) >= PROBES and self._is_unproven()

    def _judge_suspects(self, *, is_done: bool) -> None:
        """Blame the account, or record the rows. Neither, if some rows are still to be sent."""
        is_everything = is_done and len(self._suspects) > 1
        if self._is_account_refused() or is_everything:
            words = self._suspects[0].words
            raise KlaviyoRejected(
                f"Klaviyo accepts no row, not even alone. Klaviyo says: {words}",
                hint=ACCOUNT_HINT,
                status=400,
            )
        if is_done:
            self._journal.append(self._take_suspects())

    def _positions(self, task: _Task) -> list[int]:
        """Return the positions that a task's request held, in its order."""
        left_out = set(self._without(task))
        return [each for each in range(task.first, task.last) if each not in left_out]

    def _spend_repair(self, task: _Task, error: BatchRefused) -> bool:
        """Count a refusal. Returns whether it may be repaired; raises where the run gives up.

        Rows that Klaviyo may refuse come last, so that it does not give up the others for them.
        """
        self.repairs += 1
        found = self._journal.delivery.refused_profiles()
        most = self._limits.repairs + len(self._reader.plan.batches)
        if self.repairs > most or found > self._limits.most_refused:
            if task.batch.doubtful:
                return False
            raise KlaviyoRejected(
                f"Klaviyo refuses too many rows: {found:,} were found by {self.repairs - 1:,} "
                f"refusals, and there are more{self._named()}. {error.message}",
                hint=REPAIR_HINT,
            )
        return True

    def _named(self) -> str:
        """Name the attribute that is refused most often, without Klaviyo's words about it."""
        attributes = self._refused_attributes.most_common(1)
        return f"; most often for {attributes[0][0]}" if attributes else ""

    def _spend_split(self, error: BatchTooLarge) -> None:
        self._splits += 1
        if self._splits > self._limits.splits + 20 * len(self._reader.plan.batches):
            raise KlaviyoRejected(
                f"Klaviyo refuses batches for their size, however small. {error.message}",
                hint=SIZE_HINT,
            )

    def _renew(self, task: _Task, error: KeyRefused) -> None:
        """Read the key once more after a 401: it may have been rotated. If not, raise."""
        if task.key < self._key:
            return  # it was sent with the old key, and another task has read the new one
        renewed = self._renew_key()
        if renewed is None:
            raise error
        self._klaviyo, self._key = renewed, self._key + 1

    def _again(self, task: _Task, error: Transient) -> None:
        self.failures += 1
        now, attempt = self._clock(), task.attempt
        if isinstance(error, RateLimited):
            self._pacer.throttled(error.retry_after_s, now)
            # Of all batches together: the account is asked too often.
            attempt = self._pacer.throttles - self._throttles_before
        verdict = decide(
            attempt,
            outcome_of(error),
            now - task.began_at,
            retry_after_s=error.retry_after_s,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )
        if isinstance(verdict, GiveUp):
            raise error
        not_before = now + verdict.seconds
        self._tasks.appendleft(replace(task, attempt=task.attempt + 1, not_before=not_before))


def _omits(events: Sequence[Event]) -> bool:
    return any(isinstance(event, AttributesRefused) for event in events)


def _refused(suspect: _Suspect) -> Event:
    said = grouped([(suspect.position, suspect.words)])
    return RowsRefused(batch=suspect.batch, said=said)
