"""The app in Microsoft's own worker.

It loads there, its triggers are as intended, and its functions run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

from exporter import wiring
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.definitions.schedule import Schedule
from exporter.http.identity import PRINCIPAL
from exporter.management.roles import Actor, Role
from exporter.orchestration.engine import Engine
from exporter.orchestration.results import step_message
from exporter.runs.run import Phase, Status
from exporter.settings import from_env
from sandbox import klaviyo as stand_in
from sandbox.azurite import Azurite
from sandbox.vault import serving as serving_vault
from tests.http.asking import principal
from tests.journeys.worker import (
    TO_HOST,
    Worker,
    WorkerError,
    blob_content_input,
    blob_input,
    http_body,
    http_input,
    queue_input,
    running_worker,
    timer_input,
)

ROOT = Path(__file__).parents[2]
TOY_APP = ROOT / "tests" / "sandbox" / "toy_app"

# Every function of the app: the fields of its trigger. Nothing else says what Azure will listen to.
TRIGGERS: dict[str, dict[str, Any]] = {
    "on_blob": {
        "type": "blobTrigger",
        "path": "%SNAPSHOTS_CONTAINER%/{name}",
        "connection": "SnapshotsStorage",
        "source": "EventGrid",
        "properties": {"SupportsDeferredBinding": True},
    },
    "on_step": {"type": "queueTrigger", "queueName": "%STEPS_QUEUE%", "connection": "StateStorage"},
    "on_poison": {
        "type": "queueTrigger",
        "queueName": "%STEPS_QUEUE%-poison",
        "connection": "StateStorage",
    },
    "on_tick": {"type": "timerTrigger", "schedule": "%TICK_SCHEDULE%"},
    "api": {"type": "httpTrigger", "route": "{*path}", "authLevel": "ANONYMOUS"},
    "health": {
        "type": "httpTrigger",
        "route": "health",
        "methods": ["GET"],
        "authLevel": "ANONYMOUS",
    },
}

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        sys.version_info < (3, 13),
        reason="Microsoft publishes its worker as a library only for Python 3.13 and newer",
    ),
]


# The driver itself, on a toy app


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which the toy app notes what its functions saw."""
    return tmp_path_factory.mktemp("toy") / "notes"


@pytest.fixture(scope="module")
def toy(azurite: Azurite, notes: Path) -> Iterator[Worker]:
    env = {"LOG": str(notes), "SnapshotsStorage": azurite.connection_string}
    with running_worker(TOY_APP, env=env, log=notes.with_name("worker.log")) as worker:
        yield worker


def last_note(notes: Path, function: str) -> dict[str, Any]:
    found = [
        note
        for note in map(json.loads, notes.read_text().splitlines())
        if note["function"] == function
    ]
    return dict(found[-1])


