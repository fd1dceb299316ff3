"""Klaviyo's address and API revision: the rules that settings and client share. Pure.

Klaviyo serves a revision for two years. After that it answers as the oldest revision that is left,
without saying so, unless a request opts out of that: then it answers 410.
Source: "API versioning and deprecation policy", developers.klaviyo.com, read 2026-11-23.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from urllib.parse import urljoin, urlsplit

BASE_URL = "https://a.klaviyo.com"
REVISION = "2026-10-15"  # the newest that is known, 2026-11-23; served until 2028-10-15
SERVED_YEARS = 2
WARNING_DAYS = 180  # ours: time enough for an upgrade of the app
OPT_OUT_HEADER = "X-Klaviyo-Revision-Fall-Forward-Opt-Out"

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


def retired_on(revision: str) -> date | None:
    """Return the day on which Klaviyo retires a revision; None for a date that is none."""
    try:
        published = date.fromisoformat(revision[:10])
    except ValueError:
        return None
    last_year = published.year + SERVED_YEARS
    try:
        return published.replace(year=last_year)
    except ValueError:  # the 29th of February
        return date(last_year, 3, 1)


def retirement_warning(revision: str, today: date) -> str:
    """Return a sentence for people, from 180 days before Klaviyo retires a revision; else ""."""
    end = retired_on(revision)
    if end is None or today < end - timedelta(days=WARNING_DAYS):
        return ""
    if today < end:
        return f"Klaviyo retires the API revision {revision} on {end}"
    return f"Klaviyo retired the API revision {revision} on {end}"


def split(url: str, *, base: str = "") -> tuple[tuple[str, str, int | None], str]:
    """Return (scheme, host, port) and the path with query; all empty if this is not an address."""
    try:
        parts = urlsplit(urljoin(base, url))
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", "", None), ""
    target = f"{parts.path}?{parts.query}".removesuffix("?")
    return (parts.scheme, parts.hostname or "", port), target
