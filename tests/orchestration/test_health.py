"""What /api/health says, and how soon, whatever hangs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from exporter.errors import Transient
from exporter.orchestration.health import FRESH_S, Health, is_ok

ANSWER_S = 0.2
LIMIT_S = 60.0


@pytest.fixture
def stuck() -> threading.Event:
    return threading.Event()


def test_a_part_that_hangs_costs_its_time_and_the_others_answer(stuck: threading.Event) -> None:
    health = Health(
        {"vault": lambda: _hang(stuck), "state": lambda: _hang(stuck), "queue": lambda: None},
        clock=time.monotonic,
        answer_s=ANSWER_S,
    )
    began = time.monotonic()
    said = health.check()
    lasted = time.monotonic() - began
    stuck.set()
    assert said["queue"] == "ok"
    assert all("did not answer in time" in said[part] for part in ("vault", "state"))
    assert lasted < LIMIT_S, "side by side, not until they answer"
    assert [is_ok(text) for text in said.values()] == [False, False, True]


def test_a_part_that_hangs_is_asked_once_and_keeps_nobody_waiting_twice(
    stuck: threading.Event,
) -> None:
    asked: list[int] = []

    def hang() -> None:
        asked.append(1)
        _hang(stuck)

    health = Health({"vault": hang}, clock=time.monotonic, answer_s=ANSWER_S)
    with ThreadPoolExecutor(8) as people:
        answers = list(people.map(lambda _: health.check(), range(24)))
    stuck.set()
    assert all("did not answer" in said["vault"] for said in answers)
    assert len(asked) == 1


def test_an_answer_that_comes_late_counts_from_then_on(stuck: threading.Event) -> None:
    health = Health({"vault": lambda: _hang(stuck)}, clock=time.monotonic, answer_s=ANSWER_S)
    assert "did not answer" in health.check()["vault"]
    stuck.set()
    deadline = time.monotonic() + LIMIT_S
    while health.check() != {"vault": "ok"}:
        assert time.monotonic() < deadline


def test_an_answer_is_kept_for_a_while() -> None:
    clock, asked = [1_000.0], []
    health = Health({"vault": lambda: asked.append(1)}, clock=lambda: clock[0], answer_s=LIMIT_S)
    for _ in range(3):
        assert health.check() == {"vault": "ok"}
    assert len(asked) == 1
    clock[0] += FRESH_S + 1
    health.check()
    assert len(asked) == 2


def test_what_is_wrong_is_said_and_a_defect_does_not_hide() -> None:
    def refuse() -> None:
        raise Transient("the vault refuses", hint="Look at its firewall.")

    def defect() -> None:
        raise AssertionError("ada@example.com")

    said = Health(
        {"vault": refuse, "state": defect}, clock=time.monotonic, answer_s=LIMIT_S
    ).check()
    assert said["vault"] == "the vault refuses Look at its firewall."
    assert said["state"].startswith("failed for a reason")
    assert "ada" not in str(said)


def _hang(stuck: threading.Event) -> None:
    assert stuck.wait(LIMIT_S)
