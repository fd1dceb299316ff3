"""The hook scripts, in a real shell, with stand-ins for az, azd and curl that record calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

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
    "APP_URI": "https://func-test.azurewebsites.net",
    "SNAPSHOTS_TOPIC_ID": "/subscriptions/s/resourceGroups/g/providers"
    "/Microsoft.EventGrid/systemTopics/t",
    "SNAPSHOTS_CONTAINER_NAME": "segments",
    "SNAPSHOTS_ACCOUNT_NAME": "stsnap",
    "HOOK_WAIT_S": "3",
    "HOOK_PAUSE_S": "0",
}


class Shell:
    """Runs a hook with the stand-ins first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = folder / "tools"
        tools.mkdir()
        for tool in ("az", "azd", "curl", "sleep"):
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
            ["sh", str(HOOKS / hook)],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize("hook", sorted(path.name for path in HOOKS.glob("*.sh")))
def test_hook_is_plain_shell_that_can_be_run(hook: str) -> None:
    subprocess.run(["sh", "-n", str(HOOKS / hook)], check=True)
    text = (HOOKS / hook).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n")
    assert "set -eu" in text
    assert not re.search(r"\[\[|\blocal \b|\bfunction \b|set -x|pipefail", text)
    assert os.access(HOOKS / hook, os.X_OK)


def test_azd_runs_each_hook_at_its_moment() -> None:
    hooks = yaml.safe_load((ROOT / "azure.yaml").read_text(encoding="utf-8"))["hooks"]
    assert {moment: hook["run"] for moment, hook in hooks.items()} == {
        "postprovision": "./infra/hooks/withdraw-rights.sh",
        "postdeploy": "./infra/hooks/event-subscription.sh",
        "predown": "./infra/hooks/keep-existing.sh",
    }
    assert {hook["shell"] for hook in hooks.values()} == {"sh"}


# withdraw-rights.sh


OFFICER: list[tuple[str, list[tuple[int, str]]]] = [
    ("role assignment list", [(0, "/assignments/1\n/assignments/2")])
]
PRINCIPAL = {"APP_IDENTITY_PRINCIPAL_ID": "principal-1", "AZURE_SUBSCRIPTION_ID": "subscription-1"}


@pytest.mark.parametrize("wanted", ["false", "False", ""])
def test_right_to_store_keys_is_withdrawn_where_the_app_shall_not(
    shell: Shell, wanted: str
) -> None:
    ran = shell.run("withdraw-rights.sh", OFFICER, **PRINCIPAL, APP_WRITES_KEYS=wanted)
    assert ran.returncode == 0, ran.stderr
    ((words, _),) = said(shell, "role", "list")
    assert (
        "[?principalId=='principal-1' && roleDefinitionName=='Key Vault Secrets Officer'].id"
        in words
    )
    assert [words[-1] for words, _ in said(shell, "role", "delete")] == [
        "/assignments/1",
        "/assignments/2",
    ]


def test_right_to_store_keys_stays_where_the_app_shall(shell: Shell) -> None:
    ran = shell.run("withdraw-rights.sh", OFFICER, **PRINCIPAL, APP_WRITES_KEYS="true")
    assert (ran.returncode, shell.calls()) == (0, [])


def test_nothing_is_withdrawn_where_nothing_was_given(shell: Shell) -> None:
    ran = shell.run("withdraw-rights.sh", [("role assignment list", [(0, "")])], **PRINCIPAL)
    assert ran.returncode == 0, ran.stderr
    assert said(shell, "role", "delete") == []


# keep-existing.sh


@pytest.mark.parametrize("option", ["EXISTING_SNAPSHOTS_ACCOUNT", "EXISTING_VAULT"])
def test_azd_down_is_stopped_where_it_would_delete_a_group_of_the_owners(
    shell: Shell, option: str
) -> None:
    given = {
        option: "theirs",
        "EXISTING_VAULT_RESOURCE_GROUP": "rg-theirs",
        "AZURE_RESOURCE_GROUP": "rg-test",
    }
    ran = shell.run("keep-existing.sh", [], **given)
    assert ran.returncode == 1
    assert "rg-theirs" in ran.stderr
    assert "az group delete --name rg-test" in ran.stderr


def test_azd_down_goes_on_where_everything_is_the_apps(shell: Shell) -> None:
    assert shell.run("keep-existing.sh", [], EXISTING_VAULT="").returncode == 0


# event-subscription.sh


READY: list[tuple[str, list[tuple[int, str]]]] = [
    ("functionapp keys list", [(0, KEY)]),
    ("rest put", [(0, "")]),
    ("rest get", [(0, "Creating"), (0, "Succeeded")]),
]


def test_subscription_sends_new_blobs_of_the_container_to_the_blob_trigger(shell: Shell) -> None:
    ran = shell.run("event-subscription.sh", READY, **ENVIRONMENT)
    assert ran.returncode == 0, ran.stderr
    ((words, bodies),) = [call for call in shell.calls() if "put" in call[0]]
    (body,) = bodies.values()
    properties = json.loads(body)["properties"]
    assert properties["destination"]["properties"]["endpointUrl"] == (
        "https://func-test.azurewebsites.net/runtime/webhooks/blobs"
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
    ran = shell.run("event-subscription.sh", READY, **ENVIRONMENT)
    assert not any("k+y" in word or "k%2By" in word for words, _ in shell.calls() for word in words)
    assert "k+y" not in ran.stdout + ran.stderr
    assert list(shell.temporary.iterdir()) == []


def test_subscription_waits_for_the_key_of_an_app_that_still_starts(shell: Shell) -> None:
    answers = [("functionapp keys list", [(1, "not yet"), (0, ""), (0, KEY)]), *READY[1:]]
    # A pause of 0 s would never come to the end of the wait: this only shows that it asks again.
    ran = shell.run("event-subscription.sh", answers, **ENVIRONMENT)
    assert ran.returncode == 0, ran.stderr
    assert sum("keys" in words for words, _ in shell.calls()) == 3


def test_subscription_gives_up_in_words_when_the_app_has_no_key(shell: Shell) -> None:
    answers = [("functionapp keys list", [(1, "Bad Gateway")])]
    ran = shell.run("event-subscription.sh", answers, **ENVIRONMENT | {"HOOK_PAUSE_S": "1"})
    assert ran.returncode == 1
    assert "Bad Gateway" in ran.stderr
    assert "on_blob is not loaded" in ran.stderr


def test_subscription_is_tried_again_when_the_webhook_did_not_answer_yet(shell: Shell) -> None:
    answers = [
        READY[0],
        ("rest put", [(1, "webhook validation handshake failed"), (0, "")]),
        ("rest get", [(0, "Succeeded")]),
    ]
    ran = shell.run("event-subscription.sh", answers, **ENVIRONMENT)
    assert ran.returncode == 0, ran.stderr
    assert sum("put" in words for words, _ in shell.calls()) == 2


def test_refusal_of_event_grid_is_shown_without_the_key(shell: Shell) -> None:
    code = KEY.replace("&", "%26")
    webhook = f"https://f/runtime/webhooks/blobs?functionName=x&code={code}"
    refusal = f"The attempt to validate {webhook} failed"
    answers = [READY[0], ("rest put", [(1, refusal)])]
    ran = shell.run("event-subscription.sh", answers, **ENVIRONMENT | {"HOOK_PAUSE_S": "1"})
    assert ran.returncode == 1
    assert "The attempt to validate" in ran.stderr
    assert "k+y" not in ran.stderr


@pytest.mark.parametrize(
    ("kept", "warns"), [("false\nfalse", False), ("true\nfalse", True), ("False\nTrue", True)]
)
def test_soft_delete_where_customer_insights_writes_is_warned_of(
    shell: Shell, kept: str, warns: bool
) -> None:
    ran = shell.run(
        "event-subscription.sh",
        [*READY, ("blob-service-properties show", [(0, kept)])],
        **ENVIRONMENT,
    )
    assert ran.returncode == 0, ran.stderr
    assert ("soft delete is on in stsnap" in ran.stderr) is warns


def test_subscription_says_what_is_missing(shell: Shell) -> None:
    ran = shell.run("event-subscription.sh", READY)
    assert ran.returncode != 0
    assert "azd hooks run postdeploy" in ran.stderr


# prepare.sh


FOUND: list[tuple[str, list[tuple[int, str]]]] = [
    ("account show", [(0, "subscription-1")]),
    ("ad signed-in-user show", [(0, "person-1")]),
    ("ad sp show", [(0, "customer-insights-1")]),
]
UNKNOWN: list[tuple[str, list[tuple[int, str]]]] = [
    ("azd get-value", [(1, "ERROR: key not found")])
]


def test_first_deployment_is_told_subscription_operator_and_customer_insights(shell: Shell) -> None:
    ran = shell.run("prepare.sh", [*UNKNOWN, *FOUND])
    assert ran.returncode == 0, ran.stderr
    assert [words[-2:] for words, _ in said(shell, "env", "set")] == [
        ["AZURE_SUBSCRIPTION_ID", "subscription-1"],
        ["OPERATOR_OBJECT_ID", "person-1"],
        ["CUSTOMER_INSIGHTS_OBJECT_ID", "customer-insights-1"],
    ]
    assert "OPERATOR_OBJECT_ID is person-1" in ran.stderr


def test_what_was_set_before_is_left_as_it_is(shell: Shell) -> None:
    ran = shell.run(
        "prepare.sh", [("azd get-value OPERATOR_OBJECT_ID", [(0, "group-1")]), *UNKNOWN, *FOUND]
    )
    assert ran.returncode == 0, ran.stderr
    assert said(shell, "set", "OPERATOR_OBJECT_ID") == []
    assert "OPERATOR_OBJECT_ID is group-1" in ran.stderr


def test_tenant_without_customer_insights_is_told_what_to_do(shell: Shell) -> None:
    ran = shell.run("prepare.sh", [*UNKNOWN, *FOUND[:2], ("ad sp show", [(3, "does not exist")])])
    assert ran.returncode == 1
    assert "az ad sp create --id 0bfc4568" in ran.stderr
    assert said(shell, "set", "CUSTOMER_INSIGHTS_OBJECT_ID") == []


# app-registration.sh


VALUES: list[tuple[str, list[tuple[int, str]]]] = [
    ("azd get-value APP_URI", [(0, "https://func-test.azurewebsites.net")]),
    ("azd get-value APP_NAME", [(0, "func-test")]),
    ("azd get-value APP_IDENTITY_PRINCIPAL_ID", [(0, "principal-1")]),
    ("azd get-value AZURE_TENANT_ID", [(0, "tenant-1")]),
]
FRESH: list[tuple[str, list[tuple[int, str]]]] = [
    *VALUES,
    ("azd get-value AUTH_CLIENT_ID", [(1, "ERROR: key 'AUTH_CLIENT_ID' not found")]),
    ("ad app create", [(0, "client-1")]),
    ("ad app show", [(0, "object-1")]),
    ("ad sp show", [(3, "not found")]),
    ("ad sp create", [(1, "not known yet"), (0, "enterprise-1")]),
    ("ad signed-in-user show", [(0, "person-1")]),
]


def said(shell: Shell, *needed: str) -> list[tuple[list[str], dict[str, str]]]:
    return [call for call in shell.calls() if set(needed) <= set(call[0])]


def test_registration_is_made_with_roles_and_without_a_secret(shell: Shell) -> None:
    ran = shell.run("app-registration.sh", FRESH)
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
    shell.run("app-registration.sh", FRESH)
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
    shell.run("app-registration.sh", FRESH)
    ((words, _),) = said(shell, "rest", "post")
    given = json.loads(words[words.index("--body") + 1])
    roles = json.loads((HOOKS / "app-roles.json").read_text(encoding="utf-8"))
    assert given["appRoleId"] == next(role["id"] for role in roles if role["value"] == "Admin")
    assert given["principalId"] == "person-1"


def test_registration_is_brought_up_to_date_the_second_time(shell: Shell) -> None:
    answers = [
        *VALUES,
        ("azd get-value AUTH_CLIENT_ID", [(0, "client-1")]),
        ("ad app show", [(0, "object-1")]),
        ("ad sp show", [(0, "enterprise-1")]),
        ("federated-credential list", [(0, "segment-exporter")]),
        ("ad signed-in-user show", [(0, "person-1")]),
        ("rest get", [(0, "assignment-1")]),
    ]
    ran = shell.run("app-registration.sh", answers)
    assert ran.returncode == 0, ran.stderr
    assert said(shell, "app", "update", "--app-roles")
    assert not said(shell, "app", "create", "--app-roles")
    assert not said(shell, "federated-credential", "create")
    assert not said(shell, "rest", "post")


def test_registration_before_the_first_deployment_is_refused(shell: Shell) -> None:
    ran = shell.run("app-registration.sh", [("azd get-value", [(1, "ERROR: no environment")])])
    assert ran.returncode == 1
    assert "run azd up first" in ran.stderr


def test_roles_have_fixed_ids_so_that_an_update_finds_them() -> None:
    roles = json.loads((HOOKS / "app-roles.json").read_text(encoding="utf-8"))
    assert len({role["id"] for role in roles}) == len(roles) == 3
    for role in roles:
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", role["id"]
        )
