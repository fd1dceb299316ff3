"""docs/how-to/deploy.md and operate.md work as written, as far as that can be tried here."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.orchestration.results import LONGEST_WAIT_S
from exporter.orchestration.timer import STALE_AFTER
from exporter.sending import job_results
from exporter.sending.limits import SendLimits
from exporter.settings import StepLimits, specs
from exporter.snapshots.paths import Layout, parse_blob_name
from sandbox.host.blobs import POISON_QUEUE
from scripts import package as prebuilt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "how-to" / name for name in ("deploy.md", "operate.md")]
DEPLOY, OPERATE = (page.read_text(encoding="utf-8") for page in PAGES)
SET_UP = (ROOT / "docs" / "how-to" / "set-up-an-export.md").read_text(encoding="utf-8")


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"(?s)```{kind}\n(.*?)```", text)


COMMANDS = [
    (f"{page.stem}-{n}", block)
    for page in PAGES
    for n, block in enumerate(blocks(page.read_text(), "sh"))
]


@pytest.mark.parametrize(("name", "block"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_commands_are_ones_that_a_shell_understands(name: str, block: str) -> None:
    checked = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(("name", "block"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_no_command_needs_a_variable_to_be_split_into_words(name: str, block: str) -> None:
    """Zsh, the shell of a Mac, splits none."""
    bare = re.sub(r"(?s)'[^']*'", "", re.sub(r'(?s)"(?:\\.|[^"\\])*"', "", block))
    assert re.findall(r"(?<!=)\$\w+", bare) == []


def test_documents_of_the_page_are_ones_that_the_app_takes() -> None:
    connection, export = blocks(SET_UP, "json")
    made = Connection.model_validate_json(connection)
    wanted = Export.model_validate_json(export)
    assert made.consent is not None
    assert wanted.connection == made.id
    assert f"connections/{made.id}.json" in SET_UP
    assert f"exports/{wanted.id}.json" in SET_UP


def test_file_and_path_of_the_page_are_ones_that_the_app_recognises() -> None:
    segment = re.search(r"--segment (\w+)", DEPLOY)
    dropped = re.search(r"--name (segments/\S+)", DEPLOY)
    exported = re.search(r"`(CustomerInsights_\{instance\}/\S+)`", DEPLOY)
    assert (segment and dropped and exported) is not None
    ref = parse_blob_name(dropped[1])
    assert ref.layout is Layout.SINGLE
    assert ref.is_of(segment[1])
    assert parse_blob_name(exported[1]).is_of(segment[1])
    mapping = yaml.safe_load(blocks(DEPLOY, "yaml")[0])
    assert set(mapping.values()) <= set(blocks(DEPLOY, "csv")[0].splitlines()[0].split(","))


def test_key_that_the_page_stores_is_the_one_that_its_connection_uses() -> None:
    stored = re.search(r"keyvault secret set .* --name (\S+)", DEPLOY)
    used = re.search(r"connections create .* --secret (\S+)", DEPLOY)
    assert (stored and used) is not None
    assert stored[1] == used[1]


def test_settings_that_the_command_line_gets_are_those_that_it_reads() -> None:
    from exporter import wiring

    assert 'set -a; eval "$(azd env get-values)"; set +a' in DEPLOY
    main = (ROOT / "infra" / "main.bicep").read_text(encoding="utf-8")
    given = set(re.findall(r"(?m)^output (\w+)", main.partition("// What the app is told")[2]))
    assert given == {
        "KEY_VAULT_URL",
        "SNAPSHOTS_CONTAINER",
        *(
            f"{wiring.STATE_CONNECTION}__{service}"
            for service in ("blobServiceUri", "queueServiceUri")
        ),
        f"{wiring.SNAPSHOTS_CONNECTION}__blobServiceUri",
    }


def test_options_are_those_of_the_parameters_file() -> None:
    table = DEPLOY.partition("## Options")[2].partition("## Signing in")[0]
    listed = {
        name
        for row in re.findall(r"(?m)^\| (`[^|]+) \|", table)
        for name in re.findall(r"`([A-Z_]+)`", row)
    }
    parameters = (ROOT / "infra" / "main.parameters.json").read_text(encoding="utf-8")
    elsewhere = {
        "AZURE_ENV_NAME",
        "AZURE_LOCATION",
        "CUSTOMER_INSIGHTS_ADMIN_OBJECT_ID",
        "CUSTOMER_INSIGHTS_ADMIN_TYPE",
        "CUSTOMER_INSIGHTS_OBJECT_ID",
        "OPERATOR_OBJECT_ID",
        "OPERATOR_TYPE",
    }
    assert listed == set(re.findall(r"\$\{([A-Z_]+)", parameters)) - elsewhere
    assert [name for name in elsewhere if name not in DEPLOY and name != "AZURE_ENV_NAME"] == []


def test_owner_alone_is_not_said_to_make_the_connection() -> None:
    """It has no right on data, and shared keys are off."""
    step = DEPLOY.partition("\n## 6.")[2].partition("\n## ")[0]
    assert "*Owner* does not" in " ".join(step.split())
    assert "CUSTOMER_INSIGHTS_ADMIN_OBJECT_ID" in step


def test_application_id_of_customer_insights_is_written_the_same_everywhere() -> None:
    main = (ROOT / "infra" / "main.bicep").read_text(encoding="utf-8")
    check = (ROOT / "infra" / "hooks" / "check_subscription.py").read_text(encoding="utf-8")
    ids = set(re.findall(r"0bfc4568-[0-9a-f-]{27}", DEPLOY + main + check))
    assert ids == {"0bfc4568-a4ba-4c58-bd3e-5d3e76bd7fff"}


def test_package_that_is_made_elsewhere_is_the_one_that_the_script_makes() -> None:
    section = DEPLOY.partition("### If Azure builds it wrong")[2].partition("\n## ")[0]
    assert f"python{prebuilt.PYTHON} scripts/package.py" in section
    assert f"`{prebuilt.FOLDER.parts[0]}`" in section
    assert "remoteBuild: true" in (ROOT / "azure.yaml").read_text(encoding="utf-8")
    assert "`remoteBuild: false`" in section
    assert f"version: '{prebuilt.PYTHON}'" in (ROOT / "infra/modules/app.bicep").read_text("utf-8")


def test_credential_of_the_pipeline_is_for_the_subject_that_its_token_has() -> None:
    """Where a job names an environment, GitHub's token is for that and not for a branch."""
    workflow = ROOT / ".github" / "workflows" / "azure-dev.yml"  # the name that azd looks for
    job = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]["deploy"]
    section = DEPLOY.partition("## From GitHub")[2].partition("\n## ")[0]
    assert f'--subject "repo:$repository:environment:{job["environment"]}"' in section
    assert "--issuer https://token.actions.githubusercontent.com" in section
    assert "azd pipeline config" not in "".join(blocks(section, "sh"))


