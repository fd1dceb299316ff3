"""What a person gives to set up a connection or an export, in API, command line and files. Pure."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from exporter.definitions.connection import VAULT_NAME_PATTERN
from exporter.definitions.definition import ID_PATTERN
from exporter.definitions.export import LIST_ID_PATTERN, each_named_once
from exporter.definitions.mapping import MappingDocument
from exporter.definitions.schedule import TIME_PATTERN, Schedule
from exporter.errors import Invalid, Problem, plain_words

MAX_SEGMENT = 500  # a destination and a table; each is one name in a path


def _printable(text: str) -> str:
    if any(unicodedata.category(one) in ("Cc", "Cs") for one in text):
        raise ValueError("must not hold control characters")
    return text


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=120),
    AfterValidator(_printable),
]
Segment = Annotated[str, StringConstraints(max_length=MAX_SEGMENT), AfterValidator(_printable)]
Id = Annotated[str, Field(pattern=ID_PATTERN)]
Key = Annotated[SecretStr, Field(min_length=1, max_length=512)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ConnectionForm(_Form):
    """A connection's settings.

    secret: the name of a secret that is already in the vault; None leaves it as it is.
    """

    name: Name
    type: Literal["klaviyo"] = "klaviyo"
    used_by: Literal["administrators", "contributors"] = "administrators"
    secret: Annotated[str, Field(pattern=VAULT_NAME_PATTERN)] | None = None


class NewConnectionForm(ConnectionForm):
    """A new connection, with either the key, which goes to the vault, or a secret's name there."""

    id: Id | None = None  # None: made from the name
    key: Key | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.key is None) == (self.secret is None):
            raise ValueError(
                "give either key, the Klaviyo key itself, or secret, a secret's name in the vault"
            )
        return self


class KeyForm(_Form):
    """A new key for a connection."""

    key: Key


class ConsentForm(_Form):
    """Agreement to one version of the text in consent.py."""

    version: str


class PersonForm(_Form):
    """A person to be looked for, by an address, telephone number or external id."""

    identifier: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)
    ]


class ListForm(_Form):
    """A new list in Klaviyo."""

    name: Name


class ExportForm(_Form):
    """An export's settings."""

    name: Name
    connection: Id | None  # None: detached
    list_id: Annotated[str, Field(pattern=LIST_ID_PATTERN)]
    segments: Annotated[
        list[Segment], Field(min_length=1, max_length=50), AfterValidator(each_named_once)
    ]
    mapping: MappingDocument
    schedule: Schedule = Schedule()
    max_profiles: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    keep_rejected_rows: bool = False
    reconcile: bool = False


class NewExportForm(ExportForm):
    """A new export. Creating it does not run it."""

    id: Id | None = None  # None: made from the name
    paused: bool = False


AnyForm = TypeVar("AnyForm", bound=_Form)


def parse(form: type[AnyForm], document: Any) -> AnyForm:
    """Check what a person gave. Raises Invalid, which names each wrong field and what is wanted."""
    try:
        return form.model_validate(document)
    except ValidationError as exc:
        raise Invalid(*(_guessed(each, form) for each in invalid(exc).problems)) from None


def _guessed(problem: Problem, form: type[BaseModel]) -> Problem:
    """Add the field that a person may have meant to one that there is not."""
    if problem.message != _MESSAGES["extra_forbidden"]:
        return problem
    known = [*form.model_fields, *Schedule.model_fields]
    near = difflib.get_close_matches(problem.field.rpartition(".")[2].lower(), known, n=1)
    return (
        Problem(problem.field, f"{problem.message}. Did you mean {near[0]}?") if near else problem
    )


def invalid(error: ValidationError) -> Invalid:
    """Say what pydantic found in our words, without the given values: one may be a key."""
    return Invalid(
        *problems(error.errors(include_input=False, include_url=False, include_context=False))
    )


def problems(found: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Make one problem for each field in which pydantic found one."""
    messages = {_field(one["loc"]): _message(one["type"], str(one["msg"])) for one in found}
    return [Problem(field, message) for field, message in messages.items()]


def _field(loc: Sequence[int | str]) -> str:
    """Name the path of a field. An unknown name is shown, unless it looks like a misplaced key."""
    parts = (re.sub(r"[^\w$*-]", "", str(part)) for part in loc if part != "[key]")
    return ".".join("key" if part.startswith("pk_") else part for part in parts)[:100] or "document"


def _message(kind: str, said: str) -> str:
    if words := next((words for pattern, words in _PATTERNS.items() if pattern in said), ""):
        return words
    return _MESSAGES.get(kind) or plain_words(said)


# What people should give where a pattern does not match.
_PATTERNS = {
    ID_PATTERN: "should be at most 64 small letters, digits and hyphens",
    LIST_ID_PATTERN: "should be a list ID as Klaviyo shows it: letters and digits",
    VAULT_NAME_PATTERN: "should be a secret's name: letters, digits and hyphens",
    TIME_PATTERN: "should be a time of day such as 06:00 or 18:30",
}
_MESSAGES = {
    "too_short": "needs at least one",
    "extra_forbidden": "there is no such field",
    "missing": "is missing",
    "json_invalid": "is not JSON",
    "model_type": "should be an object",
    "dict_type": "should be an object",
}
