"""Make a plan of a snapshot: read, check, remove duplicates, fill batches. Sends nothing.

    bytes --staging--> rows-*.parquet --corrections, keys--> duplicates --sizes--> batches

Memory stays flat: what grows with the rows is on disk, and DuckDB spills beyond its limit.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb

from exporter.definitions.mapping import MappingDocument
from exporter.planning.batches import BatchLimits, plan_batches
from exporter.planning.clearing import Clearing, decide_clearing, pieces_with_ready_profiles
from exporter.planning.corrections import Correction, Corrector
from exporter.planning.date_orders import decide_date_orders
from exporter.planning.disk_space import within_disk
from exporter.planning.duplicates import find_duplicates
from exporter.planning.left_out import list_cells_left_out
from exporter.planning.limits import PlanLimits as PlanLimits
from exporter.planning.plan import (
    DUPLICATES_CSV,
    DUPLICATES_NAME,
    LEFT_OUT_CSV,
    PLAN_NAME,
    REJECTED_CSV,
    Plan,
)
from exporter.planning.row_lists import Examples, RejectedRows, list_duplicates
from exporter.planning.shared_identifiers import SharedIdentifiers
from exporter.planning.staged_files import StagedFiles
from exporter.planning.staging import Staging, StagingPool
from exporter.reading.source import PartitionSource
from exporter.sql import open_database, within_memory


def make_plan(
    sources: Sequence[PartitionSource],
    mapping: MappingDocument,
    folder: Path,
    *,
    limits: PlanLimits = PlanLimits(),
    keep_rows: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    finished_file: Callable[[Path], None] = lambda _: None,
) -> Plan:
    """Plan the snapshot made of `sources` into `folder`, which must be empty.

    keep_rows: put the rejected rows themselves into rejected.csv; they are personal data.
    progress: told the rows staged so far; later all of them, before each part of what needs all
    rows. What it raises ends the planning.
    finished_file: called for each file of the plan when it is whole, from several threads,
    plan.json last and after all others, to put them where they are safe while planning goes on. A
    file of staged rows that is corrected is told of again.
    Raises SnapshotUnreadable, MappingError, ConfigError for want of memory, and whatever opening a
    source raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = Examples()
    with (
        within_memory(),
        within_disk(),  # within: DuckDB calls a full disk want of memory too
        contextlib.closing(open_database(folder, memory_mb=limits.memory_mb)) as database,
        RejectedRows(folder, examples, keep_rows=keep_rows) as rejected,
    ):
        pool = StagingPool(
            database,
            folder,
            memory_mb=limits.memory_mb,
            keep_rows=keep_rows,
            progress=progress,
            finished_file=finished_file,
        )
        with pool:
            staging = Staging(
                mapping, pool, rejected, database=database, work=folder / "work", limits=limits
            )
            for source in sources:
                staging.stage(source)
        plan = _finish(
            staging,
            mapping,
            rejected,
            examples,
            database=database,
            folder=folder,
            limits=limits,
            progress=progress,
            finished_file=finished_file,
        )
    _write(plan, folder, finished_file)
    for unneeded in ("spill", "work"):
        shutil.rmtree(folder / unneeded, ignore_errors=True)
    return plan


def _finish(
    staging: Staging,
    mapping: MappingDocument,
    rejected: RejectedRows,
    examples: Examples,
    *,
    database: duckdb.DuckDBPyConnection,
    folder: Path,
    limits: PlanLimits,
    progress: Callable[[int], None],
    finished_file: Callable[[Path], None],
) -> Plan:
    """Do what needs all rows: find duplicates, list the rows that are not sent, fill batches."""
    fields = staging.fields
    staged_rows = sum(piece.rows for piece in staging.pieces)
    has_newest_by = mapping.newest_by is not None
    files = StagedFiles(
        folder=folder, pieces=staging.pieces, sources=[note.name for note in staging.notes]
    )
    corrector = Corrector(database=database, files=files, finished_file=finished_file)
    progress(staged_rows)
    date_orders = decide_date_orders(corrector, fields, staging.notes, has_newest_by=has_newest_by)
    progress(staged_rows)
    duplicates = find_duplicates(database, files, keys_a_pass=limits.keys_a_pass)
    progress(staged_rows)
    shared = SharedIdentifiers(database, files, fields, keys_a_pass=limits.keys_a_pass)
    progress(staged_rows)
    clearing = decide_clearing(database, files, fields)
    _correct(corrector, clearing, shared)
    progress(staged_rows)
    list_duplicates(database, files, examples)
    identifier = mapping.identified_by
    rejected.add_staged(database, files, column=getattr(mapping, identifier))
    progress(staged_rows)
    left_out = list_cells_left_out(database, files, has_newest_by=has_newest_by)
    progress(staged_rows)
    batches = plan_batches(
        database,
        files,
        BatchLimits(profiles=limits.batch_profiles, size_bytes=limits.batch_bytes),
        block_profiles=limits.block_profiles,
    )
    return Plan(
        sources=staging.notes,
        fields=list(clearing.fields),
        identifier=identifier,
        pieces=staging.pieces,
        batches=batches,
        rows=staged_rows + staging.unread_rows,
        profiles=sum(batch.profiles for batch in batches),
        duplicates=duplicates,
        rejected=dict(rejected.counts),
        dropped=left_out.counts,
        dropped_examples=left_out.examples,
        dropped_reasons=left_out.reasons,
        examples=examples.found,
        keeps_rows=rejected.keep_rows,
        date_orders=date_orders,
        cleared=clearing.counts,
        not_cleared=clearing.not_cleared,
        doubtful=sum(batch.profiles for batch in batches if batch.doubtful),
    )


def _correct(corrector: Corrector, clearing: Clearing, shared: SharedIdentifiers) -> None:
    """Write those pieces anew that hold shared identifiers, or profiles that would clear."""
    pieces = shared.pieces()
    if clearing.not_cleared:
        pieces |= pieces_with_ready_profiles(corrector.database, corrector.files)
    for piece in sorted(pieces):
        correction = Correction()
        shared.correct(correction, piece)
        corrector.correct(piece, clearing.fields, correction)


def _write(plan: Plan, folder: Path, finished_file: Callable[[Path], None]) -> None:
    """Write plan.json, after whoever keeps the files has got all others."""
    for name in (DUPLICATES_NAME, DUPLICATES_CSV, LEFT_OUT_CSV, REJECTED_CSV):
        finished_file(folder / name)
    target = folder / PLAN_NAME
    target.write_text(plan.model_dump_json(by_alias=True), encoding="utf-8")
    finished_file(target)
