"""One stand-in Klaviyo served for all of these tests, emptied for each; see world.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import klaviyo as stand_in
from sandbox.klaviyo.settings import Settings
from sandbox.klaviyo.testing import Clock
from tests.service.world import World


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[stand_in.Klaviyo, str, Clock]]:
    clock = Clock()
    klaviyo = stand_in.Klaviyo(Settings(limits=False), clock=clock)
    with stand_in.serving(klaviyo) as url:
        yield klaviyo, url, clock


@pytest.fixture
def world(served: tuple[stand_in.Klaviyo, str, Clock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty account without rate limits, one list, nothing registered."""
    klaviyo, url, clock = served
    monkeypatch.setattr("os.fsync", lambda _: None)  # a fifth of the time, and nobody pulls the plug here
    klaviyo.settings = Settings(limits=False)
    klaviyo.reset()
    clock.now = Clock().now
    return World(tmp_path, klaviyo, url, clock, monkeypatch)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten profiles a batch."""
    monkeypatch.setattr("exporter.planning.MAX_BATCH_PROFILES", 10)
