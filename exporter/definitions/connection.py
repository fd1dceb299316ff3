"""A connection: a Klaviyo account that the app may send to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from exporter.definitions.definition import Definition, DocumentPart

VAULT_NAME_PATTERN = r"^[0-9a-zA-Z-]{1,127}$"  # Key Vault's rule for the name of a secret


class Consent(DocumentPart):
    """Who agreed, and when, that data is sent to Klaviyo. `version`: of the text in consent.py."""

    by: str
    by_id: str = ""
    at: datetime
    version: str = ""


class Check(DocumentPart):
    """The result of trying a connection's key. A scope is None where Klaviyo did not tell."""

    at: datetime
    ok: bool
    account_id: str = ""
    account_name: str = ""
    scopes: dict[str, bool | None] = Field(default_factory=dict)
    clock_skew_s: float | None = None  # our clock less Klaviyo's
    revision: str = ""
    room: int | None = None  # for so many more people, if the key may know that
    message: str = ""
    hint: str = ""


class Connection(Definition):
    """A Klaviyo account that the app may send to, once there is consent.

    `secret` names its key in Key Vault.
    """

    name: str
    type: Literal["klaviyo"] = "klaviyo"
    used_by: Literal["administrators", "contributors"] = "administrators"
    secret: str = Field(pattern=VAULT_NAME_PATTERN)
    consent: Consent | None = None
    check: Check | None = None  # the last one
