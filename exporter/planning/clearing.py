"""Count the values that empty cells remove, and keep a blank column from removing all of them.

A column that is blank in every row is mostly an accident upstream. It removes nothing, unless the
mapping asks for it a second time with `empty: clear_all`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import duckdb

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import CLEARING, Empty
from exporter.planning.profiles import is_cleared
from exporter.planning.staged_files import StagedFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearing:
    """What empty cells remove.

    counts: values by attribute. not_cleared: attributes that are blank in every row. fields: as
    they are sent, of which these clear nothing.
    """

    counts: dict[str, int]
    not_cleared: list[str]
    fields: tuple[MappedField, ...]


def decide_clearing(
    database: duckdb.DuckDBPyConnection, files: StagedFiles, fields: Sequence[MappedField]
) -> Clearing:
    """Count what empty cells remove. Duplicates must have been found before."""
    clearing = {position: field for position, field in enumerate(fields) if field.empty in CLEARING}
    if not clearing or not files.pieces:
        return Clearing(counts={}, not_cleared=[], fields=tuple(fields))
    counted = ", ".join(
        f"count_if({is_cleared(position, field)})" for position, field in clearing.items()
    )
    found = database.execute(f"SELECT count(*), {counted} FROM {files.sent_rows()}").fetchone()
    assert found is not None
    rows, *numbers = found
    counts, not_cleared, sent = {}, [], list(fields)
    for number, (position, field) in enumerate(clearing.items()):
        cleared = numbers[number] or 0
        if rows and cleared == rows and field.empty is not Empty.CLEAR_ALL:
            not_cleared.append(field.name)
            sent[position] = replace(field, empty=Empty.IGNORE)
        elif cleared:
            counts[field.name] = cleared
    return Clearing(counts=counts, not_cleared=not_cleared, fields=tuple(sent))


def pieces_with_ready_profiles(database: duckdb.DuckDBPyConnection, files: StagedFiles) -> set[int]:
    """Find the pieces that hold ready profiles, which say themselves what they clear."""
    found = database.execute(
        f"SELECT DISTINCT piece FROM {files.all_rows()} WHERE unusual_profile IS NOT NULL"
    )
    return {piece for (piece,) in found.fetchall()}
