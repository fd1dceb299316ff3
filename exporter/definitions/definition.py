"""What the documents of connections and exports have in common."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

ID_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"


class DocumentPart(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Change(DocumentPart):
    """Who made or changed a document, when. `by` is a name to show, `by_id` the directory's id."""

    by: str
    by_id: str = ""
    at: datetime


class Definition(BaseModel):
    """A document that people set up: its id, and who made and last changed it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    id: str = Field(pattern=ID_PATTERN)
    created: Change | None = None
    changed: Change | None = None


def is_same_document(document: Definition, at: datetime | None) -> bool:
    """Tell whether this is the document created then, not another that took its id.

    at: None when the time is not known.
    """
    return at is None or (document.created is not None and document.created.at == at)