@pytest.mark.azurite
class TestDriver:
    def test_worker_indexes_every_function_with_its_bindings(self, toy: Worker) -> None:
        assert [function.name for function in toy.functions][:3] == ["on_blob", "on_stream", "step"]
        assert toy.functions[0].trigger == {
            "name": "client",
            "type": "blobTrigger",
            "direction": "IN",
            "path": "%SNAPSHOTS_CONTAINER%/{name}",
            "connection": "SnapshotsStorage",
            "source": "EventGrid",
            "properties": {"SupportsDeferredBinding": True},
        }

    def test_sdk_type_is_a_client_for_the_blob_of_the_event(
        self, toy: Worker, notes: Path, azurite: Azurite
    ) -> None:
        with BlobServiceClient.from_connection_string(azurite.connection_string) as blobs:
            blobs.create_container("toy").upload_blob("eu/a.csv", "hello").close()
        assert toy.invoke(
            "on_blob", blob_input("client", "SnapshotsStorage", "toy", "eu/a.csv")
        ).succeeded
        note = last_note(notes, "on_blob")
        assert (note["container"], note["name"], note["text"]) == ("toy", "eu/a.csv", "hello")

    def test_input_stream_holds_the_blob(self, toy: Worker, notes: Path) -> None:
        assert toy.invoke(
            "on_stream", blob_content_input("stream", b"hello", "streams/in/eu/a.csv")
        ).succeeded
        note = last_note(notes, "on_stream")
        assert (note["name"], note["text"]) == ("streams/in/eu/a.csv", "hello")

    def test_queue_message_carries_its_metadata(self, toy: Worker, notes: Path) -> None:
        assert toy.invoke("step", queue_input("message", "hello", dequeue_count=4)).succeeded
        note = last_note(notes, "step")
        assert (note["text"], note["tries"], note["inserted"]) == (
            "hello",
            4,
            "2026-11-23 12:00:00+00:00",
        )

    @pytest.mark.parametrize("past_due", [False, True])
    def test_timer_knows_whether_it_is_late(self, toy: Worker, notes: Path, past_due: bool) -> None:
        assert toy.invoke("tick", timer_input("timer", past_due=past_due)).succeeded
        assert last_note(notes, "tick")["past_due"] is past_due

    def test_http_request_goes_in_and_its_answer_comes_out(self, toy: Worker) -> None:
        request = http_input(
            *("req", "PUT", "http://host/api/a/b?x=1"),
            headers={"X-Mixed-Case": "1"},
            query={"x": "1"},
            route_params={"path": "a/b"},
            body=b"\x00body",
        )
        outcome = toy.invoke("echo", request)
        assert outcome.succeeded, outcome.error
        assert outcome.returned is not None
        assert outcome.returned["http"]["status_code"] == "201"
        assert json.loads(http_body(outcome)) == {
            "method": "PUT",
            "url": "http://host/api/a/b?x=1",
            "headers": {"x-mixed-case": "1"},
            "params": {"x": "1"},
            "route_params": {"path": "a/b"},
            "body_bytes": 5,
        }

    def test_exception_of_a_function_is_the_outcome(self, toy: Worker) -> None:
        outcome = toy.invoke("step", queue_input("message", "fail"))
        assert (outcome.succeeded, outcome.error) == (False, "RuntimeError: told to fail")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        (
            "import azure.functions as func\n"
            "app = func.FunctionApp()\n"
            "@app.timer_trigger(arg_name='timer', schedule='0 0 * * * *')\n"
            "def tick(timer: int) -> None: ...\n",
            "cannot load the tick function",
        ),
    ],
)
def test_app_that_the_worker_refuses_is_an_error(
    tmp_path: Path, source: str, complaint: str
) -> None:
    (tmp_path / "function_app.py").write_text(source)
    with (
        pytest.raises(WorkerError, match=complaint),
        running_worker(tmp_path, env={}, log=tmp_path / "log"),
    ):
        pass


# The app of this repository


SETTINGS = {
    "SNAPSHOTS_CONTAINER": "worker-snapshots",
    "STATE_CONTAINER": "worker-state",
    "STEPS_QUEUE": "worker-steps",
    "TICK_SCHEDULE": "0 */5 * * * *",
}
LIST = "LIST01"
BLOB_NAME = "exports/HighValue/2026/11/23/1200/HighValue_1.csv"


@pytest.fixture(scope="module")
def storage(azurite: Azurite) -> dict[str, str]:
    """The settings of connections to a storage as the infrastructure makes it, with a partition."""
    with BlobServiceClient.from_connection_string(azurite.connection_string) as blobs:
        blobs.create_container(SETTINGS["STATE_CONTAINER"]).close()
        blobs.create_container(SETTINGS["SNAPSHOTS_CONTAINER"]).upload_blob(
            BLOB_NAME, "EMail\nada@example.com\n"
        ).close()
    with QueueServiceClient.from_connection_string(azurite.connection_string) as queues:
        queues.create_queue(SETTINGS["STEPS_QUEUE"]).close()
    return dict.fromkeys(
        ("AzureWebJobsStorage", "SnapshotsStorage", "StateStorage"), azurite.connection_string
    )


