"""`python -m sandbox demo`: the whole app on the stand-ins, from a blob to a list, and the proof that it is right.

    Azurite, Klaviyo, Key Vault + identity, functions host (this repository's function_app.py): each a process, on free
    ports. A connection and an export are registered, a snapshot in Customer Insights' layout is dropped into blob
    storage, and the blob trigger takes it from there. Then the list is read back through Klaviyo's own endpoints.

Exit code 0 only if the list holds exactly what the snapshot should give, and the report's numbers say so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from azure.storage.blob import BlobServiceClient
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from exporter.cli.wording import report_as_text
from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.runs.run import Phase, Run
from exporter.sending.journal import Journal
from exporter.storage.azure_blobs import BlobStore
from exporter.storage.key_vault import Vault
from sandbox.azurite import running_azurite
from sandbox.klaviyo import FULL_KEY
from sandbox.processes import running, sandbox_command
from sandbox.snapshots import OUTCOMES, ContainerWriter, Kind, Outcome, Snapshot, write_snapshot

ROOT = Path(__file__).resolve().parent.parent
LIST_ID, CONNECTION, EXPORT = "Y6nRLr", "klaviyo", "high-value"
SECRET = "klaviyo-key"
PARTITIONS = 4
MAPPING = {
    "email": "EMail",
    "first_name": "FirstName",
    "last_name": "LastName",
    "phone_number": "Telephone",
    "location": {"city": "City", "country": "Country"},
    "properties": {
        "customer_id": "CustomerId",
        "date_of_birth": "DateOfBirth",
        "loyalty_tier": "LoyaltyTier",
        "lifetime_value": {"column": "LifetimeValue", "type": "number"},
    },
}
# Who may do what can be seen with these, once a demo stays.
LOOKS = (
    ("admin", f"connections show {CONNECTION}"),
    ("contributor", f"run {EXPORT}"),
    ("viewer", f"runs {EXPORT}"),
    ("viewer", f"exports pause {EXPORT}"),
)
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Stage:
    """Everything that runs, and how to reach it."""

    environment: dict[str, str]
    klaviyo_url: str
    control_url: str
    store: BlobStore
    snapshots: BlobServiceClient
    vault: Vault


@contextlib.contextmanager
def stand_ins(
    folder: Path, *, limits: str, job_seconds: float, settle_seconds: float
) -> Iterator[Stage]:
    """Start storage, Klaviyo and the vault; yield how to reach them. `host` starts the app itself."""
    with contextlib.ExitStack() as stack:
        console.print("Starting Azurite, Klaviyo and Key Vault stand-ins ...")
        azurite = stack.enter_context(
            running_azurite(folder / "azurite", log=folder / "azurite.log")
        )
        command = sandbox_command(
            "klaviyo", "--port", "0", "--limits", limits, "--job-seconds", str(job_seconds)
        )
        _, klaviyo = stack.enter_context(running(command, log=folder / "klaviyo.log"))
        command = sandbox_command("vault", "--port", "0", "--cert-dir", str(folder))
        _, vault = stack.enter_context(running(command, log=folder / "vault.log"))
        environment = {
            **vault["env"],
            "SnapshotsStorage": azurite.connection_string,
            "StateStorage": azurite.connection_string,
            "AzureWebJobsStorage": azurite.connection_string,
            "KEY_VAULT_URL": vault["url"],
            "KLAVIYO_BASE_URL": klaviyo["url"],
            "SNAPSHOTS_CONTAINER": "segments",
            "STATE_CONTAINER": "exporter-state",
            "STEPS_QUEUE": "export-steps",
            "SETTLE_SECONDS": str(settle_seconds),
            "TICK_SCHEDULE": "0 * * * * *",
            "WORK_FOLDER": str(folder / "work"),
        }
        os.environ.update(vault["env"])  # for our own client of the vault
        service = BlobServiceClient.from_connection_string(azurite.connection_string)
        service.create_container("segments")
        yield Stage(
            environment=environment,
            klaviyo_url=klaviyo["url"],
            control_url=klaviyo["control"],
            store=BlobStore(service.get_container_client("exporter-state")),
            snapshots=service,
            vault=_vault(vault["url"]),
        )


@contextlib.contextmanager
def host(stage: Stage, folder: Path) -> Iterator[str]:
    """Start the functions host with this repository's app; yield its address. Everybody is an administrator there."""
    command = sandbox_command(
        "host", "--app", str(ROOT), "--port", "0", "--lock-seconds", "5", "--user", "admin"
    )
    with running(command, log=folder / "host.log", env=stage.environment, ready_s=60) as (_, ready):
        console.print(f"Functions host at {ready['url']} with {', '.join(ready['functions'])}")
        yield ready["url"]


