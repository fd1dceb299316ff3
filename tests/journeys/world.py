"""A small world to run the exporter in.

Folders, a queue in memory, a stand-in Klaviyo, and one clock for all of them.

    world.drop_people("a.csv", people(30))     a hand-dropped file arrives and is noticed
    world.deliver()                            every message is handled; the clock moves to each
    world.emails()  world.report()  world.run()

Nothing sleeps: waiting moves the clock. `World.again()` is a second instance on the same state.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.definitions.schedule import Schedule
from exporter.errors import SecretUnavailable
from exporter.klaviyo.client import Klaviyo
from exporter.orchestration.engine import Engine, build_engine
from exporter.runs.run import Run, Status, run_folder
from exporter.settings import StepLimits
from exporter.storage.local_folder import FolderSnapshots, FolderStore, MemoryQueue
from sandbox import klaviyo as stand_in
from sandbox.klaviyo.testing import Clock
from sandbox.snapshots import Snapshot

LIST, CONNECTION, EXPORT, SEGMENT = "LIST01", "main", "vips", "HighValue"
FOLDER = f"segments/{SEGMENT}/"
REVISION = "2026-10-15"
MAPPING = {"email": "EMail", "first_name": "FirstName"}
ON_ARRIVAL = Schedule()
MAX_DEQUEUE_COUNT = 5  # host.json
JOBS = "POST /api/profile-bulk-import-jobs$"


def people(
    count: int, *, first: int = 0, planted: Mapping[int, str] | None = None
) -> list[tuple[str, str]]:
    """(address, first name) of invented people; `planted` puts other addresses in some places."""
    return [
        ((planted or {}).get(number, f"p{number}@example.com"), f"Name{number}")
        for number in range(first, first + count)
    ]


def as_csv(rows: Iterable[Sequence[str]], header: Sequence[str] = ("EMail", "FirstName")) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


class World:
    """Everything around the exporter, and the exporter."""

    def __init__(
        self, folder: Path, klaviyo: stand_in.Klaviyo, url: str, clock: Clock, patch: Any
    ) -> None:
        self.folder, self.klaviyo, self.url, self.clock = folder, klaviyo, url, clock
        self.patch = patch  # the test's own monkeypatch
        self.container = folder / "segments-container"
        self.container.mkdir()
        self.secrets = {"klaviyo-key": stand_in.FULL_KEY}
        self.secret_reads: list[str] = []
        self.limits = StepLimits(lease_s=100_000)  # nobody renews while a clock jumps
        self.client_options: dict[str, Any] = {}  # other time-outs and limits of the client
        self.queue = MemoryQueue(clock)
        self.errors: list[Exception] = []  # that came out of `handle`
        self.poisoned: list[Mapping[str, Any]] = []
        self.handled = 0
        self.engine = self.again()
        klaviyo.call("POST", "/_sandbox/lists", {"id": LIST})

    # Instances

    def again(self, *, work: str = "work", **changes: Any) -> Engine:
        """Another instance on the same state: after a restart, or beside the first."""
        parts: dict[str, Any] = {
            "store": FolderStore(self.folder / "state"),
            "snapshots": FolderSnapshots(self.container),
            "queue": self.queue,
            "read_secret": self.read_secret,
            "open_klaviyo": self.client,
            "work": self.folder / work,
            "container_name": "klaviyo-feed",
            "limits": self.limits,
            "clock": self.clock,
            "sleep": self.clock.move,
        }
        return build_engine(**(parts | changes))

    def restart(self, **limits: Any) -> None:
        """A fresh instance, with other limits if given; the rest stay as they are."""
        self.limits = dataclasses.replace(self.limits, **limits)
        self.engine = self.again()

    def client(self, key: SecretStr) -> Klaviyo:
        return Klaviyo(
            key,
            base_url=self.url,
            sleep=self.clock.move,
            clock=self.clock,
            **({"revision": REVISION} | self.client_options),
        )

    def read_secret(self, name: str) -> SecretStr:
        self.secret_reads.append(name)
        if name not in self.secrets:
            raise SecretUnavailable(
                f"the secret {name} does not exist in the vault", hint="Store the key there."
            )
        return SecretStr(self.secrets[name])

    # What people and Customer Insights do

    def register(
        self,
        export_id: str = EXPORT,
        *,
        connection: str = CONNECTION,
        secret: str = "klaviyo-key",
        mapping: Mapping[str, Any] = MAPPING,
        segments: Sequence[str] = (SEGMENT,),
        list_id: str = LIST,
        schedule: Schedule = ON_ARRIVAL,
    ) -> Export:
        consent = Consent(by="a test", at=self.now())
        self.engine.catalog.save(
            Connection(id=connection, name=connection, secret=secret, consent=consent)
        )
        export = Export(
            id=export_id,
            name=f"Export {export_id}",
            connection=connection,
            list_id=list_id,
            segments=list(segments),
            mapping=parse_mapping(dict(mapping)),
            schedule=schedule,
        )
        self.engine.catalog.save(export)
        return export

    def put(self, name: str, content: str | bytes) -> str:
        """Write a blob as a new version, at the time of our clock; nobody is told."""
        path = self.container / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=self.folder)
        with open(fd, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.utime(temporary, (self.clock.now, self.clock.now))
        os.replace(temporary, path)
        return name

    def drop(self, name: str, content: str | bytes) -> None:
        """A blob arrives and is noticed."""
        self.engine.arrivals.on_blob_arrived(self.put(name, content))

    def drop_people(self, name: str, rows: Iterable[Sequence[str]], **options: Any) -> None:
        self.drop(FOLDER + name, as_csv(rows, **options))

    def drop_snapshot(self, snapshot: Snapshot, *, notify: bool = True) -> list[str]:
        """A whole snapshot arrives in Customer Insights' own layout, model.json last."""
        names = [self.put(file.path, b"".join(file.chunks)) for file in snapshot.files()]
        for name in names if notify else ():
            self.engine.arrivals.on_blob_arrived(name)
        return names

    def fault(self, kind: str, match: str = JOBS, **rule: Any) -> None:
        self.klaviyo.faults.add([{"match": match, "kind": kind, **rule}])

    def settings(self, **changes: Any) -> None:
        self.klaviyo.settings.change(changes)

    # The host

    def deliver(
        self,
        *,
        most: int = 400,
        until: Callable[[], bool] = lambda: False,
        engine: Engine | None = None,
    ) -> None:
        """Handle messages as the host does, until the queue is empty.

        Five tries each, then the poison queue.
        """
        while not until() and (message := self.next_message()) is not None:
            assert most > 0, "messages go round for ever"
            most -= 1
            self.hand_over(message, engine or self.engine)

    def next_message(self) -> dict[str, Any] | None:
        """The next message; the clock moves to the time at which it is due."""
        due = self.queue.next_due()
        if due is None:
            return None
        self.clock.now = max(self.clock.now, due)
        return self.queue.take()

    def hand_over(self, message: Mapping[str, Any], engine: Engine, *, deliveries: int = 0) -> None:
        for delivery in range(deliveries, MAX_DEQUEUE_COUNT):
            self.handled += 1
            try:
                engine.dispatcher.handle(message, redelivered=delivery > 0)
            except Exception as exc:  # noqa: BLE001 - as the host does
                self.errors.append(exc)
                self.clock.move(10)
            else:
                return
        self.poisoned.append(message)
        engine.dispatcher.close_poisoned(message)

    # What can be seen afterwards

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now, UTC)

    def runs(self, export_id: str = EXPORT) -> list[Run]:
        names = sorted(self.engine.store.folders(run_folder(export_id)), reverse=True)
        found = [run for name in names if (run := self.engine.runs.readable(f"{export_id}/{name}"))]
        return sorted(found, key=lambda run: run.created_at)

    def run(self, export_id: str = EXPORT) -> Run:
        [run] = self.runs(export_id)
        return run

    def report(self, run: Run | None = None) -> dict[str, Any]:
        found = self.engine.store.read((run or self.run()).folder + "report.json")
        assert found is not None, "no report"
        document: dict[str, Any] = json.loads(found.data)
        return document

    def rows_of(self, name: str, run: Run | None = None) -> list[dict[str, str]]:
        """rejected.csv or duplicates.csv of a run."""
        target = self.folder / "downloaded.csv"
        self.engine.store.download((run or self.run()).folder + name, target)
        with target.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def rejected_emails(self, run: Run | None = None) -> list[str]:
        return sorted(row["identifier"] for row in self.rows_of("rejected.csv", run))

    def members(self, list_id: str = LIST) -> dict[str, dict[str, Any]]:
        """The list as Klaviyo has it: attributes by address."""
        self.klaviyo.settle()
        account = self.klaviyo.account
        found = account.lists.get(list_id)
        assert found is not None
        attributes = [account.profiles.attributes(number) for _, number in found.members.walk(0)]
        return {each["email"]: each for each in attributes}

    def emails(self, list_id: str = LIST) -> set[str]:
        return set(self.members(list_id))

    def stats(self) -> dict[str, Any]:
        return self.klaviyo.stats.shown()

    def job_requests(self, status: int | str = "") -> int:
        """POSTs of import jobs, or those that were answered so."""
        endpoint = "POST /api/profile-bulk-import-jobs"
        if status:
            return int(self.stats()["statuses"].get(f"{endpoint} {status}", 0))
        return int(self.stats()["requests"].get(endpoint, 0))

    def accepted_rows(self) -> int:
        """Rows in all jobs that Klaviyo took, repetitions included."""
        return sum(job.total for job in self.klaviyo.account.jobs)

    def messages(self) -> int:
        return len(self.queue)

    def text_of_state(self) -> Iterator[tuple[str, str]]:
        """Every document and log of the state, by name."""
        for path in sorted((self.folder / "state").rglob("*.json*")):
            yield str(path), path.read_text(encoding="utf-8")


def assert_ended(
    world: World, status: Status, *, delivered: int | None = None, run: Run | None = None
) -> Run:
    """The run is closed in this way, its report says the same and adds up, and nothing goes on."""
    run = run or world.run()
    assert (run.status, run.phase.value) == (status, "closed"), f"{run.status}: {run.message}"
    report = world.report(run)
    assert (report["status"], report["message"]) == (run.status, run.message)
    assert world.messages() == 0
    if status in (Status.SUCCESSFUL, Status.WARNINGS):
        assert report["adds_up"], report
        assert report["rows"] == report["delivered"] + report["duplicates"] + report["rejected"], (
            report
        )
    if status is Status.FAILED:
        assert run.message, "a failed run says why"
        assert run.hint, f"a failed run says what to do: {run.message}"
    if delivered is not None:
        assert (report["delivered"] or 0) == delivered, report  # null: it was never read
    return run
