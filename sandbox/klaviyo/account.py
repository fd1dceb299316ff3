"""One Klaviyo account: its profiles, lists and import jobs."""

from __future__ import annotations

from array import array

from sandbox.klaviyo.checks import Finding
from sandbox.klaviyo.jobs import Job, Jobs
from sandbox.klaviyo.lists import Lists
from sandbox.klaviyo.profiles import Profiles
from sandbox.klaviyo.settings import Settings

ACCOUNT_ID = "SANDBX"


class Account:
    """Not safe for threads by itself: the handler's lock guards it."""

    def __init__(self) -> None:
        self.profiles = Profiles()
        self.lists = Lists()
        self.jobs = Jobs()

    def settle(self, now: float, settings: Settings) -> None:
        """Bring the account to the present: import the rows of every job that is due."""
        due = self.jobs.take_due(now)
        for job in reversed(due) if settings.job_order == "reversed" else due:
            if not job.is_done:
                self._import(job, settings)

    def delete_profile(self, number: int) -> None:
        self.profiles.delete(number)
        self.lists.forget_profile(number)

    def _import(self, job: Job, settings: Settings) -> None:
        batch = job.batch
        assert batch is not None
        errors = dict(batch.import_errors)
        numbers, conflicts = self.profiles.import_rows(
            batch.rows, now=job.ends_at, skip=errors, unique=settings.unique
        )
        for row, conflict in conflicts.items():
            place = f"/attributes/{conflict.field}"
            finding = Finding(
                check="conflict",
                row=row,
                field=place,
                detail=str(conflict),
                code="invalid" if conflict.owner is None else "duplicate_profile",
                title="Invalid input." if conflict.owner is None else "Conflict.",
            )
            errors[row] = finding.import_error(batch.rows.original(row), settings)
        for list_id in job.list_ids:
            # A list that was deleted meanwhile is passed over in silence (unverified).
            if found := self.lists.get(list_id):
                found.members.add(numbers, job.ends_at)
        job.import_errors = [errors[row] for row in sorted(errors)]
        job.completed = len(numbers)
        job.members = array("q", dict.fromkeys(numbers))
        job.batch, job.is_done = None, True