def test_variables_of_the_pipeline_are_those_of_the_workflow() -> None:
    workflow = (ROOT / ".github" / "workflows" / "azure-dev.yml").read_text(encoding="utf-8")
    section = DEPLOY.partition("## From GitHub")[2].partition("## What a month costs")[0]
    for name in (
        "AZURE_CLIENT_ID",
        "AZURE_TENANT_ID",
        "AZURE_SUBSCRIPTION_ID",
        "AZURE_ENV_NAME",
        "AZURE_LOCATION",
    ):
        assert f"vars.{name} }}}}" in workflow
        assert f"`{name}`" in section


def test_no_page_tells_to_change_a_file_of_ours() -> None:
    """git pull would stop at it."""
    for page in (ROOT / "docs" / "how-to").glob("*.md"):
        assert "main.parameters.json" not in page.read_text(encoding="utf-8"), page.name


def test_settings_that_the_pages_hand_over_are_ones_of_the_app() -> None:
    given = re.findall(r'EXPORTER_SETTINGS[` ][^"\n]*"([^"]+)"', DEPLOY + OPERATE)
    names = {pair.partition("=")[0] for text in given for pair in text.split(" ")}
    assert names == {"KLAVIYO_SHARE", "NOTICE_WEBHOOK_SECRET"}
    assert names <= {row.name for row in specs()}


def test_every_alert_is_explained() -> None:
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text(encoding="utf-8")
    titles = re.findall(r"title: 'Segment exporter: ([^'$]+)", alerts)
    assert len(titles) == 7
    for title in titles:
        assert title.strip() in OPERATE


def test_times_of_a_stuck_run_are_those_of_the_code() -> None:
    section = OPERATE.partition("## A stuck run")[2].partition("## A poison message")[0]
    assert f"follows for {job_results.LONGEST_JOB.total_seconds() / 3600:.0f}" in section
    assert SendLimits().longest_poll_s == 5 * 60
    assert "every five minutes" in section
    assert f"Nothing moved for {STALE_AFTER.total_seconds() / 60:.0f} minutes" in section
    assert f"after {StepLimits().setbacks} times" in section
    waits_s = sum(min(2.0**tries, LONGEST_WAIT_S) for tries in range(1, StepLimits().setbacks + 1))
    assert 25 * 60 < waits_s < 35 * 60
    pages = [
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("architecture.md", "explain/failures.md")
    ]
    assert all("half an hour of waits" in page for page in (section, *pages))


