"""local.settings.sample.json holds what `func start` needs. Core Tools are not run here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporter.settings import from_env

ROOT = Path(__file__).parents[2]
VALUES = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
TRIGGERS = """
import json
import function_app
triggers = [each.get_trigger().get_dict_repr() for each in function_app.app.get_functions()]
print(json.dumps(triggers, default=str))
"""


def triggers(**settings: str) -> list[dict[str, Any]]:
    environ = {name: value for name, value in os.environ.items() if name not in VALUES} | settings
    ran = subprocess.run(
        [sys.executable, "-c", TRIGGERS],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(ran.stdout))


def test_the_sample_sets_what_the_triggers_name_and_the_settings_need() -> None:
    named = set(re.findall(r"%(\w+)%", (ROOT / "function_app.py").read_text()))
    connections = {each["connection"] for each in triggers() if "connection" in each}
    assert (
        named | connections | {"AzureWebJobsStorage", "FUNCTIONS_WORKER_RUNTIME"} <= VALUES.keys()
    )
    assert from_env(VALUES).snapshots_container == VALUES["SNAPSHOTS_CONTAINER"]


@pytest.mark.parametrize(
    ("settings", "source"), [(VALUES, "LogsAndContainerScan"), ({}, "EventGrid")]
)
def test_blobs_are_looked_for_on_a_laptop_and_told_of_in_azure(
    settings: dict[str, str], source: str
) -> None:
    [blob] = [each for each in triggers(**settings) if each["type"] == "blobTrigger"]
    assert source in str(blob["source"])
