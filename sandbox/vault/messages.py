"""What goes in and out of the stand-in vault: requests, answers and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.message import Message
from typing import Any, NamedTuple

Json = dict[str, Any]


class Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str]
    headers: Message[str, str] | Mapping[str, str]  # the former takes names in any case
    body: bytes = b""

    def json(self) -> Json:
        """Read the body as a JSON object. Raises Refused if it is anything else."""
        try:
            content = json.loads(self.body or b"{}")
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Refused(400, "BadParameter", "The request body is not a JSON object.")
        return content


class Answer(NamedTuple):
    status: int
    content: Json
    headers: Mapping[str, str] = {}


class Refused(Exception):
    """An answer other than success, in the form that Key Vault gives it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        error: Json = {"code": code, "message": message}
        if inner:
            error["innererror"] = {"code": inner}
        self.answer = Answer(status, {"error": error}, headers or {})
