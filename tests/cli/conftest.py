"""The world of the service tests, with a command line through both of its doors."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import typer.main

from exporter.cli.main import main
from exporter.management.management import Management
from tests.cli.serving import serving_api
from tests.journeys.world import World
from tests.management.managing import managed

# Typer makes it anew for each call, out of every function: most of the time of these tests.
_command = functools.cache(typer.main.get_command)


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class CommandLine:
    """`python -m exporter ...`, in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capture, self._patch = capture, patch

    def __call__(self, *args: object, typed: str = "") -> Said:
        self._patch.setattr("sys.stdin", io.StringIO(typed))
        self._patch.setattr("typer.main.get_command", _command)
        self._capture.readouterr()
        code = main([str(arg) for arg in args])
        said = self._capture.readouterr()
        return Said(code, said.out, said.err)

    def ok(self, *args: object, typed: str = "") -> Said:
        said = self(*args, typed=typed)
        assert said.code == 0, (args, said)
        return said

    def be(self, name: str) -> None:
        """Come with the token of somebody."""
        self._patch.setenv("EXPORTER_TOKEN", name)

    def through(self, url: str) -> None:
        """Through the API there; "" for the store."""
        self._patch.setenv("EXPORTER_APP", url)


@pytest.fixture
def management(world: World) -> Management:
    return managed(world)


@pytest.fixture
def url(management: Management) -> Iterator[str]:
    with serving_api(management) as address:
        yield address


@pytest.fixture
def line(
    management: Management, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """On the world's store; `through` goes over the API, as Ada unless somebody else."""
    monkeypatch.setattr("exporter.wiring.management", lambda: management)
    monkeypatch.setenv("COLUMNS", "240")
    made = CommandLine(capsys, monkeypatch)
    made.be("ada")
    made.through("")
    return made


@pytest.fixture(params=["store", "api"])
def both(request: pytest.FixtureRequest, line: CommandLine, url: str) -> CommandLine:
    """The command line through one door after the other."""
    line.through(url if request.param == "api" else "")
    return line
