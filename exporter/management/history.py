"""In what order the runs of an export were created.

    history/{export}.json     when each of the export's runs was created, by its name

The name of a run tells its snapshot's minute, which says little about when it was created.
Creation times never change, so they are kept here: a list of runs reads only the documents that it
shows, and those of runs that no list has seen before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from exporter.errors import ExporterError
from exporter.runs.run import RUN_ID, RunName, run_folder
from exporter.runs.run_store import RunStore
from exporter.storage.protocols import Document, Store

logger = logging.getLogger(__name__)

MOST_READ = 200  # documents of runs for one list; the next list reads on
LONG_AGO = datetime.min.replace(tzinfo=UTC)


class History(BaseModel):
    """The document."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    created: dict[str, AwareDatetime] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The place of a run among the runs of its export; later runs are greater."""

    created_at: datetime
    name: str

    def __str__(self) -> str:
        return f"{self.created_at.astimezone(UTC):%Y%m%dT%H%M%S%f}~{self.name}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what str() wrote. Raises ValueError."""
        moment, _, name = text.partition("~")
        created_at = datetime.strptime(moment, "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
        place = cls(created_at, name)
        if str(place) != text or not RUN_ID.fullmatch(f"x/{name}"):
            raise ValueError("not the place of a run")
        return place


def newest_first(
    store: Store, runs: RunStore, export_id: str, *, most_read: int = MOST_READ
) -> list[Place]:
    """List the runs of an export, the one that was created last first.

    A damaged run, and those that are too many to be read for one list, count as created at their
    snapshot's time.
    """
    if not RUN_ID.fullmatch(f"{export_id}/x"):
        return []
    names = list(store.folders(run_folder(export_id)))
    document = store.read(_name(export_id))
    known = _parse(document)
    created = {name: known[name] for name in names if name in known}
    unseen = sorted((name for name in names if name not in known), key=_snapshot_time, reverse=True)
    for name in unseen[:most_read]:
        if run := runs.readable(f"{export_id}/{name}"):
            created[name] = run.created_at
    if created != known:
        _keep(store, export_id, created, document)
    places = [Place(created.get(name) or _snapshot_time(name), name) for name in names]
    return sorted(places, reverse=True)


def _snapshot_time(name: str) -> datetime:
    found = RunName.parse(name)
    return found.at if found else LONG_AGO


def _keep(
    store: Store, export_id: str, created: dict[str, datetime], document: Document | None
) -> None:
    """Keep creation times for the next list. If that fails, the next list reads them again."""
    name, data = _name(export_id), History(created=created).model_dump_json(by_alias=True).encode()
    try:
        if document is None:
            store.create(name, data)
        elif created:
            store.replace(name, data, etag=document.etag)
        else:
            store.delete(name, etag=document.etag)
    except ExporterError as exc:
        logger.info("history not kept", extra={"cause": type(exc).__name__})


def _parse(document: Document | None) -> dict[str, datetime]:
    """Read creation times. A document that cannot be read counts as empty and is written anew."""
    try:
        return History.model_validate_json(document.data).created if document else {}
    except ValidationError:
        return {}


def _name(export_id: str) -> str:
    return f"history/{export_id}.json"
