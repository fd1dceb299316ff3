"""The real SecretClient against the stand-in: a failure says what to do and shows no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient
from pydantic import SecretStr

from exporter.errors import SecretUnavailable
from exporter.storage.key_vault import Vault
from sandbox.vault import RunningVault, serving


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningVault]:
    with serving(cert_dir=tmp_path) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def vault(stand_in: RunningVault) -> Iterator[Vault]:
    with DefaultAzureCredential() as credential, SecretClient(stand_in.url, credential) as client:
        yield Vault(client)


def test_written_secret_is_read_and_hides_itself(vault: Vault) -> None:
    vault.write("klaviyo", SecretStr("pk_one"))
    vault.write("klaviyo", SecretStr("pk_two"))
    read = vault.read("klaviyo")
    assert read.get_secret_value() == "pk_two"
    assert "pk_" not in repr(read) + str(read)


def test_missing_secret_is_named_with_what_to_do(vault: Vault) -> None:
    with pytest.raises(SecretUnavailable, match="klaviyo does not exist") as caught:
        vault.read("klaviyo")
    assert "Store the Klaviyo key" in caught.value.hint


def test_missing_role_is_named(vault: Vault, stand_in: RunningVault) -> None:
    stand_in.vault.role_assigned = False
    with pytest.raises(SecretUnavailable) as caught:
        vault.read("klaviyo")
    assert "Key Vault Secrets User" in caught.value.hint


def test_health_of_a_vault_without_the_health_secret_is_good(vault: Vault) -> None:
    vault.ping()


def test_health_of_a_vault_that_refuses_us_is_bad(vault: Vault, stand_in: RunningVault) -> None:
    stand_in.vault.role_assigned = False
    with pytest.raises(SecretUnavailable):
        vault.ping()


def test_deleted_secret_is_gone_and_deleting_it_again_is_fine(vault: Vault) -> None:
    vault.write("klaviyo", SecretStr("pk_one"))
    vault.delete("klaviyo")
    vault.delete("klaviyo")
    vault.delete("never-was")
    with pytest.raises(SecretUnavailable, match="does not exist"):
        vault.read("klaviyo")


def test_missing_role_for_writing_is_named(vault: Vault, stand_in: RunningVault) -> None:
    stand_in.vault.role_assigned = False
    for refused in (
        lambda: vault.write("klaviyo", SecretStr("pk_one")),
        lambda: vault.delete("klaviyo"),
    ):
        with pytest.raises(SecretUnavailable) as caught:
            refused()
        assert "Key Vault Secrets Officer" in caught.value.hint
        assert "pk_one" not in caught.value.message + caught.value.hint
