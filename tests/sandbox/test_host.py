"""The functions host, on a toy app with one of each trigger (toy_app/function_app.py)."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

from sandbox.azurite import Azurite
from sandbox.host.app import (
    AppError,
    Function,
    HostSettings,
    QueueSettings,
    load_settings,
    parse_timespan,
    resolve,
)
from sandbox.host.blobs import is_lost, path_pattern
from sandbox.host.ncrontab import Schedule, ScheduleError
from sandbox.host.routes import Router
from sandbox.host.runner import EXIT_TIMED_OUT, Runner
from sandbox.host.serve import EXIT_CUT_OFF, EXIT_NOT_LOADED
from sandbox.processes import running, sandbox_command
from tests import waiting
from tests.forking import forked_stand_ins, forking
from tests.waiting import LIMIT_S

TOY_APP = Path(__file__).parent / "toy_app"
LOCK_S = 1  # so that a crash test need not wait for the real host's ten minutes

on_azurite = [pytest.mark.processes, pytest.mark.azurite]


# Schedules, paths, routes and settings: no processes


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 */5 * * * *", "2026-11-23T18:44:35", "2026-11-23T18:45:00"),
        ("*/5 * * * *", "2026-11-23T18:45:00", "2026-11-23T18:50:00"),  # five fields: no seconds
        ("*/10 * * * * *", "2026-11-23T18:44:35.5", "2026-11-23T18:44:40"),
        ("5/20 * * * * *", "2026-11-23T18:44:26", "2026-11-23T18:44:45"),
        ("0 30 9 * * Mon-Fri", "2026-11-20T10:00:00", "2026-11-23T09:30:00"),
        ("0 0 0 1,15 * *", "2026-11-23T00:00:00", "2026-12-01T00:00:00"),
        ("0 0 12 * January,jul *", "2026-11-23T00:00:00", "2027-01-01T12:00:00"),
        ("0 0 0 * * 0", "2026-11-23T00:00:00", "2026-11-29T00:00:00"),  # a Sunday
        (
            "0 0 0 13 * 5",
            "2026-11-23T00:00:00",
            "2027-08-13T00:00:00",
        ),  # Friday the 13th: both must match
        ("0 0 0 29 2 *", "2096-03-01T00:00:00", "2104-02-29T00:00:00"),
        (
            "0 40-20/10 8 * * *",
            "2026-11-23T08:20:00",
            "2026-11-23T08:30:00",
        ),  # a range turned around
        ("0 0 23 31 12 *", "2026-12-31T23:00:00", "2027-12-31T23:00:00"),
    ],
)
def test_schedule_finds_the_next_occurrence(expression: str, after: str, expected: str) -> None:
    moment = dt.datetime.fromisoformat(after).replace(tzinfo=dt.UTC)
    assert Schedule.parse(expression).next_after(moment).isoformat() == f"{expected}+00:00"


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "0 0 0 0 * * *",
        "60 * * * * *",
        "0 0 0 * * 7",
        "0 0 0 0 * *",
        "x * * * * *",
        "*/0 * * * * *",
        "1- * * * * *",
        "0 0 0 * 13 *",
        "0 0 0 L * *",
        "00:05:00",
    ],
)
def test_what_is_not_ncrontab_is_refused(expression: str) -> None:
    with pytest.raises(ScheduleError):
        Schedule.parse(expression)


def test_schedule_that_never_comes_is_refused() -> None:
    with pytest.raises(ScheduleError):
        Schedule.parse("0 0 0 30 2 *").next_after(dt.datetime.now(dt.UTC))


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("", "any/thing", True),  # a path that is only a container
        ("{name}", "eu/2024/a.csv", True),
        ("{region}/{name}", "eu/2024/a.csv", True),
        ("{region}/{name}", "a.csv", False),
        ("in/{name}.csv", "in/a.csv", True),
        ("in/{name}.csv", "in/a.CSV", False),
        ("in/{name}.csv", "out/a.csv", False),
        ("{a}.{b}", "x.tar.gz", True),
        ("a+b/{name}", "aab/x", False),
    ],
)
def test_blob_path_admits_what_the_real_host_admits(pattern: str, name: str, matches: bool) -> None:
    assert bool(path_pattern(pattern).fullmatch(name)) is matches


def test_part_of_the_events_is_lost() -> None:
    lost = sum(is_lost(f"{number}.csv", "0x1", part=0.25) for number in range(1_000))
    assert 200 < lost < 300
    assert not is_lost("a.csv", "0x1", part=0)


def http_function(
    name: str, route: str | None = None, methods: list[str] | None = None
) -> Function:
    trigger: dict[str, Any] = {
        "type": "httpTrigger",
        "name": "req",
        "route": route,
        "methods": methods,
    }
    trigger = {key: value for key, value in trigger.items() if value is not None}
    return Function(
        name=name,
        trigger=trigger,
        call=lambda req: "",
        annotation=None,
        wants_context=False,
        has_return=True,
    )


def router(*functions: Function, prefix: str = "api") -> Router:
    return Router(functions, prefix=prefix, runner=cast(Runner, None))


ROUTER_FUNCTIONS = (
    http_function("rest", "{*path}"),
    http_function("one", "runs/{id}"),
    http_function("number", "runs/{id:int}"),
    http_function("latest", "runs/latest", ["GET"]),
    http_function("optional", "lists/{list?}"),
    http_function("named"),
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/runs/latest", ("latest", {})),
        ("/API/Runs/LATEST", ("latest", {})),
        ("/api/runs/17", ("number", {"id": "17"})),
        ("/api/runs/abc", ("one", {"id": "abc"})),
        ("/api/runs/a%2Fb", ("one", {"id": "a/b"})),
        ("/api/runs/abc/more", ("rest", {"path": "runs/abc/more"})),
        ("/api/lists", ("optional", {})),
        ("/api/lists/x", ("optional", {"list": "x"})),
        ("/api/named", ("named", {})),
        ("/api", ("rest", {})),
        ("/apis", None),
        ("/", None),
    ],
)
def test_literal_routes_win_over_parameters_and_these_over_a_catch_all(
    path: str, expected: tuple[str, dict[str, str]] | None
) -> None:
    found = router(*ROUTER_FUNCTIONS).find("GET", path)
    assert (found and (found[0].name, found[1])) == expected


def test_route_of_another_method_is_passed_over() -> None:
    found = router(*ROUTER_FUNCTIONS).find("POST", "/api/runs/latest")
    assert found is not None
    assert found[0].name == "one"


def test_route_prefix_may_be_empty() -> None:
    assert router(http_function("f", "x"), prefix="").find("GET", "/x") is not None


@pytest.mark.parametrize(
    ("functions", "problem"),
    [
        ([http_function("a", "x"), http_function("b", "x", ["GET"])], "same route"),
        ([http_function("a", "x/{id:weekday}")], "weekday"),
        ([http_function("a", "x/{from}-{to}")], "{from}-{to}"),
    ],
)
def test_routes_that_the_host_cannot_serve_are_refused(
    functions: list[Function], problem: str
) -> None:
    with pytest.raises(AppError, match=re.escape(problem)):
        router(*functions)


def test_routes_of_different_methods_may_be_the_same() -> None:
    found = router(http_function("a", "x", ["GET"]), http_function("b", "x", ["POST"])).find(
        "POST", "/api/x"
    )
    assert found is not None
    assert found[0].name == "b"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:30:00", 1800), ("00:00:00.25", 0.25), ("1.02:00:00", 93600), ("10:00:00", 36000)],
)
def test_timespan_is_read(text: str, seconds: float) -> None:
    assert parse_timespan(text) == seconds


def test_host_json_is_read_with_the_hosts_defaults(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text('{"version": "2.0"}')
    assert HostSettings.read(path) == HostSettings(
        queues=QueueSettings(batch_size=16, new_batch_threshold=8)
    )
    extensions = {
        "http": {"routePrefix": ""},
        "queues": {
            "batchSize": 1,
            "newBatchThreshold": 0,
            "visibilityTimeout": "00:00:30",
            "messageEncoding": "none",
        },
    }
    path.write_text(json.dumps({"functionTimeout": "-1", "extensions": extensions}))
    assert HostSettings.read(path) == HostSettings(
        route_prefix="",
        function_timeout_s=None,
        queues=QueueSettings(
            batch_size=1, new_batch_threshold=0, visibility_timeout_s=30, base64=False
        ),
    )


def test_settings_file_does_not_override_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"SET": "before"})
    (tmp_path / "local.settings.json").write_text('{"Values": {"SET": "file", "NEW": "file"}}')
    load_settings(tmp_path / "local.settings.json")
    assert os.environ == {"SET": "before", "NEW": "file"}


def test_placeholder_is_replaced_by_its_setting_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER", "snapshots")
    assert resolve("%CONTAINER%/{name}") == "snapshots/{name}"
    with pytest.raises(ValueError, match="no setting NOWHERE"):
        resolve("%NOWHERE%/{name}")


# The host as a process


@dataclass
class Host:
    process: subprocess.Popen[bytes]
    url: str
    functions: list[str]


class Toy:
    """The toy app with its own containers and queues, its hosts, and what its functions noted."""

    def __init__(self, azurite: Azurite, folder: Path) -> None:
        unique = uuid.uuid4().hex[:12]
        self.stack = contextlib.ExitStack()
        self.host_log = folder / "host.log"
        self.notes_file = folder / "notes"
        self.container = f"snapshots-{unique}"
        self.queue = f"steps-{unique}"
        self.host_id = f"toy-{unique}"
        self.env = {
            "AzureWebJobsStorage": azurite.connection_string,
            "SnapshotsStorage": azurite.connection_string,
            "SNAPSHOTS_CONTAINER": self.container,
            "STEPS_QUEUE": self.queue,
            "TICK_SCHEDULE": "0 0 0 1 1 *",
            "LOG": str(self.notes_file),
        }
        self.blobs = self.stack.enter_context(
            BlobServiceClient.from_connection_string(azurite.connection_string)
        )
        self.queues = self.stack.enter_context(
            QueueServiceClient.from_connection_string(azurite.connection_string)
        )

    def command(self, *arguments: str, app: Path = TOY_APP) -> list[str]:
        options = (
            "--host-id",
            self.host_id,
            "--poll-seconds",
            "0.2",
            "--lock-seconds",
            str(LOCK_S),
            *arguments,
        )
        return sandbox_command("host", "--app", str(app), *options)

    def start(self, *arguments: str, app: Path = TOY_APP, **settings: str) -> Host:
        with forked_stand_ins():
            process, ready = self.stack.enter_context(
                running(
                    self.command(*arguments, app=app),
                    log=self.host_log,
                    env={**self.env, **settings},
                )
            )
        return Host(process, ready["url"], ready["functions"])

    def upload(self, name: str, text: str, container: str | None = None) -> None:
        client = self.blobs.get_container_client(container or self.container)
        if not client.exists():
            client.create_container()
        client.upload_blob(name, text, overwrite=True)

    def send(self, *texts: str, queue: str | None = None) -> None:
        client = self.queues.get_queue_client(queue or self.queue)
        with contextlib.suppress(Exception):
            client.create_queue()
        for text in texts:
            client.send_message(base64.b64encode(text.encode()).decode())

    def notes(self, function: str) -> list[dict[str, Any]]:
        lines = self.notes_file.read_text().splitlines() if self.notes_file.exists() else []
        return [note for note in map(json.loads, lines) if note["function"] == function]

    def wait_for_notes(self, function: str, count: int = 1) -> list[dict[str, Any]]:
        wait_until(
            lambda: len(self.notes(function)) >= count,
            f"{count} notes of {function}",
            self.host_log,
        )
        return self.notes(function)


def wait_until(condition: Callable[[], bool], what: str, log: Path) -> None:
    waiting.wait_until(condition, lambda: f"{what}\n{log.read_text()[-3000:]}")


@pytest.fixture
def toy(azurite: Azurite, tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(azurite, tmp_path)
    with toy.stack:
        yield toy


@pytest.fixture(scope="module")
def url(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A host that only answers requests, for all tests of HTTP."""
    toy = Toy(azurite, tmp_path_factory.mktemp("http"))
    with toy.stack:
        yield toy.start().url


