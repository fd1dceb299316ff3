"""The API's manners: versions, pages, problems, limits; and that a key comes out nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter import errors
from exporter.cli import remote_backend
from exporter.errors import ExporterError
from exporter.http import problems, routes
from exporter.http.guard import MAX_BODY_BYTES
from exporter.http.identity import PRINCIPAL
from exporter.http.routes import build, create_app
from sandbox.klaviyo import FULL_KEY
from tests.http.asking import Asking, principal, problem
from tests.journeys.world import FOLDER, World, as_csv, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    add_export,
    connect,
    connection_document,
    export_document,
)

ROOT = Path(__file__).parents[2]
ODD: tuple[Any, ...] = (
    None,
    7,
    -1,
    1e308,
    True,
    "",
    " ",
    "x" * 300,
    "\x00",
    "\ud800",
    "../a",
    [],
    {},
    [None],
    {"a": 1},
)


@pytest.fixture
def connected(api: Asking) -> Asking:
    connect(api.management)
    return api


# From nothing to a list


def test_everything_from_a_key_to_a_delivered_list(world: World, api: Asking) -> None:
    made = api.ask(ADMIN, "POST", "/connections", connection_document(used_by="contributors"))
    assert (made.status_code, made.headers["location"]) == (201, "/api/connections/main-account")
    text = api.ask(ADMIN, "GET", "/consent").json()
    agreed = api.ask(
        ADMIN, "PUT", "/connections/main-account/consent", {"version": text["version"]}
    )
    assert agreed.json()["details"]["consent"]["by"] == "Ada"
    world.put(FOLDER + "a.csv", as_csv(people(5, planted={1: "nobody"})))
    world.clock.move(300)
    suggestion = api.ask(CONTRIBUTOR, "GET", "/suggestion?segment=HighValue").json()
    [listed] = api.ask(CONTRIBUTOR, "GET", "/connections/main-account/lists").json()["items"]
    document = export_document(mapping=suggestion["mapping"], list_id=listed["id"])
    saved = api.ask(CONTRIBUTOR, "POST", "/exports", document)
    assert (saved.status_code, saved.headers["location"]) == (201, "/api/exports/high-value")
    assert world.messages() == 0
    started = api.ask(CONTRIBUTOR, "POST", "/exports/high-value/runs")
    assert started.status_code == 202
    world.deliver()
    run = api.ask(VIEWER, "GET", started.headers["location"].removeprefix("/api")).json()
    assert (run["status"], run["counts"]["delivered"], run["accepted"]) == (
        "Completed with warnings",
        4,
        4,
    )
    assert (
        api.ask(VIEWER, "GET", f"/exports/{run['id'].replace('/', '/runs/')}/report").json()[
            "rejected"
        ]
        == 1
    )
    rows = api.ask(CONTRIBUTOR, "GET", f"/exports/{run['id'].replace('/', '/runs/')}/rejected.csv")
    assert rows.headers["content-type"] == "text/csv; charset=utf-8"
    assert "nobody" in rows.text
    assert len(world.emails()) == 4


def test_a_key_comes_out_nowhere(
    world: World, connected: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [
        connected.ask(ADMIN, "GET", "/connections"),
        connected.ask(ADMIN, "GET", "/connections/main-account"),
        connected.ask(ADMIN, "POST", "/connections/main-account/check"),
        connected.ask(ADMIN, "PUT", "/connections/main-account/key", {"key": FULL_KEY}),
        connected.ask(ADMIN, "PUT", "/connections/main-account/key", {"key": [FULL_KEY]}),
        connected.ask(
            ADMIN, "PUT", "/connections/main-account/key", {"key": FULL_KEY, FULL_KEY: 1}
        ),
        connected.ask(ADMIN, "PUT", "/connections/main-account/key", {"key": FULL_KEY * 100}),
        connected.ask(ADMIN, "POST", "/connections", connection_document(key=FULL_KEY, name="")),
        connected.ask(
            ADMIN, "POST", "/connections", connection_document(key="pk_wrong_key", name="Other")
        ),
        connected.ask(
            ADMIN, "POST", "/connections", connection_document(secret=FULL_KEY, name="Other")
        ),
        connected.ask(ADMIN, "GET", "/audit"),
    ]
    text = (
        "".join(answer.text for answer in answers)
        + caplog.text
        + "".join(each for _, each in world.text_of_state())
    )
    assert "pk_wrong_key" not in text
    assert FULL_KEY not in text


# Versions


def test_a_change_needs_the_version_that_was_seen(connected: Asking) -> None:
    saved = connected.ask(ADMIN, "POST", "/exports", export_document())
    for etag in ("", "*"):
        document = problem(
            connected.ask(ADMIN, "PUT", "/exports/high-value", export_document(), etag=etag), 428
        )
        assert "If-Match" in document["detail"]
    for etag in ('"other"', "other", 'W/"x"', f"{saved.headers['etag']}x"):
        document = export_document(max_profiles=4)
        answer = connected.ask(ADMIN, "PUT", "/exports/high-value", document, etag=etag)
        assert problem(answer, 412)["type"] == "/problems/edit-conflict"
    etag = saved.headers["etag"]
    changed = connected.ask(
        ADMIN, "PUT", "/exports/high-value", export_document(max_profiles=5), etag=etag
    )
    assert (changed.status_code, changed.json()["max_profiles"]) == (200, 5)
    assert changed.headers["etag"] != etag
    problem(connected.ask(ADMIN, "DELETE", "/exports/high-value", etag=etag), 412)
    assert (
        connected.ask(
            ADMIN, "DELETE", "/exports/high-value", etag=changed.headers["etag"]
        ).status_code
        == 204
    )
    problem(connected.ask(ADMIN, "GET", "/exports/high-value"), 404)


# Pages


def test_long_lists_come_in_pages(connected: Asking) -> None:
    for number in range(3):
        add_export(connected.management, name=f"Export {number}", paused=True)
    first = connected.ask(ADMIN, "GET", "/audit?limit=3").json()
    second = connected.ask(ADMIN, "GET", f"/audit?limit=3&cursor={first['next']}").json()
    assert [len(first["items"]), len(second["items"]), second["next"]] == [3, 2, None]
    for limit in ("0", "201", "many"):
        document = problem(connected.ask(ADMIN, "GET", f"/audit?limit={limit}"), 422)
        assert document["problems"][0]["field"] == "limit"


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_lists_by_name_come_in_pages_without_gaps_or_repetitions(
    world: World, connected: Asking, limit: int
) -> None:
    names = ["A", "a b", "B", "Ä", "\N{SNOWMAN}"]
    for number, name in enumerate(names):
        connect(connected.management, name=f"{name} account")
        world.klaviyo.call(
            "POST", "/_sandbox/lists", {"id": f"X{number}", "name": "same" if number > 2 else name}
        )
        world.put(f"segments/{name}.csv", as_csv(people(1)))
        add_export(connected.management, name=name)
    paths = {"/connections": 6, "/connections/main-account/lists": 6, "/exports": 5, "/segments": 5}
    for path, count in paths.items():
        found, cursor = list[str](), ""
        for number in range(10):
            page = connected.ask(ADMIN, "GET", f"{path}?limit={limit}&cursor={cursor}").json()
            assert len(page["items"]) <= limit
            found += [f"{each['name'].casefold()} {each.get('id')}" for each in page["items"]]
            if path == "/exports" and number == 0:  # what goes meanwhile takes nothing else along
                first = page["items"][-1]
                connected.ask(ADMIN, "DELETE", f"/exports/{first['id']}", etag=first["etag"])
            cursor = page["next"]
            if cursor is None:
                break
        assert found == sorted(found)
        assert len(set(found)) == len(found) == count, path
    problem(connected.ask(ADMIN, "GET", "/exports?limit=0"), 422)


@pytest.mark.parametrize(
    "cursor", ["x", "zzz", "!!!!", "eHh4", "2026-11-23", "-1", "%00", "../../audit", "%C3%84"]
)
def test_a_cursor_that_is_of_no_page_is_named(connected: Asking, cursor: str) -> None:
    add_export(connected.management)
    lists = ("/connections", "/connections/main-account/lists", "/exports", "/segments")
    for path in ("/audit", "/exports/high-value/runs", *lists):
        document = problem(connected.ask(ADMIN, "GET", f"{path}?cursor={cursor}"), 422)
        assert [each["field"] for each in document["problems"]] == ["cursor"]


# What is refused


@pytest.mark.parametrize(
    "field", [*export_document(), "schedule", "max_profiles", "id", "paused", "surprise"]
)
def test_rubbish_in_a_field_of_an_export_names_the_field(connected: Asking, field: str) -> None:
    before = connected.ask(ADMIN, "GET", "/exports").json()
    for odd in ODD:
        answer = send_odd(connected, "/exports", {**export_document(), field: odd})
        if answer.status_code == 201:  # some of it is no rubbish for this field
            made = answer.json()
            assert (
                connected.ask(
                    ADMIN, "DELETE", f"/exports/{made['id']}", etag=made["etag"]
                ).status_code
                == 204
            )
            continue
        document = problem(answer, answer.status_code)
        assert answer.status_code in (404, 409, 422), (odd, document)
        if answer.status_code == 422:
            assert document["hint"]
            assert all(
                each["field"].split(".")[0] == field and each["message"]
                for each in document["problems"]
            ), odd
    assert connected.ask(ADMIN, "GET", "/exports").json() == before


@pytest.mark.parametrize("field", ["name", "type", "used_by", "key", "secret", "id", "surprise"])
def test_rubbish_in_a_field_of_a_connection_names_the_field(
    world: World, api: Asking, field: str
) -> None:
    before = dict(world.secrets)
    for odd in ODD:
        answer = send_odd(api, "/connections", connection_document(**{field: odd}))
        if answer.status_code == 201:
            etag = answer.headers["etag"]
            path = f"/connections/{answer.json()['id']}?delete_secret=true"
            assert api.ask(ADMIN, "DELETE", path, etag=etag).status_code == 204
            continue
        document = problem(answer, 422)
        named = {each["field"].split(".")[0] for each in document["problems"]}
        assert named <= {field, "document"}, odd  # "document": neither or both of key and secret
    assert (world.secrets, api.ask(ADMIN, "GET", "/connections").json()) == (
        before,
        {"items": [], "next": None},
    )


def send_odd(api: Asking, path: str, document: Any) -> httpx.Response:
    """Halves of characters cannot be sent as UTF-8, but as an escape in JSON."""
    headers = {"X-Exporter": "1", PRINCIPAL: principal(ADMIN), "Content-Type": "application/json"}
    return api.send("POST", f"/api{path}", content=json.dumps(document), headers=headers)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[]", 422),
        (b"null", 422),
        (b"7", 422),
        (b'"x"', 422),
        (b"\xff\xfe{}", 400),
        (b"[" * 100_000, 400),
        (b'{"name": NaN}', 422),
        (b"x" * (MAX_BODY_BYTES + 1), 413),
    ],
)
def test_a_body_that_is_no_form_is_a_problem(api: Asking, body: bytes, status: int) -> None:
    headers = {"X-Exporter": "1", PRINCIPAL: principal(ADMIN), "Content-Type": "application/json"}
    for path in ("/api/exports", "/api/connections"):
        problem(api.send("POST", path, content=body, headers=headers), status)


def test_a_wrong_method_or_path_is_a_problem(api: Asking) -> None:
    assert "GET" in problem_headers(api.ask(ADMIN, "PATCH", "/exports"), 405)["allow"]
    problem(api.ask(ADMIN, "GET", "/export"), 404)
    problem(api.ask(ADMIN, "GET", "/exports/%2e%2e/runs/x"), 404)


def problem_headers(answer: httpx.Response, status: int) -> httpx.Headers:
    problem(answer, status)
    return answer.headers


def test_answers_are_not_kept_by_anybody(connected: Asking) -> None:
    for answer in (
        connected.ask(ADMIN, "GET", "/connections"),
        connected.ask(VIEWER, "GET", "/connections"),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_key_that_klaviyo_refuses_meanwhile_is_not_the_askers_fault(
    world: World, connected: Asking
) -> None:
    world.settings(revoke=[FULL_KEY])
    document = problem(connected.ask(ADMIN, "GET", "/connections/main-account/lists"), 502)
    assert (document["type"], bool(document["hint"])) == ("/problems/key-refused", True)


def test_what_does_not_answer_says_when_to_ask_again(world: World, connected: Asking) -> None:
    world.fault("status", match="GET /api/lists", status=503, times=1_000)
    answer = connected.ask(ADMIN, "GET", "/connections/main-account/lists")
    assert int(problem_headers(answer, 503)["retry-after"]) > 0


def test_an_unknown_error_says_nothing_of_itself(
    api: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise RuntimeError("ada@example.com")

    asking = Asking(create_app(broken, is_trusted=lambda: True), api.management)
    answer = asking.ask(ADMIN, "GET", "/exports")
    assert problem(answer, 500)["hint"]
    assert "ada@example.com" not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text or any(
        "RuntimeError" in str(vars(each)) for each in caplog.records
    )


def test_rows_that_are_too_many_are_left_in_storage(world: World, connected: Asking) -> None:
    management = connected.management
    app = create_app(lambda: management, is_trusted=lambda: True, max_rows_bytes=10)
    add_export(management)
    world.drop_people("a.csv", people(3, planted={1: "nobody"}))
    world.deliver()
    name = world.run("high-value").run_id.replace("/", "/runs/")
    answer = Asking(app, management).ask(ADMIN, "GET", f"/exports/{name}/rejected.csv")
    document = problem(answer, 409)
    assert "state container" in document["hint"]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/exports/high-value/plan", None), ("/why", {"identifier": "p1@example.com"})],
)
def test_what_would_outlast_a_request_ends_with_the_reason_and_what_to_do(
    world: World, connected: Asking, path: str, body: Any
) -> None:
    management = connected.management
    app = create_app(lambda: management, is_trusted=lambda: True, answer_s=0)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    document = problem(Asking(app, management).ask(ADMIN, "POST", path, body), 409)
    assert document["type"] == "/problems/took-too-long"
    assert ("than the 0 s" in document["detail"], "--app" in document["hint"]) == (True, True)
    assert connected.ask(ADMIN, "POST", path, body).status_code == 200


def test_the_own_limit_is_below_that_of_the_platform() -> None:
    assert 0 < routes.ANSWER_S < 230 < remote_backend.ANSWER_S


def test_every_error_has_a_status_and_a_hint() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ExporterError)
    ]
    for kind in kinds:
        error = kind() if kind is errors.Invalid else kind("x")
        assert 400 <= problems.status_of(error) < 600
        assert json.loads(bytes(problems.of_error(error).body))["hint"], kind
        if issubclass(kind, errors.Refused):
            assert problems.status_of(error) < 500


def test_fastapi_sends_no_telemetry_of_its_own() -> None:
    """It would record addresses with their queries, and the texts of exceptions."""
    app = build(lambda: pytest.fail("asked"))
    assert not app._native_telemetry.enabled()


# The description


def test_the_description_is_served_as_checked_in(api: Asking) -> None:
    kept = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert api.ask(VIEWER, "GET", "/openapi.json").json() == kept


def test_health_is_not_under_the_guard_and_no_route_of_the_api() -> None:
    kept = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert "/api/health" not in kept["paths"]
