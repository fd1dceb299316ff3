"""The journal of a run: events appended to a log blob, each write fenced by the log's length.

Whoever holds a stale view (an instance that lost its lease and has not noticed) fails to append, because the log is
longer than it thinks.

An append blob takes 50,000 appends. A run makes one a batch, one a refusal (which have a budget), and one a job with
failures: enough for a hundred million profiles and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.errors import DocumentUnreadable, LeaseHeld, StoreMoved
from exporter.sending.delivery import Delivery, Event, decode_events, encode_events
from exporter.storage.protocols import MAX_APPEND_BYTES, Store, complete_lines


class Journal:
    """One run's journal, open for appending; `delivery` is what it says so far. Raises DocumentUnreadable."""

    def __init__(self, store: Store, name: str) -> None:
        """name: the log's name in the store. Raises DocumentUnreadable."""
        self._store, self._name = store, name
        found = store.read(self._name)
        whole = complete_lines(found.data) if found else b""
        self.length = len(whole)
        try:
            self.delivery = Delivery.replay(decode_events(whole))
        except ValueError:  # pydantic's too, which quotes
            raise DocumentUnreadable(f"{self._name} cannot be read") from None

    def append(self, events: Sequence[Event]) -> None:
        """Record events, then take them in. Raises LeaseHeld when another instance wrote in the meantime."""
        for part in _parts(events):
            try:
                self.length = self._store.append(self._name, encode_events(part), at=self.length)
            except StoreMoved as exc:
                raise LeaseHeld(
                    "another instance is writing this run's journal", retry_after_s=5
                ) from exc
            for event in part:
                self.delivery.apply(event)


def _parts(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Events in groups that one append can take. Several batches refused row by row are more than that."""
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