class TestBlobTrigger:
    pytestmark = on_azurite

    def test_blob_is_delivered_once_also_after_a_restart_and_again_when_it_changes(
        self, toy: Toy
    ) -> None:
        host = toy.start()  # before the container exists
        toy.upload("eu/a.csv", "hello")
        [note] = toy.wait_for_notes("on_blob")
        assert (note["container"], note["name"], note["text"]) == (
            toy.container,
            "eu/a.csv",
            "hello",
        )
        host.process.terminate()
        assert host.process.wait(LIMIT_S) == 0
        toy.start()
        toy.upload("eu/b.csv", "later")
        toy.wait_for_notes("on_blob", 2)
        toy.upload("eu/a.csv", "changed")
        toy.wait_for_notes("on_blob", 3)
        time.sleep(0.5)
        assert [note["text"] for note in toy.notes("on_blob")] == ["hello", "later", "changed"]

    def test_lost_events_never_come(self, toy: Toy) -> None:
        toy.start("--lose-events", "1")
        toy.upload("a.csv", "hello")
        time.sleep(1)
        assert toy.notes("on_blob") == []

    def test_blob_whose_function_keeps_failing_is_reported_to_the_poison_queue(
        self, toy: Toy
    ) -> None:
        toy.upload("bad.csv", "fail")
        toy.start()
        queue = toy.queues.get_queue_client("webjobs-blobtrigger-poison")

        def report() -> dict[str, Any] | None:
            with contextlib.suppress(Exception):
                messages = [
                    json.loads(base64.b64decode(m.content)) for m in queue.peek_messages(32)
                ]
                return next((m for m in messages if m["ContainerName"] == toy.container), None)
            return None

        wait_until(lambda: report() is not None, "the poison message", toy.host_log)
        etag = toy.blobs.get_blob_client(toy.container, "bad.csv").get_blob_properties().etag
        assert report() == {
            "FunctionId": "Host.Functions.on_blob",
            "BlobType": "BlockBlob",
            "ContainerName": toy.container,
            "BlobName": "bad.csv",
            "ETag": etag,
        }
        time.sleep(0.5)
        assert len(toy.notes("on_blob")) == 3  # poisonBlobThreshold of the toy's host.json

    def test_blob_is_delivered_again_when_its_host_was_killed(self, toy: Toy) -> None:
        toy.upload("a.csv", "crash once")
        first = toy.start()
        assert first.process.wait(LIMIT_S) == 9
        assert not toy.notes("on_blob done")
        toy.start()
        toy.wait_for_notes("on_blob done")

    def test_running_blob_is_not_delivered_a_second_time(self, toy: Toy) -> None:
        toy.upload("slow.csv", f"sleep {LOCK_S * 2.5}")
        toy.start()
        toy.start()
        toy.wait_for_notes("on_blob done")
        assert len(toy.notes("on_blob")) == 1

    def test_no_more_blobs_run_at_once_than_host_json_permits(self, toy: Toy) -> None:
        for number in range(4):
            toy.upload(f"{number}.csv", "sleep 0.3")
        toy.start()
        toy.wait_for_notes("on_blob done", 4)
        assert most_at_once(toy.notes("on_blob"), toy.notes("on_blob done")) == 2

    def test_input_stream_carries_the_blob_and_its_name(self, toy: Toy, azurite: Azurite) -> None:
        toy.upload(f"in/eu/{toy.host_id}/a.csv", "hello", container="streams")
        toy.upload(f"out/eu/{toy.host_id}/a.csv", "other", container="streams")
        toy.start()
        notes = [note for note in toy.wait_for_notes("on_stream") if toy.host_id in note["name"]]
        name = f"streams/in/eu/{toy.host_id}/a.csv"
        assert [(n["name"], n["uri"], n["length"], n["text"]) for n in notes] == [
            (name, f"{azurite.blob_url}/{name}", 5, "hello")
        ]


