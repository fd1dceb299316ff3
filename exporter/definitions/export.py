"""An export: what to send where, and when."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from exporter.definitions.definition import ID_PATTERN, Definition
from exporter.definitions.mapping import MappingDocument
from exporter.definitions.schedule import Schedule

LIST_ID_PATTERN = r"^[A-Za-z0-9]{1,64}$"  # Klaviyo's are 6 letters and digits; treated as opaque


def each_named_once(segments: list[str]) -> list[str]:
    """Check that no segment is blank or repeated. Raises ValueError."""
    if len({segment.casefold() for segment in segments}) < len(segments) or not all(segments):
        raise ValueError("segments must be named, each once")
    return segments


Segments = Annotated[list[str], Field(min_length=1), AfterValidator(each_named_once)]


class Export(Definition):
    """What to send where: segments of a storage container to one list of a connection."""

    name: str
    connection: str | None = Field(pattern=ID_PATTERN)  # None: detached, so it does not run
    list_id: str = Field(pattern=LIST_ID_PATTERN)
    list_name: str = ""  # as Klaviyo had it when the export was saved
    segments: Segments
    mapping: MappingDocument
    schedule: Schedule = Schedule()
    paused: bool = False
    max_profiles: int | None = Field(default=None, ge=1)  # a plan with more is not sent
    keep_rejected_rows: bool = False  # whole, in rejected.csv: personal data
    reconcile: bool = False  # ask Klaviyo for the list's members at the end and compare

    @property
    def is_active(self) -> bool:
        """Whether a schedule, an arrival or a person may start it."""
        return not self.paused and self.connection is not None
