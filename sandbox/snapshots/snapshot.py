"""A snapshot: its files, the bad rows in them, and what a correct exporter delivers."""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sandbox.snapshots import layouts
from sandbox.snapshots.columns import Column
from sandbox.snapshots.kinds import OUTCOMES, Kind, Outcome
from sandbox.snapshots.people import People
from sandbox.snapshots.rows import Rows
from sandbox.snapshots.spec import Layout, Spec


class SnapshotFile(NamedTuple):
    path: str
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedRow:
    """A bad row. `line` is where it starts in its file; the first line, header or row, is 1.

    `record` counts the same way but takes a row with line breaks in it as one, as DuckDB does.
    A duplicate says where the row stands that it repeats: same data, but for the CustomerId and
    the case of the address.
    """

    path: str
    partition: int
    line: int
    record: int
    kind: Kind
    outcome: Outcome
    email: str | None
    repeats: tuple[str, int] | None = None


class ExpectedProfile(NamedTuple):
    """What should reach Klaviyo: address in lower case, phone as E.164.

    None where the cell is blank or left out. For the extra columns see `extra_cell`.
    """

    customer_id: str | None
    first_name: str | None
    last_name: str | None
    email: str | None
    phone_number: str | None
    city: str | None
    country: str | None
    date_of_birth: str | None
    loyalty_tier: str | None
    lifetime_value: str | None


@dataclass(frozen=True, kw_only=True)
class Snapshot(Spec):
    """A snapshot as its spec says. Everything is made while it is read; nothing is kept."""

    @functools.cached_property
    def _rows(self) -> Rows:
        return Rows(self)

    @property
    def model_path(self) -> str:
        return layouts.model_path(self)

    def path(self, partition: int) -> str:
        """Where partition 1, 2, ... is, container left out."""
        return layouts.partition_path(self, partition)

    def model(self) -> dict[str, object]:
        return layouts.model(self)

    def files(self) -> Iterator[SnapshotFile]:
        """Every file with its bytes; partitions in order, then model.json."""
        for partition, _ in enumerate(self.bounds(), start=1):
            yield SnapshotFile(self.path(partition), self.chunks(partition))
        if self.layout is Layout.DATED:
            yield SnapshotFile(self.model_path, iter([json.dumps(self.model(), indent=1).encode()]))

    def chunks(self, partition: int) -> Iterator[bytes]:
        """The bytes of partition 1, 2, ..., in pieces of some hundred kilobytes."""
        encoder = codecs.getincrementalencoder(self.encoding)("surrogateescape")
        if self.header:
            yield encoder.encode(self._rows.header() + self.line_ending)
        for _, texts in self._rows.texts(self.bounds()[partition - 1]):
            yield encoder.encode(self.line_ending.join([*texts, ""]))

    def planted(self) -> Iterator[PlantedRow]:
        """The bad rows, partition by partition.

        Lines are counted by writing the partitions again to nowhere.
        """
        flaws = self._rows.flaws
        originals = {flaw.original for flaw in flaws.values() if flaw.original is not None}
        places = dict(self._places(originals | flaws.keys()))
        for row, flaw in sorted(flaws.items()):
            partition, line = places[row]
            original = None if flaw.original is None else places[flaw.original]
            yield PlantedRow(
                path=self.path(partition),
                partition=partition,
                line=line,
                record=row - self.bounds()[partition - 1].start + self._first_line,
                kind=flaw.kind,
                outcome=OUTCOMES.get(flaw.kind, Outcome.REJECTED),
                email=self._rows.flawed_cells(row, flaw).get(Column.EMAIL),
                repeats=original and (self.path(original[0]), original[1]),
            )

    def expected_profiles(self) -> Iterator[ExpectedProfile]:
        """What a correct exporter delivers.

        Of rows that repeat each other that is the last, here in the place of the first.
        """
        flaws = self._rows.flaws
        last = {
            flaw.original: row for row, flaw in sorted(flaws.items()) if flaw.original is not None
        }
        for part in self.bounds():
            for span, people in self._rows.people(part):
                for row, profile in zip(span, self._profiles(people), strict=True):
                    flaw = flaws.get(row)
                    if row in last:
                        yield profile._replace(customer_id=self._rows.customer_id(last[row]))
                    elif flaw is None:
                        yield profile
                    elif flaw.kind is Kind.BAD_PHONE:
                        yield profile._replace(phone_number=None)

    @property
    def _first_line(self) -> int:
        return 2 if self.header else 1

    def _profiles(self, people: People) -> Iterator[ExpectedProfile]:
        cells = {column: self._rows.values(people, column) for column in Column}
        emails, phones = cells[Column.EMAIL], cells[Column.TELEPHONE]
        cells[Column.EMAIL] = [email and email.lower() for email in emails]
        cells[Column.TELEPHONE] = [phone and phone.replace(" ", "") for phone in phones]
        return map(ExpectedProfile._make, zip(*cells.values(), strict=True))

    def _places(self, rows: set[int]) -> Iterator[tuple[int, tuple[int, int]]]:
        """Partition and line of each of `rows`.

        A row takes as many lines as it has line feeds, with its own end.
        """
        for partition, part in enumerate(self.bounds(), start=1):
            line = self._first_line
            for span, texts in self._rows.texts(part) if not rows.isdisjoint(part) else ():
                for row, text in zip(span, texts, strict=True):
                    if row in rows:
                        yield row, (partition, line)
                    line += 1 + text.count("\n")
