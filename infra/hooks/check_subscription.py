"""Find in seconds what would otherwise fail after minutes, and say how to mend each.

azd runs this before each provisioning; by hand: azd hooks run preprovision. It changes nothing but
this: it registers resource providers, and keeps in the azd environment the subscription and the
object id of Customer Insights, where they are not there yet. What cannot be looked up is said and
holds nothing up: Azure decides.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from tools import Failed, az, given, is_on, run, run_hook, say

CUSTOMER_INSIGHTS = "0bfc4568-a4ba-4c58-bd3e-5d3e76bd7fff"  # the application, in every tenant
PROVIDERS = (
    "Microsoft.EventGrid",
    "Microsoft.Insights",
    "Microsoft.KeyVault",
    "Microsoft.ManagedIdentity",
    "Microsoft.OperationalInsights",
    "Microsoft.Storage",
    "Microsoft.Web",
)
NETWORK_PROVIDERS = ("Microsoft.App", "Microsoft.Network")  # the former names the delegation
RIGHTS = {
    "Microsoft.Resources/deployments/write": "Contributor",
    "Microsoft.Resources/subscriptions/resourceGroups/write": "Contributor",
    "Microsoft.Authorization/roleAssignments/write": "Role Based Access Control Administrator",
}


def check() -> None:
    began = time.monotonic()
    account = _signed_in()
    problems: list[str] = []
    for look in CHECKS:
        try:
            problems += look(account)
        except (Failed, LookupError, TypeError, ValueError, AttributeError) as exc:
            # Another release may answer in another form.
            say(f"not checked ({look.__name__.strip('_').replace('_', ' ')}): {exc}")
    if problems:
        listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(problems, 1))
        raise Failed(f"nothing was deployed, because\n{listed}\nThen the same command again.")
    say(f"ready to deploy; looked at in {time.monotonic() - began:.0f} s")


def _signed_in() -> Any:
    """Check that az and azd are signed in to the subscription's tenant: what az knows of it."""
    try:
        account = az("account", "show")
    except Failed as exc:
        raise Failed(f"{exc}\nThe Azure CLI is not signed in: az login") from None
    if wanted := given("AZURE_SUBSCRIPTION_ID"):
        try:
            account = az("account", "show", "--subscription", wanted)
        except Failed:
            raise Failed(
                f"azd deploys to subscription {wanted}, which az does not see; az is signed in to "
                f"tenant {account['tenantId']}. Sign in where it is: az login --tenant TENANT; or "
                f"take az's own: azd env set AZURE_SUBSCRIPTION_ID {account['id']}"
            ) from None
    else:
        _keep("AZURE_SUBSCRIPTION_ID", account["id"])
    return account


def _keep(name: str, value: str) -> None:
    environment = ["--environment", given("AZURE_ENV_NAME")] if given("AZURE_ENV_NAME") else []
    run("azd", "env", "set", name, value, *environment)
    say(f"{name} is {value}")


def _azd_is_in_the_same_tenant(account: Any) -> Iterator[str]:
    one = "One sign-in for both: azd config set auth.useAzCliAuth true"
    try:
        token = json.loads(run("azd", "auth", "token", "--output", "json"))["token"]
    except Failed:
        yield f"azd is not signed in. {one}"
        return
    body = token.split(".")[1]
    tenant = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["tid"]
    if tenant != account["tenantId"]:
        yield f"azd is signed in to tenant {tenant}, az to {account['tenantId']}. {one}"


def _region(account: Any) -> Iterator[str]:
    region = _plain(given("AZURE_LOCATION"))
    offered = sorted(_plain(each["name"]) for each in az(*FLEX_REGIONS.split()))
    if region and region not in offered:
        yield (
            f"region {region} does not offer Flex Consumption. Take one of "
            f"{', '.join(offered)}: azd env set AZURE_LOCATION NAME"
        )


FLEX_REGIONS = "functionapp list-flexconsumption-locations"


def _plain(region: str) -> str:
    """Write a region the one way: "West Europe" is westeurope."""
    return "".join(region.lower().split())


def _providers(account: Any) -> Iterator[str]:
    wanted = set(PROVIDERS)
    if is_on("PRIVATE_NETWORK") or is_on("FIXED_OUTBOUND_ADDRESS"):
        wanted |= set(NETWORK_PROVIDERS)
    found = az("provider", "list", "--subscription", account["id"])
    there = {each["namespace"] for each in found if each["registrationState"] == "Registered"}
    for name in sorted(wanted - there):
        words = ["provider", "register", "--namespace", name, "--wait"]
        say(f"registering {name}, which takes a minute or two")
        try:
            az(*words, "--subscription", account["id"])
        except Failed as exc:
            yield (
                f"the resource provider {name} is not registered, and you may not do it ({exc}). "
                f"Ask an owner of the subscription for: az {' '.join(words)}"
            )


