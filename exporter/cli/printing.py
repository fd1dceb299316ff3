"""Print what the commands have to say: documents and tables on standard output, the rest not."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

WHOLE = ("id", "run", "export")  # columns that are copied into the next command
PIPED_COLUMNS = 240  # where no terminal says how wide it is
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")
CONTRACT = {"schema": 1}  # of documents that programs read


def error_console() -> Console:
    """Give the terminal, or the file, that standard error is."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(sentence: str, *, style: str | None = None) -> None:
    """Print a sentence on standard error."""
    error_console().print(sentence, style=style, markup=False)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print each warning on standard error."""
    for warning in warnings:
        say(f"Warning: {warning}", style="yellow")


def is_utf8(stream: Any) -> bool:
    """Tell whether a stream can take every letter."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def print_json(document: Any) -> None:
    """Print a document for a program, whatever the encoding of standard output."""
    print(json.dumps(document, ensure_ascii=not is_utf8(sys.stdout), indent=1))


def as_json_document(view: BaseModel) -> dict[str, Any]:
    """Give what a program reads of a view."""
    return dict(view.model_dump(mode="json"))


def print_document(
    document: dict[str, Any], as_text: Callable[[dict[str, Any]], str], as_json: bool
) -> None:
    """Print a document as JSON, or as text for a person."""
    if as_json:
        print_json(document)
    else:
        print(as_text(document))


def print_rows(
    rows: Sequence[dict[str, Any]],
    columns: Iterable[str],
    as_json: bool,
    *,
    least: Sequence[str] = (),
) -> None:
    """Print everything as JSON, or a table of those columns that are not empty.

    least: columns to leave out where the terminal is too narrow, the least needed first. Where the
    rest does not fit either, each row is a block of lines.
    """
    if as_json:
        print_json(list(rows))
        return
    from rich.table import Table
    from rich.text import Text

    console = _output()
    every = [name for name in columns if not rows or any(_is_filled(row, name) for row in rows)]
    filled = list(every)
    for name in least:
        if _narrowest(rows, filled) > console.width and name in filled:
            filled.remove(name)
    if _narrowest(rows, filled) > console.width:
        _print_blocks(rows, every, console)
        return
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name, width in _widths(rows, filled, console.width).items():
        table.add_column(name, no_wrap=name in WHOLE, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(shown(row.get(name))) for name in filled))
    console.print(table)


def _widths(rows: Sequence[dict[str, Any]], columns: Sequence[str], most: int) -> dict[str, int]:
    """Share a width out, so that no word is broken and short columns need no second line.

    Rich's own way takes the width from the widest column and cuts its words.
    """
    least = {name: _longest_word(rows, name) for name in columns}
    full = {name: max(len(shown(row.get(name))) for row in rows) if rows else 0 for name in columns}
    spare, widths = most - _narrowest(rows, columns), dict(least)
    lacking = sorted((max(0, full[name] - least[name]), name) for name in columns)
    for index, (lack, name) in enumerate(lacking):
        more = min(lack, spare // (len(lacking) - index))
        widths[name] += more
        spare -= more
    return widths


def _narrowest(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> int:
    """Give the width in which a table fits without breaking a word."""
    return sum(_longest_word(rows, name) + 1 for name in columns) - 1


def _longest_word(rows: Sequence[dict[str, Any]], name: str) -> int:
    cells = [name, *(shown(row.get(name)) for row in rows)]
    words = cells if name in WHOLE else [word for cell in cells for word in cell.split()]
    return max(map(len, words))


def _print_blocks(rows: Sequence[dict[str, Any]], columns: Sequence[str], console: Console) -> None:
    """Print each row as its first cell, and below that its other cells by name."""
    from rich.padding import Padding
    from rich.text import Text

    first, *others = columns
    for row in rows:
        console.print(Text(shown(row.get(first))), soft_wrap=True)
        for name in others:
            if _is_filled(row, name):
                cell = Text(f"{name:10} {shown(row[name])}", overflow="fold")
                console.print(Padding(cell, (0, 0, 0, 2)))


def print_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Print a line for each field that has a value."""
    for name, value in fields:
        if value not in (None, "", [], {}):
            print(f"{name:14}{shown(value)}")


def shown(value: Any) -> str:
    """Write a value in one line for a person, without what a terminal would act on."""
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case list():
            text = ", ".join(map(str, value))
        case str() if found := MOMENT.fullmatch(value):
            text = f"{found[1]} {found[2]} UTC"
        case _:
            text = str(value)
    return "".join(one if one.isprintable() else " " for one in text)


def _is_filled(row: dict[str, Any], name: str) -> bool:
    return row.get(name) not in (None, "")


def _output() -> Console:
    from rich.console import Console

    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=PIPED_COLUMNS if is_piped else None)
