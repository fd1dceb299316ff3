"""The whole app as processes, on stand-ins, to be killed.

Azurite, Klaviyo, the vault, and functions hosts.

with rig(folder) as it:
    case = it.case(1, rows=60_000)         a list, a connection, an export of a segment of its own
    with it.host("a") as host:
        case.drop()
        host.kill()                        SIGKILL: no handler, no finally, no farewell
    with it.host("b"):
        run = case.wait()
    case.check(run)
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from pydantic import SecretStr

from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.runs.run import Run, Status
from exporter.sending.journal import Journal
from sandbox import demo, processes
from sandbox.klaviyo import FULL_KEY, digest_of
from sandbox.snapshots import ContainerWriter, Kind, Snapshot, write_snapshot
from tests.waiting import LIMIT_S, wait_until

LOCK_S = 1  # until a message of a host that died comes again
LEASE_S = 2.0  # until another instance may go on
BATCH = 2_000
REJECTED = ("rejected", "refused-by-klaviyo", "import-error")
ADDRESS = re.compile(r"[\w.+-]+@example\.(?:com|org|net)")


@dataclass
class Host:
    """A functions host that runs until it is killed or its block ends."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def tick(self) -> None:
        """Run the timer now."""
        requests.post(f"{self.url}/admin/functions/on_tick", timeout=LIMIT_S).raise_for_status()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def phases_done(self) -> int:
        """Phases of runs that this host has brought to their end."""
        return self.log.read_text("utf-8").count("phase done")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still, with all it holds: an instance so slow that its locks and leases run out."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@dataclass
class Case:
    """One export with a segment and a list of its own, and what must come of it."""

    rig: Rig
    number: int
    snapshot: Snapshot
    connection: str

    @property
    def export_id(self) -> str:
        return f"export-{self.number}"

    @property
    def list_id(self) -> str:
        return f"LIST{self.number:04d}"

    def register(self) -> None:
        self.rig.control("lists", {"id": self.list_id})
        catalog = Catalog(self.rig.stage.store)
        consent = Consent(by="a test", at=datetime.now(UTC))
        catalog.save(
            Connection(
                id=self.connection, name=self.connection, secret=demo.SECRET, consent=consent
            )
        )
        catalog.save(
            Export(
                id=self.export_id,
                name=self.export_id,
                connection=self.connection,
                list_id=self.list_id,
                segments=[self.snapshot.segment],
                mapping=parse_mapping(demo.MAPPING),
            )
        )

    def drop(self) -> None:
        write_snapshot(
            self.snapshot,
            ContainerWriter(self.rig.stage.snapshots.get_container_client("segments")),
        )

    def run(self) -> Run | None:
        """The export's only run; None before it is created."""
        store = self.rig.stage.store
        names = list(store.folders(f"runs/{self.export_id}/"))
        assert len(names) <= 1, f"one snapshot makes one run: {names}"
        found = store.read(f"runs/{self.export_id}/{names[0]}/run.json") if names else None
        return Run.model_validate_json(found.data) if found else None

    def wait(self, *, limit_s: float = LIMIT_S) -> Run:
        """The run once it is closed."""
        wait_until(
            lambda: (run := self.run()) is not None and not run.status.is_open,
            lambda: f"the end of the run: {self.run()}",
            every_s=0.1,
            limit_s=limit_s,
        )
        run = self.run()
        assert run is not None
        return run

    def check(self) -> dict[str, Any]:
        """Compare the list and the report with what the snapshot should give; the report.

        Raises AssertionError.
        """
        run = self.run()
        assert run is not None
        assert run.status is Status.WARNINGS, f"{run.status}: {run.message}"
        found = self.rig.stage.store.read(run.folder + "report.json")
        assert found is not None, "no report"
        report: dict[str, Any] = json.loads(found.data)
        assert (report["status"], report["adds_up"]) == (run.status, True), report
        planted = list(self.snapshot.planted())
        duplicates = sum(row.outcome == "duplicate" for row in planted)
        rejected = {(row.path, row.line) for row in planted if row.outcome in REJECTED}
        numbers = (report["rows"], report["duplicates"], report["rejected"])
        assert numbers == (self.snapshot.rows, duplicates, len(rejected)), report
        assert self.rejected(run) == rejected
        got = requests.get(
            f"{self.rig.stage.control_url}/lists/{self.list_id}/digest", timeout=LIMIT_S
        ).json()
        assert got == digest_of(
            (None, _attributes(profile)) for profile in self.snapshot.expected_profiles()
        )
        return report

    def rejected(self, run: Run) -> set[tuple[str, int]]:
        """File and line of every row in rejected.csv."""
        target = self.rig.folder / "rejected.csv"
        self.rig.stage.store.download(run.folder + "rejected.csv", target)
        with target.open(encoding="utf-8", newline="") as file:
            return {(row["source"], int(row["line"])) for row in csv.DictReader(file)}

    def accepted_at(self) -> list[datetime]:
        """When Klaviyo took each batch that counts."""
        run = self.run()
        assert run is not None
        return sorted(
            one.at for one in Journal(self.rig.stage.store, run.folder).delivery.jobs.values()
        )


