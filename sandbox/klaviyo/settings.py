"""The switches: what a test may change, and what we assume where Klaviyo's sources do not agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FULL_KEY = "pk_sandbox_full"
READONLY_KEY = "pk_sandbox_readonly"

READ_SCOPES = frozenset(
    {"accounts:read", "flows:read", "lists:read", "profiles:read", "usage:read"}
)
ALL_SCOPES = READ_SCOPES | {"lists:write", "profiles:write", "data-privacy:write"}

# All stable revisions, from the branches of Klaviyo's openapi repository and its Python SDK 25.0.0.
REVISIONS = (
    "2022-10-17",
    "2023-01-24",
    "2023-02-22",
    "2023-06-15",
    "2023-07-15",
    "2023-08-15",
    "2023-09-15",
    "2023-10-15",
    "2023-12-15",
    "2024-02-15",
    "2024-05-15",
    "2024-06-15",
    "2024-07-15",
    "2024-10-15",
    "2025-01-15",
    "2025-04-15",
    "2025-07-15",
    "2025-10-15",
    "2026-01-15",
    "2026-04-15",
    "2026-07-15",
    "2026-10-15",
)

BadRows = Literal["all", "first", "none"]
Check = Literal["email", "phone_number", "identifier", "size"]
Fate = Literal["normal", "stuck", "vanish", "cancelled"]


@dataclass(slots=True, kw_only=True)
class Settings:
    """Every switch with its default. "Unverified" marks a choice that no source settles.

    They can be set at start and, over HTTP, by `POST /_sandbox/settings` with any of these names.
    """

    limits: bool = True
    # Requests a minute in tier L. The specs say 750 since 2026-01-15, the rate limit page says 700.
    l_steady: int = 750
    # As the rate limit page has them; or with all windows, as clients recorded them.
    rate_headers: Literal["minute", "windows"] = "minute"

    # From acceptance to completion. No official figure exists.
    job_seconds: float = 2.0
    # Of jobs accepted from now on; see jobs.py.
    job_fate: Fate = "normal"
    # Among jobs that fall due together, which Klaviyo does not guarantee.
    job_order: Literal["arrival", "reversed"] = "arrival"

    # Which bad rows a 400 names. Unverified.
    bad_rows: BadRows = "all"
    # Checks that end in an import error; the others refuse the whole job.
    async_checks: frozenset[Check] = frozenset({"identifier", "size"})
    # Identifiers that two e-mail profiles cannot share in imports.
    unique: frozenset[str] = frozenset({"phone_number"})

    # Whether import errors say which row they are about.
    error_pointers: Literal["row", "none"] = "row"
    # What of the row they hold: its attributes, the profile, its attributes as JSON text, or null.
    original_payload: Literal["attributes", "profile", "text", "none"] = "attributes"

    # Decompressed. "5 MB": the smaller reading.
    max_body_bytes: int = 5_000_000
    max_profile_bytes: int = 100_000
    # False answers 415. Unverified.
    gzip_bodies: bool = True

    # The authentication page says 400, the rate limit page 401.
    refused_key_status: int = 401
    # Older ones are retired; see revisions.py.
    oldest_revision: str = "2025-01-15"
    # Whether answers carry `meta.agent_hints`, from revision 2026-10-15 on.
    agent_hints: bool = False
    # Of `GET /api/billing-usage`; null = as many as there are profiles.
    billing_used: int | None = None
    billing_max: int = 250_000
    # Unknown ids when adding to or removing from a list. Unverified.
    unknown_members: Literal["ignore", "404"] = "ignore"

    keys: dict[str, frozenset[str]] = field(
        default_factory=lambda: {FULL_KEY: ALL_SCOPES, READONLY_KEY: READ_SCOPES}
    )

    def change(self, changes: Mapping[str, Any]) -> None:
        """Take switches from JSON. `keys` adds or re-scopes keys, `revoke` removes them.

        Raises ValueError on an unknown name or an unfit value; then nothing has changed.
        """
        fields = {f.name for f in dataclasses.fields(self)} - {"keys"}
        if unknown := changes.keys() - fields - {"keys", "revoke"}:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        fitted = {
            name: _fit(name, getattr(self, name), changes[name]) for name in changes.keys() & fields
        }
        keys = {key: read_scopes(scopes) for key, scopes in changes.get("keys", {}).items()}
        for name, value in fitted.items():
            setattr(self, name, value)
        self.keys |= keys
        for key in changes.get("revoke", ()):
            self.keys.pop(key, None)

    def shown(self) -> dict[str, Any]:
        """The switches as JSON, without the keys."""
        values = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "keys"
        }
        return {name: sorted(v) if isinstance(v, frozenset) else v for name, v in values.items()}


CHOICES: dict[str, frozenset[str]] = {
    "bad_rows": frozenset({"all", "first", "none"}),
    "async_checks": frozenset({"email", "phone_number", "identifier", "size"}),
    "job_fate": frozenset({"normal", "stuck", "vanish", "cancelled"}),
    "job_order": frozenset({"arrival", "reversed"}),
    "unique": frozenset({"phone_number", "external_id"}),
    "error_pointers": frozenset({"row", "none"}),
    "original_payload": frozenset({"attributes", "profile", "text", "none"}),
    "unknown_members": frozenset({"ignore", "404"}),
}


def read_scopes(scopes: Any) -> frozenset[str]:
    """Scopes from JSON: a list of names, or "full" or "readonly"."""
    named = {"full": ALL_SCOPES, "readonly": READ_SCOPES}
    return named[scopes] if isinstance(scopes, str) and scopes in named else frozenset(scopes)


def _fit(name: str, present: Any, value: Any) -> Any:
    """`value` in the type of the present one."""
    if name == "billing_used":
        if value is not None and type(value) is not int:
            raise ValueError(f"{name}: a number or null")
        return value
    if isinstance(present, frozenset):
        if not isinstance(value, list) or not CHOICES[name].issuperset(value):
            raise ValueError(f"{name}: a list of {sorted(CHOICES[name])}")
        return frozenset(value)
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name}: one of {sorted(CHOICES[name])}")
    if isinstance(present, bool) != isinstance(value, bool) or isinstance(
        present, str
    ) != isinstance(value, str):
        raise ValueError(f"{name}: like {present!r}")
    return type(present)(value)
