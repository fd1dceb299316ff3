"""The world of the service tests, behind its HTTP API."""

from __future__ import annotations

import pytest

from tests.http.asking import Asking, api_of
from tests.journeys.world import World
from tests.management.managing import managed


@pytest.fixture
def api(world: World) -> Asking:
    """The API of a world, under a platform that vouches for identities."""
    return api_of(managed(world))