class TestQueueTrigger:
    pytestmark = on_azurite

    def test_message_arrives_with_what_the_queue_knows_about_it(self, toy: Toy) -> None:
        toy.start()
        toy.send("hello")
        [note] = toy.wait_for_notes("step")
        assert (note["text"], note["tries"]) == ("hello", 1)
        assert note["id"]
        assert note["pop_receipt"]
        assert note["invocation"]
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(note["inserted"])
        assert abs(age) < dt.timedelta(minutes=1)
        wait_until(
            lambda: not toy.queues.get_queue_client(toy.queue).peek_messages(),
            "deletion",
            toy.host_log,
        )

    def test_message_whose_function_keeps_failing_moves_to_the_poison_queue(self, toy: Toy) -> None:
        toy.start()
        toy.send("fail")
        [poisoned] = toy.wait_for_notes("poisoned")
        assert poisoned["text"] == "fail"
        assert [note["tries"] for note in toy.notes("step")] == [
            1,
            2,
            3,
        ]  # maxDequeueCount of the toy's host.json

    def test_message_that_is_not_base64_moves_to_the_poison_queue_at_once(self, toy: Toy) -> None:
        toy.send("fine")
        toy.queues.get_queue_client(toy.queue).send_message("{not base64}")
        toy.start("--lock-seconds", "60")
        toy.wait_for_notes("step done")
        poison = toy.queues.get_queue_client(f"{toy.queue}-poison")
        wait_until(
            lambda: poison.get_queue_properties().approximate_message_count == 1,
            "poison",
            toy.host_log,
        )
        assert [note["text"] for note in toy.notes("step")] == ["fine"]

    def test_message_stays_hidden_as_long_as_its_function_runs(self, toy: Toy) -> None:
        toy.start()
        toy.send(f"sleep {LOCK_S * 2.5}")
        toy.wait_for_notes("step done")
        time.sleep(0.3)
        assert len(toy.notes("step")) == 1

    def test_message_comes_again_when_its_host_was_killed(self, toy: Toy) -> None:
        toy.send("crash once")
        first = toy.start()
        assert first.process.wait(LIMIT_S) == 9
        toy.start()
        toy.wait_for_notes("step done")
        assert [note["tries"] for note in toy.notes("step")] == [1, 2]

    def test_two_hosts_share_the_messages_of_a_queue(self, toy: Toy) -> None:
        texts = [f"sleep 0.2{number}" for number in range(24)]
        toy.start()
        toy.start()
        toy.send(*texts)
        notes = toy.wait_for_notes("step done", len(texts))
        assert sorted(note["text"] for note in notes) == sorted(texts)
        assert len({note["pid"] for note in notes}) == 2

    def test_async_functions_overlap(self, toy: Toy) -> None:
        texts = [f"{toy.host_id} {number}" for number in range(3)]
        toy.send(*texts, queue="async-steps")
        toy.start()
        toy.wait_for_notes("async_step done", 3)
        assert sorted(note["text"] for note in toy.notes("async_step")) == texts
        assert most_at_once(toy.notes("async_step"), toy.notes("async_step done")) == 3


