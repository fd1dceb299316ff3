"""GitHub's workflows: all pinned, no right that is not needed, no stranger's text in a shell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.supply import PARTS

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def document(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_hash_with_its_version_beside_it(path: Path) -> None:
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\buses:", line)
    ]
    for line in lines:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_right_but_those_of_each_job(path: Path) -> None:
    workflow = document(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        rights = dict(job["permissions"])
        assert rights.pop("contents") == "read", name
        assert rights in ({}, {"id-token": "write"}), name
        assert "timeout-minutes" in job, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_expression_is_pasted_into_a_shell(path: Path) -> None:
    for job in document(path)["jobs"].values():
        assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]


def test_no_workflow_runs_strangers_code_with_rights() -> None:
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        assert "pull_request_target" not in text
        assert "secrets." not in text  # OIDC: there is none to leak
        if "id-token" in text:
            # YAML 1.1 reads the word `on` as true.
            assert set(document(path)[True]) == {"workflow_dispatch"}


def test_deployment_hands_every_option_over_with_its_default() -> None:
    """What is left out goes back to its default: a private deployment would be opened."""
    parameters = json.loads((ROOT / "infra" / "main.parameters.json").read_text(encoding="utf-8"))[
        "parameters"
    ]
    wanted = {
        f"AZURE_{name}_ID": f"${{{{ vars.AZURE_{name}_ID }}}}"
        for name in ("CLIENT", "TENANT", "SUBSCRIPTION")
    }
    for parameter in parameters.values():
        # Empty would be who deploys, which is the workflow: it is to read no data.
        if "OPERATOR_OBJECT_ID" in parameter["value"]:
            wanted["OPERATOR_OBJECT_ID"] = "${{ vars.OPERATOR_OBJECT_ID || 'none' }}"
            continue
        name, _, default = parameter["value"].removeprefix("${").removesuffix("}").partition("=")
        wanted[name] = (
            f"${{{{ vars.{name} || '{default}' }}}}" if default else f"${{{{ vars.{name} }}}}"
        )
    assert (
        document(ROOT / ".github" / "workflows" / "azure-dev.yml")["jobs"]["deploy"]["env"]
        == wanted
    )


def test_jobs_run_what_they_are_there_for() -> None:
    ran = {
        f"{path.stem}/{name}": [step["run"] for step in job["steps"] if "run" in step]
        for path in WORKFLOWS
        for name, job in document(path)["jobs"].items()
    }
    assert ran == {
        "check/test": ["make test PYTHON=python"],
        "check/supply": ["make supply PYTHON=python"],
        "check/templates": [
            "az bicep install",
            "az bicep build --file infra/main.bicep --stdout > /dev/null",
            "az bicep lint --file infra/main.bicep",
        ],
        "azure-dev/deploy": [
            'azd auth login --client-id "$AZURE_CLIENT_ID" --tenant-id "$AZURE_TENANT_ID"'
            " --federated-credential-provider github",
            "azd provision --no-prompt",
            "azd deploy --no-prompt",
        ],
    }
    for path in WORKFLOWS:
        for job in document(path)["jobs"].values():
            assert not any({"if", "continue-on-error"} & set(step) for step in [job, *job["steps"]])


def test_every_supported_python_is_tested() -> None:
    check = document(ROOT / ".github" / "workflows" / "check.yml")
    supported = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert supported is not None
    versions = [f"3.{minor}" for minor in range(int(supported[1]), int(supported[2]))]
    assert check["jobs"]["test"]["strategy"]["matrix"]["python"] == versions


def test_holes_wheels_and_secrets_are_looked_for_on_every_change_and_each_week() -> None:
    check = document(ROOT / ".github" / "workflows" / "check.yml")
    assert check["jobs"]["supply"]["steps"][0]["with"]["fetch-depth"] == 0  # the whole history
    assert set(PARTS) == {"secrets", "wheels", "audit"}
    assert {"push", "pull_request", "schedule"} <= set(
        check[True]
    )  # YAML 1.1 reads the word `on` as true


def test_dependabot_watches_everything_that_is_pinned() -> None:
    watched = {
        each["package-ecosystem"]
        for each in document(ROOT / ".github" / "dependabot.yml")["updates"]
    }
    assert watched == {"pip", "npm", "github-actions", "devcontainers"}


def test_dev_container_has_the_python_of_the_platform() -> None:
    container = json.loads(
        (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    )
    runtime = re.search(
        r"version: '(3\.\d+)'", (ROOT / "infra" / "modules" / "app.bicep").read_text()
    )
    assert runtime is not None
    assert f"python:{runtime[1]}-" in container["image"]
