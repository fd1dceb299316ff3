"""Our state, the snapshots and the work queue on one computer: folders, and a queue in memory."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import json
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from exporter.errors import (
    AlreadyThere,
    BlobTooLarge,
    ConfigError,
    ExporterError,
    PartitionChanged,
    StoreMoved,
)
from exporter.storage.blob_names import check_name, check_prefix, folder_prefix, is_name
from exporter.storage.downloads import placing
from exporter.storage.messages import check_delay, encode_message
from exporter.storage.protocols import (
    CHUNK_BYTES,
    MAX_DOCUMENT_BYTES,
    BlobInfo,
    Document,
    NotThere,
    check_lines,
    complete_lines,
    too_large,
)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PRIVATE = ".store"  # lock and unfinished files of a FolderStore; no name can begin with a dot
ABANDONED_AFTER_S = 24 * 3600  # the process that wrote an older unfinished file has died


class FolderStore:
    """A Store in a folder of a laptop, safe between threads and between processes.

    Every change holds one lock (`flock` of a file, which ends with the process that holds it), so a
    check and the write that depends on it are one. Documents and files are written beside and
    renamed into place. Names are paths: "a" and "a/b" cannot both exist, and on a file system that
    ignores case, neither can "a" and "A". Made for Linux and macOS; on Windows, a file that
    somebody is reading cannot be replaced.
    """

    def __init__(self, root: Path, *, max_document_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self._root, self._max_bytes = root.resolve(), max_document_bytes
        self._remove_abandoned()

    def read(self, name: str) -> Document | None:
        with _os_errors(name):
            try:
                file = _open(self._path(name))
            except FileNotFoundError:
                return None
            with file:
                document = _document(file, self._max_bytes + 1)
                if document.etag != _etag(os.fstat(file.fileno())):
                    # A log that grew meanwhile may mix an unfinished line with the line over it.
                    with self._locked():
                        document = _document(file, self._max_bytes + 1)
        if len(document.data) > self._max_bytes:
            raise too_large(name, self._max_bytes)
        return document

    def create(self, name: str, data: bytes) -> str:
        with _os_errors(name), self._unfinished(data) as temporary, self._locked():
            if self._stat(name) is not None:
                raise AlreadyThere(f"{name} exists")
            return self._place(temporary, name)

    def replace(self, name: str, data: bytes, *, etag: str) -> str:
        with _os_errors(name), self._unfinished(data) as temporary, self._locked():
            found = self._stat(name)
            if found is None or _etag(found) != etag:
                raise StoreMoved(f"{name} changed or is gone")
            return self._place(temporary, name)

    def delete(self, name: str, *, etag: str | None = None) -> None:
        with _os_errors(name), self._locked():
            found = self._stat(name)
            if found is None:
                return
            if etag is not None and _etag(found) != etag:
                raise StoreMoved(f"{name} changed")
            path = self._path(name)
            path.unlink()
            self._remove_empty_folders(path.parent)

    def names(self, prefix: str) -> Iterator[str]:
        return iter(sorted(_names(self._root, check_prefix(prefix))))

    def folders(self, prefix: str) -> Iterator[str]:
        folder = folder_prefix(prefix).rstrip("/")
        try:
            is_ours = not (folder and _is_through_a_link(self._root, folder))
            entries = list(os.scandir(self._root / folder)) if is_ours else []
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        found = [entry.name for entry in entries if is_name(entry.name) and _holds_a_file(entry)]
        return iter(sorted(found))

    def append(self, name: str, data: bytes, *, at: int) -> int:
        check_lines(data)
        with _os_errors(name), self._locked(), self._log(name, begin=at == 0) as fd:
            lines = complete_lines(_content(fd))
            if len(lines) == at:
                before_ns = os.fstat(fd).st_mtime_ns
                _write_from(fd, at, data)
                _stamp(self._path(name), after_ns=before_ns)
            elif lines[at:] != data:
                raise StoreMoved(f"{name} is not {at} bytes long")
            # A repeated append too: the process that wrote it may have died before this line.
            os.fsync(fd)
            return at + len(data)

    def upload(self, name: str, path: Path) -> None:
        with _os_errors(name), self._unfinished(path) as temporary, self._locked():
            self._place(temporary, name)

    def download(self, name: str, path: Path) -> None:
        with _os_errors(name):
            try:
                source = _open(self._path(name))
            except FileNotFoundError as exc:
                raise NotThere(f"{name} does not exist") from exc
            with source, placing(path) as temporary, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)

    def ping(self) -> None:
        with _os_errors("the state folder"), self._unfinished(b""), self._locked():
            pass

    def _path(self, name: str) -> Path:
        return _path_in(self._root, name)

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            found = self._path(name).stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep every other writer out of a block."""
        # `flock` belongs to the open file, so each thread opens its own.
        fd = os.open(self._private() / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)

    def _private(self) -> Path:
        folder = self._root / PRIVATE
        _make_folder(folder)
        return folder

    @contextlib.contextmanager
    def _unfinished(self, content: bytes | Path) -> Iterator[Path]:
        """Write bytes, or a file's content, to a hidden file for the time of a block.

        The file is removed at the end, unless the block has moved it away.
        """
        fd, temporary = tempfile.mkstemp(prefix="unfinished-", dir=self._private())
        try:
            with open(fd, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                    file.flush()
                else:
                    shutil.copyfile(content, temporary)  # within the kernel, if possible
                os.fsync(fd)
            yield Path(temporary)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _place(self, temporary: Path, name: str) -> str:
        """Rename a finished file to its name, under the lock, and return its ETag."""
        before, path = self._stat(name), self._path(name)
        _stamp(temporary, after_ns=before.st_mtime_ns if before else 0)
        _make_folder(path.parent)
        os.replace(temporary, path)
        _sync_folder(path.parent)
        return _etag(path.stat(follow_symlinks=False))

    @contextlib.contextmanager
    def _log(self, name: str, *, begin: bool) -> Iterator[int]:
        path, is_new = self._path(name), self._stat(name) is None
        if is_new and not begin:
            raise StoreMoved(f"{name} is gone")
        if is_new:
            _make_folder(path.parent)
        fd = os.open(path, os.O_RDWR | _OPEN_FLAGS | (os.O_CREAT if begin else 0), 0o600)
        try:
            yield fd
        finally:
            os.close(fd)
        if is_new:
            _sync_folder(path.parent)

    def _remove_empty_folders(self, folder: Path) -> None:
        """Remove folders that became empty: a container has none either."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                break
            folder = folder.parent
        _sync_folder(folder)

    def _remove_abandoned(self) -> None:
        oldest = time.time() - ABANDONED_AFTER_S
        for path in (self._root / PRIVATE).glob("unfinished-*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


class FolderSnapshots:
    """Snapshots in a folder. Leaves out links, and names that no container could hold.

    The ETag is made of inode, time and size. A file that is written twice in place, to the same
    size and within one tick of the file system's clock, looks unchanged.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        for name in sorted(_names(self._root, check_prefix(prefix))):
            try:
                found = self._path(name).stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield blob_info(name, found)

    def open(self, name: str, *, etag: str) -> Iterator[bytes]:
        path = self._path(name)
        with _os_errors(name):
            try:
                with _open(path) as file:
                    while chunk := _chunk_of(file, path, etag=etag):
                        yield chunk
            except (FileNotFoundError, NotADirectoryError) as exc:
                raise PartitionChanged(f"{name} is gone") from exc

    def read(self, name: str, *, max_bytes: int) -> Document | None:
        with _os_errors(name):
            try:
                file = _open(self._path(name))
            except FileNotFoundError:
                return None
            with file:
                document = _document(file, max_bytes + 1)
        if len(document.data) > max_bytes:
            raise BlobTooLarge(f"{name} has over {max_bytes:,} bytes")
        return document

    def ping(self) -> None:
        if not self._root.is_dir():
            raise ConfigError(
                "the folder of snapshots does not exist", hint="Create it or name another one."
            )

    def _path(self, name: str) -> Path:
        return _path_in(self._root, name)


class LocalFiles:
    """Snapshots in files anywhere on this computer, named by their absolute paths."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        for file in self._files:
            name = str(file)
            if not name.startswith(prefix):
                continue
            try:
                found = file.stat()
            except FileNotFoundError:
                continue
            yield blob_info(name, found)

    def open(self, name: str, *, etag: str) -> Iterator[bytes]:
        path = Path(name)
        return FolderSnapshots(path.parent).open(path.name, etag=etag)

    def read(self, name: str, *, max_bytes: int) -> Document | None:
        path = Path(name)
        return FolderSnapshots(path.parent).read(path.name, max_bytes=max_bytes)

    def ping(self) -> None:
        """Do nothing: each file is checked when it is opened."""


class MemoryQueue:
    """A WorkQueue within one process, for tests and the laptop. `clock` counts in seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, int, str]] = []

    def put(self, message: Mapping[str, object], *, delay_s: float = 0) -> None:
        due = self._clock() + check_delay(delay_s)
        text = encode_message(message)
        with self._lock:
            heapq.heappush(self._waiting, (due, next(self._numbers), text))

    def take(self, now: float | None = None) -> dict[str, object] | None:
        """Remove and return the message that has been due the longest; None if none is due."""
        moment = self._clock() if now is None else now
        with self._lock:
            if not self._waiting or self._waiting[0][0] > moment:
                return None
            message: dict[str, object] = json.loads(heapq.heappop(self._waiting)[2])
            return message

    def next_due(self) -> float | None:
        """Return the time from which `take` returns a message; None if the queue is empty."""
        with self._lock:
            return self._waiting[0][0] if self._waiting else None

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)


