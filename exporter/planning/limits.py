"""How much of the machine planning takes, and how large batches may be."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.klaviyo.limits import MAX_BATCH_BYTES, MAX_BATCH_PROFILES


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """The limits of a plan. All but `memory_mb` have one right value; tests choose smaller ones."""

    memory_mb: int = 96  # DuckDB's share; rows beyond it go to disk
    batch_profiles: int = MAX_BATCH_PROFILES
    batch_bytes: int = MAX_BATCH_BYTES
    block_profiles: int = 100  # batches are filled by blocks of profiles: 100 make a full batch
    keys_a_pass: int = 2_000_000  # compared at a time: bounds the memory of finding duplicates
    piece_bytes: int = 12_000_000  # of a CSV file staged at a time; opening one costs little then
    local_pieces: int = 8  # of a plan that is being sent, kept on the local disk
    parquet_rows: int = 102_400  # of a Parquet file staged at a time
