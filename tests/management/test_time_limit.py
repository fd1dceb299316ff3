"""Work that a person waits for ends in time, whatever its parts do."""

from __future__ import annotations

import math
import threading
import time

import pytest

from exporter.errors import Conflict, TookTooLong
from exporter.management.time_limit import Check, within


def test_work_that_is_done_in_time_gives_its_result_or_its_error() -> None:
    def fail(_: Check) -> None:
        raise Conflict("it is paused")

    for seconds in (60, math.inf):
        assert within(seconds, lambda _: 7) == 7
        with pytest.raises(Conflict, match="paused"):
            within(seconds, fail)


def test_a_time_out_of_the_work_itself_is_not_ours() -> None:
    def fail(_: Check) -> None:
        raise TimeoutError("another")

    with pytest.raises(TimeoutError, match="another"):
        within(60, fail)


def test_a_part_that_hangs_keeps_nobody_waiting() -> None:
    stuck, began = threading.Event(), time.monotonic()
    with pytest.raises(TookTooLong, match="than the 0 s"):
        within(0.2, lambda _: stuck.wait(60))
    assert time.monotonic() - began < 30
    stuck.set()


def test_work_that_nobody_waits_for_ends_at_its_next_check() -> None:
    ended = threading.Event()

    def work(check: Check) -> None:
        try:
            while True:
                check("any", 1)
                time.sleep(0.01)
        finally:
            ended.set()

    with pytest.raises(TookTooLong):
        within(0.1, work)
    assert ended.wait(30)


def test_without_a_limit_nothing_is_checked_and_no_thread_is_started() -> None:
    assert within(math.inf, lambda check: (check(), threading.current_thread())[1]) is (
        threading.current_thread()
    )
