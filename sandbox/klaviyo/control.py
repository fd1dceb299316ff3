"""The control routes under /_sandbox, which Klaviyo does not have. They need no key.

The package's docstring lists them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import orjson

from sandbox.klaviyo.lists import Members, ProfileList
from sandbox.klaviyo.messages import Request, Response
from sandbox.klaviyo.profiles import MERGED_BY_KEY
from sandbox.klaviyo.settings import CHOICES
from sandbox.klaviyo.state import State

PREFIX = "/_sandbox/"
SHOWN = 20  # members of a list that a person is shown
DIGEST_CHUNK = 5_000  # members hashed before other requests get a turn


def handle(state: State, request: Request) -> Response:
    path = request.path.removeprefix(PREFIX).strip("/")
    try:
        document = orjson.loads(request.body) if request.body else {}
        return _json(_act(state, f"{request.method} {path}", document))
    except LookupError as exc:
        return _json({"error": f"not found: {exc}"}, 404)
    except (ValueError, TypeError, AttributeError) as exc:
        return _json({"error": str(exc)}, 400)


def digest_of(profiles: Iterable[tuple[str | None, Mapping[str, Any]]]) -> dict[str, Any]:
    """What `GET /_sandbox/lists/{id}/digest` answers for exactly these (e-mail, attributes).

    Per profile: sha256 over the JSON of its attributes with "email" in lower case, without nulls
    (also inside location and properties) and then without an empty location or properties; keys
    sorted at every level, no spaces, UTF-8 and not escaped, as orjson writes it. The digest is the
    sum of these as numbers, modulo 2^256, in 64 hex digits, so that order does not matter.
    """
    total, count = 0, 0
    for email, attributes in profiles:
        known = {**attributes, "email": email.lower()} if email is not None else attributes
        line = orjson.dumps(_without_nulls(known), option=orjson.OPT_SORT_KEYS)
        total += int.from_bytes(hashlib.sha256(line).digest(), "big")
        count += 1
    return {"members": count, "digest": f"{total % 2**256:064x}"}


def _without_nulls(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in attributes.items() if value is not None}
    for name in MERGED_BY_KEY:
        if name in kept:
            kept[name] = {key: value for key, value in kept[name].items() if value is not None}
            if not kept[name]:
                del kept[name]
    return kept


def _act(state: State, action: str, document: Any) -> Any:
    if found := re.fullmatch(r"GET lists/([^/]+)/digest", action):
        return _digest(state, found[1])
    if found := re.fullmatch(r"GET lists/([^/]+)", action):
        return _list(state, found[1])
    with state.lock:
        state.settle()
        if found := re.fullmatch(r"POST jobs/([^/]+)", action):
            return _set_fate(state, found[1], document["fate"])
        match action:
            case "GET state":
                return _overview(state)
            case "GET settings":
                return state.settings.shown()
            case "POST settings":
                state.settings.change(document)
                return state.settings.shown()
            case "POST reset":
                state.reset()
            case "POST faults":
                state.faults.add(document)
            case "DELETE faults":
                state.faults.clear()
            case "POST rows":
                state.planted.add(document)
            case "DELETE rows":
                state.planted.clear()
            case "POST lists":
                return _seed_list(state, document)
            case _:
                raise LookupError(action)
    return {"ok": True}


def _overview(state: State) -> dict[str, Any]:
    account, now = state.account, state.clock()
    return {
        **state.stats.shown(),
        "jobs": dict(Counter(job.status(now) for job in account.jobs)),
        "rows": {
            "accepted": sum(job.total for job in account.jobs),
            "completed": sum(job.completed for job in account.jobs),
            "failed": sum(len(job.import_errors) for job in account.jobs),
        },
        "profiles": account.profiles.count,
        "lists": {each.id: each.members.count for each in account.lists},
    }


def _seed_list(state: State, document: dict[str, Any]) -> dict[str, Any]:
    given = {"name": "", "flows": [], **document}
    if given.keys() != {"id", "name", "flows"}:
        raise ValueError("a list has an id, a name and flows")
    name = given["name"] or given["id"]
    made = state.account.lists.create(name, now=state.clock(), list_id=given["id"])
    made.flows = list(given["flows"])
    return {"id": made.id, "name": made.name}


def _set_fate(state: State, job_id: str, fate: str) -> dict[str, Any]:
    job = state.account.jobs.get(job_id)
    if job is None:
        raise LookupError(job_id)
    if fate not in CHOICES["job_fate"]:
        raise ValueError(f"fate: one of {sorted(CHOICES['job_fate'])}")
    state.account.jobs.set_fate(job, fate)  # type: ignore[arg-type]
    return {"id": job_id, "fate": fate}


def _digest(state: State, list_id: str) -> dict[str, Any]:
    return digest_of(_members(state, _known(state, list_id).members))


def _list(state: State, list_id: str) -> dict[str, Any]:
    """What a person wants to see of a list: how many members, and the first of them."""
    known = _known(state, list_id)
    first = [attributes for _, attributes in islice(_members(state, known.members), SHOWN)]
    return {
        "id": known.id,
        "name": known.name,
        "members": known.members.count,
        "first": [_without_nulls(attributes) for attributes in first],
    }


def _known(state: State, list_id: str) -> ProfileList:
    state.settle()
    known = state.account.lists.get(list_id)
    if known is None:
        raise LookupError(list_id)
    return known


def _members(state: State, members: Members) -> Iterator[tuple[None, dict[str, Any]]]:
    start: int | None = 0
    while start is not None:
        with state.lock:
            walk = members.walk(start)
            chunk = list(islice(walk, DIGEST_CHUNK))
            known = [state.account.profiles.attributes(number) for _, number in chunk]
        start = chunk[-1][0] + 1 if len(chunk) == DIGEST_CHUNK else None
        yield from ((None, attributes) for attributes in known)


def _json(document: Any, status: int = 200) -> Response:
    return Response(status, orjson.dumps(document), {"Content-Type": "application/json"})
