"""The real SecretClient and DefaultAzureCredential find in the stand-in what they find in Azure."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
import requests
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from sandbox import processes, vault
from sandbox.vault import RunningVault, Vault, serving
from sandbox.vault.messages import Request
from sandbox.vault.server import IDLE_S
from sandbox.vault.tokens import LIFETIME_S
from tests.waiting import LIMIT_S


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningVault]:
    """A new vault, with this process set up as its child processes are."""
    with serving(cert_dir=tmp_path / "certificates") as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def client(running: RunningVault) -> Iterator[SecretClient]:
    with (
        DefaultAzureCredential() as credential,
        SecretClient(running.url, credential, retry_total=0) as client,
    ):
        yield client


def ask(running: RunningVault, path: str, *, token: str | None = None) -> requests.Response:
    """Ask the vault without its client, as somebody who does it wrong would."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(running.url + path, headers=headers, verify=running.ca, timeout=LIMIT_S)


def ask_token(
    running: RunningVault, *, resource: str, header: str | None = None
) -> requests.Response:
    return requests.get(
        running.env["IDENTITY_ENDPOINT"],
        params={"api-version": "2019-08-01", "resource": resource},
        headers={"X-IDENTITY-HEADER": header or running.env["IDENTITY_HEADER"]},
        timeout=LIMIT_S,
    )


def resource_of(running: RunningVault) -> str:
    """The resource that the vault's challenge names."""
    return (
        ask(running, "/secrets/key?api-version=7.6")
        .headers["WWW-Authenticate"]
        .split('resource="')[1]
        .rstrip('"')
    )


def error_code(error: HttpResponseError) -> tuple[int | None, str | None]:
    return error.status_code, error.error.code if error.error else None


# --- secrets --------------------------------------------------------------------------------------


def test_newest_value_is_read_back(client: SecretClient):
    client.set_secret("klaviyo-key", "old")
    newest = client.set_secret("klaviyo-key", "new").properties.version
    secret = client.get_secret("klaviyo-key")
    assert (secret.name, secret.value) == ("klaviyo-key", "new")
    properties = secret.properties
    assert (properties.version, properties.enabled) == (newest, True)
    assert properties.created_on is not None
    assert abs(properties.created_on - datetime.now(UTC)) < timedelta(minutes=1)


def test_unknown_secret_is_not_found(client: SecretClient):
    with pytest.raises(ResourceNotFoundError) as refused:
        client.get_secret("nobody")
    assert error_code(refused.value) == (404, "SecretNotFound")


def test_deleted_secret_is_gone_and_its_name_stays_taken(client: SecretClient):
    client.set_secret("key", "x")
    client.begin_delete_secret("key")
    with pytest.raises(ResourceNotFoundError):
        client.get_secret("key")
    with pytest.raises(ResourceExistsError) as refused:
        client.set_secret("key", "y")
    assert refused.value.status_code == 409


def test_what_no_app_needs_is_not_served(client: SecretClient):
    with pytest.raises(HttpResponseError) as refused:
        list(client.list_properties_of_secrets())
    assert error_code(refused.value) == (405, "MethodNotAllowed")


def test_names_are_the_same_in_any_case(client: SecretClient):
    client.set_secret("Klaviyo-Key", "1")
    assert client.get_secret("klaviyo-KEY").value == "1"


@pytest.mark.parametrize(
    ("name", "value"), [("under_score", "x"), ("x" * 128, "x"), ("key", "x" * 25_601)]
)
def test_what_azure_does_not_store_is_a_bad_parameter(client: SecretClient, name: str, value: str):
    with pytest.raises(HttpResponseError) as refused:
        client.set_secret(name, value)
    assert error_code(refused.value) == (400, "BadParameter")


# --- identity and tokens --------------------------------------------------------------------------


def test_request_without_token_is_told_where_to_get_one(running: RunningVault):
    answer = ask(running, "/secrets/key?api-version=7.6")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "Unauthorized"
    assert answer.headers["WWW-Authenticate"].startswith(
        'Bearer authorization="https://login.microsoftonline.com/'
    )


def test_challenge_names_a_parent_of_the_vaults_host(running: RunningVault):
    """This is what the client checks (verify_challenge_resource) before it hands a token over."""
    assert running.url.endswith("." + resource_of(running).removeprefix("https://"))


def test_token_for_this_vault_is_taken(running: RunningVault):
    token = ask_token(running, resource=resource_of(running)).json()["access_token"]
    running.vault.set_secret("key", "x")
    assert ask(running, "/secrets/key?api-version=7.6", token=token).status_code == 200


def test_token_for_another_resource_is_refused(running: RunningVault):
    token = ask_token(running, resource="https://storage.azure.com").json()["access_token"]
    assert ask(running, "/secrets/key?api-version=7.6", token=token).status_code == 401


