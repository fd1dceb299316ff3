"""What became of the batches: the events of a journal, and the events replayed. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter

from exporter.planning.plan import PlannedBatch

T = TypeVar("T")

# The journal


class BatchAccepted(BaseModel):
    """Klaviyo took the profiles `first` to `last` (not included) of a batch, except `without`.

    only: where few of a range were sent, these, as "0-9,12".
    """

    kind: Literal["batch_accepted"] = "batch_accepted"
    batch: int
    first: int
    last: int
    without: list[int] = Field(default_factory=list)
    only: str = ""
    job: str
    at: datetime

    def positions(self) -> list[int]:
        """Return the batch's positions in the order of the request, as Klaviyo's pointers count."""
        return [position for first, last in self.stretches() for position in range(first, last)]

    @property
    def profiles(self) -> int:
        """How many Klaviyo took."""
        return sum(last - first for first, last in self.stretches())

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Return what Klaviyo took, as ranges without gaps."""
        if self.only:
            yield from _ranges(self.only)
            return
        start = self.first
        for position in sorted(set(self.without)):
            if start <= position < self.last:
                if start < position:
                    yield start, position
                start = position + 1
        if start < self.last:
            yield start, self.last


# A profile's position in its batch (None where it was not named), and Klaviyo's words about it.
Saying = tuple[int | None, str]


class SameSaid(BaseModel):
    """Profiles about which Klaviyo said the same.

    at: their positions as "0-9,12". unnamed: how many it did not name.
    A wrongly mapped column costs every row, each in the same words. Kept one by one, a million of
    them would take half of a small instance's memory.
    """

    words: str
    at: str = ""
    unnamed: int = 0

    def positions(self) -> Iterator[int]:
        for first, last in _ranges(self.at):
            yield from range(first, last)


# Beyond MANY_SAYINGS, words are cut to MANY_CHARS characters and MANY_WORDINGS different ones are
# kept, so that an event fits into one append of the journal.
MANY_SAYINGS, MANY_CHARS, MANY_WORDINGS = 1_000, 100, 100
OTHER_WORDS = "one of more than 100 different reasons"


def grouped(sayings: Iterable[Saying]) -> list[SameSaid]:
    """Group what Klaviyo said about profiles by its words."""
    given = list(sayings)
    is_many = len(given) > MANY_SAYINGS
    by_words: dict[str, list[int | None]] = {}
    for position, said in given:
        words = said[:MANY_CHARS] if is_many else said
        if is_many and len(by_words) >= MANY_WORDINGS and words not in by_words:
            words = OTHER_WORDS
        by_words.setdefault(words, []).append(position)
    return [
        SameSaid(
            words=words,
            at=stretches(sorted({position for position in positions if position is not None})),
            unnamed=positions.count(None),
        )
        for words, positions in by_words.items()
    ]


def stretches(positions: Sequence[int]) -> str:
    """Write sorted positions as "0-9,12"."""
    texts, first = [], 0
    for at, position in enumerate(positions, 1):
        if at == len(positions) or positions[at] != position + 1:
            begin = positions[first]
            texts.append(f"{begin}-{position}" if begin < position else f"{begin}")
            first = at
    return ",".join(texts)


def _ranges(written: str) -> Iterator[tuple[int, int]]:
    """Read "0-9,12" as ranges whose end is not included."""
    for stretch in filter(None, written.split(",")):
        first, _, last = stretch.partition("-")
        yield int(first), int(last or first) + 1


class LeftOut(BaseModel):
    """Profiles that are sent once more without these attributes, and Klaviyo's words about them.

    attributes: by their `MappedField.path`.
    """

    attributes: list[str]
    said: list[SameSaid]


def left_out(sayings: Mapping[tuple[str, ...], Sequence[Saying]]) -> list[LeftOut]:
    """Group what Klaviyo said about attributes by these."""
    return [
        LeftOut(attributes=list(attributes), said=grouped(said))
        for attributes, said in sayings.items()
    ]


class RowsRefused(BaseModel):
    """Klaviyo refused a batch because of these profiles; they are left out from now on."""

    kind: Literal["rows_refused"] = "rows_refused"
    batch: int
    said: list[SameSaid]


class AttributesRefused(BaseModel):
    """Klaviyo refused a batch because of attributes; these profiles go on without them."""

    kind: Literal["attributes_refused"] = "attributes_refused"
    batch: int
    left_out: list[LeftOut]


class JobEnded(BaseModel):
    """Klaviyo ended a job: how many profiles it completed, and what it said about the others.

    left_out: profiles that failed and are sent once more. They do not belong to the job any longer.
    """

    kind: Literal["job_ended"] = "job_ended"
    job: str
    completed: int
    said: list[SameSaid] = Field(default_factory=list)
    left_out: list[LeftOut] = Field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(each.unnamed + sum(1 for _ in each.positions()) for each in self.said)

    def failures(self) -> Iterator[Saying]:
        """Return every profile that failed: those named, in order, then the others."""
        yield from sorted(
            (position, each.words) for each in self.said for position in each.positions()
        )
        for each in self.said:
            yield from [(None, each.words)] * each.unnamed


