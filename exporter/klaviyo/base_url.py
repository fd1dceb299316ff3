"""Klaviyo's address and revision: the rules that settings and client share. Pure."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

BASE_URL = "https://a.klaviyo.com"
REVISION = (
    "2026-07-15"  # served until 2028-07-15 by Klaviyo's "API versioning and deprecation policy"
)

_REVISION = re.compile(r"\d{4}-\d{2}-\d{2}(?:\.pre)?")
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


def parse_base_url(url: str) -> str:
    """Scheme and host. Raises ValueError, also for an address to which a key should not go unencrypted."""
    url = url.strip()
    (scheme, host, _), target = split(url)
    if not host or target not in ("", "/") or any(each in url for each in "@?#"):
        raise ValueError(f"must be an address like {BASE_URL}")
    if scheme != "https" and not (scheme == "http" and host in _HERE):
        raise ValueError("must begin with https, unless it is on this machine")
    return url.removesuffix("/")


def parse_revision(revision: str) -> str:
    if not _REVISION.fullmatch(revision):
        raise ValueError(f"must be a date like {REVISION}")
    return revision


def split(url: str, *, base: str = "") -> tuple[tuple[str, str, int | None], str]:
    """(scheme, host, port) and path with query; all of it empty if this is no address."""
    try:
        parts = urlsplit(urljoin(base, url))
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", "", None), ""
    return (parts.scheme, parts.hostname or "", port), f"{parts.path}?{parts.query}".removesuffix(
        "?"
    )
