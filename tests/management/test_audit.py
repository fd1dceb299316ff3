"""The record of changes: a line before each change; writers lose and rewrite nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from exporter.errors import Transient
from exporter.management.audit import Audit
from exporter.management.roles import Action, Actor, Role
from exporter.storage.local_folder import FolderStore

ADA = Actor(id="a-1", name="Ada", role=Role.ADMIN)
DAY_S = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def test_the_line_is_there_before_the_change_is_made(store: FolderStore) -> None:
    audit = Audit(store, clock=lambda: 0)
    with audit.recording(
        ADA, Action.EDIT_EXPORT, "exports/vips", before={"a": 1, "b": 2}, after={"a": 1, "b": 3}
    ):
        [line] = audit.newest()
    assert line == {
        "place": "1970-01-01.000000",
        "at": "1970-01-01T00:00:00.000+00:00",
        "by": {"id": "a-1", "name": "Ada", "role": "Admin"},
        "action": "edit_export",
        "object": "exports/vips",
        "before": {"b": 2},
        "after": {"b": 3},
    }


def test_nothing_is_changed_where_it_cannot_be_recorded(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise Transient("the disk is full")

    monkeypatch.setattr(store, "append", full)
    changed = False
    with pytest.raises(Transient), Audit(store).recording(ADA, Action.EDIT_EXPORT, "exports/vips"):
        changed = True
    assert not changed


def test_a_change_that_failed_gets_a_second_line(store: FolderStore) -> None:
    audit = Audit(store)
    with (
        pytest.raises(RuntimeError),
        audit.recording(ADA, Action.CANCEL_RUN, "runs/x", after={"a": 1}),
    ):
        raise RuntimeError("about ada@example.com")
    newest, first = audit.newest()
    assert (newest["outcome"], newest["after"], first["after"]) == (
        "failed: RuntimeError",
        None,
        {"a": 1},
    )
    assert "ada@example.com" not in json.dumps([newest, first])


def test_of_writers_at_once_none_is_lost(store: FolderStore) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        with Audit(store).recording(ADA, Action.EDIT_EXPORT, f"exports/{number}"):
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {line["object"] for line in Audit(store).newest()} == {
        f"exports/{number}" for number in range(8)
    }


def test_days_are_read_newest_first_from_any_place(store: FolderStore) -> None:
    for number in range(6):
        with Audit(store, clock=lambda day=number // 2: day * DAY_S).recording(
            ADA, Action.EDIT_EXPORT, f"e/{number}"
        ):
            pass
    lines = list(Audit(store).newest())
    assert [line["object"] for line in lines] == [f"e/{number}" for number in (5, 4, 3, 2, 1, 0)]
    for number, line in enumerate(lines):
        assert list(Audit(store).newest(before=line["place"])) == lines[number + 1 :]
