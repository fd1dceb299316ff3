"""The report of a run: what a marketer and an engineer on call read. JSON for programs, CSV of rows, text.

    runs/{run_id}/report.json      counts, times, how each file was read, first examples by line
    runs/{run_id}/rejected.csv     every row that was not delivered: source, line, column, reason, message, identifier;
                                   and the row where the export keeps it, as it was sent if Klaviyo did not import it
    runs/{run_id}/duplicates.csv   every row that gave way to another with the same identifier, and that row's line

report.json and duplicates.csv hold no personal data; rejected.csv does (identifiers). All stay in the customer's own
storage.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporter.definitions.mapping import Empty, MappedField, ValueType
from exporter.klaviyo.rate_limit import seconds_to_send
from exporter.planning.plan import Plan, PlanReader
from exporter.planning.planner import MAX_EXAMPLES, NEWEST_BY, csv_writer, rejected_row, safe_cell
from exporter.planning.row_rules import MESSAGES, RejectReason
from exporter.runs.run import Delivery, Run, Saying, refusal

MAX_FILES = 5  # told of in a text
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}

Examples = Mapping[str, list[str]]  # reason -> the first rows, as "source:line"
NO_EXAMPLES: Examples = MappingProxyType({})


def report(run: Run, plan: Plan | None, undelivered: Examples = NO_EXAMPLES) -> dict[str, Any]:
    """The report as a document, from what is recorded. undelivered: see `append_undelivered`."""
    counts = run.counts
    return {
        "schema": 1,
        "run": run.run_id,
        "export": run.export_name,
        "list": run.list_id,
        "because": run.because,
        "status": str(run.status),
        "message": run.message,
        "hint": run.hint,
        "rows": counts.rows,
        "delivered": counts.delivered,
        "duplicates": counts.duplicates,
        "rejected": sum(counts.rejected.values()),
        "rejected_by_reason": counts.rejected,
        "cells_left_out": counts.dropped,
        "cells_left_out_examples": plan.dropped_examples if plan else {},
        "adds_up": counts.adds_up(),
        "jobs": counts.jobs,
        "list_members": counts.list_members,
        "list_sampled": counts.list_sampled,
        "list_missing": counts.list_missing,
        "snapshots": run.manifest.snapshots,
        "notes": run.manifest.notes,
        "missing_segments": run.manifest.missing,
        "exported_at": _iso(run.manifest.exported_at),
        "created_at": _iso(run.created_at),
        "started_at": _iso(run.started_at),
        "sent_at": _iso(run.sent_at),
        "finished_at": _iso(run.finished_at),
        "files": [note.model_dump() for note in plan.sources] if plan else [],
        "examples": {**plan.examples, **undelivered} if plan else {},
    }


def _iso(moment: Any) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def append_undelivered(target: Path, reader: PlanReader, delivery: Delivery) -> Examples:
    """Add to a plan's rejected.csv the rows that Klaviyo refused, could not import, does not account for, or lost.

    Returns the first of them.
    """
    examples: dict[str, list[str]] = {}
    with target.open("a", encoding="utf-8", newline="") as file:
        writer = csv_writer(file)
        for batch, reason, rows in _undelivered(delivery):
            known = [position for position, _ in rows if position is not None]
            found = reader.rows_at(reader.plan.batches[batch], known)
            lines = reader.locate((row.piece, row.row) for row in found.values())
            for position, words in rows:
                row = found.get(position) if position is not None else None
                source, line = lines[row.piece, row.row] if row else ("", "")
                if row and len(examples.setdefault(reason, [])) < MAX_EXAMPLES:
                    examples[reason].append(f"{source}:{line}")
                cells = rejected_row(source, line, reason, identifier=row.identifier if row else "", detail=words)
                kept = [safe_cell(row.profile) if row else ""] if reader.plan.keeps_rows else []
                writer.writerow([*cells, *kept])
    return examples


def _undelivered(delivery: Delivery) -> Iterator[tuple[int, RejectReason, Iterable[Saying]]]:
    for batch, refused in sorted(delivery.refused.items()):
        yield batch, RejectReason.REFUSED_BY_KLAVIYO, sorted(refused.items())
    for job, end in delivery.ended.items():
        if end.said:
            yield delivery.jobs[job].batch, RejectReason.FAILED_IN_KLAVIYO, list(end.failures())
        if unconfirmed := delivery.unconfirmed(job):
            yield delivery.jobs[job].batch, RejectReason.UNCONFIRMED, [(None, f"import job {job}")] * unconfirmed
    for job, lost in delivery.lost.items():
        accepted = delivery.jobs[job]
        yield accepted.batch, RejectReason.JOB_LOST, [(position, lost.why) for position in accepted.positions()]


def as_text(document: dict[str, Any]) -> str:
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
    return (
        f" Delimiter {DELIMITER_NAMES.get(delimiter, repr(delimiter))}{f', encoding {encoding}' if encoding else ''}."
    )


def _examples(lines: list[str] | None) -> str:
    return f"  e.g. {', '.join(lines)}" if lines else ""


def plan_summary(
    plan: Plan,
    samples: list[str],
    *,
    max_profiles: int | None = None,
    share: float = 1.0,
    show_values: bool = False,
) -> dict[str, Any]:
    """What a run of this plan would do; `message` and `hint` where it would end Failed before it sends anything.

    samples: profiles as Klaviyo would get them; their values are masked unless `show_values`. max_profiles: the
    export's maximum. share: the part of Klaviyo's steady rate that the run may use.
    """
    profiles = [json.loads(text) for text in samples]
    refused = refusal(plan, max_profiles)
    return {
        "message": refused.message if refused else "",
        "hint": refused.hint if refused else "",
        "rows": plan.rows,
        "profiles": plan.profiles,
        "duplicates": plan.duplicates,
        "rejected": sum(plan.rejected.values()),
        "rejected_by_reason": plan.rejected,
        "cells_left_out": plan.dropped,
        "cells_left_out_examples": plan.dropped_examples,
        "examples": plan.examples,
        "adds_up": plan.adds_up(),
        "jobs": len(plan.batches),
        "seconds_at_klaviyos_pace": round(seconds_to_send(len(plan.batches), share=share), 1),
        "identifier": plan.identifier,
        "mapping": [_mapped(field, plan) for field in plan.fields],
        "files": [note.model_dump() for note in plan.sources],
        "samples": profiles if show_values else [mask(profile) for profile in profiles],
    }


def _mapped(field: MappedField, plan: Plan) -> str:
    """How one attribute is filled, by the columns of the first file that has any: the fields were found in these."""
    column = next(note.columns for note in plan.sources if note.columns)[field.column]
    target = f"{field.group}.{field.name}" if field.group else field.name
    kind = "" if field.type is ValueType.STRING else f" as {field.type}"
    return f"{target} from {column}{kind}{', empty clears' if field.empty is Empty.CLEAR else ''}"


def mask(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile without its values: a column of any name may hold an address. Of each its first character is left."""
    return {**profile, "attributes": _masked(profile["attributes"])}


