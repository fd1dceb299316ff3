"""E-mail addresses as Klaviyo gets them: trimmed, in lower case, the domain in ASCII. Pure."""

from __future__ import annotations

import contextlib

from exporter.planning import row_rules

# Python has the IDNA of 2003, which makes another domain of these: better no address than somebody else's.
_OTHER_IN_IDNA_2008 = frozenset("\u00df\u03c2\u200c\u200d")


def to_ascii(text: str) -> str | None:
    """The address as it is sent, or None when its domain has no form in ASCII."""
    local, _, domain = text.strip(row_rules.WHITESPACE).lower().rpartition("@")
    if set(domain) & _OTHER_IN_IDNA_2008:
        return None
    try:
        return f"{local}@{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return None


def spellings(text: str) -> set[str]:
    """The address as people and Klaviyo write it: as given, its domain in ASCII, its domain in its own letters."""
    address = text.strip(row_rules.WHITESPACE).lower()
    found = {address, to_ascii(address) or address}
    local, _, domain = address.rpartition("@")
    with contextlib.suppress(
        UnicodeError
    ):  # it is in its own letters already, or was never encoded
        found.add(f"{local}@{domain.encode('ascii').decode('idna')}")
    return found
