"""A lease has one holder; who lost it is told before the next effect."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import ConfigError, LeaseHeld, Transient
from exporter.orchestration.lease import MARGIN, HeldLease, is_held, kept, take
from exporter.storage.local_folder import FolderStore
from exporter.storage.protocols import Document
from sandbox.klaviyo.testing import Clock
from tests.storage.racing import at_once

NAME = "leases/main.json"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _document(store: FolderStore) -> dict[str, object]:
    found = store.read(NAME)
    assert found is not None
    document: dict[str, object] = json.loads(found.data)
    return document


def _take(store: FolderStore, clock: Clock, owner: str = "a") -> HeldLease:
    return take(store, NAME, owner, clock=clock, lasts_s=60)


def test_a_lease_is_a_document_that_a_person_can_read(store: FolderStore, clock: Clock) -> None:
    _take(store, clock)
    expected = {
        "schema": 1,
        "owner": "a",
        "generation": 1,
        "expires_at": clock.now + 60,
        "pacer": {},
    }
    assert _document(store) == expected


def test_a_held_lease_is_refused_with_the_time_to_wait(store: FolderStore, clock: Clock) -> None:
    _take(store, clock)
    clock.move(50)
    with pytest.raises(LeaseHeld) as refused:
        _take(store, clock, "b")
    assert refused.value.retry_after_s == 10
    assert is_held(store, NAME, now=clock.now)


@pytest.mark.parametrize("ahead_s", [61 * 7 / 6, 3_600, 10 * 365 * 86_400, float("inf")])
def test_a_lease_from_a_clock_far_ahead_is_none(
    store: FolderStore, clock: Clock, ahead_s: float
) -> None:
    lease = {"schema": 1, "owner": "a", "generation": 7, "expires_at": clock.now + ahead_s}
    store.create(NAME, json.dumps(lease).encode())
    assert not is_held(store, NAME, now=clock.now)
    _take(store, clock, "b").check()
    assert _document(store)["generation"] == 8


def test_a_lease_from_a_clock_a_little_ahead_counts(store: FolderStore, clock: Clock) -> None:
    _take(store, clock)
    clock.move(-9)
    assert is_held(store, NAME, now=clock.now)
    with pytest.raises(LeaseHeld):
        _take(store, clock, "b")


def test_connections_do_not_wait_for_each_other(store: FolderStore, clock: Clock) -> None:
    _take(store, clock)
    take(store, "leases/other.json", "b", clock=clock).check()
    assert not is_held(store, "leases/third.json", now=clock.now)


def test_an_expired_lease_is_taken_over_with_the_next_generation(
    store: FolderStore, clock: Clock
) -> None:
    first = _take(store, clock)
    clock.move(60)
    second = _take(store, clock, "b")
    assert _document(store)["generation"] == 2
    second.check()
    with pytest.raises(LeaseHeld):
        first.check()
    with pytest.raises(LeaseHeld):
        first.renew()


def test_a_lost_lease_stays_lost_and_is_not_given_back_for_another(
    store: FolderStore, clock: Clock
) -> None:
    first = _take(store, clock)
    clock.move(61)
    second = _take(store, clock, "b")
    first.release({"from": "first"})
    second.check()
    assert _document(store)["owner"] == "b"
    assert _document(store)["pacer"] == {}


@pytest.mark.parametrize(
    ("passed_s", "holds"), [(0, True), (49, True), (50, True), (50.1, False), (60, False)]
)
def test_a_holder_stops_a_while_before_the_end(
    store: FolderStore, clock: Clock, passed_s: float, holds: bool
) -> None:
    assert MARGIN * 60 == 10
    lease = _take(store, clock)
    clock.move(passed_s)
    if holds:
        lease.check()
    else:
        with pytest.raises(LeaseHeld):
            lease.check()


def test_a_renewed_lease_lasts_from_then_on(store: FolderStore, clock: Clock) -> None:
    lease = _take(store, clock)
    clock.move(45)
    lease.renew({"sent": 3})
    clock.move(45)
    lease.check()
    assert _document(store)["pacer"] == {"sent": 3}
    lease.renew()
    assert _document(store)["pacer"] == {"sent": 3}


def test_a_released_lease_is_free_at_once_and_hands_on_the_rate_windows(
    store: FolderStore, clock: Clock
) -> None:
    _take(store, clock).release({"sent": 3})
    assert not is_held(store, NAME, now=clock.now)
    assert _take(store, clock, "b").pacer == {"sent": 3}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"owner": 1}', "\x00"])
def test_a_lease_that_cannot_be_read_counts_as_none(
    store: FolderStore, clock: Clock, text: str
) -> None:
    store.create(NAME, text.encode())
    assert not is_held(store, NAME, now=clock.now)
    _take(store, clock).check()


def test_of_ten_workers_that_take_a_new_lease_one_wins(store: FolderStore, clock: Clock) -> None:
    winners = _race(store, clock)
    assert len(winners) == 1
    assert _document(store)["generation"] == 1


def test_of_ten_workers_that_take_over_an_expired_lease_one_wins(
    store: FolderStore, clock: Clock
) -> None:
    for generation in range(2, 6):
        _take(store, clock)
        clock.move(61)
        winners = _race(store, clock)
        assert len(winners) == 1
        assert _document(store)["generation"] == 2 * (generation - 1)
        clock.move(61)


def _race(store: FolderStore, clock: Clock) -> list[HeldLease]:
    def one(number: int) -> HeldLease | None:
        try:
            return _take(store, clock, f"worker-{number}")
        except LeaseHeld:
            return None

    taken, lost = at_once(10, one)
    assert lost == [], "losers are told LeaseHeld"
    return [each for each in taken if each]


# Kept alive by a thread


def _short(store: FolderStore) -> HeldLease:
    return take(store, NAME, "a", clock=time.time, lasts_s=0.4)


def test_a_kept_lease_outlives_its_time_and_is_free_afterwards(store: FolderStore) -> None:
    with kept(_short(store), pacer=lambda: {"sent": 7}) as lease:
        time.sleep(0.9)
        lease.check()
        with pytest.raises(LeaseHeld):
            _short(store)
    assert _short(store).pacer == {"sent": 7}
    assert "lease" not in {thread.name for thread in threading.enumerate()}


def test_a_kept_lease_is_given_back_when_the_block_fails(store: FolderStore) -> None:
    with pytest.raises(ConfigError), kept(_short(store), pacer=dict):
        raise ConfigError("no")
    assert not is_held(store, NAME, now=time.time())


class _Failing:
    """A store whose writes fail for a while."""

    def __init__(self, store: FolderStore, failures: Iterator[bool]) -> None:
        self.store, self.failures = store, failures

    def read(self, name: str) -> Document | None:
        return self.store.read(name)

    def create(self, name: str, data: bytes) -> str:
        return self.store.create(name, data)

    def replace(self, name: str, data: bytes, *, etag: str) -> str:
        if next(self.failures):
            raise Transient("storage is not available")
        return self.store.replace(name, data, etag=etag)


def test_a_renewal_that_fails_is_tried_again(store: FolderStore) -> None:
    failing = _Failing(
        store, iter([True, False, True, False, False, False, False, False, False, False])
    )
    with kept(take(failing, NAME, "a", clock=time.time, lasts_s=0.6), pacer=dict) as lease:  # type: ignore[arg-type]
        time.sleep(0.8)
        lease.check()


def test_a_lease_that_cannot_be_given_back_changes_nothing_of_the_outcome(
    store: FolderStore,
) -> None:
    failing = _Failing(store, iter([True] * 9))
    with kept(take(failing, NAME, "a", clock=time.time, lasts_s=60), pacer=dict):  # type: ignore[arg-type]
        outcome = "done"
    assert outcome == "done"
