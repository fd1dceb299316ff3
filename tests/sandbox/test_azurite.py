"""Azurite starts on free ports, keeps Azure's conditional writes, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
from azure.storage.blob import BlobServiceClient, ContainerClient
from azure.storage.queue import QueueClient

from sandbox import azurite
from sandbox.azurite import Azurite, running_azurite
from tests.waiting import wait_until

needs_azurite = pytest.mark.azurite


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with running_azurite(log=tmp_path_factory.mktemp("azurite") / "log") as running:
        yield running


@pytest.fixture
def blobs(storage: Azurite) -> Iterator[BlobServiceClient]:
    with BlobServiceClient.from_connection_string(storage.connection_string) as client:
        yield client


@needs_azurite
def test_second_create_of_a_blob_loses_with_409(blobs: BlobServiceClient):
    blob = blobs.create_container("creates").get_blob_client("run.json")
    blob.upload_blob(b"first", overwrite=False)
    with pytest.raises(ResourceExistsError) as refused:
        blob.upload_blob(b"second", overwrite=False)
    assert refused.value.status_code == 409
    assert blob.download_blob().readall() == b"first"


@needs_azurite
def test_change_based_on_an_old_etag_loses_with_412(blobs: BlobServiceClient):
    blob = blobs.create_container("changes").get_blob_client("run.json")
    seen = blob.upload_blob(b"1")["etag"]
    blob.upload_blob(b"2", overwrite=True, etag=seen, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceModifiedError) as refused:
        blob.upload_blob(
            b"3", overwrite=True, etag=seen, match_condition=MatchConditions.IfNotModified
        )
    assert refused.value.status_code == 412
    assert blob.download_blob().readall() == b"2"


@needs_azurite
def test_queue_message_is_received_and_deleted(storage: Azurite):
    with QueueClient.from_connection_string(storage.connection_string, "steps") as queue:
        queue.create_queue()
        queue.send_message("take run 7 a step further")
        message = queue.receive_message()
        assert message is not None
        assert (message.content, message.dequeue_count) == ("take run 7 a step further", 1)
        queue.delete_message(message)
        assert queue.get_queue_properties().approximate_message_count == 0


@needs_azurite
def test_data_in_a_location_outlive_the_emulator(tmp_path: Path):
    with (
        running_azurite(tmp_path / "data", log=tmp_path / "log") as first,
        _kept_container(first) as container,
    ):
        container.create_container()
        container.upload_blob("snapshot.csv", b"kept")
    with (
        running_azurite(tmp_path / "data", log=tmp_path / "log") as second,
        _kept_container(second) as container,
    ):
        assert container.download_blob("snapshot.csv").readall() == b"kept"
    assert first.process.returncode == 0


@needs_azurite
@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a child with its parent")
def test_emulator_dies_with_a_killed_parent(tmp_path: Path):
    program = (
        "import sys, pathlib; from sandbox.azurite import running_azurite\n"
        "with running_azurite(log=pathlib.Path(sys.argv[1])) as storage:\n"
        "    print(storage.process.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: _has_ended(pid), "the emulator's end")


def test_missing_azurite_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(azurite, "AZURITE", tmp_path / "azurite.js")
    with (
        pytest.raises(FileNotFoundError, match="run scripts/setup"),
        running_azurite(log=tmp_path / "log"),
    ):
        pass


@needs_azurite
def test_emulator_that_stops_at_once_is_reported_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "azurite.js"
    broken.write_text("console.error('port is taken'); process.exit(1)")
    monkeypatch.setattr(azurite, "AZURITE", broken)
    with pytest.raises(RuntimeError, match="port is taken"), running_azurite(log=tmp_path / "log"):
        pass


@contextlib.contextmanager
def _kept_container(storage: Azurite) -> Iterator[ContainerClient]:
    with BlobServiceClient.from_connection_string(storage.connection_string) as client:
        yield client.get_container_client("kept")


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