def _vault(url: str) -> Vault:
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    return Vault(SecretClient(url, DefaultAzureCredential()))


def register(stage: Stage) -> None:
    """What an administrator and a marketer do once: the list, the key, the connection, the export."""
    requests.post(
        f"{stage.control_url}/lists", json={"id": LIST_ID, "name": "High value"}, timeout=10
    ).raise_for_status()
    stage.vault.write(SECRET, SecretStr(FULL_KEY))
    catalog = Catalog(stage.store)
    consent = Consent(by="demo", at=datetime.now(UTC))
    catalog.save(
        Connection(
            id=CONNECTION, name="Klaviyo", secret=SECRET, used_by="contributors", consent=consent
        )
    )
    catalog.save(
        Export(
            id=EXPORT,
            name="High value to Klaviyo",
            connection=CONNECTION,
            list_id=LIST_ID,
            segments=["HighValue"],
            mapping=parse_mapping(MAPPING),
        )
    )


def demo_snapshot(rows: int) -> Snapshot:
    """A snapshot with a little of what goes wrong in real ones."""
    some = max(1, rows // 10_000)
    bad = {
        Kind.EMAIL_NO_AT: some,
        Kind.EMAIL_PLACEHOLDER: some,
        Kind.DUPLICATE: some,
        Kind.DUPLICATE_ACROSS: some,
        Kind.RAGGED_SHORT: some,
        Kind.BAD_PHONE: some,
        Kind.KLAVIYO_ASYNC: some,
    }
    return Snapshot(
        rows=rows,
        partitions=PARTITIONS,
        seed=7,
        segment="HighValue",
        bad=bad if rows >= 100 else {},
    )


def wait_for_run(stage: Stage, *, rows: int, limit_s: float) -> Run:
    """Follow the run in the store as a page would, until it is closed."""
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    deadline = time.monotonic() + limit_s
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("settle", total=rows)
        while time.monotonic() < deadline:
            run = _newest_run(stage)
            if run is not None and not run.status.is_open:
                bar.update(task, description=str(run.status), completed=rows)
                return run
            if run is not None:
                done = 0
                if run.phase is not Phase.PLAN:
                    done = Journal(stage.store, run.folder).delivery.accepted_profiles
                bar.update(task, description=str(run.phase), completed=done)
            time.sleep(0.5)
    raise SystemExit(
        f"the run did not end within {limit_s:.0f} s; run again with --keep and read host.log"
    )


def _newest_run(stage: Stage) -> Run | None:
    """The run of the whole snapshot. A slow upload may settle in between: then a run of some partitions comes first."""
    runs = []
    for name in stage.store.folders(f"runs/{EXPORT}/"):
        if found := stage.store.read(f"runs/{EXPORT}/{name}/run.json"):
            runs.append(Run.model_validate_json(found.data))  # noqa: PERF401 - reads better
    whole = [run for run in runs if len(run.manifest.partitions) == PARTITIONS]
    return whole[0] if whole else None


# The proof


def delivered(url: str) -> Iterator[dict[str, Any]]:
    """The list's members with their attributes, through Klaviyo's own read endpoints."""
    session = requests.Session()
    session.headers.update(
        {"Authorization": f"Klaviyo-API-Key {FULL_KEY}", "revision": "2026-07-15"}
    )
    following: str | None = f"{url}/api/lists/{LIST_ID}/profiles?page[size]=100"
    while following:
        answer = session.get(following, timeout=60)
        if answer.status_code == 429:
            time.sleep(float(answer.headers["Retry-After"]))
            continue
        answer.raise_for_status()
        document = answer.json()
        for profile in document["data"]:
            yield profile["attributes"]
        following = document["links"]["next"]


def differences(snapshot: Snapshot, members: Iterator[dict[str, Any]]) -> list[str]:
    """What is missing, too much, or other than the snapshot says. Empty when the list is right."""
    found: dict[str, int] = {}
    for number, attributes in enumerate(members):
        found[attributes["email"]] = hash(_key(attributes))
        if number % 100_000 == 99_999:
            console.print(f"  read back {number + 1:,}")
    wrong = []
    for profile in snapshot.expected_profiles():
        got = found.pop(profile.email or "", None)
        if got is None:
            wrong.append("missing")
        elif got != hash(_expected_key(profile)):
            wrong.append("other attributes")
    return wrong + ["not expected"] * len(found)


def wrong_numbers(snapshot: Snapshot, report: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    """The report's numbers that are not the snapshot's: (what it says, what is so)."""
    outcomes: Counter[Outcome] = Counter()
    for kind, number in snapshot.bad.items():
        outcomes[OUTCOMES.get(kind, Outcome.REJECTED)] += number
    rejected = (
        outcomes[Outcome.REJECTED] + outcomes[Outcome.REFUSED] + outcomes[Outcome.IMPORT_ERROR]
    )
    duplicates = outcomes[Outcome.DUPLICATE]
    right = {
        "rows": snapshot.rows,
        "delivered": snapshot.rows - duplicates - rejected,
        "duplicates": duplicates,
        "rejected": rejected,
    }
    return {
        name: (report[name], number) for name, number in right.items() if report[name] != number
    }


def _key(attributes: dict[str, Any]) -> tuple[Any, ...]:
    properties, location = attributes.get("properties") or {}, attributes.get("location") or {}
    return (
        *(attributes.get(name) for name in ("first_name", "last_name", "phone_number")),
        *(location.get(name) for name in ("city", "country")),
        *(
            properties.get(name)
            for name in ("customer_id", "date_of_birth", "loyalty_tier", "lifetime_value")
        ),
    )


def _expected_key(profile: Any) -> tuple[Any, ...]:
    value = profile.lifetime_value
    return (
        profile.first_name or None,
        profile.last_name or None,
        profile.phone_number or None,
        profile.city or None,
        profile.country or None,
        profile.customer_id,
        profile.date_of_birth or None,
        profile.loyalty_tier or None,
        float(value) if value not in (None, "") else None,
    )


def _some(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(
            "at least one row is needed: an empty snapshot is a failed run"
        )
    return number


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox demo", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rows", type=_some, default=5_000)
    parser.add_argument("--limits", choices=("klaviyo", "off"), default="klaviyo")
    parser.add_argument(
        "--job-seconds", type=float, default=2.0, help="how long the stand-in works on a job"
    )
    parser.add_argument("--settle-seconds", type=float, default=2.0)
    parser.add_argument(
        "--stay", action="store_true", help="then keep it all running until Ctrl-C, to look around"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and state")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="segment-demo-"))
    try:
        return _demo(options, folder)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _demo(options: argparse.Namespace, folder: Path) -> int:
    snapshot = demo_snapshot(options.rows)
    with stand_ins(
        folder,
        limits=options.limits,
        job_seconds=options.job_seconds,
        settle_seconds=options.settle_seconds,
    ) as stage:
        register(stage)
        with host(stage, folder) as url:
            started = time.monotonic()
            console.print(f"Dropping a snapshot of {options.rows:,} rows into blob storage ...")
            write_snapshot(
                snapshot, ContainerWriter(stage.snapshots.get_container_client("segments"))
            )
            dropped = time.monotonic()
            run = wait_for_run(stage, rows=options.rows, limit_s=300 + options.rows / 1_000)
            console.print(
                f"Dropped in {dropped - started:.1f} s, done {time.monotonic() - dropped:.1f} s later."
            )
            exit_code = _conclude(stage, snapshot, run)
            if options.stay:
                _stay(url)
            console.print("With ARGS=--stay it keeps running, to be looked at as different people.")
        return exit_code


def _stay(url: str) -> None:
    """Say how to look at it as different people, and wait for Ctrl-C."""
    console.print("Everything keeps running until Ctrl-C. In another terminal, in this folder:")
    python = Path(sys.executable)
    place = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    for user, words in LOOKS:
        command = f"EXPORTER_TOKEN=sandbox-{user} {place} -m exporter {words} --app {url}"
        console.print(f"  {command}", soft_wrap=True, markup=False)
    console.print(
        f"In a browser you are an administrator, after {url}/.auth/login/viewer a viewer:",
        soft_wrap=True,
    )
    console.print(f"  {url}/api/exports", soft_wrap=True)
    print(json.dumps({"url": url}), flush=True)
    threading.Event().wait()


def _conclude(stage: Stage, snapshot: Snapshot, run: Run) -> int:
    found = stage.store.read(run.folder + "report.json")
    assert found is not None
    report = json.loads(found.data)
    print(report_as_text(report))
    console.print("Reading the list back through Klaviyo's own endpoints ...")
    # Klaviyo allows 700 pages a minute: for a million members a quarter of an hour, so without limits.
    requests.post(
        f"{stage.control_url}/settings", json={"limits": False}, timeout=10
    ).raise_for_status()
    wrong = differences(snapshot, delivered(stage.klaviyo_url))
    if wrong:
        kinds = {kind: wrong.count(kind) for kind in sorted(set(wrong))}
        console.print(
            f"[red]The list is not what the snapshot should give: {kinds}. --keep keeps the logs.[/]"
        )
        return 1
    console.print("[green]The list holds exactly what the snapshot should give.[/]")
    if numbers := wrong_numbers(snapshot, report):
        console.print(
            f"[red]The report does not say so (it says, it should): {numbers}. --keep keeps the logs.[/]"
        )
        return 1
    return 0
