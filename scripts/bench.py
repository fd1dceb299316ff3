"""`make bench`: what a run costs, as JSON lines.

Figures are of whole processes, beside a baseline in the same run.

    make bench                 everything, 1,000,000 rows
    make bench ARGS="plan --rows 10000000"

plan      CPU and memory of planning
wide      planning of many columns with `properties: "*"`, beside what a byte may cost
push      a whole run under Klaviyo's limits, beside ready-made batches, and with 1 s of latency
cpu       limits off, beside two plain scripts: standard library, official package
linear    planning and a whole run of ten times the rows, limits off, beside what they may take:
          ten minutes, mostly because of our own pace
stand-in  what Klaviyo's stand-in itself takes: below 10 jobs a second, the other parts measure it
disk      ten times the rows planned with DuckDB's default memory on a file system of 800 MB, as an
          instance of Flex Consumption has; mounting it takes root, else files are counted
start     what importing the app takes; Flex Consumption gives an app 30 s
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import requests  # noqa: E402

from exporter.planning.disk_space import FLEX_CONSUMPTION_MB, SHARE_OF_PLANS  # noqa: E402
from sandbox.processes import running, sandbox_command  # noqa: E402

LIST_ID = "Y6nRLr"
MAPPING = """
email: EMail
first_name: FirstName
last_name: LastName
phone_number: Telephone
location: {city: City, country: Country}
properties:
  customer_id: CustomerId
  date_of_birth: DateOfBirth
  loyalty_tier: LoyaltyTier
  lifetime_value: {column: LifetimeValue, type: number}
"""
LINEAR_CPU, LINEAR_MB = (
    10.5,
    300,
)  # 10,000,000 rows may take so many times the CPU of 1,000,000, and so much memory
# Columns, rows, bytes of a cell. The first is what a byte may cost.
WIDE = ((100, 40_000, 17), (100, 40_000, 21), (200, 20_000, 17), (1_000, 4_000, 17), (1_000, 1, 17))
WIDE_MAPPING = 'email: EMail\nproperties: "*"\n'
WIDE_CPU, WIDE_MB = 3, 350  # a thousand columns cost more a byte: DuckDB plans each for every piece
WIDE_FILE = """
import random, sys
columns, rows, cell = map(int, sys.argv[1:4])
chance = random.Random(1)
words = [f"{chance.getrandbits(4 * cell):0{cell}x}" for _ in range(5000)]
with open(sys.argv[4], "w", encoding="utf-8") as file:
    print("EMail", *(f"Column{number}" for number in range(1, columns)), sep=",", file=file)
    for row in range(rows):
        print(f"u{row}@example.com", *chance.choices(words, k=columns - 1), sep=",", file=file)
"""
PLAN = """
import json, sys
from pathlib import Path
import yaml
from exporter.definitions.mapping import parse_mapping
from exporter.planning.planner import make_plan
from exporter.reading.source import PartitionSource
def chunks():
    with open(sys.argv[1], "rb") as file:
        while chunk := file.read(4 << 20):
            yield chunk
source, mapping = PartitionSource(name="s", open=chunks), parse_mapping(yaml.safe_load(sys.argv[3]))
plan = make_plan([source], mapping, Path(sys.argv[2]))
assert plan.adds_up() and plan.profiles, plan.rejected
"""
BODIES = """
import itertools, sys
from pathlib import Path
import yaml
from exporter.definitions.mapping import parse_mapping
from exporter.planning.planner import make_plan
from exporter.reading.source import PartitionSource
from exporter.planning.request_bodies import PlanReader
with open(sys.argv[1], "rb") as file:
    head = list(itertools.islice(file, 1_000_001))
source = PartitionSource(name="s", open=lambda: head)
folder, bodies = Path(sys.argv[2]), Path(sys.argv[3])
plan = make_plan([source], parse_mapping(yaml.safe_load(sys.argv[4])), folder)
reader = PlanReader(plan, folder, list_id="Y6nRLr", memory_mb=256)
bodies.mkdir()
for batch in plan.batches:
    (bodies / f"{batch.number:04d}").write_bytes(reader.body(batch))
