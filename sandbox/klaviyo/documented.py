"""What Klaviyo's official document says of each endpoint's query parameters.

`documented.json` is cut out of the OpenAPI document of revision 2026-07-15 (revision 2026-10-15 has
the same for these endpoints). To make it again:

    python -m sandbox.klaviyo.documented openapi.json > sandbox/klaviyo/documented.json
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("documented.json")
OURS = re.compile(r"/api/(accounts|lists|profiles|profile-import|profile-bulk-import-jobs|data-p)")
_FILTERED = re.compile(r"`([\w.$]+)`: ((?:`[a-z-]+`(?:, )?)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The query parameters of one endpoint.

    choices: parameter -> the names that it may list, separated by commas (`include`, `sort`,
    `fields[...]`, `additional-fields[...]`).
    operators: for `filter`, field -> its operators.
    page: default, smallest and largest `page[size]`; None if the endpoint has no pages.
    """

    choices: Mapping[str, frozenset[str]] = field(default_factory=dict)
    operators: Mapping[str, frozenset[str]] = field(default_factory=dict)
    page: tuple[int, int, int] | None = None

    def names(self) -> set[str]:
        pages = ("page[size]", "page[cursor]") if self.page else ()
        return {*self.choices, *pages, *(("filter",) if self.operators else ())}


NONE = Parameters()


@functools.cache
def parameters() -> dict[str, Parameters]:
    """The parameters by "METHOD /path/{id}"; an endpoint that is not there takes none."""
    table = json.loads(TABLE.read_text("utf-8"))
    return {
        endpoint: Parameters(
            choices={
                name: frozenset(table["sets"][of] if isinstance(of, str) else of)
                for name, of in entry.get("choices", {}).items()
            },
            operators={name: frozenset(of) for name, of in entry.get("operators", {}).items()},
            page=tuple(entry["page"]) if "page" in entry else None,
        )
        for endpoint, entry in table["endpoints"].items()
    }


def cut_out(document: Mapping[str, Any]) -> dict[str, Any]:
    """The table from the official document."""
    sets: dict[str, list[str]] = {}
    endpoints = {}
    for endpoint, operation in _operations(document):
        entry: dict[str, Any] = {}
        for each in operation.get("parameters", []):
            name, schema = each["name"], each["schema"]
            choices = schema.get("enum") or schema.get("items", {}).get("enum")
            if choices:
                shared = _shared(sets, name, choices, endpoint)
                entry.setdefault("choices", {})[name] = shared
            elif name == "filter":
                found = _FILTERED.findall(each["description"])
                entry["operators"] = {key: re.findall(r"[a-z-]+", of) for key, of in found}
            elif name == "page[size]":
                entry["page"] = [schema[key] for key in ("default", "minimum", "maximum")]
        if entry:
            endpoints[endpoint] = entry
    version = document["info"]["version"]
    return {"revision": version, "sets": sets, "endpoints": dict(sorted(endpoints.items()))}


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, operations in sorted(document["paths"].items()):
        if OURS.match(path):
            for method in sorted(operations.keys() & {"get", "post", "patch", "delete"}):
                yield f"{method.upper()} {path.replace('{job_id}', '{id}')}", operations[method]


def _shared(
    sets: dict[str, list[str]], name: str, choices: list[str], endpoint: str
) -> str | list[str]:
    """A name for choices that several endpoints share; short ones stand where they are used."""
    if not name.startswith("fields["):
        return choices
    for known, of in sets.items():
        if of == choices:
            return known
    resource = name.removeprefix("fields[").removesuffix("]")
    known = resource if resource not in sets else f"{resource} of {endpoint}"
    sets[known] = choices
    return known


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(json.dumps(cut_out(json.load(file)), indent=1))
