"""Wait until the app's identity may read the container that the code is sent to.

azd runs this before each deployment of code. A role takes some time to count (Azure says up to ten
minutes), and the first deployment comes a minute or two after the role was given. Without the wait
it has been seen to end with InaccessibleStorageException (403), and to pass a minute later
(https://github.com/Azure/azure-dev/issues/8026). Later deployments find an old role and wait for
nothing.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from tools import Failed, az, given, needed, run_hook, say

ROLE = "Storage Blob Data Owner"
OLD_ENOUGH = timedelta(minutes=3)
PAUSE_S = 10.0


def wait_for_role() -> None:
    subscription = needed("AZURE_SUBSCRIPTION_ID", "predeploy")
    group = needed("AZURE_RESOURCE_GROUP", "predeploy")
    account = needed("STATE_ACCOUNT_NAME", "predeploy")
    principal = needed("APP_IDENTITY_PRINCIPAL_ID", "predeploy")
    scope = f"/subscriptions/{subscription}/resourceGroups/{group}"
    scope += f"/providers/Microsoft.Storage/storageAccounts/{account}"
    try:
        found = az("role", "assignment", "list", "--scope", scope, "--subscription", subscription)
    except Failed as exc:
        # Whoever may not read roles may still deploy.
        say(f"not waiting, because the role's age is not to be had: {exc}")
        return
    ages = [
        datetime.now(timezone.utc) - _moment(each["createdOn"])
        for each in found
        if (each["principalId"], each["roleDefinitionName"]) == (principal, ROLE)
    ]
    left_s = max((OLD_ENOUGH - age).total_seconds() for age in ages) if ages else 0.0
    left_s = min(left_s, OLD_ENOUGH.total_seconds())  # whatever this machine's clock says
    pause_s = float(given("HOOK_PAUSE_S", str(PAUSE_S)))
    while left_s > 0:
        say(f"the app's role on the package's container is new; {left_s:.0f} s until it counts")
        time.sleep(min(pause_s, left_s))
        left_s -= PAUSE_S


def _moment(text: str) -> datetime:
    """Read a moment of Azure's, in UTC, with however many digits after the second."""
    return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)


if __name__ == "__main__":
    run_hook(wait_for_role)
