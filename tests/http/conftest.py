"""The world of the service tests, behind its HTTP API."""

from __future__ import annotations

import pytest

from exporter.http.routes import create_app
from tests.http.asking import Asking
from tests.journeys.world import World
from tests.management.managing import managed


@pytest.fixture
def api(world: World) -> Asking:
    """The API of a world, under a platform that vouches for identities."""
    management = managed(world)
    return Asking(create_app(lambda: management, is_trusted=lambda: True), management)
