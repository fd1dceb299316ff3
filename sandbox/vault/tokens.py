"""Access tokens: issued by the identity endpoint, checked by the vault."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Callable

from sandbox.vault.messages import Json

TENANT = "2f1c4b7a-5c55-4a0e-8f5e-0d5f1f0c9a11"
CLIENT_ID = "7b6f0d3e-9d0a-4a57-9f59-0e2a3c1b5d77"
LIFETIME_S = 24 * 3600


class Tokens:
    """Issue and check signed tokens in the form of JWTs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def issue(self, resource: str) -> Json:
        """Make a token for a resource, in the identity endpoint's answer."""
        now = int(self._clock())
        claims: Json = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "tid": TENANT,
            "appid": CLIENT_ID,
            "nbf": now,
            "exp": now + LIFETIME_S,
        }
        header = {"typ": "JWT", "alg": "HS256"}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        return {
            "access_token": f"{signed}.{self._signature(signed)}",
            "client_id": CLIENT_ID,
            "expires_on": str(claims["exp"]),
            "not_before": str(now),
            "resource": resource,
            "token_type": "Bearer",
        }

    def fault(self, token: str, *, audience: str) -> str | None:
        """Say what is wrong with a token; None if nothing is."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return "the signature is not valid"
        claims = _claims(signed)
        if claims["exp"] <= self._clock():
            return "the token has expired"
        if claims["aud"] != audience:
            return f"the audience is {claims['aud']}, expected {audience}"
        return None

    def _signature(self, signed: str) -> str:
        return _base64url(hmac.digest(self._key, signed.encode(), "sha256"))


def _claims(signed: str) -> Json:
    payload = signed.partition(".")[2]
    claims: Json = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
