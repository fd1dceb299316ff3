"""Settings reach what they are for. Nothing is connected to: clients are only built."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import cast

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, RetentionPolicy
from azure.storage.queue import QueueServiceClient

from exporter import wiring
from exporter.errors import ConfigError
from exporter.http.identity import CLIENT_MARKER, MARKER
from exporter.management.management import Management
from exporter.management.roles import Actor, Role
from exporter.orchestration.engine import Engine
from exporter.orchestration.health import Answer, Check, Health
from exporter.planning.limits import PlanLimits
from exporter.runs.notices import Webhook
from exporter.settings import StepLimits, from_env
from sandbox.azurite import Azurite
from tests.http.asking import Asking, problem

STORAGE = {
    wiring.SNAPSHOTS_CONNECTION: "UseDevelopmentStorage=true",
    wiring.STATE_CONNECTION: "UseDevelopmentStorage=true",
}


def built(tmp_path: Path, **settings: str) -> Engine:
    environ = {
        "KEY_VAULT_URL": "https://vault.example",
        "WORK_FOLDER": str(tmp_path),
        **STORAGE,
        **settings,
    }
    return wiring.build(from_env(environ), environ)


def test_a_setting_that_is_wrong_is_told_to_people_who_are_signed_in_and_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in (
        ("TRUST_PLATFORM_IDENTITY", "true"),
        (MARKER, "True"),
        ("SETTLE_SECONDS", "soon"),
    ):
        monkeypatch.setenv(name, text)
    wiring.api.cache_clear()
    wiring.management.cache_clear()
    try:
        app = wiring.api()
    finally:
        wiring.api.cache_clear()
    asking = Asking(app, cast(Management, None))
    assert asking.ask(None, "GET", "/exports").status_code == 401
    told = problem(asking.ask(Actor(id="1", name="Ada", role=Role.VIEWER), "GET", "/exports"), 409)
    assert "SETTLE_SECONDS must be a number" in told["detail"]


@pytest.mark.parametrize(
    ("announced", "said"),
    [
        ({MARKER: "True"}, "ok"),
        ({CLIENT_MARKER: "client-1"}, "ok"),
        ({}, "the platform does not say that authentication is on"),
        ({MARKER: "False"}, "the platform does not say that authentication is on"),
    ],
)
def test_health_tells_that_the_platform_does_not_say_that_people_can_sign_in(
    announced: dict[str, str], said: str
) -> None:
    environ = {"KEY_VAULT_URL": "https://vault.example", "SIGN_IN_CLIENT_ID": "client-1"}
    environ |= {"TRUST_PLATFORM_IDENTITY": "true"} | announced
    checks = wiring.sign_in_checks(from_env(environ), environ)
    assert said in Health(checks, clock=lambda: 0.0).check()["sign-in"]


def test_health_says_nothing_of_signing_in_where_nobody_is_to() -> None:
    environ = {"KEY_VAULT_URL": "https://vault.example"}
    assert wiring.sign_in_checks(from_env(environ), environ) == {}


@pytest.mark.parametrize(("client", "status"), [("client-1", 409), ("another", 401)])
def test_api_believes_the_header_where_the_platform_names_the_registration(
    monkeypatch: pytest.MonkeyPatch, client: str, status: int
) -> None:
    """409, because the settings are wrong here: that is told to nobody who is not signed in."""
    monkeypatch.delenv(MARKER, raising=False)
    environ = {"TRUST_PLATFORM_IDENTITY": "true", "SIGN_IN_CLIENT_ID": "client-1"}
    for name, text in (environ | {CLIENT_MARKER: client, "SETTLE_SECONDS": "soon"}).items():
        monkeypatch.setenv(name, text)
    wiring.api.cache_clear()
    wiring.management.cache_clear()
    try:
        asking = Asking(wiring.api(), cast(Management, None))
        ada = Actor(id="1", name="Ada", role=Role.VIEWER)
        assert asking.ask(ada, "GET", "/exports").status_code == status
    finally:
        wiring.api.cache_clear()


def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    engine = built(
        tmp_path,
        SETTLE_SECONDS="1",
        PATIENCE_SECONDS="2",
        STEP_SECONDS="3",
        MEMORY_MB="128",
        KLAVIYO_SHARE="0.5",
        RUNS_KEPT_DAYS="6",
        REJECTED_KEPT_DAYS="5",
        NO_SNAPSHOT_DAYS="4",
    )
    assert engine.limits == StepLimits(
        settle_s=1,
        patience_s=2,
        step_s=3,
        plan=PlanLimits(memory_mb=128),
        pacer_share=0.5,
        runs_kept_days=6,
        rejected_kept_days=5,
        no_snapshot_days=4,
    )


def test_the_settings_defaults_are_the_limits_own(tmp_path: Path) -> None:
    assert built(tmp_path).limits == StepLimits()


def test_nobody_else_sees_the_work_folder_and_plans_of_dead_processes_go(tmp_path: Path) -> None:
    work = tmp_path / "work"
    abandoned, in_use, foreign = (
        work / ("a" * 16) / "plan-1",
        work / ("b" * 16) / "plan-1",
        work / "photos",
    )
    for folder in (abandoned, in_use, foreign):
        folder.mkdir(parents=True)
    for folder in (abandoned, abandoned.parent, in_use.parent, foreign):
        os.utime(folder, (0, 0))
    built(tmp_path, WORK_FOLDER=str(work))
    assert work.stat().st_mode & 0o777 == 0o700
    assert (abandoned.parent.exists(), in_use.exists(), foreign.exists()) == (False, True, True)


def test_a_work_folder_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot hold plans") as error:
        built(tmp_path, WORK_FOLDER=str(tmp_path / "file" / "work"))
    assert error.value.hint


def test_notices_go_to_the_webhook_that_a_secret_holds_or_nowhere(tmp_path: Path) -> None:
    assert built(tmp_path).notices._send is None
    assert isinstance(
        built(tmp_path, NOTICE_WEBHOOK_SECRET="notice-webhook").notices._send, Webhook
    )


def test_the_address_itself_in_place_of_the_secrets_name_is_refused_and_not_repeated(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="NOTICE_WEBHOOK_SECRET must be a secret's name") as error:
        built(tmp_path, NOTICE_WEBHOOK_SECRET="https://hooks.example/sig")
    assert "hooks.example" not in error.value.message + error.value.hint


# What only the doctor looks at, on Azurite


@pytest.fixture
def deep(azurite: Azurite, tmp_path: Path) -> dict[str, Check]:
    """The checks of an app with a queue of its own name."""
    storage = dict.fromkeys(STORAGE, azurite.connection_string)
    name = f"q{uuid.uuid4().hex[:20]}"
    engine = built(tmp_path, STEPS_QUEUE=name, SNAPSHOTS_CONTAINER=name, **storage)
    return {**engine.health.checks, **engine.deep_checks, "name": lambda: Answer("ok", name)}


def looked_at(checks: dict[str, Check], part: str) -> Answer:
    return Health({part: checks[part]}, clock=lambda: 0.0, answer_s=60).answers()[part]


@pytest.mark.azurite
@pytest.mark.parametrize("part", ["poison queue of steps", "poison queue of blobs"])
def test_doctor_tells_of_messages_in_a_poison_queue(
    deep: dict[str, Check], queue_service: QueueServiceClient, part: str
) -> None:
    name = f"{looked_at(deep, 'name').said}-poison"
    if part == "poison queue of blobs":
        name = wiring.BLOB_POISON_QUEUE
    queue = queue_service.get_queue_client(name)
    with contextlib.suppress(ResourceNotFoundError):
        queue.delete_queue()
    assert looked_at(deep, part).state == "ok", "nothing has failed yet"
    queue.create_queue()
    queue.send_message("e30=")
    found = looked_at(deep, part)
    queue.delete_queue()
    assert (found.state, found.said) == ("attention", f"About 1 messages are in {name}.")
    assert "operate.md" in found.hint


@pytest.mark.azurite
def test_doctor_tells_that_soft_delete_is_on(
    deep: dict[str, Check], blob_service: BlobServiceClient
) -> None:
    assert looked_at(deep, "soft delete").state == "ok"
    blob_service.set_service_properties(delete_retention_policy=RetentionPolicy(True, days=7))
    try:
        found = looked_at(deep, "soft delete")
    finally:
        blob_service.set_service_properties(delete_retention_policy=RetentionPolicy(False))
    assert (found.state, "Data protection" in found.hint) == ("failed", True)


def test_where_the_roles_hide_soft_delete_nothing_is_said_against_it() -> None:
    class Hidden:
        def get_service_properties(self) -> None:
            refused = HttpResponseError("not yours")
            refused.status_code = 403
            raise refused

    found = wiring.look_at_soft_delete(cast(BlobServiceClient, Hidden()))
    assert found is not None
    assert (found.state, "roles" in found.said) == ("ok", True)


@pytest.mark.azurite
def test_doctor_tells_of_a_container_of_snapshots_that_is_not_there(
    deep: dict[str, Check], blob_service: BlobServiceClient
) -> None:
    found = looked_at(deep, "snapshots")
    assert (found.state, "does not exist" in found.said) == ("failed", True)
    blob_service.create_container(looked_at(deep, "name").said)
    assert looked_at(deep, "snapshots") == Answer("ok", "Nothing has arrived yet.")


@pytest.mark.azurite
def test_doctor_writes_reads_and_removes_a_document_of_its_own(deep: dict[str, Check]) -> None:
    assert looked_at(deep, "state").state == "ok"
    assert looked_at(deep, "queue").state == "ok"
    assert looked_at(deep, "settings").state == "ok"


def test_doctor_says_where_nobody_signs_in() -> None:
    environ = {"KEY_VAULT_URL": "https://vault.example"}
    off = wiring.signs_nobody_in(from_env(environ))
    assert "refuses everybody" in looked_at(off, "sign-in").said
    assert wiring.signs_nobody_in(from_env(environ | {"TRUST_PLATFORM_IDENTITY": "true"})) == {}
