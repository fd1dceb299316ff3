"""The proof: the list and the report against what the snapshot should give."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import requests

from sandbox.demo.export import LIST_ID
from sandbox.demo.stage import console
from sandbox.klaviyo import FULL_KEY
from sandbox.snapshots import OUTCOMES, Outcome, Snapshot


def delivered(url: str) -> Iterator[dict[str, Any]]:
    """The list's members with their attributes, through Klaviyo's own read endpoints."""
    session = requests.Session()
    session.headers.update(
        {"Authorization": f"Klaviyo-API-Key {FULL_KEY}", "revision": "2026-07-15"}
    )
    following: str | None = f"{url}/api/lists/{LIST_ID}/profiles?page[size]=100"
    while following:
        answer = session.get(following, timeout=60)
        if answer.status_code == 429:
            time.sleep(float(answer.headers["Retry-After"]))
            continue
        answer.raise_for_status()
        document = answer.json()
        for profile in document["data"]:
            yield profile["attributes"]
        following = document["links"]["next"]


def differences(snapshot: Snapshot, members: Iterator[dict[str, Any]]) -> list[str]:
    """What is missing, too much, or other than the snapshot says. Empty when the list is right."""
    found: dict[str, int] = {}
    for number, attributes in enumerate(members):
        found[attributes["email"]] = hash(_key(attributes))
        if number % 100_000 == 99_999:
            console.print(f"  read back {number + 1:,}")
    wrong = []
    for profile in snapshot.expected_profiles():
        got = found.pop(profile.email or "", None)
        if got is None:
            wrong.append("missing")
        elif got != hash(_expected_key(profile)):
            wrong.append("other attributes")
    return wrong + ["not expected"] * len(found)


def wrong_numbers(snapshot: Snapshot, report: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    """The report's numbers that are not the snapshot's: (what it says, what is so)."""
    outcomes: Counter[Outcome] = Counter()
    for kind, number in snapshot.bad.items():
        outcomes[OUTCOMES.get(kind, Outcome.REJECTED)] += number
    rejected = (
        outcomes[Outcome.REJECTED] + outcomes[Outcome.REFUSED] + outcomes[Outcome.IMPORT_ERROR]
    )
    duplicates = outcomes[Outcome.DUPLICATE]
    right = {
        "rows": snapshot.rows,
        "delivered": snapshot.rows - duplicates - rejected,
        "duplicates": duplicates,
        "rejected": rejected,
    }
    return {
        name: (report[name], number) for name, number in right.items() if report[name] != number
    }


def _key(attributes: dict[str, Any]) -> tuple[Any, ...]:
    properties, location = attributes.get("properties") or {}, attributes.get("location") or {}
    return (
        *(attributes.get(name) for name in ("first_name", "last_name", "phone_number")),
        *(location.get(name) for name in ("city", "country")),
        *(
            properties.get(name)
            for name in ("customer_id", "date_of_birth", "loyalty_tier", "lifetime_value")
        ),
    )


def _expected_key(profile: Any) -> tuple[Any, ...]:
    value = profile.lifetime_value
    return (
        profile.first_name or None,
        profile.last_name or None,
        profile.phone_number or None,
        profile.city or None,
        profile.country or None,
        profile.customer_id,
        profile.date_of_birth or None,
        profile.loyalty_tier or None,
        float(value) if value not in (None, "") else None,
    )
