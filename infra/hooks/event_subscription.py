"""Let Event Grid tell the app of every new blob in the snapshots container.

azd runs this after each deployment; run it by hand after the key "blobs_extension" was renewed:
azd hooks run postdeploy. It can be repeated: it writes the one subscription anew. Why not in Bicep:
the key exists, and the webhook answers Event Grid's question, only once the code runs.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tools import Failed, az, given, needed, run_hook, say

TRIGGER = "Host.Functions.on_blob"
SUBSCRIPTION = "segment-exporter-on-blob"
API = "2025-02-15"
DEPLOYED = "The app itself is deployed."
AGAIN = "then repeat what is left: azd hooks run postdeploy"


class Deadline:
    """How long the hook asks in all: a first start with a remote build takes minutes."""

    def __init__(self) -> None:
        self.wait_s = float(given("HOOK_WAIT_S", "600"))
        self._pause_s = float(given("HOOK_PAUSE_S", "10"))
        self._ends = time.monotonic() + self.wait_s

    def pause(self) -> bool:
        """Wait a little; False where the time is over."""
        if time.monotonic() >= self._ends:
            return False
        time.sleep(self._pause_s)
        return True


def subscribe() -> None:
    deadline = Deadline()
    key = _wait_for_key(deadline)
    code = urllib.parse.quote(key, safe="")
    try:
        _write_subscription(code, deadline)
    except Failed as exc:
        # The service's words may quote the address with the key in it.
        words = str(exc).replace(code, "...").replace(key, "...")
        raise Failed(re.sub(r'code=[^"\s]*', "code=...", words)) from None
    container, app = (
        needed(name, "postdeploy") for name in ("SNAPSHOTS_CONTAINER_NAME", "APP_NAME")
    )
    say(f"new blobs in {container} are told to {app}")
    _check_soft_delete()


def _wait_for_key(deadline: Deadline) -> str:
    say(f"waiting for the app's key blobs_extension, {deadline.wait_s:.0f} s at most")
    while True:
        key, refusal = _read_key()
        if key:
            return key
        if not deadline.pause():
            raise Failed(
                f"{refusal}\nThe code is sent, but there is no key blobs_extension after "
                f"{deadline.wait_s:.0f} s: the app does not start, or on_blob is not loaded. The "
                "log stream in the portal says why. Packages for another Python than 3.13 are one "
                "reason: docs/how-to/deploy.md, If Azure builds it wrong. Mend it, azd deploy, or "
                f"wait, {AGAIN}"
            )


def _read_key() -> tuple[str, str]:
    """Ask for the key: (key, "") or ("", why not)."""
    # A waiting host is woken by a request; its keys come through the management API.
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{needed('APP_URI', 'postdeploy')}/api/health", timeout=30).close()
    words = ["--subscription", needed("AZURE_SUBSCRIPTION_ID", "postdeploy")]
    words += ["--resource-group", needed("AZURE_RESOURCE_GROUP", "postdeploy")]
    words += ["--name", needed("APP_NAME", "postdeploy")]
    try:
        keys = az("functionapp", "keys", "list", *words)
    except Failed as exc:
        return "", str(exc)
    return ((keys or {}).get("systemKeys") or {}).get("blobs_extension", ""), ""


def _write_subscription(code: str, deadline: Deadline) -> None:
    webhook = f"{needed('APP_URI', 'postdeploy')}/runtime/webhooks/blobs"
    folder = f"/blobServices/default/containers/{needed('SNAPSHOTS_CONTAINER_NAME', 'postdeploy')}/"
    body = {
        "properties": {
            "destination": {
                "endpointType": "WebHook",
                "properties": {
                    "endpointUrl": f"{webhook}?functionName={TRIGGER}&code={code}",
                    "maxEventsPerBatch": 1,
                },
            },
            "filter": {
                "includedEventTypes": ["Microsoft.Storage.BlobCreated"],
                "subjectBeginsWith": folder,
            },
            "eventDeliverySchema": "EventGridSchema",
            "retryPolicy": {"maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440},
        }
    }
    topic = needed("SNAPSHOTS_TOPIC_ID", "postdeploy")
    uri = f"https://management.azure.com{topic}/eventSubscriptions/{SUBSCRIPTION}?api-version={API}"
    # The key is in a file that only this user can read, never in an argument: others could see
    # that in a list of processes.
    with tempfile.TemporaryDirectory() as folder_name:
        file = Path(folder_name, "subscription.json")
        file.write_text(json.dumps(body), encoding="utf-8")
        # While the host still starts it proves nothing to Event Grid; that is worth another try.
        while True:
            refusal = ""
            try:
                az("rest", "--method", "put", "--uri", uri, "--body", f"@{file}")
                state = _state_when_made(uri, deadline)
            except Failed as exc:
                state, refusal = "Failed", str(exc)
            if state == "Succeeded":
                return
            if not deadline.pause():
                raise Failed(
                    f"{refusal}\n{DEPLOYED} Event Grid did not accept its webhook ({state}) within "
                    f"{deadline.wait_s:.0f} s: the app does not hear of new blobs yet, only its "
                    f"timer finds them. Wait a little, {AGAIN}"
                )


def _state_when_made(uri: str, deadline: Deadline) -> str:
    state = "Creating"
    while state in ("Creating", "Updating") and deadline.pause():
        found = az("rest", "--method", "get", "--uri", uri)
        state = found["properties"]["provisioningState"]
    return state


def _check_soft_delete() -> None:
    """Fail where Customer Insights' export would.

    The templates switch it off, but a policy of the organisation, or the owner of an account that
    was there, may not.
    """
    account = needed("SNAPSHOTS_ACCOUNT_NAME", "postdeploy")
    words = ["--subscription", needed("AZURE_SUBSCRIPTION_ID", "postdeploy")]
    words += ["--account-name", account]
    try:
        found = az("storage", "account", "blob-service-properties", "show", *words)
    except Failed as exc:
        say(f"WARNING: whether soft delete is off in {account} could not be read: {exc}")
        return
    kinds = {
        "blobs": "deleteRetentionPolicy",
        "containers": "containerDeleteRetentionPolicy",
    }
    on = [kind for kind, name in kinds.items() if (found.get(name) or {}).get("enabled")]
    if on:
        say(f"WARNING: soft delete is on in {account}, for {' and '.join(on)}")
        raise Failed(
            f"{DEPLOYED} But Customer Insights' export fails while soft delete is on in {account}, "
            f"for {' and '.join(on)}. Switch it off: az storage account blob-service-properties "
            f"update --account-name {account} --enable-delete-retention false "
            f"--enable-container-delete-retention false; {AGAIN}"
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the file with the key goes, too
    run_hook(subscribe)
