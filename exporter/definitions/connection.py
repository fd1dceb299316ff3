"""A connection: a Klaviyo account that the app may send to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from exporter.definitions.definition import Definition, Part

VAULT_NAME_PATTERN = r"^[0-9a-zA-Z-]{1,127}$"  # of a secret: Key Vault's own rule


class Consent(Part):
    """Who agreed, when, that data leaves for Klaviyo. `version` is that of the text in consent.py."""

    by: str
    by_id: str = ""
    at: datetime
    version: str = ""


class Check(Part):
    """What came of trying a connection's key. Scopes: may, may not, or None where that could not be found out."""

    at: datetime
    ok: bool
    account_id: str = ""
    account_name: str = ""
    scopes: dict[str, bool | None] = Field(default_factory=dict)
    clock_skew_s: float | None = None  # our clock less Klaviyo's
    revision: str = ""
    message: str = ""
    hint: str = ""


class Connection(Definition):
    """A Klaviyo account that we may send to. `secret` names its key in Key Vault; nothing is sent without consent."""

    name: str
    type: Literal["klaviyo"] = "klaviyo"
    used_by: Literal["administrators", "contributors"] = "administrators"
    secret: str = Field(pattern=VAULT_NAME_PATTERN)
    consent: Consent | None = None
    check: Check | None = None  # the last one
