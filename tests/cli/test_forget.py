"""`python -m exporter forget`, on what `push` left behind and in the stand-in Klaviyo."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sandbox.klaviyo import FULL_KEY, Klaviyo, Settings, serving
from sandbox.klaviyo.settings import READONLY_KEY
from tests.forking import exporter
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
LIST, ADA = "Y6nRLr", "ada@private.example"

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def klaviyo() -> Iterator[tuple[Klaviyo, str]]:
    account = Klaviyo(Settings(job_seconds=0.1, limits=False))
    with serving(account) as url:
        requests.post(
            f"{url}/_sandbox/lists", json={"id": LIST, "name": "VIPs"}, timeout=LIMIT_S
        ).raise_for_status()
        yield account, url


def run(
    *args: object, url: str, answer: str = "", key: str = FULL_KEY
) -> subprocess.CompletedProcess[str]:
    return exporter(*args, typed=answer, KLAVIYO_API_KEY=key, KLAVIYO_BASE_URL=url, COLUMNS="120")


def test_a_person_is_erased_here_and_on_request_in_klaviyo(
    klaviyo: tuple[Klaviyo, str], tmp_path: Path
) -> None:
    account, url = klaviyo
    file, state = tmp_path / "vips.csv", tmp_path / "s"
    file.write_text(f"EMail\n{ADA}\nmailto:{ADA}\nbo@example.com\n")
    pushed = run("push", file, "--list", LIST, "--email", "EMail", "--state", state, url=url)
    assert pushed.returncode == 0, pushed.stderr
    [rejected] = state.glob("runs/*/*/rejected.csv")
    assert ADA in rejected.read_text()

    kept = run("forget", ADA, "--state", state, "--klaviyo", url=url, answer="n\n")
    assert (kept.returncode, ADA in rejected.read_text()) == (1, True), (
        "nothing is done unless agreed"
    )

    erased = run("forget", ADA, "--state", state, url=url)
    assert (erased.returncode, erased.stdout.count("identifiers blanked: 1")) == (0, 1), (
        erased.stderr
    )
    assert ADA not in rejected.read_text()
    assert account.account.profiles.find("email", ADA) is not None

    asked = run("forget", ADA, "--state", state, "--klaviyo", "--yes", "--json", url=url)
    document = json.loads(asked.stdout)
    assert (asked.returncode, document["erased"], document["klaviyo_asked"]) == (0, [], ["push"])
    assert account.account.profiles.find("email", ADA) is None
    assert account.account.profiles.find("email", "bo@example.com") is not None
    for said in (kept, erased, asked):
        assert ADA not in said.stdout + said.stderr


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 2)])
def test_standard_output_holds_the_document_alone_and_no_answer_is_misuse(
    tmp_path: Path, answer: str, code: int
) -> None:
    (tmp_path / "runs").mkdir()
    done = run(
        "forget",
        ADA,
        "--state",
        tmp_path,
        "--klaviyo",
        "--json",
        url="http://127.0.0.1:9",
        answer=answer,
    )
    assert done.returncode == code, done.stderr
    assert "for good" in done.stderr
    if code:
        assert done.stdout == ""
    else:
        assert json.loads(done.stdout)["klaviyo_asked"] == []


def test_a_key_without_the_scope_is_told_after_ours_is_erased(
    klaviyo: tuple[Klaviyo, str], tmp_path: Path
) -> None:
    _, url = klaviyo
    file, state = tmp_path / "vips.csv", tmp_path / "s"
    file.write_text(f"EMail\nmailto:{ADA}\nbo@example.com\n")
    run("push", file, "--list", LIST, "--email", "EMail", "--state", state, url=url)
    failed = run("forget", ADA, "--state", state, "--klaviyo", "--yes", url=url, key=READONLY_KEY)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert ("data-privacy:write" in failed.stdout, "identifiers blanked: 1" in failed.stdout) == (
        True,
        True,
    )
    assert ADA not in next(state.glob("runs/*/*/rejected.csv")).read_text()


def test_klaviyo_is_asked_for_what_it_was_sent(
    klaviyo: tuple[Klaviyo, str], tmp_path: Path
) -> None:
    account, url = klaviyo
    file, mapping, state = tmp_path / "vips.csv", tmp_path / "mapping.yaml", tmp_path / "s"
    file.write_text("EMail,Telephone\nada@bücher.example,\nCy@Example.com,\n")
    mapping.write_text("email: EMail\nphone_number: Telephone\n")
    pushed = run("push", file, "--list", LIST, "--mapping", mapping, "--state", state, url=url)
    assert pushed.returncode == 0, pushed.stderr
    file.write_text("EMail,Telephone\n,+49302312511\n")
    mapping.write_text("phone_number: Telephone\n")
    pushed = run("push", file, "--list", LIST, "--mapping", mapping, "--state", state, url=url)
    assert pushed.returncode == 0, pushed.stderr
    people = [
        ("email", "ada@xn--bcher-kva.example"),
        ("email", "cy@example.com"),
        ("phone_number", "+49302312511"),
    ]
    assert None not in [account.account.profiles.find(*each) for each in people]
    for known_by in ("ada@bücher.example", " CY@example.com", "tel:+49 30 2312511"):
        asked = run("forget", known_by, "--state", state, "--klaviyo", "--yes", url=url)
        assert asked.returncode == 0, asked.stdout + asked.stderr
    assert [account.account.profiles.find(*each) for each in people] == [None, None, None]


def test_every_person_and_connection_is_tried_and_failures_are_listed(
    klaviyo: tuple[Klaviyo, str], tmp_path: Path
) -> None:
    account, url = klaviyo
    file, state = tmp_path / "vips.csv", tmp_path / "s"
    people = ["d1@example.com", "d2@example.com"]
    file.write_text("\n".join(["EMail", *people]))
    run("push", file, "--list", LIST, "--email", "EMail", "--state", state, url=url)
    (state / "connections" / "a.json").write_text("{broken")
    document = json.loads((state / "connections" / "push.json").read_text())
    (state / "connections" / "z.json").write_text(json.dumps({**document, "id": "z"}))
    account.faults.add(
        [{"match": "POST /api/data-privacy", "kind": "status", "status": 403, "times": 1}]
    )
    asked = run("forget", *people, "--state", state, "--klaviyo", "--yes", "--json", url=url)
    said = json.loads(asked.stdout)
    assert (asked.returncode, said["klaviyo_asked"]) == (1, ["z"]), asked.stderr
    assert [each["connection"] for each in said["klaviyo_failed"]] == ["a", "push"]
    assert [account.account.profiles.find("email", each) for each in people] == [None, None]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("C-1007", "--klaviyo"), "e-mail address"),
        (("0302312511", "--klaviyo"), "beginning with +"),
        ((ADA, "--state", "nowhere"), "holds no runs"),
        ((ADA,), "--state"),
    ],
)
def test_what_cannot_be_is_misuse(args: tuple[str, ...], says: str) -> None:
    done = run("forget", *args, url="http://127.0.0.1:9")
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
