"""Every route, asked by everybody: who may is what the table in roles.py says, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from exporter.definitions import consent
from exporter.http.identity import PRINCIPAL
from exporter.http.routes import build, create_app
from exporter.management.roles import PERMISSIONS, Action, Actor, May, Role, as_table, may
from tests.http.asking import Asking, principal, problem
from tests.journeys.world import World, people
from tests.management.managing import (
    ACTORS,
    ADMIN,
    NOBODY,
    add_export,
    connect,
    connection_document,
    export_document,
)

ROOT = Path(__file__).parents[2]
IDS = {True: ("shared", "theirs"), False: ("main-account", "high-value")}

Route = tuple[str, str, Action, str]


def routes() -> list[Route]:
    """(method, path, action, name) of every route."""

    def never() -> Any:
        raise AssertionError

    app = build(never)
    assert isinstance(app, FastAPI)
    found = [
        (
            method,
            route.path.removeprefix("/api"),
            Action[route.openapi_extra["x-action"].upper()],
            route.name,
        )
        for route in app.routes
        if isinstance(route, APIRoute) and route.openapi_extra
        for method in route.methods
    ]
    assert len(found) == len([route for route in app.routes if isinstance(route, APIRoute)])
    return [*found, ("GET", "/openapi.json", Action.SEE_API, "openapi")]


ROUTES = routes()
# Routes over no connection in particular: they show or do what the actor may have, or nothing.
OVER_ALL = {"list_connections", "run_all", "find_person"}


@pytest.fixture
def peopled(world: World, api: Asking) -> Asking:
    """A connection for administrators and a shared one, each with an export that ran."""
    connect(api.management)
    connect(api.management, name="Shared", used_by="contributors")
    add_export(api.management)
    add_export(api.management, name="Theirs", connection="shared")
    world.drop_people("a.csv", people(3, planted={1: "nobody"}))
    world.deliver()
    api.management.as_(ADMIN).exports()  # what a first look keeps is kept before the tests look
    return api


def body_of(name: str, connection_id: str, number: int) -> Any:
    """A body that a route would take."""
    match name:
        case "create_connection":
            return connection_document(name=f"Another {number}")
        case "edit_connection":
            return {"name": f"Renamed {number}"}
        case "rotate_key":
            return {"key": connection_document()["key"]}
        case "agree":
            return {"version": consent.VERSION}
        case "find_person":
            return {"identifier": "nobody"}
        case "create_list":
            return {"name": f"List {number}"}
        case "create_export":
            return export_document(name=f"Another {number}", connection=connection_id)
        case "edit_export":
            return export_document(name=f"Renamed {number}", connection=connection_id)
        case _:
            return None


def ask(
    api: Asking, actor: Actor, route: Route, *, shared: bool, number: int, **options: Any
) -> Any:
    method, path, _, name = route
    connection_id, export_id = IDS[shared]
    [newest] = api.management.as_(ADMIN).runs(export_id, limit=1).items
    run = newest.id.rpartition("/")[2]
    filled = path.format(connection_id=connection_id, export_id=export_id, run=run, kind="rejected")
    if name == "suggest_mapping":
        filled += "?segment=HighValue"
    # Nobody has seen this version: whoever may change it gets 412, and the documents stay.
    etag = "not-seen" if method in ("PUT", "DELETE") else ""
    return api.ask(
        actor, method, filled, body_of(name, connection_id, number), etag=etag, **options
    )


def is_allowed(actor: Actor, route: Route, *, shared: bool) -> bool:
    _, _, action, name = route
    return may(actor, action, shared=shared or name in OVER_ALL)


def state_of(world: World) -> list[tuple[str, str]]:
    return [(name, text) for name, text in world.text_of_state() if "/audit/" not in name]


CASES = [(actor, route, shared) for route in ROUTES for actor in ACTORS for shared in (True, False)]


def test_whoever_may_not_is_told_so_and_nothing_happens(world: World, peopled: Asking) -> None:
    before, secrets, waiting = state_of(world), dict(world.secrets), world.messages()
    for number, (actor, route, shared) in enumerate(CASES):
        if not is_allowed(actor, route, shared=shared):
            document = problem(ask(peopled, actor, route, shared=shared, number=number), 403)
            assert document["hint"], route
            assert document["type"] == "/problems/not-allowed", (route, actor)
    assert (state_of(world), world.secrets, world.messages()) == (before, secrets, waiting)
    assert len(world.klaviyo.account.lists) == 1


def test_whoever_may_is_not_refused(world: World, peopled: Asking) -> None:
    for number, (actor, route, shared) in enumerate(CASES):
        if is_allowed(actor, route, shared=shared):
            answer = ask(peopled, actor, route, shared=shared, number=number)
            assert answer.status_code in (200, 201, 202, 204, 409, 412), (route, actor, answer.text)


ASKING = {"plan_export", "find_person"}  # by POST, but they change nothing
CHANGING = [route for route in ROUTES if route[0] != "GET" and route[3] not in ASKING]


@pytest.mark.parametrize("route", CHANGING, ids=lambda route: route[3])
def test_every_route_that_changes_something_leaves_a_line_in_the_record(
    world: World, peopled: Asking, route: Route
) -> None:
    method, path, action, name = route
    world.put("segments/HighValue/b.csv", "EMail,FirstName\nb@example.com,B\n")
    world.clock.move(300)
    open_run = peopled.management.as_(ADMIN).run_export("high-value").id.partition("/")[2]
    if name == "agree":
        peopled.management.as_(ADMIN).withdraw("main-account")
    if name == "resume_export":
        peopled.management.as_(ADMIN).pause_export("high-value", paused=True)
    before = len(peopled.management.as_(ADMIN).changes(limit=200).items)
    filled = path.format(connection_id="main-account", export_id="high-value", run=open_run)
    seen = peopled.ask(ADMIN, "GET", filled) if method in ("PUT", "DELETE") else None
    etag = seen.headers.get("etag", "") if seen else ""
    query = "?exports=detach" if name == "remove_connection" else ""
    answer = peopled.ask(ADMIN, method, filled + query, body_of(name, "main-account", 1), etag=etag)
    assert answer.is_success, answer.text
    lines = peopled.management.as_(ADMIN).changes(limit=200).items[:-before]
    assert action.name.lower() in {line.action for line in lines}
    assert {(line.by["id"], line.outcome) for line in lines} == {(ADMIN.id, "")}


def test_without_an_identity_every_route_is_closed(world: World, peopled: Asking) -> None:
    before = state_of(world)
    for number, route in enumerate(ROUTES):
        method, path, _, _ = route
        for headers in ({}, {PRINCIPAL: "rubbish"}, {PRINCIPAL: ""}, {"x-functions-key": "abc"}):
            answer = peopled.ask(
                None, method, path, body_of(route[3], "shared", number), headers=headers
            )
            assert problem(answer, 401)["hint"]
            assert answer.headers["www-authenticate"] == "Bearer"
    assert state_of(world) == before


def test_where_the_platform_does_not_vouch_every_header_is_ignored(peopled: Asking) -> None:
    management = peopled.management
    open_to_all = Asking(create_app(lambda: management, is_trusted=lambda: False), management)
    for method, path, _, _ in ROUTES:
        problem(open_to_all.ask(ADMIN, method, path), 401)


@pytest.mark.parametrize("path", ["", "/", "/nothing", "/docs", "/redoc", "/exports/a/b/c/d"])
def test_where_nothing_is_one_must_still_be_somebody(api: Asking, path: str) -> None:
    problem(api.ask(None, "GET", path), 401)
    problem(api.ask(NOBODY, "GET", path), 403)
    problem(api.ask(ADMIN, "GET", path), 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Exporter": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://[broken"},
    ],
)
def test_changes_from_other_sites_are_refused(
    world: World, peopled: Asking, headers: dict[str, str]
) -> None:
    before = state_of(world)
    for number, route in enumerate(ROUTES):
        if route[0] != "GET":
            answer = ask(peopled, ADMIN, route, shared=True, number=number, headers=headers)
            assert problem(answer, 403)["type"] == "/problems/cross-site"
    assert state_of(world) == before


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://elsewhere"},
        {"Origin": "http://testserver"},
    ],
)
def test_changes_from_here_are_made(peopled: Asking, headers: dict[str, str]) -> None:
    assert (
        peopled.ask(ADMIN, "POST", "/exports/high-value/pause", headers=headers).status_code == 200
    )


def test_a_form_of_another_site_cannot_add_the_header(peopled: Asking) -> None:
    answer = peopled.send(
        "POST", "/api/exports/high-value/pause", headers={PRINCIPAL: principal(ADMIN)}
    )
    assert problem(answer, 403)["type"] == "/problems/cross-site"


# The table itself


def test_every_action_has_a_row_and_administrators_may_all() -> None:
    assert set(PERMISSIONS) == set(Action)
    assert all(row[Role.ADMIN] is May.YES for row in PERMISSIONS.values())
    assert all(row[Role.VIEWER] in (May.YES, May.NO) for row in PERMISSIONS.values())


def test_every_action_is_of_some_route() -> None:
    assert {action for _, _, action, _ in ROUTES} | {Action.READ_CONNECTION} == set(Action)


def test_without_a_role_nobody_may_anything() -> None:
    assert not any(may(NOBODY, action, shared=True) for action in Action)


def test_docs_show_the_table() -> None:
    assert as_table() in (ROOT / "docs" / "roles.md").read_text(encoding="utf-8")
