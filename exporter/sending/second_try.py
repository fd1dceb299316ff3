"""Which attributes to leave out of a profile that Klaviyo refused, before it is sent once more.

A refusal is about what it is about: a telephone number that belongs to somebody else, or that
Klaviyo does not take, keeps nobody out of the list. The profile is sent once more without it.

    an attribute is named, and does not tell the profiles apart    that attribute
    the row only, or nothing is named                              the identifiers of the words,
                                                                   else all secondary ones

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.definitions.mapped_fields import MappedField

_MENTIONS = {
    "email": re.compile(r"e-?mail", re.IGNORECASE),
    "phone_number": re.compile(r"phone", re.IGNORECASE),
    "external_id": re.compile(r"external[ _-]?id", re.IGNORECASE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What Klaviyo said about one profile.

    attribute: its path, "" for the whole profile. is_duplicate: identifiers of the profile belong
    to different profiles.
    """

    attribute: str
    words: str
    is_duplicate: bool = False

    def told(self) -> str:
        """Write it for a list of rows."""
        return f"{self.attribute}: {self.words}" if self.attribute else self.words


def suspected(fields: Sequence[MappedField], complaint: Complaint) -> tuple[str, ...]:
    """Return the paths of the attributes that the complaint may be about.

    fields: of the plan, of which the first identifies. It is never left out.
    """
    identifier, *others = (one for field in fields for one in field.unbundled())
    named = [field.path for field in others if field.path == complaint.attribute]
    if named:
        return tuple(named)
    secondary = tuple(field.path for field in others if field.identifies)
    if complaint.is_duplicate and complaint.attribute in ("", identifier.path):
        return secondary
    if complaint.attribute:
        return ()
    mentioned = tuple(path for path in secondary if _MENTIONS[path].search(complaint.words))
    is_about_identifier = bool(_MENTIONS[identifier.path].search(complaint.words))
    return mentioned or (() if is_about_identifier else secondary)