class TestTimerTrigger:
    pytestmark = on_azurite

    def test_timer_ticks_in_one_of_two_hosts_and_moves_on_when_that_one_dies(
        self, toy: Toy
    ) -> None:
        hosts = [toy.start(TICK_SCHEDULE="* * * * * *") for _ in range(2)]
        pids = {note["pid"] for note in toy.wait_for_notes("tick", 3)}
        assert len(pids) == 1
        [first] = [host for host in hosts if host.process.pid in pids]
        first.process.kill()
        first.process.wait()
        wait_until(
            lambda: len({n["pid"] for n in toy.notes("tick")}) == 2, "the other host", toy.host_log
        )

    def test_tick_never_overlaps_with_the_one_before(self, toy: Toy) -> None:
        toy.start(TICK_SCHEDULE="* * * * * *", TICK_SECONDS="1.4")
        toy.wait_for_notes("tick done", 3)
        assert most_at_once(toy.notes("tick"), toy.notes("tick done")) == 1

    def test_missed_ticks_collapse_into_one_that_is_past_due(self, toy: Toy) -> None:
        hours_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=5)).replace(
            minute=0, second=0, microsecond=0
        )
        status = {
            "Last": hours_ago.isoformat(),
            "Next": (hours_ago + dt.timedelta(hours=1)).isoformat(),
            "LastUpdated": hours_ago.isoformat(),
        }
        name = f"timers/{toy.host_id}/Host.Functions.tick/status"
        toy.upload(name, json.dumps(status), container="azure-webjobs-hosts")
        toy.start(TICK_SCHEDULE="0 0 * * * *")
        [note] = toy.wait_for_notes("tick")
        assert note["past_due"] is True
        assert note["status"]["Last"] == status["Last"]
        blob = toy.blobs.get_blob_client("azure-webjobs-hosts", name)
        wait_until(
            lambda: (
                dt.datetime.fromisoformat(json.loads(blob.download_blob().readall())["Next"])
                > dt.datetime.now(dt.UTC)
            ),
            "the new status",
            toy.host_log,
        )
        time.sleep(0.3)
        assert len(toy.notes("tick")) == 1

    def test_timer_that_never_ran_waits_for_its_next_occurrence(self, toy: Toy) -> None:
        toy.start()
        blob = toy.blobs.get_blob_client(
            "azure-webjobs-hosts", f"timers/{toy.host_id}/Host.Functions.tick/status"
        )
        wait_until(blob.exists, "the status", toy.host_log)
        status = json.loads(blob.download_blob().readall())
        assert re.fullmatch(r"\d{4}-01-01T00:00:00\+00:00", status["Next"])
        assert not toy.notes("tick")

    def test_functions_can_be_run_by_hand(self, toy: Toy) -> None:
        host = toy.start()

        def run(name: str, **body: str) -> int:
            return requests.post(
                f"{host.url}/admin/functions/{name}", json=body, timeout=LIMIT_S
            ).status_code

        assert [run("tick"), run("step", input="hello"), run("health"), run("nobody")] == [
            202,
            202,
            400,
            404,
        ]
        assert toy.wait_for_notes("tick")[0]["past_due"] is False
        assert toy.wait_for_notes("step done")[0]["text"] == "hello"

    def test_disabled_function_does_not_run(self, toy: Toy) -> None:
        host = toy.start(**{"AzureWebJobs.tick.Disabled": "true", "TICK_SCHEDULE": "* * * * * *"})
        assert "tick" not in host.functions
        time.sleep(1.2)
        assert not toy.notes("tick")


