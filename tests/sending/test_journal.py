"""The journal: what was recorded counts, and only who saw all of it may go on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import LeaseHeld
from exporter.sending.delivery import BatchAccepted, JobEnded, RowsRefused, encode_events, grouped
from exporter.sending.journal import Journal
from exporter.storage.local_folder import FolderStore
from exporter.storage.protocols import MAX_APPEND_BYTES

RUN = "runs/vips/1/"
FILE = RUN + "journal.jsonl"
NOW = datetime(2026, 9, 21, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def _accepted(number: int) -> BatchAccepted:
    return BatchAccepted(batch=number, first=0, last=10, job=f"j{number}", at=NOW)


def test_what_was_appended_is_found_again(store: FolderStore) -> None:
    journal = Journal(store, RUN)
    journal.append([_accepted(1), _accepted(2)])
    journal.append([JobEnded(job="j1", completed=10)])
    assert Journal(store, RUN).delivery == journal.delivery
    assert journal.delivery.open_jobs() == ["j2"]
    found = store.read(FILE)
    assert found is not None
    assert journal.length == len(found.data) == Journal(store, RUN).length


def test_nothing_appended_is_nothing_written(store: FolderStore) -> None:
    Journal(store, RUN).append([])
    assert store.read(FILE) is None


def test_who_has_not_seen_the_latest_may_not_write(store: FolderStore) -> None:
    slow, quick = Journal(store, RUN), Journal(store, RUN)
    quick.append([_accepted(1)])
    with pytest.raises(LeaseHeld):
        slow.append([_accepted(2)])
    assert slow.delivery.jobs == {}
    assert list(Journal(store, RUN).delivery.jobs) == ["j1"]


def test_an_append_whose_answer_was_lost_can_be_repeated(store: FolderStore) -> None:
    journal, twin = Journal(store, RUN), Journal(store, RUN)
    journal.append([_accepted(1)])
    twin.append([_accepted(1)])
    assert twin.length == journal.length


@given(cut=st.integers(0, 400))
def test_a_line_that_was_cut_off_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    store = FolderStore(tmp_path_factory.mktemp("state"))
    text = encode_events([_accepted(1), _accepted(2), _accepted(3)])
    lines = text[:cut].count(b"\n")
    path = Path(store._root) / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(text[:cut])
    journal = Journal(store, RUN)
    assert len(journal.delivery.jobs) == lines
    journal.append([_accepted(9)])
    assert list(Journal(store, RUN).delivery.jobs) == [
        *(f"j{n}" for n in range(1, lines + 1)),
        "j9",
    ]


def test_more_than_one_append_can_take_is_written_in_parts(store: FolderStore) -> None:
    events = [
        RowsRefused(batch=n, said=grouped([(at, f"{at}" + "x" * 200) for at in range(1_000)]))
        for n in range(20)
    ]
    assert len(encode_events(events)) > MAX_APPEND_BYTES
    journal = Journal(store, RUN)
    journal.append(events)
    assert (
        Journal(store, RUN).delivery.refused_profiles()
        == 20_000
        == journal.delivery.refused_profiles()
    )
