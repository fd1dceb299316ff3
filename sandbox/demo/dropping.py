"""`python -m sandbox drop FILE`: give a demo that stays a file of your own, and see the list.

The file goes where a person would drop it in Azure: into `segments/` of the container. It has an
export of its own, with the mapping that the app suggests for its columns, and a list of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from azure.storage.blob import BlobServiceClient

from exporter.cli.wording import report_as_text
from exporter.definitions.catalog import Catalog
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.definitions.suggestions import suggest
from exporter.errors import ExporterError
from exporter.reading.source import PartitionSource, read_columns
from exporter.runs.run import DELIVERED
from exporter.storage.azure_blobs import BlobStore
from sandbox.demo.export import CONNECTION
from sandbox.demo.following import follow, runs_of
from sandbox.demo.running import RunningDemo, find_demo
from sandbox.demo.stage import CONTAINER, STATE_CONTAINER, console
from sandbox.klaviyo import FULL_KEY
from sandbox.klaviyo.settings import REVISIONS

SUFFIXES = (".csv", ".csv.gz", ".parquet")
LIMIT_S = 300
CHUNK_BYTES = 262_144


class CannotDrop(Exception):
    """The file cannot be delivered by the demo; the message says why, and what to do."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox drop",
        description="Drop a file into the demo that stays, and show what its list holds then.",
        epilog="Example: make demo ARGS=--stay, and in another terminal: python -m sandbox drop "
        "vips.csv",
    )
    parser.add_argument("file", type=Path, help="CSV, CSV packed with gzip, or Parquet")
    file = parser.parse_args(argv).file
    demo = find_demo()
    if demo is None:
        return _say("No demo is running. Start one that stays: make demo ARGS=--stay")
    try:
        return _drop(demo, file)
    except CannotDrop as exc:
        return _say(str(exc))
    except ExporterError as exc:
        return _say(f"{exc.message}\n{exc.hint}")


def _say(why: str) -> int:
    print(why, file=sys.stderr)
    return 1


def _drop(demo: RunningDemo, file: Path) -> int:
    suffix = next((each for each in SUFFIXES if file.name.lower().endswith(each)), None)
    if suffix is None or not file.is_file():
        raise CannotDrop(f"{file} is not a file that ends in {', '.join(SUFFIXES)}.")
    segment = re.sub(r"[^A-Za-z0-9]+", "-", file.name[: -len(suffix)]).strip("-") or "file"
    service = BlobServiceClient.from_connection_string(demo.storage)
    store = BlobStore(service.get_container_client(STATE_CONTAINER))
    export = _export(demo, Catalog(store), segment, file)
    before = {run.run_id for run in runs_of(store, export.id)}
    with file.open("rb") as content:
        blob = f"segments/{segment}{suffix}"
        service.get_blob_client(CONTAINER, blob).upload_blob(content, overwrite=True)
    console.print(f"Dropped {blob}; export {export.id} delivers it to list {export.list_id}.")
    run = follow(
        store,
        lambda: next((run for run in runs_of(store, export.id) if run.run_id not in before), None),
        limit_s=LIMIT_S,
    )
    report = store.read(run.folder + "report.json")
    assert report is not None
    print(report_as_text(json.loads(report.data)))
    show_list(demo.control, export.list_id)
    return 0 if run.status in DELIVERED else 1


def _export(demo: RunningDemo, catalog: Catalog, segment: str, file: Path) -> Export:
    """The export for files of this name, with the mapping that suits this one."""
    columns = read_columns(PartitionSource(name=file.name, open=lambda: _chunks(file)))
    mapping = suggest(columns)
    if "email" not in mapping:
        names = ", ".join(columns)
        raise CannotDrop(f"No column of {file.name} is called like an e-mail address: {names}")
    known = catalog.export(export_id := f"drop-{segment.lower()}")
    export = Export(
        id=export_id,
        name=f"Dropped {segment}",
        connection=CONNECTION,
        list_id=known.list_id if known else _new_list(demo, segment),
        segments=[segment],
        mapping=parse_mapping(mapping),
    )
    catalog.save(export)
    return export


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk


def _new_list(demo: RunningDemo, name: str) -> str:
    headers = {"Authorization": f"Klaviyo-API-Key {FULL_KEY}", "revision": REVISIONS[-1]}
    document = {"data": {"type": "list", "attributes": {"name": name}}}
    answer = requests.post(f"{demo.klaviyo}/api/lists", json=document, headers=headers, timeout=30)
    answer.raise_for_status()
    return str(answer.json()["data"]["id"])


def show_list(control_url: str, list_id: str) -> None:
    """Print what a list of the stand-in Klaviyo holds: how many members, and the first of them."""
    answer = requests.get(f"{control_url}/lists/{list_id}", timeout=30)
    answer.raise_for_status()
    known = answer.json()
    print(f"List {known['id']} ({known['name']}) holds {_members(known['members'])}.")
    for each in known["first"]:
        values = _flat(each)
        others = ", ".join(f"{name}={value}" for name, value in values.items() if name != "email")
        print(f"  {values.get('email', '')}  {others}")


def _members(number: int) -> str:
    return f"{number:,} member{'' if number == 1 else 's'}"


def _flat(attributes: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in attributes.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat
