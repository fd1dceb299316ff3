"""Every documented command that can run here is run: page by page, block by block.

`az`, `azd` and `git` are stand-ins (azure_cli.py), and `make` prints what it would do: `make demo`
and the others have tests of their own. Everything else is real: the shell, curl, the hooks,
`python -m exporter`, and the app, in a host on Azurite, with Klaviyo and Key Vault as stand-ins.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import requests
from azure.storage.queue import QueueServiceClient

from sandbox import demo
from sandbox.klaviyo import FULL_KEY
from sandbox.processes import running, sandbox_command
from tests.deploy.azure_cli import AZD, OPTIONS, Refused, _parse_az
from tests.forking import forked_stand_ins, forking
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
LIST = "Y6nRLr"
# What is another one here than on the pages.
RUN_OF_THE_PAGES, DAY_OF_THE_PAGES = "high-value/20261123T1433Z-1a2b3c4d5e", "2026/11/23"
PEOPLE = {"you@contoso.example", "colleague@contoso.example"}
MANAGE, SET_UP, COMMAND_LINE = (
    f"docs/how-to/{name}.md" for name in ("manage", "set-up-an-export", "command-line")
)
WALKED = (
    *("README.md", "CONTRIBUTING.md", "docs/how-to/deploy.md", "docs/how-to/operate.md"),
    *(MANAGE, SET_UP, COMMAND_LINE),
)
OUTPUTS = {
    "AZURE_TENANT_ID": "tenant-1",
    "AZURE_RESOURCE_GROUP": "rg-exporter-prod",
    "APP_NAME": "func-1",
    "APP_IDENTITY_PRINCIPAL_ID": "principal-1",
    "SNAPSHOTS_ACCOUNT_NAME": "stsnap1",
    "SNAPSHOTS_CONTAINER_NAME": "segments",
    "STATE_ACCOUNT_NAME": "ststate1",
    "STATE_CONTAINER_NAME": "exporter-state",
    "VAULT_NAME": "kv-1",
    "KEY_VAULT_URL": "https://kv-1.vault.azure.net",
    "SNAPSHOTS_CONTAINER": "segments",
    "SnapshotsStorage__blobServiceUri": "https://stsnap1.blob.core.windows.net",
    "StateStorage__blobServiceUri": "https://ststate1.blob.core.windows.net",
    "StateStorage__queueServiceUri": "https://ststate1.queue.core.windows.net",
    "OUTBOUND_ADDRESS": "",
}

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


def blocks(page: str, kind: str = "sh") -> list[str]:
    return re.findall(rf"(?s)```{kind}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"))


class Reader:
    """Somebody at a shell in a checkout of the repository, who does what the pages say."""

    def __init__(self, folder: Path, stage: demo.Stage, app_uri: str) -> None:
        self.folder, self.stage, self.app_uri = folder, stage, app_uri
        self.moment = datetime.now(UTC) + timedelta(
            hours=1
        )  # of the refresh: later than what is dropped by hand
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        for name in os.listdir(ROOT):
            if name not in (".venv", "node_modules", ".git") and not name.startswith(".venv"):
                (self.checkout / name).symlink_to(ROOT / name)
        (self.checkout / ".venv" / "bin").mkdir(parents=True)
        (self.checkout / ".venv" / "bin" / "activate").touch()  # the tools below come first anyway
        place = {
            "connection": stage.environment["StateStorage"],
            "vault": stage.environment["KEY_VAULT_URL"],
            "outputs": {**OUTPUTS, "APP_URI": app_uri},
        }
        (folder / "place.json").write_text(json.dumps(place))
        self._state = folder / "variables.sh"
        self._state.touch()
        self._write_tools()

    def _write_tools(self) -> None:
        self._tools = self.folder / "tools"
        self._tools.mkdir()
        # The pages name accounts by the addresses that they have in Azure; here they are elsewhere.
        names = (
            "StateStorage",
            "SnapshotsStorage",
            "KEY_VAULT_URL",
            "KLAVIYO_BASE_URL",
            "SETTLE_SECONDS",
        )
        place = "".join(
            f"export {name}={shlex.quote(self.stage.environment[name])}\n" for name in names
        )
        python, helper = (
            shlex.quote(sys.executable),
            shlex.quote(str(ROOT / "tests" / "deploy" / "azure_cli.py")),
        )
        fork = shlex.quote(str(forking().client(self.folder / "fork")))
        tools = {
            "python": f'{place}[ "$1 $2" != "-m exporter" ] || exec {fork} "$@"\n'
            f'exec {python} "$@"\n',
            "az": f'exec {fork} {helper} {shlex.quote(str(self.folder))} az "$@"\n',
            "azd": f'exec {fork} {helper} {shlex.quote(str(self.folder))} azd "$@"\n',
            "git": '[ "$1" = pull ]\n',
            "make": f'exec {shutil.which("make")} --dry-run "$@"\n',
            "curl": f'exec {shutil.which("curl")} "$@"\n',
            "stty": "",  # there is no terminal whose echo could be switched off
        }
        for name, text in tools.items():
            (self._tools / name).write_text(f"#!/bin/sh\n{text}")
            (self._tools / name).chmod(0o755)

    def run(self, block: str, *, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a block; what it sets is there for the next one."""
        state = shlex.quote(str(self._state))
        script = f"set -ea\n. {state}\n{block}\nexport -p > {state}\n"
        identity = {
            name: os.environ[name]
            for name in os.environ
            if name.startswith(("IDENTITY_", "REQUESTS_CA"))
        }
        environment = {
            **identity,
            "PATH": f"{self._tools}{os.pathsep}{os.defpath}",
            "HOME": str(self.folder),
            "COLUMNS": "160",
        }
        return subprocess.run(
            ["sh", "-c", script],
            cwd=self.checkout,
            env=environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def follow(
        self,
        page: str,
        *,
        typed: Callable[[str], str] = lambda block: "",
        changes: Mapping[str, str] = MappingProxyType({}),
        before: Callable[[str], None] = lambda block: None,
        after: Callable[[str], None] = lambda block: None,
    ) -> list[str]:
        """Run all blocks of a page and return what each printed.

        typed: the keys pressed while a block runs. before, after: called around each block.
        """
        printed, functions = [], list[str]()
        for block in sorted(
            blocks(page), key=lambda block: "DELETE" in block
        ):  # what the others need goes last
            before(block)
            real = block.replace("pk_...", FULL_KEY).replace(
                "https://YOUR-APP.azurewebsites.net", self.app_uri
            )
            for name, other in changes.items():
                real = real.replace(name, other)
            real = real.replace(DAY_OF_THE_PAGES, f"{self.moment:%Y/%m/%d}")
            real = real.replace(RUN_OF_THE_PAGES, self.run_id or RUN_OF_THE_PAGES)
            ran = self.run("\n".join((*functions, real)), typed=typed(block))
            functions += re.findall(r"(?ms)^\w+\(\) \{.*?\}$", real)
            assert ran.returncode == 0, f"{page}:\n{block}\n{ran.stdout}{ran.stderr}"
            printed.append(ran.stdout)
            after(block)
        return printed

    def save(self, name: str, text: str) -> None:
        (self.checkout / name).write_text(text, encoding="utf-8")

    @property
    def run_id(self) -> str:
        """The newest run of the pages' export; "" before there is one."""
        names = list(self.stage.store.folders("runs/high-value/"))
        return f"high-value/{max(names)}" if names else ""

    def members(self) -> set[str]:
        return {member["email"] for member in demo.delivered(self.stage.klaviyo_url)}

    def wait_for(self, members: set[str]) -> None:
        """Until these are in the list and every run is closed."""
        self._wait(lambda: members <= self.members(), f"{members} did not arrive")
        self.wait_until_closed()

    def wait_until_closed(self) -> None:
        self._wait(
            lambda: all(self.stage.store.read(f"{run}report.json") for run in self._runs()),
            "a run is open",
        )

    def start_a_run_that_lasts(self) -> None:
        """Klaviyo never ends its jobs; the next ones it does."""
        settings = f"{self.stage.control_url}/settings"
        requests.post(settings, json={"job_fate": "stuck"}, timeout=LIMIT_S).raise_for_status()
        started = self.run("python -m exporter run high-value")
        assert started.returncode == 0, started.stderr
        state = f"{self.stage.control_url}/state"
        self._wait(
            lambda: "processing" in requests.get(state, timeout=LIMIT_S).json()["jobs"],
            "nothing was sent",
        )
        requests.post(settings, json={"job_fate": "normal"}, timeout=LIMIT_S).raise_for_status()

    def _runs(self) -> list[str]:
        folders = self.stage.store.folders("runs/high-value/")
        return [
            f"runs/high-value/{name}/"
            for name in folders
            if self.stage.store.read(f"runs/high-value/{name}/run.json")
        ]

    def _wait(self, is_so: Callable[[], bool], else_: str) -> None:
        wait_until(
            is_so,
            lambda: f"what never came: {else_}: {self._runs()}, {self.members()}",
            every_s=0.1,
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    before = dict(os.environ)
    try:
        with (
            forked_stand_ins(),
            demo.stand_ins(folder, limits="klaviyo", job_seconds=0.3, settle_seconds=1) as stage,
        ):
            command = sandbox_command(
                "host", "--app", str(ROOT), "--port", "0", "--poll-seconds", "0.3", "--user", "none"
            )
            log = folder / "host.log"
            with running(command, log=log, env=stage.environment) as (_, ready):
                found: dict[str, Any] = ready
                requests.post(
                    f"{stage.control_url}/lists", json={"id": LIST, "name": "VIPs"}, timeout=LIMIT_S
                )
                yield Reader(folder, stage, found["url"])
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.processes
@pytest.mark.azurite
class TestPages:
    """In this order: each page builds on what the one before it left."""

    def test_deploy_leads_from_nothing_to_the_first_delivered_segment(self, reader: Reader) -> None:
        page = "docs/how-to/deploy.md"
        reader.save("mapping.yaml", blocks(page, "yaml")[0])
        reader.save("HighValue.csv", blocks(page, "csv")[0])

        def wait(block: str) -> None:
            if "HighValue.csv" in block:
                reader.wait_for(PEOPLE)

        def typed(block: str) -> str:
            return f"{FULL_KEY}\n" if "read -r key" in block else "y\n"

        printed = reader.follow(page, typed=typed, after=wait)
        assert reader.members() == PEOPLE
        health = next(text for text in printed if '"state"' in text)
        assert set(json.loads(health).values()) == {"ok"}
        # Here people are signed in from the beginning; the page comes to that later.
        shown = {name: is_ for name, is_ in json.loads(health).items() if name != "sign-in"}
        assert json.dumps(shown) in (ROOT / page).read_text(encoding="utf-8"), (
            "the page shows another answer"
        )
        assert any("Successful" in text for text in printed if "high-value/" in text)

        # Step 7: Customer Insights itself writes, where the page says that it does.
        told = re.search(
            r"`(CustomerInsights_\{instance\}/\S+)`", (ROOT / page).read_text(encoding="utf-8")
        )
        assert told is not None
        name = (
            told[1]
            .format(instance="1234", export="ToKlaviyo")
            .replace(f"{DAY_OF_THE_PAGES}/1433", f"{reader.moment:%Y/%m/%d/%H%M}")
        )
        segments = reader.stage.snapshots.get_container_client("segments")
        segments.upload_blob(name, "EMail,FirstName\nthird@contoso.example,Third\n")
        reader.wait_for({"third@contoso.example"})

    def test_manage_sets_up_and_runs_an_export_over_http(self, reader: Reader) -> None:
        # The same names as on the page before it; here both connections and exports are in one app.
        names = {"main account": "second account", "main-account": "second-account"}
        names |= {
            "High value customers": "High value people",
            "high-value-customers": "high-value-people",
        }
        printed = "".join(reader.follow(MANAGE, changes=names))
        assert "/problems/" not in printed, printed
        assert '"status":4' not in printed, printed
        assert '"id":"high-value-people/' in printed

    def test_set_up_an_export_leads_to_a_run_on_the_command_line(self, reader: Reader) -> None:
        printed = "".join(reader.follow(SET_UP, typed=lambda block: "y\n"))
        assert "Sandbox Organization" in printed
        assert ("Successful" in printed, "To send" in printed) == (True, True), printed

    def test_command_line_works_through_both_doors_and_keeps_exports_in_a_file(
        self, reader: Reader
    ) -> None:
        printed = reader.follow(COMMAND_LINE)
        assert "Ada Admin (Admin)" in printed[0]
        assert "High value customers" in printed[0]
        assert "Nothing to change." in printed[-1]
        reader.save(
            "exports.yaml",
            blocks(COMMAND_LINE, "yaml")[0].replace("list: High value ", f"list: {LIST} "),
        )
        shown = reader.run("python -m exporter exports apply -f exports.yaml --dry-run")
        assert (shown.returncode, "~ edit High value customers (high-value)" in shown.stdout) == (
            0,
            True,
        ), shown

    def test_operate_does_what_it_says(self, reader: Reader) -> None:
        with QueueServiceClient.from_connection_string(
            reader.stage.environment["StateStorage"]
        ) as queues:
            queues.create_queue("webjobs-blobtrigger-poison").send_message("{}")
            reader.follow(
                "docs/how-to/operate.md",
                before=lambda block: (
                    reader.start_a_run_that_lasts() if "exporter cancel" in block else None
                ),
                after=lambda block: reader.wait_until_closed(),
            )
            with queues.get_queue_client("webjobs-blobtrigger-poison") as queue:
                assert queue.peek_messages() == []
        kept = {
            path.relative_to(reader.checkout / "backup").as_posix()
            for path in (reader.checkout / "backup").rglob("*.json")
        }
        assert {"connections/main.json", "exports/high-value.json"} <= kept
        assert "colleague@contoso.example" not in reader.members(), "forgotten in Klaviyo, too"
        assert "you@contoso.example" in reader.members()
        names = reader.stage.snapshots.get_container_client("segments").list_blob_names()
        assert [name for name in names if "/HighValue/" in name] == []

    def test_readme_and_contributing_name_commands_that_work(self, reader: Reader) -> None:
        reader.save(
            "vips.csv",
            "EMail,FirstName,City,LoyaltyTier,LifetimeValue\n"
            "sixth@contoso.example,Vi,Cluj,gold,12.5\n",
        )
        reader.follow("README.md")
        reader.follow("CONTRIBUTING.md")
        assert "sixth@contoso.example" in reader.members()


def test_every_page_with_commands_is_walked() -> None:
    with_commands = {
        page.relative_to(ROOT).as_posix()
        for page in PAGES
        if "```sh\n" in page.read_text(encoding="utf-8")
    }
    assert with_commands == set(WALKED), "add the page to TestPages and to WALKED"


def test_no_block_hides_what_it_is() -> None:
    """A block without a kind would not be run."""
    known = {"sh", "json", "csv", "kusto", "yaml", "text", "mermaid", ""}
    for page in PAGES:
        fences = re.findall(r"(?m)^```(\w*)$", page.read_text(encoding="utf-8"))
        assert set(fences[::2]) <= known, page.name
        unnamed = re.findall(
            r"(?ms)^```\n(.*?)^```$", re.sub(r"(?ms)^```\w+\n.*?^```$", "", page.read_text("utf-8"))
        )
        assert not [
            text
            for text in unnamed
            if re.search(r"(?m)^(az|azd|make|python|git|export|curl) ", text)
        ], page.name


INLINE = sorted(
    {
        (page.name, " ".join(command.split()))
        for page in PAGES
        for command in re.findall(r"`((?:az|azd) [^`]+)`", page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize(("page", "command"), INLINE)
def test_command_in_a_sentence_is_one_that_there_is(page: str, command: str) -> None:
    tool, *words = shlex.split(re.sub(r"\$\(.*\)", "x", command).replace("…", "x"))
    try:
        if tool == "az":
            _parse_az(words)
        else:
            assert any(words[: len(each.split())] == each.split() for each in AZD), command
    except Refused as exc:
        pytest.fail(f"{page}: {command}: {exc}")


def test_stand_in_refuses_what_the_command_line_of_azure_does() -> None:
    for words in ("storage blob uplaod", "login --nonsense x", "keyvault secret set --vault-name"):
        with pytest.raises(Refused):
            _parse_az(words.split())
    assert OPTIONS
