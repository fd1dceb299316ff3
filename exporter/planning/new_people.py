"""How many people of a plan are new to the Klaviyo account, and whether it has room for them.

Klaviyo charges for the people that an account holds. Nobody needs to know this for a run, so
whatever keeps it from being known is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from exporter.errors import ExporterError
from exporter.klaviyo.responses import AccountUsage
from exporter.planning.request_bodies import PlanReader

logger = logging.getLogger(__name__)

SAMPLE = 100  # addresses that are looked up: one request


class KnowsPeople(Protocol):
    """What counting needs of Klaviyo."""

    def usage(self) -> AccountUsage | None: ...
    def profiles_by_email(self, emails: Sequence[str]) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPeople:
    """How many people are new, by a sample (None: not known), and how many the account takes."""

    number: int | None
    room: int

    def told(self) -> str:
        """Write it as a sentence."""
        room = f"the account has room for {self.room:,}"
        if self.number is None:
            return room
        people = "person" if self.number == 1 else "people"
        return f"about {self.number:,} new {people}; {room}"


def count_new_people(klaviyo: KnowsPeople, reader: PlanReader) -> NewPeople | None:
    """Look up a sample of a plan's people in the account; None where its room is not known."""
    try:
        usage = klaviyo.usage()
        if usage is None:
            return None
        return NewPeople(number=_number(klaviyo, reader), room=usage.room)
    except ExporterError as exc:
        logger.info("new people not counted", extra={"cause": type(exc).__name__})
        return None


def _number(klaviyo: KnowsPeople, reader: PlanReader) -> int | None:
    plan = reader.plan
    if plan.identifier != "email":
        return None
    emails = reader.spread(SAMPLE)
    if not emails:
        return 0
    known = klaviyo.profiles_by_email(emails)
    return round(plan.profiles * (len(emails) - len(known)) / len(emails))
