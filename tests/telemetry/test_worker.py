"""A whole run in Microsoft's worker with telemetry on: what Application Insights is sent."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.storage.azure_blobs import BlobStore
from exporter.storage.azure_queue import steps_queue
from exporter.telemetry import METRICS, REQUESTS, SPANS
from sandbox import klaviyo as stand_in
from sandbox import vault as key_vault
from sandbox.azurite import Azurite
from sandbox.klaviyo.settings import Settings
from tests.journeys.worker import TO_HOST, Worker, blob_input, queue_input, running_worker
from tests.journeys.world import as_csv
from tests.telemetry.test_privacy import HEADER, MAPPING, found_in, persons
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
BLOB = "segments/HighValue/a.csv"
NAMES = {
    "SNAPSHOTS_CONTAINER": "telemetry-snapshots",
    "STATE_CONTAINER": "telemetry-state",
    "STEPS_QUEUE": "telemetry-steps",
    "TICK_SCHEDULE": "0 */5 * * * *",
    "SETTLE_SECONDS": "0",
}

pytestmark = [
    pytest.mark.processes,
    pytest.mark.azurite,
    pytest.mark.skipif(
        sys.version_info < (3, 13), reason="Microsoft's worker is a library from Python 3.13 on"
    ),
]


class Ingestion:
    """Takes what Azure Monitor's exporter sends."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.raw = ""
        self.to_host: list[str] = []  # lines that the host gets, and sends a second time

    def take(self, path: str, body: bytes) -> bytes:
        text = (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode()
        self.raw += text
        items = (
            json.loads(text) if path.endswith("/track") else []
        )  # else live metrics, which nobody looks at
        self.items += items
        return json.dumps(
            {"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []}
        ).encode()

    def base(self, kind: str) -> list[dict[str, Any]]:
        return [each["data"]["baseData"] for each in self.items if each["data"]["baseType"] == kind]

    def messages(self) -> list[dict[str, Any]]:
        return self.base("MessageData")


@contextlib.contextmanager
def ingesting() -> Iterator[tuple[Ingestion, str]]:
    taken = Ingestion()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer = taken.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield taken, f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def settings_of_the_templates() -> dict[str, str]:
    """What app.bicep sets for telemetry, but for what only Azure knows."""
    text = (ROOT / "infra" / "modules" / "app.bicep").read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^  ((?:PYTHON|OTEL)_\w+): '([^']*)'", text))


@pytest.fixture(scope="module")
def sent(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingestion]:
    """Everything that was sent while one snapshot went through the app."""
    folder = tmp_path_factory.mktemp("telemetry")
    account = stand_in.Klaviyo(Settings(limits=False, job_seconds=0.1))
    account.call("POST", "/_sandbox/lists", {"id": "LIST01"})
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(stand_in.serving(account))
        vault = stack.enter_context(key_vault.serving(cert_dir=folder))
        vault.vault.set_secret("klaviyo-key", stand_in.FULL_KEY)
        taken, endpoint = stack.enter_context(ingesting())
        blobs = stack.enter_context(
            BlobServiceClient.from_connection_string(azurite.connection_string)
        )
        queues = stack.enter_context(
            QueueServiceClient.from_connection_string(azurite.connection_string)
        )
        _register(blobs)
        environment = {
            **NAMES,
            **dict.fromkeys(
                ("AzureWebJobsStorage", "SnapshotsStorage", "StateStorage"),
                azurite.connection_string,
            ),
            **vault.env,
            **settings_of_the_templates(),
            "KEY_VAULT_URL": vault.url,
            "KLAVIYO_BASE_URL": url,
            "WORK_FOLDER": str(folder / "work"),
            "APPLICATIONINSIGHTS_CONNECTION_STRING": (
                "InstrumentationKey=00000000-0000-0000-0000-000000000001;"
                f"IngestionEndpoint={endpoint};LiveEndpoint={endpoint}"
            ),
            # What only talks about the exporter itself, and to Microsoft.
            "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
            "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BLRP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "TMPDIR": str(folder),
        }
        log = folder / "worker.log"
        worker = stack.enter_context(running_worker(ROOT, env=environment, log=log))
        _run(worker, queues)
        wait_until(
            lambda: _is_whole(taken),
            lambda: f"the whole of {taken.items}\n{log.read_text()[-2000:]}",
        )
        taken.to_host = [
            line.removeprefix(TO_HOST)
            for line in log.read_text(encoding="utf-8").splitlines()
            if line.startswith(TO_HOST)
        ]
        yield taken


