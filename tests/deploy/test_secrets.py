"""No secret is in the repository. What looks like one is a documented test value or a mistake."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.supply import SECRETS, changes, secrets_in
from tests.deploy.test_package import project_files

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", SECRETS)
def test_no_file_holds_one(kind: str) -> None:
    assert [
        name for name in project_files() if kind in secrets_in((ROOT / name).read_bytes())
    ] == []


def test_no_commit_holds_one() -> None:
    """What was committed once is public for ever, also where a later commit takes it out."""
    asked = ["git", "rev-parse", "--is-shallow-repository"]
    shallow = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("the history is not here: not a git checkout, or a clone that is cut off")
    assert {
        commit: kinds for commit, content in changes().items() if (kinds := secrets_in(content))
    } == {}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("Klaviyo private key", "KEY=pk_" + "0123456789abcdef" * 2 + "01"),
        ("storage account key", "AccountKey=" + "abcdefghijklmnopqrstuvwxyz" * 4 + "=="),
        ("function key in an address", "?code=" + "abcdefghijklmnopqrstuvwxyz0123456789" * 2),
        (
            "connection to Application Insights",
            "InstrumentationKey=" + "12345678-9abc-def0-1234-56789abcdef0",
        ),
    ],
)
def test_patterns_would_find_one(kind: str, text: str) -> None:
    assert kind in secrets_in(text.encode())


def test_a_key_that_is_made_up_to_be_seen_as_such_is_none() -> None:
    assert secrets_in(b"AccountKey=" + b"A" * 86 + b"==") == []
