"""The hooks, as azd starts them, with stand-ins for az and azd that record calls.

Not on Windows, whose cmd.exe and PowerShell were not at hand: what azd runs there is compared with
what it runs here.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "infra" / "hooks"
KEY = "k+y/with=odd&signs=="

# Each call is one JSON line in calls.jsonl, with the bodies given as @file. Answers come
# from answers.json: the first whose words are all in the command. Of a list, each answer is
# given once and the last one again and again.
STAND_IN = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
work = Path(os.environ["STAND_IN"])
words = [Path(sys.argv[0]).name, *sys.argv[1:]]
bodies = {{word: Path(word[1:]).read_text() for word in words if word.startswith("@")}}
with open(work / "calls.jsonl", "a") as file:
    file.write(json.dumps([words, bodies]) + "\\n")
answers = json.loads((work / "answers.json").read_text())
for place, (needed, given) in enumerate(answers):
    if set(needed.split()) <= set(words):
        answer = given[0]
        if len(given) > 1:
            answers[place][1] = given[1:]
            (work / "answers.json").write_text(json.dumps(answers))
        code, text = answer
        print(text, file=sys.stderr if code else sys.stdout) if text else None
        sys.exit(code)
"""

ENVIRONMENT = {
    "AZURE_RESOURCE_GROUP": "rg-test",
    "AZURE_SUBSCRIPTION_ID": "00000000-0000-0000-0000-000000000001",
    "APP_NAME": "func-test",
    "APP_URI": "http://127.0.0.1:9",
    "SNAPSHOTS_TOPIC_ID": "/subscriptions/s/resourceGroups/g/providers"
    "/Microsoft.EventGrid/systemTopics/t",
    "SNAPSHOTS_CONTAINER_NAME": "segments",
    "SNAPSHOTS_ACCOUNT_NAME": "stsnap",
    "HOOK_WAIT_S": "60",
    "HOOK_PAUSE_S": "0.05",
}

GIVES_UP = ENVIRONMENT | {"HOOK_WAIT_S": "0.3"}


