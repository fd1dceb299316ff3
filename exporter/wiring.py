"""Settings -> real collaborators. The only module that builds clients, each once for the process."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from exporter import settings as settings_module
from exporter.settings import Settings

if TYPE_CHECKING:
    from pydantic import SecretStr
    from starlette.types import ASGIApp

    from exporter.management.management import Management
    from exporter.orchestration.dispatcher import Exporter
    from exporter.storage.key_vault import Vault

SNAPSHOTS_CONNECTION = "SnapshotsStorage"
STATE_CONNECTION = "StateStorage"
PATIENCE_S = 20.0  # of a person; the platform ends a request after 230 s (source: remote.py)


@functools.cache
def cloud() -> Exporter:
    """The exporter of this function app."""
    return build(settings_module.from_env(os.environ), os.environ)


@functools.cache
def management() -> Management:
    """What people do with this function app."""
    from exporter.klaviyo.client import Klaviyo
    from exporter.management.management import Management

    settings = settings_module.from_env(os.environ)
    return Management(
        cloud(),
        secrets=vault(settings.key_vault_url),
        klaviyo=lambda key: Klaviyo(
            key,
            base_url=settings.klaviyo_base_url,
            revision=settings.klaviyo_revision,
            patience_s=PATIENCE_S,
        ),
    )


@functools.cache
def api() -> ASGIApp:
    """The HTTP API of this function app. The first call imports FastAPI."""
    from exporter.http.identity import is_platform_trusted
    from exporter.http.routes import create_app

    # This setting alone: any other that is wrong is told, as a problem, to people whom the platform vouches for.
    trust = settings_module.setting("TRUST_PLATFORM_IDENTITY", os.environ)
    return create_app(management, is_trusted=lambda: is_platform_trusted(os.environ, trust=trust))


@functools.cache
def vault(url: str) -> Vault:
    """The vault, opened when the first secret is needed."""
    from exporter.storage.key_vault import open_vault

    return open_vault(url)


def build(settings: Settings, environ: Mapping[str, str]) -> Exporter:
    """An exporter on Azure Storage and Key Vault."""
    from exporter.klaviyo.client import Klaviyo
    from exporter.orchestration.dispatcher import Exporter, StepLimits
    from exporter.runs.notices import Webhook
    from exporter.runs.plan_store import open_work
    from exporter.storage import azure_blobs
    from exporter.storage.azure_queue import AzureQueue, queue_service, steps_queue

    snapshots = azure_blobs.blob_service(SNAPSHOTS_CONNECTION, environ)
    state = azure_blobs.blob_service(STATE_CONNECTION, environ)
    queues = queue_service(STATE_CONNECTION, environ)
    steps = AzureQueue(steps_queue(queues, settings.steps_queue))

    def read_secret(name: str) -> SecretStr:
        return vault(settings.key_vault_url).read(name)

    return Exporter(
        store=azure_blobs.BlobStore(state.get_container_client(settings.state_container)),
        snapshots=azure_blobs.BlobSnapshots(
            snapshots.get_container_client(settings.snapshots_container)
        ),
        steps=steps,
        read_secret=read_secret,
        klaviyo=lambda key: Klaviyo(
            key,
            base_url=settings.klaviyo_base_url,
            revision=settings.klaviyo_revision,
        ),
        work=open_work(settings.work_folder),
        container=settings.snapshots_container,
        notify=Webhook(lambda: read_secret(settings.notice_webhook_secret))
        if settings.notice_webhook_secret
        else None,
        checks={"queue": steps.ping, "vault": lambda: vault(settings.key_vault_url).ping()},
        limits=StepLimits(
            settle_s=settings.settle_seconds,
            patience_s=settings.patience_seconds,
            step_s=settings.step_seconds,
            memory_mb=settings.memory_mb,
            pacer_share=settings.klaviyo_share,
            runs_kept_days=settings.runs_kept_days,
            rejected_kept_days=settings.rejected_kept_days,
            no_snapshot_days=settings.no_snapshot_days,
        ),
    )
