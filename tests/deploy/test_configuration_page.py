"""docs/configuration.md, without the table that scripts/docs.py writes: names, host.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from exporter.settings import specs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_every_name_that_the_code_reads_from_the_environment_is_on_the_page() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "exporter").rglob("*.py"))
    read = set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"|envvar="(\w+)"', source))
    names = {name for pair in read for name in pair if name}
    assert {"KLAVIYO_API_KEY", "EXPORTER_APP", "EXPORTER_TOKEN", "AUTH_CLIENT_ID"} <= names
    table = PAGE.partition("## On a command line")[2].partition("\n## ")[0]
    own = set(re.findall(r"(?m)^\| `(\w+)` \|", table))
    assert own == names - {row.name for row in specs()} - {"WEBSITE_INSTANCE_ID"}  # Azure's own


def test_host_json_is_as_the_page_says() -> None:
    host = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))
    said = {}
    for cells in re.findall(r"(?m)^\| (`.*)\|$", PAGE.partition("## host.json")[2]):
        names, values, _ = (cell.strip() for cell in cells.split("|"))
        first, *others = re.findall(r"`([\w.]+)`", names)
        section, _, _ = first.rpartition(".")
        keys = [first, *(f"{section}.{other}" for other in others)]
        said |= dict(zip(keys, values.split(", "), strict=True))
    assert said == {"functionTimeout": _written(host["functionTimeout"])} | {
        f"{section}.{key}": _written(value)
        for section in ("queues", "blobs")
        for key, value in host["extensions"][section].items()
        if f"{section}.{key}" != "queues.messageEncoding"  # the host's own default
    }


def _written(value: Any) -> str:
    """As a person writes it: "00:00:10" is 10 s."""
    if not isinstance(value, str):
        return str(value)
    hours, minutes, seconds = map(int, value.split(":"))
    assert hours == 0
    return f"{minutes} min" if minutes else f"{seconds} s"