class TestHttpTrigger:
    pytestmark = on_azurite

    def test_request_reaches_the_function_as_the_real_host_sends_it(self, url: str) -> None:
        headers = {"X-Mixed-Case": "1"}
        answer = requests.put(
            f"{url}/api/any/thing%20else?a=1&empty=&a=2",
            data=b"\x00body",
            headers=headers,
            timeout=LIMIT_S,
        )
        seen = answer.json()
        assert answer.status_code == 201
        assert answer.headers["Content-Type"] == "application/json"
        assert (seen["method"], seen["body_bytes"]) == ("PUT", 5)
        assert seen["url"] == f"{url}/api/any/thing%20else?a=1&empty=&a=2"
        assert seen["params"] == {"a": "1,2"}
        assert seen["route_params"] == {"path": "any/thing else"}
        assert seen["headers"]["x-mixed-case"] == "1"
        assert all(name == name.lower() for name in seen["headers"])

    def test_cookies_of_an_answer_stay_apart(self, url: str) -> None:
        with requests.Session() as session:
            session.get(f"{url}/api/x", timeout=LIMIT_S)
            assert session.cookies.get_dict() == {"a": "1", "b": "2"}

    @pytest.mark.parametrize(
        ("method", "path", "status", "text"),
        [
            ("GET", "/api/health", 200, '{"ok": true}'),
            ("HEAD", "/api/health", 201, ""),  # not by a GET route: the catch-all takes it
            ("GET", "/api/items/17", 200, "item 17"),
            ("GET", "/api/fail", 500, ""),
            ("GET", "/other", 404, ""),
            ("GET", "/", 404, ""),
        ],
    )
    def test_answers(self, url: str, method: str, path: str, status: int, text: str) -> None:
        answer = requests.request(method, url + path, timeout=LIMIT_S)
        assert (answer.status_code, answer.text) == (status, text)

    def test_bodies_may_be_large_up_to_the_real_limit(self, url: str) -> None:
        assert (
            requests.post(f"{url}/api/x", data=bytes(30_000_000), timeout=LIMIT_S).json()[
                "body_bytes"
            ]
            == 30_000_000
        )
        assert (
            requests.post(f"{url}/api/x", data=bytes(105_000_000), timeout=LIMIT_S).status_code
            == 413
        )


