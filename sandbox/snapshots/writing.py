"""Write a snapshot to a folder or to a container."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sandbox.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient


class Writer(Protocol):
    def write(self, path: str, chunks: Iterable[bytes]) -> None: ...


class FolderWriter:
    """Writes below a folder; blob paths become sub-folders."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.writelines(chunks)


class ContainerWriter:
    """Writes to a blob container, replacing what is there."""

    def __init__(self, container: ContainerClient) -> None:
        self._container = container

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        self._container.upload_blob(path, chunks, overwrite=True)


def write_snapshot(snapshot: Snapshot, writer: Writer) -> list[str]:
    """Write all files of `snapshot`, model.json last; return their paths."""
    paths = []
    for file in snapshot.files():
        writer.write(file.path, file.chunks)
        paths.append(file.path)
    return paths
