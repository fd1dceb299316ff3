"""What only containers and queues have to get right: lost answers, refusals, silence, identity."""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobProperties, BlobServiceClient, ContainerClient
from azure.storage.queue import QueueServiceClient

from exporter.errors import (
    AlreadyThere,
    ConfigError,
    ExporterError,
    StoreMoved,
    Terminal,
    Transient,
)
from exporter.storage import azure_blobs
from exporter.storage.azure_blobs import BlobSnapshots, BlobStore
from exporter.storage.azure_queue import AzureQueue, queue_service, steps_queue
from sandbox.azurite import ACCOUNT_NAME, Azurite

NO_WAITING: dict[str, Any] = {"initial_backoff": 0, "increment_base": 0, "random_jitter_range": 0}
NO_RETRY: dict[str, Any] = {"retry_total": 0}


class LosingAnswers(RequestsTransport):  # type: ignore[misc]
    """Sends everything, and loses the answer to the first request that is picked."""

    _picks: Callable[[Any], bool] | None = None

    def lose(self, picks: Callable[[Any], bool]) -> None:
        self._picks = picks

    def has_lost(self) -> bool:
        return self._picks is None

    def send(self, request: Any, **kwargs: Any) -> Any:
        response = super().send(request, **kwargs)
        if self._picks is not None and self._picks(request):
            self._picks = None
            raise ServiceResponseError("connection reset")
        return response


@pytest.fixture
def losing(azurite: Azurite) -> Iterator[tuple[ContainerClient, LosingAnswers]]:
    transport = LosingAnswers()
    service = BlobServiceClient.from_connection_string(
        azurite.connection_string, transport=transport, **NO_WAITING, **azure_blobs.TRANSFER
    )
    with contextlib.closing(service):
        container = service.get_container_client(f"c{uuid.uuid4().hex}")
        container.create_container()
        yield container, transport


def is_put(request: Any) -> bool:
    return bool(request.method == "PUT")


@pytest.mark.azurite
class TestLostAnswers:
    """The SDK repeats a request whose answer was lost. It must not seem that another was faster."""

    def test_a_creation_is_recognised_as_ours(
        self, losing: tuple[ContainerClient, LosingAnswers]
    ) -> None:
        container, transport = losing
        store = BlobStore(container)
        transport.lose(is_put)
        etag = store.create("a", b"1")
        assert transport.has_lost()
        assert store.replace("a", b"2", etag=etag)

    def test_a_replacement_is_recognised_as_ours(
        self, losing: tuple[ContainerClient, LosingAnswers]
    ) -> None:
        container, transport = losing
        store = BlobStore(container)
        etag = store.create("a", b"1")
        transport.lose(is_put)
        second = store.replace("a", b"2", etag=etag)
        assert transport.has_lost()
        found = store.read("a")
        assert found is not None
        assert (found.data, found.etag) == (b"2", second)

    def test_a_deletion_is_recognised(self, losing: tuple[ContainerClient, LosingAnswers]) -> None:
        container, transport = losing
        store = BlobStore(container)
        etag = store.create("a", b"1")
        transport.lose(lambda request: bool(request.method == "DELETE"))
        store.delete("a", etag=etag)
        assert transport.has_lost()
        assert store.read("a") is None

    @pytest.mark.parametrize("which", ["begin", "block"])
    def test_an_append_is_made_once(
        self, losing: tuple[ContainerClient, LosingAnswers], which: str
    ) -> None:
        container, transport = losing
        store = BlobStore(container)
        transport.lose(
            lambda request: is_put(request) and ("appendblock" in request.url) == (which == "block")
        )
        at = store.append("log", b"one\n", at=0)
        assert transport.has_lost()
        transport.lose(lambda request: "appendblock" in request.url)
        store.append("log", b"two\n", at=at)
        found = store.read("log")
        assert found is not None
        assert found.data == b"one\ntwo\n"

    def test_a_read_that_is_overtaken_is_repeated(
        self, losing: tuple[ContainerClient, LosingAnswers], tmp_path: Path
    ) -> None:
        """A document over 4 MiB takes several requests; they must not mix two versions."""
        reader, transport = losing
        store = BlobStore(reader)
        store.create("a", b"1" * 9_000_000)
        versions = iter([b"2" * 9_000_000, b"3" * 9_000_000, None, None, None, b"4" * 9_000_000])

        def overtake(request: Any) -> bool:
            version = next(versions, None) if request.method == "GET" else None
            if version is not None:
                reader.upload_blob("a", version, overwrite=True)
            return False

        transport.lose(overtake)
        found = store.read("a")
        assert found is not None
        assert found.data == b"3" * 9_000_000
        with pytest.raises(Transient, match="changed"):
            store.download("a", tmp_path / "target")
        assert list(tmp_path.iterdir()) == []

    def test_another_writer_with_the_same_content_is_another(
        self, container: ContainerClient
    ) -> None:
        store = BlobStore(container)
        store.create("a", b"same")
        with pytest.raises(AlreadyThere):
            store.create("a", b"same")


