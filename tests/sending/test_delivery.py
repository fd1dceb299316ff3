"""Rows that are sent once more leave their job, and every row stays in one place."""

from __future__ import annotations

from datetime import UTC, datetime

from exporter.planning.plan import PlannedBatch
from exporter.sending.delivery import (
    BatchAccepted,
    Delivery,
    JobEnded,
    RowsRefused,
    decode_events,
    encode_events,
    grouped,
    left_out,
    stretches,
)

NOW = datetime(2026, 9, 21, tzinfo=UTC)
ROWS = 10_000
BATCH = PlannedBatch(number=0, profiles=ROWS, size_bytes=1, spans=())
EVEN = list(range(0, ROWS, 2))
FIRST = BatchAccepted(batch=0, first=0, last=ROWS, job="a", at=NOW)
AGAIN = BatchAccepted(batch=0, first=0, last=ROWS, only=stretches(EVEN), job="b", at=NOW)


def ended_without_phones(positions: list[int]) -> JobEnded:
    said = [(position, "It is taken.") for position in positions]
    completed = ROWS - len(positions)
    return JobEnded(job="a", completed=completed, left_out=left_out({("phone_number",): said}))


def test_rows_that_are_sent_again_remain_and_the_others_do_not() -> None:
    delivery = Delivery.replay([FIRST, ended_without_phones(EVEN)])
    assert delivery.accepted_profiles == delivery.confirmed_profiles() == ROWS // 2
    [(first, last)] = delivery.remaining(BATCH)
    sent = set(range(first, last)) - set(delivery.without(0, first, last))
    assert sent == set(EVEN)
    assert delivery.omitted_in(0, [0, 1]) == {0: ("phone_number",)}
    assert delivery.has_remaining([BATCH])


def test_what_is_sent_again_is_taken_and_confirmed_once() -> None:
    events = [
        FIRST,
        ended_without_phones(EVEN),
        AGAIN,
        AGAIN.model_copy(update={"job": "of a batch that was sent twice"}),
        RowsRefused(batch=0, said=grouped((position, "late") for position in range(ROWS))),
        JobEnded(job="b", completed=len(EVEN) - 1, said=grouped([(4, "It is unwelcome.")])),
    ]
    twice = [*events, *events]  # a journal that was written twice
    delivery = Delivery.replay(decode_events(encode_events(twice)))
    assert delivery.jobs.keys() == {"a", "b"}
    assert (delivery.accepted_profiles, delivery.refused_profiles()) == (ROWS, 0)
    assert (delivery.confirmed_profiles(), delivery.failed_profiles()) == (ROWS - 1, 1)
    assert not delivery.remaining(BATCH)
    [(batch, lacking)] = delivery.delivered_without()
    assert batch == 0
    assert [position for position, _ in lacking] == [each for each in EVEN if each != 4]


def test_a_job_of_which_every_row_is_sent_again_keeps_none() -> None:
    delivery = Delivery.replay([FIRST, ended_without_phones(list(range(ROWS)))])
    assert delivery.jobs["a"].positions() == []
    assert (delivery.accepted_profiles, delivery.unconfirmed_profiles()) == (0, 0)
    assert delivery.remaining(BATCH) == [(0, ROWS)]
