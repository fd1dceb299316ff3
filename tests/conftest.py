"""What every folder of tests may ask for.

One Azurite and one stand-in Klaviyo for the whole run, a place of its own for each test, and a
small world around the exporter (journeys/world.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient
from azure.storage.queue import QueueClient, QueueServiceClient

from exporter.planning.planner import PlanLimits
from exporter.storage import azure_blobs, azure_queue
from sandbox import klaviyo as stand_in
from sandbox.azurite import AZURITE, Azurite, running_azurite
from sandbox.klaviyo.settings import Settings
from sandbox.klaviyo.testing import Clock
from tests.databases import Databases
from tests.journeys.world import World

ROOM_IN_MEMORY = 2 * 1024**3

# A change must not fail to land by chance: in CI property tests take the same examples each time.
# `make fuzz`, and every run at home, looks for new ones. Nor by a slow machine: an example may take
# as long as it takes.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("any machine"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "any machine")

# A shell starts what it puts into the background with Ctrl-C ignored, and so everything below it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes go first.

    The longest of them would be what all wait for at last.
    """
    first = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """One emulator for all tests, in memory. Without node_modules tests skip, except in CI."""
    if not AZURITE.exists() and not os.environ.get("CI"):
        pytest.skip("Azurite is not installed (node_modules is missing): run scripts/setup")
    with running_azurite(log=tmp_path_factory.mktemp("azurite") / "log") as emulator:
        yield emulator


@pytest.fixture(scope="session")
def blob_service(azurite: Azurite) -> Iterator[BlobServiceClient]:
    """Connected as the app connects."""
    service = azure_blobs.blob_service("Storage", {"Storage": azurite.connection_string})
    with contextlib.closing(service):
        yield service


@pytest.fixture(scope="session")
def queue_service(azurite: Azurite) -> Iterator[QueueServiceClient]:
    service = azure_queue.queue_service("Storage", {"Storage": azurite.connection_string})
    with contextlib.closing(service):
        yield service


@pytest.fixture
def container(blob_service: BlobServiceClient) -> ContainerClient:
    """A container with a fresh name; nobody has made it yet."""
    return blob_service.get_container_client(f"c{uuid.uuid4().hex}")


@pytest.fixture
def queue(queue_service: QueueServiceClient) -> QueueClient:
    """A queue with a fresh name; nobody has made it yet."""
    return azure_queue.steps_queue(queue_service, f"q{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[stand_in.Klaviyo, str, Clock]]:
    clock = Clock()
    klaviyo = stand_in.Klaviyo(Settings(limits=False), clock=clock)
    with stand_in.serving(klaviyo) as url:
        yield klaviyo, url, clock


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with contextlib.closing(Databases(tmp_path_factory.mktemp("databases"))) as it:
        yield it


@pytest.fixture
def light_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where Linux has room for it: a disk takes longer over small files."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < ROOM_IN_MEMORY:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="world-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def world(
    served: tuple[stand_in.Klaviyo, str, Clock],
    databases: Databases,
    light_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """An empty account without rate limits, one list, nothing registered."""
    klaviyo, url, clock = served
    databases.serve(monkeypatch)
    monkeypatch.setattr(
        "os.fsync", lambda _: None
    )  # a fifth of the time, and nobody pulls the plug here
    klaviyo.settings = Settings(limits=False)
    klaviyo.reset()
    clock.now = Clock().now
    return World(light_path, klaviyo, url, clock, monkeypatch)


@pytest.fixture
def small_batches(world: World) -> None:
    """Ten profiles a batch."""
    world.restart(plan=PlanLimits(batch_profiles=10))
