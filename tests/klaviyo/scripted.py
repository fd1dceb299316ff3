"""What the tests of the client share: invented people, and what a scripted server answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

KEY = "pk_" + "0a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6e"


LIST = "Y6nRLr"


ADDRESS, PHONE = "jane.doe+vip@example.com", "+15005550006"


class Waits(list):
    """Instead of sleeping: what was waited, and a clock that moved on by it."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    def clock(self) -> float:
        return sum(self)


def batch(*emails: str, list_id: str = LIST) -> bytes:
    profiles = [{"type": "profile", "attributes": {"email": each}} for each in emails]
    document = {
        "type": "profile-bulk-import-job",
        "attributes": {"profiles": {"data": profiles}},
        "relationships": {"lists": {"data": [{"type": "list", "id": list_id}]}},
    }
    return json.dumps({"data": document}).encode()


def people(count: int) -> list[str]:
    return [f"person{number}@example.com" for number in range(count)]


@dataclass
class Scripted:
    """`answer` is what every request gets, `pages` the first ones instead; what came in is kept."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    pages: list[bytes] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0

    def answers(self, status: int, body: Any, **headers: str) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages.clear()
        self.requests.clear()

    def links_to(self, *numbers: int) -> None:
        """Empty pages, each of which names another as the next one."""
        self.answers(200, {"data": []})
        documents = (
            {"data": [], "links": {"next": f"/api/lists?page={number}"}} for number in numbers
        )
        self.pages += [json.dumps(document).encode() for document in documents]


def refusal(detail: str = "No.", pointer: str | None = "/data", **more: Any) -> dict[str, Any]:
    source = {"pointer": pointer} if pointer is not None else {}
    error = {
        "id": "67ed6dbf-1653-499a-a11d-31310aa01ff7",
        "code": "x",
        "title": "X",
        "detail": detail,
    }
    return {"errors": [{**error, "source": source, **more}]}


PAGE = b"<html><title>Just a moment...</title></html>"


ROW = "/data/attributes/profiles/data/7/attributes/email"


JOB = {
    "type": "profile-bulk-import-job",
    "id": "Q09NMTIzOm1haW50ZW5hbmNlOmFiYy4xNzMyNTI5MzA5LjQ1Njc4OQ",
    "attributes": {"status": "queued", "created_at": "2026-11-23T10:00:00", "total_count": 2},
}
