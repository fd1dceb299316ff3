"""Names of columns, tables and files as they are compared. Pure."""

from __future__ import annotations

import unicodedata


def comparable(name: str) -> str:
    """A name without case and superfluous blanks; letters with accents may come as one character or as two.

    Customer Insights changes the case between destinations, and so do people.
    """
    return unicodedata.normalize("NFC", " ".join(name.split()).casefold())
