"""What connections and exports have in common."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

ID_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Change(Part):
    """Who made or changed a document, when. `by` is a name to show, `by_id` what the directory knows them by."""

    by: str
    by_id: str = ""
    at: datetime


class Definition(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    id: str = Field(pattern=ID_PATTERN)
    created: Change | None = None
    changed: Change | None = None


def is_same_document(document: Definition, at: datetime | None) -> bool:
    """Whether this is the document that was created then, not another that took its id. None: that is not known."""
    return at is None or (document.created is not None and document.created.at == at)