@dataclass
class Rig:
    folder: Path
    stage: demo.Stage
    hosts: list[Host] = field(default_factory=list)

    def case(self, number: int, *, rows: int, connection: str | None = None) -> Case:
        """Register an export of its own; nothing is dropped yet."""
        bad = {
            Kind.EMAIL_NO_AT: 3,
            Kind.DUPLICATE_ACROSS: 3,
            Kind.BAD_PHONE: 2,
            Kind.KLAVIYO_ASYNC: 3,
            Kind.KLAVIYO_SYNC: 2,
        }
        snapshot = Snapshot(
            rows=rows,
            partitions=3,
            seed=number,
            first=number * 1_000_000,
            segment=f"Seg{number}",
            bad=bad,
        )
        case = Case(self, number, snapshot, connection or f"connection-{number}")
        case.register()
        return case

    @contextlib.contextmanager
    def host(self, name: str, *arguments: str, **settings: str) -> Iterator[Host]:
        """Start a host; each name is a machine with a disk of its own."""
        root = str(demo.ROOT)
        command = [sys.executable, "-m", "tests.journeys.quick_host", "--app", root, "--port", "0"]
        command += [
            "--lock-seconds",
            str(LOCK_S),
            "--poll-seconds",
            "0.2",
            "--host-id",
            "crash",
            *arguments,
        ]
        environment = {
            **self.stage.environment,
            "WORK_FOLDER": str(self.folder / f"work-{name}"),
            "PYTHONPATH": root,
            "TEST_LEASE_SECONDS": str(LEASE_S),
            "TEST_BATCH_PROFILES": str(BATCH),
            **settings,
        }
        log = self.folder / f"host-{name}.log"
        with processes.running(command, log=log, env=environment) as (process, ready):
            yield Host(process, ready["url"], log)

    def control(self, path: str, document: Any) -> None:
        requests.post(
            f"{self.stage.control_url}/{path}", json=document, timeout=LIMIT_S
        ).raise_for_status()

    def jobs(self) -> int:
        """Import jobs that Klaviyo took, repetitions included."""
        return sum(self.state()["jobs"].values())

    def state(self) -> dict[str, Any]:
        """What Klaviyo has seen."""
        state: dict[str, Any] = requests.get(
            f"{self.stage.control_url}/state", timeout=LIMIT_S
        ).json()
        return state

    def addresses_in_logs(self) -> list[str]:
        return [
            found
            for log in self.folder.glob("host-*.log")
            for found in ADDRESS.findall(log.read_text("utf-8"))
        ]


@contextlib.contextmanager
def rig(folder: Path, *, job_seconds: float = 1.0) -> Iterator[Rig]:
    """Start everything but hosts."""
    before = dict(os.environ)
    try:
        with demo.stand_ins(
            folder, limits="klaviyo", job_seconds=job_seconds, settle_seconds=1
        ) as stage:
            stage.vault.write(demo.SECRET, SecretStr(FULL_KEY))
            it = Rig(folder, stage)
            it.control(
                "settings", {"unique": []}
            )  # invented telephone numbers come twice among so many people
            yield it
    finally:
        os.environ.clear()
        os.environ.update(before)


def _attributes(profile: Any) -> dict[str, Any]:
    """An expected profile as Klaviyo keeps it; blank cells are left out."""
    value = profile.lifetime_value
    known = {
        "email": profile.email,
        "first_name": profile.first_name,
        "last_name": profile.last_name,
        "phone_number": profile.phone_number,
        "location": {"city": profile.city, "country": profile.country},
        "properties": {
            "customer_id": profile.customer_id,
            "date_of_birth": profile.date_of_birth,
            "loyalty_tier": profile.loyalty_tier,
            "lifetime_value": float(value) if value else None,
        },
    }
    return {name: value for name, value in known.items() if value not in (None, "")}
