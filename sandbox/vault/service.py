"""The two services as request handlers: Key Vault, and the identity endpoint that gives tokens."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from sandbox.vault.messages import Answer, Json, Refused, Request
from sandbox.vault.stored_secrets import Secrets
from sandbox.vault.tokens import TENANT, Tokens


class Vault:
    """Key Vault and the identity endpoint; `answer_vault` and `answer_identity` are the two doors.

    With `role_assigned` False the identity may neither read nor write secrets.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.role_assigned = True
        self.identity_header = secrets.token_hex(16)
        self.resource = _parent_resource(url)
        self._tokens = Tokens(clock)
        self._secrets = Secrets(url, clock)
        self._lock = threading.Lock()

    def set_secret(self, name: str, value: str) -> None:
        """Put a secret there without going through the front door."""
        with self._lock:
            self._secrets.put(name, {"value": value})

    def answer_vault(self, request: Request) -> Answer:
        """Answer one request to Key Vault."""
        try:
            self._check_token(request)
            self._check_role()
            with self._lock:
                return self._secrets.answer(request)
        except Refused as refused:
            return refused.answer

    def answer_identity(self, request: Request) -> Answer:
        """Answer one request to the identity endpoint."""
        if request.method != "GET" or request.path.rstrip("/") != "/msi/token":
            return _identity_error(404, f"{request.method} {request.path} is not served here.")
        if request.headers.get("X-IDENTITY-HEADER") != self.identity_header:
            return _identity_error(401, "X-IDENTITY-HEADER is missing or wrong.")
        resource = request.query.get("resource", "")
        if request.query.get("api-version") != "2019-08-01" or not resource:
            return _identity_error(400, "api-version 2019-08-01 and resource are required.")
        return Answer(200, self._tokens.issue(resource))

    def _check_token(self, request: Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            fault: str | None = "AKV10000: Request is missing a Bearer or PoP token."
        else:
            fault = self._tokens.fault(token, audience=self.resource)
        if fault:
            authority = f"https://login.microsoftonline.com/{TENANT}"
            challenge = f'Bearer authorization="{authority}", resource="{self.resource}"'
            raise Refused(401, "Unauthorized", fault, headers={"WWW-Authenticate": challenge})

    def _check_role(self) -> None:
        if not self.role_assigned:
            message = "Caller is not authorized to perform action on resource."
            raise Refused(403, "Forbidden", message, inner="ForbiddenByRbac")


def _identity_error(status: int, message: str) -> Answer:
    content: Json = {"statusCode": status, "message": message}
    return Answer(status, content)


def _parent_resource(url: str) -> str:
    """The resource that clients are told to get a token for.

    The client accepts it only if the vault's host, port included, ends with "." and the
    resource's host: its guard against a stranger asking for tokens. In Azure that is
    NAME.vault.azure.net and vault.azure.net. The only host that is local everywhere is an
    address, so its "parent" has to be one: 127.0.0.1:8443 and 0.0.1:8443.
    """
    return f"https://{urlsplit(url).netloc.partition('.')[2]}"
