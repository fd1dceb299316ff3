"""Fill batches to Klaviyo's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import duckdb

from exporter.planning.plan import PlannedBatch, Span
from exporter.planning.staged_files import StagedFiles

ENVELOPE_BYTES = 300  # more than `profiles.envelope` needs


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rows of a piece that are batched together."""

    piece: int
    first: int
    last: int
    profiles: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much one batch may hold."""

    profiles: int
    size_bytes: int


def fill_batches(
    blocks: Iterable[Block],
    single_rows: Callable[[Block], Iterable[Block]],
    limits: BatchLimits,
    *,
    first_number: int = 0,
) -> Iterator[PlannedBatch]:
    """Fill batches in order, each as full as the limits allow.

    single_rows: takes a block apart that does not fit as a whole.
    """
    batch = _OpenBatch(first_number, limits)
    for block in blocks:
        parts = [block] if batch.takes_whole(block) else single_rows(block)
        for part in parts:
            if not batch.has_room_for(part):
                yield batch.close()
                batch = _OpenBatch(batch.number + 1, limits)
            batch.add(part)
    if batch.profiles:
        yield batch.close()


class _OpenBatch:
    """A batch that is being filled."""

    def __init__(self, number: int, limits: BatchLimits) -> None:
        self.number = number
        self.profiles = 0
        self._limits = limits
        self._size_bytes = ENVELOPE_BYTES
        self._spans: list[list[int]] = []  # piece, first, last

    def has_room_for(self, block: Block) -> bool:
        """Tell whether the block fits. An empty batch takes any: a profile must go somewhere."""
        if not self.profiles:
            return True
        return (
            self.profiles + block.profiles <= self._limits.profiles
            and self._size_bytes + block.size_bytes <= self._limits.size_bytes
        )

    def takes_whole(self, block: Block) -> bool:
        """Tell whether the block need not be taken apart: it goes into this batch or the next."""
        if block.profiles == 1:
            return True
        limits = self._limits
        is_full = self.profiles == limits.profiles
        profiles, size_bytes = (0, ENVELOPE_BYTES) if is_full else (self.profiles, self._size_bytes)
        return (
            profiles + block.profiles <= limits.profiles
            and size_bytes + block.size_bytes <= limits.size_bytes
        )

    def add(self, block: Block) -> None:
        self.profiles += block.profiles
        self._size_bytes += block.size_bytes
        if self._spans and self._spans[-1][0] == block.piece:
            self._spans[-1][2] = block.last
        else:
            self._spans.append([block.piece, block.first, block.last])

    def close(self) -> PlannedBatch:
        spans = [Span(piece=piece, first=first, last=last) for piece, first, last in self._spans]
        return PlannedBatch(
            number=self.number,
            profiles=self.profiles,
            size_bytes=self._size_bytes,
            spans=tuple(spans),
        )


def plan_batches(
    database: duckdb.DuckDBPyConnection,
    files: StagedFiles,
    limits: BatchLimits,
    *,
    block_profiles: int,
) -> list[PlannedBatch]:
    """Fill the batches of a plan. Duplicates must have been found before.

    Profiles that Klaviyo may refuse go into the last batches, where they keep nobody else waiting.
    """
    batches: list[PlannedBatch] = []
    for doubtful in (False, True) if _has_doubtful(database, files) else (None,):
        blocks = StagedBlocks(
            database=database, files=files, block_profiles=block_profiles, doubtful=doubtful
        )
        filled = fill_batches(blocks, blocks.single_rows, limits, first_number=len(batches))
        batches += [batch.model_copy(update={"doubtful": doubtful}) for batch in filled]
    return batches


def _has_doubtful(database: duckdb.DuckDBPyConnection, files: StagedFiles) -> bool:
    if not files.pieces:
        return False
    doubtful = f"SELECT 1 FROM {files.all_rows()} WHERE doubtful AND reason IS NULL LIMIT 1"
    return database.execute(doubtful).fetchone() is not None


# The blocks of a plan


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedBlocks:
    """The profiles to send, as blocks. Duplicates must have been found before."""

    database: duckdb.DuckDBPyConnection
    files: StagedFiles
    block_profiles: int
    doubtful: bool | None  # those whose address Klaviyo may refuse, only others, or both

    def __iter__(self) -> Iterator[Block]:
        """Give the blocks in order.

        Profiles are counted through the pieces, so that a full batch ends with a block.
        """
        before = 0
        for piece in range(len(self.files.pieces)):
            number = f"(row_number() OVER () - 1 + {before}) // {self.block_profiles}"
            blocks = self.database.execute(
                "SELECT min(row), max(row) + 1, count(*), sum(size)::BIGINT"
                f" FROM (SELECT *, {number} AS block FROM {self._profiles(piece)})"
                " GROUP BY block ORDER BY block"
            ).fetchall()
            for first, last, profiles, size_bytes in blocks:
                before += profiles
                yield Block(piece, first, last, profiles, size_bytes)

    def single_rows(self, block: Block) -> Iterator[Block]:
        """Give the profiles of a block as blocks of one."""
        rows = self.database.execute(
            f"SELECT row, size FROM {self._profiles(block.piece)}"
            f" WHERE row >= {block.first} AND row < {block.last} ORDER BY 1"
        ).fetchall()
        for row, size_bytes in rows:
            yield Block(block.piece, row, row + 1, 1, size_bytes)

    def _profiles(self, piece: int) -> str:
        """SQL: row and size of the profiles of a piece that are sent."""
        doubtful = "" if self.doubtful is None else f" AND doubtful = {self.doubtful}"
        return (
            f"(SELECT file_row_number AS row, size FROM {self.files.rows_of(piece)}"
            f" WHERE reason IS NULL{doubtful} AND file_row_number NOT IN"
            f" (SELECT row FROM duplicates WHERE piece = {piece}))"
        )
