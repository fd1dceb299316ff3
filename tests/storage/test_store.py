"""What every Store does, in a folder and in a container."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from exporter.errors import AlreadyThere, ConfigError, StoreMoved
from exporter.storage.azure_blobs import BlobStore
from exporter.storage.blob_names import MAX_NAME_CHARACTERS, MAX_SEGMENT_BYTES
from exporter.storage.local_folder import FolderStore
from exporter.storage.protocols import MAX_APPEND_BYTES, NotThere, Store, complete_lines
from tests.storage.racing import at_once

RUN = "runs/vips/20260824T1433-1a2b/run.json"
LOG = "runs/vips/20260824T1433-1a2b/events.jsonl"


@pytest.fixture(params=["folder", pytest.param("blob", marks=pytest.mark.azurite)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Store]:
    """Opens the same store with other limits."""
    if request.param == "folder":
        return partial(FolderStore, tmp_path / "state")
    return partial(BlobStore, request.getfixturevalue("container"))


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


class TestDocuments:
    def test_what_was_created_is_read(self, store: Store) -> None:
        etag = store.create(RUN, b'{"schema": 1}')
        found = store.read(RUN)
        assert found is not None
        assert (found.data, found.etag) == (b'{"schema": 1}', etag)

    def test_absent_is_none(self, store: Store) -> None:
        assert store.read(RUN) is None
        store.create(RUN, b"1")
        assert store.read(RUN + "x") is None
        assert store.read("runs/vips") is None
        assert store.read(RUN + "/below") is None

    def test_any_bytes_and_none_at_all_are_kept(self, store: Store) -> None:
        for name, data in (
            ("empty", b""),
            ("all", bytes(range(256))),
            ("large", os.urandom(9_000_000)),
        ):
            store.create(name, data)
            found = store.read(name)
            assert found is not None
            assert found.data == data

    def test_what_is_larger_than_any_document_of_ours_is_not_read(
        self, open_store: Callable[..., Store]
    ) -> None:
        store = open_store(max_document_bytes=10)
        store.create("a", b"1" * 10)
        store.create("b", b"1" * 11)
        assert store.read("a") is not None
        with pytest.raises(ConfigError, match="b has over") as refused:
            store.read("b")
        assert refused.value.hint

    def test_creating_twice_leaves_the_first(self, store: Store) -> None:
        etag = store.create(RUN, b"first")
        with pytest.raises(AlreadyThere):
            store.create(RUN, b"second")
        found = store.read(RUN)
        assert found is not None
        assert (found.data, found.etag) == (b"first", etag)

    def test_replaces_the_version_that_was_read(self, store: Store) -> None:
        etag = store.replace(RUN, b"second", etag=store.create(RUN, b"first"))
        found = store.read(RUN)
        assert found is not None
        assert (found.data, found.etag) == (b"second", etag)

    def test_replacing_an_older_version_is_refused(self, store: Store) -> None:
        first = store.create(RUN, b"first")
        store.replace(RUN, b"second", etag=first)
        with pytest.raises(StoreMoved) as lost:
            store.replace(RUN, b"third", etag=first)
        assert not isinstance(lost.value, AlreadyThere)
        found = store.read(RUN)
        assert found is not None
        assert found.data == b"second"

    def test_replacing_what_is_gone_is_refused(self, store: Store) -> None:
        etag = store.create(RUN, b"first")
        store.delete(RUN)
        with pytest.raises(StoreMoved):
            store.replace(RUN, b"second", etag=etag)
        assert store.read(RUN) is None
        with pytest.raises(StoreMoved):
            store.replace("never/there", b"second", etag=etag)

    def test_no_etag_ever_comes_back(self, store: Store) -> None:
        """Else a writer that slept would take an earlier content for the version that it knows."""
        etags = [store.create(RUN, b"same")]
        for _ in range(20):
            etags.append(store.replace(RUN, b"same", etag=etags[-1]))
        store.delete(RUN, etag=etags[-1])
        etags.append(store.create(RUN, b"same"))
        assert len(set(etags)) == len(etags)

    def test_deleting_asks_for_the_version_only_if_told(self, store: Store) -> None:
        first = store.create(RUN, b"first")
        second = store.replace(RUN, b"second", etag=first)
        with pytest.raises(StoreMoved):
            store.delete(RUN, etag=first)
        store.delete(RUN, etag=second)
        assert store.read(RUN) is None
        store.delete(RUN, etag=second)
        store.delete(RUN)
        store.create(RUN, b"again")
        store.delete(RUN)
        assert store.read(RUN) is None


class TestNames:
    def test_names_that_begin_with_a_prefix_come_sorted_as_a_whole(self, store: Store) -> None:
        names = ["a/b", "a/b.json", "a/b-c/d", "a-b", "ab", "b/a", "a b/ü+?#%20&=", "a/日本"]
        for name in names:
            if name != "a/b":
                store.create(name, b"")
        names.remove("a/b")
        assert list(store.names("")) == sorted(names)
        assert list(store.names("a/")) == ["a/b-c/d", "a/b.json", "a/日本"]
        assert list(store.names("a/b")) == ["a/b-c/d", "a/b.json"]
        assert list(store.names("a/b-c/d")) == ["a/b-c/d"]
        assert list(store.names("c")) == list(store.names("b/a/c/")) == []

    def test_folders_are_what_names_go_on_below(self, store: Store) -> None:
        for name in (
            "runs/vips/2/run.json",
            "runs/vips/2/log",
            "runs/vips/1/a/b",
            "runs/vips/x",
            "other/y",
        ):
            store.create(name, b"")
        assert list(store.folders("runs/vips/")) == list(store.folders("runs/vips")) == ["1", "2"]
        assert list(store.folders("")) == ["other", "runs"]
        assert list(store.folders("runs/vips/2")) == list(store.folders("none")) == []
        assert list(store.folders("runs/vip")) == []

    def test_a_folder_goes_with_its_last_name(self, store: Store) -> None:
        store.create("runs/vips/1/run.json", b"")
        store.create("runs/x", b"")
        store.delete("runs/vips/1/run.json")
        assert list(store.folders("runs")) == []
        assert list(store.names("")) == ["runs/x"]
        store.create("runs/vips", b"now a document")

    def test_an_unused_store_is_empty(self, store: Store) -> None:
        assert list(store.names("")) == list(store.folders("")) == []
        store.delete(RUN)
        store.ping()
        assert list(store.names("")) == list(store.folders("")) == []

    @pytest.mark.parametrize(
        "name",
        [
            "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "./a", ".store/lock",
            "a/.b", "a.", "a\\b", "a\nb", "a\0", "a\x7f", "a\x85b", "\udc80",
            "a" * (MAX_SEGMENT_BYTES + 1), "ü" * MAX_SEGMENT_BYTES,
            "a/" * (MAX_NAME_CHARACTERS // 2) + "a",
        ],
    )  # fmt: skip
    def test_a_name_that_is_none_is_refused_everywhere(
        self, store: Store, name: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"1")
        with pytest.raises(ValueError):
            store.read(name)
        with pytest.raises(ValueError):
            store.create(name, b"")
        with pytest.raises(ValueError):
            store.replace(name, b"", etag="1")
        with pytest.raises(ValueError):
            store.delete(name)
        with pytest.raises(ValueError):
            store.append(name, b"\n", at=0)
        with pytest.raises(ValueError):
            store.upload(name, path)
        with pytest.raises(ValueError):
            store.download(name, path)
        assert path.read_bytes() == b"1"

    @pytest.mark.parametrize("prefix", ["/", "../", "../a", "a//", "a/../b", ".store/", "a\\/b"])
    def test_a_prefix_that_no_name_has_is_refused(self, store: Store, prefix: str) -> None:
        with pytest.raises(ValueError):
            store.names(prefix)
        with pytest.raises(ValueError):
            store.folders(prefix)

    def test_the_longest_names_are_possible(self, store: Store) -> None:
        name = "/".join(["n" * MAX_SEGMENT_BYTES] * 4)
        store.create(name, b"1")
        store.append("/".join(["m" * MAX_SEGMENT_BYTES] * 4), b"1\n", at=0)
        assert name in list(store.names("nn"))


class TestLogs:
    def test_lines_are_added_at_the_end(self, store: Store) -> None:
        first = store.append(LOG, b'{"n": 1}\n', at=0)
        second = store.append(LOG, b'{"n": 2}\n{"n": 3}\n', at=first)
        found = store.read(LOG)
        assert found is not None
        assert found.data == complete_lines(found.data) == b'{"n": 1}\n{"n": 2}\n{"n": 3}\n'
        assert second == len(found.data)
        assert list(store.names("")) == [LOG]

    @pytest.mark.parametrize("at", [0, 1, 4, 8, 10, 100])
    def test_another_length_is_refused(self, store: Store, at: int) -> None:
        assert store.append(LOG, b"123\n5678\n", at=0) == 9
        with pytest.raises(StoreMoved):
            store.append(LOG, b"new\n", at=at)

    def test_an_absent_log_is_begun_only_at_zero(self, store: Store) -> None:
        with pytest.raises(StoreMoved):
            store.append(LOG, b"new\n", at=4)
        assert store.read(LOG) is None

    def test_an_append_whose_answer_was_lost_may_be_repeated(self, store: Store) -> None:
        first = store.append(LOG, b"one\n", at=0)
        assert store.append(LOG, b"one\n", at=0) == first
        second = store.append(LOG, b"two\nthree\n", at=first)
        assert store.append(LOG, b"two\nthree\n", at=first) == second
        with pytest.raises(StoreMoved):
            store.append(LOG, b"one\n", at=0)
        with pytest.raises(StoreMoved):
            store.append(LOG, b"two\n", at=first)
        with pytest.raises(StoreMoved):
            store.append(LOG, b"two\nthree\nfour\n", at=first)
        found = store.read(LOG)
        assert found is not None
        assert found.data == b"one\ntwo\nthree\n"

    @pytest.mark.parametrize(
        "data", [b"", b"no end", b"one\ntwo", b"\0\n", b"x" * MAX_APPEND_BYTES + b"\n"]
    )
    def test_only_whole_lines_of_text_are_taken(self, store: Store, data: bytes) -> None:
        with pytest.raises(ValueError):
            store.append(LOG, data, at=0)
        assert store.read(LOG) is None

    def test_the_largest_append_is_taken(self, store: Store) -> None:
        data = b"x" * (MAX_APPEND_BYTES - 1) + b"\n"
        assert store.append(LOG, data, at=0) == len(data)
        assert store.append(LOG, data, at=0) == len(data)

    def test_a_log_changes_its_etag_with_each_line(self, store: Store) -> None:
        at, etags = 0, []
        for number in range(10):
            at = store.append(LOG, b"%d\n" % number, at=at)
            found = store.read(LOG)
            assert found is not None
            etags.append(found.etag)
        assert len(set(etags)) == 10
        with pytest.raises(StoreMoved):
            store.delete(LOG, etag=etags[0])
        store.delete(LOG, etag=etags[-1])
        assert store.read(LOG) is None


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, 4 * 1024 * 1024, 11_000_000])
    def test_what_was_uploaded_is_downloaded(self, store: Store, size: int, tmp_path: Path) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(os.urandom(size))
        store.upload("ledger/list.parquet", source)
        store.download("ledger/list.parquet", target)
        assert target.read_bytes() == source.read_bytes()

    def test_the_later_upload_is_kept(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "file"
        for content in (b"first and longer", b"second"):
            path.write_bytes(content)
            store.upload("file", path)
        store.download("file", path)
        assert path.read_bytes() == b"second"

    def test_what_is_absent_leaves_the_target_alone(self, store: Store, tmp_path: Path) -> None:
        target = tmp_path / "below" / "target"
        target.parent.mkdir()
        target.write_bytes(b"old")
        with pytest.raises(NotThere):
            store.download("absent", target)
        assert target.read_bytes() == b"old"
        assert list(target.parent.iterdir()) == [target]

    def test_a_missing_source_is_the_callers_error(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            store.upload("file", tmp_path / "absent")


class TestRaces:
    def test_of_ten_creators_one_wins(self, store: Store) -> None:
        won, lost = at_once(10, lambda _: store.create(RUN, b"all the same"))
        assert len(won) == 1
        assert all(isinstance(error, AlreadyThere) for error in lost)
        found = store.read(RUN)
        assert found is not None
        assert found.etag == won[0]

    def test_of_ten_writers_one_wins(self, store: Store) -> None:
        etag = store.create(RUN, b"")
        won, lost = at_once(
            10, lambda number: (number, store.replace(RUN, b"%d" % number, etag=etag))
        )
        assert (len(won), len(lost)) == (1, 9)
        found = store.read(RUN)
        assert found is not None
        assert (int(found.data), found.etag) == won[0]

    @pytest.mark.parametrize("at", [0, 6])
    def test_of_ten_appends_at_one_length_one_wins(self, store: Store, at: int) -> None:
        if at:
            store.append(LOG, b"begin\n", at=0)
        won, lost = at_once(10, lambda number: (number, store.append(LOG, b"%d\n" % number, at=at)))
        assert (len(won), len(lost)) == (1, 9)
        found = store.read(LOG)
        assert found is not None
        assert found.data[at:] == b"%d\n" % won[0][0]

    def test_counting_in_eight_threads_loses_nothing(self, store: Store) -> None:
        store.create("count", b"0")

        def count(_: int) -> None:
            for _ in range(20):
                _add_one(store)

        at_once(8, count)
        found = store.read("count")
        assert found is not None
        assert json.loads(found.data) == 160


def _add_one(store: Store) -> None:
    while True:
        found = store.read("count")
        assert found is not None
        try:
            store.replace("count", b"%d" % (int(found.data) + 1), etag=found.etag)
        except StoreMoved:
            continue
        return


@pytest.mark.parametrize(
    ("log", "counts"),
    [
        (b"", b""),
        (b"one\ntwo\n", b"one\ntwo\n"),
        (b"one\ntw", b"one\n"),
        (b"on", b""),
        (b"one\n\0\0\0", b"one\n"),
        (b"one\n\0\0x\ntwo\n", b"one\n"),
        (b"one\nt\0o\n", b"one\n"),
    ],
)
def test_lines_that_were_not_finished_do_not_count(log: bytes, counts: bytes) -> None:
    assert complete_lines(log) == counts