class TestStartAndStop:
    pytestmark = on_azurite

    def test_standard_output_holds_only_the_ready_line(self, toy: Toy) -> None:
        host = toy.start()
        assert host.functions[:2] == ["on_blob", "on_stream"]
        toy.send("hello")  # its function prints
        toy.wait_for_notes("step done")
        host.process.terminate()
        assert host.process.wait(LIMIT_S) == 0
        assert host.process.stdout is not None
        assert not host.process.stdout.read()

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_stop_waits_for_what_runs_and_takes_nothing_new(self, toy: Toy, signum: int) -> None:
        host = toy.start()
        toy.send("sleep 0.7")
        toy.wait_for_notes("step")
        host.process.send_signal(signum)
        wait_until(
            lambda: "Stopping: waiting" in toy.host_log.read_text(),
            "the host's farewell",
            toy.host_log,
        )
        toy.send("late")
        assert host.process.wait(LIMIT_S) == 0
        assert [note["text"] for note in toy.notes("step done")] == ["sleep 0.7"]
        [left] = toy.queues.get_queue_client(toy.queue).peek_messages(5)
        assert base64.b64decode(left.content) == b"late"

    def test_stop_cuts_off_what_runs_longer_than_the_grace_period(self, toy: Toy) -> None:
        host = toy.start("--grace-seconds", "0.2")
        toy.send(f"sleep {LIMIT_S}")
        toy.wait_for_notes("step")
        host.process.terminate()
        assert host.process.wait(LIMIT_S / 2) == EXIT_CUT_OFF
        toy.start("--grace-seconds", "0.2")
        toy.wait_for_notes("step", 2)

    def test_function_that_exceeds_its_timeout_ends_the_process(
        self, toy: Toy, tmp_path: Path
    ) -> None:
        app = shutil.copytree(TOY_APP, tmp_path / "app")
        document = json.loads((app / "host.json").read_text())
        (app / "host.json").write_text(json.dumps({**document, "functionTimeout": "00:00:00.5"}))
        host = toy.start(app=app)
        toy.send(f"sleep {LIMIT_S}")
        assert host.process.wait(LIMIT_S / 2) == EXIT_TIMED_OUT
        assert "'Functions.step' exceeded functionTimeout" in toy.host_log.read_text()

    @pytest.mark.parametrize(
        ("name", "value", "complaints"),
        [
            (
                "TICK_SCHEDULE",
                None,
                ["function 'tick' does not load", "there is no setting TICK_SCHEDULE"],
            ),
            ("TICK_SCHEDULE", "hourly", ["function 'tick' does not load", "'hourly' has 1 fields"]),
            (
                "TICK_SCHEDULE",
                "0 0 0 31 4 *",
                ["function 'tick' does not load", "there is no occurrence"],
            ),
            (
                "SnapshotsStorage",
                None,
                ["function 'on_blob' does not load", "connection 'SnapshotsStorage' is not set"],
            ),
            (
                "AzureWebJobsStorage",
                None,
                ["function 'step' does not load", "the host itself needs storage"],
            ),
        ],
    )
    def test_app_with_a_missing_or_wrong_setting_does_not_start(
        self, toy: Toy, name: str, value: str | None, complaints: list[str]
    ) -> None:
        env = {
            key: kept
            for key, kept in {**os.environ, **toy.env, name: value}.items()
            if kept is not None
        }
        ended = forking().run(toy.command()[1:], cwd=Path.cwd(), env=env)
        assert (ended.returncode, ended.stdout) == (EXIT_NOT_LOADED, "")
        for complaint in complaints:
            assert complaint in ended.stderr


@pytest.mark.processes
def test_asgi_app_is_served_and_needs_no_storage(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(
        '{"version": "2.0", "extensions": {"http": {"routePrefix": ""}}}'
    )
    (tmp_path / "function_app.py").write_text(ASGI_APP)
    with running(sandbox_command("host", "--app", str(tmp_path)), log=tmp_path / "log") as (
        _,
        ready,
    ):
        answer = requests.post(f"{ready['url']}/any/where?x=1", data=b"hello", timeout=LIMIT_S)
    assert (answer.status_code, answer.text) == (202, "POST /any/where x=1 hello started")


ASGI_APP = """
import azure.functions as func

state = {}

async def web(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            state["lifespan"] = "started"
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = (await receive())["body"].decode()
    query = scope["query_string"].decode()
    text = f"{scope['method']} {scope['path']} {query} {body} {state['lifespan']}"
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})

app = func.AsgiFunctionApp(app=web, http_auth_level=func.AuthLevel.ANONYMOUS)
"""


def most_at_once(starts: list[dict[str, Any]], ends: list[dict[str, Any]]) -> int:
    """How many runs overlapped at most, by the times of their first and last notes."""
    changes = sorted([(note["at"], 1) for note in starts] + [(note["at"], -1) for note in ends])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
