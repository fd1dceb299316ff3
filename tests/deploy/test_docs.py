"""What the documents say of the code is so."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import exporter
from exporter import errors
from exporter.klaviyo.statuses import STATUSES
from exporter.settings import StepLimits, from_env, specs

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_tables_of_settings_retries_and_reasons_are_the_codes() -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


def test_every_status_that_the_client_knows_is_explained() -> None:
    rows = [
        line
        for line in text("docs/explain/failures.md").splitlines()
        if re.match(r"\| \d{3}", line)
    ]
    explained = {
        int(status) for row in rows for status in re.findall(r"\b[45]\d\d\b", row.split("|")[1])
    }
    assert explained == set(STATUSES)


def test_the_tree_of_errors_names_every_one() -> None:
    names = [module.name for module in pkgutil.walk_packages(exporter.__path__, "exporter.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    waiting, found = [errors.ExporterError], set()
    while waiting:
        kind = waiting.pop()
        found.add(kind.__name__)
        waiting += kind.__subclasses__()
    assert found - set(re.findall(r"\w+", errors.__doc__ or "")) == set()


def test_every_runtime_dependency_has_its_reason_in_the_readme() -> None:
    pinned = re.findall(
        r"(?m)^([A-Za-z][\w-]*)==", text("requirements.txt") + text("requirements-exporter.txt")
    )
    reasons = text("README.md").partition("## Dependencies")[2]
    assert [name for name in pinned if name not in reasons] == []


def test_every_command_of_the_command_line_exists() -> None:
    from exporter.cli.main import app

    known = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    }
    known |= {group.name for group in app.registered_groups}
    documents = [
        text("README.md"),
        *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")),
    ]
    named = {
        name
        for document in documents
        for name in re.findall(r"python -m exporter ([a-z]+)", document)
    }
    assert named <= known


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", text("Makefile")))
    documents = [
        text("README.md"),
        *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")),
    ]
    named = {
        name
        for document in documents
        for name in re.findall(r"`make ([a-z]+)|(?m:^make ([a-z]+))", document)
    }
    assert {first or second for first, second in named} <= targets


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = [
        f"{path.name}: {link}"
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
        if not (path.parent / link).exists()
    ]
    assert broken == []


def test_settings_report_every_problem_at_a_time() -> None:
    from exporter.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        from_env({"SETTLE_SECONDS": "soon", "KLAVIYO_SHARE": "2", "STATE_CONTAINER": "No!"})
    for name in ("KEY_VAULT_URL", "SETTLE_SECONDS", "KLAVIYO_SHARE", "STATE_CONTAINER"):
        assert name in caught.value.message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("KLAVIYO_REVISION", text) for text in ("yesterday", "2026-7-15")),
        *(
            ("KLAVIYO_BASE_URL", text)
            for text in ("http://far.example", "https://a.klaviyo.com/api", "klaviyo")
        ),
        *(
            ("SNAPSHOTS_CONTAINER", text)
            for text in ("-äb-", "äbc", "a--b", "ab-", "-ab", "a_b", "Abc", "ab", "a" * 64)
        ),
        ("STEPS_QUEUE", "a--b"),
    ],
)
def test_settings_refuse_what_klaviyos_client_or_azure_would_refuse_later(
    name: str, text: str
) -> None:
    from exporter.errors import ConfigError

    with pytest.raises(ConfigError, match=f"^{name} must [^;]*$"):
        from_env({"KEY_VAULT_URL": "https://vault.example", name: text})


def test_every_setting_has_a_default_that_it_accepts_itself() -> None:
    settings = from_env({"KEY_VAULT_URL": "https://vault.example"})
    assert settings.limits == StepLimits()
    given = {spec.name: spec.default for spec in specs() if spec.default}
    assert from_env({"KEY_VAULT_URL": "https://vault.example", **given}) == settings
