"""Pacing: never over Klaviyo's windows, and no slower than they allow."""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.klaviyo.limits import BULK_IMPORT, RateLimits
from exporter.klaviyo.rate_limit import (
    GUARD_S,
    IN_FLIGHT,
    MAX_BACKOFF_S,
    MAX_PAUSE_S,
    PROBE_S,
    Pacer,
)
from sandbox.klaviyo import limits as stand_in
from sandbox.klaviyo.messages import Refused

START = (
    1_795_449_600.0  # epoch seconds of a day in November 2026: as coarse as a float is in real life
)

limits = st.builds(RateLimits, st.integers(1, 20), st.integers(1, 60))
shares = st.floats(0.05, 1.0)
pauses = st.floats(0, 3) | st.floats(0, 90)


def send_all(
    pacer: Pacer, count: int, *, start: float = START, idle: list[float] | None = None
) -> list[float]:
    """Send `count` times as soon as allowed, or after the idle time that is next in line."""
    now, sent = start, []
    for number in range(count):
        now += idle[number] if idle else 0
        now += pacer.wait_s(now)
        pacer.sent(now)
        sent.append(now)
    return sent


def most_within(moments: list[float], window_s: float) -> int:
    """The largest number of moments in any window, both of its ends included."""
    first, most = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


# the windows


@given(limits, shares, st.lists(pauses, min_size=1, max_size=200))
def test_no_second_and_no_minute_ever_holds_more_than_its_limit(
    limits: RateLimits, share: float, idle: list[float]
) -> None:
    sent = send_all(Pacer(limits, share=share), len(idle), idle=idle)

    assert most_within(sent, 1) <= max(1, limits.per_second * share + 1e-9)
    assert most_within(sent, 60) <= max(1, limits.per_minute * share + 1e-9)


@given(st.lists(st.floats(0, GUARD_S * 0.99), min_size=60, max_size=60))
def test_arrivals_that_jitter_by_less_than_the_guard_keep_to_the_windows(
    delays: list[float],
) -> None:
    sent = send_all(Pacer(RateLimits(5, 20)), len(delays))
    arrived = sorted(moment + delay for moment, delay in zip(sent, delays, strict=True))

    assert most_within(arrived, 1) <= 5
    assert most_within(arrived, 60) <= 20


def test_a_hundred_sends_at_ten_a_second_take_less_than_ten_seconds() -> None:
    sent = send_all(Pacer(RateLimits(10, 1000)), 100)

    assert sent[-1] - sent[0] < 10


def test_a_thousand_imports_go_out_as_fast_as_any_sliding_window_allows() -> None:
    """The 1,000th is number 99 of the seventh window: six minutes, and nine seconds."""
    sent = send_all(Pacer(BULK_IMPORT), 1000)

    best_s = 6 * 60 + 9
    assert best_s <= sent[-1] - sent[0] < best_s * 1.01


def test_in_the_long_run_the_steady_rate_is_reached() -> None:
    sent = send_all(Pacer(BULK_IMPORT), 15_001)

    assert 15_000 / (sent[-1] - sent[0]) * 60 > 150 * 0.995


def test_the_first_burst_waits_for_nothing() -> None:
    assert send_all(Pacer(BULK_IMPORT), 10) == [START] * 10


@given(limits, st.lists(pauses, min_size=1, max_size=100))
def test_whoever_slept_the_advised_time_need_not_ask_again(
    limits: RateLimits, idle: list[float]
) -> None:
    pacer, now = Pacer(limits), START
    for pause in idle:
        now += pause
        now += pacer.wait_s(now)
        assert pacer.wait_s(now) == 0
        pacer.sent(now)


def test_a_share_of_nine_tenths_leaves_fifteen_sends_a_minute_to_others() -> None:
    pacer = Pacer(BULK_IMPORT, share=0.9)

    assert pacer.steady_limit == 135
    assert most_within(send_all(pacer, 500), 60) == 135


