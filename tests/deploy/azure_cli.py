"""Stand-ins for `az` and `azd` that do on this machine what the documented commands do in Azure.

    python -m tests.deploy.azure_cli FOLDER az storage blob upload --auth-mode login ...

Blobs and queues are Azurite's, secrets the vault stand-in's. The rest is in FOLDER/world.json:
azd's values, and what was done. Commands and options are those of azure-cli 2.91.0, as far as
documents and hooks use them (compared with its own parser, 2026-11-23). All others are refused.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fnmatch
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if (
    TYPE_CHECKING
):  # azd is asked dozens of times: the SDKs are loaded only by commands that need them
    from azure.storage.blob import BlobServiceClient

Options = argparse.Namespace
EVERYWHERE = ("--output", "--query", "--subscription")
ACCOUNT = ("--auth-mode", "--account-name")
OPTIONS: dict[str, tuple[str, ...]] = {
    "account set": (),
    "account get-access-token": ("--resource", "--scope"),
    "account show": (),
    "ad app create": (
        *("--display-name", "--sign-in-audience", "--web-redirect-uris"),
        *("--enable-id-token-issuance", "--app-roles"),
    ),
    "ad app delete": ("--id",),
    "ad app federated-credential create": ("--id", "--parameters"),
    "ad app federated-credential list": ("--id",),
    "ad app show": ("--id",),
    "ad app update": ("--id", "--web-redirect-uris", "--enable-id-token-issuance", "--app-roles"),
    "ad signed-in-user show": (),
    "ad sp create": ("--id",),
    "ad sp show": ("--id",),
    "ad user show": ("--id",),
    "ad sp update": ("--id", "--set"),
    "bicep build": ("--file", "--stdout"),
    "group create": ("--name", "--location"),
    "group exists": ("--name",),
    "group show": ("--name",),
    "identity create": ("--resource-group", "--name"),
    "identity federated-credential create": (
        *("--resource-group", "--identity-name", "--name", "--issuer", "--subject"),
        "--audiences",
    ),
    "identity show": ("--resource-group", "--name"),
    "keyvault list-deleted": ("--resource-type",),
    "keyvault show": ("--name", "--resource-group"),
    "provider list": (),
    "storage account blob-service-properties show": ("--account-name",),
    "storage account blob-service-properties update": (
        *("--account-name", "--enable-delete-retention"),
        "--enable-container-delete-retention",
    ),
    "functionapp keys list": ("--resource-group", "--name"),
    "functionapp keys set": ("--resource-group", "--name", "--key-type", "--key-name"),
    "functionapp list-flexconsumption-locations": (),
    "group delete": ("--name",),
    "keyvault secret set": ("--vault-name", "--name", "--file", "--encoding", "--value"),
    "login": (),
    "provider register": ("--namespace", "--wait"),
    "rest": ("--method", "--uri", "--body"),
    "role assignment create": (
        "--role",
        "--assignee-principal-type",
        "--assignee-object-id",
        "--scope",
    ),
    "role assignment delete": ("--ids",),
    "role assignment list": ("--all", "--scope"),
    "storage account show": ("--name", "--resource-group"),
    "storage blob delete": (*ACCOUNT, "--container-name", "--name"),
    "storage blob delete-batch": (*ACCOUNT, "--source", "--pattern"),
    "storage blob download-batch": (*ACCOUNT, "--source", "--pattern", "--destination"),
    "storage blob upload": (*ACCOUNT, "--container-name", "--file", "--name", "--overwrite"),
    "storage message clear": (*ACCOUNT, "--queue-name"),
    "storage message peek": (*ACCOUNT, "--queue-name", "--num-messages"),
}
AZD = (
    *(
        "auth login",
        "auth token",
        "config set",
        "env new",
        "env set",
        "env get-value",
        "env get-values",
        "up",
        "provision",
        "deploy",
        "down",
    ),
    *("hooks run predeploy", "hooks run postdeploy", "pipeline config"),
    *("hooks run preprovision", "hooks run postprovision"),
)
AZD_OPTIONS = ("--environment", "--output")
TOKEN = "sandbox-admin"  # by which the host knows an administrator: sandbox/host/people.py
EXPIRES = "2099-01-01 00:00:00.000000"
FLAGS = ("--all", "--overwrite", "--stdout", "--preview", "--no-prompt", "--no-state", "--wait")
HOOKS = Path(__file__).parents[2] / "infra" / "hooks"
# What the hooks read: they ask for JSON, and pick it apart themselves.
DOCUMENTS: dict[str, Any] = {
    "account show": {
        "id": "subscription-1",
        "name": "Production",
        "tenantId": "tenant-1",
        "user": {"type": "user"},
    },
    "ad app create": {"appId": "client-1"},
    "ad app federated-credential list": [],
    "ad app show": {"id": "object-1"},
    "ad signed-in-user show": {"id": "person-1"},
    "ad sp create": {"id": "enterprise-1"},
    "functionapp list-flexconsumption-locations": [{"name": "westeurope"}],
    "group exists": False,
    "keyvault list-deleted": [],
    "provider list": [
        {"namespace": f"Microsoft.{name}", "registrationState": "Registered"}
        for name in (
            *("EventGrid", "Insights", "KeyVault", "ManagedIdentity", "OperationalInsights"),
            *("Storage", "Web"),
        )
    ],
}


class Refused(Exception):
    """The command fails: what it says on standard error."""


class World:
    """What exists. `place` says where: connection strings, the vault's address, outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "world.json"
        document = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.values: dict[str, str] = document.get("values", {})
        self.done: list[str] = document.get("done", [])
        self.place: dict[str, Any] = json.loads((folder / "place.json").read_text())

    def save(self) -> None:
        self._path.write_text(json.dumps({"values": self.values, "done": self.done}, indent=1))

    @property
    def is_deployed(self) -> bool:
        return "azd up" in self.done

    @property
    def known(self) -> dict[str, str]:
        """azd's values: outputs are among them once the templates were deployed."""
        return {**(self.place["outputs"] if self.is_deployed else {}), **self.values}

    def value(self, name: str) -> str:
        if name not in self.known:
            raise Refused(f"ERROR: key '{name}' not found in the environment values")
        return self.known[name]

    def check_role(self, account: str) -> None:
        """A person can reach data only in a deployed account, and as the templates' operator."""
        names = [
            self.value(name)
            for name in ("SNAPSHOTS_ACCOUNT_NAME", "STATE_ACCOUNT_NAME", "VAULT_NAME")
        ]
        if account not in names:
            raise Refused(f"there is no {account}")
        # Without a name it is whoever deploys.
        if self.values.get("OPERATOR_OBJECT_ID", "person-1") != "person-1":
            raise Refused("AuthorizationPermissionMismatch: you have no role on this data")


