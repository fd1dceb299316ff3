"""Make, or bring up to date, the app registration that people sign in to.

It has the roles Admin, Contributor and Viewer, no client secret (the app's identity stands in for
it), and lets in only people who were given a role.

Once per environment, after the first azd up, by somebody who may register applications:
  python infra/hooks/app_registration.py
  azd provision
It can be repeated. The person who runs it becomes the first Admin.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tools import Failed, az, given, run, run_hook, say

GRAPH = "https://graph.microsoft.com/v1.0"
ROLES = Path(__file__).parent / "app-roles.json"
ADMIN_ROLE = "3f0c1c0e-5c1b-4d0c-9a53-8f2f8a9b6a01"
SCOPE = "3f0c1c0e-5c1b-4d0c-9a53-8f2f8a9b6a10"
AZURE_CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"  # the same everywhere
CREDENTIAL = "segment-exporter"
TRIES = 6


def register() -> None:
    values = {
        name: _value(name)
        for name in ("APP_URI", "APP_NAME", "APP_IDENTITY_PRINCIPAL_ID", "AZURE_TENANT_ID")
    }
    if not all(values.values()):
        raise Failed("this azd environment is not provisioned yet: run azd up first")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        client = _application(values)
        say(f"{values['APP_NAME']} is {client}")
        _let_command_lines_in(client, work)
        enterprise = _enterprise_application(client)
        az("ad", "sp", "update", "--id", enterprise, "--set", "appRoleAssignmentRequired=true")
        _vouch(client, values, work)
        _make_first_admin(enterprise, work)
    say("done. Now run: azd provision")


def _value(name: str) -> str:
    try:
        return run("azd", "env", "get-value", name).strip()
    except Failed:
        return ""


def _application(values: dict[str, str]) -> str:
    """Make the registration, or bring it up to date: its client id."""
    settings = ["--web-redirect-uris", f"{values['APP_URI']}/.auth/login/aad/callback"]
    settings += ["--enable-id-token-issuance", "true", "--app-roles", f"@{ROLES}"]
    client = _value("AUTH_CLIENT_ID")
    if client:
        az("ad", "app", "update", "--id", client, *settings)
        return client
    words = ["--display-name", values["APP_NAME"], "--sign-in-audience", "AzureADMyOrg"]
    client = str(az("ad", "app", "create", *words, *settings)["appId"])
    # Kept at once: should a later line fail, the next run takes up this registration instead of
    # making a second.
    run("azd", "env", "set", "AUTH_CLIENT_ID", client)
    return client


def _let_command_lines_in(client: str, work: Path) -> None:
    """Let people call the API from a command line with a token of their own.

    az account get-access-token --scope api://CLIENT/.default
    """
    api: dict[str, Any] = {
        "requestedAccessTokenVersion": 2,  # App Service checks the issuer of version 2
        "oauth2PermissionScopes": [
            {
                "id": SCOPE,
                "value": "user_impersonation",
                "type": "User",
                "isEnabled": True,
                "adminConsentDisplayName": "Use the segment exporter",
                "adminConsentDescription": "Use the segment exporter with the role that the person "
                "has in it.",
                "userConsentDisplayName": "Use the segment exporter",
                "userConsentDescription": "Use the segment exporter with the role that you have "
                "in it.",
            }
        ],
    }
    allowed = {"appId": AZURE_CLI, "delegatedPermissionIds": [SCOPE]}
    uri = f"{GRAPH}/applications/{az('ad', 'app', 'show', '--id', client)['id']}"
    for authorized in ([], [allowed]):  # the scope must be there before the Azure CLI may use it
        body = {
            "identifierUris": [f"api://{client}"],
            "api": api | {"preAuthorizedApplications": authorized},
        }
        _rest("patch", uri, body, work)


def _enterprise_application(client: str) -> str:
    """Find or make the registration's enterprise application: its object id."""
    try:
        return str(az("ad", "sp", "show", "--id", client)["id"])
    except Failed:
        pass  # there is none yet
    for tries_left in reversed(range(TRIES)):
        try:
            return str(az("ad", "sp", "create", "--id", client)["id"])
        except Failed as exc:
            # A new registration takes a moment to be known everywhere.
            if not tries_left:
                raise Failed(f"the registration has no enterprise application: {exc}") from None
            time.sleep(float(given("HOOK_PAUSE_S", "10")))
    raise AssertionError


def _vouch(client: str, values: dict[str, str], work: Path) -> None:
    """Let the app prove who it is with its own identity: no secret to keep or to renew."""
    there = az("ad", "app", "federated-credential", "list", "--id", client)
    if any(each["name"] == CREDENTIAL for each in there):
        return
    credential = {
        "name": CREDENTIAL,
        "issuer": f"https://login.microsoftonline.com/{values['AZURE_TENANT_ID']}/v2.0",
        "subject": values["APP_IDENTITY_PRINCIPAL_ID"],
        "audiences": ["api://AzureADTokenExchange"],
    }
    file = _written(work / "credential.json", credential)
    az("ad", "app", "federated-credential", "create", "--id", client, "--parameters", file)


def _make_first_admin(enterprise: str, work: Path) -> None:
    try:
        person = az("ad", "signed-in-user", "show")["id"]
    except Failed:
        return  # a pipeline: then somebody is given the role in the portal
    uri = f"{GRAPH}/servicePrincipals/{enterprise}/appRoleAssignedTo"
    given_already = az("rest", "--method", "get", "--uri", uri)["value"]
    if any(
        (each["principalId"], each["appRoleId"]) == (person, ADMIN_ROLE) for each in given_already
    ):
        return
    body = {"principalId": person, "resourceId": enterprise, "appRoleId": ADMIN_ROLE}
    _rest("post", uri, body, work)


def _rest(method: str, uri: str, body: Any, work: Path) -> None:
    az("rest", "--method", method, "--uri", uri, "--body", _written(work / "body.json", body))


def _written(file: Path, document: Any) -> str:
    """Write a document and name it as az reads files."""
    file.write_text(json.dumps(document), encoding="utf-8")
    return f"@{file}"


if __name__ == "__main__":
    run_hook(register)
