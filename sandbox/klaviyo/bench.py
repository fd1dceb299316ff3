"""`python -m sandbox.klaviyo.bench [--rows 1000000] [--gzip]`: what the stand-in itself costs.

Sends synthetic people with ten attributes each to a server of its own, as fast as it takes them,
and then reads part of the list through the official endpoint. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped]
import requests

from sandbox.klaviyo.messages import MEDIA_TYPE
from sandbox.klaviyo.settings import FULL_KEY, REVISIONS
from sandbox.processes import running, sandbox_command

ROWS_PER_JOB = 10_000
JOB_S = 1
PAGES = 500


def body(first: int) -> bytes:
    """A job of 10,000 people, counted from `first`."""
    data = [
        {"type": "profile", "attributes": person(number)}
        for number in range(first, first + ROWS_PER_JOB)
    ]
    relationships = {"lists": {"data": [{"type": "list", "id": "BENCH1"}]}}
    resource = {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": data}}}
    return orjson.dumps({"data": {**resource, "relationships": relationships}})


def person(number: int) -> dict[str, Any]:
    return {
        "email": f"p{number:08d}@example.com",
        "external_id": f"C-{number:08d}",
        "first_name": f"First{number % 997}",
        "last_name": f"Last{number % 9973}",
        "location": {"city": "Hamburg"},
        "properties": {
            "tier": ("bronze", "silver", "gold")[number % 3],
            "value": number % 100_000 / 100,
            "orders": number % 50,
            "store": f"Store {number % 200}",
            "last_order": "2026-10-15",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--gzip", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(
            sandbox_command("klaviyo", "--limits", "off", "--job-seconds", str(JOB_S)),
            log=Path(folder, "log"),
        ) as (process, ready),
        requests.Session() as session,
    ):
        session.headers.update(
            {
                "Authorization": f"Klaviyo-API-Key {FULL_KEY}",
                "revision": REVISIONS[-1],
                "Content-Type": MEDIA_TYPE,
            }
        )
        print(json.dumps(measure(session, ready["url"], psutil.Process(process.pid), options)))


def measure(
    session: requests.Session, url: str, server: psutil.Process, options: argparse.Namespace
) -> dict[str, Any]:
    session.post(f"{url}/_sandbox/lists", json={"id": "BENCH1"}).raise_for_status()
    report: dict[str, Any] = {"rows": options.rows}
    before, jobs, waited_s = cpu_s(server), -(-options.rows // ROWS_PER_JOB), 0.0
    for number in range(jobs):
        plain = body(number * ROWS_PER_JOB)  # our own work, not the server's
        started = time.perf_counter()
        send(session, url, plain, compress=options.gzip)
        waited_s += time.perf_counter() - started
    started = time.perf_counter()
    while session.get(f"{url}/_sandbox/state").json()["jobs"] != {"complete": jobs}:
        time.sleep(0.1)
    # Importing takes time from the jobs sent meanwhile; the last ones take JOB_S by setting.
    report["jobs_per_s"] = round(
        jobs / (waited_s + max(time.perf_counter() - started - JOB_S, 0)), 1
    )
    report["import_cpu_s_per_million"] = round((cpu_s(server) - before) / options.rows * 1e6, 2)
    report["rss_mb"] = server.memory_info().rss // 1_000_000
    before, started = cpu_s(server), time.perf_counter()
    read_pages(session, f"{url}/api/lists/BENCH1/profiles?page[size]=100")
    report["page_ms"] = round((time.perf_counter() - started) / PAGES * 1000, 2)
    report["page_cpu_ms"] = round((cpu_s(server) - before) / PAGES * 1000, 2)
    started = time.perf_counter()
    report |= session.get(f"{url}/_sandbox/lists/BENCH1/digest").json()
    report["digest_s"] = round(time.perf_counter() - started, 2)
    return report


def send(session: requests.Session, url: str, plain: bytes, *, compress: bool) -> None:
    headers = {"Content-Encoding": "gzip"} if compress else {}
    data = gzip.compress(plain, 1) if compress else plain
    session.post(
        f"{url}/api/profile-bulk-import-jobs", data=data, headers=headers
    ).raise_for_status()


def read_pages(session: requests.Session, url: str | None) -> None:
    for _ in range(PAGES):
        if url is None:
            return
        answer = session.get(url)
        answer.raise_for_status()
        url = orjson.loads(answer.content)["links"]["next"]


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
