"""Where Customer Insights writes a snapshot's files, and the model.json that describes them.

Sources: Microsoft Learn, "Export data to an Azure Blob Storage" (2026-07-16) for the dated layout,
its text before 2020-08-13 for the undated one, and "Adobe Campaign Standard" (2024-11-06) for the
mapped one.
"""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

from sandbox.snapshots.columns import DATA_TYPES
from sandbox.snapshots.spec import ENCODINGS, Layout, Spec


def model_path(spec: Spec) -> str:
    return f"{_destination(spec)}/model.json"


def partition_path(spec: Spec, partition: int) -> str:
    """Where partition 1, 2, ... is, container left out."""
    name = f"{spec.segment}_{partition}.csv"
    match spec.layout:
        case Layout.DATED | Layout.DATED_NO_MODEL:
            moment = f"{spec.exported_at:%Y/%m/%d/%H%M}"
            return f"{_destination(spec)}/{spec.segment}/{moment}/{name}"
        case Layout.UNDATED:
            return f"Dynamics365CustomerInsights/Export/{spec.segment}/{name}"
        case Layout.MAPPED:
            moment = f"{spec.exported_at.timestamp():.0f}"
            return f"{_destination(spec)}_{spec.segment}_{moment}.csv"
        case Layout.SINGLE:
            return f"{spec.segment}.csv"


def _destination(spec: Spec) -> str:
    return f"CustomerInsights_{spec.instance_id}/{spec.destination}"


def model(spec: Spec) -> dict[str, object]:
    """model.json, the Common Data Model's metadata, as Customer Insights is thought to write it."""
    types = {name: DATA_TYPES.get(column, "string") for column, name in spec.columns.items()}
    entity = {
        "$type": "LocalEntity",
        "name": spec.segment,
        "attributes": [
            {"name": name, "dataType": types.get(name, "string")} for name in spec.column_names()
        ],
        "partitions": [
            _partition_entry(spec, partition) for partition in range(1, spec.partitions + 1)
        ],
    }
    return {
        "application": "CustomerInsights",
        "name": spec.destination,
        "version": "1.0",
        "modifiedTime": (spec.exported_at + timedelta(minutes=2)).isoformat(),
        "entities": [entity],
    }


def _partition_entry(spec: Spec, partition: int) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": f"{spec.segment}_{partition}",
        "refreshTime": spec.exported_at.isoformat(),
        "location": f"{spec.container_url}/{quote(partition_path(spec, partition))}",
    }
    if spec.format_settings:
        entry["fileFormatSettings"] = {
            "$type": "CsvFormatSettings",
            "columnHeaders": spec.header,
            "delimiter": spec.delimiter,
            "quoteStyle": "QuoteStyle.Csv",
            "csvStyle": "CsvStyle.QuoteAlways",
            "encoding": ENCODINGS[spec.encoding],
        }
    return entry
