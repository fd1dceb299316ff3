#!/bin/sh
# Take from the app the right to store keys, once APP_WRITES_KEYS is no longer true.
#
# azd runs this after each provisioning. A deployment gives rights and never takes any away, so the app would keep the
# role Key Vault Secrets Officer beside the lesser one. The identity is this app's alone: nobody else gave it the role.
set -eu

case ${APP_WRITES_KEYS:-false} in [Tt]rue) exit 0 ;; esac

fail() {
    echo "withdraw-rights: $1" >&2
    exit 1
}

command -v az >/dev/null 2>&1 || fail "the Azure CLI (az) is not installed; install it, run az login, then: azd hooks run postprovision"
: "${AZURE_SUBSCRIPTION_ID:?run me as: azd hooks run postprovision}"
: "${APP_IDENTITY_PRINCIPAL_ID:?run me as: azd hooks run postprovision}"

role="Key Vault Secrets Officer"
given=$(az role assignment list --all --subscription "$AZURE_SUBSCRIPTION_ID" --output tsv \
    --query "[?principalId=='$APP_IDENTITY_PRINCIPAL_ID' && roleDefinitionName=='$role'].id")
for id in $given; do
    az role assignment delete --ids "$id"
    echo "withdraw-rights: the app is no longer $role" >&2
done