def test_uninstalling_never_deletes_a_group_that_was_there_before() -> None:
    section = OPERATE.partition("## Uninstall")[2]
    commands = "".join(blocks(section, "sh"))
    assert 'az group delete --name "$(azd env get-value AZURE_RESOURCE_GROUP)"' in commands
    assert "azd down" not in "".join(blocks(DEPLOY + OPERATE, "sh"))
    assert "**Not `azd down`.**" in section
    # Whatever the deployment writes into other groups is named there.
    for name in ("snapshots.bicep", "vault.bicep"):
        text = (ROOT / "infra" / "modules" / name).read_text(encoding="utf-8")
        known = {
            "containers": "container",
            "systemTopics": "system topic",
            "roleAssignments": "role",
        }
        for made in re.findall(
            r"(?m)^resource \w+ '[\w./]+/(\w+)@\S+' = (?!.*empty\(existing(?:Account|Vault)Name)",
            text,
        ):
            assert known[made] in section, made


def test_poison_queues_are_named_as_the_host_names_them() -> None:
    host = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))["extensions"]
    assert (host["queues"]["maxDequeueCount"], host["blobs"]["poisonBlobThreshold"]) == (5, 5)
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text(encoding="utf-8")
    assert "a message failed five times" in alerts
    main = (ROOT / "infra" / "main.bicep").read_text(encoding="utf-8")
    queue = re.search(r"var queueName = '([\w-]+)'", main)
    assert queue is not None
    assert f"--queue-name {queue[1]}-poison " in OPERATE
    assert POISON_QUEUE in OPERATE


# The table of costs


def numbers(heading: str) -> dict[str, float]:
    table = DEPLOY.partition(f"| {heading} | value |")[2].partition("\n\n")[0]
    return {name: float(value) for name, value in re.findall(r"\| `(\w+)` \| ([\d.]+) \|", table)}


PRICE, USE = numbers("price"), numbers("use in a month")


def costs(millions: int) -> list[float]:
    seconds = (
        millions * USE["seconds_a_million"] + USE["runs"] * USE["seconds_a_run"] + USE["ticks"]
    )
    functions = max(0.0, seconds * USE["memory_gb"] - PRICE["free_gb_seconds"]) * PRICE["gb_second"]
    storage = millions * USE["stored_gb_a_million"] * USE["months_kept"] * PRICE["storage_gb_month"]
    operations = (
        USE["reads"] * PRICE["ten_thousand_reads"] + USE["writes"] * PRICE["ten_thousand_writes"]
    ) / 10_000
    logs = (USE["logs_gb_base"] + millions * USE["logs_gb_a_million"]) * PRICE["logs_gb"]
    alerts = USE["alert_rules"] * PRICE["alert_rule"] + USE["metric_alerts"] * PRICE["metric_alert"]
    egress = (
        max(0.0, millions * USE["egress_gb_a_million"] - PRICE["free_egress_gb"])
        * PRICE["egress_gb"]
    )
    parts = [functions, storage, operations, logs + alerts, egress]
    return [round(part, 2) for part in [*parts, sum(parts)]]


@pytest.mark.parametrize("millions", [1, 10, 100])
def test_costs_are_those_of_prices_and_use(millions: int) -> None:
    row = re.search(rf"(?m)^\| {millions} million \|(.*)\|$", DEPLOY)
    assert row is not None
    assert [float(cell) for cell in row[1].split("|")] == costs(millions)


def test_costs_of_options_are_those_of_prices_and_use() -> None:
    address = USE["hours"] * (PRICE["nat_hour"] + PRICE["address_hour"])
    endpoints = USE["hours"] * USE["private_endpoints"] * PRICE["endpoint_hour"]
    network = address + endpoints + USE["dns_zones"] * PRICE["dns_zone"]
    assert f"a fixed address {address:.2f}; a private network {network:.2f}" in DEPLOY
    sent = 100 * USE["egress_gb_a_million"] * PRICE["nat_gb"]
    assert f"at 100 million profiles {sent:.2f} for what goes through it" in DEPLOY


def test_functions_without_the_free_grant_cost_what_the_page_says() -> None:
    seconds = 100 * USE["seconds_a_million"] + USE["runs"] * USE["seconds_a_run"] + USE["ticks"]
    assert f"at most {seconds * USE['memory_gb'] * PRICE['gb_second']:.2f}" in DEPLOY


def test_use_is_that_of_the_templates() -> None:
    main = (ROOT / "infra" / "main.bicep").read_text(encoding="utf-8")
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text(encoding="utf-8")
    assert USE["alert_rules"] == len(re.findall(r"title: 'Segment exporter:", alerts))
    assert USE["metric_alerts"] == len(
        re.findall(r"(?m)^resource \w+ 'Microsoft.Insights/metricAlerts@", alerts)
    )
    assert USE["private_endpoints"] == len(re.findall(r"groupId: '", main))
    assert USE["dns_zones"] == len(set(re.findall(r"privatelink\.\w+", main)))
    assert f"instanceMemoryMB int = {int(USE['memory_gb']) * 1024}" in main
    assert (
        f"keepSnapshotsDays int = {int(USE['months_kept']) * 30}" in main
    )  # nearly all of what is stored
    assert USE["ticks"] == 30 * 24 * 60 / 5  # the default schedule: every five minutes
    assert "tickSchedule string = '0 */5 * * * *'" in main