class Shell:
    """Runs a hook with the stand-ins first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = folder / "tools"
        tools.mkdir()
        for tool in ("az", "azd"):
            (tools / tool).write_text(STAND_IN)
            (tools / tool).chmod(0o755)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.environ = {
            "PATH": f"{tools}{os.pathsep}{os.defpath}",
            "STAND_IN": str(folder),
            "TMPDIR": str(self.temporary),
        }

    def run(
        self, hook: str, answers: list[tuple[str, list[tuple[int, str]]]], **environ: str
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / "answers.json").write_text(json.dumps(answers))
        (self.folder / "calls.jsonl").write_text("")
        return subprocess.run(
            [sys.executable, str(HOOKS / hook)],
            env=self.environ | {"HOOK_PAUSE_S": "0"} | environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def answer(document: Any) -> tuple[int, str]:
    return 0, json.dumps(document)


def said(shell: Shell, *needed: str) -> list[tuple[list[str], dict[str, str]]]:
    return [call for call in shell.calls() if set(needed) <= set(call[0])]


SCRIPTS = sorted(path.name for path in HOOKS.glob("*.py"))
AZD_HOOKS = {
    "preprovision": "check_subscription.py",
    "postprovision": "withdraw_rights.py",
    "predeploy": "wait_for_role.py",
    "postdeploy": "event_subscription.py",
    "predown": "keep_existing.py",
}


def azure_yaml() -> dict[str, Any]:
    hooks: dict[str, Any] = yaml.safe_load((ROOT / "azure.yaml").read_text(encoding="utf-8"))
    return dict(hooks["hooks"])


@pytest.mark.parametrize("hook", SCRIPTS)
def test_hook_runs_on_the_python_that_azd_finds(hook: str) -> None:
    """Any from 3.9, with nothing installed."""
    tree = ast.parse((HOOKS / hook).read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names) | {"tools"}


def test_azd_runs_each_hook_at_its_moment_and_shows_its_words() -> None:
    """Without `interactive` azd hides them: standard error until a failure, all in `azd up`."""
    assert azure_yaml() == {
        moment: {
            "posix": {
                "shell": "sh",
                "interactive": True,
                "run": f"python3 infra/hooks/{script}",
            },
            "windows": {
                "shell": "pwsh",
                "interactive": True,
                # PowerShell ends a file with 0 whatever its last program ended with.
                "run": f"python infra/hooks/{script}; exit $LASTEXITCODE",
            },
        }
        for moment, script in AZD_HOOKS.items()
    }
    assert set(AZD_HOOKS.values()) | {"tools.py", "app_registration.py"} == set(SCRIPTS)


def test_hook_runs_from_a_checkout_whose_path_has_blanks(shell: Shell, tmp_path: Path) -> None:
    """As azd does: the line is the content of a script in the folder for temporary files.

    A path instead of a line azd would hand to the shell without quotes.
    """
    checkout = tmp_path / "My Projects" / "segment exporter"
    shutil.copytree(HOOKS, checkout / "infra" / "hooks")
    for moment, hook in azure_yaml().items():
        line = hook["posix"]["run"]
        assert not (ROOT / line).exists()
        script = shell.temporary / f"azd-{moment}.sh"
        script.write_text(f"#!/bin/sh\n\n{line}")
        script.chmod(0o755)
        (shell.folder / "answers.json").write_text('[["az", [[1, "refused"]]]]')
        environ = shell.environ | {"PATH": f"{shell.environ['PATH']}{os.pathsep}/usr/local/bin"}
        ran = subprocess.run(
            ["/bin/sh", "-c", str(script)],
            cwd=checkout,
            env=environ | {"EXISTING_VAULT": "theirs"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        name = AZD_HOOKS[moment].removesuffix(".py")
        assert ran.stderr.startswith(f"{name}: "), ran.stderr
        assert (ran.returncode, "Traceback" in ran.stderr) == (1, False)


def test_nothing_that_windows_would_take_for_its_own_is_in_an_argument() -> None:
    """There az is a script, which cmd.exe reads: & | < > ^ % would not arrive."""
    for hook in SCRIPTS:
        text = (HOOKS / hook).read_text(encoding="utf-8")
        assert "--query" not in text.partition('"""')[2].partition('"""')[2], hook
        for call in re.findall(r"(?s)\b(?:az|run)\((.*?)\)", text):
            assert not re.search(r"[&|<>^%]", call), call


def test_text_has_the_line_ends_of_linux_on_every_machine() -> None:
    names = ["azure.yaml", "infra/hooks/tools.py", "scripts/setup", "requirements.txt", "host.json"]
    asked = subprocess.run(
        ["git", "check-attr", "eol", *names], cwd=ROOT, capture_output=True, text=True
    )
    if asked.returncode:
        pytest.skip("not a git checkout")
    assert asked.stdout.splitlines() == [f"{name}: eol: lf" for name in names]
    listed = subprocess.run(
        ["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    changed = [
        line
        for line in listed.stdout.splitlines()
        if re.match(r"i/(?:crlf|mixed)", line) and "attr/-text" not in line
    ]
    assert changed == []


# withdraw_rights.py


def assignment(n: int, **fields: str) -> dict[str, str]:
    given = {
        "id": f"/assignments/{n}",
        "principalId": "principal-1",
        "roleDefinitionName": "Key Vault Secrets Officer",
        "createdOn": "2026-01-01T00:00:00.000000+00:00",
    }
    return given | fields


OFFICER: list[tuple[str, list[tuple[int, str]]]] = [
    (
        "role assignment list",
        [
            answer(
                [
                    assignment(1),
                    assignment(2),
                    assignment(3, principalId="somebody-else"),
                    assignment(4, roleDefinitionName="Key Vault Secrets User"),
                ]
            )
        ],
    )
]
PRINCIPAL = {"APP_IDENTITY_PRINCIPAL_ID": "principal-1", "AZURE_SUBSCRIPTION_ID": "subscription-1"}


@pytest.mark.parametrize("wanted", ["false", "False", ""])
def test_right_to_store_keys_is_withdrawn_where_the_app_shall_not(
    shell: Shell, wanted: str
) -> None:
    ran = shell.run("withdraw_rights.py", OFFICER, **PRINCIPAL, APP_WRITES_KEYS=wanted)
    assert ran.returncode == 0, ran.stderr
    assert [words[words.index("--ids") + 1] for words, _ in said(shell, "role", "delete")] == [
        "/assignments/1",
        "/assignments/2",
    ]
    assert "no longer Key Vault Secrets Officer" in ran.stdout


def test_right_to_store_keys_stays_where_the_app_shall(shell: Shell) -> None:
    ran = shell.run("withdraw_rights.py", OFFICER, **PRINCIPAL, APP_WRITES_KEYS="true")
    assert (ran.returncode, shell.calls()) == (0, [])


def test_nothing_is_withdrawn_where_nothing_was_given(shell: Shell) -> None:
    ran = shell.run("withdraw_rights.py", [("role assignment list", [answer([])])], **PRINCIPAL)
    assert ran.returncode == 0, ran.stderr
    assert said(shell, "role", "delete") == []


# keep_existing.py


@pytest.mark.parametrize("option", ["EXISTING_SNAPSHOTS_ACCOUNT", "EXISTING_VAULT"])
def test_azd_down_is_stopped_where_it_would_delete_a_group_of_the_owners(
    shell: Shell, option: str
) -> None:
    given = {
        option: "theirs",
        "EXISTING_VAULT_RESOURCE_GROUP": "rg-theirs",
        "AZURE_RESOURCE_GROUP": "rg-test",
    }
    ran = shell.run("keep_existing.py", [], **given)
    assert ran.returncode == 1
    assert "rg-theirs" in ran.stderr
    assert "az group delete --name rg-test" in ran.stderr


def test_azd_down_goes_on_where_everything_is_the_apps(shell: Shell) -> None:
    assert shell.run("keep_existing.py", [], EXISTING_VAULT="").returncode == 0


# wait_for_role.py


def role_of(age: timedelta, **fields: str) -> list[tuple[str, list[tuple[int, str]]]]:
    created = (datetime.now(UTC) - age).isoformat()
    role = {"roleDefinitionName": "Storage Blob Data Owner"} | fields
    return [("role assignment list", [answer([assignment(1, createdOn=created, **role)])])]


DEPLOYING = PRINCIPAL | {"AZURE_RESOURCE_GROUP": "rg-test", "STATE_ACCOUNT_NAME": "ststate"}


def test_code_is_sent_only_once_the_role_on_its_container_counts(shell: Shell) -> None:
    ran = shell.run("wait_for_role.py", role_of(timedelta(seconds=100)), **DEPLOYING)
    assert ran.returncode == 0, ran.stderr
    seconds = [int(each) for each in re.findall(r"(\d+) s until it counts", ran.stdout)]
    assert 70 <= seconds[0] <= 80
    assert len(seconds) == 8, "every ten seconds the person hears of it"
    ((words, _),) = said(shell, "role", "list")
    assert words[words.index("--scope") + 1] == (
        "/subscriptions/subscription-1/resourceGroups/rg-test"
        "/providers/Microsoft.Storage/storageAccounts/ststate"
    )


@pytest.mark.parametrize(
    "answers",
    [
        role_of(timedelta(minutes=4)),
        role_of(timedelta(0), principalId="somebody-else"),
        [("role assignment list", [(1, "AuthorizationFailed")])],
        [("role assignment list", [answer([])])],
    ],
)
def test_later_deployments_and_those_who_may_not_read_roles_wait_for_nothing(
    shell: Shell, answers: list[tuple[str, list[tuple[int, str]]]]
) -> None:
    ran = shell.run("wait_for_role.py", answers, **DEPLOYING)
    assert (ran.returncode, "until it counts" in ran.stdout) == (0, False), ran.stderr


def test_clock_of_this_machine_never_makes_the_wait_longer(shell: Shell) -> None:
    ran = shell.run("wait_for_role.py", role_of(timedelta(hours=-2)), **DEPLOYING)
    assert "; 180 s until it counts" in ran.stdout


# event_subscription.py


def services(blobs: bool = False, containers: bool = False) -> tuple[int, str]:
    return answer(
        {
            "deleteRetentionPolicy": {"enabled": blobs},
            "containerDeleteRetentionPolicy": {"enabled": containers},
        }
    )


def state(text: str) -> tuple[int, str]:
    return answer({"properties": {"provisioningState": text}})


OFF: tuple[str, list[tuple[int, str]]] = ("blob-service-properties show", [services()])
KEYS: tuple[str, list[tuple[int, str]]] = (
    "functionapp keys list",
    [answer({"systemKeys": {"blobs_extension": KEY}})],
)
READY: list[tuple[str, list[tuple[int, str]]]] = [
    KEYS,
    ("rest put", [(0, "")]),
    ("rest get", [state("Creating"), state("Succeeded")]),
    OFF,
]
HOOK = "event_subscription.py"


def test_subscription_sends_new_blobs_of_the_container_to_the_blob_trigger(shell: Shell) -> None:
    ran = shell.run(HOOK, READY, **ENVIRONMENT)
    assert ran.returncode == 0, ran.stderr
    ((words, bodies),) = [call for call in shell.calls() if "put" in call[0]]
    (body,) = bodies.values()
    properties = json.loads(body)["properties"]
    assert properties["destination"]["properties"]["endpointUrl"] == (
        f"{ENVIRONMENT['APP_URI']}/runtime/webhooks/blobs"
        "?functionName=Host.Functions.on_blob"
        "&code=k%2By%2Fwith%3Dodd%26signs%3D%3D"
    )
    assert properties["filter"] == {
        "includedEventTypes": ["Microsoft.Storage.BlobCreated"],
        "subjectBeginsWith": "/blobServices/default/containers/segments/",
    }
    assert any(
        word.startswith(f"https://management.azure.com{ENVIRONMENT['SNAPSHOTS_TOPIC_ID']}/")
        for word in words
    )
    assert "def on_blob(" in (ROOT / "function_app.py").read_text(encoding="utf-8")


def test_key_is_in_no_argument_and_no_output_and_leaves_no_file(shell: Shell) -> None:
    ran = shell.run(HOOK, READY, **ENVIRONMENT)
    assert not any("k+y" in word or "k%2By" in word for words, _ in shell.calls() for word in words)
    assert "k+y" not in ran.stdout + ran.stderr
    assert list(shell.temporary.iterdir()) == []


def test_subscription_waits_for_the_key_of_an_app_that_still_starts(shell: Shell) -> None:
    late = (KEYS[0], [(1, "not yet"), (0, ""), answer({"systemKeys": None}), *KEYS[1]])
    ran = shell.run(HOOK, [late, *READY[1:]], **ENVIRONMENT)
    assert ran.returncode == 0, ran.stderr
    assert sum("keys" in words for words, _ in shell.calls()) == 4


def test_subscription_gives_up_in_words_when_the_app_has_no_key(shell: Shell) -> None:
    ran = shell.run(HOOK, [(KEYS[0], [(1, "Bad Gateway")])], **GIVES_UP)
    assert ran.returncode == 1
    assert "Bad Gateway" in ran.stderr
    assert "on_blob is not loaded" in ran.stderr
    assert "another Python than 3.13" in ran.stderr
    assert "azd hooks run postdeploy" in ran.stderr


def test_subscription_is_tried_again_when_the_webhook_did_not_answer_yet(shell: Shell) -> None:
    answers = [
        KEYS,
        ("rest put", [(1, "webhook validation handshake failed"), (0, "")]),
        ("rest get", [state("Succeeded")]),
        OFF,
    ]
    ran = shell.run(HOOK, answers, **ENVIRONMENT)
    assert ran.returncode == 0, ran.stderr
    assert sum("put" in words for words, _ in shell.calls()) == 2


@pytest.mark.parametrize("code", [KEY.replace("&", "%26"), KEY, "k%2By%2Fwith%3Dodd%26signs%3D%3D"])
def test_refusal_of_event_grid_is_shown_without_the_key(shell: Shell, code: str) -> None:
    webhook = f"https://f/runtime/webhooks/blobs?functionName=x&code={code}"
    refusal = f"The attempt to validate {webhook} failed"
    ran = shell.run(HOOK, [KEYS, ("rest put", [(1, refusal)])], **GIVES_UP)
    assert ran.returncode == 1
    assert "The attempt to validate" in ran.stderr
    assert "k+y" not in ran.stderr
    assert "k%2By" not in ran.stderr


def test_refusal_of_event_grid_says_that_the_app_is_deployed_and_what_is_left(shell: Shell) -> None:
    ran = shell.run(HOOK, [KEYS, ("rest put", [(1, "no")])], **GIVES_UP)
    assert "The app itself is deployed." in ran.stderr
    assert "azd hooks run postdeploy" in ran.stderr


@pytest.mark.parametrize(("blobs", "containers"), [(True, False), (False, True), (True, True)])
def test_soft_delete_where_customer_insights_writes_is_an_error_after_the_subscription(
    shell: Shell, blobs: bool, containers: bool
) -> None:
    ran = shell.run(HOOK, [*READY[:-1], (OFF[0], [services(blobs, containers)])], **ENVIRONMENT)
    assert ran.returncode == 1
    assert "new blobs in segments are told to func-test" in ran.stdout
    assert "WARNING: soft delete is on in stsnap" in ran.stdout
    assert "The app itself is deployed." in ran.stderr
    assert "--enable-delete-retention false" in ran.stderr
    assert "azd hooks run postdeploy" in ran.stderr


def test_soft_delete_that_may_not_be_read_is_a_warning(shell: Shell) -> None:
    ran = shell.run(HOOK, [*READY[:-1], (OFF[0], [(1, "AuthorizationFailed")])], **ENVIRONMENT)
    assert ran.returncode == 0
    assert "WARNING: whether soft delete is off in stsnap could not be read" in ran.stdout


def test_subscription_says_what_is_missing(shell: Shell) -> None:
    ran = shell.run(HOOK, READY)
    assert ran.returncode == 1
    assert "azd hooks run postdeploy" in ran.stderr


# check_subscription.py


Answers = list[tuple[str, list[tuple[int, str]]]]
CHECK = "check_subscription.py"
ACCOUNT = {
    "id": "subscription-1",
    "name": "Production",
    "tenantId": "tenant-1",
    "user": {"name": "ada@contoso.example", "type": "user"},
}
NEW = {"AZURE_ENV_NAME": "prod", "AZURE_LOCATION": "westeurope"}
KNOWN = {"AZURE_SUBSCRIPTION_ID": "subscription-1", "CUSTOMER_INSIGHTS_OBJECT_ID": "ci-1"}
PROVIDERS = [
    *("Microsoft.EventGrid", "Microsoft.Insights", "Microsoft.KeyVault", "Microsoft.Storage"),
    *("Microsoft.ManagedIdentity", "Microsoft.OperationalInsights", "Microsoft.Web"),
]


def token(tenant: str) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"tid": tenant}).encode()).decode().rstrip("=")
    return f"e30.{body}.x"


def providers(*missing: str) -> tuple[int, str]:
    named = dict.fromkeys(PROVIDERS, "Registered") | dict.fromkeys(missing, "NotRegistered")
    return answer([{"namespace": name, "registrationState": is_} for name, is_ in named.items()])


def permissions(*sets: tuple[list[str], list[str]]) -> tuple[int, str]:
    return answer({"value": [{"actions": does, "notActions": not_} for does, not_ in sets]})


OWNER = permissions((["*"], []))
CONTRIBUTOR = ["Microsoft.Authorization/*/Write", "Microsoft.Authorization/*/Delete"]
FINE: Answers = [
    ("account show", [answer(ACCOUNT)]),
    ("azd auth token", [answer({"token": token("tenant-1")})]),
    ("list-flexconsumption-locations", [answer([{"name": "West Europe"}, {"name": "eastus"}])]),
    ("provider list", [providers()]),
    ("rest get", [OWNER]),
    ("group exists", [(0, "false")]),
    ("keyvault list-deleted", [answer([])]),
    ("ad sp show", [answer({"id": "ci-1"})]),
]


def otherwise(needed: str, *given: tuple[int, str]) -> Answers:
    """Everything is fine but this."""
    return [(needed, list(given)), *FINE]


def test_ready_subscription_is_deployed_to_and_what_was_found_is_kept(shell: Shell) -> None:
    ran = shell.run(CHECK, FINE, **NEW)
    assert ran.returncode == 0, ran.stderr
    assert "ready to deploy" in ran.stdout
    assert [words[3:] for words, _ in said(shell, "env", "set")] == [
        ["AZURE_SUBSCRIPTION_ID", "subscription-1", "--environment", "prod"],
        ["CUSTOMER_INSIGHTS_OBJECT_ID", "ci-1", "--environment", "prod"],
    ]
    assert "CUSTOMER_INSIGHTS_OBJECT_ID is ci-1" in ran.stdout
    assert said(shell, "provider", "register") == []


def test_what_was_set_before_is_left_as_it_is(shell: Shell) -> None:
    ran = shell.run(CHECK, FINE, **NEW, **KNOWN | {"CUSTOMER_INSIGHTS_OBJECT_ID": "none"})
    assert ran.returncode == 0, ran.stderr
    assert said(shell, "env", "set") == []
    assert said(shell, "ad", "sp", "show") == []


DELETED = {"azd-env-name": "prod"}
VAULT = {"name": "kv-1", "properties": {"location": "westeurope", "tags": DELETED}}
CONTRIBUTES = permissions((["*"], CONTRIBUTOR))
MAY_NOT = "Microsoft.Authorization/roleAssignments/write"
PRINCIPALS_OWN = ACCOUNT | {"user": {"name": "x", "type": "servicePrincipal"}}


@pytest.mark.parametrize(
    ("answers", "options", "told"),
    [
        (otherwise("account show", (1, "Please run az login")), {}, "signed in: az login"),
        (
            otherwise("account show --subscription", (1, "doesn't exist")),
            KNOWN,
            "az login --tenant TENANT",
        ),
        (
            otherwise("azd auth token", answer({"token": token("tenant-2")})),
            KNOWN,
            "azd is signed in to tenant tenant-2, az to tenant-1",
        ),
        (
            otherwise("azd auth token", (1, "not logged in")),
            KNOWN,
            "azd config set auth.useAzCliAuth true",
        ),
        (FINE, KNOWN | {"AZURE_LOCATION": "antarctica"}, "Take one of eastus, westeurope"),
        (otherwise("rest get", CONTRIBUTES), KNOWN, MAY_NOT),
        (otherwise("rest get", permissions((["*/read"], []))), KNOWN, "deployments/write"),
        (
            [
                ("provider register", [(1, "AuthorizationFailed")]),
                *otherwise("provider list", providers("Microsoft.EventGrid")),
            ],
            KNOWN,
            "az provider register --namespace Microsoft.EventGrid --wait",
        ),
        (
            [
                ("group show", [answer({"tags": None})]),
                *otherwise("group exists", (0, "true")),
            ],
            KNOWN,
            "rg-prod is there",
        ),
        (
            otherwise("keyvault list-deleted", answer([VAULT])),
            KNOWN,
            "VAULT_CREATE_MODE recover",
        ),
        (otherwise("ad sp show", (3, "not there")), {}, "az ad sp create --id 0bfc4568"),
        (otherwise("account show", answer(PRINCIPALS_OWN)), KNOWN, "OPERATOR_OBJECT_ID none"),
        (FINE, KNOWN | {"OPERATOR_TYPE": "Group"}, "OPERATOR_TYPE"),
        (
            FINE,
            KNOWN | {"EXISTING_SNAPSHOTS_ACCOUNT": "theirs"},
            "EXISTING_SNAPSHOTS_RESOURCE_GROUP",
        ),
        (FINE, KNOWN | {"EXISTING_VAULT": "theirs"}, "EXISTING_VAULT_RESOURCE_GROUP"),
        (
            otherwise("storage account show", answer({"location": "eastus"})),
            KNOWN | {"EXISTING_SNAPSHOTS_ACCOUNT": "a", "EXISTING_SNAPSHOTS_RESOURCE_GROUP": "g"},
            "EXISTING_SNAPSHOTS_LOCATION eastus",
        ),
        (
            otherwise("keyvault show", answer({"properties": {}})),
            KNOWN | {"EXISTING_VAULT": "theirs", "EXISTING_VAULT_RESOURCE_GROUP": "g"},
            "works by access policies",
        ),
    ],
)
def test_what_would_fail_late_fails_before_with_the_way_to_mend_it(
    shell: Shell, answers: Answers, options: dict[str, str], told: str
) -> None:
    ran = shell.run(CHECK, answers, **NEW | options)
    assert ran.returncode == 1, ran.stdout
    assert told in ran.stderr


def test_everything_that_is_wrong_is_told_at_once(shell: Shell) -> None:
    answers = [("rest get", [CONTRIBUTES]), ("ad sp show", [(3, "no")]), *FINE]
    ran = shell.run(CHECK, answers, **NEW | {"AZURE_LOCATION": "antarctica"})
    assert re.findall(r"(?m)^  (\d)\.", ran.stderr) == ["1", "2", "3"]


def test_missing_providers_are_registered_and_those_of_the_network_only_with_one(
    shell: Shell,
) -> None:
    answers = otherwise("provider list", providers("Microsoft.EventGrid"))
    assert shell.run(CHECK, answers, **NEW | KNOWN).returncode == 0
    assert [words[4] for words, _ in said(shell, "provider", "register")] == ["Microsoft.EventGrid"]
    shell.run(CHECK, answers, **NEW | KNOWN, PRIVATE_NETWORK="true")
    assert [words[4] for words, _ in said(shell, "provider", "register")] == [
        "Microsoft.App",
        "Microsoft.EventGrid",
        "Microsoft.Network",
    ]


def test_own_resource_group_and_vault_taken_up_again_are_no_obstacle(shell: Shell) -> None:
    answers = [
        ("group exists", [(0, "true")]),
        ("group show", [answer({"tags": {"azd-env-name": "prod"}})]),
        ("keyvault list-deleted", [answer([VAULT])]),
        *FINE,
    ]
    ran = shell.run(CHECK, answers, **NEW | KNOWN, VAULT_CREATE_MODE="recover")
    assert ran.returncode == 0, ran.stderr


def test_pipeline_that_names_an_operator_deploys(shell: Shell) -> None:
    answers = otherwise("account show", answer(PRINCIPALS_OWN))
    ran = shell.run(CHECK, answers, **NEW | KNOWN, OPERATOR_OBJECT_ID="none")
    assert ran.returncode == 0, ran.stderr


def test_answer_that_nobody_expected_holds_nothing_up(shell: Shell) -> None:
    for needed, text in [("rest get", "[]"), ("provider list", "{"), ("azd auth token", "x")]:
        ran = shell.run(CHECK, otherwise(needed, (0, text)), **NEW | KNOWN)
        assert ran.returncode == 0, ran.stderr
        assert "not checked (" in ran.stdout


@pytest.mark.parametrize(
    "refused", ["provider list", "rest get", "group exists", "keyvault list-deleted"]
)
def test_what_may_not_be_looked_up_is_said_and_holds_nothing_up(shell: Shell, refused: str) -> None:
    ran = shell.run(CHECK, otherwise(refused, (1, "AuthorizationFailed")), **NEW | KNOWN)
    assert ran.returncode == 0, ran.stderr
    assert "not checked (" in ran.stdout
    assert "AuthorizationFailed" in ran.stdout


# app_registration.py


VALUES: list[tuple[str, list[tuple[int, str]]]] = [
    ("azd get-value APP_URI", [(0, "https://func-test.azurewebsites.net")]),
    ("azd get-value APP_NAME", [(0, "func-test")]),
    ("azd get-value APP_IDENTITY_PRINCIPAL_ID", [(0, "principal-1")]),
    ("azd get-value AZURE_TENANT_ID", [(0, "tenant-1")]),
]
FRESH: list[tuple[str, list[tuple[int, str]]]] = [
    *VALUES,
    ("azd get-value AUTH_CLIENT_ID", [(1, "ERROR: key 'AUTH_CLIENT_ID' not found")]),
    ("ad app create", [answer({"appId": "client-1"})]),
    ("ad app show", [answer({"id": "object-1"})]),
    ("ad sp show", [(3, "not found")]),
    ("ad sp create", [(1, "not known yet"), answer({"id": "enterprise-1"})]),
    ("federated-credential list", [answer([])]),
    ("ad signed-in-user show", [answer({"id": "person-1"})]),
    ("rest get", [answer({"value": []})]),
]


def test_registration_is_made_with_roles_and_without_a_secret(shell: Shell) -> None:
    ran = shell.run("app_registration.py", FRESH)
    assert ran.returncode == 0, ran.stderr
    ((words, bodies),) = said(shell, "app", "create", "--app-roles")
    assert "https://func-test.azurewebsites.net/.auth/login/aad/callback" in words
    (roles,) = bodies.values()
    assert [role["value"] for role in json.loads(roles)] == ["Admin", "Contributor", "Viewer"]
    assert said(shell, "env", "set", "AUTH_CLIENT_ID", "client-1")
    assert said(shell, "update", "appRoleAssignmentRequired=true")
    ((_, bodies),) = said(shell, "federated-credential", "create")
    (credential,) = bodies.values()
    assert json.loads(credential)["subject"] == "principal-1"
    assert json.loads(credential)["issuer"] == "https://login.microsoftonline.com/tenant-1/v2.0"
    assert not any(
        "credential reset" in " ".join(words) or "password" in " ".join(words)
        for words, _ in shell.calls()
    )


def test_people_can_get_a_token_of_their_own_on_a_command_line(shell: Shell) -> None:
    """The scope is there before the Azure CLI may use it, and is the same one each time."""
    shell.run("app_registration.py", FRESH)
    patches = said(shell, "rest", "patch")
    documents = [json.loads(body) for _, bodies in patches for body in bodies.values()]
    assert [len(each["api"]["preAuthorizedApplications"]) for each in documents] == [0, 1]
    assert all(
        "https://graph.microsoft.com/v1.0/applications/object-1" in words for words, _ in patches
    )
    (scope,) = documents[0]["api"]["oauth2PermissionScopes"]
    assert documents[1]["api"]["oauth2PermissionScopes"] == [scope]
    assert documents[1]["api"]["preAuthorizedApplications"][0]["delegatedPermissionIds"] == [
        scope["id"]
    ]
    assert documents[1]["identifierUris"] == ["api://client-1"]
    app = (ROOT / "infra" / "modules" / "app.bicep").read_text(encoding="utf-8")
    assert documents[1]["api"]["requestedAccessTokenVersion"] == 2
    assert "tenant().tenantId}/v2.0'" in app
    assert "allowedAudiences: [authClientId, 'api://${authClientId}']" in app


def test_first_admin_is_the_person_who_runs_it(shell: Shell) -> None:
    shell.run("app_registration.py", FRESH)
    ((_, bodies),) = said(shell, "rest", "post")
    (body,) = bodies.values()
    given = json.loads(body)
    roles = json.loads((HOOKS / "app-roles.json").read_text(encoding="utf-8"))
    assert given["appRoleId"] == next(role["id"] for role in roles if role["value"] == "Admin")
    assert given["principalId"] == "person-1"


def test_registration_is_brought_up_to_date_the_second_time(shell: Shell) -> None:
    roles = json.loads((HOOKS / "app-roles.json").read_text(encoding="utf-8"))
    admin = {"principalId": "person-1", "appRoleId": roles[0]["id"]}
    answers = [
        *VALUES,
        ("azd get-value AUTH_CLIENT_ID", [(0, "client-1")]),
        ("ad app show", [answer({"id": "object-1"})]),
        ("ad sp show", [answer({"id": "enterprise-1"})]),
        ("federated-credential list", [answer([{"name": "segment-exporter"}])]),
        ("ad signed-in-user show", [answer({"id": "person-1"})]),
        ("rest get", [answer({"value": [admin]})]),
    ]
    ran = shell.run("app_registration.py", answers)
    assert ran.returncode == 0, ran.stderr
    assert said(shell, "app", "update", "--app-roles")
    assert not said(shell, "app", "create", "--app-roles")
    assert not said(shell, "federated-credential", "create")
    assert not said(shell, "rest", "post")


def test_registration_before_the_first_deployment_is_refused(shell: Shell) -> None:
    ran = shell.run("app_registration.py", [("azd get-value", [(1, "ERROR: no environment")])])
    assert ran.returncode == 1
    assert "run azd up first" in ran.stderr


def test_roles_have_fixed_ids_so_that_an_update_finds_them() -> None:
    roles = json.loads((HOOKS / "app-roles.json").read_text(encoding="utf-8"))
    assert len({role["id"] for role in roles}) == len(roles) == 3
    for role in roles:
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", role["id"]
        )