def _register(blobs: BlobServiceClient) -> None:
    container = blobs.create_container(NAMES["SNAPSHOTS_CONTAINER"])
    container.upload_blob(
        BLOB, as_csv(persons(a="quillon+async-fail@private.example", b="quillon"), HEADER)
    ).close()
    container.close()
    catalog = Catalog(BlobStore(blobs.get_container_client(NAMES["STATE_CONTAINER"])))
    consent = Consent(by="a test", at=datetime(2026, 11, 23, tzinfo=UTC))
    catalog.save(Connection(id="main", name="Main", secret="klaviyo-key", consent=consent))
    mapping = parse_mapping(MAPPING)
    segments = ["HighValue"]
    catalog.save(
        Export(
            id="vips",
            name="VIPs",
            connection="main",
            list_id="LIST01",
            segments=segments,
            mapping=mapping,
        )
    )


def _run(worker: Worker, queues: QueueServiceClient) -> None:
    """A blob arrives; then every message, as it becomes visible, until there is none."""
    place = ("SnapshotsStorage", NAMES["SNAPSHOTS_CONTAINER"], BLOB)
    noted = worker.invoke("on_blob", blob_input("client", *place))
    assert noted.succeeded, noted.error
    with steps_queue(queues, NAMES["STEPS_QUEUE"]) as queue:

        def is_empty() -> bool:
            for message in queue.receive_messages():
                stepped = worker.invoke("on_step", queue_input("message", message.content))
                assert stepped.succeeded, stepped.error
                queue.delete_message(message)
            return not queue.get_queue_properties().approximate_message_count

        wait_until(is_empty, "the last message", every_s=0.1)


def _told(taken: Ingestion) -> Counter[str]:
    return Counter(each["message"] for each in taken.messages())


def _is_whole(taken: Ingestion) -> bool:
    metrics = {point["name"] for each in taken.base("MetricData") for point in each["metrics"]}
    spans = {each["name"] for each in taken.base("RemoteDependencyData")}
    return "run ended" in _told(taken) and "run" in spans and "exporter.profiles" in metrics


def test_each_line_is_sent_once_with_run_and_fields(sent: Ingestion) -> None:
    told = _told(sent)
    assert (told["run created"], told["run ended"]) == (1, 1)
    assert told["phase done"] == len(
        [each for each in sent.base("RemoteDependencyData") if each["name"] == "phase"]
    )
    [finished] = [each["properties"] for each in sent.messages() if each["message"] == "run ended"]
    assert finished["run_id"].startswith("vips/")
    assert (finished["status"], finished["rows"]) == ("Completed with warnings", "27")


def test_line_that_the_worker_sends_is_not_handed_to_the_host_as_well(sent: Ingestion) -> None:
    """Newer hosts may leave it out; an older one was seen to send it a second time."""
    told = set(_told(sent))
    assert "run created" in told
    assert [line for line in sent.to_host if line.partition(" run_id=")[0] in told] == []
    assert not any("run_id=" in line for line in sent.to_host)


def test_spans_are_ours_and_bear_their_run(sent: Ingestion) -> None:
    spans = [each for each in sent.items if each["data"]["baseType"] == "RemoteDependencyData"]
    names = {each["data"]["baseData"]["name"] for each in spans}
    assert set(SPANS) < names
    assert all(name.split(" /api/")[0] in ("GET", "POST") for name in names - set(SPANS)), names
    runs = {each["data"]["baseData"]["properties"]["run_id"] for each in spans}
    assert len(runs) == 1
    assert runs.pop().startswith("vips/")
    jobs = [
        each["data"]["baseData"]
        for each in spans
        if each["data"]["baseData"]["properties"].get("endpoint")
        == "POST /api/profile-bulk-import-jobs"
    ]
    assert [(each["type"], each["resultCode"], each["properties"]["batch"]) for each in jobs] == [
        ("HTTP", "202", "0")
    ]


def test_metrics_are_those_that_the_code_names(sent: Ingestion) -> None:
    points = [point for each in sent.base("MetricData") for point in each["metrics"]]
    named = {point["name"] for point in points if point["name"].startswith("exporter.")}
    assert {"exporter.profiles", "exporter.jobs", "exporter.phase.seconds"} <= named <= set(METRICS)


def test_answers_are_sent_with_what_the_alert_on_429_asks(sent: Ingestion) -> None:
    """A count and a status of each; the queries ask for valueCount and customDimensions.status."""
    asked = [
        (point, each["properties"])
        for each in sent.base("MetricData")
        for point in each["metrics"]
        if point["name"] == REQUESTS
    ]
    assert asked
    assert all(point["count"] >= 1 and {"status", "endpoint"} <= set(kind) for point, kind in asked)
    assert "202" in {kind["status"] for _, kind in asked}


def test_nothing_of_a_person_and_no_key_is_sent(sent: Ingestion) -> None:
    assert "/api/profile-bulk-import-jobs" in sent.raw, "requests were told"
    assert found_in(sent.raw) == []
    assert "?" not in "".join(each.get("data", "") for each in sent.base("RemoteDependencyData"))