def test_expired_token_is_refused():
    now = 1_790_000_000.0
    served = Vault("https://127.0.0.1:8443", clock=lambda: now)
    served.set_secret("key", "x")
    query = {"api-version": "2019-08-01", "resource": served.resource}
    asked = Request("GET", "/msi/token", query, {"X-IDENTITY-HEADER": served.identity_header})
    token = served.answer_identity(asked).content["access_token"]
    read = Request(
        "GET", "/secrets/key", {"api-version": "7.6"}, {"Authorization": f"Bearer {token}"}
    )
    assert served.answer_vault(read).status == 200
    now += LIFETIME_S
    refused = served.answer_vault(read)
    assert (refused.status, refused.content["error"]["message"]) == (401, "the token has expired")


def test_forged_token_is_refused(running: RunningVault):
    header, payload, signature = (
        ask_token(running, resource="https://other").json()["access_token"].split(".")
    )
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    forged = (
        base64.urlsafe_b64encode(json.dumps({**claims, "aud": resource_of(running)}).encode())
        .decode()
        .rstrip("=")
    )
    for token in (f"{header}.{forged}.{signature}", "nonsense", "a.b.c"):
        assert ask(running, "/secrets/key?api-version=7.6", token=token).status_code == 401


def test_identity_gives_tokens_only_to_its_own_app(running: RunningVault):
    assert ask_token(running, resource="https://x", header="guess").status_code == 401
    assert ask_token(running, resource="").status_code == 400


def test_token_answer_has_the_documented_fields(running: RunningVault):
    answer = ask_token(running, resource="https://x").json()
    assert answer.keys() == {
        "access_token",
        "client_id",
        "expires_on",
        "not_before",
        "resource",
        "token_type",
    }
    assert int(answer["expires_on"]) > time.time() + 3600
    assert (answer["resource"], answer["token_type"]) == ("https://x", "Bearer")


def test_identity_without_role_is_forbidden(client: SecretClient, running: RunningVault):
    client.set_secret("key", "x")
    running.vault.role_assigned = False
    with pytest.raises(HttpResponseError, match="Caller is not authorized") as refused:
        client.get_secret("key")
    assert error_code(refused.value) == (403, "Forbidden")


# --- certificate and process ----------------------------------------------------------------------


def test_certificate_passes_openssl_at_its_strictest(running: RunningVault):
    context = ssl.create_default_context(cafile=str(running.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    host, port = running.url.removeprefix("https://").split(":")
    for name in (host, "localhost"):
        with (
            socket.create_connection((host, int(port))) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            assert tls.version() == "TLSv1.3"


def test_client_that_was_not_told_of_the_certificate_refuses_it(
    running: RunningVault, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with (
        DefaultAzureCredential() as credential,
        SecretClient(running.url, credential, retry_total=0) as client,
        pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.get_secret("key")
    assert capfd.readouterr().err == ""


def test_bundle_still_trusts_the_usual_authorities(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with serving() as running:
        bundle = Path(running.env["REQUESTS_CA_BUNDLE"]).read_bytes()
        assert bundle == Path(certifi.where()).read_bytes() + running.ca.read_bytes()


def test_bundle_still_trusts_what_this_process_was_told_to_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "company.pem").write_bytes(b"# the company's own\n")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "company.pem"))
    with serving() as running:
        bundle = Path(running.env["REQUESTS_CA_BUNDLE"]).read_bytes()
        assert bundle == b"# the company's own\n" + running.ca.read_bytes()


def test_silent_connection_holds_up_no_other(running: RunningVault):
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))):
        assert ask(running, "/secrets/key?api-version=7.6").status_code == 401


@pytest.mark.parametrize("secret", ["under_score=x", "no-value"])
def test_command_refuses_a_secret_that_nobody_could_read(
    secret: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        vault.main(["--secret", secret])
    assert "give NAME=VALUE" in capsys.readouterr().err


@pytest.mark.processes
def test_process_serves_its_children_and_stops_at_once_and_silently(tmp_path: Path):
    command = processes.sandbox_command("vault", "--port", "0", "--secret", "key=a=b")
    program = (
        "import sys\nfrom azure.identity import DefaultAzureCredential\n"
        "from azure.keyvault.secrets import SecretClient\n"
        "print(SecretClient(sys.argv[1], DefaultAzureCredential()).get_secret('key').value)"
    )
    with processes.running(command, log=tmp_path / "log") as (process, ready):
        child = [sys.executable, "-c", program, ready["url"]]
        assert (
            subprocess.check_output(child, env={**os.environ, **ready["env"]}, text=True) == "a=b\n"
        )
        assert Path(ready["ca"]).exists()
        process.terminate()
        assert process.wait(IDLE_S / 2) == 0, "it waits for no idle connection"
    assert (tmp_path / "log").read_text() == ""
    assert not Path(ready["ca"]).exists()
