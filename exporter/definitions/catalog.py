"""Connections and exports: what an administrator and a marketer set up, kept as documents in the store.

connections/{id}.json    exports/{id}.json
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from exporter.definitions.mapping import MappingDocument
from exporter.definitions.schedule import Schedule as Schedule
from exporter.errors import AlreadyThere, Conflict, DocumentUnreadable, EditConflict, StoreMoved
from exporter.storage.protocols import Store, parse_document

logger = logging.getLogger(__name__)

ID_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"
LIST_ID_PATTERN = r"^[A-Za-z0-9]{1,64}$"  # Klaviyo's are 6 letters and digits; treated as opaque
VAULT_NAME_PATTERN = r"^[0-9a-zA-Z-]{1,127}$"  # of a secret: Key Vault's own rule


def distinct(segments: list[str]) -> list[str]:
    if len({segment.casefold() for segment in segments}) < len(segments) or not all(segments):
        raise ValueError("segments must be named, each once")
    return segments


Segments = Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    id: str = Field(pattern=ID_PATTERN)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Consent(_Part):
    """Who agreed, when, that data leaves for Klaviyo. `version` is that of the text in consent.py."""

    by: str
    by_id: str = ""
    at: datetime
    version: str = ""


class Change(_Part):
    """Who made or changed a document, when. `by` is a name to show, `by_id` what the directory knows them by."""

    by: str
    by_id: str = ""
    at: datetime


class Check(_Part):
    """What came of trying a connection's key. Scopes: may, may not, or None where that could not be found out."""

    at: datetime
    ok: bool
    account_id: str = ""
    account_name: str = ""
    scopes: dict[str, bool | None] = Field(default_factory=dict)
    clock_skew_s: float | None = None  # our clock less Klaviyo's
    revision: str = ""
    message: str = ""
    hint: str = ""


class Connection(_Document):
    """A Klaviyo account that we may send to. `secret` names its key in Key Vault; nothing is sent without consent."""

    name: str
    type: Literal["klaviyo"] = "klaviyo"
    used_by: Literal["administrators", "contributors"] = "administrators"
    secret: str = Field(pattern=VAULT_NAME_PATTERN)
    consent: Consent | None = None
    check: Check | None = None  # the last one
    created: Change | None = None
    changed: Change | None = None


class Export(_Document):
    """What to send where: segments of a storage container to one list of a connection. Detached, it does not run."""

    name: str
    connection: str | None = Field(pattern=ID_PATTERN)  # None: detached
    list_id: str = Field(pattern=LIST_ID_PATTERN)
    list_name: str = ""  # as Klaviyo had it when the export was saved
    segments: Segments
    mapping: MappingDocument
    schedule: Schedule = Schedule()
    paused: bool = False
    max_profiles: int | None = Field(default=None, ge=1)  # a plan with more is not sent
    keep_rejected_rows: bool = False  # in rejected.csv, beside what identifies them: personal data
    reconcile: bool = False  # ask Klaviyo for the list's members at the end and compare
    created: Change | None = None
    changed: Change | None = None

    @property
    def is_active(self) -> bool:
        """Whether anything may start it."""
        return not self.paused and self.connection is not None


def is_born(document: Connection | Export, at: datetime | None) -> bool:
    """Whether this is the document that was created then, not another that took its id. None: that is not known."""
    return at is None or (document.created is not None and document.created.at == at)


AnyDocument = TypeVar("AnyDocument", Connection, Export)


class Catalog:
    """The documents of a store, by kind and id."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def connection(self, connection_id: str) -> Connection | None:
        """None when there is no such connection (any more)."""
        return self._read(Connection, connection_id)

    def export(self, export_id: str) -> Export | None:
        """None when there is no such export (any more)."""
        return self._read(Export, export_id)

    def find(self, kind: type[AnyDocument], document_id: str) -> tuple[AnyDocument, str] | None:
        """A document and the ETag that `replace` and `remove` take; None when there is none."""
        if not re.fullmatch(ID_PATTERN, document_id):
            return None
        name = _name(kind, document_id)
        found = self._store.read(name)
        if found is None:
            return None
        return parse_document(kind, name, found.data), found.etag

    def is_taken(self, kind: type[Connection] | type[Export], document_id: str) -> bool:
        """Whether there is a document of this id, readable or not."""
        return self._store.read(_name(kind, document_id)) is not None

    def every(self, kind: type[AnyDocument]) -> Iterator[tuple[AnyDocument, str]]:
        """Every document of a kind with its ETag, by id. One that cannot be read is left out: others must not wait."""
        for name in self._store.names(_name(kind, "").removesuffix(".json")):
            try:
                found = self.find(kind, name.rpartition("/")[2].removesuffix(".json"))
            except DocumentUnreadable as exc:
                logger.error("document left out", extra={"cause": exc.message})  # noqa: TRY400 - the message says it all
                continue
            if found is not None:
                yield found

    def exports(self) -> Iterator[Export]:
        """Every export that can be read, by id."""
        return (export for export, _ in self.every(Export))

    def connection_ids(self) -> Iterator[str]:
        """The id of every connection, also of those that cannot be read."""
        return (name.removeprefix("connections/").removesuffix(".json") for name in self._store.names("connections/"))

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
        """Write a document that must not exist; its ETag. Raises Conflict."""
        try:
            return self._store.create(_name(type(document), document.id), _encode(document))
        except AlreadyThere:
            raise Conflict(f"{document.id} is taken", hint="Choose another id.") from None

    def replace(self, document: Connection | Export, *, etag: str) -> str:
        """Write over the version that was read; the new ETag. Raises EditConflict."""
        try:
            return self._store.replace(_name(type(document), document.id), _encode(document), etag=etag)
        except StoreMoved:
            raise EditConflict(f"{document.name} was changed or removed by somebody else") from None

    def remove(self, kind: type[Connection] | type[Export], document_id: str, *, etag: str) -> None:
        """Remove the version that was read; one that is not there is fine. Raises EditConflict if it changed."""
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
