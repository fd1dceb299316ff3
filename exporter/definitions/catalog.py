"""The store of connections and exports, one document each.

connections/{id}.json    exports/{id}.json
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TypeVar

from exporter.definitions.connection import Connection
from exporter.definitions.definition import ID_PATTERN
from exporter.definitions.export import Export
from exporter.errors import AlreadyThere, Conflict, DocumentUnreadable, EditConflict, StoreMoved
from exporter.storage.protocols import Store, parse_document

logger = logging.getLogger(__name__)


AnyDocument = TypeVar("AnyDocument", Connection, Export)


class Catalog:
    """Reads and writes the documents of a store by kind and id."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def connection(self, connection_id: str) -> Connection | None:
        """Give a connection; None if it does not exist or was removed."""
        return self._read(Connection, connection_id)

    def export(self, export_id: str) -> Export | None:
        """Give an export; None if it does not exist or was removed."""
        return self._read(Export, export_id)

    def find(self, kind: type[AnyDocument], document_id: str) -> tuple[AnyDocument, str] | None:
        """Give a document and the ETag for `replace` and `remove`; None if it does not exist."""
        if not re.fullmatch(ID_PATTERN, document_id):
            return None
        name = _name(kind, document_id)
        found = self._store.read(name)
        if found is None:
            return None
        return parse_document(kind, name, found.data), found.etag

    def is_taken(self, kind: type[Connection] | type[Export], document_id: str) -> bool:
        """Tell whether a document has this id, readable or not."""
        return self._store.read(_name(kind, document_id)) is not None

    def every(self, kind: type[AnyDocument]) -> Iterator[tuple[AnyDocument, str]]:
        """Give every document of a kind with its ETag, by id.

        A document that cannot be read is left out, so that it does not stop the others.
        """
        for name in self._store.names(_name(kind, "").removesuffix(".json")):
            try:
                found = self.find(kind, name.rpartition("/")[2].removesuffix(".json"))
            except DocumentUnreadable as exc:
                logger.error("document left out", extra={"cause": exc.message})
                continue
            if found is not None:
                yield found

    def exports(self) -> Iterator[Export]:
        """Give every export that can be read, by id."""
        return (export for export, _ in self.every(Export))

    def connection_ids(self) -> Iterator[str]:
        """Give the id of every connection, readable or not."""
        return (
            name.removeprefix("connections/").removesuffix(".json")
            for name in self._store.names("connections/")
        )

    def save(self, document: Connection | Export) -> None:
        """Create or replace a document; the last one wins."""
        name = _name(type(document), document.id)
        data = _encode(document)
        current = self._store.read(name)
        if current is None:
            self._store.create(name, data)
        else:
            self._store.replace(name, data, etag=current.etag)

    def create(self, document: Connection | Export) -> str:
        """Write a new document and give its ETag. Raises Conflict if the id is taken."""
        try:
            return self._store.create(_name(type(document), document.id), _encode(document))
        except AlreadyThere:
            raise Conflict(f"{document.id} is taken", hint="Choose another id.") from None

    def replace(self, document: Connection | Export, *, etag: str) -> str:
        """Write over the version that was read and give the new ETag. Raises EditConflict."""
        try:
            return self._store.replace(
                _name(type(document), document.id), _encode(document), etag=etag
            )
        except StoreMoved:
            raise EditConflict(f"{document.name} was changed or removed by somebody else") from None

    def remove(self, kind: type[Connection] | type[Export], document_id: str, *, etag: str) -> None:
        """Remove the version that was read, if it is still there.

        Raises EditConflict if it was changed.
        """
        try:
            self._store.delete(_name(kind, document_id), etag=etag)
        except StoreMoved:
            raise EditConflict(f"{document_id} was changed by somebody else") from None

    def _read(self, kind: type[AnyDocument], document_id: str) -> AnyDocument | None:
        found = self.find(kind, document_id)
        return found[0] if found else None


def _encode(document: Connection | Export) -> bytes:
    return document.model_dump_json(by_alias=True, indent=1).encode()


def _name(kind: type[Connection] | type[Export], document_id: str) -> str:
    return f"{'connections' if kind is Connection else 'exports'}/{document_id}.json"
