"""Whether a failed request is tried again, and when: one table decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.klaviyo.backoff import RETRIES, GiveUp, Outcome, Wait, decide

HALF = 0.5


@pytest.mark.parametrize(
    ("attempt", "outcome", "elapsed_s", "retry_after_s", "answer"),
    [
        # Klaviyo's word wins, and is at least a second after a 429
        (1, Outcome.RATE_LIMITED, 0, 7, Wait(7)),
        (7, Outcome.RATE_LIMITED, 0, 7, Wait(7)),
        (1, Outcome.RATE_LIMITED, 0, 0, Wait(1)),
        (1, Outcome.SERVER_ERROR, 0, 0, Wait(0)),
        (1, Outcome.SERVER_ERROR, 0, 20, Wait(20)),
        # without it half of the backoff, as the jitter here says, which doubles up to its cap
        (1, Outcome.RATE_LIMITED, 0, None, Wait(1.5)),
        (2, Outcome.RATE_LIMITED, 0, None, Wait(2.5)),
        (7, Outcome.RATE_LIMITED, 0, None, Wait(30.5)),
        (1, Outcome.SERVER_ERROR, 0, None, Wait(0.5)),
        (2, Outcome.SERVER_ERROR, 0, None, Wait(1)),
        (5, Outcome.SERVER_ERROR, 0, None, Wait(8)),
        (1, Outcome.EDGE_REFUSED, 0, None, Wait(10)),
        (2, Outcome.EDGE_REFUSED, 0, None, Wait(17.5)),
        (1, Outcome.NOT_CONNECTED, 0, None, Wait(0.25)),
        (5, Outcome.NOT_CONNECTED, 0, None, Wait(4)),
        (1, Outcome.NO_ANSWER, 65, None, Wait(0.5)),
        (3, Outcome.NO_ANSWER, 180, None, Wait(2)),
        (3, Outcome.UNREADABLE, 0, None, Wait(2)),
        # attempts run out
        (8, Outcome.RATE_LIMITED, 0, 1, GiveUp("rate limited: 8 of 8 attempts made")),
        (6, Outcome.SERVER_ERROR, 0, None, GiveUp("server error: 6 of 6 attempts made")),
        (3, Outcome.EDGE_REFUSED, 0, None, GiveUp("edge refused: 3 of 3 attempts made")),
        (6, Outcome.NOT_CONNECTED, 0, None, GiveUp("not connected: 6 of 6 attempts made")),
        (4, Outcome.NO_ANSWER, 0, None, GiveUp("no answer: 4 of 4 attempts made")),
        (4, Outcome.UNREADABLE, 0, None, GiveUp("unreadable answer: 4 of 4 attempts made")),
        (1, Outcome.REFUSED, 0, 5, GiveUp("refused: 1 of 1 attempts made")),
        # time runs out, also before it has
        (
            2,
            Outcome.RATE_LIMITED,
            299,
            2,
            GiveUp("rate limited: the next attempt would be later than 300 s after the first"),
        ),
        (
            1,
            Outcome.RATE_LIMITED,
            0,
            3600,
            GiveUp("rate limited: the next attempt would be later than 300 s after the first"),
        ),
        (
            2,
            Outcome.NO_ANSWER,
            199.5,
            None,
            GiveUp("no answer: the next attempt would be later than 200 s after the first"),
        ),
    ],
)
def test_decide(
    attempt: int,
    outcome: Outcome,
    elapsed_s: float,
    retry_after_s: float | None,
    answer: Wait | GiveUp,
) -> None:
    assert decide(attempt, outcome, elapsed_s, retry_after_s=retry_after_s, jitter=HALF) == answer


@given(
    st.integers(1, 50),
    st.sampled_from(Outcome),
    st.floats(0, 1000),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 1, exclude_max=True),
)
def test_decide_never_waits_past_either_cap(
    attempt: int, outcome: Outcome, elapsed_s: float, retry_after_s: float | None, jitter: float
) -> None:
    match decide(attempt, outcome, elapsed_s, retry_after_s=retry_after_s, jitter=jitter):
        case Wait(seconds):
            assert attempt < RETRIES[outcome].attempts
            assert 0 <= seconds <= RETRIES[outcome].within_s - elapsed_s


def test_every_outcome_has_its_row_in_the_retry_table() -> None:
    assert RETRIES.keys() == set(Outcome)
