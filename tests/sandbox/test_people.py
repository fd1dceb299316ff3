"""The functions host with authentication on: nobody outside can say who somebody is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.storage.blob import BlobServiceClient

from exporter.http.identity import PRINCIPAL
from exporter.management.roles import Role
from sandbox.azurite import Azurite
from sandbox.processes import running, sandbox_command
from tests.http.asking import principal
from tests.management.managing import ADMIN
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.processes, pytest.mark.azurite]


@pytest.fixture(scope="module")
def url(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """This repository's app, with everybody a viewer who is not somebody else."""
    folder = tmp_path_factory.mktemp("people")
    with BlobServiceClient.from_connection_string(azurite.connection_string) as blobs:
        blobs.create_container("people-segments").close()
        blobs.create_container("people-state").close()
    settings = {
        **dict.fromkeys(
            ("AzureWebJobsStorage", "SnapshotsStorage", "StateStorage"), azurite.connection_string
        ),
        "KEY_VAULT_URL": "https://vault.invalid",
        "SNAPSHOTS_CONTAINER": "people-segments",
        "STATE_CONTAINER": "people-state",
        "STEPS_QUEUE": "people-steps",
        "TICK_SCHEDULE": "0 0 0 1 1 *",
        "WORK_FOLDER": str(folder / "work"),
    }
    command = sandbox_command("host", "--app", str(ROOT), "--user", "viewer", "--host-id", "people")
    with running(command, log=folder / "host.log", env=settings) as (_, ready):
        yield f"{ready['url']}"


def me(url: str, **options: Any) -> Any:
    answer = requests.get(f"{url}/api/me", timeout=LIMIT_S, **options)
    return answer.json()["role"] if answer.status_code == 200 else answer.status_code


def test_everybody_is_the_user_of_the_option(url: str) -> None:
    assert me(url) == Role.VIEWER


def test_headers_from_outside_say_nothing(url: str) -> None:
    forged = principal(ADMIN)
    assert me(url, headers={PRINCIPAL: forged}) == Role.VIEWER
    assert (
        me(url, headers={"X-MS-CLIENT-PRINCIPAL": forged, "X-Ms-Client-Principal-Id": "1"})
        == Role.VIEWER
    )


@pytest.mark.parametrize(
    ("user", "seen"), [("admin", "Admin"), ("contributor", "Contributor"), ("none", 403)]
)
def test_a_token_or_a_sign_in_is_somebody_else(url: str, user: str, seen: Any) -> None:
    assert me(url, headers={"Authorization": f"Bearer sandbox-{user}"}) == seen
    with requests.Session() as session:
        session.get(f"{url}/.auth/login/{user}", allow_redirects=False, timeout=LIMIT_S)
        assert me(url, cookies=session.cookies) == seen


def test_a_token_that_nobody_has_is_refused_before_the_app(url: str) -> None:
    assert me(url, headers={"Authorization": "Bearer sandbox-root"}) == 401


def test_health_is_open_to_monitors(url: str) -> None:
    answer = requests.get(
        f"{url}/api/health", headers={"Authorization": "Bearer nobody"}, timeout=LIMIT_S
    )
    assert answer.status_code in (200, 503)


def test_roles_hold_through_the_host(url: str) -> None:
    def pause(user: str) -> int:
        headers = {"Authorization": f"Bearer sandbox-{user}", "X-Exporter": "1"}
        return requests.post(
            f"{url}/api/exports/none/pause", headers=headers, timeout=LIMIT_S
        ).status_code

    assert [pause(user) for user in ("viewer", "contributor", "admin")] == [403, 404, 404]


def test_without_the_option_the_api_refuses_everybody(azurite: Azurite, tmp_path: Path) -> None:
    settings = dict.fromkeys(
        ("AzureWebJobsStorage", "SnapshotsStorage", "StateStorage"), azurite.connection_string
    )
    settings |= {"KEY_VAULT_URL": "https://vault.invalid", "SNAPSHOTS_CONTAINER": "people-segments"}
    settings |= {"STEPS_QUEUE": "people-steps", "TICK_SCHEDULE": "0 0 0 1 1 *"}
    command = sandbox_command("host", "--app", str(ROOT), "--host-id", "nobody")
    with running(command, log=tmp_path / "host.log", env=settings) as (_, ready):
        assert me(ready["url"], headers={PRINCIPAL: principal(ADMIN)}) == 401
