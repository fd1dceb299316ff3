"""Settings reach what they are for. Nothing is connected to: clients are only built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from exporter import wiring
from exporter.errors import ConfigError
from exporter.http.identity import CLIENT_MARKER, MARKER
from exporter.management.management import Management
from exporter.management.roles import Actor, Role
from exporter.orchestration.engine import Engine
from exporter.orchestration.health import Health
from exporter.planning.limits import PlanLimits
from exporter.runs.notices import Webhook
from exporter.settings import StepLimits, from_env
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
