#!/bin/sh
# Let Event Grid tell the app of every new blob in the snapshots container.
#
# azd runs this after each deployment; run it by hand after the key "blobs_extension" was renewed. It can be repeated:
# it writes the one subscription anew. It needs the Azure CLI, signed in, and what azd knows of the environment.
# Why not in Bicep: the key exists, and the webhook answers Event Grid's question, only once the code runs.
set -eu

trigger=Host.Functions.on_blob
subscription=segment-exporter-on-blob
api=2025-02-15
wait_s=${HOOK_WAIT_S:-600} # a first start with a remote build takes minutes
pause_s=${HOOK_PAUSE_S:-10}

fail() {
    echo "event-subscription: $1" >&2
    exit 1
}

command -v az >/dev/null 2>&1 || fail "the Azure CLI (az) is not installed; install it, run az login, then: azd hooks run postdeploy"
: "${AZURE_RESOURCE_GROUP:?run me as: azd hooks run postdeploy}"
: "${AZURE_SUBSCRIPTION_ID:?run me as: azd hooks run postdeploy}"
: "${APP_NAME:?run me as: azd hooks run postdeploy}"
: "${APP_URI:?run me as: azd hooks run postdeploy}"
: "${SNAPSHOTS_TOPIC_ID:?run me as: azd hooks run postdeploy}"
: "${SNAPSHOTS_CONTAINER_NAME:?run me as: azd hooks run postdeploy}"
: "${SNAPSHOTS_ACCOUNT_NAME:?run me as: azd hooks run postdeploy}"

# The key is in a file that only this user can read, never in an argument that others could see in a list of processes.
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# A waiting host is woken by a request; its keys come through the management API.
read_key() {
    curl --silent --output /dev/null --max-time 30 "$APP_URI/api/health" || true
    az functionapp keys list --subscription "$AZURE_SUBSCRIPTION_ID" --resource-group "$AZURE_RESOURCE_GROUP" \
        --name "$APP_NAME" --query systemKeys.blobs_extension --output tsv 2>"$work/error" || true
}

# The templates switch it off, but a policy of the organisation, or the owner of an account that was there, may not.
warn_of_soft_delete() {
    kept=$(az storage account blob-service-properties show --subscription "$AZURE_SUBSCRIPTION_ID" \
        --account-name "$SNAPSHOTS_ACCOUNT_NAME" --output tsv \
        --query "[deleteRetentionPolicy.enabled, containerDeleteRetentionPolicy.enabled]" 2>/dev/null || true)
    case $kept in
    *[Tt]rue*) echo "event-subscription: WARNING: soft delete is on in $SNAPSHOTS_ACCOUNT_NAME, for blobs or containers. Customer Insights' export fails with it: switch both off." >&2 ;;
    esac
}

echo "event-subscription: waiting for the app's key blobs_extension" >&2
waited=0
key=$(read_key)
while [ -z "$key" ]; do
    if [ "$waited" -ge "$wait_s" ]; then
        cat "$work/error" >&2
        fail "no key blobs_extension after $waited s: the app does not start, or on_blob is not loaded. See its log stream in the portal."
    fi
    sleep "$pause_s"
    waited=$((waited + pause_s))
    key=$(read_key)
done

code=$(printf '%s' "$key" | sed 's/%/%25/g; s/+/%2B/g; s/\//%2F/g; s/=/%3D/g; s/&/%26/g')
cat >"$work/subscription.json" <<EOF
{
  "properties": {
    "destination": {
      "endpointType": "WebHook",
      "properties": {
        "endpointUrl": "$APP_URI/runtime/webhooks/blobs?functionName=$trigger&code=$code",
        "maxEventsPerBatch": 1
      }
    },
    "filter": {
      "includedEventTypes": ["Microsoft.Storage.BlobCreated"],
      "subjectBeginsWith": "/blobServices/default/containers/$SNAPSHOTS_CONTAINER_NAME/"
    },
    "eventDeliverySchema": "EventGridSchema",
    "retryPolicy": { "maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440 }
  }
}
EOF

uri="https://management.azure.com$SNAPSHOTS_TOPIC_ID/eventSubscriptions/$subscription?api-version=$api"

# Event Grid asks the webhook to prove itself; while the host still starts, that fails and is worth another try.
while :; do
    state=Failed
    if az rest --method put --uri "$uri" --body "@$work/subscription.json" --output none 2>"$work/error"; then
        state=Creating
        while [ "$state" = Creating ] || [ "$state" = Updating ]; do
            [ "$waited" -lt "$wait_s" ] || break
            sleep "$pause_s"
            waited=$((waited + pause_s))
            state=$(az rest --method get --uri "$uri" --query properties.provisioningState --output tsv 2>"$work/error" || echo Failed)
        done
    fi
    if [ "$state" = Succeeded ]; then
        warn_of_soft_delete
        echo "event-subscription: new blobs in $SNAPSHOTS_CONTAINER_NAME are told to $APP_NAME" >&2
        exit 0
    fi
    if [ "$waited" -ge "$wait_s" ]; then
        # The service's words may quote the address with the key in it.
        sed 's/code=[^"& ]*/code=.../g' "$work/error" >&2
        fail "Event Grid did not accept the webhook ($state) within $waited s. Run again: azd hooks run postdeploy"
    fi
    sleep "$pause_s"
    waited=$((waited + pause_s))
done
