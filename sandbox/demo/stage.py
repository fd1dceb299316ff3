"""Everything that a demo runs: Azurite, Klaviyo, Key Vault, and the functions host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import BlobServiceClient
from rich.console import Console

from exporter.storage.azure_blobs import BlobStore
from exporter.storage.key_vault import Vault
from sandbox.azurite import running_azurite
from sandbox.processes import running, sandbox_command

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = "segments"
STATE_CONTAINER = "exporter-state"
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
    """Start storage, Klaviyo and the vault; yield how to reach them.

    `host` starts the app itself.
    """
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
            "SNAPSHOTS_CONTAINER": CONTAINER,
            "STATE_CONTAINER": STATE_CONTAINER,
            "STEPS_QUEUE": "export-steps",
            "SETTLE_SECONDS": str(settle_seconds),
            "TICK_SCHEDULE": "0 * * * * *",
            "WORK_FOLDER": str(folder / "work"),
        }
        os.environ.update(vault["env"])  # for our own client of the vault
        service = BlobServiceClient.from_connection_string(azurite.connection_string)
        service.create_container(CONTAINER)
        yield Stage(
            environment=environment,
            klaviyo_url=klaviyo["url"],
            control_url=klaviyo["control"],
            store=BlobStore(service.get_container_client(STATE_CONTAINER)),
            snapshots=service,
            vault=_vault(vault["url"]),
        )


@contextlib.contextmanager
def host(stage: Stage, folder: Path) -> Iterator[str]:
    """Start the functions host with this repository's app; yield its address.

    Everybody is an administrator there.
    """
    command = sandbox_command(
        "host", "--app", str(ROOT), "--port", "0", "--lock-seconds", "5", "--user", "admin"
    )
    with running(command, log=folder / "host.log", env=stage.environment) as (_, ready):
        console.print(f"Functions host at {ready['url']} with {', '.join(ready['functions'])}")
        yield ready["url"]


def _vault(url: str) -> Vault:
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    return Vault(SecretClient(url, DefaultAzureCredential()))
