#!/bin/sh
# Make, or bring up to date, the app registration that people sign in to: with the roles Admin, Contributor and Viewer,
# without a client secret (the app's identity stands in for it), and open only to people who were given a role.
#
# Once per environment, after the first azd up, by somebody who may register applications:
#   sh infra/hooks/app-registration.sh && azd provision
# It can be repeated. The person who runs it becomes the first Admin.
set -eu

fail() {
    echo "app-registration: $1" >&2
    exit 1
}

for tool in az azd; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool is not installed"
done

value() {
    azd env get-value "$1" 2>/dev/null || true
}

app_uri=$(value APP_URI)
app_name=$(value APP_NAME)
principal=$(value APP_IDENTITY_PRINCIPAL_ID)
tenant=$(value AZURE_TENANT_ID)
for found in "$app_uri" "$app_name" "$principal" "$tenant"; do
    case $found in '' | ERROR*) fail "this azd environment is not provisioned yet: run azd up first" ;; esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

callback="$app_uri/.auth/login/aad/callback"
client=$(value AUTH_CLIENT_ID)
case $client in
'' | ERROR*)
    client=$(az ad app create --display-name "$app_name" --sign-in-audience AzureADMyOrg --web-redirect-uris "$callback" \
        --enable-id-token-issuance true --app-roles "@$here/app-roles.json" --query appId --output tsv)
    # Kept at once: should a later line fail, the next run takes up this registration instead of making a second.
    azd env set AUTH_CLIENT_ID "$client"
    ;;
*)
    az ad app update --id "$client" --web-redirect-uris "$callback" --enable-id-token-issuance true \
        --app-roles "@$here/app-roles.json"
    ;;
esac
echo "app-registration: $app_name is $client" >&2

# So that people can call the API from a command line with a token of their own:
#   az account get-access-token --scope api://CLIENT/.default
# Version 2, because App Service checks the issuer of version 2. The Azure CLI's id is the same everywhere.
azure_cli=04b07795-8ddb-461a-bbee-02f9e1bf7b46
scope=3f0c1c0e-5c1b-4d0c-9a53-8f2f8a9b6a10
write_api() {
    cat >"$work/api.json" <<EOF
{
  "identifierUris": ["api://$client"],
  "api": {
    "requestedAccessTokenVersion": 2,
    "oauth2PermissionScopes": [
      {
        "id": "$scope",
        "value": "user_impersonation",
        "type": "User",
        "isEnabled": true,
        "adminConsentDisplayName": "Use the segment exporter",
        "adminConsentDescription": "Use the segment exporter with the role that the person has in it.",
        "userConsentDisplayName": "Use the segment exporter",
        "userConsentDescription": "Use the segment exporter with the role that you have in it."
      }
    ],
    "preAuthorizedApplications": [$1]
  }
}
EOF
    az rest --method patch --uri "https://graph.microsoft.com/v1.0/applications/$object" \
        --body "@$work/api.json" --output none
}
object=$(az ad app show --id "$client" --query id --output tsv)
write_api ""
write_api "{\"appId\": \"$azure_cli\", \"delegatedPermissionIds\": [\"$scope\"]}" # the scope must be there first

# A new registration takes a moment to be known everywhere.
enterprise=$(az ad sp show --id "$client" --query id --output tsv 2>/dev/null || true)
tries=0
while [ -z "$enterprise" ]; do
    enterprise=$(az ad sp create --id "$client" --query id --output tsv 2>"$work/error" || true)
    tries=$((tries + 1))
    if [ -z "$enterprise" ]; then
        [ "$tries" -lt 6 ] || { cat "$work/error" >&2; fail "the registration has no enterprise application"; }
        sleep 10
    fi
done
az ad sp update --id "$enterprise" --set appRoleAssignmentRequired=true

# The app proves who it is with its own identity, so there is no secret to keep or to renew.
credential=segment-exporter
if [ -z "$(az ad app federated-credential list --id "$client" --query "[?name=='$credential'].name" --output tsv)" ]; then
    cat >"$work/credential.json" <<EOF
{
  "name": "$credential",
  "issuer": "https://login.microsoftonline.com/$tenant/v2.0",
  "subject": "$principal",
  "audiences": ["api://AzureADTokenExchange"]
}
EOF
    az ad app federated-credential create --id "$client" --parameters "@$work/credential.json" --output none
fi

# The first Admin. A pipeline has no signed-in user: then somebody is given the role in the portal.
admin_role=3f0c1c0e-5c1b-4d0c-9a53-8f2f8a9b6a01
person=$(az ad signed-in-user show --query id --output tsv 2>/dev/null || true)
graph="https://graph.microsoft.com/v1.0/servicePrincipals/$enterprise/appRoleAssignedTo"
if [ -n "$person" ]; then
    has=$(az rest --method get --uri "$graph" --output tsv \
        --query "value[?principalId=='$person' && appRoleId=='$admin_role'].id")
    if [ -z "$has" ]; then
        az rest --method post --uri "$graph" --output none \
            --body "{\"principalId\": \"$person\", \"resourceId\": \"$enterprise\", \"appRoleId\": \"$admin_role\"}"
    fi
fi

echo "app-registration: done. Now run: azd provision" >&2