def az(world: World, words: list[str]) -> str:
    command, options = _parse_az(words)
    world.done.append(f"az {command}")
    if options.output == "json" and (answer := _document(command, options)):
        return answer
    match command:
        case "identity show":
            return "pipeline-1"
        case "ad user show":
            return "admin-1"
        case "ad signed-in-user show":
            return "person-1"
        case "ad sp show" if options.id == "0bfc4568-a4ba-4c58-bd3e-5d3e76bd7fff":
            return "customer-insights-1"
        case "ad sp show" | "ad sp create":
            return "enterprise-1"
        case "ad app create":
            return "client-1"
        case "ad app show":
            return "object-1"
        case "account get-access-token":
            # Without --output az prints JSON, which Azure's libraries read.
            return (
                TOKEN
                if options.output == "tsv"
                else json.dumps({"accessToken": TOKEN, "expiresOn": EXPIRES})
            )
        case "account show":
            return "subscription-1"
        case "role assignment list":
            return "/assignments/1"
        case "storage account show":
            return f"/subscriptions/subscription-1/accounts/{options.name}"
        case "keyvault secret set":
            world.check_role(options.vault_name)
            _store_secret(world, options)
        case "storage blob upload":
            world.check_role(options.account_name)
            _upload(world, options)
        case "storage blob delete":
            world.check_role(options.account_name)
            with (
                _blobs(world) as service,
                service.get_blob_client(options.container_name, options.name) as blob,
            ):
                blob.delete_blob()
        case "storage blob delete-batch" | "storage blob download-batch":
            world.check_role(options.account_name)
            _batch(world, options, deletes=command.endswith("delete-batch"))
        case "storage message peek" | "storage message clear":
            world.check_role(options.account_name)
            return _messages(world, options, clears=command.endswith("clear"))
    return ""


def _document(command: str, options: Options) -> str:
    if command == "ad sp show":
        is_theirs = options.id == "0bfc4568-a4ba-4c58-bd3e-5d3e76bd7fff"
        return json.dumps({"id": "customer-insights-1" if is_theirs else "enterprise-1"})
    if command == "rest" and options.method == "get":
        rights = {"actions": ["*"], "notActions": []}
        return json.dumps({"value": [rights] if "/permissions?" in options.uri else []})
    return json.dumps(DOCUMENTS[command]) if command in DOCUMENTS else ""


