"""`make docs`: write what the code knows into the documents. `--check` fails where they differ."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exporter.http.routes import build  # noqa: E402
from exporter.klaviyo.backoff import RETRIES, Outcome  # noqa: E402
from exporter.management.roles import as_table  # noqa: E402
from exporter.rejection_reasons import MESSAGES  # noqa: E402
from exporter.settings import specs  # noqa: E402
from exporter.telemetry import METRICS  # noqa: E402

DEFAULTS = {None: "must be set", "": "none"}
NEXT = {Outcome.REFUSED: "the run ends"}


def settings() -> Iterator[str]:
    for row in specs():
        default = DEFAULTS.get(row.default, f"`{row.default}`")
        if row.name == "WORK_FOLDER":
            default = "a temporary folder"
        yield f"| `{row.name}` | {default} | {row.meaning} |"


def retries() -> Iterator[str]:
    for outcome, retry in RETRIES.items():
        then = NEXT.get(outcome, "the step is put off")
        yield f"| {outcome} | {retry.attempts} | {retry.within_s:g} s | {then} |"


def reasons() -> Iterator[str]:
    for reason, message in MESSAGES.items():
        yield f"| `{reason}` | {message} |"


def metrics() -> Iterator[str]:
    for name, (unit, description) in METRICS.items():
        yield f"| `{name}` | {unit.strip('{}')} | {description} |"


def roles() -> Iterator[str]:
    yield from as_table().splitlines()[2:]


def openapi() -> str:
    return json.dumps(build(_no_management).openapi(), ensure_ascii=False, indent=1) + "\n"


def _no_management() -> Any:
    raise AssertionError("describing the API asks nobody")


TABLES = {
    "docs/configuration.md": settings,
    "docs/explain/failures.md": retries,
    "docs/how-to/watch.md": metrics,
    "docs/rejected-rows.md": reasons,
    "docs/roles.md": roles,
}


def with_table(text: str, rows: Iterator[str]) -> str:
    """The document with its first table's rows replaced."""
    return re.sub(
        r"(?m)(^\| --- .*\n)(?:\|.*\n)*\n?",
        lambda m: m[1] + "\n".join(rows) + "\n\n",
        text,
        count=1,
    )


def main() -> int:
    differing = []
    wanted = {
        name: with_table((ROOT / name).read_text(encoding="utf-8"), rows())
        for name, rows in TABLES.items()
    }
    wanted["docs/openapi.json"] = openapi()
    for name, text in wanted.items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            differing.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if differing and "--check" in sys.argv:
        print(f"differ from the code: {', '.join(differing)}; run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
