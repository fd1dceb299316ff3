"""Klaviyo's address and API revision: the rules that settings and client share. Pure."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

BASE_URL = "https://a.klaviyo.com"
# Klaviyo's "API versioning and deprecation policy" (read 2026-11-23) serves it until 2028-07-15.
REVISION = "2026-07-15"

_REVISION = re.compile(r"\d{4}-\d{2}-\d{2}(?:\.pre)?")
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


def parse_base_url(url: str) -> str:
    """Return scheme and host. Raises ValueError, also where the key would travel unencrypted."""
    url = url.strip()
    (scheme, host, _), target = split(url)
    if not host or target not in ("", "/") or any(each in url for each in "@?#"):
        raise ValueError(f"must be an address like {BASE_URL}")
    if scheme != "https" and not (scheme == "http" and host in _THIS_MACHINE):
        raise ValueError("must begin with https, unless it is on this machine")
    return url.removesuffix("/")


def parse_revision(revision: str) -> str:
    """Return a revision that has the form of one. Raises ValueError."""
    if not _REVISION.fullmatch(revision):
        raise ValueError(f"must be a date like {REVISION}")
    return revision


def split(url: str, *, base: str = "") -> tuple[tuple[str, str, int | None], str]:
    """Return (scheme, host, port) and the path with query; all empty if this is not an address."""
    try:
        parts = urlsplit(urljoin(base, url))
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", "", None), ""
    target = f"{parts.path}?{parts.query}".removesuffix("?")
    return (parts.scheme, parts.hostname or "", port), target
