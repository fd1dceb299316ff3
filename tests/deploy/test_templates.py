"""What was decided about the templates and must hold. CI compiles them in a job of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip(
    "tree_sitter_bicep", reason="not installed: pip install -r requirements-dev.txt"
)

from exporter import wiring
from exporter.planning.disk_space import FLEX_CONSUMPTION_MB
from exporter.settings import specs
from sandbox.host.blobs import POISON_QUEUE
from tests.deploy import bicep
from tests.deploy.bicep import Expr, Resource, Template

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
TEMPLATES = [bicep.read(path) for path in sorted(INFRA.rglob("*.bicep"))]
MAIN = next(template for template in TEMPLATES if template.path.name == "main.bicep")

STORAGE, BLOBS = (
    "Microsoft.Storage/storageAccounts",
    "Microsoft.Storage/storageAccounts/blobServices",
)

# Settings of host, platform and SDKs; all others must be in the settings or in a trigger.
PLATFORM = {
    "AZURE_CLIENT_ID",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY",
    "PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME",
    "PYTHON_THREADPOOL_THREAD_COUNT",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    "OTEL_TRACES_SAMPLER",
    "OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID",
    "WEBSITE_AUTH_AAD_ALLOWED_TENANTS",
}
CONNECTION_PARTS = {"accountName", "blobServiceUri", "queueServiceUri", "credential", "clientId"}

# Flex Consumption refuses or misreads them: "Flex Consumption plan deprecations", Microsoft Learn.
FORBIDDEN = (
    "FUNCTIONS_WORKER_RUNTIME",
    "FUNCTIONS_EXTENSION_VERSION",
    "SCM_DO_BUILD_DURING_DEPLOYMENT",
    "ENABLE_ORYX_BUILD",
    "WEBSITE_RUN_FROM_PACKAGE",
    "WEBSITE_CONTENT",
    "WEBSITE_TIME_ZONE",
    "WEBSITE_VNET_ROUTE_ALL",
    "linuxFxVersion",
    "alwaysOn",
    "ftpsState",
    "vnetRouteAllEnabled",
    "functionAppScaleLimit",
    "preWarmedInstanceCount",
)

# From the documentation of the built-in roles, written down here a second time on purpose.
ROLE_IDS = {
    "reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "storageBlobDataOwner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    "storageBlobDataContributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "storageBlobDelegator": "db58b8e5-c6ad-4a2a-8342-4190687cbf4a",
    "storageQueueDataContributor": "974c5e8b-45b9-4653-ba55-5f855dd0fb88",
    "storageTableDataContributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",
    "keyVaultSecretsUser": "4633458b-17de-408a-b874-0445c86b69e6",
    "keyVaultSecretsOfficer": "b86a8fe4-44ce-4948-aee5-eccb2c155cd7",
    "monitoringMetricsPublisher": "3913510d-42f4-4e42-8a64-420c390055eb",
}

# Who gets what on what: (file, symbol) -> (role, scope). A new row is a decision, not an accident.
ROLES = {
    ("monitoring.bicep", "appPublishes"): ("roles.monitoringMetricsPublisher", "insights"),
    ("snapshots.bicep", "customerInsightsWrites"): (
        "roles.storageBlobDataContributor",
        "container",
    ),
    ("snapshots.bicep", "customerInsightsSigns"): ("roles.storageBlobDelegator", "usedAccount"),
    ("snapshots.bicep", "adminWrites"): ("roles.storageBlobDataContributor", "container"),
    ("snapshots.bicep", "adminFinds"): ("roles.reader", "usedAccount"),
    ("snapshots.bicep", "appReads"): ("roles.storageBlobDataOwner", "container"),
    ("snapshots.bicep", "appQueues"): ("roles.storageQueueDataContributor", "usedAccount"),
    ("snapshots.bicep", "operatorWrites"): ("roles.storageBlobDataContributor", "container"),
    ("snapshots.bicep", "operatorQueues"): ("roles.storageQueueDataContributor", "usedAccount"),
    ("state.bicep", "appRoles"): ("role", "account"),
    ("state.bicep", "operatorBlobs"): ("roles.storageBlobDataContributor", "stateContainer"),
    ("state.bicep", "operatorQueues"): ("roles.storageQueueDataContributor", "account"),
    ("vault.bicep", "appReads"): ("appRole", "usedVault"),
    ("vault.bicep", "operatorStores"): ("roles.keyVaultSecretsOfficer", "usedVault"),
}


TYPE_OF = {
    "appPrincipalId": "ServicePrincipal",
    "customerInsightsObjectId": "ServicePrincipal",
    "customerInsightsAdminObjectId": "customerInsightsAdminType",
    "operatorObjectId": "operatorType",
}


def template(name: str) -> Template:
    return next(each for each in TEMPLATES if each.path.name == name)


def resources(type_: str, *, existing: bool = False) -> list[Resource]:
    found = [
        each
        for one in TEMPLATES
        for each in one.resources
        if each.type == type_ and each.existing is existing
    ]
    assert found, f"there is no {type_}"
    return found


def only(type_: str) -> dict[str, Any]:
    (found,) = resources(type_)
    return found.body


def app_settings() -> dict[str, Any]:
    """Every setting that the site gets, wherever it is put together."""
    app = template("app.bicep")
    assert next(each for each in app.resources if each.body.get("name") == "appsettings").body[
        "properties"
    ] == (
        "union(instanceSettings, settings, hostSettings, telemetrySettings, authenticationSettings)"
    )
    named = re.search(r"(?s)var settings = union\(otherSettings, (\{.*?\n\})\)", MAIN.source)
    assert named is not None
    own = dict.fromkeys(re.findall(r"(?m)^  (\w+):", named[1]), Expr("..."))
    signed_in = dict.fromkeys(
        re.findall(r"(?m)^      ([A-Z_]+):", app.variables["authenticationSettings"]), Expr("...")
    )
    return (
        app.variables["instanceSettings"]
        | own
        | app.variables["hostSettings"]
        | app.variables["telemetrySettings"]
        | signed_in
    )


def values(node: Any) -> list[Any]:
    """Every value below `node`."""
    if isinstance(node, dict):
        return [each for child in node.values() for each in values(child)]
    if isinstance(node, list):
        return [each for child in node for each in values(child)]
    return [node]


def test_every_template_can_be_read() -> None:
    assert [error for each in TEMPLATES for error in each.errors] == []


def test_types_are_those_of_microsoft() -> None:
    """A checker outside this repository compares resources with Microsoft's type data."""
    beside = ROOT.parent / "shared" / "azure" / "check_bicep.py"
    checker = Path(os.environ.get("BICEP_CHECKER", beside))
    if not checker.is_file():
        pytest.skip(f"no checker at {checker}; BICEP_CHECKER can name another place")
    checked = subprocess.run(
        [sys.executable, str(checker), str(INFRA)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_only_plain_resources_and_local_modules() -> None:
    for each in TEMPLATES:
        for path in re.findall(r"(?m)^module \w+ '([^']+)'", each.source):
            assert (each.path.parent / path).is_file(), f"{each.path.name}: {path}"


def test_no_shared_key_is_read_or_allowed_anywhere() -> None:
    for each in TEMPLATES:
        found = re.findall(
            r"\blist\w*\(|\.list\w+\(|AccountKey|sharedAccessSignature|primarySharedKey",
            each.source,
            re.I,
        )
        assert found == [], each.path.name
    for account in resources(STORAGE):
        properties = account.body["properties"]
        assert properties["allowSharedKeyAccess"] is False
        assert properties["allowBlobPublicAccess"] is False
        assert properties["minimumTlsVersion"] == "TLS1_2"
        assert properties["supportsHttpsTrafficOnly"] is True
    for container in resources(f"{BLOBS}/containers"):
        assert container.body["properties"]["publicAccess"] == "None"
    assert only("Microsoft.Insights/components")["properties"]["DisableLocalAuth"] is True
    assert (
        only("Microsoft.OperationalInsights/workspaces")["properties"]["features"][
            "disableLocalAuth"
        ]
        is True
    )
    assert {
        each.body["name"]
        for each in resources("Microsoft.Web/sites/basicPublishingCredentialsPolicies")
    } == {
        "ftp",
        "scm",
    }
    for policy in resources("Microsoft.Web/sites/basicPublishingCredentialsPolicies"):
        assert policy.body["properties"] == {"allow": False}


def test_soft_delete_is_off_where_customer_insights_writes() -> None:
    """Its export fails otherwise."""
    (services,) = [each for each in resources(BLOBS) if each.file == "snapshots.bicep"]
    assert services.body["properties"]["deleteRetentionPolicy"] == {"enabled": False}
    assert services.body["properties"]["containerDeleteRetentionPolicy"] == {"enabled": False}


def test_vault_works_by_roles_and_cannot_be_purged() -> None:
    properties = only("Microsoft.KeyVault/vaults")["properties"]
    assert properties["enableRbacAuthorization"] is True
    assert properties["enablePurgeProtection"] is True
    assert properties["enableSoftDelete"] is True
    assert properties["softDeleteRetentionInDays"] == 90
    assert "accessPolicies" not in properties


def test_role_ids_are_the_documented_ones() -> None:
    assert template("roles.bicep").variables["roles"] == ROLE_IDS


def test_roles_are_given_to_whom_and_where_it_was_decided() -> None:
    given = {}
    for each in resources("Microsoft.Authorization/roleAssignments"):
        properties, name = each.body["properties"], each.body["name"]
        role = re.fullmatch(
            r"subscriptionResourceId\('Microsoft.Authorization/roleDefinitions', ([\w.]+)\)",
            properties["roleDefinitionId"],
        )
        assert role is not None, each
        given[each.file, each.symbol] = (role[1], str(each.body["scope"]))
        # The documented way to a name that is the same again for the same right.
        assert name == f"guid({each.body['scope']}.id, {properties['principalId']}, {role[1]})", (
            each
        )
        assert properties["principalType"] == TYPE_OF[properties["principalId"]]
    assert given == ROLES


def test_customer_insights_may_write_where_shared_keys_are_off() -> None:
    """With them off it signs with a user delegation key, which is asked for at the account.

    Microsoft's page names both rights: Contributor on the container, Delegator on the account.
    """
    given = {
        (role, on)
        for (file, symbol), (role, on) in ROLES.items()
        if symbol.startswith("customerInsights") and file == "snapshots.bicep"
    }
    assert given == {
        ("roles.storageBlobDataContributor", "container"),
        ("roles.storageBlobDelegator", "usedAccount"),
    }


def test_who_makes_the_connection_there_reaches_the_content_and_finds_the_account() -> None:
    given = {role for (_, symbol), (role, _) in ROLES.items() if symbol.startswith("admin")}
    assert given == {"roles.storageBlobDataContributor", "roles.reader"}


def test_one_person_with_both_tasks_is_not_given_the_same_right_twice() -> None:
    """Azure refuses a second assignment of the same role, person and scope."""
    assert "var adminIsOperator = customerInsightsAdminObjectId == operatorObjectId" in (
        template("snapshots.bicep").source
    )
    conditions = {each.symbol: each.condition for each in template("snapshots.bicep").resources}
    assert conditions["adminWrites"] == (
        "(!empty(customerInsightsAdminObjectId) && !adminIsOperator)"
    )


def test_operator_is_who_deploys_unless_somebody_is_named() -> None:
    assert " ".join(MAIN.variables["operatorId"].split()) == (
        "empty(operatorObjectId) ? deployer().objectId"
        " : operatorObjectId == 'none' ? '' : operatorObjectId"
    )
    for name in ("snapshots", "state", "vault"):
        assert MAIN.modules[name]["params"]["operatorObjectId"] == "operatorId"
    assert MAIN.modules["snapshots"]["params"]["customerInsightsObjectId"] == (
        "customerInsightsObjectId == 'none' ? '' : customerInsightsObjectId"
    )


@pytest.mark.parametrize("option", ["SNAPSHOTS_ACCOUNT", "VAULT"])
def test_what_is_there_without_its_resource_group_is_refused_in_words(option: str) -> None:
    start = f"fail('EXISTING_{option} needs EXISTING_{option.removesuffix('_ACCOUNT')}_RESOURCE"
    assert start in MAIN.source


def test_app_may_store_keys_only_by_a_flag() -> None:
    assert template("vault.bicep").variables["appRole"] == (
        "appWritesKeys ? roles.keyVaultSecretsOfficer : roles.keyVaultSecretsUser"
    )
    assert MAIN.params["appWritesKeys"] is False


def test_every_setting_without_default_is_set() -> None:
    assert {row.name for row in specs() if row.default is None} <= set(app_settings())


def test_the_disk_of_an_instance_is_as_large_as_the_code_takes_it_to_be() -> None:
    assert app_settings()["DISK_MB"] == str(FLEX_CONSUMPTION_MB)


def test_every_setting_that_a_trigger_names_is_set() -> None:
    source = (ROOT / "function_app.py").read_text(encoding="utf-8")
    assert set(re.findall(r"%(\w+)%", source)) <= set(app_settings())


def test_both_connections_have_blob_and_queue_by_identity() -> None:
    settings = app_settings()
    for connection in (wiring.SNAPSHOTS_CONNECTION, wiring.STATE_CONNECTION):
        assert connection not in settings, "a connection string would be a shared key"
        for part in ("blobServiceUri", "queueServiceUri", "clientId"):
            assert f"{connection}__{part}" in settings
        assert settings[f"{connection}__credential"] == "managedidentity"
    assert settings["AzureWebJobsStorage__credential"] == "managedidentity"


def test_every_setting_is_known_to_somebody() -> None:
    triggers = set(re.findall(r"%(\w+)%", (ROOT / "function_app.py").read_text(encoding="utf-8")))
    known = {row.name for row in specs()} | triggers | PLATFORM
    for name in app_settings():
        connection, _, part = name.partition("__")
        is_connection = connection in (
            wiring.SNAPSHOTS_CONNECTION,
            wiring.STATE_CONNECTION,
            "AzureWebJobsStorage",
        )
        assert name in known or (is_connection and part in CONNECTION_PARTS), name


def test_no_setting_is_a_secret() -> None:
    for name, setting in app_settings().items():
        assert not re.search(
            r"password|secret|accountkey|sharedaccess|apikey|pk_", f"{name} {setting}", re.I
        ), name


def test_telemetry_goes_out_by_identity_and_with_our_lines_only() -> None:
    identity = "'ClientId=${identityClientId};Authorization=AAD'"
    assert template("app.bicep").variables["telemetrySettings"] == {
        "APPLICATIONINSIGHTS_CONNECTION_STRING": "insights.properties.ConnectionString",
        "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": identity,
        "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "true",
        "PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME": "exporter",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": app_settings()[
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
        ],  # see below
        "OTEL_TRACES_SAMPLER": "always_on",
    }


def test_automatic_spans_stay_off() -> None:
    """They hold whole addresses, and Klaviyo's filters hold e-mails in theirs."""
    off = set(app_settings()["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"].split(","))
    assert {"requests", "urllib", "urllib3", "httpx", "azure_sdk"} <= off


@pytest.mark.parametrize("name", FORBIDDEN)
def test_nothing_is_set_that_flex_consumption_refuses(name: str) -> None:
    assert not any(re.search(rf"\b{name}", each.source, re.I) for each in TEMPLATES)


def test_site_runs_python_3_13_on_flex_consumption_with_the_apps_identity() -> None:
    assert only("Microsoft.Web/serverfarms")["sku"] == {"name": "FC1", "tier": "FlexConsumption"}
    site = only("Microsoft.Web/sites")
    config = site["properties"]["functionAppConfig"]
    assert config["runtime"] == {"name": "python", "version": "3.13"}
    assert config["deployment"]["storage"]["authentication"]["type"] == "UserAssignedIdentity"
    assert site["identity"]["type"] == "UserAssigned"
    assert site["properties"]["httpsOnly"] is True


def test_an_instance_answers_several_requests_at_a_time() -> None:
    """Python's default is one: a page that asks for six things would start six instances."""
    config = only("Microsoft.Web/sites")["properties"]["functionAppConfig"]
    assert config["scaleAndConcurrency"]["triggers"] == {"http": {"perInstanceConcurrency": 8}}


def test_private_endpoints_are_made_one_after_the_other() -> None:
    """Several at a time for one account have been refused."""
    assert "@batchSize(1)\nresource privateEndpoints '" in template("network.bicep").source


def test_azd_finds_the_site_and_the_group() -> None:
    services = yaml.safe_load((ROOT / "azure.yaml").read_text(encoding="utf-8"))["services"]
    # Built on the platform: wheels of this machine need not fit there.
    assert services == {
        "exporter": {"project": ".", "language": "python", "host": "function", "remoteBuild": True},
    }
    assert "'azd-service-name': 'exporter'" in only("Microsoft.Web/sites")["tags"]
    assert MAIN.variables["tags"] == {"azd-env-name": "environmentName"}


def test_only_event_grid_and_health_pass_without_signing_in() -> None:
    (authentication,) = [
        each for each in resources("Microsoft.Web/sites/config") if each.symbol == "authentication"
    ]
    validation = authentication.body["properties"]["globalValidation"]
    assert validation["requireAuthentication"] == "withAuthentication"
    assert validation["excludedPaths"] == ["/runtime/webhooks/blobs", "/api/health"]
    providers = authentication.body["properties"]["identityProviders"]
    assert providers == {"azureActiveDirectory": "withAuthentication ? entra : { enabled: false }"}
    entra = template("app.bicep").variables["entra"]
    assert entra["enabled"] is True
    assert (
        entra["registration"]["clientSecretSettingName"] == "OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID"
    )  # no secret


def test_names_of_storage_are_those_of_the_settings_defaults() -> None:
    defaults = {row.name: row.default for row in specs()}
    assert MAIN.params["snapshotsContainerName"] == defaults["SNAPSHOTS_CONTAINER"]
    assert MAIN.variables["stateContainerName"] == defaults["STATE_CONTAINER"]
    assert MAIN.variables["queueName"] == defaults["STEPS_QUEUE"]


def test_poison_queue_is_the_one_that_the_trigger_reads() -> None:
    names = {str(each.body["name"]) for each in resources(f"{STORAGE}/queueServices/queues")}
    assert names == {"queueName", "'${queueName}-poison'"}
    assert 'queue_name="%STEPS_QUEUE%-poison"' in (ROOT / "function_app.py").read_text(
        encoding="utf-8"
    )


def test_lifecycle_touches_runs_only_and_never_documents() -> None:
    prefixes, days = {}, {}
    for policy in resources(f"{STORAGE}/managementPolicies"):
        for rule in policy.body["properties"]["policy"]["rules"]:
            prefixes[policy.file] = [
                str(prefix) for prefix in rule["definition"]["filters"]["prefixMatch"]
            ]
            (action,) = rule["definition"]["actions"]["baseBlob"].values()
            days[policy.file] = (rule["enabled"], str(action["daysAfterModificationGreaterThan"]))
    assert prefixes == {
        "state.bicep": ["'${stateContainerName}/runs/'"],
        "snapshots.bicep": ["'${containerName}/'"],
    }
    assert days == {
        "state.bicep": (True, "keepRunsDays + 30"),
        "snapshots.bicep": ("keepDays > 0", "max(keepDays, 1)"),
    }


def test_what_an_option_switches_is_written_out_also_where_it_is_off() -> None:
    """A deployment removes nothing.

    May be left out: what was there before; rights, which docs/how-to/operate.md says how to remove;
    the alerts' receiver, which they then no longer name.
    """
    options = set()
    for each in [each for one in TEMPLATES for each in one.resources if each.condition]:
        options |= {(each.condition[1:-1], each.type.rpartition("/")[2])}
    there = {
        (condition, kind) for condition, kind in options if condition.startswith("empty(existing")
    }
    assert options - there == {
        ("!empty(operatorObjectId)", "roleAssignments"),
        ("!empty(customerInsightsObjectId)", "roleAssignments"),
        ("!empty(customerInsightsAdminObjectId)", "roleAssignments"),
        ("!empty(customerInsightsAdminObjectId) && !adminIsOperator", "roleAssignments"),
        ("!empty(email)", "actionGroups"),
        ("!empty(snapshotsAccountId)", "metricAlerts"),
    }
    assert {condition for condition, _ in there} == {
        f"empty({name})"
        for name in (
            "existingAccountName",
            "existingTopicName",
            "existingVaultName",
            "existingWorkspaceId",
        )
    }
    (authentication,) = [
        each for each in resources("Microsoft.Web/sites/config") if each.symbol == "authentication"
    ]
    assert authentication.body["properties"]["platform"]["enabled"] == "withAuthentication"
    page = (ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
    section = page.partition("## Switch an option off")[2].partition("\n## ")[0]
    for option in (
        "KEEP_SNAPSHOTS_DAYS",
        "NO_RUN_HOURS",
        "APP_WRITES_KEYS",
        "OPERATOR_OBJECT_ID",
        "AUTH_CLIENT_ID",
    ):
        assert f"`{option}`" in section


def test_nothing_is_read_of_what_the_same_file_may_still_be_making() -> None:
    """An `existing` symbol of it waits for nothing."""
    for each in TEMPLATES:
        made = {one.type for one in each.resources if not one.existing}
        for found in [one for one in each.resources if one.existing and one.type in made]:
            assert f"{found.symbol}.properties" not in each.source, each.path.name


def test_alerts_are_those_that_the_page_says() -> None:
    (rules,) = resources("Microsoft.Insights/scheduledQueryRules")
    assert rules.body["properties"]["autoMitigate"] == "alert.closes"
    (metric,) = resources("Microsoft.Insights/metricAlerts")
    (criterion,) = metric.body["properties"]["criteria"]["allOf"]
    alerts = template("alerts.bicep").variables["alerts"]
    enabled = {str(alert["name"]): str(alert["enabled"]) for alert in alerts}
    assert enabled == dict.fromkeys(enabled, "True") | {"no-run": "noRunHours > 0"}
    rows = [
        _row(
            str(alert["title"]).replace("${quietHours} hours", "`NO_RUN_HOURS`").strip("'"),
            re.findall(r"queries/([\w-]+\.kql)", alert["query"])[0],
            alert,
            every=alert["every"],
            over="`NO_RUN_HOURS`" if "quietHours" in alert["window"] else alert["window"],
            closes=alert["closes"],
        )
        for alert in alerts
    ]
    properties = metric.body["properties"]
    rows.append(
        _row(
            properties["description"].partition(".")[0],
            criterion["metricName"],
            criterion | {"severity": properties["severity"]},
            every=properties["evaluationFrequency"],
            over=properties["windowSize"],
            closes=properties["autoMitigate"],
        )
    )
    page = (ROOT / "docs" / "how-to" / "watch.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\| .*", page.partition("## Alerts")[2])[2:] == rows
    window = "quietHours >= 24 ? 'P${quietHours / 24}D' : 'PT${quietHours}H'"
    assert next(alert for alert in alerts if alert["name"] == "no-run")["window"] == window


def _row(
    title: str, counts: str, alert: dict[str, Any], *, every: str, over: str, closes: bool
) -> str:
    # "Less than one" would be true of an app that is new and empty.
    fires = {"GreaterThan": "more than"}[alert["operator"]]
    name = title.removeprefix("Segment exporter: ")
    cells = [name, f"`{counts}`", alert["severity"], every, over, f"{fires} {alert['threshold']}"]
    return "| " + " | ".join([*map(str, cells), "yes" if closes else "no"]) + " |"


def test_alert_on_blobs_names_the_queue_of_the_host() -> None:
    query = (INFRA / "queries" / "poison-blobs.kql").read_text(encoding="utf-8")
    assert f'message has "{POISON_QUEUE}"' in query


def test_snapshots_and_state_are_accounts_of_their_own() -> None:
    names = {each.file: template(each.file).source for each in resources(STORAGE)}
    assert set(names) == {"snapshots.bicep", "state.bicep"}
    assert MAIN.modules["app"]["params"]["stateAccountName"] == "state.outputs.accountName"
    assert MAIN.modules["app"]["params"]["snapshotsAccountName"] == "snapshots.outputs.accountName"


@pytest.mark.parametrize(
    ("file", "condition", "untouched"),
    [
        (
            "snapshots.bicep",
            "empty(existingAccountName)",
            {"account", "softDeleteOff", "retention"},
        ),
        ("snapshots.bicep", "empty(existingTopicName)", {"topic"}),
        ("vault.bicep", "empty(existingVaultName)", {"vault", "whoReadWhat"}),
        ("monitoring.bicep", "empty(existingWorkspaceId)", {"workspace"}),
    ],
)
def test_what_is_there_already_gets_roles_and_nothing_else(
    file: str, condition: str, untouched: set[str]
) -> None:
    """But for the container: Customer Insights is told to write into it."""
    conditional = {each.symbol for each in template(file).resources if condition in each.condition}
    assert conditional == untouched
    settings = {
        each.symbol for each in template(file).resources if not (each.existing or each.condition)
    }
    given = {symbol for name, symbol in ROLES if name == file}
    assert settings - given <= {"container", "insights"}


def test_private_network_closes_state_and_vault_and_reaches_everything_by_endpoints() -> None:
    for module in ("state", "vault"):
        assert MAIN.modules[module]["params"]["publicAccess"] == "!privateNetwork"
    snapshots = " ".join(MAIN.modules["snapshots"]["params"]["publicAccess"].split())
    is_allowed = "(snapshotsPublicAccess || privateNetwork) ? snapshotsPublicAccess"
    assert snapshots.startswith(f"{is_allowed} : fail('SNAPSHOTS_PUBLIC_ACCESS=false needs")
    for name in ("snapshots.bicep", "state.bicep", "vault.bicep"):
        text = template(name).source
        assert "publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'" in text
        assert "defaultAction: publicAccess ? 'Allow' : 'Deny'" in text
    reached = {
        (str(each["resourceId"]).split(".")[0], each["groupId"])
        for each in MAIN.variables["endpoints"]
    }
    # The host keeps locks in blobs, its queues, and a table of its own.
    assert reached == {
        *(("state", service) for service in ("blob", "queue", "table")),
        *(("snapshots", service) for service in ("blob", "queue")),
        ("vault", "vault"),
    }
    assert MAIN.modules["network"]["params"]["endpoints"] == "privateNetwork ? endpoints : []"


def test_each_endpoint_is_in_the_zone_of_its_service() -> None:
    """Names lead to the private endpoints only if each is in the zone that its service has."""
    storage = {
        "blob": "blobZone",
        "queue": "queueZone",
        "table": "'privatelink.table.${storageSuffix}'",
    }
    zones = {(each["groupId"], each["zone"]) for each in MAIN.variables["endpoints"]}
    assert zones == {*storage.items(), ("vault", "privatelink.vaultcore.azure.net")}
    assert MAIN.variables["blobZone"] == "'privatelink.blob.${storageSuffix}'"
    assert MAIN.variables["queueZone"] == "'privatelink.queue.${storageSuffix}'"


def test_network_comes_with_either_flag_and_neither_is_the_default() -> None:
    assert MAIN.variables["withNetwork"] == "privateNetwork || fixedOutboundAddress"
    assert "module network 'modules/network.bicep' = if (withNetwork)" in MAIN.source
    assert (MAIN.params["privateNetwork"], MAIN.params["fixedOutboundAddress"]) == (False, False)
    assert MAIN.modules["app"]["params"]["subnetId"].startswith("withNetwork ?")


def test_app_deletes_runs_before_storage_does() -> None:
    """The app keeps an export's newest runs and open ones; storage's rule cannot tell them."""
    defaults = {row.name: row.default for row in specs()}
    for name, param in (
        ("RUNS_KEPT_DAYS", "keepRunsDays"),
        ("REJECTED_KEPT_DAYS", "keepRejectedDays"),
    ):
        assert f"  {name}: string({param})\n" in MAIN.source
        assert str(MAIN.params[param]) == defaults[name]


def test_app_in_a_network_always_has_a_way_out() -> None:
    (network,) = resources("Microsoft.Network/virtualNetworks")
    app, endpoints = network.body["properties"]["subnets"]
    assert "natGateway" in app["properties"]
    assert (
        app["properties"]["delegations"][0]["properties"]["serviceName"]
        == "Microsoft.App/environments"
    )
    assert endpoints["properties"]["defaultOutboundAccess"] is False


def test_outputs_hold_no_secret() -> None:
    for each in TEMPLATES:
        for name, output in each.outputs.items():
            text = f"{name} {output}"
            assert not re.search(
                r"secret|password|connectionstring|instrumentationkey|accountkey|\bkey\b",
                text,
                re.I,
            ), text


def test_every_parameter_of_the_file_exists_and_the_needed_ones_are_given() -> None:
    given = json.loads((INFRA / "main.parameters.json").read_text(encoding="utf-8"))["parameters"]
    assert set(given) == set(MAIN.params), (
        "what is not in the file could only be set by changing a file of ours"
    )
    for name, parameter in given.items():
        default = re.fullmatch(r"\$\{[A-Z_]+(?:=(.*))?\}", parameter["value"])
        assert default is not None, name
        if default[1] is not None:  # the same default in both places
            assert (
                default[1] == str(MAIN.params[name]).lower() or default[1] == MAIN.params[name]
            ), name


def test_outputs_that_hooks_and_documents_read_are_there() -> None:
    used = {
        name
        for path in (INFRA / "hooks").glob("*.py")
        for name in re.findall(r'"([A-Z]+_[A-Z_]+)"', path.read_text(encoding="utf-8"))
    } - {"AZURE_ENV_NAME", "HOOK_WAIT_S", "HOOK_PAUSE_S"}
    assert "SNAPSHOTS_TOPIC_ID" in used
    for path in (ROOT / "docs" / "how-to").glob("*.md"):
        used |= set(
            re.findall(r"(?:value|get-value) ([A-Z][A-Z_]+)", path.read_text(encoding="utf-8"))
        )
    parameters = (INFRA / "main.parameters.json").read_text(encoding="utf-8")
    settable = set(re.findall(r"\$\{([A-Z_]+)", parameters)) | {"AZURE_SUBSCRIPTION_ID"}
    assert used <= set(MAIN.outputs) | settable


def test_modules_get_what_they_ask_for() -> None:
    for name, body in MAIN.modules.items():
        path = re.search(rf"(?m)^module {name} '([^']+)'", MAIN.source)
        assert path is not None
        assert set(body["params"]) == set(bicep.read(INFRA / path[1]).params), name
