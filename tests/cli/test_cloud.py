"""The command line on a deployed app's state: the same settings, here on Azurite."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.storage.azure_blobs import BlobStore
from sandbox.azurite import Azurite
from tests.forking import exporter

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.processes, pytest.mark.azurite]


@pytest.fixture(scope="module")
def settings(azurite: Azurite) -> Iterator[dict[str, str]]:
    """An app with a connection, an export and a snapshot that has arrived."""
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        segments = service.create_container("cli-segments")
        segments.upload_blob("segments/VIPs.csv", "EMail,Tier\nada@example.com,gold\nnone,\n")
        catalog = Catalog(BlobStore(service.get_container_client("cli-state")))
        consent = Consent(by="ann", at=datetime(2026, 11, 23, tzinfo=UTC))
        catalog.save(Connection(id="main", name="Klaviyo", secret="main-key", consent=consent))
        mapping = parse_mapping({"email": "EMail", "properties": {"tier": "Tier"}})
        export = Export(
            id="vips",
            name="VIPs",
            connection="main",
            list_id="Y6nRLr",
            segments=["VIPs"],
            mapping=mapping,
        )
        catalog.save(export)
        segments.close()
        yield {
            "SnapshotsStorage": azurite.connection_string,
            "StateStorage": azurite.connection_string,
            "KEY_VAULT_URL": "https://vault.invalid",
            "SNAPSHOTS_CONTAINER": "cli-segments",
            "STATE_CONTAINER": "cli-state",
            "STEPS_QUEUE": "cli-steps",
            "SETTLE_SECONDS": "0",  # the snapshot has just been written
        }


def run(settings: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return exporter(*args, **settings, COLUMNS="160")


def test_exports_and_connections_are_listed_without_secrets(settings: dict[str, str]) -> None:
    listed = run(settings, "exports")
    assert (listed.returncode, "Y6nRLr" in listed.stdout) == (0, True), listed.stderr
    assert (
        json.loads(run(settings, "connections", "--json").stdout)[0]["secret"] == "main-key"
    )  # its name, no value


def test_plan_of_an_export_is_a_dry_run(settings: dict[str, str]) -> None:
    done = run(settings, "plan", "vips", "--json")
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["profiles"], summary["rejected"]) == (0, 1, 1)
    assert summary["mapping"] == ["email from EMail", "properties.tier from Tier"]
    assert run(settings, "runs", "vips", "--json").stdout.strip() == "[]"


def test_run_queues_a_run_that_can_be_watched_and_cancelled(settings: dict[str, str]) -> None:
    started = run(settings, "run", "vips", "--json")
    run_id = json.loads(started.stdout)["run"]
    listed = json.loads(run(settings, "runs", "vips", "--json").stdout)
    assert [(one["run"], one["status"]) for one in listed] == [(run_id, "Queued")]
    assert run(settings, "cancel", run_id).returncode == 0
    unfinished = run(settings, "report", run_id)
    assert (unfinished.returncode, "Queued (open)" in unfinished.stdout) == (0, True)


@pytest.mark.parametrize(
    "args", [("plan", "nothing"), ("run", "nothing"), ("cancel", "a/b"), ("report", "a/b")]
)
def test_what_does_not_exist_is_said(settings: dict[str, str], args: tuple[str, ...]) -> None:
    done = run(settings, *args)
    assert (done.returncode, "there is no" in done.stderr.lower()) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
