"""The rows of a snapshot as text, the bad ones among them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

from sandbox.snapshots.columns import MAY_NEED_QUOTES, Column, extra_cell
from sandbox.snapshots.flaws import Flaw, plan_flaws
from sandbox.snapshots.people import BLOCK, People, tables_of
from sandbox.snapshots.spec import Spec
from sandbox.snapshots.spoiling import SPOIL_CELLS, SPOIL_LAST, spoiled


class Rows:
    """Rows by number, counted from 0 over the snapshot. Nothing is kept but the flaws."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._quoted = _quoting(spec.delimiter)

    @functools.cached_property
    def flaws(self) -> dict[int, Flaw]:
        """The bad rows. Raises ValueError if there is no room for them."""
        return plan_flaws(self._spec.seed, self._spec.bad, self._spec.bounds())

    def header(self) -> str:
        return self._spec.delimiter.join(map(self._quoted, self._spec.column_names()))

    def texts(self, part: range) -> Iterator[tuple[range, list[str]]]:
        """The rows as they are written, without line ends, some thousand at a time."""
        for span, people in self.people(part):
            texts = self._good_texts(people)
            for row in self.flaws.keys() & span if self.flaws else ():
                texts[row - span.start] = self._flawed_text(row, self.flaws[row])
            yield span, texts

    def people(self, part: range) -> Iterator[tuple[range, People]]:
        """The people of `part`, cut where their blocks end."""
        start = part.start
        while start < part.stop:
            stop = min(part.stop, start + BLOCK - (self._spec.first + start) % BLOCK)
            yield range(start, stop), self._people(range(start, stop))
            start = stop

    def values(self, people: People, column: Column) -> list[str | None]:
        """The cells of good rows, None where they are blank or the file has no such column."""
        if column not in self._spec.columns:
            return [None] * (people.stop - people.start)
        return [cell or None for cell in people.cells(column)]

    def customer_id(self, row: int) -> str | None:
        """What a duplicate does not share with the row that it repeats."""
        return self.values(self._people(range(row, row + 1)), Column.CUSTOMER_ID)[0]

    def flawed_cells(self, row: int, flaw: Flaw) -> dict[Column, str]:
        cells = self._cells(row)
        if flaw.original is not None:
            cells = {**self._cells(flaw.original), Column.CUSTOMER_ID: cells[Column.CUSTOMER_ID]}
        return spoiled(cells, flaw.kind, flaw.number)

    def _flawed_text(self, row: int, flaw: Flaw) -> str:
        extra = self._extra_cells(self._people(range(row, row + 1)))
        cells = [*self.flawed_cells(row, flaw).values(), *(column[0] for column in extra)]
        cells = SPOIL_CELLS.get(flaw.kind, list)(cells)
        quoted = [self._quoted(cell) for cell in cells]
        if flaw.kind in SPOIL_LAST:
            quoted[-1] = SPOIL_LAST[flaw.kind](cells[-1])
        return self._spec.delimiter.join(quoted)

    def _good_texts(self, people: People) -> list[str]:
        columns: list[Iterable[str]] = [
            map(self._quoted, people.cells(column))
            if column in MAY_NEED_QUOTES
            else people.cells(column)
            for column in self._spec.columns
        ]
        columns += self._extra_cells(people)
        return list(map(self._spec.delimiter.join, zip(*columns, strict=True)))

    def _extra_cells(self, people: People) -> list[list[str]]:
        length = self._spec.cell_length
        return [
            [extra_cell(customer_id, number, length) for customer_id in people.customer_ids()]
            for number in range(1, self._spec.extra_columns + 1)
        ]

    def _cells(self, row: int) -> dict[Column, str]:
        people = self._people(range(row, row + 1))
        return {column: people.cells(column)[0] for column in self._spec.columns}

    def _people(self, span: range) -> People:
        spec = self._spec
        start, stop = spec.first + span.start, spec.first + span.stop
        return People(spec.seed, start, stop, tables_of(spec.encoding), spec.changed_every)


def _quoting(delimiter: str) -> Callable[[str], str]:
    """Put quotes round a cell that needs them.

    It remembers its answers: names and cities come again and again.
    """
    special = {delimiter, '"', "\n", "\r"}

    def quoted(cell: str) -> str:
        return cell if special.isdisjoint(cell) else '"' + cell.replace('"', '""') + '"'

    return functools.lru_cache(maxsize=4096)(quoted)
