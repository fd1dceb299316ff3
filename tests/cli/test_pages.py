"""What README.md and docs/mapping.md show is what happens."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from exporter.definitions.mapping import LOCATION, Empty, MappingDocument, ValueType
from tests.cli.conftest import CommandLine
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
MAPPING_PAGE = (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(
    r"## (.+?)\n.*?```yaml\n(.*?)```\n+```csv\n(.*?)```\n+```json\n(.*?)```", re.DOTALL
)
EXAMPLES = [found.groups() for found in EXAMPLE.finditer(MAPPING_PAGE)]


@pytest.mark.parametrize(
    ("mapping", "rows", "profile"),
    [example[1:] for example in EXAMPLES],
    ids=[example[0] for example in EXAMPLES],
)
def test_example_of_the_mapping_page_gives_the_profile_shown(
    line: CommandLine, tmp_path: Path, mapping: str, rows: str, profile: str
) -> None:
    (tmp_path / "mapping.yaml").write_text(mapping)
    encoding = yaml.safe_load(mapping).get("encoding", "utf-8")
    (tmp_path / "rows.csv").write_text(rows, encoding=encoding)
    options = ("--mapping", tmp_path / "mapping.yaml", "--show-values", "--json")
    plan = line.ok("plan", tmp_path / "rows.csv", *options).document
    sample, *_ = plan["samples"]
    assert {"type": "profile", **json.loads(profile)} == sample
    assert plan["cells_left_out"] == {}


def test_encoding_of_a_file_can_be_given(line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text("email: EMail\nfirst_name: FirstName\n")
    (tmp_path / "rows.csv").write_bytes("EMail,FirstName\nada@example.com,Éva\n".encode("cp1252"))
    options = ("--mapping", tmp_path / "mapping.yaml", "--show-values", "--json")
    plan = line.ok("plan", tmp_path / "rows.csv", *options, "--encoding", "windows-1252").document
    assert plan["samples"][0]["attributes"]["first_name"] == "Éva"


def test_every_key_of_a_mapping_has_an_example() -> None:
    assert len(EXAMPLES) == MAPPING_PAGE.count("\n## "), "a part without an example"
    shown = "".join(mapping for _, mapping, _, _ in EXAMPLES)
    for key in (*MappingDocument.model_fields, *LOCATION):
        assert f"{key}:" in shown, key
    for value in (*ValueType, *Empty, '"*"'):
        assert re.search(rf": {re.escape(value)}[,}}\n]", shown), value


@pytest.mark.processes
def test_a_missing_package_is_one_sentence() -> None:
    without_packages = [sys.executable, "-S", "-m", "exporter", "push", "a.csv"]
    ran = subprocess.run(without_packages, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1
    assert re.fullmatch(
        r"Error: The Python package \w+ is not installed\.\nDo: .+ -m pip install -r .+\n",
        ran.stderr,
    ), ran.stderr


@pytest.mark.processes
def test_laptop_section_of_the_readme_works_as_written(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## From a laptop")[2].partition("\n## ")[0]
    set_up, try_it, _ = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    target = set_up.split()[1]
    dry = subprocess.run(
        ["make", "--no-print-directory", "-n", target], cwd=ROOT, capture_output=True, text=True
    )
    assert dry.stdout == "scripts/setup laptop\n", dry
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python").chmod(0o755)
    ran = subprocess.run(
        ["sh", "-ec", try_it.replace("8025", str(port))],
        cwd=tmp_path,
        env={
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, ran
    assert ("Accepted    1 in 1 import job" in ran.stdout, "Rejected    1" in ran.stdout) == (
        True,
        True,
    ), ran
