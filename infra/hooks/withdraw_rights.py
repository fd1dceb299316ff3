"""Take from the app the right to store keys, once APP_WRITES_KEYS is no longer true.

azd runs this after each provisioning. A deployment gives rights and never takes any away, so the
app would keep the role Key Vault Secrets Officer beside the lesser one. The identity is this app's
alone: nobody else gave it the role.
"""

from __future__ import annotations

from tools import az, is_on, needed, run_hook, say

ROLE = "Key Vault Secrets Officer"


def withdraw_rights() -> None:
    if is_on("APP_WRITES_KEYS"):
        return
    subscription = needed("AZURE_SUBSCRIPTION_ID", "postprovision")
    principal = needed("APP_IDENTITY_PRINCIPAL_ID", "postprovision")
    for each in az("role", "assignment", "list", "--all", "--subscription", subscription):
        if (each["principalId"], each["roleDefinitionName"]) == (principal, ROLE):
            az("role", "assignment", "delete", "--ids", each["id"])
            say(f"the app is no longer {ROLE}")


if __name__ == "__main__":
    run_hook(withdraw_rights)
