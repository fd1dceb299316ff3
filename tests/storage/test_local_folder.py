"""What only a folder has to get right: crashes, other processes, links, and a disk's own ideas."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from exporter.errors import AlreadyThere, ConfigError, ExporterError, StoreMoved
from exporter.storage.local_folder import ABANDONED_AFTER_S, PRIVATE, FolderStore
from exporter.storage.protocols import complete_lines
from tests.waiting import LIMIT_S

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def start(script: str, root: Path) -> subprocess.Popen[bytes]:
    """Run a script with `store` in another Python."""
    begin = "import os, signal, sys\nfrom pathlib import Path\n"
    begin += "from exporter.storage import local_folder as module\n"
    begin += "store = module.FolderStore(Path(sys.argv[1]))\n"
    command = [sys.executable, "-c", begin + script, str(root)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    said, errors = process.communicate(timeout=LIMIT_S)
    assert not errors, errors.decode()
    return process.returncode, said


COUNT = """
for _ in range(60):
    while True:
        found = store.read("count")
        try:
            store.replace("count", b"%d" % (int(found.data) + 1), etag=found.etag)
            break
        except module.StoreMoved:
            continue
"""

DIE_IN_APPEND = """
def half(fd, at, data):
    os.ftruncate(fd, at)
    os.pwrite(fd, data[:int({keep})], at)
    os.kill(os.getpid(), signal.SIGKILL)
module._write_from = half
store.append("log", {data!r}, at={at})
"""

DIE_BEFORE_RENAME = """
module.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.{call}
"""

WRITE_FOR_EVER = """
etag = store.read("document").etag
at = len(module.complete_lines(store.read("log").data))
print("writing", flush=True)
number = 0
while True:
    number += 1
    etag = store.replace("document", b"%d " % number * 50_000, etag=etag)
    at = store.append("log", b"%d " % number * 5_000 + b"\\n", at=at)