def test_a_share_of_half_leaves_half_of_every_second_to_others() -> None:
    assert most_within(send_all(Pacer(BULK_IMPORT, share=0.5), 500), 1) == 5


@pytest.mark.parametrize("share", [0, -1, 1.01, math.nan])
def test_a_share_outside_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Pacer(share=share)


@pytest.mark.parametrize(("per_second", "per_minute"), [(0, 1), (1, 0)])
def test_limits_under_one_are_refused(per_second: int, per_minute: int) -> None:
    with pytest.raises(ValueError, match="limits"):
        RateLimits(per_second, per_minute)


@pytest.mark.parametrize("pause_s", [0, 7, 31.5, 59.9, 61])
def test_the_stand_ins_fixed_windows_never_refuse_a_paced_import(pause_s: float) -> None:
    """However its windows lie: they begin with a send that the burst follows after a pause."""
    pacer, account = Pacer(BULK_IMPORT), stand_in.Limits()
    sent = send_all(pacer, 1)
    sent += send_all(pacer, 600, start=START + pause_s)

    for moment in sent:
        account.take(
            [("import", stand_in.Tier.M)], now=moment, l_steady=750
        )  # raises Refused for a 429


# what Klaviyo tells


def test_alone_on_the_account_what_klaviyo_says_changes_nothing() -> None:
    """Klaviyo's window is fixed and counts what arrived: it never knows more than we do."""
    pacer, now, window_began, counted = Pacer(BULK_IMPORT), START, START, 0
    sent = []
    for _ in range(1000):
        now += pacer.wait_s(now)
        pacer.sent(now)
        sent.append(now)
        if now >= window_began + 60:
            window_began, counted = now, 0
        counted += 1
        pacer.told(150, 150 - counted, math.ceil(window_began + 60 - now), now)

    assert sent == send_all(Pacer(BULK_IMPORT), 1000)


def test_if_less_remains_than_we_think_klaviyo_is_believed_until_its_window_ends() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.sent(START)
    pacer.told(150, 3, 40, START)

    sent = send_all(pacer, 4)
    assert sent[:3] == [START] * 3
    assert START + 40 <= sent[3] <= START + 41


def test_answers_that_overtake_each_other_do_not_give_back_what_was_used() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.told(150, 5, 40, START)
    for _ in range(3):
        pacer.sent(START)
    pacer.told(150, 2, 40, START)  # about the last of the three
    pacer.told(150, 4, 41, START)  # about the first

    sent = send_all(pacer, 3)
    assert sent[1] == START
    assert sent[2] > START + 40


def test_a_new_window_brings_new_room() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.told(150, 0, 10, START)
    assert pacer.wait_s(START) > 9

    pacer.told(150, 100, 60, START + 10.5)
    assert pacer.wait_s(START + 10.5) == 0


def test_a_window_that_ended_says_nothing_about_the_next() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.told(150, 0, 10, START)
    pacer.told(
        150, 2, 20, START + 12
    )  # shorter than a window: Klaviyo's began while we were silent

    sent = send_all(pacer, 3, start=START + 12)
    assert sent[1] == START + 12
    assert sent[2] > START + 32


def test_what_others_use_of_their_share_does_not_slow_us_down() -> None:
    pacer = Pacer(BULK_IMPORT, share=0.9)
    sent = send_all(pacer, 100)
    pacer.told(150, 150 - 100 - 15, 50, sent[-1])

    assert most_within(sent + send_all(pacer, 35, start=sent[-1]), 60) == 135


def test_what_others_use_beyond_their_share_slows_us_down() -> None:
    pacer = Pacer(BULK_IMPORT, share=0.9)
    pacer.told(150, 20, 60, START)  # others used 130 instead of 15

    sent = send_all(pacer, 21)
    assert sent[19] < START + 3
    assert sent[20] >= START + 60


def test_a_lower_limit_in_klaviyos_words_is_kept() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.told(60, None, None, START)

    assert most_within(send_all(pacer, 200), 60) == 60


