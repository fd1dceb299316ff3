"""How the app connects to Azure Storage, and what the service's refusals mean."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from exporter.errors import ConfigError, ExporterError, SettingsWrong, Terminal, Transient

if TYPE_CHECKING:
    from azure.identity import DefaultAzureCredential

# A step is short and is itself repeated from the queue, so the SDK need only bridge short failures.
# The SDK's defaults wait 15 s and more before the first retry, and 20 s for a connection. With four
# attempts and about 3, 5 and 9 s between them, a dead service is reported after 40 s, and one that
# accepts and never answers after 2.5 minutes. 30 s is the service's own limit for an operation:
# https://learn.microsoft.com/rest/api/storageservices/setting-timeouts-for-blob-service-operations
RETRY_POLICY: dict[str, Any] = {
    "retry_total": 3,
    "initial_backoff": 1,
    "increment_base": 2,
    "random_jitter_range": 1,
    "connection_timeout": 5,
    "read_timeout": 30,
}
# For half a minute or longer; after that it can be created.
BEING_DELETED = {"ContainerBeingDeleted", "QueueBeingDeleted"}


def service_identity(
    prefix: str, service: str, environ: Mapping[str, str]
) -> tuple[str, DefaultAzureCredential]:
    """Return a service's address and the identity for it, from the settings of a connection.

    Raises SettingsWrong if the connection is not set at all.
    """
    url = environ.get(f"{prefix}__{service}")
    if not url:
        raise SettingsWrong(
            f"no connection to storage: neither {prefix} nor {prefix}__{service} is set",
            hint=f"Set {prefix}__{service} to the address of the service, "
            f"or {prefix} to a connection string.",
        )
    return url, _credential(environ.get(f"{prefix}__clientId"))


@functools.cache
def _credential(client_id: str | None) -> DefaultAzureCredential:
    """Return the process's only credential for an identity, because it keeps the tokens."""
    # Imported late: it takes a while, and a laptop does not need it.
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential(managed_identity_client_id=client_id)


@contextlib.contextmanager
def connection_errors(prefix: str) -> Iterator[None]:
    """Turn a connection that the SDK cannot parse into a SettingsWrong.

    The SDK's own message may quote the connection string, so it is left out.
    """
    try:
        yield
    except ValueError:
        hint = (
            "Compare it with the storage account's connection string, "
            "or use the account's https address and an identity."
        )
        raise SettingsWrong(f"the connection in {prefix} is not valid", hint=hint) from None


@contextlib.contextmanager
def azure_errors(what: str, role: str) -> Iterator[None]:
    """Turn what the SDK raises into our errors. `role`: the role that the app needs for this."""
    try:
        yield
    except AzureError as exc:
        raise _translated(exc, what, role) from exc


def _translated(exc: AzureError, what: str, role: str) -> ExporterError:
    status, code = getattr(exc, "status_code", None), error_code(exc)
    if isinstance(exc, ClientAuthenticationError) or status in (401, 403):
        return ConfigError(
            f"{what}: storage refuses access ({status or 'no token'} {code})",
            hint=f"Give the app's identity the role {role} on the storage account, and check that "
            "the account's network rules admit the app. A new role takes some minutes to count.",
        )
    if status is None or status in (408, 429) or status >= 500 or code in BEING_DELETED:
        reason = f"{status} {code}" if status else type(exc).__name__
        return Transient(
            f"{what}: storage is not available ({reason})", retry_after_s=_retry_after_s(exc)
        )
    if code in ("ContainerNotFound", "QueueNotFound"):
        return ConfigError(
            f"{what} does not exist", hint="Correct the setting that names it, or create it."
        )
    return Terminal(f"{what}: storage answered {status} {code}")


def _retry_after_s(exc: AzureError) -> float | None:
    response = getattr(exc, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return float(value) if value.isdigit() else None


def error_code(exc: AzureError) -> str:
    """Return the service's error code, "" for none."""
    code = getattr(exc, "error_code", None)
    return str(getattr(code, "value", code) or "")  # an enum if the SDK knows it, else text


@contextlib.contextmanager
def already_created(code: str) -> Iterator[None]:
    """Ignore the error that what the block creates exists. `code`: the service's code for it."""
    try:
        yield
    except HttpResponseError as exc:
        if error_code(exc) != code:
            raise
