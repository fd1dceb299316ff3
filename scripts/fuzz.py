"""`make fuzz`: plan thousands of damaged snapshots.

Every row of a snapshot must be accounted for, or the file refused.

    make fuzz                                  ten minutes, a new seed
    make fuzz ARGS="--seconds 60 --seed 7"     the same cases again

Starts from the corpus in tests/data: cuts, repeats and spoils bytes, joins files. Each snapshot is
planned twice, its bytes arriving in other portions, and the two must agree; every profile must be
strict JSON. model.json and blob names are spoilt likewise. A case that fails is written to a file,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exporter.errors import MappingError, SnapshotUnreadable  # noqa: E402
from exporter.planning.plan import Plan  # noqa: E402
from exporter.snapshots.model_json import parse_table  # noqa: E402
from exporter.snapshots.paths import NotASnapshot, parse_blob_name  # noqa: E402
from tests.planning.planned import planned  # noqa: E402

DATA = ROOT / "tests" / "data"
CORPUS = sorted(
    path
    for path in DATA.rglob("*.*")
    if path.suffix != ".json" and "documents" not in path.relative_to(DATA).parts[0]
)
PARTITION = {
    "name": "VIPs_1",
    "location": "https://x.example/segments/CustomerInsights_1/D/VIPs/2026/08/24/1433/VIPs_1.csv",
    "fileFormatSettings": {"columnHeaders": "true", "delimiter": ",", "encoding": "utf-8"},
}
TABLE = {
    "name": "VIPs",
    "attributes": [{"name": "EMail", "dataType": "string"}],
    "partitions": [PARTITION],
}
MODEL = {"entities": [TABLE]}
NAMES = [
    "CustomerInsights_abcd/Destination/VIPs/2026/08/24/1433/VIPs_1.csv",
    "Dynamics365CustomerInsights/Export/VIPs/VIPs_1.csv",
    "CustomerInsights_abcd/Dest_VIPs_1613059542.csv",
    "segments/VIPs.csv.gz",
]
TOKENS = (
    b'"', b'""', b",", b";", b"\t", b"|", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"\xff\xfe", b"EMail", b"a@example.com", b"@", b"=1+1", b" " * 70, b"\xc3", b"\xe2\x80\xa8",
    b"null", b"{", b"}", b"../", b"%00",
)  # fmt: skip
# A case takes some milliseconds. Far more means that something is tried again and again.
SLOW_S = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cases", type=int, default=None, help="stop after so many cases")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    return fuzz(seed=seed, seconds=options.seconds, cases=options.cases)


def fuzz(*, seed: int, seconds: float, cases: int | None) -> int:
    """Run cases until time or their number is up.

    Returns 1 if a case failed: it is in a file then, and its trace is printed.
    """
    outcomes: Counter[str] = Counter()
    ends_at = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends_at and (cases is None or number < cases):
        case = random.Random(f"{seed}-{number}")
        data, check = _case(case)
        began = time.monotonic()
        try:
            outcomes[check(case, data)] += 1
            took = time.monotonic() - began
            assert took < SLOW_S, f"took {took:.1f} s"
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{number}"
            kept.write_bytes(data)
            print(f"case {number} of seed {seed} failed in {check.__name__}: {kept}")
            print(traceback.format_exc())
            return 1
        number += 1
    print(json.dumps({"fuzz": seed, "cases": number, **dict(sorted(outcomes.items()))}))
    return 0


def _case(case: random.Random) -> tuple[bytes, Callable[[random.Random, bytes], str]]:
    kind = case.random()
    if kind < 0.8:
        return _spoilt(case, case.choice(CORPUS).read_bytes()[:200_000]), snapshot
    if kind < 0.9:
        return _spoilt(case, json.dumps(MODEL).encode()), model
    return _spoilt(case, case.choice(NAMES).encode()), blob_name


def _spoilt(case: random.Random, data: bytes) -> bytes:
    for _ in range(case.choice((0, 1, 1, 2, 3, 8))):
        at, other = sorted((case.randint(0, len(data)), case.randint(0, len(data))))
        match case.randrange(7):
            case 0:
                data = data[:at] + data[other:]
            case 1:
                data = data[:other] + data[at:other] * case.randint(1, 4) + data[other:]
            case 2 | 3:
                data = data[:at] + case.choice(TOKENS) + data[at:]
            case 4:
                data = data[:at] + case.randbytes(case.randint(1, 4)) + data[at + 1 :]
            case 5:
                data = data[:at]
            case 6:
                data += case.choice(CORPUS).read_bytes()[:20_000]
    return data[:400_000]


def snapshot(case: random.Random, data: bytes) -> str:
    """Plan the bytes as one partition, whole and in small portions and pieces."""
    name = case.choice(("a.csv", "a.csv.gz", "a.parquet", "a"))
    first_line = data[:100].partition(b"\n")[0].decode(errors="replace").strip("\ufeff\r")
    header = first_line.split(",")[0].strip('"')
    column = header if header.isprintable() and header.strip() else "EMail"
    keep = case.random() < 0.5
    whole = _outcome(name, [data], column, keep)
    size = case.randint(1, max(len(data), 1))
    cut = _outcome(name, [data[at : at + size] for at in range(0, len(data), size)], column, keep)
    assert whole == cut, f"read in portions of {size} bytes it is another: {whole} {cut}"
    return "planned" if isinstance(whole, tuple) else "refused"


def _outcome(name: str, portions: list[bytes], column: str, keep: bool) -> object:
    try:
        with planned({name: portions}, {"email": column}, keep_rows=keep) as found:
            profiles = found.profiles()
            assert len(profiles) == found.plan.profiles
            assert all(set(each["attributes"]) == {"email"} for each in profiles)
            assert len(found.rejected()) == sum(found.plan.rejected.values())
            assert len(found.duplicates()) == found.plan.duplicates
            return (
                _numbers(found.plan),
                [each["attributes"]["email"] for each in profiles],
                found.rejections(),
            )
    except (SnapshotUnreadable, MappingError) as exc:
        return str(exc.message)


def _numbers(plan: Plan) -> tuple[int, int, int, tuple[tuple[str, int], ...]]:
    return plan.rows, plan.profiles, plan.duplicates, tuple(sorted(plan.rejected.items()))


def model(_: random.Random, data: bytes) -> str:
    """Read the bytes as model.json; one that cannot be read counts as missing."""
    table = parse_table(data, "VIPs", container="segments")
    return "no model" if table is None else "model"


def blob_name(_: random.Random, data: bytes) -> str:
    """Place a blob name: its snapshot holds it, or it belongs to none."""
    name = data.decode(errors="replace")
    try:
        ref = parse_blob_name(name)
    except NotASnapshot:
        return "no snapshot"
    assert name.startswith(ref.prefix)
    assert ref.holds(name)
    return "snapshot"


if __name__ == "__main__":
    sys.exit(main())
