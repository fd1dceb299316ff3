"""Key Vault: the only place that holds the Klaviyo keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from pydantic import SecretStr

from exporter.errors import ConfigError, ExporterError, SecretUnavailable, Transient

if TYPE_CHECKING:
    from azure.keyvault.secrets import SecretClient

ROLE_HINT = (
    "Give the app's identity the role Key Vault Secrets User on this vault, or on this secret."
)
WRITE_HINT = (
    "Give the app's identity the role Key Vault Secrets Officer (appWritesKeys), "
    "or name a secret instead."
)
HEALTH_NAME = "segment-exporter-health"  # the secret that `ping` asks for; it need not exist
_THROTTLED = 429


class Vault:
    """Secrets by name, through the app's identity."""

    def __init__(self, client: SecretClient) -> None:
        self._client = client

    def read(self, name: str) -> SecretStr:
        """Read a secret's newest value.

        Raises SecretUnavailable, or Transient if the vault cannot answer.
        """
        try:
            value = self._client.get_secret(name).value
        except AzureError as exc:
            raise _translated(exc, name) from None  # its text may quote the vault's answer
        if not value:
            raise SecretUnavailable(
                f"the secret {name} is empty", hint="Store the Klaviyo key in it."
            )
        return SecretStr(value)

    def write(self, name: str, value: SecretStr) -> None:
        """Store a secret's new value. Raises as `read` does; no error holds the value."""
        try:
            self._client.set_secret(name, value.get_secret_value())
        except AzureError as exc:
            raise _translated(exc, name, hint=WRITE_HINT) from None

    def delete(self, name: str) -> None:
        """Delete a secret, if it exists. It can be recovered from the vault for some time."""
        try:
            self._client.begin_delete_secret(name)  # nothing needs to wait for its end
        except ResourceNotFoundError:
            return
        except AzureError as exc:
            raise _translated(exc, name, hint=WRITE_HINT) from None

    def ping(self) -> None:
        """Raise what would keep secrets from being read."""
        try:
            self._client.get_secret(HEALTH_NAME)
        except ResourceNotFoundError:
            return
        except AzureError as exc:
            raise _translated(exc, HEALTH_NAME) from None


def _translated(exc: AzureError, name: str, *, hint: str = ROLE_HINT) -> ExporterError:
    match exc:
        case ResourceNotFoundError():
            return SecretUnavailable(
                f"the secret {name} does not exist in the vault",
                hint="Store the Klaviyo key under this name.",
            )
        case ClientAuthenticationError():
            return ConfigError("the app's identity could not sign in to the vault", hint=ROLE_HINT)
        case ServiceRequestError() | ServiceResponseError():
            return Transient(
                "the vault could not be reached",
                hint="Check KEY_VAULT_URL and the vault's network rules.",
            )
        case HttpResponseError() if (
            exc.status_code == _THROTTLED or (exc.status_code or 500) >= 500
        ):
            return Transient("the vault could not answer")
        case _:
            return SecretUnavailable(f"the vault refused access to the secret {name}", hint=hint)


def open_vault(url: str) -> Vault:
    """Open the vault at this address with the app's identity."""
    # Imported late: identity takes a quarter of a second, and only runs need keys.
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    return Vault(SecretClient(vault_url=url, credential=DefaultAzureCredential()))
