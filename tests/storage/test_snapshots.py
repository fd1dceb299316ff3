"""What every Snapshots does, in a folder and in a container."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient

from exporter.errors import BlobTooLarge, ConfigError, ExporterError, PartitionChanged
from exporter.storage.azure_blobs import BlobSnapshots
from exporter.storage.local_folder import FolderSnapshots
from exporter.storage.protocols import Snapshots

PART = "export/vips/2026/08/24/1433/vips_0.csv"


@dataclass
class Source:
    """Snapshots, and what Customer Insights does to them."""

    snapshots: Snapshots
    write: Callable[[str, bytes], object]
    remove: Callable[[str], object]


@pytest.fixture(params=["folder", pytest.param("blob", marks=pytest.mark.azurite)])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if request.param == "folder":
        return _folder(tmp_path)
    return _container(request.getfixturevalue("container"))


def _folder(root: Path) -> Source:
    def write(name: str, data: bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return Source(FolderSnapshots(root), write, lambda name: (root / name).unlink())


def _container(container: ContainerClient) -> Source:
    container.create_container()
    return Source(
        BlobSnapshots(container),
        lambda name, data: container.upload_blob(name, data, overwrite=True),
        container.delete_blob,
    )


def etag_of(source: Source, name: str) -> str:
    [info] = source.snapshots.list(name)
    return info.etag


class TestSnapshots:
    def test_lists_what_begins_with_a_prefix(self, source: Source) -> None:
        for name in ("a/b.csv", "a-b.csv", "a/c d/ü+?#%20&=.csv", "b.csv", "model.json"):
            source.write(name, b"12345")
        assert [info.name for info in source.snapshots.list("")] == [
            "a-b.csv", "a/b.csv", "a/c d/ü+?#%20&=.csv", "b.csv", "model.json",
        ]  # fmt: skip
        assert [info.name for info in source.snapshots.list("a")] == [
            "a-b.csv",
            "a/b.csv",
            "a/c d/ü+?#%20&=.csv",
        ]
        assert [info.name for info in source.snapshots.list("a/")] == [
            "a/b.csv",
            "a/c d/ü+?#%20&=.csv",
        ]
        assert list(source.snapshots.list("c")) == []

    def test_says_size_and_time(self, source: Source) -> None:
        source.write(PART, b"12345")
        [info] = source.snapshots.list("export/")
        assert info.size_bytes == 5
        assert info.modified_at.tzinfo is not None
        assert abs(datetime.now(UTC) - info.modified_at) < timedelta(minutes=1)
        assert info.modified_at.utcoffset() == timedelta(0)
        assert '"' not in info.etag

    @pytest.mark.parametrize("size", [0, 1, 4 * 1024 * 1024, 9_000_000])
    def test_reads_the_listed_version_in_chunks(self, source: Source, size: int) -> None:
        data = os.urandom(size)
        source.write(PART, data)
        chunks = list(source.snapshots.open(PART, etag=etag_of(source, PART)))
        assert b"".join(chunks) == data
        assert all(0 < len(chunk) <= 4 * 1024 * 1024 for chunk in chunks)

    def test_another_version_is_refused(self, source: Source) -> None:
        source.write(PART, b"first")
        etag = etag_of(source, PART)
        source.write(PART, b"second")
        with pytest.raises(PartitionChanged):
            list(source.snapshots.open(PART, etag=etag))
        assert list(source.snapshots.open(PART, etag=etag_of(source, PART))) == [b"second"]

    def test_a_version_that_is_gone_is_refused(self, source: Source) -> None:
        source.write(PART, b"first")
        etag = etag_of(source, PART)
        source.remove(PART)
        with pytest.raises(PartitionChanged):
            list(source.snapshots.open(PART, etag=etag))
        with pytest.raises(PartitionChanged):
            list(source.snapshots.open("export/never.csv", etag=etag))

    @pytest.mark.parametrize("change", ["replaced", "longer", "removed", "emptied"])
    def test_a_change_between_chunks_is_noticed(self, source: Source, change: str) -> None:
        data = os.urandom(9_000_000)
        source.write(PART, data)
        chunks = source.snapshots.open(PART, etag=etag_of(source, PART))
        assert next(chunks) == data[: 4 * 1024 * 1024]
        time.sleep(0.01)  # the clock of a file system moves on every 4 ms
        if change == "removed":
            source.remove(PART)
        else:
            source.write(
                PART, {"replaced": data[::-1], "longer": data + b"1", "emptied": b""}[change]
            )
        with pytest.raises(PartitionChanged):
            for _ in chunks:
                pass

    def test_a_small_blob_is_read_at_once(self, source: Source) -> None:
        assert source.snapshots.read("model.json", max_bytes=10) is None
        source.write("model.json", b"0123456789")
        found = source.snapshots.read("model.json", max_bytes=10)
        assert found is not None
        assert (found.data, found.etag) == (b"0123456789", etag_of(source, "model.json"))
        source.write("model.json", b"")
        found = source.snapshots.read("model.json", max_bytes=10)
        assert found is not None
        assert found.data == b""

    @pytest.mark.parametrize("size", [11, 5_000_000])
    def test_a_larger_one_is_refused(self, source: Source, size: int) -> None:
        source.write("model.json", b"1" * size)
        with pytest.raises(BlobTooLarge, match="model"):
            source.snapshots.read("model.json", max_bytes=10)

    def test_ping(self, source: Source) -> None:
        source.snapshots.ping()


class TestFolder:
    def test_a_file_renamed_over_another_is_noticed(self, tmp_path: Path) -> None:
        source = _folder(tmp_path)
        source.write("a.csv", b"1" * 9_000_000)
        chunks = source.snapshots.open("a.csv", etag=etag_of(source, "a.csv"))
        next(chunks)
        source.write("b.csv", b"2" * 9_000_000)
        (tmp_path / "b.csv").replace(tmp_path / "a.csv")
        with pytest.raises(PartitionChanged):
            next(chunks)

    def test_links_and_hidden_files_are_left_out(self, tmp_path: Path) -> None:
        source = _folder(tmp_path / "root")
        source.write("a.csv", b"1")
        source.write(".DS_Store", b"1")
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "root" / "link.csv").symlink_to(tmp_path / "secret")
        assert [info.name for info in source.snapshots.list("")] == ["a.csv"]
        for name in ("../secret", "/etc/passwd", ".DS_Store"):
            with pytest.raises(ValueError):
                list(source.snapshots.open(name, etag="1"))
            with pytest.raises(ValueError):
                source.snapshots.read(name, max_bytes=10)
        with pytest.raises(ExporterError, match="link"):
            source.snapshots.read("link.csv", max_bytes=10)

    def test_a_folder_that_is_not_there_needs_a_person(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            FolderSnapshots(tmp_path / "absent").ping()
        assert list(FolderSnapshots(tmp_path / "absent").list("")) == []
