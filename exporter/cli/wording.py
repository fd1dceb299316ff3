"""Reports, plans and erasures as text for a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

from exporter.planning.plan import NEWEST_BY
from exporter.rejection_reasons import MESSAGES, RejectReason

MAX_FILES = 5  # told of in a text
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}


def report_as_text(document: dict[str, Any]) -> str:
    """The report for a person at a terminal."""
    out = io.StringIO()
    lines = [
        ("Status", document["status"]),
        ("", document["message"]),
        ("Do", document["hint"]),
        ("Run", document["run"]),
        ("List", f"{document['list']}{_members(document.get('list_members'))}"),
        ("Rows", f"{document['rows']:,}"),
        ("Delivered", f"{document['delivered']:,} in {document['jobs']:,} import jobs"),
        ("Duplicates", f"{document['duplicates']:,}"),
        ("Rejected", f"{document['rejected']:,}"),
        *(("Note", note) for note in document.get("notes", [])),
    ]
    for name, value in lines:
        if value:
            out.write(f"{name:12}{value}\n")
    _write_reasons(out, document)
    _write_files(out, document["files"])
    return out.getvalue()


def _members(count: int | None) -> str:
    return "" if count is None else f", {count:,} members by Klaviyo's count"


def _write_reasons(out: io.StringIO, document: dict[str, Any]) -> None:
    for reason, number in sorted(document["rejected_by_reason"].items()):
        examples = _examples(document["examples"].get(reason))
        out.write(f"  {number:>9,}  {MESSAGES[RejectReason(reason)]}{examples}\n")
    for attribute, number in sorted(document["cells_left_out"].items()):
        examples = _examples(document.get("cells_left_out_examples", {}).get(attribute))
        out.write(f"  {number:>9,}  {_left_out(attribute)}{examples}\n")


def _left_out(attribute: str) -> str:
    if attribute == NEWEST_BY:
        return "cells of the newest_by column are no moment and no number: their rows count as the oldest"
    return f"cells for {attribute} could not be read and were left out"


def _write_files(out: io.StringIO, files: list[dict[str, Any]]) -> None:
    """How the first files were read; the document has all."""
    for file in files[:MAX_FILES]:
        out.write(
            f"File        {file['name']}: {file['rows']:,} rows. {file['header']}{_written(file)}{_culture(file)}\n"
        )
    if len(files) > MAX_FILES:
        out.write(f"            and {len(files) - MAX_FILES:,} more\n")


def _written(file: dict[str, Any]) -> str:
    """Delimiter and encoding. A Parquet file has neither; reports of old runs do not know the encoding."""
    delimiter, encoding = file["delimiter"], file.get("encoding")
    if not delimiter:
        return ""
    return f" Delimiter {DELIMITER_NAMES.get(delimiter, repr(delimiter))}{f', encoding {encoding}' if encoding else ''}."


def _examples(lines: list[str] | None) -> str:
    return f"  e.g. {', '.join(lines)}" if lines else ""


def _culture(file: dict[str, Any]) -> str:
    return f" Dates and numbers are read as in {file['culture']}." if file.get("culture") else ""


def erasure_as_text(document: dict[str, Any]) -> str:
    """What was erased where, for a person at a terminal. Holds no address."""
    lines = [f"Erased      {each['name']}: {each['what']}" for each in document["erased"]]
    lines += [
        f"Open        {run}: may hold the person until it closes" for run in document["open_runs"]
    ]
    lines += [
        f"Left        {name}: names the person or cannot be read, mend it by hand"
        for name in document["left"]
    ]
    lines += [
        f"Klaviyo     connection {name}: asked to delete the profile"
        for name in document["klaviyo_asked"]
    ]
    for each in document["klaviyo_failed"]:
        lines.append(
            f"Failed      connection {each['connection']}: {each['message']} {each['hint']}".rstrip()
        )
    if document["open_runs"]:
        lines.append(
            "Do          Wait for these runs or cancel them, then forget the person again."
        )
    return "\n".join(lines) or "Nothing was found."


def plan_as_text(summary: dict[str, Any]) -> str:
    """A dry run for a person at a terminal."""
    out = io.StringIO()
    if summary["message"]:
        out.write(f"Would fail  {summary['message']}\nDo          {summary['hint']}\n")
    out.write(f"Rows        {summary['rows']:,}\nTo send     {summary['profiles']:,} profiles\n")
    out.write(
        f"Jobs        {summary['jobs']:,}, about {summary['seconds_at_klaviyos_pace']:,} s at Klaviyo's pace\n"
    )
    out.write(f"Duplicates  {summary['duplicates']:,}\nRejected    {summary['rejected']:,}\n")
    _write_reasons(out, summary)
    out.write(f"Identifier  {summary['identifier']}\n")
    for line in summary["mapping"]:
        out.write(f"Mapping     {line}\n")
    _write_files(out, summary["files"])
    for sample in summary["samples"]:
        out.write(f"Sample      {json.dumps(sample, ensure_ascii=False)}\n")
    return out.getvalue()