# Windows has no O_NOFOLLOW; elsewhere there is no O_BINARY.
_OPEN_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def _open(path: Path) -> BufferedReader:
    """Open a regular file. Anything else counts as absent, as it would in a container."""
    absent = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
        fd = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except NotADirectoryError as exc:
        raise absent from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise absent
    return open(fd, "rb")


@contextlib.contextmanager
def _os_errors(name: str) -> Iterator[None]:
    """Turn the operating system's errors into ours, but for a missing file, left to the caller."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
            message = f"{name} cannot be both a name and a folder of other names"
            raise ExporterError(message) from exc
        hint = "Check the folder's permissions and the free space of its disk."
        raise ConfigError(f"{name}: {exc.strerror or type(exc).__name__}", hint=hint) from exc


def _path_in(root: Path, name: str) -> Path:
    """Return the path of a name. Raises ExporterError if a link leads elsewhere on the way."""
    path = root / check_name(name)
    if _is_through_a_link(root, name) or not path.is_relative_to(root):
        hint = "Put the file or folder itself there."
        raise ExporterError(f"{name} is reached through a symbolic link", hint=hint)
    return path


def _is_through_a_link(root: Path, name: str) -> bool:
    """Whether a name, or a folder on the way to it, is a link. The root is resolved already."""
    path = str(root)
    for segment in name.split("/"):
        path = os.path.join(path, segment)
        try:
            found = os.lstat(path)
        except OSError:  # there is none; or whoever opens it is told what is wrong
            return False
        if stat.S_ISLNK(found.st_mode):
            return True
    return False


def _document(file: BufferedReader, length: int = -1) -> Document:
    """Read a file from its start."""
    # The ETag first: a conditional write after a change meanwhile must lose.
    etag = _etag(os.fstat(file.fileno()))
    file.seek(0)
    return Document(file.read(length), etag)


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(fd, msvcrt.LK_LOCK, 1)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX)


def _etag(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _stamp(path: Path, *, after_ns: int) -> None:
    """Give a file a time that no earlier file of its name had.

    The kernel's own time moves only every few milliseconds. The step is a microsecond at least,
    because some file systems do not keep nanoseconds.
    """
    moment = max(time.time_ns(), after_ns + 1_000)
    os.utime(path, ns=(moment, moment))


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename or removal durable; Windows has no such call."""
    if sys.platform != "win32":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _content(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _write_from(fd: int, at: int, data: bytes) -> None:
    """Write the end of a log, in place of what an earlier append left unfinished."""
    os.ftruncate(fd, at)
    with open(fd, "wb", closefd=False) as file:
        file.seek(at)
        file.write(data)


def _names(root: Path, prefix: str) -> Iterator[str]:
    """List the regular files whose name is valid and begins with `prefix`, in no order."""
    folder = prefix.rpartition("/")[0]
    if not (folder and _is_through_a_link(root, folder)):
        yield from _names_in(root / folder, f"{folder}/" if folder else "", prefix)


def _names_in(path: str | Path, folder: str, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(path))
    except OSError:  # it went meanwhile, or is none
        return
    for entry in entries:
        name = folder + entry.name
        if not name.startswith(prefix) or entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _names_in(entry.path, f"{name}/", prefix)
        elif entry.is_file(follow_symlinks=False) and is_name(name):
            yield name


def _holds_a_file(entry: os.DirEntry[str]) -> bool:
    if not entry.is_dir(follow_symlinks=False):
        return False
    return any(not file.startswith(".") for _, _, files in os.walk(entry.path) for file in files)


def blob_info(name: str, found: os.stat_result) -> BlobInfo:
    """Describe a file as a blob of this name."""
    modified_at = datetime.fromtimestamp(found.st_mtime, UTC)
    return BlobInfo(name=name, etag=_etag(found), size_bytes=found.st_size, modified_at=modified_at)


def _chunk_of(file: BufferedReader, path: Path, *, etag: str) -> bytes:
    """Read the next chunk, then check that it belongs to the version asked for."""
    chunk = file.read(CHUNK_BYTES)
    if _etag(os.fstat(file.fileno())) != etag or _etag(path.stat(follow_symlinks=False)) != etag:
        raise PartitionChanged(f"{path.name} changed")
    return chunk