@pytest.mark.azurite
class TestContainer:
    def test_an_absent_container_reads_as_empty_and_is_made_by_writing(
        self, container: ContainerClient, tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"1")
        store = BlobStore(container)
        assert store.read("a") is None
        assert list(store.names("")) == []
        with pytest.raises(StoreMoved):
            store.append("log", b"1\n", at=2)
        assert not container.exists()
        store.upload("file", path)
        assert list(store.names("")) == ["file"]

    def test_an_absent_container_of_snapshots_needs_a_person(
        self, container: ContainerClient
    ) -> None:
        with pytest.raises(ConfigError):
            BlobSnapshots(container).ping()
        assert list(BlobSnapshots(container).list("")) == []
        container.create_container()
        BlobSnapshots(container).ping()

    def test_a_deleted_log_is_not_continued(self, container: ContainerClient) -> None:
        store = BlobStore(container)
        at = store.append("log", b"one\n", at=0)
        store.delete("log")
        with pytest.raises(StoreMoved):
            store.append("log", b"two\n", at=at)

    def test_a_lease_taken_by_hand_is_no_lost_race(self, container: ContainerClient) -> None:
        store = BlobStore(container)
        etag = store.create("a", b"1")
        container.get_blob_client("a").acquire_lease()
        with pytest.raises(Terminal, match="LeaseIdMissing"):
            store.replace("a", b"2", etag=etag)
        with pytest.raises(Terminal, match="LeaseIdMissing"):
            store.delete("a")

    def test_a_document_is_no_log(self, container: ContainerClient) -> None:
        store = BlobStore(container)
        store.create("a", b"1\n")
        with pytest.raises(Terminal, match="InvalidBlobType"):
            store.append("a", b"2\n", at=2)

    def test_folders_of_a_hierarchical_namespace_are_no_names(
        self, container: ContainerClient
    ) -> None:
        store = BlobStore(container)
        store.create("runs/vips/run.json", b"")
        container.upload_blob("runs", b"", metadata={"hdi_isfolder": "true"})
        assert list(store.names("")) == ["runs/vips/run.json"]
        assert [info.name for info in BlobSnapshots(container).list("")] == ["runs/vips/run.json"]


@pytest.mark.azurite
class TestAccess:
    @pytest.fixture
    def stranger(self, azurite: Azurite) -> dict[str, Any]:
        return {"credential": {"account_name": ACCOUNT_NAME, "account_key": "AAAA"}, **NO_RETRY}

    def test_the_missing_role_is_named(self, azurite: Azurite, stranger: dict[str, Any]) -> None:
        with contextlib.closing(BlobServiceClient(azurite.blob_url, **stranger)) as service:
            store = BlobStore(service.get_container_client("container"))
            snapshots = BlobSnapshots(service.get_container_client("container"))
            for call in (
                store.ping,
                lambda: store.read("a"),
                lambda: store.create("a", b""),
                lambda: store.names(""),
            ):
                with pytest.raises(ConfigError) as refused:
                    call()
                assert "Storage Blob Data Contributor" in refused.value.hint
                assert refused.value.__cause__ is not None
            for read in (
                snapshots.ping,
                lambda: next(snapshots.open("a", etag="1")),
                lambda: next(snapshots.list("")),
            ):
                with pytest.raises(ConfigError) as refused:
                    read()
                assert "Storage Blob Data Reader" in refused.value.hint

    def test_a_listing_without_end_is_not_waited_for(self) -> None:
        class Endless:
            def list_blobs(self, **_: object) -> Iterator[BlobProperties]:
                for number in itertools.count():
                    assert number < 10, "the listing is held as a whole"
                    yield BlobProperties(
                        name=f"{number}.csv",
                        ETag="1",
                        **{"Content-Length": 1, "Last-Modified": datetime.now(UTC)},
                    )

        found = BlobSnapshots(cast(ContainerClient, Endless())).list("")
        assert [info.name for info in itertools.islice(found, 3)] == ["0.csv", "1.csv", "2.csv"]

    def test_the_missing_role_for_queues_is_named(
        self, azurite: Azurite, stranger: dict[str, Any]
    ) -> None:
        with contextlib.closing(QueueServiceClient(azurite.queue_url, **stranger)) as service:
            steps = AzureQueue(steps_queue(service, "queue"))
            with pytest.raises(ConfigError) as refused:
                steps.put({})
            assert "Storage Queue Data Contributor" in refused.value.hint


