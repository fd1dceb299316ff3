"""E-mail addresses as Klaviyo gets them: trimmed, in lower case, the domain in ASCII.

Nothing becomes another address: only ASCII is put in lower case, only domains are mapped, and an
address with marks inside that nobody sees has no form in which it could be sent.
"""

from __future__ import annotations

import contextlib

import idna

from exporter.planning.row_rules import ASCII_BLANKS, BLANKS, UNSEEN

_UNSEEN_OR_BLANK = frozenset(UNSEEN + ASCII_BLANKS)
_FIRST_TAG = "\U000e0000"  # from here on Unicode has tags and variation selectors only


def to_ascii(text: str) -> str | None:
    """Give the address with its domain as it is sent, or None if it has no form in ASCII.

    Domains are read as browsers read them: Unicode's UTS 46, then IDNA 2008.
    """
    local, _, domain = text.strip(BLANKS).rpartition("@")
    if _UNSEEN_OR_BLANK.intersection(local + domain) or max(domain, default="") >= _FIRST_TAG:
        return None
    try:
        return f"{_lower(local)}@{idna.encode(domain, uts46=True).decode('ascii')}"
    except UnicodeError:
        return None


def spellings(text: str) -> set[str]:
    """Give the address in every form that people and Klaviyo write it in.

    These are: as given, its domain in ASCII, its domain in its own letters.
    """
    given = _lower(text.strip(BLANKS))
    sent = to_ascii(given) or given
    found = {given, sent}
    local, _, domain = sent.rpartition("@")
    with contextlib.suppress(UnicodeError):  # in its own letters already, or never encoded
        found.add(f"{local}@{idna.decode(domain)}")
    return found


def _lower(text: str) -> str:
    """Put ASCII in lower case. The Kelvin sign, for one, would become a k."""
    return text.lower() if text.isascii() else text
