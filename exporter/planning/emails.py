"""E-mail addresses as Klaviyo gets them: trimmed, in lower case, the domain in ASCII."""

from __future__ import annotations

import contextlib

import idna

from exporter.planning.row_rules import WHITESPACE


def to_ascii(text: str) -> str | None:
    """Give the address as it is sent, or None if its domain has no form in ASCII.

    Domains are read as browsers read them: Unicode's UTS 46, then IDNA 2008.
    """
    local, _, domain = text.strip(WHITESPACE).lower().rpartition("@")
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode('ascii')}"
    except UnicodeError:
        return None


def spellings(text: str) -> set[str]:
    """Give the address in every form that people and Klaviyo write it in.

    These are: as given, its domain in ASCII, its domain in its own letters.
    """
    address = text.strip(WHITESPACE).lower()
    found = {address, to_ascii(address) or address}
    local, _, domain = address.rpartition("@")
    with contextlib.suppress(UnicodeError):  # in its own letters already, or never encoded
        found.add(f"{local}@{idna.decode(domain)}")
    return found