def _rights(account: Any) -> Iterator[str]:
    uri = f"https://management.azure.com/subscriptions/{account['id']}"
    uri += "/providers/Microsoft.Authorization/permissions?api-version=2022-04-01"
    permissions = az("rest", "--method", "get", "--uri", uri)["value"]
    for action, role in RIGHTS.items():
        if not any(_allows(each, action) for each in permissions):
            yield (
                f"you may not do {action} in the subscription. Ask for the role {role}, or Owner, "
                f"on {account['name']}"
            )


def _allows(permission: Any, action: str) -> bool:
    def names(kind: str) -> bool:
        patterns = permission.get(kind) or []
        return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)

    return names("actions") and not names("notActions")


def _resource_group(account: Any) -> Iterator[str]:
    environment = given("AZURE_ENV_NAME")
    words = ["--name", f"rg-{environment}", "--subscription", account["id"]]
    if not az("group", "exists", *words):
        return
    tags = az("group", "show", *words)["tags"] or {}
    if tags.get("azd-env-name") != environment:
        yield (
            f"a resource group rg-{environment} is there that is not of this environment. Take "
            "another name: azd env new NAME"
        )


def _deleted_vault(account: Any) -> Iterator[str]:
    if given("EXISTING_VAULT") or given("VAULT_CREATE_MODE", "default") == "recover":
        return
    words = ["--resource-type", "vault", "--subscription", account["id"]]
    for each in az("keyvault", "list-deleted", *words):
        kept = each["properties"]
        is_ours = (kept.get("tags") or {}).get("azd-env-name") == given("AZURE_ENV_NAME")
        if is_ours and _plain(kept["location"]) == _plain(given("AZURE_LOCATION")):
            yield (
                f"the vault {each['name']} of this environment was deleted and keeps its name. "
                "Take it up again: azd env set VAULT_CREATE_MODE recover"
            )


def _what_is_there(account: Any) -> Iterator[str]:
    """Look at the account and the vault that are to be used."""
    for kind in ("SNAPSHOTS", "VAULT"):
        name = given("EXISTING_VAULT" if kind == "VAULT" else "EXISTING_SNAPSHOTS_ACCOUNT")
        group = given(f"EXISTING_{kind}_RESOURCE_GROUP")
        if name and not group:
            yield f"azd env set EXISTING_{kind}_RESOURCE_GROUP to the resource group of {name}"
        elif name:
            yield from _used(kind, name, group, account)


def _used(kind: str, name: str, group: str, account: Any) -> Iterator[str]:
    where = ["--name", name, "--resource-group", group, "--subscription", account["id"]]
    if kind == "VAULT":
        if not az("keyvault", "show", *where)["properties"].get("enableRbacAuthorization"):
            yield f"the vault {name} works by access policies; take one that works by roles (RBAC)"
        return
    location = az("storage", "account", "show", *where)["location"]
    expected = given("EXISTING_SNAPSHOTS_LOCATION") or given("AZURE_LOCATION")
    if _plain(location) != _plain(expected):
        yield f"the account {name} is elsewhere: azd env set EXISTING_SNAPSHOTS_LOCATION {location}"


def _operator(account: Any) -> Iterator[str]:
    if given("OPERATOR_OBJECT_ID"):
        return
    if account["user"]["type"] != "user":
        yield (
            "who deploys is no person, and would become the operator, who reads keys and data. "
            "Name one, or nobody: azd env set OPERATOR_OBJECT_ID none"
        )
    elif given("OPERATOR_TYPE", "User") != "User":
        yield (
            "OPERATOR_TYPE is set and OPERATOR_OBJECT_ID is not: whoever deploys is a User. "
            "azd env set OPERATOR_TYPE User"
        )


def _customer_insights(account: Any) -> Iterator[str]:
    if given("CUSTOMER_INSIGHTS_OBJECT_ID"):
        return
    try:
        found = az("ad", "sp", "show", "--id", CUSTOMER_INSIGHTS)["id"]
    except Failed as exc:
        yield (
            f"Customer Insights was not found in this tenant ({exc}). If nobody has used it there "
            f"yet, an application administrator may: az ad sp create --id {CUSTOMER_INSIGHTS}. To "
            "deploy without it: azd env set CUSTOMER_INSIGHTS_OBJECT_ID none"
        )
    else:
        _keep("CUSTOMER_INSIGHTS_OBJECT_ID", found)


CHECKS: tuple[Callable[[Any], Iterator[str]], ...] = (
    _azd_is_in_the_same_tenant,
    _region,
    _providers,
    _rights,
    _resource_group,
    _deleted_vault,
    _what_is_there,
    _operator,
    _customer_insights,
)

if __name__ == "__main__":
    run_hook(check)
