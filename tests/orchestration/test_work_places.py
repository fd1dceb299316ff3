"""One account's trouble is nobody else's: on an instance there is always room for new work.

The host is played as host.json sets it up: it fetches `batchSize` messages whenever no more than
`newBatchThreshold` are being handled. Time is real; the accounts that do not answer are played by
clients, because a test cannot wait for as many real time-outs.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.definitions.schedule import Schedule
from exporter.errors import KlaviyoUnavailable, RateInfo, RateLimited
from exporter.klaviyo.responses import ImportJob, KlaviyoList
from exporter.orchestration.engine import Engine, build_engine
from exporter.planning.limits import PlanLimits
from exporter.runs.run import Phase, Run
from exporter.settings import StepLimits
from exporter.storage.local_folder import FolderSnapshots, FolderStore, MemoryQueue
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
QUEUES = json.loads((ROOT / "host.json").read_text())["extensions"]["queues"]
SILENT_S = 2.0  # for PROBE_S, in proportion to STARTS_S
STARTS_S = 10.0
RATE = RateInfo(limit=None, remaining=None, reset_s=None)


@dataclass
class Account:
    """An account that answers at once, never, or with "later"."""

    kind: str
    asked: int = 0
    together: int = 0
    most_together: int = 0
    jobs: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find_list(self, list_id: str, *, read_s: float | None = None) -> KlaviyoList:
        assert read_s is not None, "a probe does not wait for as long as others"
        with self.lock:
            self.asked += 1
            self.together += 1
            self.most_together = max(self.together, self.most_together)
        try:
            if self.kind == "silent":
                time.sleep(SILENT_S)
                raise KlaviyoUnavailable("no answer")
            if self.kind == "throttled":
                raise RateLimited("later", retry_after_s=30)
        finally:
            with self.lock:
                self.together -= 1
        return KlaviyoList(id=list_id, name="L", opt_in_process="single_opt_in")

    def start_import(self, _: bytes) -> tuple[ImportJob, RateInfo]:
        if self.kind == "slow":
            time.sleep(0.2)
        with self.lock:
            self.jobs.append(f"j{len(self.jobs)}")
            job = _job(self.jobs[-1], "queued")
            return job, RATE

    def jobs_since(self, *_: object) -> Iterator[ImportJob]:
        return iter(())

    def job(self, job_id: str) -> ImportJob:
        return _job(job_id, "complete")


def _job(job_id: str, status: str) -> ImportJob:
    completed = int(status == "complete")
    return ImportJob(
        id=job_id, status=status, completed=completed, failed=0, created_at=datetime.now(UTC)
    )


class Host:
    """Handles messages from a queue in threads, as many as host.json allows."""

    def __init__(self, engine: Engine, queue: MemoryQueue) -> None:
        self._engine, self._queue = engine, queue
        self._stop = threading.Event()
        self._running = 0
        self.errors: list[Exception] = []

    def __enter__(self) -> Host:
        most = QUEUES["batchSize"] + QUEUES["newBatchThreshold"]
        self._pool = ThreadPoolExecutor(most)
        self._thread = threading.Thread(target=self._fetch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()

    def wait_until(self, is_so: Callable[[], object]) -> None:
        """Wait for a state; an error of a message is the test's."""
        wait_until(lambda: self.errors or is_so(), "the host")
        if self.errors:
            raise self.errors[0]

    def _fetch(self) -> None:
        while not self._stop.wait(0.05):
            if self._running > QUEUES["newBatchThreshold"]:
                continue
            for _ in range(QUEUES["batchSize"]):
                if message := self._queue.take():
                    self._running += 1
                    self._pool.submit(self._handle, message)

    def _handle(self, message: dict[str, object]) -> None:
        try:
            self._engine.dispatcher.handle(message)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            self.errors.append(exc)
        finally:
            self._running -= 1


@dataclass
class Stage:
    engine: Engine
    queue: MemoryQueue
    accounts: dict[str, Account]
    folder: Path

    def start(self, names: Sequence[str], rows: int = 3) -> dict[str, str]:
        """Start a run for each of these accounts; the ids of the runs."""
        return {name: self._start(name, rows) for name in names}

    def _start(self, name: str, rows: int) -> str:
        consent = Consent(by="a test", at="2026-01-01T00:00:00Z")  # type: ignore[arg-type]
        connection = Connection(id=name, name=name, secret=name, consent=consent)
        export = Export(
            id=name,
            name=name,
            connection=name,
            list_id="LIST01",
            segments=[name],
            mapping=parse_mapping({"email": "EMail"}),
            schedule=Schedule(on="demand"),
        )
        self.engine.catalog.save(connection)
        self.engine.catalog.save(export)
        lines = ["EMail", *(f"p{number}@example.com" for number in range(rows))]
        path = self.folder / "segments" / name / "a.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n")
        return self.engine.starter.start(export).run_id

    def run(self, run_id: str) -> Run:
        run = self.engine.runs.run(run_id)
        assert run is not None
        return run


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr("os.fsync", lambda _: None)
    accounts: dict[str, Account] = {}
    queue = MemoryQueue()
    (tmp_path / "container").mkdir()

    def open_klaviyo(key: SecretStr) -> Any:
        name = key.get_secret_value()
        return accounts.setdefault(name, Account(name.partition("-")[0]))

    engine = build_engine(
        store=FolderStore(tmp_path / "state"),
        snapshots=FolderSnapshots(tmp_path / "container"),
        queue=queue,
        read_secret=SecretStr,
        open_klaviyo=open_klaviyo,
        work=tmp_path / "work",
        limits=StepLimits(settle_s=0, plan=PlanLimits(batch_profiles=1)),
    )
    return Stage(engine, queue, accounts, tmp_path / "container")


@pytest.mark.parametrize("kind", ["silent", "throttled"])
@pytest.mark.parametrize("dead", [1, 2, 8])
def test_runs_of_other_accounts_start_though_accounts_are_dead(
    stage: Stage, dead: int, kind: str
) -> None:
    ill = stage.start([f"{kind}-{number}" for number in range(dead)])
    long = stage.start(["slow-1"], rows=200)
    with Host(stage.engine, stage.queue) as host:
        host.wait_until(lambda: "slow-1" in stage.accounts and stage.accounts["slow-1"].jobs)
        living = stage.start([f"living-{number}" for number in range(5)])
        began = time.monotonic()
        for run_id in living.values():
            host.wait_until(lambda run_id=run_id: stage.run(run_id).phase is not Phase.PLAN)
        lasted = time.monotonic() - began
        assert stage.run(long["slow-1"]).status.is_open, "it sends for long"
        host.wait_until(lambda: all(stage.run(run_id).setbacks for run_id in ill.values()))
        stage.engine.runs.cancel(long["slow-1"])
    assert host.errors == []
    baseline_s = 5 * 0.5  # five small plans on one core, one after the other
    assert lasted < max(STARTS_S, 4 * baseline_s)
    for name, run_id in ill.items():
        run = stage.run(run_id)
        assert stage.accounts[name].most_together == 1, "one probe at a time"
        assert run.message, "the run says what it waits for"
