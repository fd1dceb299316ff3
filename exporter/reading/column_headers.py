"""Whether the first line of a file holds column names, and what the columns are called. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.names import comparable


@dataclass(frozen=True, slots=True)
class HeaderDecision:
    """Whether the first line holds column names, what the columns are called, and why.

    why: a sentence for the report. is_guess: the "names" may be a person's data, so no message may
    show them. Only a person who asks for a suggestion sees them. repeated: names that several
    columns bear; only the first of these columns keeps it.
    """

    has_header: bool
    columns: tuple[str, ...]
    why: str
    is_guess: bool = False
    repeated: frozenset[str] = frozenset()


def decide_header(
    first_record: Sequence[str],
    *,
    declared: bool | None,
    columns: Sequence[str] | None = None,
    mapped: Sequence[str] = (),
    below: Sequence[Sequence[str]] = (),
) -> HeaderDecision:
    """Decide whether the first record of a partition holds the column names.

    declared: what model.json says. columns: its names, in order. mapped: names that the mapping
    uses. below: some of the following records. Names are compared without regard to form.

    | the first line ...                     | model.json says        | decision             |
    | -------------------------------------- | ---------------------- | -------------------- |
    | surely holds every mapped name         | anything               | header               |
    | repeats known names, holds no address  | anything               | header               |
    | holds no address                       | "header"               | header               |
    | anything else                          | "header", no names     | header               |
    | holds an address                       | "header", or a mapping | no header            |
    | anything else                          | "no header", or names  | no header            |
    | holds an address                       | nothing                | no header            |
    | anything, and the mapping counts       | nothing                | no header            |
    | anything else                          | nothing                | header, as a guess   |

    The first two rows do not ask model.json: it says "no header" by default, yet common writers
    write one.
    """
    known = {comparable(name) for name in (*(columns or ()), *mapped)}
    has_address = any(_is_address(cell) and comparable(cell) not in known for cell in first_record)
    is_proven = _holds_mapped_names(first_record, mapped, below)
    if is_proven or (not has_address and _names_columns(first_record, columns or (), mapped)):
        contrary = ", although model.json says that there is none" if declared is False else ""
        return _with_header(first_record, f"The first line holds the column names{contrary}.")

    if declared:
        if not has_address or not (columns or mapped):
            why = "model.json says that the first line holds the column names."
            return _with_header(first_record, why)
        why = "model.json promises column names, but the first line holds an address"
        return without_header(first_record, columns, why)
    if declared is False:
        why = "model.json says that there are no column names"
        return without_header(first_record, columns, why)
    if columns:
        why = "The first line does not repeat the names of model.json"
        return without_header(first_record, columns, why)

    if has_address:
        return without_header(first_record, None, "The first line holds an address, so it is a row")
    if mapped and counts_columns(mapped):
        why = "The mapping counts columns instead of naming them"
        return without_header(first_record, None, why)
    if all(cell.strip() for cell in first_record) and _stands_above_addresses(first_record, below):
        why = "The first line holds no address where the next lines do, so it holds the names."
        return _with_header(first_record, why)
    why = "Nothing else is known, so the first line is taken for the column names."
    return _with_header(first_record, why, is_guess=True)


def _is_address(cell: str) -> bool:
    """Tell whether a cell looks like an e-mail address, as @odata.etag does not."""
    return bool(re.search(r"[^\s@]@[^\s@]", cell))


def _holds_mapped_names(
    cells: Sequence[str], mapped: Sequence[str], below: Sequence[Sequence[str]]
) -> bool:
    """Tell whether the cells are sure to be names: they hold every mapped name.

    Two names or more cannot be chance. One could be: "Email" may be somebody's preferred channel.
    So the lines below must hold an address in its place.
    """
    needed = {comparable(name) for name in mapped}
    found = [comparable(cell) for cell in cells]
    if not needed or counts_columns(mapped) or not needed <= set(found):
        return False
    named = [cell if comparable(cell) in needed else "" for cell in cells]
    return len(needed) > 1 or _stands_above_addresses(named, below)


def _stands_above_addresses(cells: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Tell whether a line below holds an address where one of the cells is something else."""
    return any(
        cell.strip() and not _is_address(cell) and _is_address(lower)
        for row in below
        for cell, lower in zip(cells, row, strict=False)
    )


def counts_columns(mapped: Sequence[str]) -> bool:
    """Tell whether a mapping counts the columns of files without header, as column_1 does."""
    return all(re.fullmatch(r"column_\d+", name) for name in mapped)


def _names_columns(cells: Sequence[str], columns: Sequence[str], mapped: Sequence[str]) -> bool:
    """Tell whether the cells of the first record are column names.

    With `columns` known, most cells stand in their places. Or they stand in another order: all
    names that the mapping needs are there, most cells are known names, and none is blank, as a
    cell of a row may be. One known name alone proves nothing: "Email" may be somebody's preferred
    channel. With no `columns` known, all names that the mapping needs are there.
    """
    found, needed = [comparable(cell) for cell in cells], {comparable(name) for name in mapped}
    has_needed = needed <= set(found)
    if not columns:
        return bool(needed) and has_needed
    in_place = sum(cell == comparable(name) for cell, name in zip(found, columns, strict=False))
    if 2 * in_place > min(len(found), len(columns)):
        return True
    known = set(found) & (needed | {comparable(name) for name in columns})
    return has_needed and all(found) and 2 * len(known) > len(found)


def _with_header(cells: Sequence[str], why: str, *, is_guess: bool = False) -> HeaderDecision:
    names, repeated = unique_names(cells)
    pairs = zip(names, cells, strict=True)
    if any(comparable(name) != comparable(cell) for name, cell in pairs):
        why += " Empty or repeated names were changed to unique ones."
    return HeaderDecision(True, names, why, is_guess, repeated)


def without_header(cells: Sequence[str], columns: Sequence[str] | None, why: str) -> HeaderDecision:
    """Decide that the first record is a row. The names are those of model.json, or numbers."""
    if columns:
        names, repeated = unique_names(columns)
        why += "; the names are those of model.json."
        return HeaderDecision(False, names, why, repeated=repeated)
    names, _ = unique_names([""] * len(cells))
    return HeaderDecision(False, names, f"{why}; the columns are called column_1 and so on.")


def unique_names(cells: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Name the columns: never empty, each name once. Also give the names that stood there twice.

    Superfluous blanks are left out, unless they alone tell two names apart. Names that differ in
    case or Unicode form stay as they are.
    """
    names = [" ".join(cell.split()) for cell in cells]
    times = Counter(names)
    for position, name in enumerate(names):
        if times[name] > 1 and name:
            names[position] = cells[position]
    repeated = frozenset(name for name, count in Counter(names).items() if count > 1 and name)
    taken = set(names)
    seen: set[str] = set()
    for position, name in enumerate(names):
        unique = name or f"column_{position + 1}"
        if name in seen or (not name and unique in taken):
            unique = _numbered(unique, taken)
        names[position] = unique
        taken.add(unique)
        seen.add(unique)
    return tuple(names), repeated


def _numbered(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
