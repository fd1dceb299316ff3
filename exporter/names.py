"""How names of columns, tables and files are compared. Pure."""

from __future__ import annotations

import unicodedata


def comparable(name: str) -> str:
    """Give the form in which names are equal that differ in case, blanks or Unicode form only.

    Customer Insights changes the case between destinations, and people change all three.
    """
    return unicodedata.normalize("NFC", " ".join(name.split()).casefold())
