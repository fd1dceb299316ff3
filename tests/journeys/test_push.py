"""`python -m exporter` as a person at a laptop uses it: real processes, the stand-in Klaviyo."""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests

from exporter.cli import local_backend
from exporter.cli import main as cli
from exporter.errors import ConfigError
from exporter.klaviyo.base_url import BASE_URL, REVISION
from sandbox.klaviyo import FULL_KEY, Klaviyo, Settings, serving
from sandbox.snapshots import FolderWriter, Kind, Layout, Snapshot, write_snapshot
from tests.forking import exporter
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
LIST = "Y6nRLr"

pytestmark = pytest.mark.processes


@pytest.fixture
def klaviyo() -> Iterator[str]:
    account = Klaviyo(Settings(job_seconds=0.2))
    with serving(account) as url:
        requests.post(
            f"{url}/_sandbox/lists", json={"id": LIST, "name": "VIPs"}, timeout=LIMIT_S
        ).raise_for_status()
        yield url


@pytest.fixture
def vips(tmp_path: Path) -> Path:
    file = tmp_path / "vips.csv"
    file.write_text(
        "EMail,City\nada@example.com,Paris\nADA@example.com,Rome\nnone,Oslo\nbo@example.com,\n"
    )
    return file


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "exporter", *map(str, args)]


def environment(url: str, key: str = FULL_KEY) -> dict[str, str]:
    return {**os.environ, "KLAVIYO_API_KEY": key, "KLAVIYO_BASE_URL": url, "COLUMNS": "120"}


def run(
    *args: object, url: str = "http://127.0.0.1:9", key: str = FULL_KEY
) -> subprocess.CompletedProcess[str]:
    return exporter(*args, KLAVIYO_API_KEY=key, KLAVIYO_BASE_URL=url, COLUMNS="120")


def members(url: str) -> dict[str, Any]:
    headers = {"Authorization": f"Klaviyo-API-Key {FULL_KEY}", "revision": "2026-07-15"}
    requests.post(
        f"{url}/_sandbox/settings", json={"limits": False}, timeout=LIMIT_S
    ).raise_for_status()
    following, found = f"{url}/api/lists/{LIST}/profiles?page[size]=100", {}
    while following:
        document = requests.get(following, headers=headers, timeout=LIMIT_S).json()
        found |= {each["attributes"]["email"]: each["attributes"] for each in document["data"]}
        following = document["links"]["next"]
    return found