@pytest.mark.parametrize("limit", [0, -5, 100_000])
def test_a_limit_that_makes_no_sense_or_is_higher_than_documented_changes_nothing(
    limit: int,
) -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.told(limit, None, None, START)

    assert pacer.steady_limit == 150


# 429


def test_after_a_429_nobody_sends_before_the_time_klaviyo_named() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(17, START)

    assert pacer.wait_s(START) == 17
    assert pacer.wait_s(START + 17) == 0


@pytest.mark.parametrize("retry_after_s", [0, -3, 0.2])
def test_after_a_429_that_names_no_time_to_speak_of_we_wait_a_second(retry_after_s: float) -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(retry_after_s, START)

    assert pacer.wait_s(START) == 1


def test_a_shorter_time_does_not_shorten_a_longer_one() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(30, START)
    pacer.throttled(2, START + 1)

    assert pacer.wait_s(START + 1) == 29


def test_without_a_named_time_each_round_of_429_waits_twice_as_long_up_to_the_cap() -> None:
    pacer, now, waits = Pacer(BULK_IMPORT), START, []
    for _ in range(9):
        pacer.throttled(None, now)
        waits.append(pacer.wait_s(now))
        now += waits[-1]

    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])
    assert max(waits) <= MAX_BACKOFF_S + 1e-6


def test_many_threads_that_meet_one_closed_window_are_one_round() -> None:
    pacer = Pacer(BULK_IMPORT)
    for thread in range(12):
        pacer.throttled(None, START + thread / 100)

    assert pacer.wait_s(START + 0.11) <= 2


def test_a_good_answer_ends_the_backing_off() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(None, START)
    pacer.throttled(None, START + 1)
    pacer.sent(START + 9)
    pacer.told(150, 149, 60, START + 10)
    pacer.throttled(None, START + 20)

    assert pacer.wait_s(START + 20) == 1


def test_after_a_429_one_probe_goes_out_and_its_good_answer_opens_the_rest() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(1, START)
    pacer.sent(START + 1)
    assert pacer.wait_s(START + 1) == PROBE_S

    pacer.told(150, 140, 50, START + 1.2)
    assert send_all(pacer, 6, start=START + 1.2) == [START + 1.2] * 6


def test_a_good_answer_that_was_on_its_way_before_the_429_opens_nothing() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(1, START)
    pacer.told(150, 140, 50, START + 1)
    pacer.sent(START + 1)
    assert pacer.wait_s(START + 1) == PROBE_S


def test_a_probe_without_an_answer_is_followed_by_another() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(1, START)
    assert send_all(pacer, 3, start=START + 1) == [
        START + 1,
        START + 1 + PROBE_S,
        START + 1 + 2 * PROBE_S,
    ]


def _run(
    pacer: Pacer,
    count: int,
    way: Callable[[], float],
    *,
    back_s: float = 0.0,
    others: Sequence[float] = (),
) -> tuple[int, float]:
    """Have `count` sends accepted by the stand-in's counter: (429s, seconds it took).

    Each is under way for `way()`, its answer for `back_s`. others: when another tool sends.
    """
    account, numbers = stand_in.Limits(), itertools.count()
    events = [(START + each, next(numbers), "another's", {}) for each in others]
    heapq.heapify(events)
    now, waiting, flying, throttled = START, count, 0, 0
    last = free_at = START
    while waiting or flying:
        may_send = waiting and flying < IN_FLIGHT
        ready_at = max(free_at, now + pacer.wait_s(now)) if may_send else math.inf
        if ready_at <= (events[0][0] if events else math.inf):
            now = ready_at
            pacer.sent(now)
            waiting, flying = waiting - 1, flying + 1
            heapq.heappush(events, (now + way(), next(numbers), "ours", {}))
            free_at = now + 0.03  # building a body
            continue
        now, _, what, headers = heapq.heappop(events)
        if what == "answer":
            flying -= 1
            if "Retry-After" in headers:
                throttled, waiting = throttled + 1, waiting + 1
                pacer.throttled(float(headers["Retry-After"]), now)
            else:
                last = now
                pacer.told(
                    150, int(headers["RateLimit-Remaining"]), float(headers["RateLimit-Reset"]), now
                )
            continue
        try:
            answer = account.take([("import", stand_in.Tier.M)], now=now, l_steady=750)
        except Refused as exc:
            answer = dict(exc.headers)
        if what == "ours":
            heapq.heappush(events, (now + back_s, next(numbers), "answer", answer))
    return throttled, last - START