"""


class TestProcesses:
    pytestmark = pytest.mark.processes

    def test_counting_in_two_processes_loses_nothing(self, root: Path) -> None:
        store = FolderStore(root)
        store.create("count", b"0")
        processes = [start(COUNT, root) for _ in range(2)]
        assert [finish(process)[0] for process in processes] == [0, 0]
        found = store.read("count")
        assert found is not None
        assert int(found.data) == 120

    @pytest.mark.parametrize(
        ("data", "keep", "left"), [("two\n", 2, ""), ("two\nthree\n", 6, "two\n")]
    )
    def test_what_a_killed_append_left_is_written_over(
        self, root: Path, data: str, keep: int, left: str
    ) -> None:
        store = FolderStore(root)
        at = store.append("log", b"one\n", at=0)
        died = start(DIE_IN_APPEND.format(data=data.encode(), keep=keep, at=at), root)
        assert finish(died)[0] == -signal.SIGKILL

        found = store.read("log")
        assert found is not None
        assert found.data == b"one\n" + data.encode()[:keep]
        assert complete_lines(found.data) == b"one\n" + left.encode()
        at = store.append("log", b"2\n", at=len(complete_lines(found.data)))
        found = store.read("log")
        assert found is not None
        assert found.data == b"one\n" + left.encode() + b"2\n"
        assert at == len(found.data)

    def test_a_log_killed_at_its_first_line_can_be_begun_again(self, root: Path) -> None:
        assert (
            finish(start(DIE_IN_APPEND.format(data=b"one\n", keep=2, at=0), root))[0]
            == -signal.SIGKILL
        )
        assert FolderStore(root).append("log", b"1\n", at=0) == 2

    @pytest.mark.parametrize(
        "call", ["create('new', b'')", "replace('old', b'new', etag=sys.argv[2])"]
    )
    def test_a_killed_write_leaves_the_old_and_no_lock(self, root: Path, call: str) -> None:
        store = FolderStore(root)
        etag = store.create("old", b"old")
        died = start(DIE_BEFORE_RENAME.format(call=call.replace("sys.argv[2]", repr(etag))), root)
        assert finish(died)[0] == -signal.SIGKILL
        assert list(store.names("")) == ["old"]
        found = store.read("old")
        assert found is not None
        assert found.data == b"old"
        store.create("new", b"")

    def test_killed_at_any_moment_everything_is_old_or_new(self, root: Path) -> None:
        store = FolderStore(root)
        store.create("document", b"0")
        store.append("log", b"0\n", at=0)
        for pause in (0.005, 0.013, 0.029):
            process = start(WRITE_FOR_EVER, root)
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            time.sleep(pause)
            process.kill()
            finish(process)
            document, log = store.read("document"), store.read("log")
            assert document is not None
            assert log is not None
            assert len(set(document.data.split())) == 1
            assert all(
                len(set(line.split())) == 1 for line in complete_lines(log.data).splitlines()
            )
            store.replace("document", b"0", etag=document.etag)
            store.append("log", b"0\n", at=len(complete_lines(log.data)))


class TestDisk:
    def test_zeros_that_a_power_loss_left_are_written_over(self, root: Path) -> None:
        store = FolderStore(root)
        at = store.append("log", b"one\n", at=0)
        with (root / "log").open("ab") as file:
            file.write(b"\0\0\0\n\0")
        assert store.append("log", b"2\n", at=at) == at + 2
        assert (root / "log").read_bytes() == b"one\n2\n"

    def test_etags_differ_even_when_the_clock_stands_still(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moment = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: moment)
        store = FolderStore(root)
        etags = [store.create("a", b"")]
        for _ in range(50):
            etags.append(store.replace("a", b"", etag=etags[-1]))
        assert len(set(etags)) == len(etags)

    def test_an_edit_by_hand_is_noticed(self, root: Path) -> None:
        store = FolderStore(root)
        etag = store.create("a", b"1")
        (root / "a").write_bytes(b"22")
        with pytest.raises(StoreMoved):
            store.replace("a", b"3", etag=etag)

    def test_files_that_are_not_ours_are_not_seen(self, root: Path) -> None:
        store = FolderStore(root)
        store.create("a/b", b"")
        (root / ".DS_Store").write_bytes(b"")
        (root / "c").mkdir()
        (root / "c" / ".DS_Store").write_bytes(b"")
        assert list(store.names("")) == ["a/b"]
        assert list(store.folders("")) == ["a"]

    def test_a_link_leads_nowhere(self, root: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret\n")
        store = FolderStore(root)
        store.ping()
        (root / "folder").symlink_to(outside)
        (root / "file").symlink_to(outside / "secret")
        for name in ("folder/secret", "folder/new", "file"):
            with pytest.raises(ExporterError, match="link"):
                store.read(name)
            with pytest.raises(ExporterError, match="link"):
                store.create(name, b"")
            with pytest.raises(ExporterError, match="link"):
                store.append(name, b"x\n", at=7)
            with pytest.raises(ExporterError, match="link"):
                store.delete(name)
            with pytest.raises(ExporterError, match="link"):
                store.upload(name, outside / "secret")
            with pytest.raises(ExporterError, match="link"):
                store.download(name, tmp_path / "target")
        assert list(store.names("")) == list(store.names("folder/")) == []
        assert list(store.folders("")) == list(store.folders("folder")) == []
        assert [path.name for path in outside.iterdir()] == ["secret"]

    def test_the_root_itself_may_be_a_link(self, root: Path, tmp_path: Path) -> None:
        root.mkdir()
        (tmp_path / "link").symlink_to(root)
        FolderStore(tmp_path / "link").create("a/b", b"1")
        assert (root / "a" / "b").read_bytes() == b"1"

    def test_a_name_cannot_be_a_folder_too(self, root: Path) -> None:
        store = FolderStore(root)
        store.create("a/b", b"1")
        with pytest.raises(ExporterError, match="both"):
            store.create("a", b"")
        with pytest.raises(ExporterError, match="both"):
            store.create("a/b/c", b"")
        with pytest.raises(ExporterError, match="both"):
            store.append("a", b"1\n", at=0)
        store.delete("a")
        assert list(store.names("")) == ["a/b"]

    def test_what_a_dead_process_left_is_removed_after_a_day(self, root: Path) -> None:
        FolderStore(root).ping()
        old, new = root / PRIVATE / "unfinished-old", root / PRIVATE / "unfinished-new"
        for path in (old, new):
            path.write_bytes(b"")
        moment = time.time() - ABANDONED_AFTER_S - 1
        os.utime(old, (moment, moment))
        FolderStore(root)
        assert (old.exists(), new.exists()) == (False, True)

    def test_nothing_is_left_behind_by_a_lost_race(self, root: Path) -> None:
        store = FolderStore(root)
        store.create("a", b"")
        with pytest.raises(AlreadyThere):
            store.create("a", b"")
        assert [path.name for path in (root / PRIVATE).iterdir()] == ["lock"]

    def test_only_the_owner_can_read(self, root: Path) -> None:
        """Members of a segment are people."""
        store = FolderStore(root)
        store.create("a/document", b"")
        store.append("a/log", b"1\n", at=0)
        modes = {path.stat().st_mode & 0o077 for path in [root, *root.rglob("*")]}
        assert modes == {0}

    def test_a_full_disk_needs_a_person_and_keeps_what_was_there(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = FolderStore(root)
        etag = store.create("a", b"old")

        def fail(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(ConfigError, match="No space left") as raised:
            store.replace("a", b"new", etag=etag)
        assert raised.value.hint
        found = store.read("a")
        assert found is not None
        assert found.data == b"old"
        assert [path.name for path in (root / PRIVATE).iterdir()] == ["lock"]

    def test_a_root_that_is_a_file_needs_a_person(self, root: Path) -> None:
        root.write_bytes(b"")
        with pytest.raises(ExporterError):
            FolderStore(root).ping()


NAMES = st.sampled_from(["a", "b/c", "b/c-d", "b/c.d/e", "b/c.d/f", "g"])
DATA = st.binary(max_size=3)
LINES = st.sampled_from([b"1\n", b"2\n", b"1\n2\n"])


class LikeADictionary(RuleBasedStateMachine):
    """Whatever is done in whatever order, a FolderStore holds what a dictionary would."""

    etags = Bundle("etags")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = FolderStore(self.folder)
        self.model: dict[str, tuple[str, bytes]] = {}
        self.log = b""

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(target=etags, name=NAMES, data=DATA)
    def create(self, name: str, data: bytes) -> object:
        try:
            etag = self.store.create(name, data)
        except AlreadyThere:
            assert name in self.model
            return multiple()
        assert name not in self.model
        self.model[name] = etag, data
        return name, etag

    @rule(target=etags, name_and_etag=etags, data=DATA)
    def replace(self, name_and_etag: tuple[str, str], data: bytes) -> object:
        name, etag = name_and_etag
        try:
            new = self.store.replace(name, data, etag=etag)
        except StoreMoved:
            assert self.model.get(name, ("",))[0] != etag
            return multiple()
        assert self.model[name][0] == etag
        self.model[name] = new, data
        return name, new

    @rule(name_and_etag=consumes(etags))
    def delete_version(self, name_and_etag: tuple[str, str]) -> None:
        name, etag = name_and_etag
        try:
            self.store.delete(name, etag=etag)
        except StoreMoved:
            assert self.model[name][0] != etag
        else:
            assert self.model.pop(name, (etag,))[0] == etag

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.store.delete(name)
        self.model.pop(name, None)

    @rule(data=LINES, at=st.integers(0, 12))
    def append(self, data: bytes, at: int) -> None:
        try:
            length = self.store.append("log", data, at=at)
        except StoreMoved:
            assert at != len(self.log)
            return
        if at == len(self.log):
            self.log += data
        assert length == len(self.log)  # else it was a repetition, and nothing was written
        assert self.log[at:] == data

    @rule(tail=st.sampled_from([b"1", b"\0\n", b"\0"]))
    def crash_in_append(self, tail: bytes) -> None:
        with (self.folder / "log").open("ab") as file:
            file.write(tail)

    @rule(prefix=st.sampled_from(["", "b", "b/", "b/c", "b/c.d/", "x"]))
    def list(self, prefix: str) -> None:
        expected = sorted(name for name in self.model if name.startswith(prefix))
        assert [name for name in self.store.names(prefix) if name != "log"] == expected

    @invariant()
    def holds_the_same(self) -> None:
        for name in ("a", "b/c", "b/c.d/e"):
            found = self.store.read(name)
            assert self.model.get(name) == (found and (found.etag, found.data))
        found = self.store.read("log")
        assert complete_lines(found.data if found else b"") == self.log


LikeADictionary.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLikeADictionary = LikeADictionary.TestCase
