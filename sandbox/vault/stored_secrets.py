"""What the vault stores, and the REST operations on it. No transport and no identity here.

Only the three operations that an app needs: get the newest value, set a new one, delete.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.vault.messages import Answer, Json, Refused, Request

MAX_VALUE_BYTES = 25_600  # "maximum of 25k bytes"
NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
RETENTION_DAYS = 90  # how long a deleted secret could be recovered


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """The newest version of a secret."""

    name: str
    version: str
    value: str
    created: int


class Secrets:
    """Secrets by name. Names are case-insensitive, as in Azure."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._live: dict[str, Secret] = {}
        self._deleted: dict[str, Secret] = {}

    def answer(self, request: Request) -> Answer:
        """Carry out one request. Raises Refused."""
        if "api-version" not in request.query:
            message = "The request misses the query parameter api-version."
            raise Refused(400, "BadParameter", message)
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["secrets", name]:
                return Answer(200, self._bundle(self._find(name)))
            case "PUT", ["secrets", name]:
                return self.put(name, request.json())
            case "DELETE", ["secrets", name]:
                return self._delete(name)
            case _:
                message = f"{request.method} {request.path} is not served here."
                raise Refused(405, "MethodNotAllowed", message)

    def put(self, name: str, content: Json) -> Answer:
        """Store a new version. Raises Refused for a name or a value that Azure does not store."""
        _check_name(name)
        value = content.get("value")
        if not isinstance(value, str):
            raise Refused(400, "BadParameter", "Property value is required and must be a string.")
        if len(value.encode()) > MAX_VALUE_BYTES:
            message = f"The value is longer than {MAX_VALUE_BYTES} bytes."
            raise Refused(400, "BadParameter", message)
        if name.lower() in self._deleted:
            message = (
                f"Secret {name} is currently in a deleted but recoverable state, and its name "
                "cannot be reused; in this state, the secret can only be recovered or purged."
            )
            raise Refused(409, "Conflict", message, inner="ObjectIsDeletedButRecoverable")
        secret = Secret(
            name=name, version=uuid.uuid4().hex, value=value, created=int(self._clock())
        )
        self._live[name.lower()] = secret
        return Answer(200, self._bundle(secret))

    def _delete(self, name: str) -> Answer:
        secret = self._find(name)
        self._deleted[name.lower()] = self._live.pop(name.lower())
        now = int(self._clock())
        deleted = {
            "recoveryId": f"{self._url}/deletedsecrets/{secret.name}",
            "deletedDate": now,
            "scheduledPurgeDate": now + RETENTION_DAYS * 86_400,
        }
        return Answer(200, {**self._properties(secret), **deleted})

    def _find(self, name: str) -> Secret:
        _check_name(name)
        secret = self._live.get(name.lower())
        if secret is None:
            message = (
                f"A secret with (name/id) {name} was not found in this key vault. If you recently "
                "deleted this secret you may be able to recover it using the correct recovery "
                "command."
            )
            raise Refused(404, "SecretNotFound", message)
        return secret

    def _bundle(self, secret: Secret) -> Json:
        return {"value": secret.value, **self._properties(secret)}

    def _properties(self, secret: Secret) -> Json:
        return {
            "id": f"{self._url}/secrets/{secret.name}/{secret.version}",
            "attributes": {
                "enabled": True,
                "created": secret.created,
                "updated": secret.created,
                "recoveryLevel": "Recoverable+Purgeable",
                "recoverableDays": RETENTION_DAYS,
            },
        }


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise Refused(400, "BadParameter", f"The request URI contains an invalid name: {name}")
