r"""Import jobs on their way.

    accepted --> queued --(half of job_seconds)--> processing --(job_seconds)--> complete
                                                       \--> stays there      fate "stuck"
    fate "cancelled": cancelled at once, nothing is imported
    fate "vanish":    every read answers 404, nothing is imported

The rows reach the profiles when the job completes, all of them at once. Jobs do not wait for each
other. A job and its errors can be read for seven days.
"""

from __future__ import annotations

import heapq
import secrets
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sandbox.klaviyo.batches import Batch
from sandbox.klaviyo.settings import Fate

LIFETIME_S = (
    7 * 86_400
)  # `expires_at` is exactly created_at + 7 days in a captured answer of November 2024


@dataclass(slots=True, kw_only=True)
class Job:
    id: str
    number: int
    total: int
    list_ids: tuple[str, ...]
    created_at: float
    starts_at: float
    ends_at: float
    fate: Fate
    batch: Batch | None  # until the rows are imported
    completed: int = 0
    import_errors: list[dict[str, Any]] = field(default_factory=list)
    members: array[int] = field(
        default_factory=lambda: array("q")
    )  # the profiles it wrote, each once
    is_done: bool = False

    def status(self, now: float) -> str:
        if self.fate == "cancelled":
            return "cancelled"
        if self.is_done:
            return "complete"
        return "processing" if now >= self.starts_at else "queued"

    def is_readable(self, now: float) -> bool:
        return self.fate != "vanish" and now < self.created_at + LIFETIME_S


class Jobs:
    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._due: list[tuple[float, int, Job]] = []  # a heap

    def __iter__(self) -> Iterator[Job]:
        """Oldest first."""
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def accept(self, batch: Batch, *, now: float, seconds: float, fate: Fate) -> Job:
        job = Job(
            id=secrets.token_urlsafe(44),
            number=len(self._jobs),
            total=len(batch),
            list_ids=batch.list_ids,
            created_at=now,
            starts_at=now + seconds / 2,
            ends_at=now + seconds,
            fate=fate,
            batch=batch,
        )
        self._jobs[job.id] = job
        heapq.heappush(self._due, (job.ends_at, job.number, job))
        return job

    def take_due(self, now: float) -> list[Job]:
        """Jobs whose rows must be imported now, in order of completion. Each is handed out once."""
        due = []
        while self._due and self._due[0][0] <= now:
            job = heapq.heappop(self._due)[2]
            if job.fate == "normal":
                due.append(job)
        return due

    def set_fate(self, job: Job, fate: Fate) -> None:
        """Change what becomes of a job.

        A stuck one that turns normal completes when it is next looked at.
        """
        job.fate = fate
        if fate == "normal" and not job.is_done:
            heapq.heappush(self._due, (job.ends_at, job.number, job))
