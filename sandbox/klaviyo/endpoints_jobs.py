"""/api/profile-bulk-import-jobs"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sandbox.klaviyo import resources
from sandbox.klaviyo.batches import Batch, read_batch
from sandbox.klaviyo.calls import Call, Route
from sandbox.klaviyo.jobs import Job
from sandbox.klaviyo.limits import Tier
from sandbox.klaviyo.messages import Refused, Response, answer, error, invalid, not_found, refusal
from sandbox.klaviyo.queries import links, names, read_filter, read_page, read_sort

JOBS = "/api/profile-bulk-import-jobs"


def create_job(call: Call) -> Response:
    batch: Batch = call.prepared
    missing = [
        error(
            *(400, "invalid", "Invalid input.", f"List {list_id} does not exist."),
            pointer=f"/data/relationships/lists/data/{place}/id",
        )
        for place, list_id in enumerate(batch.list_ids)
        if call.account.lists.get(list_id) is None
    ]
    if missing:
        raise Refused(400, missing)
    settings = call.settings
    job = call.account.jobs.accept(
        batch, now=call.now, seconds=settings.job_seconds, fate=settings.job_fate
    )
    return _one(call, job, status=202)


def get_job(call: Call) -> Response:
    return _one(call, _job(call))


def get_jobs(call: Call) -> Response:
    clauses = read_filter(call.request, call.documented.operators)
    wanted = [set(clause.values) for clause in clauses]
    if not all(statuses <= {"queued", "processing", "complete"} for statuses in wanted):
        raise invalid("Invalid filter provided: no such status.", parameter="filter")
    _, newest_first = read_sort(call.request, "created_at")
    jobs = [
        (job.number, job)
        for job in call.account.jobs
        if job.is_readable(call.now)
        and all(job.status(call.now) in statuses for statuses in wanted)
    ]
    page = read_page(call.request, call.documented)
    found, following = page.take(_from(page.start, jobs, newest_first=newest_first))
    data = [call.sparse(resources.job(job, call.base_url, call.now)) for job in found]
    return answer({"data": data, "links": links(call.request, following)})


def get_import_errors(call: Call) -> Response:
    return _page(call, _job(call).import_errors, call.sparse)


def get_job_profiles(call: Call) -> Response:
    def render(number: int) -> dict[str, Any]:
        return call.sparse(resources.profile(call.account, number, call.base_url))

    return _page(call, _living_members(call), render)


def get_job_profile_ids(call: Call) -> Response:
    return _page(call, _living_members(call), resources.profile_reference)


def get_job_lists(call: Call) -> Response:
    known = [call.account.lists.get(list_id) for list_id in _job(call).list_ids]
    data = [call.sparse(resources.profile_list(each, call.base_url)) for each in known if each]
    return answer({"data": data, "links": links(call.request, None)})


def get_job_list_ids(call: Call) -> Response:
    data = [resources.list_reference(list_id) for list_id in _job(call).list_ids]
    return answer({"data": data, "links": links(call.request, None)})


def _job(call: Call) -> Job:
    job_id = call.params["id"]
    job = call.account.jobs.get(job_id)
    if job is None or job.fate == "vanish":
        raise not_found("profile-bulk-import-job", job_id)
    if not job.is_readable(call.now):
        # What a real one answers for a job that has expired is not known.
        raise refusal(404, "not_found", "Not found.", f"Job {job_id} has expired.")
    return job


def _one(call: Call, job: Job, status: int = 200) -> Response:
    document: dict[str, Any] = {"data": call.sparse(resources.job(job, call.base_url, call.now))}
    document["links"] = {"self": document["data"]["links"]["self"]}
    if names(call.request, "include"):
        known = [call.account.lists.get(list_id) for list_id in job.list_ids]
        document["included"] = [
            call.sparse(resources.profile_list(each, call.base_url)) for each in known if each
        ]
    return answer(document, status)


def _living_members(call: Call) -> list[int]:
    return [number for number in _job(call).members if call.account.profiles.exists(number)]


def _page(call: Call, items: list[Any], render: Callable[[Any], Any]) -> Response:
    page = read_page(call.request, call.documented)
    start = page.start or 0
    found, following = page.take(enumerate(items[start : start + page.size + 1], start))
    return answer(
        {"data": [render(each) for each in found], "links": links(call.request, following)}
    )


def _from(
    start: int | None, jobs: list[tuple[int, Job]], *, newest_first: bool
) -> Iterator[tuple[int, Job]]:
    if newest_first:
        return (each for each in reversed(jobs) if start is None or each[0] <= start)
    return (each for each in jobs if each[0] >= (start or 0))


_READ = frozenset({"lists:read", "profiles:read"})
_PROFILES = frozenset({"profiles:read"})
_LISTS = frozenset({"lists:read"})

ROUTES = (
    Route(
        method="POST",
        template=JOBS,
        scopes=frozenset({"lists:write", "profiles:write"}),
        tier=Tier.M,
        endpoint=create_job,
        prepare=read_batch,
    ),
    *(
        Route(method="GET", template=f"{JOBS}{rest}", scopes=scopes, tier=Tier.M, endpoint=endpoint)
        for rest, scopes, endpoint in (
            ("", _READ, get_jobs),
            ("/{id}", _READ, get_job),
            ("/{id}/import-errors", _PROFILES, get_import_errors),
            ("/{id}/profiles", _PROFILES, get_job_profiles),
            ("/{id}/relationships/profiles", _PROFILES, get_job_profile_ids),
            ("/{id}/lists", _LISTS, get_job_lists),
            ("/{id}/relationships/lists", _LISTS, get_job_list_ids),
        )
    ),
)
