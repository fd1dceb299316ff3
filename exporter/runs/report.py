"""The report of a run: what a marketer and an engineer on call read.

JSON for programs, CSV of rows, text.

    runs/{run_id}/report.json      counts, times, how each file was read, first examples by line
    runs/{run_id}/rejected.csv     every row that was not delivered: source, line, column, reason,
                                   message, identifier; and the row itself where the export keeps it
    runs/{run_id}/left_out.csv     every attribute that a delivered profile lacks: source, line,
                                   attribute, reason, message
    runs/{run_id}/duplicates.csv   every row that gave way to another with the same identifier, and
                                   that row's line

report.json, left_out.csv and duplicates.csv hold no personal data; rejected.csv does (identifiers).
All stay in the customer's own storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporter.planning.left_out import LEFT_OUT_COLUMNS
from exporter.planning.plan import MAX_EXAMPLES, Plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.row_lists import csv_writer, rejected_row, safe_cell
from exporter.planning.summary import details
from exporter.rejection_reasons import RejectReason
from exporter.runs.run import Run
from exporter.sending.delivery import Delivery, Saying

Examples = Mapping[str, list[str]]  # reason -> the first rows, as "source:line"
NO_EXAMPLES: Examples = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRows:
    """Examples of what Klaviyo did not take: rows by reason, attributes by name."""

    undelivered: Examples = NO_EXAMPLES
    attributes: Examples = NO_EXAMPLES


NO_ROWS = FirstRows()


def report(run: Run, plan: Plan | None, first: FirstRows = NO_ROWS) -> dict[str, Any]:
    """The report as a document, from what is recorded.

    Of a run that ended before its files were read, no number is known: they are null.
    """
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
        **_numbers(run),
        "rejected_by_reason": counts.rejected,
        "cells_left_out": counts.dropped,
        "cells_left_out_examples": plan.dropped_examples if plan else {},
        "attributes_refused": counts.attributes_refused,
        "attributes_refused_examples": dict(first.attributes),
        **(details(plan) if plan else {}),
        "adds_up": counts.adds_up() if run.is_counted else None,
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
        "examples": {**plan.examples, **first.undelivered} if plan else {},
    }


def _numbers(run: Run) -> dict[str, int | None]:
    counts = run.counts
    numbers = {
        "rows": counts.rows,
        "accepted": counts.accepted,
        "confirmed": counts.delivered,
        "unknown": counts.unknown,
        "delivered": counts.delivered,  # the name of `confirmed` in earlier reports
        "duplicates": counts.duplicates,
        "rejected": sum(counts.rejected.values()),
        "jobs": counts.jobs,
    }
    return {name: number if run.is_counted else None for name, number in numbers.items()}


def _iso(moment: Any) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def append_undelivered(target: Path, reader: PlanReader, delivery: Delivery) -> Examples:
    """Add the rows that Klaviyo refused, could not import or does not account for to rejected.csv.

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
                cells = rejected_row(
                    source, line, reason, identifier=row.identifier if row else "", detail=words
                )
                kept = [safe_cell(row.profile) if row else ""] if reader.plan.keeps_rows else []
                writer.writerow([*cells, *kept])
    return examples


def append_left_out(target: Path, reader: PlanReader, delivery: Delivery) -> Examples:
    """Add the attributes to left_out.csv that profiles lack since Klaviyo refused them.

    Writes no file where there are none. Returns the first of them.
    """
    examples: dict[str, list[str]] = {}
    for batch, omissions in delivery.delivered_without():
        if not target.exists():
            _write_lines(target, [LEFT_OUT_COLUMNS])
        positions = [position for position, _ in omissions]
        rows = reader.rows_at(reader.plan.batches[batch], positions)
        places = reader.locate((row.piece, row.row) for row in rows.values())
        lines = []
        for position, omission in omissions:
            source, line = places[rows[position].piece, rows[position].row]
            for name in omission.names:
                examples.setdefault(name, []).append(f"{source}:{line}")
                del examples[name][MAX_EXAMPLES:]
                message = f"Klaviyo refused it: {omission.words}"
                reason = str(RejectReason.REFUSED_BY_KLAVIYO)
                lines.append((safe_cell(source), line, safe_cell(name), reason, safe_cell(message)))
        _write_lines(target, lines)
    return examples


def _write_lines(target: Path, lines: Sequence[Sequence[str | int]]) -> None:
    with target.open("a", encoding="utf-8", newline="") as file:
        csv_writer(file).writerows(lines)


def _undelivered(delivery: Delivery) -> Iterator[tuple[int, RejectReason, Iterable[Saying]]]:
    """Return (batch, reason, rows) in the order of batches, whenever each was accepted."""
    for batch in sorted(delivery.refused.keys() | delivery.accepted.keys()):
        if refused := delivery.refused.get(batch):
            yield batch, RejectReason.REFUSED_BY_KLAVIYO, sorted(refused.items())
        for accepted in sorted(delivery.accepted.get(batch, ()), key=lambda each: each.first):
            for reason, rows in _undelivered_by(accepted.job, delivery):
                yield batch, reason, rows


def _undelivered_by(
    job: str, delivery: Delivery
) -> Iterator[tuple[RejectReason, Iterable[Saying]]]:
    """Return the rows that one import job took and did not deliver."""
    if (end := delivery.ended.get(job)) is not None:
        if end.said:
            yield RejectReason.FAILED_IN_KLAVIYO, list(end.failures())
        if unconfirmed := delivery.unconfirmed(job):
            yield RejectReason.UNCONFIRMED, [(None, f"import job {job}")] * unconfirmed
    if (lost := delivery.lost.get(job)) is not None:
        positions = delivery.jobs[job].positions()
        yield RejectReason.JOB_LOST, [(position, lost.why) for position in positions]
