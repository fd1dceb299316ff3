"""Schemathesis makes up requests from the API's description: no answer may break it or be a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from exporter.http.identity import PRINCIPAL
from exporter.http.routes import create_app
from sandbox import klaviyo as stand_in
from sandbox.klaviyo.testing import Clock
from tests.http.asking import principal
from tests.journeys.world import World, people
from tests.management.managing import ADMIN, add_export, connect, managed

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
HEADERS = {"X-Exporter": "1", PRINCIPAL: principal(ADMIN)}
EXAMPLES = 10  # of each operation
DESCRIPTION = json.loads(
    (Path(__file__).parents[2] / "docs" / "openapi.json").read_text(encoding="utf-8")
)
OPERATIONS = [
    (method.upper(), path, item[method])
    for path, item in DESCRIPTION["paths"].items()
    for method in item
]
CASES = [
    *((method, path, GenerationMode.POSITIVE) for method, path, _ in OPERATIONS),
    *(
        (method, path, GenerationMode.NEGATIVE)
        for method, path, operation in OPERATIONS
        if "requestBody" in operation
    ),
]


@pytest.fixture(scope="module")
def api_schema(
    served: tuple[stand_in.Klaviyo, str, Clock], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The description as an app serves it whose connection and export all requests share."""
    klaviyo, url, clock = served
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        klaviyo.settings = stand_in.Settings(limits=False)
        klaviyo.reset()
        world = World(Path(tmp_path_factory.mktemp("world")), klaviyo, url, clock, patch)
        management = managed(world)
        connect(management)
        add_export(management)
        world.drop_people("a.csv", people(3))
        world.deliver()
        app = create_app(lambda: management, is_trusted=lambda: True)
        export_id, _, run = world.run("high-value").run_id.partition("/")
        known = {
            "connection_id": "main-account",
            "export_id": export_id,
            "run": run,
            "kind": "rejected",
        }
        yield schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=HEADERS), known


@pytest.mark.parametrize(
    ("method", "path", "mode"), CASES, ids=lambda part: getattr(part, "value", part)
)
def test_no_request_breaks_the_description(
    api_schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    schema, known = api_schema
    operation = schema[path][method]

    @given(case=operation.as_strategy(generation_mode=mode), names_what_is_there=st.booleans())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: schemathesis.Case, names_what_is_there: bool) -> None:
        if names_what_is_there:
            case.path_parameters |= {name: known[name] for name in case.path_parameters}
        case.call_and_validate(headers=HEADERS, checks=CHECKS)

    holds()
