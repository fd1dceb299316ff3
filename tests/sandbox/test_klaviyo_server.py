"""Over HTTP: the server, faults on the wire, the command, and Klaviyo's own Python package."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
import requests
from klaviyo_api import KlaviyoAPI

from sandbox.klaviyo import FULL_KEY, READONLY_KEY, Klaviyo, Settings, serving
from sandbox.klaviyo.messages import MEDIA_TYPE
from sandbox.klaviyo.settings import REVISIONS
from sandbox.klaviyo.testing import JOBS, job_body
from sandbox.processes import running, sandbox_command
from tests.waiting import LIMIT_S, wait_until

HEADERS = {
    "Authorization": f"Klaviyo-API-Key {FULL_KEY}",
    "revision": REVISIONS[-1],
    "Content-Type": MEDIA_TYPE,
}


@pytest.fixture
def klaviyo() -> Klaviyo:
    klaviyo = Klaviyo(Settings(limits=False, job_seconds=0))
    klaviyo.call("POST", "/_sandbox/lists", {"id": "LIST01", "name": "VIPs"})
    return klaviyo


@pytest.fixture
def url(klaviyo: Klaviyo) -> Iterator[str]:
    with serving(klaviyo) as url:
        yield url


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers.update(HEADERS)
        yield session


def fault(session: requests.Session, url: str, kind: str, **rule: Any) -> None:
    rules = [{"match": f"POST {JOBS}", "kind": kind, **rule}]
    session.post(f"{url}/_sandbox/faults", json=rules).raise_for_status()


def submit(session: requests.Session, url: str) -> requests.Response:
    return session.post(url + JOBS, data=orjson.dumps(job_body(["a@x.com"])), timeout=LIMIT_S)


def taken(klaviyo: Klaviyo) -> int:
    return len(klaviyo.account.jobs)


def test_a_job_goes_through_over_http_plain_and_compressed(
    session: requests.Session, url: str
) -> None:
    body = orjson.dumps(job_body([f"p{n}@x.com" for n in range(3_000)]))
    assert session.post(url + JOBS, data=body).status_code == 202
    compressed = session.post(
        url + JOBS, data=gzip.compress(body), headers={"Content-Encoding": "gzip"}
    )
    assert compressed.status_code == 202
    assert compressed.headers["Content-Type"] == MEDIA_TYPE
    counted = session.get(f"{url}/api/lists/LIST01?additional-fields[list]=profile_count").json()
    assert counted["data"]["attributes"]["profile_count"] == 3_000


def test_links_lead_back_to_the_server(session: requests.Session, url: str) -> None:
    session.post(url + JOBS, data=orjson.dumps(job_body(["a@x.com", "b@x.com"])))
    following = session.get(f"{url}/api/lists/LIST01/profiles?page[size]=1").json()["links"]["next"]
    assert following.startswith(
        f"{url}/api/lists/LIST01/profiles/?page%5Bsize%5D=1&page%5Bcursor%5D="
    )
    assert session.get(following).json()["data"][0]["attributes"]["email"] == "b@x.com"


def test_a_body_over_5_mb_gets_its_413(session: requests.Session, url: str) -> None:
    assert session.post(url + JOBS, data=b" " * 6_000_000).status_code == 413


def test_the_state_knows_the_highest_concurrency(session: requests.Session, url: str) -> None:
    fault(session, url, "latency", seconds=0.2, times=3)
    with ThreadPoolExecutor(3) as pool:
        posts = [
            pool.submit(requests.post, url + JOBS, json=job_body(["a@x.com"]), headers=HEADERS)
            for _ in range(3)
        ]
        assert {post.result().status_code for post in posts} == {202}
    assert session.get(f"{url}/_sandbox/state").json()["max_concurrency"] == 3


def test_a_fault_answers_with_its_status_as_often_as_asked(
    session: requests.Session, url: str, klaviyo: Klaviyo
) -> None:
    fault(session, url, "status", status=500, times=2, after=1)
    assert [submit(session, url).status_code for _ in range(4)] == [202, 500, 500, 202]
    assert taken(klaviyo) == 2


def test_a_gateway_may_time_out_although_the_job_was_taken(
    session: requests.Session, url: str, klaviyo: Klaviyo
) -> None:
    fault(session, url, "status", status=504, taken=True)
    assert submit(session, url).status_code == 504
    assert taken(klaviyo) == 1


def test_faults_can_be_cleared(session: requests.Session, url: str) -> None:
    fault(session, url, "status", times=None)
    assert submit(session, url).status_code == 503
    session.delete(f"{url}/_sandbox/faults")
    assert submit(session, url).status_code == 202


@pytest.mark.parametrize(("kind", "jobs"), [("drop_before", 0), ("drop_after", 1)])
def test_a_connection_can_break_before_or_after_the_job_is_taken(
    session: requests.Session, url: str, klaviyo: Klaviyo, kind: str, jobs: int
) -> None:
    fault(session, url, kind)
    with pytest.raises(requests.ConnectionError):
        submit(session, url)
    assert taken(klaviyo) == jobs
    assert submit(session, url).status_code == 202


def test_an_answer_can_break_off(session: requests.Session, url: str, klaviyo: Klaviyo) -> None:
    fault(session, url, "truncate")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        submit(session, url)
    assert taken(klaviyo) == 1


def test_an_answer_can_come_too_late(session: requests.Session, url: str, klaviyo: Klaviyo) -> None:
    fault(session, url, "latency", seconds=5)
    with pytest.raises(requests.ReadTimeout):
        session.post(url + JOBS, json=job_body(["a@x.com"]), timeout=0.2)
    assert taken(klaviyo) == 1


def test_cloudflare_and_gateways_answer_in_html(
    session: requests.Session, url: str, klaviyo: Klaviyo
) -> None:
    fault(session, url, "html_403")
    challenged = submit(session, url)
    assert (challenged.status_code, challenged.headers["cf-mitigated"]) == (403, "challenge")
    fault(session, url, "non_json")
    assert (submit(session, url).status_code, taken(klaviyo)) == (502, 0)


def test_a_fault_can_throttle(session: requests.Session, url: str) -> None:
    fault(session, url, "throttle", retry_after=7)
    throttled = submit(session, url)
    assert (throttled.status_code, throttled.headers["Retry-After"]) == (429, "7")


def test_a_fault_that_makes_no_sense_is_refused(session: requests.Session, url: str) -> None:
    for rule in (
        {"kind": "earthquake"},
        {"kind": "status", "color": "red"},
        {"kind": "status", "match": "("},
        {},
    ):
        assert session.post(f"{url}/_sandbox/faults", json=[rule]).status_code == 400


def test_a_taken_port_is_reported(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"), serving(Klaviyo(), port=port):
        pass


def test_jobs_complete_while_nobody_asks(
    session: requests.Session, url: str, klaviyo: Klaviyo
) -> None:
    submit(session, url)
    wait_until(lambda: klaviyo.account.profiles.count, "the profile of the job")
    assert klaviyo.account.profiles.count == 1


def test_klaviyos_own_package_reads_everything(
    klaviyo: Klaviyo, session: requests.Session, url: str
) -> None:
    rows = [{"email": f"p{n}@x.com", "properties": {"n": n}} for n in range(5)]
    bad = ["bad+async-fail@x.com"]
    job = session.post(url + JOBS, json=job_body([*rows, *bad])).json()["data"]
    client = KlaviyoAPI(FULL_KEY, test_host=url, max_retries=1)

    assert client.Accounts.get_accounts().data[0].attributes.public_api_key == "SANDBX"
    assert client.Lists.get_lists(filter='any(name,["VIPs"])').data[0].id == "LIST01"
    counted = client.Lists.get_list("LIST01", additional_fields_list=["profile_count"])
    assert counted.data.attributes.profile_count == 5

    page = client.Lists.get_profiles_for_list("LIST01", page_size=2)
    emails = [each.attributes.email for each in page.data]
    while page.links.next:
        cursor = parse_qs(urlsplit(page.links.next).query)["page[cursor]"][0]
        page = client.Lists.get_profiles_for_list("LIST01", page_size=2, page_cursor=cursor)
        emails += [each.attributes.email for each in page.data]
    assert emails == [row["email"] for row in rows]

    found = client.Profiles.get_profiles(filter='any(email,["p1@x.com","p3@x.com"])', page_size=100)
    assert [each.attributes.properties for each in found.data] == [{"n": 1}, {"n": 3}]
    known = client.Profiles.get_bulk_import_profiles_job(job["id"]).data.attributes
    assert (known.status, known.completed_count, known.failed_count) == ("complete", 5, 1)
    errors = client.Profiles.get_errors_for_bulk_import_profiles_job(job["id"])
    assert errors.data[0].attributes.code == "invalid"


@pytest.mark.processes
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_stops_in_silence(
    tmp_path: Path, stop: signal.Signals
) -> None:
    command = sandbox_command(
        "klaviyo", "--limits", "off", "--bad-rows", "first", "--key", "pk_x=accounts:read"
    )
    log = tmp_path / "log"
    with running(command, log=log) as (process, ready):
        assert ready["control"] == f"{ready['url']}/_sandbox"
        answers = [
            requests.get(
                f"{ready['url']}{path}",
                headers={**HEADERS, "Authorization": f"Klaviyo-API-Key {key}"},
            )
            for path, key in (
                ("/api/accounts", "pk_x"),
                ("/api/lists", "pk_x"),
                ("/api/lists", READONLY_KEY),
            )
        ]
        assert [answer.status_code for answer in answers] == [200, 403, 200]
        settings = requests.get(f"{ready['control']}/settings").json()
        assert (settings["limits"], settings["bad_rows"]) == (False, "first")
        os.kill(process.pid, stop)
        assert process.wait(LIMIT_S) == 0
    assert log.read_text() == ""
    assert json.dumps(ready)


@pytest.mark.processes
def test_the_bench_tells_how_many_jobs_a_second_the_stand_in_takes() -> None:
    command = [sys.executable, "scripts/bench.py", "stand-in", "--rows", "10000"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=LIMIT_S
    )
    figures = json.loads(done.stdout)
    assert (figures["bench"], figures["rows"], figures["members"]) == ("stand-in", 10_000, 10_000)
    assert figures["jobs_per_s"] > 0
