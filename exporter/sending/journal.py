"""The journal of a run: events appended to a log blob, each write fenced by the log's length.

An instance with a stale view (it lost its lease and has not noticed) fails to append, because the
log is longer than it thinks.

An append blob takes 50,000 appends. A run makes one for each batch, for each refusal (these are
limited) and for each job with failures: enough for more than a hundred million profiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.errors import DocumentUnreadable, LeaseHeld, StoreMoved
from exporter.sending.delivery import Delivery, Event, decode_events, encode_events
from exporter.storage.protocols import MAX_APPEND_BYTES, Store, complete_lines


class Journal:
    """One run's journal, open for appending; `delivery` is what it says so far."""

    def __init__(self, store: Store, folder: str) -> None:
        """Read the journal in a run's folder. Raises DocumentUnreadable for a damaged one."""
        self._store = store
        self._name = folder + "journal.jsonl"
        found = store.read(self._name)
        whole = complete_lines(found.data) if found else b""
        self.length = len(whole)
        try:
            self.delivery = Delivery.replay(decode_events(whole))
        except ValueError:  # pydantic's too, whose text quotes the document
            raise DocumentUnreadable(f"{self._name} cannot be read") from None

    def append(self, events: Sequence[Event]) -> None:
        """Record events, then take them in. Raises LeaseHeld if another instance wrote since."""
        for part in _parts(events):
            try:
                self.length = self._store.append(self._name, encode_events(part), at=self.length)
            except StoreMoved as exc:
                sentence = "another instance is writing this run's journal"
                raise LeaseHeld(sentence, retry_after_s=5) from exc
            for event in part:
                self.delivery.apply(event)


def _parts(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Split events into groups that one append can take: batches refused row by row are large."""
    part: list[Event] = []
    size = 0
    for event in events:
        length = len(encode_events([event]))
        if part and size + length > MAX_APPEND_BYTES:
            yield part
            part, size = [], 0
        part.append(event)
        size += length
    if part:
        yield part
