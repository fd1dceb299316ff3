#!/bin/sh
# Stop `azd down` where it would delete more than the app.
#
# azd runs this before it. azd down deletes every resource group that the deployment wrote to, whole
# (https://github.com/Azure/azure-dev/issues/2916): with an account or vault that was there before, its owner's group too.
set -eu

if [ -n "${EXISTING_SNAPSHOTS_ACCOUNT:-}${EXISTING_VAULT:-}" ]; then
    echo "keep-existing: azd down would delete resource groups that are not the app's, with everything in them:" >&2
    echo "keep-existing:   ${EXISTING_SNAPSHOTS_RESOURCE_GROUP:-} ${EXISTING_VAULT_RESOURCE_GROUP:-}" >&2
    echo "keep-existing: instead: az group delete --name ${AZURE_RESOURCE_GROUP:-rg-NAME}. See docs/how-to/operate.md, Uninstall." >&2
    exit 1
fi