@pytest.mark.parametrize(("a_second", "most"), [(1, 10), (2, 10), (5, 20)])
def test_another_tool_without_a_share_costs_a_round_or_two_of_429s_where_answers_come_late(
    a_second: int, most: int
) -> None:
    others = [0.3 + each / a_second for each in range(300 * a_second)]
    throttled, _ = _run(Pacer(BULK_IMPORT), 100, lambda: 0.5, back_s=0.5, others=others)
    assert 1 <= throttled <= most


@pytest.mark.parametrize("seed", range(20))
def test_a_way_that_takes_now_much_and_now_little_costs_one_round_of_429s_at_most(
    seed: int,
) -> None:
    dice = random.Random(seed)
    throttled, _ = _run(Pacer(BULK_IMPORT), 100, lambda: dice.uniform(0.2, 0.8), back_s=0.5)
    assert throttled <= 10


@pytest.mark.parametrize("seed", range(20))
def test_a_way_that_takes_now_nothing_and_now_0_3_s_costs_a_handful_of_429s(seed: int) -> None:
    dice = random.Random(seed)
    throttled, seconds = _run(Pacer(BULK_IMPORT), 100, lambda: dice.uniform(0, 0.3))
    assert throttled <= 6
    assert seconds < 25


def test_the_full_pace_comes_back_when_there_was_no_429_for_a_while() -> None:
    pacer = Pacer(BULK_IMPORT)
    pacer.throttled(1, START)
    pacer.sent(START + 1)
    pacer.told(150, 149, 60, START + 1)
    assert send_all(pacer, 20, start=START + 1)[-1] > START + 2.15
    assert send_all(pacer, 11, start=START + 700)[-1] == pytest.approx(START + 701 + GUARD_S)


def test_another_tool_within_its_share_meets_no_429_and_causes_none() -> None:
    throttled, _ = _run(
        Pacer(BULK_IMPORT, share=0.5),
        300,
        lambda: 0.02,
        others=[0.5 + 2 * each for each in range(120)],
    )
    assert throttled == 0


# from one instance to another

events = st.one_of(
    st.tuples(st.just("sent")),
    st.tuples(
        st.just("told"),
        st.none() | st.integers(-5, 500),
        st.none() | st.integers(-5, 500),
        pauses | st.none(),
    ),
    st.tuples(
        st.just("throttled"),
        st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(0, 10**12),
    ),
)


@given(limits, shares, st.lists(st.tuples(pauses, events), max_size=100), st.floats(-1e6, 1e6))
def test_whatever_happened_the_wait_is_never_past_the_cap(
    limits: RateLimits, share: float, history: list[tuple[float, tuple]], skew: float
) -> None:
    pacer, now = Pacer(limits, share=share), START
    for pause, (event, *arguments) in history:
        now += pause
        getattr(pacer, event)(*arguments, now)
        assert 0 <= pacer.wait_s(now) <= MAX_PAUSE_S

    assert 0 <= pacer.wait_s(now + skew) <= MAX_PAUSE_S
    pacer.sent(now + skew)
    assert 0 <= pacer.wait_s(now + skew) <= MAX_PAUSE_S