def _masked(value: Any) -> Any:
    match value:
        case dict():
            return {name: _masked(each) for name, each in value.items()}
        case list():
            return [_masked(each) for each in value]
        case bool():
            return value
    return str(value)[:1] + "***"


def _culture(file: dict[str, Any]) -> str:
    return f" Dates and numbers are read as in {file['culture']}." if file.get("culture") else ""


def erasure_as_text(document: dict[str, Any]) -> str:
    """What was erased where, for a person at a terminal. Holds no address."""
    lines = [f"Erased      {each['name']}: {each['what']}" for each in document["erased"]]
    lines += [f"Open        {run}: may hold the person until it closes" for run in document["open_runs"]]
    lines += [f"Left        {name}: names the person or cannot be read, mend it by hand" for name in document["left"]]
    lines += [f"Klaviyo     connection {name}: asked to delete the profile" for name in document["klaviyo_asked"]]
    for each in document["klaviyo_failed"]:
        lines.append(f"Failed      connection {each['connection']}: {each['message']} {each['hint']}".rstrip())
    if document["open_runs"]:
        lines.append("Do          Wait for these runs or cancel them, then forget the person again.")
    return "\n".join(lines) or "Nothing was found."


def plan_as_text(summary: dict[str, Any]) -> str:
    """A dry run for a person at a terminal."""
    out = io.StringIO()
    if summary["message"]:
        out.write(f"Would fail  {summary['message']}\nDo          {summary['hint']}\n")
    out.write(f"Rows        {summary['rows']:,}\nTo send     {summary['profiles']:,} profiles\n")
    out.write(f"Jobs        {summary['jobs']:,}, about {summary['seconds_at_klaviyos_pace']:,} s at Klaviyo's pace\n")
    out.write(f"Duplicates  {summary['duplicates']:,}\nRejected    {summary['rejected']:,}\n")
    _write_reasons(out, summary)
    out.write(f"Identifier  {summary['identifier']}\n")
    for line in summary["mapping"]:
        out.write(f"Mapping     {line}\n")
    _write_files(out, summary["files"])
    for sample in summary["samples"]:
        out.write(f"Sample      {json.dumps(sample, ensure_ascii=False)}\n")
    return out.getvalue()
