"""An address or a revision that cannot be right is a matter of settings."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from exporter.errors import (
    ConfigError,
)
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
