"""Small helpers for tests against the stand-in: a clock to move by hand, bodies to send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.klaviyo.api import Klaviyo
from sandbox.klaviyo.settings import Settings

JOBS = "/api/profile-bulk-import-jobs"
START = 1_790_000_000.0  # 21 September 2026


class Clock:
    """Stands still until moved."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def a_klaviyo(clock: Clock, *, limits: bool = False, **switches: Any) -> Klaviyo:
    """A Klaviyo with one list, "LIST01", and by default without rate limits."""
    klaviyo = Klaviyo(Settings(limits=limits, **switches), clock=clock)
    klaviyo.call("POST", "/_sandbox/lists", {"id": "LIST01"})
    return klaviyo


def job_body(
    profiles: Iterable[Mapping[str, Any] | str],
    *,
    lists: Iterable[str] = ("LIST01",),
) -> dict[str, Any]:
    """The body of a bulk import.

    A profile is an e-mail address, attributes, or a whole profile with a type.
    """
    return {
        "data": {
            "type": "profile-bulk-import-job",
            "attributes": {"profiles": {"data": [_profile(each) for each in profiles]}},
            "relationships": {"lists": {"data": [{"type": "list", "id": each} for each in lists]}},
        }
    }


def _profile(each: Mapping[str, Any] | str) -> Mapping[str, Any]:
    if isinstance(each, str):
        return {"type": "profile", "attributes": {"email": each}}
    return each if "type" in each else {"type": "profile", "attributes": each}


def import_now(klaviyo: Klaviyo, clock: Clock, *profiles: Mapping[str, Any] | str) -> str:
    """Import into LIST01 and wait for it; the job's id."""
    accepted = klaviyo.call("POST", JOBS, job_body(profiles))
    assert accepted.status == 202, accepted.body
    clock.move(klaviyo.settings.job_seconds)
    klaviyo.settle()
    job_id: str = accepted.json()["data"]["id"]
    return job_id


def attributes_of(klaviyo: Klaviyo, email: str) -> dict[str, Any]:
    """What Klaviyo knows of the profile with this address, without nulls and times."""
    found = klaviyo.call(
        "GET", f'/api/profiles?filter=equals(email,"{email.replace("+", "%2B")}")'
    ).json()["data"]
    assert len(found) == 1, found
    known: dict[str, Any] = {
        name: value for name, value in found[0]["attributes"].items() if value not in (None, {})
    }
    known["location"] = {
        name: value for name, value in known["location"].items() if value is not None
    }
    if not known["location"]:
        del known["location"]
    return {name: value for name, value in known.items() if name not in ("created", "updated")}
