"""No secret is in the repository. What looks like one is either a documented test value or a mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.infra.test_package import project_files

ROOT = Path(__file__).parents[2]

PATTERNS = {
    "Klaviyo private key": r"\bpk_[0-9a-f]{30,}\b",
    "storage account key": r"AccountKey=[A-Za-z0-9+/]{80,}==",
    "shared access signature": r"[?&]sig=[A-Za-z0-9%]{40,}",
    "private key": r"-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "Entra client secret": r"\b[A-Za-z0-9_~.-]{3}8Q~[A-Za-z0-9_~.-]{34}\b",
    "token": r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}",
}
# Microsoft publishes this key of its emulator; it opens nothing.
EMULATORS = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

# Made up for tests, in pieces here so as not to be found.
MADE_UP = {"pk_" + "0a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6e"}


@pytest.mark.parametrize("kind", PATTERNS)
def test_no_file_holds_one(kind: str) -> None:
    found = []
    for name in project_files():
        text = (ROOT / name).read_bytes().decode("utf-8", "replace").replace(EMULATORS, "")
        found += [f"{name}: {kind}" for match in re.findall(PATTERNS[kind], text) if match not in MADE_UP]
    assert found == []


def test_patterns_would_find_one() -> None:
    assert re.search(PATTERNS["Klaviyo private key"], "KEY=pk_" + "0123456789abcdef" * 2 + "01")
    assert re.search(PATTERNS["storage account key"], "AccountKey=" + "A" * 86 + "==")
