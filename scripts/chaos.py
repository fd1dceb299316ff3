"""Kill the real process at many random points of many runs, and check every list and report.

    .venv/bin/python scripts/chaos.py --kills 100 --seed 1

Each case is one snapshot and one run, on one or two hosts. In each case hosts die by SIGKILL up to
four times, because a message is poison after its fifth delivery, and come back on the same or on
another machine. Prints JSON lines. The exit code is 0 only if every list held exactly what its
snapshot should give and every report named exactly the bad rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exporter.klaviyo.rate_limit import IN_FLIGHT  # noqa: E402
from tests.journeys.rig import Case, Rig, rig  # noqa: E402

KILLS_A_CASE = 4
PHASES = ["before", "plan", "send", "confirm", "finish", "closed"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="at least so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=60_000)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    began, number, hits, failures = time.monotonic(), 0, 0, 0
    phases: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, rig(Path(folder)) as it:
        while hits < options.kills:
            number += 1
            outcome = run_case(it, number, rows=options.rows, dice=dice)
            print(json.dumps(outcome), flush=True)
            hits += len(outcome["killed_in"])
            phases.update(outcome["killed_in"])
            failures += outcome["wrong"] is not None
        leaked = len(it.addresses_in_logs())
    seconds = round(time.monotonic() - began)
    summary = {
        "seed": options.seed,
        "cases": number,
        "kills": hits,
        "killed_in": dict(phases),
        "seconds": seconds,
    }
    print(json.dumps({**summary, "failures": failures, "addresses_in_logs": leaked}))
    return 1 if failures or leaked else 0


def run_case(it: Rig, number: int, *, rows: int, dice: random.Random) -> dict[str, Any]:
    it.control("reset", {})
    it.control("settings", {"bad_rows": dice.choice(["all", "first", "none"])})
    it.control(
        "faults",
        [{"match": "POST /api/profile-bulk", "kind": "latency", "seconds": 0.3, "times": None}],
    )
    case = it.case(number, rows=rows)
    hosts = dice.choice([1, 1, 2])
    began = time.monotonic()
    killed_in = _kill(it, case, hosts=hosts, dice=dice)
    wrong: str | None = None
    jobs = 0
    try:
        with it.host("survivor"):
            run = case.wait(limit_s=180)
        case.check()
        jobs = it.jobs() - run.counts.jobs
        assert jobs <= IN_FLIGHT * len(killed_in), f"{jobs} batches were sent twice"
    except AssertionError as exc:
        wrong = str(exc)[:500]
    return {
        "case": number,
        "hosts": hosts,
        "killed_in": killed_in,
        "jobs_sent_twice": jobs,
        "throttled": it.state()["throttled"],
        "seconds": round(time.monotonic() - began, 1),
        "wrong": wrong,
    }


def _kill(it: Rig, case: Case, *, hosts: int, dice: random.Random) -> list[str]:
    """Start hosts and kill them one at a time at random. Returns the phase at each kill."""
    killed_in: list[str] = []
    for death in range(KILLS_A_CASE):
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(it.host(f"machine-{dice.randrange(3)}-{host}"))
                for host in range(hosts)
            ]
            if death == 0:
                case.drop()
            phase = _wait_for_a_moment(case, dice)
            if phase == "closed":
                break
            killed_in.append(phase)
            for host in running:  # the second one, if there is one, goes on for a moment
                host.kill()
                time.sleep(dice.uniform(0, 0.5))
    return killed_in


def _wait_for_a_moment(case: Case, dice: random.Random) -> str:
    """Wait for a phase that is still to come, and a random while longer. Returns the phase."""
    still_to_come = PHASES[PHASES.index(_phase(case)) : -1] or ["closed"]
    wanted = dice.choice([*still_to_come, *(["send"] * 3 if "send" in still_to_come else [])])
    deadline = time.monotonic() + 20
    while _phase(case) not in (wanted, "closed") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(dice.uniform(0, {"before": 3.0, "send": 1.0}.get(wanted, 0.3)))
    return _phase(case)


def _phase(case: Case) -> str:
    run = case.run()
    return "before" if run is None else str(run.phase)


if __name__ == "__main__":
    sys.exit(main())
