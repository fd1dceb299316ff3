"""Who asks: the header that App Service authentication sets, and when to believe it. Pure.

With authentication on, the platform removes this header from incoming requests and sets its own.
With authentication off, or anywhere else, anybody can write it. So the header counts only if a
setting says so and the platform shows that authentication is on: by its flag, or, where that is
missing, by naming the registration that this app was set up with.
Source: learn.microsoft.com/azure/app-service/configure-authentication-user-identities (2026-11-23).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exporter.management.roles import Actor, highest

PRINCIPAL = "x-ms-client-principal"
MARKER = "WEBSITE_AUTH_ENABLED"  # the platform sets it to "True" where authentication is on
CLIENT_MARKER = "WEBSITE_AUTH_CLIENT_ID"  # and this to the registration that people sign in to
PROVIDER = "aad"  # Microsoft Entra; other providers have no app roles
MAX_PRINCIPAL_CHARACTERS = 65_536

ROLE_CLAIMS = ("roles", "http://schemas.microsoft.com/ws/2008/06/identity/claims/role")
ID_CLAIMS = ("http://schemas.microsoft.com/identity/claims/objectidentifier", "oid")
NAME_CLAIMS = ("name", "preferred_username")
MAX_NAME_CHARACTERS = 120


def is_platform_trusted(environ: Mapping[str, str], *, trust: bool, client_id: str = "") -> bool:
    """Tell whether the platform vouches for the header.

    trust: TRUST_PLATFORM_IDENTITY. client_id: SIGN_IN_CLIENT_ID.
    """
    return trust and is_announced(environ, client_id=client_id)


def is_announced(environ: Mapping[str, str], *, client_id: str) -> bool:
    """Tell whether the platform says that authentication is on."""
    if MARKER in environ:
        return environ[MARKER].lower() == "true"
    return bool(client_id) and environ.get(CLIENT_MARKER, "").lower() == client_id.lower()


def actor_of(headers: Sequence[str]) -> Actor | None:
    """Read who asks from the header; their role is None if no claim names one of ours.

    None unless there is exactly one good header.
    """
    if len(headers) != 1 or len(headers[0]) > MAX_PRINCIPAL_CHARACTERS:
        return None
    try:
        principal = json.loads(base64.b64decode(headers[0], validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(principal, dict) or principal.get("auth_typ") != PROVIDER:
        return None
    claims = list(_claims(principal.get("claims")))
    known_by = _first(claims, ID_CLAIMS)
    if not known_by:
        return None
    name = _first(claims, (*NAME_CLAIMS, str(principal.get("name_typ")))) or known_by
    role_claims = {*ROLE_CLAIMS, str(principal.get("role_typ"))}
    roles = {value for kind, value in claims if kind in role_claims}
    return Actor(id=known_by, name=name, role=highest(roles))


def _claims(given: Any) -> Iterator[tuple[str, str]]:
    for claim in given if isinstance(given, list) else ():
        if isinstance(claim, dict):
            kind, value = claim.get("typ"), claim.get("val")
            if isinstance(kind, str) and isinstance(value, str):
                yield kind, value


def _first(claims: Sequence[tuple[str, str]], kinds: Sequence[str]) -> str:
    """Return the value of the first kind that is there, without characters that cannot be shown."""
    for wanted in kinds:
        for kind, value in claims:
            if kind == wanted and (
                shown := "".join(one for one in value if one.isprintable()).strip()
            ):
                return shown[:MAX_NAME_CHARACTERS]
    return ""