"""
STANDARD_LIBRARY = """
import csv, http.client, json, re, sys
good = re.compile(r"[a-z0-9._%+-]+@[a-z0-9.-]+\\.[a-z]{2,}").fullmatch
connection = http.client.HTTPConnection(sys.argv[2])
headers = {"Authorization": "Klaviyo-API-Key pk_sandbox_full", "revision": "2026-07-15",
           "Content-Type": "application/vnd.api+json"}
def send(profiles):
    job = {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": profiles}},
           "relationships": {"lists": {"data": [{"type": "list", "id": "Y6nRLr"}]}}}
    body = json.dumps({"data": job}, ensure_ascii=False).encode()
    connection.request("POST", "/api/profile-bulk-import-jobs", body, headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 202, answer.status
batch, seen = [], set()
with open(sys.argv[1], newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        email = row["EMail"].strip().lower()
        if not good(email) or email in seen:
            continue
        seen.add(email)
        attributes = {"email": email, "properties": {}}
        for name, column in (("first_name", "FirstName"), ("last_name", "LastName"),
                             ("phone_number", "Telephone")):
            if row[column]:
                attributes[name] = row[column].replace(" ", "")
        places = (("city", "City"), ("country", "Country"))
        location = {name: row[column] for name, column in places if row[column]}
        if location:
            attributes["location"] = location
        for name, column in (("customer_id", "CustomerId"), ("date_of_birth", "DateOfBirth"),
                             ("loyalty_tier", "LoyaltyTier")):
            if row[column]:
                attributes["properties"][name] = row[column]
        if row["LifetimeValue"]:
            attributes["properties"]["lifetime_value"] = float(row["LifetimeValue"])
        batch.append({"type": "profile", "attributes": attributes})
        if len(batch) == 10000:
            send(batch)
            batch = []
if batch:
    send(batch)
"""
OFFICIAL_PACKAGE = """
import csv, re, sys
from klaviyo_api import KlaviyoAPI
good = re.compile(r"[a-z0-9._%+-]+@[a-z0-9.-]+\\.[a-z]{2,}").fullmatch
api = KlaviyoAPI("pk_sandbox_full", test_host="http://" + sys.argv[2])
def send(profiles):
    api.Profiles.bulk_import_profiles({"data": {"type": "profile-bulk-import-job",
        "attributes": {"profiles": {"data": profiles}},
        "relationships": {"lists": {"data": [{"type": "list", "id": "Y6nRLr"}]}}}})
batch = []
with open(sys.argv[1], newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        email = row["EMail"].strip().lower()
        if not good(email):
            continue
        batch.append({"type": "profile", "attributes": {"email": email,
            "first_name": row["FirstName"] or None, "last_name": row["LastName"] or None,
            "phone_number": row["Telephone"].replace(" ", "") or None,
            "location": {"city": row["City"] or None, "country": row["Country"] or None},
            "properties": {"customer_id": row["CustomerId"], "date_of_birth": row["DateOfBirth"],
                "loyalty_tier": row["LoyaltyTier"], "lifetime_value": row["LifetimeValue"]}}})
        if len(batch) == 10000:
            send(batch)
            batch = []
if batch:
    send(batch)
"""
FLOOR = """
import sys, threading, time, concurrent.futures, http.client, pathlib
bodies = sorted(pathlib.Path(sys.argv[1]).iterdir())
count, local = int(sys.argv[3]), threading.local()
HEADERS = {"Authorization": "Klaviyo-API-Key pk_sandbox_full", "revision": "2026-07-15",
           "Content-Type": "application/vnd.api+json"}
def send(body):
    while True:
        if not hasattr(local, "c"):
            local.c = http.client.HTTPConnection(sys.argv[2])
        local.c.request("POST", "/api/profile-bulk-import-jobs", body.read_bytes(), HEADERS)
        answer = local.c.getresponse()
        answer.read()
        if answer.status == 202:
            return
        time.sleep(float(answer.headers["Retry-After"]))
started = time.monotonic()
with concurrent.futures.ThreadPoolExecutor(12) as pool:
    flights = []
    for number in range(count):
        # Ten in a window of a second, and 50 ms for jitter.
        pause = started + (number // 10) * 1.05 - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        flights.append(pool.submit(send, bodies[number % len(bodies)]))
    for flight in flights:
        flight.result()
print(time.monotonic() - started)
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("all", "plan", "wide", "linear", "disk", "push", "cpu", "stand-in", "start")
    parser.add_argument("part", nargs="?", choices=parts, default="all")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--no-official",
        action="store_true",
        help="leave the official package out: it takes minutes",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often cpu is measured")
    options = parser.parse_args()
    if options.part in ("all", "stand-in"):
        _stand_in(options.rows)
    if options.part in ("all", "start"):
        _start()
    if options.part in ("stand-in", "start"):
        return 0
    with tempfile.TemporaryDirectory(prefix="segment-bench-") as name:
        folder = Path(name)
        if options.part in ("all", "wide"):
            _wide(folder)
        if options.part == "wide":
            return 0
        file = _snapshot(folder, options.rows)
        if options.part in ("all", "plan"):
            _plan(folder, file, options.rows)
        if options.part in ("all", "linear"):
            _linear(folder, file, options.rows)
        if options.part in ("all", "disk"):
            _disk(folder, options.rows)
        if options.part in ("all", "push"):
            _push(folder, file, options.rows)
        if options.part in ("all", "cpu"):
            _cpu(
                folder, file, options.rows, official=not options.no_official, rounds=options.rounds
            )
    return 0


def _emit(**figures: Any) -> None:
    rounded = {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in figures.items()
    }
    print(json.dumps(rounded), flush=True)


def _stand_in(rows: int) -> None:
    command = [sys.executable, "-m", "sandbox.klaviyo.bench", "--rows", str(min(rows, 1_000_000))]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    _emit(bench="stand-in", **json.loads(said))


def _start() -> None:
    """The least of several: the first one compiles."""
    starts = [_run([sys.executable, "-c", "import function_app"]) for _ in range(5)]
    _emit(
        bench="start",
        cpu_s=min(each["cpu_s"] for each in starts),
        wall_s=min(each["wall_s"] for each in starts),
    )


def _snapshot(folder: Path, rows: int) -> Path:
    # In a process of its own: Linux counts a parent's memory as the first of its child's peak.
    _run(
        [
            *sandbox_command("snapshot"),
            "--rows",
            str(rows),
            "--layout",
            "single",
            "--out",
            str(folder / "in"),
        ]
    )
    file = next(path for path in (folder / "in").rglob("*.csv"))
    _emit(bench="snapshot", rows=rows, columns=10, megabytes=file.stat().st_size / 1e6)
    return file


def _plan(folder: Path, file: Path, rows: int) -> None:
    used = _run([sys.executable, "-c", PLAN, str(file), str(folder / "plan"), MAPPING])
    _emit(bench="plan", rows=rows, **used, cpu_s_per_million=used["cpu_s"] / rows * 1e6)


def _wide(folder: Path) -> None:
    """Plan wide files with the memory that is the default. A byte costs about the same in all."""
    a_byte = None
    for columns, rows, cell in WIDE:
        file = folder / f"wide-{columns}-{cell}.csv"
        _run([sys.executable, "-c", WIDE_FILE, str(columns), str(rows), str(cell), str(file)])
        plan = folder / f"plan-{file.stem}"
        used = _run([sys.executable, "-c", PLAN, str(file), str(plan), WIDE_MAPPING])
        size = file.stat().st_size
        cost = used["cpu_s"] / size
        a_byte = a_byte or cost
        _emit(
            bench="wide",
            columns=columns,
            rows=rows,
            bytes_a_row=round(size / rows),
            **used,
            cpu_ns_a_byte=cost * 1e9,
            of_first=cost / a_byte if rows > 1 else None,
            most_of_first=WIDE_CPU,
            most_peak_mb=WIDE_MB,
        )


def _linear(folder: Path, file: Path, rows: int) -> None:
    """Ten times the rows, beside the limits on their CPU and memory."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        here = Path(name)
        many = _snapshot(here, 10 * rows)
        planned = [
            _run([sys.executable, "-c", PLAN, str(each), str(here / plan), MAPPING])
            for plan, each in (("plan-few", file), ("plan-many", many))
        ]
        _emit_linear("linear plan", 10 * rows, *planned)
        with _klaviyo(here, limits="off") as klaviyo:
            few_pushed = _push_once(klaviyo, file, here, here / "few")
            _reset(klaviyo)
            many_pushed = _push_once(klaviyo, many, here, here / "many")
        _emit_linear("linear push", 10 * rows, few_pushed, many_pushed)


def _disk(folder: Path, rows: int) -> None:
    """Ten times the rows on a disk as small as an instance's, of which plans may take a part."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        many = _snapshot(Path(name), 10 * rows)
        small = Path(name) / "disk"
        small.mkdir()
        size = f"size={FLEX_CONSUMPTION_MB}000000"
        mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(small)]
        is_mounted = not subprocess.run(mount, check=False, capture_output=True).returncode
        try:
            command = [sys.executable, "-c", PLAN, str(many), str(small / "plan"), MAPPING]
            most_mb, stop = [0.0], threading.Event()
            watcher = threading.Thread(target=_watch_disk, args=(small, most_mb, stop))
            watcher.start()
            try:
                used = _run(command)
            finally:
                stop.set()
                watcher.join()
        finally:
            if is_mounted:
                subprocess.run(["umount", str(small)], check=True)
        _emit(
            bench="disk",
            rows=10 * rows,
            **used,
            mounted=is_mounted,
            disk_mb=most_mb[0],
            most_disk_mb=FLEX_CONSUMPTION_MB * SHARE_OF_PLANS,
        )


def _watch_disk(folder: Path, most_mb: list[float], stop: threading.Event) -> None:
    while not stop.wait(0.05):
        used = 0
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                used += path.stat().st_size
        most_mb[0] = max(most_mb[0], used / 1e6)


def _emit_linear(bench: str, rows: int, tenth: dict[str, Any], used: dict[str, Any]) -> None:
    times = used["cpu_s"] / tenth["cpu_s"]
    _emit(
        bench=bench,
        rows=rows,
        **used,
        of_a_tenth=times,
        most_of_a_tenth=LINEAR_CPU,
        most_peak_mb=LINEAR_MB,
    )


def _push(folder: Path, file: Path, rows: int) -> None:
    """Measure a whole run under Klaviyo's limits, up to the last acceptance, beside the floor."""
    for latency_s in (0.0, 1.0):
        with _klaviyo(folder, limits="klaviyo") as klaviyo:
            _latency(klaviyo, latency_s)
            state = folder / f"state-{latency_s}"
            used = _push_once(klaviyo, file, folder, state)
            times = _times(state)
        with _klaviyo(folder, limits="klaviyo") as klaviyo:
            # The floor is without latency: what the limits alone cost.
            floor_s = _floor(klaviyo, folder, file, rows)
        _emit(
            bench="push",
            rows=rows,
            latency_s=latency_s,
            floor_s=floor_s,
            seconds=times["last"],
            of_floor=times["last"] / floor_s,
            first_job_s=times["first"],
            throttled=used.pop("throttled"),
            **used,
        )


def _cpu(folder: Path, file: Path, rows: int, *, official: bool, rounds: int) -> None:
    """Limits off: CPU of the exporter's process beside plain scripts on the same file.

    They take turns, and the least of each counts: what else runs on the machine only ever adds.
    """
    with _klaviyo(folder, limits="off") as klaviyo:
        address = klaviyo["url"].removeprefix("http://")

        def pushed() -> dict[str, Any]:
            state = folder / f"state-{time.monotonic_ns()}"
            used = _push_once(klaviyo, file, folder, state)
            return {name: used[name] for name in ("cpu_s", "wall_s", "peak_mb")}

        contestants = {
            "standard library": lambda: _run(
                [sys.executable, "-c", STANDARD_LIBRARY, str(file), address]
            ),
            "exporter": pushed,
        }
        if official:
            contestants["klaviyo-api"] = lambda: _run(
                [sys.executable, "-c", OFFICIAL_PACKAGE, str(file), address]
            )
        results: dict[str, list[dict[str, Any]]] = {who: [] for who in contestants}
        for number in range(rounds):
            for who, contest in contestants.items():
                if number == 0 or who != "klaviyo-api":  # minutes each time, and not near anything
                    _reset(klaviyo)
                    results[who].append(contest())
    baseline_s = min(used["cpu_s"] for used in results["standard library"])
    for who, runs in results.items():
        best = min(runs, key=lambda used: float(used["cpu_s"]))
        best["peak_mb"] = max(used["peak_mb"] for used in runs)
        all_cpu_s = [round(used["cpu_s"], 2) for used in runs]
        _emit(
            bench="cpu",
            who=who,
            rows=rows,
            **best,
            all_cpu_s=all_cpu_s,
            of_standard_library=best["cpu_s"] / baseline_s,
        )


def _push_once(klaviyo: dict[str, Any], file: Path, folder: Path, state: Path) -> dict[str, Any]:
    mapping = folder / "mapping.yaml"
    mapping.write_text(MAPPING)
    environment = {"KLAVIYO_API_KEY": "pk_sandbox_full", "KLAVIYO_BASE_URL": klaviyo["url"]}
    command = [
        sys.executable,
        "-m",
        "exporter",
        "push",
        str(file),
        "--list",
        LIST_ID,
        "--mapping",
        str(mapping),
    ]
    used = _run([*command, "--state", str(state), "--json"], environment)
    counted = requests.get(f"{klaviyo['control']}/state", timeout=30).json()
    return {**used, "throttled": counted["throttled"]}


def _times(state: Path) -> dict[str, float]:
    """Return the seconds from a run's creation to its first and to its last acceptance."""
    folder = next(state.glob("runs/*/*/run.json")).parent
    created = datetime.fromisoformat(json.loads((folder / "run.json").read_text())["created_at"])
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    accepted = [
        datetime.fromisoformat(event["at"]) for event in events if event["kind"] == "batch_accepted"
    ]
    return {
        "first": (min(accepted) - created).total_seconds(),
        "last": (max(accepted) - created).total_seconds(),
    }


def _floor(klaviyo: dict[str, Any], folder: Path, file: Path, rows: int) -> float:
    """Replay ready-made batches as fast as the limits allow."""
    bodies = folder / "bodies"
    if not bodies.exists():
        _run([sys.executable, "-c", BODIES, str(file), str(folder / "floor"), str(bodies), MAPPING])
    jobs = -(-rows // 10_000)
    address = klaviyo["url"].removeprefix("http://")
    command = [sys.executable, "-c", FLOOR, str(bodies), address, str(jobs)]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    )


@contextlib.contextmanager
def _klaviyo(folder: Path, *, limits: str) -> Iterator[dict[str, Any]]:
    command = sandbox_command("klaviyo", "--port", "0", "--limits", limits, "--job-seconds", "1")
    with running(command, log=folder / "klaviyo.log") as (_, ready):
        _reset(ready)
        yield ready


def _reset(klaviyo: dict[str, Any]) -> None:
    requests.post(f"{klaviyo['control']}/reset", timeout=60).raise_for_status()
    body = {"id": LIST_ID, "name": "Bench"}
    requests.post(f"{klaviyo['control']}/lists", json=body, timeout=60).raise_for_status()


def _latency(klaviyo: dict[str, Any], seconds: float) -> None:
    if seconds:
        fault = [{"match": ".*", "kind": "latency", "seconds": seconds, "times": None}]
        requests.post(f"{klaviyo['control']}/faults", json=fault, timeout=60).raise_for_status()


def _run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a process to its end. Returns its CPU and clock seconds and its peak memory."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[1:4]} failed: {said[-2000:]}")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.monotonic() - started,
        "peak_mb": _megabytes(usage),
    }


def _megabytes(usage: resource.struct_rusage) -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
    return usage.ru_maxrss * unit / 1e6


if __name__ == "__main__":
    sys.exit(main())
