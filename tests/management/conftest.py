"""The management of a world."""

from __future__ import annotations

import pytest

from exporter.management.management import Management
from tests.journeys.world import World
from tests.management.managing import add_export, connect, managed


@pytest.fixture
def management(world: World) -> Management:
    return managed(world)


@pytest.fixture
def broken(world: World, management: Management) -> Management:
    """Of two connections with an export each, one was written by hand, and badly."""
    connect(management)
    connect(management, name="Hand made")
    add_export(management, name="A", connection="hand-made")
    add_export(management)
    name = "connections/hand-made.json"
    found = world.engine.store.read(name)
    assert found is not None
    world.engine.store.replace(name, b'{"id": "hand-made", "name"', etag=found.etag)
    return management
