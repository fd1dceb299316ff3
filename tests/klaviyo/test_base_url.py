"""An address or a revision that cannot be right is a matter of settings."""

from __future__ import annotations

from datetime import date

import pytest
from pydantic import SecretStr

from exporter.errors import (
    ConfigError,
)
from exporter.klaviyo.base_url import retirement_warning
from exporter.klaviyo.client import Klaviyo
from tests.klaviyo.scripted import KEY


@pytest.mark.parametrize(
    "url",
    [
        "http://a.klaviyo.com",
        "ftp://a.klaviyo.com",
        "a.klaviyo.com",
        "",
        "https://",
        "https://a.klaviyo.com/api",
        "https://user:pw@a.klaviyo.com",
        "https://a.klaviyo.com?x=1",
        "https://a.klaviyo.com#x",
        "https://a.klaviyo.com?",
        "https://a.klaviyo.com:port",
        "https://[",
    ],
)
def test_an_unfit_base_url_is_a_matter_of_settings(url: str) -> None:
    with pytest.raises(ConfigError, match="KLAVIYO_BASE_URL"):
        Klaviyo(SecretStr(KEY), base_url=url)


@pytest.mark.parametrize(
    "url", ["https://a.klaviyo.com", "https://a.klaviyo.com/", "http://localhost:8080"]
)
def test_a_fit_base_url_is_taken(url: str) -> None:
    Klaviyo(SecretStr(KEY), base_url=url).close()


@pytest.mark.parametrize("revision", ["", "latest", "2026-07-15\r\nX: y"])
def test_an_unfit_revision_is_a_matter_of_settings(revision: str) -> None:
    with pytest.raises(ConfigError, match="KLAVIYO_REVISION"):
        Klaviyo(SecretStr(KEY), revision=revision)


@pytest.mark.parametrize(
    ("revision", "today", "words"),
    [
        ("2026-10-15", "2028-04-17", ""),
        ("2026-10-15", "2028-04-18", "retires the API revision 2026-10-15 on 2028-10-15"),
        ("2026-10-15", "2028-10-14", "retires"),
        ("2026-10-15", "2028-10-15", "retired the API revision 2026-10-15 on 2028-10-15"),
        ("2025-01-15", "2026-11-23", "retires the API revision 2025-01-15 on 2027-01-15"),
        ("2024-10-15", "2026-11-23", "retired"),
        ("2026-10-15.pre", "2028-10-15", "retired"),
        ("2028-02-29", "2030-03-01", "on 2030-03-01"),
        ("2026-99-15", "2099-01-01", ""),
    ],
)
def test_people_are_warned_from_180_days_before_a_revision_is_retired(
    revision: str, today: str, words: str
) -> None:
    """Klaviyo serves a revision for two years, and no answer of its says that the end comes."""
    said = retirement_warning(revision, date.fromisoformat(today))
    assert words in said
    assert bool(words) == bool(said)
