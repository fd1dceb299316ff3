"""A plan opened for sending: request bodies by batch, rows by position, lines by row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import RowsLost
from exporter.planning import profiles
from exporter.planning.plan import (
    DUPLICATES_NAME,
    IDENTIFIER,
    Plan,
    PlannedBatch,
    Span,
    rows_name,
)
from exporter.planning.staged_files import Place, Row, StagedFiles
from exporter.sql import literal, open_database, within_memory


@dataclass(frozen=True, slots=True)
class RowPosition:
    """Where a row is staged, and its identifier (personal data: never logged)."""

    piece: int
    row: int
    identifier: str
    profile: str = ""  # as it was sent, if asked for

    def __repr__(self) -> str:
        return f"RowPosition({self.piece}, {self.row})"


class LocalPieces:
    """The files of a plan's staged rows that are on this disk: fetched when needed, few at a time.

    A plan may be as large as the disk, which other runs share.
    """

    def __init__(self, folder: Path, fetch: Callable[[int], object], *, most: int) -> None:
        """fetch: puts a piece into the folder, if it is not there."""
        self._folder, self._fetch, self._most = folder, fetch, most
        # Those used last stand last.
        self._here = sorted(int(path.stem[5:]) for path in folder.glob("rows-*.parquet"))

    def need(self, pieces: Iterable[int]) -> None:
        """Have these pieces here, however many, and of others no more than there is room for."""
        needed = list(dict.fromkeys(pieces))
        others = [piece for piece in self._here if piece not in set(needed)]
        room = max(self._most - len(needed), 0)
        for piece in others[: max(len(others) - room, 0)]:
            (self._folder / rows_name(piece)).unlink(missing_ok=True)
            others.remove(piece)
        self._here = others
        for piece in needed:
            self._fetch(piece)
            self._here.append(piece)


class PlanReader:
    """The plan of a run, open for sending. One thread at a time."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        list_id: str,
        memory_mb: int,
        pieces: LocalPieces | None = None,
    ) -> None:
        """pieces: of the plan; None if all of them are in the folder."""
        self.plan = plan
        self._need: Callable[[Iterable[int]], None] = pieces.need if pieces else lambda _: None
        self.folder = folder
        self._files = StagedFiles(
            folder=folder,
            pieces=plan.pieces,
            sources=[note.name for note in plan.sources],
            fields=len(plan.fields),
            need=self._need,
        )
        self._database = open_database(folder, memory_mb=memory_mb)
        self._before, self._after = (part.encode() for part in profiles.envelope(list_id))
        # A snapshot of empty files has no fields, and nothing to be read from it either.
        self._profile = profiles.profile(plan.fields) if plan.fields else "NULL"
        self._columns = profiles.values_by_path(plan.fields)
        duplicates = literal(str(folder / DUPLICATES_NAME))
        self._database.execute(
            f"CREATE TABLE duplicates AS SELECT piece, row FROM read_parquet({duplicates})"
        )

    def close(self) -> None:
        self._database.close()

    def body(
        self,
        batch: PlannedBatch,
        *,
        first: int = 0,
        last: int | None = None,
        without: Collection[int] = (),
        omitted: Mapping[int, tuple[str, ...]] | None = None,
    ) -> bytes:
        """Build the request body for the profiles `first` to `last` (not included) of a batch.

        without: positions that are left out. Positions count the batch's profiles from 0; what
        Klaviyo's error pointers count is the profiles of the body. omitted: by position, the paths
        of attributes that are left out of a profile.
        """
        sent: Sequence[int] = range(batch.profiles)[first:last]
        if first == 0 and last is None and not (without or omitted):
            rows = self._rows(batch)
            is_plain = not any(self._has_duplicates(span) for span in batch.spans)
        else:
            sent = sorted(set(sent).difference(without))
            rows, is_plain = self._rows_without(batch, sent, omitted or {}), False
        # A plain scan keeps the order. Else it must be asked for: DuckDB 2.0 keeps a chunk of fewer
        # than 64 rows back behind the join that removes duplicates, and then Klaviyo's pointers
        # would name the wrong people.
        order = "" if is_plain else " ORDER BY piece, file_row_number"
        members = f"encode(string_agg({self._profile}, ','{order}))"
        with within_memory():
            found = self._database.execute(f"SELECT count(*), {members} FROM ({rows})").fetchone()
        assert found is not None
        if found[0] != len(sent):
            raise RowsLost(
                f"{found[0]:,} of {len(sent):,} profiles of batch {batch.number} came out of the"
                " plan"
            )
        return b"".join((self._before, found[1] or b"", self._after))

    def rows_at(self, batch: PlannedBatch, positions: Collection[int]) -> dict[int, RowPosition]:
        """Find the staged rows at some positions of a batch.

        They come with what was sent, if the plan keeps rows.
        """
        profile = self._profile if self.plan.keeps_rows else "''"
        rows = self._database.execute(
            f"SELECT position, piece, file_row_number, {IDENTIFIER}, {profile}"
            f" FROM ({self._rows_at(batch, positions)})"
        ).fetchall()
        return {position: RowPosition(*found) for position, *found in rows}

    def positions_of(
        self, batch: PlannedBatch, identifiers: Collection[str], *, attribute: str = ""
    ) -> dict[str, int]:
        """Find the positions in a batch of the profiles with these identifiers.

        attribute: which identifier they are, if not the one that tells profiles apart. Values that
        several profiles share are left out.
        """
        column = self._columns.get(attribute) if attribute else IDENTIFIER
        if column is None or not identifiers:
            return {}
        rows = self._database.execute(
            f"SELECT {column}, min(position) FROM ({self._numbered(batch)})"
            f" WHERE list_contains($ids, {column}) GROUP BY 1 HAVING count(*) = 1",
            {"ids": list(identifiers)},
        ).fetchall()
        return dict(rows)

    def filled(
        self, batch: PlannedBatch, positions: Collection[int], paths: Sequence[str]
    ) -> dict[int, tuple[str, ...]]:
        """Say, by position, which of these attributes some profiles of a batch have."""
        known = [path for path in paths if path in self._columns]
        if not known or not positions:
            return {}
        columns = ", ".join(f"{self._columns[path]} IS NOT NULL" for path in known)
        rows = self._database.execute(
            f"SELECT position, {columns} FROM ({self._rows_at(batch, positions)})"
        ).fetchall()
        return {position: tuple(itertools.compress(known, has)) for position, *has in rows}

    def locate(self, rows: Iterable[Row]) -> dict[Row, Place]:
        """Find source file and line of rows given by piece and position in it."""
        return self._files.locate(self._database, rows)

    def sample(self, count: int) -> list[str]:
        """Give the first profiles as Klaviyo would get them, for a dry run."""
        if not self.plan.batches:
            return []
        rows = self._rows(self.plan.batches[0])
        found = self._database.execute(f"SELECT {self._profile} FROM ({rows}) LIMIT {count}")
        return [text for (text,) in found.fetchall()]

    def spread(self, most: int, *, batches: int = 10) -> list[str]:
        """Give the identifiers of at most so many profiles, from all over the plan."""
        found: list[str] = []
        distance = -(-len(self.plan.batches) // batches) or 1
        chosen = self.plan.batches[::distance]
        for batch in chosen:
            step = -(-batch.profiles // max(most // len(chosen), 1)) or 1
            rows = self.rows_at(batch, range(0, batch.profiles, step))
            found += [row.identifier for row in rows.values()]
        return found[:most]

    def _rows(self, batch: PlannedBatch) -> str:
        """SQL: the batch's staged rows in order. Their pieces are here until others are needed."""
        self._need(span.piece for span in batch.spans)
        doubtful = "" if batch.doubtful is None else f" AND doubtful = {batch.doubtful}"
        # By name where pieces have different columns: their order differs then.
        fields = {self.plan.pieces[span.piece].fields for span in batch.spans}
        return (" UNION ALL " if len(fields) == 1 else " UNION ALL BY NAME ").join(
            f"SELECT * FROM {self._files.rows_of(span.piece)}"
            f" WHERE file_row_number >= {span.first} AND file_row_number < {span.last}"
            f" AND reason IS NULL{doubtful}{self._no_duplicates(span)}"
            for span in batch.spans
        )

    def _no_duplicates(self, span: Span) -> str:
        """SQL: the condition that leaves out a span's duplicates; "" if it has none."""
        if not self._has_duplicates(span):
            return ""
        return f" AND file_row_number NOT IN (SELECT row {self._duplicates_of(span)})"

    def _has_duplicates(self, span: Span) -> bool:
        if not self.plan.duplicates:
            return False
        found = self._database.execute(f"SELECT row {self._duplicates_of(span)} LIMIT 1")
        return found.fetchone() is not None

    def _duplicates_of(self, span: Span) -> str:
        return (
            f"FROM duplicates WHERE piece = {span.piece}"
            f" AND row >= {span.first} AND row < {span.last}"
        )

    def _numbered(self, batch: PlannedBatch) -> str:
        position = "row_number() OVER (ORDER BY piece, file_row_number) - 1"
        return f"SELECT *, {position} AS position FROM ({self._rows(batch)})"

    def _rows_without(
        self, batch: PlannedBatch, positions: Sequence[int], omitted: Mapping[int, tuple[str, ...]]
    ) -> str:
        """SQL: the staged rows at some positions, some of them without some attributes."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for position in positions:
            groups.setdefault(omitted.get(position, ()), []).append(position)
        return " UNION ALL BY NAME ".join(
            profiles.without(self._rows_at(batch, group), self.plan.fields, paths)
            for paths, group in groups.items()
        ) or self._rows_at(batch, ())

    def _rows_at(self, batch: PlannedBatch, positions: Iterable[int]) -> str:
        """SQL: the staged rows at some positions of the batch."""
        chosen = ", ".join(map(str, positions)) or "NULL"
        return f"SELECT * FROM ({self._numbered(batch)}) WHERE position IN ({chosen})"
