"""Whether the first line of a file holds column names, and what the columns are called. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from exporter.names import comparable


@dataclass(frozen=True, slots=True)
class HeaderDecision:
    """Whether the first line holds names, what the columns are called, and a sentence for the report."""

    has_header: bool
    columns: tuple[str, ...]
    why: str
    is_guess: bool = False  # then the "names" may be a person's data: only who asks for a suggestion is shown them


def decide_header(
    first_record: Sequence[str],
    *,
    declared: bool | None,
    columns: Sequence[str] | None = None,
    mapped: Sequence[str] = (),
) -> HeaderDecision:
    """Decide whether the first record of a partition holds the column names.

    declared: what model.json says. columns: its names, in order. mapped: names that the mapping uses.
    A first line that repeats known names is a header whatever is declared: where model.json says nothing, that means
    "no header", yet common writers write one. Names are compared without regard to case and outer blanks. A cell may
    well hold a column's name ("Email" as somebody's preferred channel), so one alone makes no header.
    """
    names = {comparable(name) for name in (*(columns or ()), *mapped)}
    has_address = any("@" in cell and comparable(cell) not in names for cell in first_record)
    if not has_address and _names_columns(first_record, columns or (), mapped):
        contrary = ", although model.json says that there is none" if declared is False else ""
        return _header(first_record, f"The first line holds the column names{contrary}.")
    if declared and not (has_address and (columns or mapped)):
        return _header(first_record, "model.json says that the first line holds the column names.")
    if declared:
        return no_header(
            first_record,
            columns,
            "model.json promises column names, but the first line holds an address",
        )
    if declared is False:
        return no_header(first_record, columns, "model.json says that there are no column names")
    if columns:
        return no_header(
            first_record, columns, "The first line does not repeat the names of model.json"
        )
    if has_address:
        return no_header(first_record, None, "The first line holds an address, so it is a row")
    if mapped and counts_columns(mapped):
        return no_header(first_record, None, "The mapping counts columns instead of naming them")
    guess = _header(
        first_record, "Nothing else is known, so the first line is taken for the column names."
    )
    return replace(guess, is_guess=True)


def counts_columns(mapped: Sequence[str]) -> bool:
    """Whether a mapping counts the columns of files without header, instead of naming them."""
    return all(re.fullmatch(r"column_\d+", name) for name in mapped)


def _names_columns(cells: Sequence[str], columns: Sequence[str], mapped: Sequence[str]) -> bool:
    """Tell whether the cells are names.

    With columns known: most of them in their places, or else, in another order, all that the mapping needs, most of
    the cells known, and none blank, as the address of a row may be. With none known: all that the mapping needs.
    """
    found, needed = [comparable(cell) for cell in cells], {comparable(name) for name in mapped}
    has_needed = needed <= set(found)
    if not columns:
        return bool(needed) and has_needed
    in_place = sum(cell == comparable(name) for cell, name in zip(found, columns, strict=False))
    known = set(found) & (needed | {comparable(name) for name in columns})
    in_any_order = has_needed and all(found) and 2 * len(known) > len(found)
    return 2 * in_place > min(len(found), len(columns)) or in_any_order


def _header(cells: Sequence[str], why: str) -> HeaderDecision:
    names, changed = _unique_names(cells)
    return HeaderDecision(
        True,
        names,
        f"{why} Empty or repeated names were changed to unique ones." if changed else why,
    )


def no_header(cells: Sequence[str], columns: Sequence[str] | None, why: str) -> HeaderDecision:
    names, _ = _unique_names(columns or [""] * len(cells))
    given = (
        "the names are those of model.json"
        if columns
        else "the columns are called column_1 and so on"
    )
    return HeaderDecision(False, names, f"{why}; {given}.")


def _unique_names(cells: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Make names usable as those of SQL columns: trimmed, never empty, different even without regard to case."""
    wanted = [" ".join(cell.split()) or f"column_{number}" for number, cell in enumerate(cells, 1)]
    names: dict[str, str] = {}
    taken = {name.casefold() for name in wanted}
    for name in wanted:
        unique = name if name.casefold() not in names else _numbered(name, taken)
        names[unique.casefold()] = unique
        taken.add(unique.casefold())
    unique_names = tuple(names.values())
    return unique_names, any(
        comparable(a) != comparable(b) for a, b in zip(unique_names, cells, strict=True)
    )


def _numbered(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}".casefold() in taken:
        number += 1
    return f"{name}_{number}"
