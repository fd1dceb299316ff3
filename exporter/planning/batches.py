"""Batches filled to Klaviyo's limits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from exporter.klaviyo.limits import MAX_BATCH_BYTES, MAX_BATCH_PROFILES
from exporter.planning.plan import (
    PlannedBatch,
    Span,
)

_ENVELOPE_BYTES = 300  # more than payload.envelope needs


# Batches


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rows of a piece that are batched together."""

    piece: int
    first: int
    last: int
    profiles: int
    size_bytes: int


def fill_batches(
    blocks: Iterable[Block], single_rows: Callable[[Block], Iterable[Block]]
) -> Iterator[PlannedBatch]:
    """Fill batches in order, each as full as the limits allow. A block that does not fit is taken row by row."""
    number, profiles, size = 0, 0, _ENVELOPE_BYTES
    spans: list[list[int]] = []  # piece, first, last
    for block in blocks:
        fits = (
            profiles + block.profiles <= MAX_BATCH_PROFILES
            and size + block.size_bytes <= MAX_BATCH_BYTES
        )
        # The next batch takes a block as it is, when this one is full to the last profile.
        is_full = profiles == MAX_BATCH_PROFILES >= block.profiles
        begins_next = is_full and _ENVELOPE_BYTES + block.size_bytes <= MAX_BATCH_BYTES
        for part in [block] if fits or begins_next or block.profiles == 1 else single_rows(block):
            if spans and (
                profiles + part.profiles > MAX_BATCH_PROFILES
                or size + part.size_bytes > MAX_BATCH_BYTES
            ):
                yield _batch(number, profiles, size, spans)
                number, profiles, size, spans = number + 1, 0, _ENVELOPE_BYTES, []
            profiles += part.profiles
            size += part.size_bytes
            _extend(spans, part)
    if spans:
        yield _batch(number, profiles, size, spans)


def _extend(spans: list[list[int]], block: Block) -> None:
    if spans and spans[-1][0] == block.piece:
        spans[-1][2] = block.last
    else:
        spans.append([block.piece, block.first, block.last])


def _batch(number: int, profiles: int, size_bytes: int, spans: list[list[int]]) -> PlannedBatch:
    made = tuple(Span(piece=piece, first=first, last=last) for piece, first, last in spans)
    return PlannedBatch(number=number, profiles=profiles, size_bytes=size_bytes, spans=made)