@given(limits, st.lists(st.tuples(pauses, events), max_size=100))
def test_state_survives_the_way_through_json_and_a_second_one_changes_nothing(
    limits: RateLimits, history: list[tuple[float, tuple]]
) -> None:
    pacer, now = Pacer(limits), START
    for pause, (event, *arguments) in history:
        now += pause
        getattr(pacer, event)(*arguments, now)

    document = pacer.to_json()
    taken_over = Pacer.from_json(json.loads(json.dumps(document, allow_nan=False)), limits)
    assert taken_over.to_json() == document
    # Rounded up: never sooner, and hardly later.
    later = now + 0.01
    assert pacer.wait_s(later) - 1e-5 <= taken_over.wait_s(later) <= pacer.wait_s(later) + 0.002
    assert len(document["sent_ms"]) <= limits.per_minute


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 5))
def test_instances_whose_clocks_differ_keep_to_the_windows_but_for_that_difference(
    turns: list[int], ahead_s: float
) -> None:
    """Every second instance's clock runs ahead; sends are compared by the true time."""
    document: dict = {}
    now, sent = START, []
    for turn, count in enumerate(turns):
        skew_s = ahead_s if turn % 2 else 0
        pacer = Pacer.from_json(document, RateLimits(5, 20))
        for _ in range(count):
            now += pacer.wait_s(now + skew_s)
            pacer.sent(now + skew_s)
            sent.append(now)
        document = pacer.to_json()

    assert most_within(sent, 60 - ahead_s) <= 20
    assert most_within(sent, 1) <= (5 if ahead_s < GUARD_S else 10)


def test_sends_in_the_future_count_as_sends_of_this_moment() -> None:
    ahead = Pacer(BULK_IMPORT)
    for _ in range(150):
        ahead.sent(START + 86_400)
    behind = Pacer.from_json(ahead.to_json())

    assert behind.wait_s(START) == pytest.approx(60 + GUARD_S)
    assert behind.wait_s(START + 30) == pytest.approx(30 + GUARD_S)


def test_a_clock_that_was_set_back_holds_nobody_up_for_longer_than_a_window() -> None:
    pacer = Pacer(BULK_IMPORT)
    send_all(pacer, 150)

    sent = send_all(pacer, 2, start=START - 86_400)
    assert sent[-1] <= START - 86_400 + 61


def test_a_pacer_of_a_busy_account_is_a_small_document() -> None:
    pacer = Pacer(BULK_IMPORT)
    send_all(pacer, 1000)

    assert len(json.dumps(pacer.to_json())) < 3_000


@given(st.lists(st.integers(0, 4 * 10**12), min_size=100, max_size=150))
def test_moments_do_not_drift_however_often_they_are_handed_over(moments_ms: list[int]) -> None:
    document = {"sent_ms": sorted(moments_ms)}

    assert Pacer.from_json(document).to_json()["sent_ms"] == document["sent_ms"]


def test_a_pacer_at_work_can_be_written_down_by_another_thread() -> None:
    pacer, now = Pacer(BULK_IMPORT), START
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as if they had met a million times
    try:
        with ThreadPoolExecutor(1) as other:
            documents = other.submit(lambda: [pacer.to_json() for _ in range(100)])
            while not documents.done():
                now += 0.5
                pacer.sent(now)
    finally:
        sys.setswitchinterval(interval)

    assert all(each["sent_ms"] == sorted(each["sent_ms"]) for each in documents.result())


def test_an_empty_document_is_a_pacer_that_sent_nothing() -> None:
    assert Pacer.from_json({}).to_json() == Pacer().to_json()


@pytest.mark.parametrize(
    "document",
    [
        {"schema": 2},
        {"sent_ms": ["yesterday"]},
        {"sent_ms": 7},
        {"sent_ms": [math.inf]},
        {"left": "x"},
        {"shut_until_ms": None},
        {"shut_until_ms": math.nan},
        {"told_limit": math.inf},
    ],
)
def test_a_document_that_no_pacer_wrote_is_refused(document: dict) -> None:
    with pytest.raises(ValueError):
        Pacer.from_json(document)
