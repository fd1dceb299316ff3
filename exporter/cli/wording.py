"""Reports, plans and erasures as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from exporter.cli.progress import name_of
from exporter.planning.left_out import message_of
from exporter.planning.plan import NEWEST_BY
from exporter.rejection_reasons import MESSAGES, RejectReason

Line = tuple[str, Any]

MAX_FILES = 5  # told of in a text
MAX_PATH = 60  # characters of a file's path in a text
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: 1 row, 2 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def report_as_text(document: dict[str, Any]) -> str:
    """Write the report of a run for a person at a terminal."""
    return _text(
        [
            ("Status", document["status"]),
            ("", document["message"]),
            ("Do", document["hint"]),
            ("Run", document["run"]),
            ("Export", document.get("export")),
            ("List", f"{document['list']}{_members(document.get('list_members'))}"),
            ("Began", _moment(document.get("created_at"))),
            ("Ended", _end(document)),
            ("Canceled by", document.get("canceled_by")),
            *_numbers(document),
            *(("Note", note) for note in document.get("notes", [])),
            *_reasons(document),
            *_files(document["files"]),
        ]
    )


def _numbers(document: dict[str, Any]) -> Iterator[Line]:
    """Give the numbers. Of a run that ended before its files were read there are none."""
    if document["rows"] is None:
        yield "Rows", "not known: the run ended before its files were read"
        return
    jobs = counted(document["jobs"], "import job")
    yield "Rows", f"{document['rows']:,}"
    if "accepted" in document:
        yield "Accepted", f"{document['accepted']:,} in {jobs}"
        yield "Confirmed", f"{document['confirmed']:,}"
        yield "Unknown", f"{document['unknown']:,}"
    else:  # an earlier report
        yield "Delivered", f"{document['delivered']:,} in {jobs}"
    yield "Duplicates", f"{document['duplicates']:,}"
    yield "Rejected", _rejected(document)


def open_run_as_text(view: dict[str, Any]) -> str:
    """Write how far an open run is, for a person at a terminal."""
    numbers: list[Line] = []
    if view["accepted"] is not None:
        of = counted(view["counts"]["profiles"], "profile")
        numbers = [
            ("Accepted", f"{view['accepted']:,} of {of}"),
            ("Confirmed", f"{view['confirmed']:,}"),
            ("Unknown", f"{view['unknown']:,}"),
        ]
    return _text(
        [
            ("Status", f"{view['status']} (open)"),
            ("Phase", _since(name_of(view["phase"]), view["phase_at"])),
            ("Waits for", _until(view["waits_for"], view["waits_until"])),
            ("Do", view["hint"]),
            ("Run", view["id"]),
            ("Export", view["export_name"]),
            ("List", view["list_id"]),
            ("Began", _moment(view["created_at"])),
            *numbers,
        ]
    )


def plan_as_text(summary: dict[str, Any]) -> str:
    """Write a dry run for a person at a terminal."""
    pace = f"about {summary['seconds_at_klaviyos_pace']:,} s at Klaviyo's pace"
    return _text(
        [
            ("Would fail", summary["message"]),
            ("Do", summary["hint"]),
            ("Rows", f"{summary['rows']:,}"),
            ("To send", counted(summary["profiles"], "profile")),
            ("Jobs", f"{summary['jobs']:,}, {pace}"),
            ("Account", summary.get("account")),
            ("Duplicates", f"{summary['duplicates']:,}"),
            ("Rejected", f"{summary['rejected']:,}"),
            *_reasons(summary),
            ("Identifier", summary["identifier"]),
            *(("Mapping", line) for line in summary["mapping"]),
            *_files(summary["files"]),
            *(("Sample", json.dumps(sample, ensure_ascii=False)) for sample in summary["samples"]),
        ]
    )


def erasure_as_text(document: dict[str, Any]) -> str:
    """Write what was erased where, for a person at a terminal. Holds no address."""
    lines: list[Line] = [
        ("Erased", f"{each['name']}: {each['what']}") for each in document["erased"]
    ]
    is_open = "may hold the person until it closes"
    is_left = "names the person or cannot be read. Correct it by hand."
    lines += [("Open", f"{run}: {is_open}") for run in document["open_runs"]]
    lines += [("Left", f"{name}: {is_left}") for name in document["left"]]
    asked = [f"connection {name}" for name in document["klaviyo_asked"]]
    lines += [("Klaviyo", f"{each}: asked to delete the profile") for each in asked]
    for each in document["klaviyo_failed"]:
        words = f"connection {each['connection']}: {each['message']} {each['hint']}".rstrip()
        lines.append(("Failed", words))
    if document["open_runs"]:
        lines.append(("Do", "Wait for these runs or cancel them. Then forget the person again."))
    return _text(lines).rstrip("\n") or "Nothing was found."


def _text(lines: Sequence[Line]) -> str:
    """Write the lines that have a value, with their names in a column."""
    return "".join(f"{name:12}{value}\n" for name, value in lines if value)


def _rejected(document: dict[str, Any]) -> str:
    """Give the number, and the command that lists the rows."""
    number = f"{document['rejected']:,}"
    if not document["rejected"]:
        return number
    return f"{number} (to list them: report {document['run']} --rows rejected)"


def _members(count: int | None) -> str:
    return "" if count is None else f", {counted(count, 'member')} by Klaviyo's count"


def _moment(text: str | None) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC" if text else ""


def _since(phase: str, moment: str | None) -> str:
    return f"{phase}, since {_moment(moment)}" if moment else phase


def _until(what: str, moment: str | None) -> str:
    if not moment:
        return what
    return f"{what or 'its next step'}, until {_moment(moment)}"


def _end(document: dict[str, Any]) -> str:
    began, ended = document.get("created_at"), document.get("finished_at")
    if not began or not ended:
        return _moment(ended)
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    return f"{_moment(ended)}, after {_duration(seconds)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _reasons(document: dict[str, Any]) -> Iterator[Line]:
    """Give why rows were rejected and cells left out, what costs most first."""
    for reason, number in _by_cost(document["rejected_by_reason"]):
        examples = _examples(document["examples"].get(reason))
        yield f"{number:>10,}", f"{MESSAGES[RejectReason(reason)]}{examples}"
    all_examples = document.get("cells_left_out_examples", {})
    all_reasons = document.get("cells_left_out_reasons", {})
    for attribute, number in _by_cost(document["cells_left_out"]):
        examples = _examples(all_examples.get(attribute))
        reasons = all_reasons.get(attribute)
        if reasons is None:  # the `newest_by` column, and reports of an earlier version
            yield f"{number:>10,}", f"{_left_out(attribute)}{examples}"
            continue
        for reason, cells in _by_cost(reasons):
            yield f"{cells:>10,}", f"left out of {attribute}: {message_of(reason)}{examples}"
    refused_examples = document.get("attributes_refused_examples", {})
    for attribute, number in _by_cost(document.get("attributes_refused", {})):
        examples = _examples(refused_examples.get(attribute))
        yield f"{number:>10,}", f"delivered without {attribute}: Klaviyo refused it{examples}"
    yield from _done_to_cells(document)


def _done_to_cells(document: dict[str, Any]) -> Iterator[Line]:
    """Give what is removed, and how dates are read."""
    for attribute, number in _by_cost(document.get("cells_cleared", {})):
        told = "empty cell removes" if number == 1 else "empty cells remove"
        yield f"{number:>10,}", f"{told} {attribute} from the profile"
    for attribute in document.get("columns_not_cleared", []):
        told = "is blank in every row and removes nothing; `empty: clear_all` would"
        yield f"{'':>10}", f"{attribute} {told}"
    for order in document.get("date_orders", []):
        read = "are ambiguous" if order["order"] == "undecided" else f"have the {order['order']}"
        yield f"{'':>10}", f"dates of {order['attribute']} {read}: {order['why']}"
    if doubtful := document.get("doubtful"):
        told = (
            "address has characters that Klaviyo may refuse; it is sent last"
            if doubtful == 1
            else "addresses have characters that Klaviyo may refuse; they are sent last"
        )
        yield f"{doubtful:>10,}", told


def _by_cost(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _left_out(attribute: str) -> str:
    if attribute == NEWEST_BY:
        return (
            "cells in the newest_by column are neither a date nor a number: their rows count as "
            "the oldest"
        )
    return f"cells for {attribute} could not be read and were left out"


def _examples(lines: list[str] | None) -> str:
    """Give the first rows, each as file:line."""
    if not lines:
        return ""
    return f"  e.g. {', '.join(map(shortened, lines))}"


def shortened(path: str) -> str:
    """Leave out the middle of a long path: its end says which file and line it is."""
    if len(path) <= MAX_PATH:
        return path
    head = MAX_PATH // 3
    return f"{path[:head]}...{path[-(MAX_PATH - head - 3) :]}"


def _files(files: list[dict[str, Any]]) -> Iterator[Line]:
    """Tell how the first files were read; the document has all."""
    for file in files[:MAX_FILES]:
        rows = counted(file["rows"], "row")
        yield "File", f"{shortened(file['name'])}: {rows}. {file['header']}{_written(file)}"
    if len(files) > MAX_FILES:
        yield "", f"and {len(files) - MAX_FILES:,} more"


def _written(file: dict[str, Any]) -> str:
    """Say how a file is written: a Parquet file has no delimiter, an old report no encoding."""
    delimiter, encoding, culture = file["delimiter"], file.get("encoding"), file.get("culture")
    words = ""
    if delimiter:
        words += f" Delimiter {DELIMITER_NAMES.get(delimiter, repr(delimiter))}"
        words += f", encoding {encoding}." if encoding else "."
    if culture:
        words += f" Dates and numbers are read as in {culture}."
    return words