class JobLost(BaseModel):
    """Klaviyo does not know a job that it took, cancelled it, or never ended it."""

    kind: Literal["job_lost"] = "job_lost"
    job: str
    why: str


Event = Annotated[
    BatchAccepted | RowsRefused | AttributesRefused | JobEnded | JobLost,
    Field(discriminator="kind"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def encode_events(events: Iterable[Event]) -> bytes:
    """Write events as lines of the journal."""
    return b"".join(event.model_dump_json().encode() + b"\n" for event in events)


def decode_events(journal: bytes) -> Iterator[Event]:
    """Read the events of a journal. Whole lines only: see `storage.protocols.complete_lines`."""
    for line in journal.splitlines():
        yield _EVENT.validate_python(json.loads(line))


@dataclass(frozen=True, slots=True)
class Omission:
    """The attributes that a profile is sent without, and Klaviyo's words about them."""

    attributes: tuple[str, ...]
    words: str

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes as people name them."""
        return tuple(path.partition("/")[2] or path for path in self.attributes)


@dataclass(slots=True)
class Delivery:
    """What became of the batches so far: the journal replayed.

    omitted: by batch and position, what is left out of a profile since Klaviyo refused it.
    sent_again: the batches of which Klaviyo took profiles that are sent once more.
    """

    accepted: dict[int, list[BatchAccepted]] = field(default_factory=dict)
    refused: dict[int, dict[int, str]] = field(default_factory=dict)
    jobs: dict[str, BatchAccepted] = field(default_factory=dict)
    ended: dict[str, JobEnded] = field(default_factory=dict)
    lost: dict[str, JobLost] = field(default_factory=dict)
    omitted: dict[int, dict[int, Omission]] = field(default_factory=dict)
    sent_again: set[int] = field(default_factory=set)
    accepted_profiles: int = 0

    @classmethod
    def replay(cls, events: Iterable[Event]) -> Delivery:
        delivery = cls()
        for event in events:
            delivery.apply(event)
        return delivery

    def apply(self, event: Event) -> None:
        """Take one event in. The first event about a profile or a job counts.

        So every profile of a batch is in one place: taken by one job, refused, or remaining.
        """
        match event:
            case BatchAccepted():
                if event.job not in self.jobs and not self._is_decided(event):
                    self.jobs[event.job] = event
                    self.accepted.setdefault(event.batch, []).append(event)
                    self.accepted_profiles += event.profiles
            case RowsRefused():
                refused = self.refused.setdefault(event.batch, {})
                for said in event.said:
                    positions = list(said.positions())
                    taken = self._accepted_among(event.batch, positions)
                    for position in positions:
                        if position not in taken:
                            refused.setdefault(position, said.words)
            case AttributesRefused():
                self._omit(event.batch, event.left_out)
            case JobEnded():
                is_new = event.job not in self.ended and event.job not in self.lost
                if event.job in self.jobs and is_new:
                    self.ended[event.job] = event
                    self._send_again(self.jobs[event.job], event.left_out)
            case JobLost():
                if event.job in self.jobs and event.job not in self.ended:
                    self.lost.setdefault(event.job, event)

    def _omit(self, batch: int, left_out: Iterable[LeftOut]) -> list[int]:
        """Note what profiles are sent without, and return their positions."""
        omitted = self.omitted.setdefault(batch, {})
        positions: list[int] = []
        for each in left_out:
            for said in each.said:
                omission = Omission(tuple(each.attributes), said.words)
                for position in said.positions():
                    omitted.setdefault(position, omission)
                    positions.append(position)
        return positions

    def _send_again(self, accepted: BatchAccepted, left_out: Sequence[LeftOut]) -> None:
        """Take profiles out of the job that did not import them: they remain to be sent."""
        if not left_out:
            return
        batch = accepted.batch
        again = set(self._omit(batch, left_out))
        kept = [position for position in accepted.positions() if position not in again]
        # An empty `only` means the whole range. So where none is kept, the range is empty.
        last = accepted.last if kept else accepted.first
        changed = accepted.model_copy(update={"only": stretches(kept), "last": last})
        self.jobs[accepted.job] = changed
        self.accepted[batch] = [
            changed if one.job == changed.job else one for one in self.accepted[batch]
        ]
        self.accepted_profiles += changed.profiles - accepted.profiles
        self.sent_again.add(batch)

    def _is_decided(self, event: BatchAccepted) -> bool:
        """Say whether some of a job's profiles were decided before: its batch was sent twice.

        Such a job is not followed. What only this job took is sent again, which is harmless.
        """
        refused = self.refused.get(event.batch, {})
        if event.only:
            positions = event.positions()
            taken = self._accepted_among(event.batch, positions)
            return bool(taken) or any(position in refused for position in positions)
        return any(
            self._is_accepted(event.batch, first, last)
            or any(first <= position < last for position in refused)
            for first, last in event.stretches()
        )

    def _is_accepted(self, batch: int, first: int, last: int) -> bool:
        """Say whether a job has taken any of these profiles."""
        return any(
            start < last and first < end
            for one in self.accepted.get(batch, ())
            if one.first < last and first < one.last
            for start, end in one.stretches()
        )

    def _accepted_among(self, batch: int, positions: Iterable[int]) -> set[int]:
        """Return those of the positions that a job has taken."""
        wanted = set(positions)
        found: set[int] = set()
        for one in self.accepted.get(batch, ()):
            for first, last in one.stretches():
                if last - first < len(wanted):
                    found.update(wanted.intersection(range(first, last)))
                else:
                    found.update(position for position in wanted if first <= position < last)
        return found

    def remaining(self, batch: PlannedBatch) -> list[tuple[int, int]]:
        """Return the ranges of a batch that still have profiles to send.

        Profiles that are sent again are scattered: one range, `without` those that Klaviyo took.
        """
        refused = self.refused.get(batch.number, {})
        taken = [each for one in self.accepted.get(batch.number, ()) for each in one.stretches()]
        ends = [*sorted(taken), (batch.profiles, batch.profiles)]
        start, ranges = 0, []
        for first, last in ends:
            if any(position not in refused for position in range(start, first)):
                ranges.append((start, first))
            start = last
        if batch.number in self.sent_again and ranges:
            return [(ranges[0][0], ranges[-1][1])]
        return ranges

    def has_remaining(self, batches: Iterable[PlannedBatch]) -> bool:
        return any(self.remaining(batch) for batch in batches if batch.number in self.sent_again)

    def without(self, batch: int, first: int, last: int) -> list[int]:
        """Return the positions inside a range that are not sent: refused, or taken already."""
        settled = {position for position in self.refused.get(batch, ()) if first <= position < last}
        if batch in self.sent_again:
            settled |= self._accepted_among(batch, range(first, last))
        return sorted(settled)

    def omitted_in(self, batch: int, positions: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Return what is left out of some profiles of a batch, by position."""
        omitted = self.omitted.get(batch)
        if not omitted:
            return {}
        return {each: omitted[each].attributes for each in positions if each in omitted}

    def open_jobs(self) -> list[str]:
        """Return the jobs that Klaviyo took and has not ended, oldest first."""
        return [job for job in self.jobs if job not in self.ended and job not in self.lost]

    def refused_profiles(self) -> int:
        return sum(len(rows) for rows in self.refused.values())

    def lost_profiles(self) -> int:
        return sum(self.jobs[job].profiles for job in self.lost)

    def sample(self, most: int, *, jobs: int = 20) -> dict[int, list[int]]:
        """Return positions of delivered profiles by batch, spread over the run.

        At most `most` of them, from at most so many jobs.
        """
        known = [
            (self.jobs[job], end)
            for job, end in self.ended.items()
            if not any(each.unnamed for each in end.said)
        ]
        chosen = _spread(known, jobs)
        sampled: dict[int, list[int]] = {}
        for accepted, end in chosen:
            failed = dict(end.failures())
            delivered = [position for position in accepted.positions() if position not in failed]
            share = most // len(chosen)
            sampled.setdefault(accepted.batch, []).extend(_spread(delivered, share))
        return sampled

    def delivered_without(self) -> Iterator[tuple[int, list[tuple[int, Omission]]]]:
        """Return, by batch, the profiles that were delivered without attributes, in order."""
        for batch, omitted in sorted(self.omitted.items()):
            delivered: set[int] = set()
            for accepted in self.accepted.get(batch, ()):
                if end := self.ended.get(accepted.job):
                    failed = {position for position, _ in end.failures()}
                    delivered.update(omitted.keys() & set(accepted.positions()) - failed)
            if delivered:
                yield batch, [(position, omitted[position]) for position in sorted(delivered)]

    def failed_profiles(self) -> int:
        return sum(job.failed for job in self.ended.values())

    def unconfirmed(self, job: str) -> int:
        """Return how many profiles of an ended job Klaviyo counts as neither done nor failed."""
        end = self.ended[job]
        return max(self.jobs[job].profiles - end.failed - end.completed, 0)

    def confirmed_profiles(self) -> int:
        """Count the profiles that Klaviyo says it imported."""
        ended = sum(self.jobs[job].profiles for job in self.ended)
        return ended - self.failed_profiles() - self.unconfirmed_profiles()

    def unconfirmed_profiles(self) -> int:
        return sum(self.unconfirmed(job) for job in self.ended)


def _spread(items: Sequence[T], most: int) -> Sequence[T]:
    """Return at most so many items, at equal distances."""
    distance = -(-len(items) // most) or 1
    return items[::distance]