def test_push_sends_a_file_and_reports_every_row(klaviyo: str, vips: Path, tmp_path: Path) -> None:
    args = command(
        "push", vips, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s", "--json"
    )
    done = subprocess.run(
        args, cwd=ROOT, env=environment(klaviyo), capture_output=True, text=True, timeout=LIMIT_S
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert set(members(klaviyo)) == {"ada@example.com", "bo@example.com"}
    counts = [report[name] for name in ("rows", "delivered", "duplicates", "rejected")]
    assert (counts, report["adds_up"], report["status"]) == (
        [4, 2, 1, 1],
        True,
        "Completed with warnings",
    )
    rejected = next((tmp_path / "s").glob("runs/*/*/rejected.csv"))
    assert [
        (row["line"], row["reason"]) for row in csv.DictReader(rejected.read_text().splitlines())
    ] == [("4", "placeholder")]


def test_push_shows_its_progress_on_a_terminal(klaviyo: str, vips: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command("push", vips, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s"),
        cwd=ROOT,
        env={**environment(klaviyo), "FORCE_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    bars = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stderr)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Sending .* 2 of 2 profiles ", bars)
    assert re.search(r"Reading .* 4 rows ", bars)
    assert re.search(r"Klaviyo imports .* 0 of 1 job ", bars)
    assert not re.search(r"[?/]", "".join(re.findall("Reading.*", bars))), "the end is known"


def test_push_tells_its_progress_in_lines_where_there_is_no_terminal(
    klaviyo: str, vips: Path, tmp_path: Path
) -> None:
    state = tmp_path / "s"
    done = run("push", vips, "--list", LIST, "--email", "EMail", "--state", state, url=klaviyo)
    said = done.stderr.splitlines()
    assert said[:2] == ["Reading: 4 rows", "Sending: 2 of 2 profiles"], done.stderr


def test_push_finds_a_list_by_its_name(klaviyo: str, vips: Path, tmp_path: Path) -> None:
    state = tmp_path / "s"
    for name in ("My best", "Twice", "Twice", "Summer"):
        body = {"name": name, "id": f"X{len(name)}{secrets.token_hex(2)}"}
        requests.post(f"{klaviyo}/_sandbox/lists", json=body, timeout=LIMIT_S).raise_for_status()
    args = ("push", vips, "--email", "EMail", "--state", state, "--list")
    done = run(*args, "VIPs", "--json", url=klaviyo)
    assert (done.returncode, json.loads(done.stdout)["list"]) == (0, LIST), done.stderr
    done = run(*args, "Summer", "--json", url=klaviyo)
    assert (done.returncode, json.loads(done.stdout)["list"][:2]) == (0, "X6"), done.stderr
    close = run(*args, "my bset", url=klaviyo)
    assert (close.returncode, "Did you mean My best?" in close.stderr) == (2, True)
    several, nowhere = run(*args, "Twice", url=klaviyo), run(*args, "No such list", url=klaviyo)
    assert (several.returncode, "Several lists" in several.stderr) == (2, True)
    assert (nowhere.returncode, "no list with this ID or name" in nowhere.stderr) == (2, True)


def test_lists_of_a_key_are_listed_without_a_connection(klaviyo: str) -> None:
    listed = run("lists", "--json", url=klaviyo)
    assert [(each["id"], each["name"]) for each in json.loads(listed.stdout)] == [(LIST, "VIPs")]


def test_output_that_does_not_have_a_letter_escapes_it(
    klaviyo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    folder = tmp_path / "Bra\u0219ov"
    folder.mkdir()
    (folder / "vips.csv").write_text("EMail,Ora\u0219\nada@example.com,Ia\u0219i\n", "utf-8")
    args = ("push", folder, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s")
    text, document, mapping = (
        subprocess.run(
            command(*words),
            cwd=ROOT,
            env=environment(klaviyo),
            capture_output=True,
            timeout=LIMIT_S,
        )
        for words in (args, (*args, "--json"), ("suggest", folder))
    )
    assert (text.returncode, b"Bra\\u0219ov" in text.stdout) == (0, True), text.stderr
    assert json.loads(document.stdout)["files"][0]["name"].startswith(str(folder))
    assert mapping.returncode == 0, mapping.stderr


def test_a_full_disk_under_the_output_is_no_defect(
    klaviyo: str, vips: Path, tmp_path: Path
) -> None:
    args = ("push", vips, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s", "--json")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(*args),
            cwd=ROOT,
            env=environment(klaviyo),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
        )
    assert (done.returncode, "The output cannot be written: No space left" in done.stderr) == (
        1,
        True,
    ), done.stderr
    assert ("defect" in done.stderr, "Exception" in done.stderr) == (False, False)
    assert set(members(klaviyo)) == {"ada@example.com", "bo@example.com"}


def test_two_pushes_of_one_file_at_once_both_report_the_one_run(
    klaviyo: str, tmp_path: Path
) -> None:
    file = tmp_path / "vips.csv"
    file.write_text("EMail\n" + "".join(f"p{number}@example.com\n" for number in range(20_000)))
    args = command("push", file, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s")
    both = [
        subprocess.Popen(
            [*args, "--json"],
            cwd=ROOT,
            env=environment(klaviyo),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [each.communicate(timeout=LIMIT_S) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    first, second = (json.loads(out) for out, _ in said)
    assert (first["run"], first["delivered"]) == (second["run"], 20_000)


def test_a_plan_that_would_fail_ends_with_1(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("EMail\n")
    done = run("plan", empty, "--email", "EMail")
    assert (done.returncode, "Would fail" in done.stdout) == (1, True), done


def test_what_push_keeps_is_listed_and_reported(klaviyo: str, vips: Path, tmp_path: Path) -> None:
    state = tmp_path / "s"
    pushed = run(
        "push", vips, "--list", LIST, "--email", "EMail", "--state", state, "--json", url=klaviyo
    )
    folder = next(state.glob("runs/*/*"))
    export, run_id = folder.parent.name, folder.relative_to(state / "runs").as_posix()
    listed = run("runs", export, "--state", state, "--json")
    assert [(one["run"], one["delivered"]) for one in json.loads(listed.stdout)] == [(run_id, 2)], (
        listed.stderr
    )
    assert run("report", run_id, "--state", state, "--json").stdout == pushed.stdout
    assert "placeholder" in run("report", run_id, "--state", state, "--rows", "rejected").stdout
    nowhere = run("runs", export, "--state", tmp_path / "nowhere")
    assert (nowhere.returncode, "holds no runs" in nowhere.stderr) == (2, True)


def test_push_keeps_rejected_rows_where_it_is_asked_to(
    klaviyo: str, vips: Path, tmp_path: Path
) -> None:
    state = tmp_path / "s"
    done = run(
        "push",
        vips,
        "--list",
        LIST,
        "--email",
        "EMail",
        "--state",
        state,
        "--keep-rejected-rows",
        url=klaviyo,
    )
    assert done.returncode == 0, done.stderr
    rejected = next(state.glob("runs/*/*/rejected.csv"))
    assert [row["row"] for row in csv.DictReader(rejected.read_text().splitlines())] == [
        "none,Oslo"
    ]


def test_push_keeps_plans_from_other_users_and_removes_those_of_a_push_that_died(
    klaviyo: str, vips: Path, tmp_path: Path
) -> None:
    state, shared = tmp_path / "s", tmp_path / "tmp"
    left = state / ".work" / ("0" * 16) / "plan-1"
    left.mkdir(parents=True)
    (left / "piece.csv").write_text("EMail\nada@example.com\n")
    shared.mkdir()
    done = subprocess.run(
        command("push", vips, "--list", LIST, "--email", "EMail", "--state", state),
        cwd=ROOT,
        env={**environment(klaviyo), "TMPDIR": str(shared)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        umask=0,
    )
    assert done.returncode == 0, done.stderr
    assert ((state / ".work").stat().st_mode & 0o777, list((state / ".work").iterdir())) == (
        0o700,
        [],
    )
    assert list(shared.iterdir()) == []


def test_push_with_a_mapping_sends_its_attributes(klaviyo: str, vips: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("email: EMail\nlocation: {city: City}\n")
    done = run(
        "push", vips, "--list", LIST, "--mapping", mapping, "--state", tmp_path / "s", url=klaviyo
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 4 rows delivered" in done.stdout
    assert (
        members(klaviyo)["ada@example.com"]["location"]["city"] == "Rome"
    )  # of two rows the last one is sent


def test_push_takes_its_share_of_klaviyos_limits_from_the_environment(
    klaviyo: str, vips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("push", vips, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s")
    monkeypatch.setenv("KLAVIYO_SHARE", "1.5")
    refused = run(*args, url=klaviyo)
    assert (refused.returncode, "KLAVIYO_SHARE must be from" in refused.stderr) == (2, True), (
        refused.stderr
    )
    monkeypatch.setenv("KLAVIYO_SHARE", "0.5")
    assert run(*args, url=klaviyo).returncode == 0


@pytest.mark.parametrize(
    ("name", "text"), [("KLAVIYO_SHARE", "2"), ("KLAVIYO_REVISION", "yesterday")]
)
def test_push_reads_settings_as_the_app_does(
    vips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    refused = run("push", vips, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s")
    assert (refused.returncode, f"{name} must be" in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "s").exists(), "nothing was begun"


def test_a_setting_that_is_empty_takes_its_default(
    vips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, Any] = {}

    def push(*_: object, **given: Any) -> None:
        taken.update(given)
        raise ConfigError("far enough")

    monkeypatch.setattr("exporter.cli.local_backend.push", push)
    for name, text in (
        ("KLAVIYO_API_KEY", "pk_x"),
        ("KLAVIYO_BASE_URL", ""),
        ("KLAVIYO_REVISION", ""),
    ):
        monkeypatch.setenv(name, text)
    assert (
        cli.main(
            ["push", str(vips), "--list", LIST, "--email", "EMail", "--state", str(tmp_path / "s")]
        )
        == 2
    )
    assert (taken["klaviyo"].keywords["base_url"], taken["klaviyo"].keywords["revision"]) == (
        BASE_URL,
        REVISION,
    )


def test_plan_says_what_a_run_would_do_and_sends_nothing(klaviyo: str, vips: Path) -> None:
    done = run("plan", vips, "--email", "EMail", "--json", url=klaviyo)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["profiles"], summary["duplicates"], summary["jobs"]) == (
        0,
        2,
        1,
        1,
    )
    assert "@" not in json.dumps(summary["samples"])
    assert members(klaviyo) == {}


def test_what_macos_leaves_in_a_folder_is_not_read(vips: Path) -> None:
    (vips.parent / "._vips.csv").write_bytes(b"\0\5\x16\7")
    done = run("plan", vips.parent, "--email", "EMail", "--json")
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["rows"], len(summary["files"])) == (0, 4, 1)


def test_a_defect_is_one_sentence_without_data_and_a_traceback_only_on_request(
    vips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("ada@example.com pk_secret")

    monkeypatch.setattr("exporter.planning.planner.make_plan", broken)
    assert cli.main(["plan", str(vips), "--email", "EMail"]) == 1
    said = capsys.readouterr().err
    assert re.search(r"ValueError in .*< plan\.py:\d+", " ".join(said.split()))
    assert "issue" in said
    assert not any(word in said for word in ("ada@", "pk_secret", "Traceback"))
    monkeypatch.setenv("EXPORTER_DEBUG", "1")
    with pytest.raises(ValueError, match="pk_secret"):
        cli.main(["plan", str(vips), "--email", "EMail"])


def test_push_says_why_it_waits_and_what_to_do_once_interrupted(vips: Path, tmp_path: Path) -> None:
    args = ("push", vips, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s")
    process = subprocess.Popen(
        command(*args),
        cwd=ROOT,
        env=environment("http://127.0.0.1:9"),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Put off" in line:
            assert "could not be reached" in line
            break
    process.send_signal(signal.SIGINT)
    assert "the same command goes on from there" in process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == 1


def test_a_push_that_somebody_waits_for_gives_up_within_minutes() -> None:
    waits_s = sum(2.0**tries for tries in range(1, local_backend.LIMITS.setbacks + 1))
    assert waits_s < 60


def test_suggest_prints_a_mapping_that_push_takes(vips: Path) -> None:
    done = run("suggest", vips)
    assert (done.returncode, done.stdout) == (
        0,
        "# columns: EMail, City\nemail: EMail\nlocation:\n  city: City\n",
    )


def test_a_folder_is_read_with_its_model(klaviyo: str, tmp_path: Path) -> None:
    """As the app reads it. So is a copy of what Customer Insights wrote, dated folders and all."""
    attributes = [{"name": "City"}, {"name": "EMail"}]
    model = json.dumps({"entities": [{"name": "VIPs", "attributes": attributes}]})
    for file in ("a/VIPs/any.csv", "b/any/VIPs_1.csv", "c/Export/VIPs/2026/11/23/1433/VIPs_1.csv"):
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.write_text("Rome,ada@example.com\nOslo,bo@example.com\n")
        (path.parent if file[0] != "c" else tmp_path / "c" / "Export").joinpath(
            "model.json"
        ).write_text(model)
        summary = json.loads(run("plan", path.parent, "--email", "EMail", "--json").stdout)
        assert (summary["profiles"], summary["files"][0]["columns"]) == (2, ["City", "EMail"])
        assert run("suggest", path).stdout.startswith("# columns: City, EMail\nemail: EMail\n")
    pushed = run(
        "push", path, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s", url=klaviyo
    )
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert set(members(klaviyo)) == {"ada@example.com", "bo@example.com"}


def test_each_file_of_a_folder_is_read_by_its_own_entry_of_the_model(tmp_path: Path) -> None:
    """Wherever the folder was copied to, and whatever the table is called."""
    entries = {"p1.csv": ("ada@example.com;Ada\n", ";"), "p2.csv": ("bo@example.com,Bo\n", ",")}
    for name, (rows, _) in entries.items():
        (tmp_path / name).write_text(rows)
    partitions = [
        {
            "location": f"https://acct.blob.core.windows.net/c/Feed/T/{name}",
            "fileFormatSettings": {"delimiter": delimiter},
        }
        for name, (_, delimiter) in entries.items()
    ]
    attributes = [{"name": "EMail"}, {"name": "FirstName"}]
    entity = {"name": "T", "attributes": attributes, "partitions": partitions}
    (tmp_path / "model.json").write_text(json.dumps({"entities": [entity]}))
    summary = json.loads(run("plan", tmp_path, "--email", "EMail", "--json").stdout)
    assert (summary["profiles"], summary["rejected"]) == (2, 0)
    assert [file["delimiter"] for file in summary["files"]] == [";", ","]


def test_columns_without_names_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "vips.csv"
    file.write_text("Rome,ada@example.com\n")
    summary = json.loads(run("plan", file, "--email", "column_2", "--json").stdout)
    assert (summary["profiles"], summary["mapping"]) == (1, ["email from column_2"])


def test_suggest_reads_the_columns_of_parquet_files(tmp_path: Path) -> None:
    file = tmp_path / "vips.parquet"
    duckdb.sql(
        f"COPY (SELECT 'ada@example.com' AS EMail, 5 AS Points) TO '{file}' (FORMAT parquet)"
    )
    done = run("suggest", file)
    assert (done.returncode, done.stdout) == (0, "# columns: EMail, Points\nemail: EMail\n"), (
        done.stderr
    )


def test_a_file_that_is_given_twice_is_read_once(vips: Path) -> None:
    summary = json.loads(run("plan", vips, vips, vips.parent, "--email", "EMail", "--json").stdout)
    assert (summary["rows"], summary["profiles"], summary["duplicates"]) == (4, 2, 1)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("push", "{vips}", "--list", "NOPE99", "--email", "EMail"), 1, "does not exist"),
        (("push", "{vips}", "--list", LIST, "--email", "Mail"), 1, "columns are 'EMail'"),
        (("push", "{vips}.gone", "--list", LIST, "--email", "EMail"), 2, "Check the path"),
        (("push", "{vips}", "--list", LIST), 2, "--email"),
        (("push", "{vips}", "--email", "EMail"), 2, "--list"),
        (
            ("push", "{vips}", "--list", "https://www.klaviyo.com/list/Y6nRLr", "--email", "EMail"),
            2,
            "such as Y6nRLr",
        ),
        (
            ("push", "{vips}", "--list", LIST, "--email", "EMail", "--state", "{vips}/x"),
            2,
            "--state",
        ),
        (
            ("push", "{folder}/.vips.csv", "--list", LIST, "--email", "EMail"),
            2,
            "Give it a short name",
        ),
        (("push", "{folder}/vips.", "--list", LIST, "--email", "EMail"), 2, "Give it a short name"),
        (("plan", "{folder}/back\\slash.csv", "--email", "EMail"), 2, "Give it a short name"),
        (("push", "{vips}", "--list", LIST, "--no-such-option"), 2, "--no-such-option"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_what_is_wrong_ends_with_its_code_and_what_to_do(
    klaviyo: str, vips: Path, tmp_path: Path, args: tuple[str, ...], code: int, says: str
) -> None:
    for name in (".vips.csv", "vips.", "back\\slash.csv"):
        (tmp_path / name).write_bytes(vips.read_bytes())
    filled = [arg.format(vips=vips, folder=tmp_path) for arg in args]
    if "{vips}" in args and "--state" not in args:
        filled += ["--state", str(tmp_path / "s")]
    done = run(*filled, url=klaviyo)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), (
        done.stdout + done.stderr
    )
    assert "Traceback" not in done.stderr


def test_refused_key_fails_with_a_remedy_and_is_never_shown(
    klaviyo: str, vips: Path, tmp_path: Path
) -> None:
    args = ("push", vips, "--list", LIST, "--email", "EMail", "--state", tmp_path / "s")
    done = run(*args, url=klaviyo, key="pk_wrong_0123456789")
    assert (done.returncode, "private key" in done.stdout) == (1, True), done.stdout + done.stderr
    assert "KLAVIYO_API_KEY" in done.stdout
    assert "pk_wrong" not in done.stdout + done.stderr
    state = b"".join(file.read_bytes() for file in (tmp_path / "s").rglob("*") if file.is_file())
    assert b"pk_wrong" not in state


def test_push_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    snapshot = Snapshot(
        rows=150_000, layout=Layout.SINGLE, seed=3, bad={Kind.EMAIL_NO_AT: 5, Kind.KLAVIYO_ASYNC: 3}
    )
    write_snapshot(snapshot, FolderWriter(tmp_path))
    file, state = next(tmp_path.glob("*.csv")), tmp_path / "s"
    account = Klaviyo(Settings(job_seconds=0.2))
    with serving(account) as url:
        requests.post(
            f"{url}/_sandbox/lists", json={"id": LIST, "name": "VIPs"}, timeout=LIMIT_S
        ).raise_for_status()
        args = ("push", file, "--list", LIST, "--email", "EMail", "--state", state, "--json")
        first = subprocess.Popen(
            command(*args), cwd=ROOT, env=environment(url), stdout=subprocess.DEVNULL
        )
        _wait_for_acceptance(state)
        first.send_signal(signal.SIGKILL)
        first.wait()
        accepted = _accepted(state)
        done = run(*args, url=url)
        report = json.loads(done.stdout)
        sent = requests.get(f"{url}/_sandbox/state", timeout=LIMIT_S).json()["requests"][
            "POST /api/profile-bulk-import-jobs"
        ]
        assert _addresses(account) == {profile.email for profile in snapshot.expected_profiles()}
    assert 0 < accepted < 15  # it was killed in the middle
    assert (report["rows"], report["delivered"], report["rejected"]) == (150_000, 149_992, 8)
    assert report["jobs"] == 15
    assert sent <= 15 + 12  # at most what was in flight is sent twice


def _addresses(klaviyo: Klaviyo) -> set[str]:
    """Who is in the list, by the stand-in itself: over HTTP that would be 1,500 pages."""
    klaviyo.settle()
    found = klaviyo.account.lists.get(LIST)
    assert found is not None
    return {
        klaviyo.account.profiles.attributes(number)["email"] for _, number in found.members.walk(0)
    }


def _accepted(state: Path) -> int:
    return sum(
        file.read_bytes().count(b"batch_accepted") for file in state.glob("runs/*/*/journal.jsonl")
    )


def _wait_for_acceptance(state: Path) -> None:
    wait_until(lambda: _accepted(state) >= 3, "batches that were accepted")
