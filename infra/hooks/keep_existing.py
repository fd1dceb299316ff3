"""Stop `azd down` where it would delete more than the app.

azd runs this before it. azd down deletes every resource group that the deployment wrote to, whole
(https://github.com/Azure/azure-dev/issues/2916): with an account or vault that was there before,
its owner's group too.
"""

from __future__ import annotations

from tools import Failed, given, run_hook


def keep_existing() -> None:
    if not (given("EXISTING_SNAPSHOTS_ACCOUNT") or given("EXISTING_VAULT")):
        return
    groups = [
        given("EXISTING_SNAPSHOTS_RESOURCE_GROUP"),
        given("EXISTING_VAULT_RESOURCE_GROUP"),
    ]
    raise Failed(
        "azd down would delete resource groups that are not the app's, with everything in them: "
        f"{' '.join(filter(None, groups))}\n"
        f"Instead: az group delete --name {given('AZURE_RESOURCE_GROUP', 'rg-NAME')}\n"
        "See docs/how-to/operate.md, Uninstall."
    )


if __name__ == "__main__":
    run_hook(keep_existing)