class Answering(BaseHTTPRequestHandler):
    """Gives one status to everything."""

    status, code = 503, "ServerBusy"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("x-ms-error-code", self.code)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_DELETE = do_POST = do_GET  # noqa: N815

    def do_HEAD(self) -> None:
        """Nobody's mark is on the blob: it does not exist."""
        self.send_response(404)
        self.send_header("x-ms-error-code", "BlobNotFound")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def answering() -> Iterator[tuple[ContainerClient, type[Answering]]]:
    handler = type("Handler", (Answering,), {})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/account"
    credential = {"account_name": "account", "account_key": "AAAA"}
    with contextlib.closing(BlobServiceClient(url, credential=credential, **NO_RETRY)) as service:
        yield service.get_container_client("container"), handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "InvalidHeaderValue", Terminal),
        (401, "InvalidAuthenticationInfo", ConfigError),
        (403, "AuthorizationPermissionMismatch", ConfigError),
        (403, "AuthorizationFailure", ConfigError),
        (404, "ContainerNotFound", ConfigError),
        (408, "OperationTimedOut", Transient),
        (409, "BlobAlreadyExists", AlreadyThere),
        (409, "ContainerBeingDeleted", Transient),
        (409, "BlobImmutableDueToPolicy", Terminal),
        (412, "ConditionNotMet", AlreadyThere),
        (412, "LeaseIdMissing", Terminal),
        (429, "TooManyRequests", Transient),
        (500, "InternalError", Transient),
        (503, "ServerBusy", Transient),
    ],
)
def test_each_answer_to_a_creation_has_its_meaning(
    answering: tuple[ContainerClient, type[Answering]],
    status: int,
    code: str,
    expected: type[ExporterError],
) -> None:
    container, handler = answering
    handler.status, handler.code = status, code
    with pytest.raises(expected) as raised:
        BlobStore(container).create("a", b"")
    assert type(raised.value) is expected
    assert isinstance(raised.value.__cause__, HttpResponseError)
    if isinstance(raised.value, Transient):
        assert raised.value.retry_after_s == 7


def test_a_full_log_says_so(answering: tuple[ContainerClient, type[Answering]]) -> None:
    container, handler = answering
    handler.status, handler.code = 409, "BlockCountExceedsLimit"
    with pytest.raises(Terminal, match="50000 appends"):
        BlobStore(container).append("log", b"1\n", at=100_000)


def test_silence_is_transient() -> None:
    credential = {"account_name": "account", "account_key": "AAAA"}
    with contextlib.closing(
        BlobServiceClient("http://127.0.0.1:1/account", credential=credential, **NO_RETRY)
    ) as service:
        store = BlobStore(service.get_container_client("container"))
        for call in (store.ping, lambda: store.read("a"), lambda: store.append("a", b"\n", at=0)):
            with pytest.raises(Transient) as raised:
                call()
            assert raised.value.__cause__ is not None


class TestConnections:
    def test_the_identity_is_used_when_there_is_no_connection_string(self) -> None:
        environ = {
            "Storage__blobServiceUri": "https://example.blob.core.windows.net",
            "Storage__queueServiceUri": "https://example.queue.core.windows.net/",
            "Storage__clientId": "11111111-1111-1111-1111-111111111111",
        }
        with (
            contextlib.closing(azure_blobs.blob_service("Storage", environ)) as blobs,
            contextlib.closing(queue_service("Storage", environ)) as queues,
        ):
            assert blobs.url == "https://example.blob.core.windows.net/"
            assert queues.url == "https://example.queue.core.windows.net/"
            assert blobs.credential is queues.credential
            assert hasattr(blobs.credential, "get_token")

    @pytest.mark.parametrize("connect", [azure_blobs.blob_service, queue_service])
    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"Storage": ""},
            {"Storage": "AccountName=a;AccountKey"},
            {"Storage": "AccountKey=secret"},
            {"Storage__blobServiceUri": "http://a", "Storage__queueServiceUri": "http://a"},
        ],
    )
    def test_what_is_missing_or_wrong_is_said_without_the_secret(
        self, connect: Callable[[str, dict[str, str]], object], environ: dict[str, str]
    ) -> None:
        with pytest.raises(ConfigError) as raised:
            connect("Storage", environ)
        assert "Storage" in raised.value.message
        assert raised.value.hint
        assert "secret" not in str(raised.value)
