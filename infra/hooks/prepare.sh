#!/bin/sh
# Tell azd what it needs to know before the first deployment: the subscription, who operates the app, who writes segments.
#
# Run by hand, in a checkout with an azd environment; can be repeated. What was set before is left as it is.
# docs/how-to/deploy.md, step 2, says what each value gives to whom.
set -eu

customer_insights=0bfc4568-a4ba-4c58-bd3e-5d3e76bd7fff # the application, the same in every tenant

fail() {
    echo "prepare: $1" >&2
    exit 1
}

for tool in az azd; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool is not installed"
done

# Keep what a command finds under a name, unless something is there; say which it is.
keep() {
    name=$1
    shift
    found=$(azd env get-value "$name" 2>/dev/null || true)
    case $found in
    '' | ERROR*)
        found=$("$@" --output tsv) || return 1
        azd env set "$name" "$found" || return 1
        ;;
    esac
    echo "prepare: $name is $found" >&2
}

keep AZURE_SUBSCRIPTION_ID az account show --query id || fail "not signed in: az login"
keep OPERATOR_OBJECT_ID az ad signed-in-user show --query id || fail "nobody is signed in: azd env set OPERATOR_OBJECT_ID yourself"
keep CUSTOMER_INSIGHTS_OBJECT_ID az ad sp show --id "$customer_insights" --query id ||
    fail "nobody in this tenant has used Customer Insights yet. An application administrator may: az ad sp create --id $customer_insights. Then again."

# Most providers are registered by deploying; the network's delegation names Microsoft.App only in passing.
for provider in Microsoft.EventGrid Microsoft.App; do
    az provider register --namespace "$provider"
done
