"""Settings to real collaborators.

The only module that builds clients, each once for the process.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from exporter import settings as settings_module
from exporter.errors import ConfigError
from exporter.settings import Settings

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient
    from azure.storage.queue import QueueClient
    from pydantic import SecretStr
    from starlette.types import ASGIApp

    from exporter.management.management import Management
    from exporter.orchestration.engine import Engine
    from exporter.orchestration.health import Answer, Check
    from exporter.storage.key_vault import Vault

SNAPSHOTS_CONNECTION = "SnapshotsStorage"
STATE_CONNECTION = "StateStorage"
# Named by the Functions host, in the account of the blob trigger.
BLOB_POISON_QUEUE = "webjobs-blobtrigger-poison"
PATIENCE_S = (
    20.0  # of a person; the platform ends a request after 230 s (source: remote_backend.py)
)


@functools.cache
def engine() -> Engine:
    """Return what moves runs along in this function app."""
    return build(settings_module.from_env(os.environ), os.environ)


@functools.cache
def management() -> Management:
    """Return what people do with this function app."""
    from exporter.klaviyo.client import Klaviyo
    from exporter.management.access import ManagementLimits
    from exporter.management.management import Management

    settings, parts = settings_module.from_env(os.environ), engine()
    return Management(
        store=parts.store,
        catalog=parts.catalog,
        runs=parts.runs,
        container=parts.container,
        starter=parts.starter,
        check_health=parts.health.check,
        checks={**parts.health.checks, **parts.deep_checks},
        fall_forward=settings.klaviyo_fall_forward,
        revision=settings.klaviyo_revision,
        secrets=vault(settings.key_vault_url),
        open_klaviyo=lambda key: Klaviyo(
            key,
            base_url=settings.klaviyo_base_url,
            revision=settings.klaviyo_revision,
            fall_forward=settings.klaviyo_fall_forward,
            patience_s=PATIENCE_S,
        ),
        limits=ManagementLimits(plan=parts.limits.plan, pacer_share=parts.limits.pacer_share),
    )


@functools.cache
def api() -> ASGIApp:
    """Return the HTTP API of this function app. The first call imports FastAPI."""
    from exporter.http.identity import is_platform_trusted
    from exporter.http.routes import create_app

    # These settings alone are read here. Any other that is wrong is told, as a problem, to people
    # whom the platform vouches for.
    trust = settings_module.setting("TRUST_PLATFORM_IDENTITY", os.environ)
    client_id = settings_module.setting("SIGN_IN_CLIENT_ID", os.environ)

    def is_trusted() -> bool:
        return is_platform_trusted(os.environ, trust=trust, client_id=client_id)

    return create_app(management, is_trusted=is_trusted)


@functools.cache
def vault(url: str) -> Vault:
    """Return the vault, opened when the first secret is needed."""
    from exporter.storage.key_vault import open_vault

    return open_vault(url)


def build(settings: Settings, environ: Mapping[str, str]) -> Engine:
    """Build an engine on Azure Storage and Key Vault."""
    from exporter.klaviyo.client import Klaviyo
    from exporter.orchestration.engine import build_engine
    from exporter.runs.notices import Webhook
    from exporter.runs.plan_store import open_work
    from exporter.sending.sender import LONG_PAUSE_S
    from exporter.storage import azure_blobs, azure_queue

    snapshots = azure_blobs.blob_service(SNAPSHOTS_CONNECTION, environ)
    state = azure_blobs.blob_service(STATE_CONNECTION, environ)
    queues = azure_queue.queue_service(STATE_CONNECTION, environ)
    queue = azure_queue.AzureQueue(azure_queue.steps_queue(queues, settings.steps_queue))
    webhook = settings.notice_webhook_secret

    def read_secret(name: str) -> SecretStr:
        return vault(settings.key_vault_url).read(name)

    return build_engine(
        store=azure_blobs.BlobStore(state.get_container_client(settings.state_container)),
        snapshots=azure_blobs.BlobSnapshots(
            snapshots.get_container_client(settings.snapshots_container)
        ),
        queue=queue,
        read_secret=read_secret,
        open_klaviyo=lambda key: Klaviyo(
            key,
            base_url=settings.klaviyo_base_url,
            revision=settings.klaviyo_revision,
            fall_forward=settings.klaviyo_fall_forward,
            patience_s=LONG_PAUSE_S,
        ),
        work=open_work(settings.work_folder),
        container_name=settings.snapshots_container,
        instance=environ.get("WEBSITE_INSTANCE_ID", "")[:8] or socket.gethostname(),
        notify=Webhook(lambda: read_secret(webhook)) if webhook else None,
        checks={
            "queue": queue.ping,
            "vault": lambda: vault(settings.key_vault_url).ping(),
            **sign_in_checks(settings, environ),
        },
        deep_checks={
            "settings": lambda: None,  # they were read: else there were no app to ask
            "poison queue of steps": lambda: look_at_poison(
                queues.get_queue_client(f"{settings.steps_queue}-poison")
            ),
            "poison queue of blobs": lambda: look_at_poison(
                azure_queue.queue_service(SNAPSHOTS_CONNECTION, environ).get_queue_client(
                    BLOB_POISON_QUEUE
                )
            ),
            "soft delete": lambda: look_at_soft_delete(snapshots),
            **signs_nobody_in(settings),
        },
        limits=settings.limits,
    )


def sign_in_checks(settings: Settings, environ: Mapping[str, str]) -> dict[str, Check]:
    """Check, where people are to sign in, that the platform says that they can."""
    from exporter.http.identity import is_announced

    def check() -> None:
        if not is_announced(environ, client_id=settings.sign_in_client_id):
            raise ConfigError(
                "People are to sign in, but the platform does not say that authentication is on; "
                "every request is refused",
                hint="Repeat azd provision --no-state, and look at Authentication in the portal.",
            )

    return {"sign-in": check} if settings.trust_platform_identity else {}


def signs_nobody_in(settings: Settings) -> dict[str, Check]:
    """Say, where nobody is to sign in, what that means."""
    from exporter.orchestration.health import OK, Answer

    if settings.trust_platform_identity:
        return {}
    said = "Sign-in is off by these settings: the API refuses everybody."
    return {"sign-in": lambda: Answer(OK, said)}


def look_at_poison(queue: QueueClient) -> Answer | None:
    """Say how many messages failed too often and wait for somebody."""
    from exporter.orchestration.health import Answer
    from exporter.storage.azure_queue import count_messages

    if not (count := count_messages(queue)):
        return None
    return Answer(
        "attention",
        f"About {count} messages are in {queue.queue_name}.",
        "See docs/how-to/operate.md, A poison message.",
    )


def look_at_soft_delete(service: BlobServiceClient) -> Answer | None:
    """Say whether soft delete is on where Customer Insights writes: its export fails with it."""
    from exporter.orchestration.health import OK, Answer
    from exporter.storage.azure_blobs import has_soft_delete

    match has_soft_delete(service):
        case None:
            return Answer(OK, "The app's roles do not let it see this.")
        case True:
            return Answer(
                "failed",
                "Soft delete is on for blobs: Customer Insights' export fails with it.",
                "Switch it off: Data protection of the snapshots account, in the portal.",
            )
    return None
