"""The threat model points at tests that exist, and names every right that the templates give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from exporter.definitions.connection import Connection
from exporter.definitions.export import Export

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explain" / "threat-model.md").read_text(encoding="utf-8")


def test_what_shows_a_measure_is_there() -> None:
    named = re.findall(r"\btests/[\w/]+\.py", PAGE)
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_role_of_the_templates_is_in_the_table() -> None:
    table = PAGE.partition("## Who gets what")[2].partition("## What could happen")[0]
    roles = (ROOT / "infra" / "modules" / "roles.bicep").read_text(encoding="utf-8")
    for name in re.findall(r"(?m)^  (\w+):", roles):
        words = re.findall(r"[A-Z]?[a-z]+", name)
        # "Data Owner", "Secrets User", "Reader", ...
        last = " ".join(word.capitalize() for word in words[-2:])
        assert last in table, name


@pytest.mark.parametrize(
    "given", ["../x", "a/b", "a..b", ".", "A b", "x?y=1", "x'--", "x\n", "", "é", "a" * 65]
)
def test_ids_and_names_that_become_paths_or_addresses_hold_nothing_else(given: str) -> None:
    connection = {"id": "main", "name": "Main", "secret": "main-key"}
    export = {
        "id": "vips",
        "name": "V",
        "connection": "main",
        "list_id": "Y6nRLr",
        "segments": ["V"],
    }
    export |= {"mapping": {"email": "EMail"}}
    Connection.model_validate(connection)
    Export.model_validate(export)
    for field in ("id", "secret"):
        if field == "id" or len(given) != 65:  # a secret's name may be longer
            with pytest.raises(ValidationError):
                Connection.model_validate(connection | {field: given})
    for field in ("id", "connection", "list_id"):
        with pytest.raises(ValidationError):
            Export.model_validate(export | {field: given})


def test_client_knows_no_endpoint_that_changes_consent() -> None:
    """Unsubscribing in Klaviyo is for the whole account, not for a list."""
    client = [path.read_text(encoding="utf-8") for path in (ROOT / "exporter/klaviyo").glob("*.py")]
    assert any("profile-bulk-import-jobs" in text for text in client)
    for text in client:
        assert "subscri" not in text.lower()
        assert "suppress" not in text.lower()


def test_links_of_the_pages_beside_the_readme_lead_somewhere() -> None:
    for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(
            r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text(encoding="utf-8")
        ):
            assert (ROOT / link).exists(), f"{name}: {link}"


def test_anchors_between_the_pages_are_headings() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    for page in pages:
        for link, anchor in re.findall(
            r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")
        ):
            target = (page.parent / link) if link else page
            headings = re.findall(r"(?m)^#+ (.+)$", target.read_text(encoding="utf-8"))
            known = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert anchor in known, f"{page.name}: {link}#{anchor}"