def azd(world: World, words: list[str]) -> str:
    command = next((each for each in AZD if words[: len(each.split())] == each.split()), None)
    if command is None:
        raise Refused(f"azd: unknown command {' '.join(words)}")
    rest = words[len(command.split()) :]
    if unknown := [
        word for word in rest if word.startswith("-") and word not in (*FLAGS, *AZD_OPTIONS)
    ]:
        raise Refused(f"azd {command}: unknown flag {unknown[0]}")
    if command.split()[0] in ("deploy", "hooks", "provision", "down") and not world.is_deployed:
        raise Refused(f"azd {command}: nothing is deployed")
    world.done.append(f"azd {command}")
    match command, rest:
        case "env set", [name, value, *_]:
            world.values[name] = value
        case "env get-value", [name]:
            return world.value(name)
        case "env get-values", []:
            return "\n".join(f'{name}="{value}"' for name, value in world.known.items())
        case "auth token", _:
            claims = base64.urlsafe_b64encode(b'{"tid": "tenant-1"}').decode()
            return json.dumps({"token": f"e30.{claims}.x"})
        case "up", _:
            world.value("AZURE_LOCATION")  # else azd would ask
            _run_hook(world, "check_subscription.py")
        case "env new", [_]:
            pass
        case (("env set" | "env get-value" | "env get-values" | "env new"), _):
            raise Refused(f"azd {command}: wrong number of arguments")
    return ""


def _run_hook(world: World, name: str) -> None:
    """As azd does: with its values in the environment, and reading them anew afterwards."""
    world.save()
    environ = {"PATH": str(world.folder / "tools"), "AZURE_ENV_NAME": "exporter-prod"}
    ran = subprocess.run(
        [sys.executable, str(HOOKS / name)],
        env=world.known | environ,
        cwd=HOOKS.parents[1],
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise Refused(ran.stdout + ran.stderr)
    after = World(world.folder)
    world.values, world.done = after.values, after.done


def _parse_az(words: list[str]) -> tuple[str, Options]:
    command = next(
        (" ".join(words[:n]) for n in range(len(words), 0, -1) if " ".join(words[:n]) in OPTIONS),
        None,
    )
    if command is None:
        raise Refused(f"'{' '.join(words)}' is misspelled or not recognized by the system")
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for option in (*OPTIONS[command], *EVERYWHERE):
        parser.add_argument(option, **({"action": "store_true"} if option in FLAGS else {}))
    try:
        known, unknown = parser.parse_known_args(words[len(command.split()) :])
    except argparse.ArgumentError as exc:
        raise Refused(str(exc)) from exc
    if unknown:
        raise Refused(f"unrecognized arguments: {' '.join(unknown)}")
    return command, known


def _store_secret(world: World, options: Options) -> None:
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    if options.file is None:
        raise Refused("a key on the command line can be seen in the list of processes")
    with (
        DefaultAzureCredential() as credential,
        SecretClient(world.place["vault"], credential) as client,
    ):
        client.set_secret(options.name, Path(options.file).read_text(encoding=options.encoding))


@contextlib.contextmanager
def _blobs(world: World) -> Iterator[BlobServiceClient]:
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient.from_connection_string(world.place["connection"]) as service:
        yield service


def _upload(world: World, options: Options) -> None:
    from azure.core.exceptions import ResourceExistsError

    with (
        _blobs(world) as service,
        service.get_container_client(options.container_name) as container,
    ):
        with contextlib.suppress(ResourceExistsError):
            container.create_container()  # the templates did
        container.upload_blob(
            options.name, Path(options.file).read_bytes(), overwrite=options.overwrite
        )


def _batch(world: World, options: Options, *, deletes: bool) -> None:
    if not deletes and not Path(options.destination).is_dir():
        raise Refused("incorrect usage: destination must be an existing directory")
    with _blobs(world) as service, service.get_container_client(options.source) as container:
        found = [
            name for name in container.list_blob_names() if fnmatch.fnmatch(name, options.pattern)
        ]
        for name in found:
            if deletes:
                container.delete_blob(name)
            else:
                target = Path(options.destination) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(container.download_blob(name).readall())


def _messages(world: World, options: Options, *, clears: bool) -> str:
    from azure.core.exceptions import ResourceNotFoundError
    from azure.storage.queue import QueueServiceClient

    with (
        QueueServiceClient.from_connection_string(world.place["connection"]) as service,
        service.get_queue_client(options.queue_name) as queue,
    ):
        try:
            if clears:
                queue.clear_messages()
                return ""
            return json.dumps(
                [each.content for each in queue.peek_messages(int(options.num_messages))]
            )
        except ResourceNotFoundError:
            raise Refused("The specified queue does not exist.") from None


TOOLS: dict[str, Callable[[World, list[str]], str]] = {"az": az, "azd": azd}


def main(argv: list[str]) -> int:
    world = World(Path(argv[0]))
    try:
        if answer := TOOLS[argv[1]](world, argv[2:]):
            print(answer)
    except Refused as exc:
        print(exc, file=sys.stderr)
        return 2
    world.save()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