@pytest.fixture(scope="module")
def app(storage: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """With an account in which an import lasts."""
    folder = tmp_path_factory.mktemp("app")
    klaviyo = stand_in.Klaviyo(stand_in.Settings(job_seconds=600))
    klaviyo.call("POST", "/_sandbox/lists", {"id": LIST})
    with stand_in.serving(klaviyo) as klaviyo_url, serving_vault(cert_dir=folder) as vault:
        vault.vault.set_secret("klaviyo-key", stand_in.FULL_KEY)
        env = {
            **SETTINGS,
            **storage,
            **vault.env,
            "KEY_VAULT_URL": vault.url,
            "WORK_FOLDER": str(folder / "work"),
        }
        env["KLAVIYO_BASE_URL"] = klaviyo_url
        with running_worker(ROOT, env=env, log=folder / "worker.log") as worker:
            yield worker


@pytest.fixture
def engine(storage: dict[str, str], tmp_path: Path) -> Engine:
    """On the app's storage, to start runs there and to look at them."""
    environ = {**SETTINGS, **storage, "SETTLE_SECONDS": "0", "WORK_FOLDER": str(tmp_path)}
    environ["KEY_VAULT_URL"] = "https://vault.invalid"
    return wiring.build(from_env(environ), environ)


@pytest.fixture
def export(engine: Engine) -> Iterator[Export]:
    consent = Consent(by="a test", at=datetime.now(UTC))
    engine.catalog.save(Connection(id="main", name="Main", secret="klaviyo-key", consent=consent))
    nightly = Schedule(on="schedule", times=["03:00"])
    it = Export(
        id="vips",
        name="VIPs",
        connection="main",
        list_id=LIST,
        segments=["HighValue"],
        mapping=parse_mapping({"email": "EMail"}),
        schedule=nightly,
    )
    engine.catalog.save(it)
    yield it
    for name in (f"exports/{it.id}.json", "connections/main.json"):
        engine.store.delete(name)


@pytest.mark.azurite
class TestApp:
    def test_worker_loads_every_function_with_the_intended_trigger(self, app: Worker) -> None:
        found = {function.name: fields_of(function.trigger) for function in app.functions}
        assert found == TRIGGERS

    def test_health_names_what_is_within_reach(self, app: Worker) -> None:
        outcome = app.invoke("health", http_input("req", "GET", "http://host/api/health"))
        assert outcome.succeeded, outcome.error
        assert outcome.returned is not None
        assert outcome.returned["http"]["status_code"] == "200"
        assert json.loads(http_body(outcome)) == dict.fromkeys(
            ("state", "snapshots", "queue", "vault", "events"), "ok"
        )

    def test_blob_is_noted_in_the_queue_and_its_message_is_understood(
        self, app: Worker, storage: dict[str, str]
    ) -> None:
        place = ("SnapshotsStorage", SETTINGS["SNAPSHOTS_CONTAINER"], BLOB_NAME)
        noted = app.invoke("on_blob", blob_input("client", *place))
        assert noted.succeeded, noted.error
        with QueueServiceClient.from_connection_string(storage["StateStorage"]) as queues:
            queue = queues.get_queue_client(SETTINGS["STEPS_QUEUE"])
            assert queue.get_queue_properties().approximate_message_count == 1
        message = json.dumps({"do": "settle", "blob": BLOB_NAME})
        settled = app.invoke("on_step", queue_input("message", message))
        assert settled.succeeded, settled.error

    def test_poisoned_message_without_a_run_is_dropped(self, app: Worker) -> None:
        outcome = app.invoke("on_poison", queue_input("message", '{"do": "settle"}'))
        assert outcome.succeeded, outcome.error

    @pytest.mark.parametrize("body", ["no JSON", "[]"])
    def test_messages_that_are_none_of_ours_are_dropped(self, app: Worker, body: str) -> None:
        for function in ("on_step", "on_poison"):
            outcome = app.invoke(function, queue_input("message", body))
            assert outcome.succeeded, outcome.error

    def test_step_takes_a_run_further_and_its_poison_message_closes_it(
        self, app: Worker, engine: Engine, export: Export
    ) -> None:
        run = engine.starter.start(export)
        message = json.dumps(step_message(run))
        taken = app.invoke("on_step", queue_input("message", message))
        assert taken.succeeded, taken.error
        sent = engine.runs.run(run.run_id)
        assert sent is not None
        assert (sent.status, sent.phase, sent.step) == (Status.REFRESHING, Phase.CONFIRM, 1), (
            sent.message
        )
        message = json.dumps(step_message(sent))
        closed = app.invoke("on_poison", queue_input("message", message))
        assert closed.succeeded, closed.error
        failed = engine.runs.run(run.run_id)
        assert failed is not None
        assert (failed.status, failed.counts.rows) == (Status.FAILED, 1)

    def test_lines_go_to_the_host_where_the_worker_sends_no_telemetry(self, app: Worker) -> None:
        assert app.invoke("on_step", queue_input("message", "{}")).succeeded
        assert f"{TO_HOST}message handled outcome=NotUnderstood" in app.lines()

    def test_tick_begins_to_count_for_a_schedule(
        self, app: Worker, engine: Engine, export: Export
    ) -> None:
        outcome = app.invoke("on_tick", timer_input("tick"))
        assert outcome.succeeded, outcome.error
        assert engine.store.read(f"schedules/{export.id}.json") is not None


@pytest.mark.azurite
def test_health_says_which_setting_is_missing(storage: dict[str, str], tmp_path: Path) -> None:
    with running_worker(
        ROOT, env={**SETTINGS, **storage, "KEY_VAULT_URL": ""}, log=tmp_path / "worker.log"
    ) as worker:
        outcome = worker.invoke("health", http_input("req", "GET", "http://host/api/health"))
    assert outcome.succeeded, outcome.error
    assert outcome.returned is not None
    assert outcome.returned["http"]["status_code"] == "503"
    assert "KEY_VAULT_URL" in json.loads(http_body(outcome))["settings"]


@pytest.fixture(scope="module")
def signed_in(
    storage: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """The app as it runs where App Service authentication is on."""
    folder = tmp_path_factory.mktemp("api")
    env = {
        **SETTINGS,
        **storage,
        "KEY_VAULT_URL": "https://vault.invalid",
        "WORK_FOLDER": str(folder / "work"),
    }
    trusting = {"WEBSITE_AUTH_ENABLED": "True", "TRUST_PLATFORM_IDENTITY": "true"}
    with running_worker(ROOT, env=env | trusting, log=folder / "worker.log") as worker:
        yield worker


@pytest.mark.azurite
class TestApi:
    """The HTTP API in Microsoft's worker.

    Who asks is in a header, and whether to believe it in the environment.
    """

    def test_header_is_ignored_where_the_platform_does_not_vouch(self, app: Worker) -> None:
        status, document, _ = ask(app, "GET", "/exports", role="Admin")
        assert (status, document["title"]) == ("401", "Unauthorized")

    def test_routes_answer_by_role(self, signed_in: Worker) -> None:
        assert ask(signed_in, "GET", "/me", role="Viewer")[1]["role"] == "Viewer"
        assert ask(signed_in, "GET", "/connections", role="Viewer")[0] == "403"
        assert ask(signed_in, "GET", "/connections", role="Admin")[:2] == (
            "200",
            {"items": [], "next": None},
        )
        assert ask(signed_in, "GET", "/nothing", role="Admin")[0] == "404"
        assert ask(signed_in, "GET", "/me")[0] == "401"

    def test_versions_of_blobs_are_versions_of_exports(self, signed_in: Worker) -> None:
        export = {"name": "Löyal", "connection": None, "list_id": "Y6nRLr", "segments": ["VIPs"]}
        export |= {"mapping": {"email": "EMail"}}
        status, made, headers = ask(signed_in, "POST", "/exports", export, role="Admin")
        assert (status, made["id"], made["name"]) == ("201", "loyal", "Löyal")
        etag = headers["etag"]
        changed = ask(
            signed_in,
            "PUT",
            "/exports/loyal",
            {**export, "max_profiles": 5},
            role="Admin",
            etag=etag,
        )
        assert (changed[0], changed[1]["max_profiles"]) == ("200", 5)
        assert ask(signed_in, "DELETE", "/exports/loyal", role="Admin", etag=etag)[0] == "412"
        assert (
            ask(signed_in, "DELETE", "/exports/loyal", role="Admin", etag=changed[2]["etag"])[0]
            == "204"
        )
        assert [
            one["action"] for one in ask(signed_in, "GET", "/audit", role="Admin")[1]["items"]
        ] == [
            *("remove_export", "edit_export", "create_export"),
        ]


def ask(
    worker: Worker, method: str, path: str, document: Any = None, *, role: str = "", etag: str = ""
) -> tuple[str, Any, dict[str, str]]:
    """(status, document, headers) of a request by somebody with a role."""
    headers = {
        "Content-Type": "application/json",
        "X-Exporter": "1",
        "If-Match": etag,
        "Host": "host",
    }
    if role:
        headers[PRINCIPAL] = principal(Actor(id="a-1", name="Ada", role=Role(role)))
    body = json.dumps(document).encode() if document is not None else b""
    outcome = worker.invoke(
        "api", http_input("req", method, f"http://host/api{path}", headers=headers, body=body)
    )
    assert outcome.succeeded, outcome.error
    assert outcome.returned is not None
    answer = outcome.returned["http"]
    found = json.loads(http_body(outcome) or b"null")
    return (
        answer["status_code"],
        found,
        {name.lower(): value for name, value in answer["headers"].items()},
    )


def fields_of(trigger: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in trigger.items() if field not in ("name", "direction")}
