"""Which source column becomes which Klaviyo attribute, and what an empty cell means.

The same document stands in an export and in `--mapping FILE.yaml`:

    email: EMail
    first_name: FirstName
    location: {city: City, country: Country}
    properties:
      tier: LoyaltyTier
      value: {column: LifetimeValue, type: number, empty: clear}

or `properties: "*"` for every other column. Source of the attributes: Klaviyo's OpenAPI file, revision 2026-07-15,
schema of the bulk import's profiles. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from exporter.errors import MappingError

IDENTIFIERS = ("email", "phone_number", "external_id")
ATTRIBUTES = (*IDENTIFIERS, "first_name", "last_name", "organization", "title", "image", "locale")
LOCATION = (
    "address1", "address2", "city", "region", "zip", "country", "latitude", "longitude", "timezone",
)  # fmt: skip


class ValueType(StrEnum):
    """What a custom property's cells are read as; everything else is sent as text."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"  # sent as ISO 8601
    LIST = "list"  # split on ";", as Customer Insights joins ids


class Empty(StrEnum):
    """What an empty cell means: leave the profile's value alone, or remove it."""

    IGNORE = "ignore"
    CLEAR = "clear"


class PropertyRule(BaseModel):
    """How one custom property is filled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(min_length=1)
    type: ValueType = ValueType.STRING
    empty: Empty = Empty.IGNORE


class MappingDocument(BaseModel):
    """The mapping as a person writes it. At least the identifier's column is needed, as in the built-in connector."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: str | None = None
    phone_number: str | None = None
    external_id: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    organization: str | None = None
    title: str | None = None
    image: str | None = None
    locale: str | None = None
    location: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, PropertyRule] | Literal["*"] = Field(default_factory=dict)
    identifier: Literal["email", "phone_number", "external_id"] | None = None
    phone_region: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    newest_by: str | None = None

    @field_validator("location")
    @classmethod
    def _known_location(cls, location: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(location) - set(LOCATION)):
            raise ValueError(f"unknown: {', '.join(unknown)}; Klaviyo has {', '.join(LOCATION)}")
        return location

    @field_validator("properties", mode="before")
    @classmethod
    def _short_rules(cls, properties: Any) -> Any:
        if not isinstance(properties, dict):
            return properties
        return {name: {"column": rule} if isinstance(rule, str) else rule for name, rule in properties.items()}

    @field_validator("properties")
    @classmethod
    def _sendable_names(
        cls, properties: dict[str, PropertyRule] | Literal["*"]
    ) -> dict[str, PropertyRule] | Literal["*"]:
        for name in properties if isinstance(properties, dict) else ():
            if not name or name.startswith("$"):
                raise ValueError(f"{name!r}: Klaviyo keeps names that begin with $ for itself; choose another")
        return properties

    @model_validator(mode="after")
    def _has_identifier(self) -> Self:
        if self.identifier and not getattr(self, self.identifier):
            raise ValueError(f"identifier is {self.identifier}, but no column is mapped to it")
        if not any(getattr(self, name) for name in IDENTIFIERS):
            raise ValueError("map a column to email (or phone_number or external_id)")
        return self

    @property
    def identified_by(self) -> str:
        """The attribute that tells profiles apart: as chosen, else the first that is mapped."""
        return self.identifier or next(name for name in IDENTIFIERS if getattr(self, name))

    def named_columns(self) -> tuple[str, ...]:
        """Every source column that the mapping names, once."""
        columns = [value for name in ATTRIBUTES if (value := getattr(self, name))]
        columns += self.location.values()
        if isinstance(self.properties, dict):
            columns += (rule.column for rule in self.properties.values())
        return tuple(dict.fromkeys([*columns, *([self.newest_by] if self.newest_by else [])]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedField:
    """One Klaviyo attribute and the source column (by position) that fills it.

    group: "" for a profile attribute, else "location" or "properties".
    """

    group: Literal["", "location", "properties"]
    name: str
    column: int
    type: ValueType = ValueType.STRING
    empty: Empty = Empty.IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedMapping:
    """A mapping against the columns of one snapshot."""

    fields: tuple[MappedField, ...]
    identifier: str
    phone_region: str | None = None
    newest_by: int | None = None


def parse_mapping(document: Any) -> MappingDocument:
    """Check a mapping document. Raises MappingError, which names each wrong key."""
    try:
        return MappingDocument.model_validate(document)
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'mapping'}: {error['msg']}"
            for error in exc.errors(include_input=False, include_url=False)
        )
        raise MappingError(f"the mapping is wrong: {problems}", hint="Correct these keys.") from None


def resolve(mapping: MappingDocument, columns: Sequence[str]) -> ResolvedMapping:
    """Find the mapping's columns in a snapshot: by exact name, else without regard to case and outer blanks.

    Raises MappingError, which names the missing columns and those that are there.
    """
    positions = _Positions(columns)
    fields = [*_attributes(mapping, positions), *_location(mapping, positions)]
    fields += _properties(mapping, positions, used={field.column for field in fields})
    newest_by = positions.find(mapping.newest_by) if mapping.newest_by else None
    if positions.missing:
        raise MappingError(
            f"the snapshot has no column {', '.join(map(repr, positions.missing))}",
            hint=f"Correct the export's mapping; the columns are {', '.join(map(repr, columns))}.",
        )
    return ResolvedMapping(
        fields=tuple(fields),
        identifier=mapping.identified_by,
        phone_region=mapping.phone_region,
        newest_by=newest_by,
    )


class _Positions:
    """Finds columns and remembers the ones that are not there."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self.missing: list[str] = []

    def find(self, name: str) -> int:
        for key in (str, lambda text: text.strip().casefold()):
            for position, column in enumerate(self.columns):
                if key(column) == key(name):
                    return position
        if name not in self.missing:
            self.missing.append(name)
        return -1


def _attributes(mapping: MappingDocument, positions: _Positions) -> Iterator[MappedField]:
    for name in ATTRIBUTES:
        if column := getattr(mapping, name):
            yield MappedField(group="", name=name, column=positions.find(column))


def _location(mapping: MappingDocument, positions: _Positions) -> Iterator[MappedField]:
    for name, column in mapping.location.items():
        yield MappedField(group="location", name=name, column=positions.find(column))


def _properties(mapping: MappingDocument, positions: _Positions, *, used: set[int]) -> Iterator[MappedField]:
    if mapping.properties == "*":
        for position, column in enumerate(positions.columns):
            if position not in used and column.strip():
                yield MappedField(group="properties", name=column.lstrip("$"), column=position)
        return
    for name, rule in mapping.properties.items():
        position = positions.find(rule.column)
        yield MappedField(group="properties", name=name, column=position, type=rule.type, empty=rule.empty)


# A first mapping for a snapshot that nobody described yet. A person looks at it before it is used.
_USUAL_NAMES: tuple[tuple[str, str], ...] = (
    ("email", r"e?mail(address)?1?|primaryemail"),
    ("phone_number", r"(tele)?phone(number)?1?|mobile(phone)?1?|primaryphone"),
    ("first_name", r"first_?name|given_?name"),
    ("last_name", r"last_?name|surname|family_?name"),
    ("organization", r"company(name)?|organi[sz]ation"),
    ("title", r"job_?title"),
    ("image", r"(profile)?image(url)?"),
    ("locale", r"locale|language(code)?"),
    ("location.address1", r"(address1_)?(line1|street(address)?)|address_?1"),
    ("location.address2", r"(address1_)?line2|address_?2"),
    ("location.city", r"(address1_)?city"),
    ("location.region", r"(address1_)?(stateorprovince|state|region|county)"),
    ("location.zip", r"(address1_)?(postal_?code|post_?code|zip(code)?)"),
    ("location.country", r"(address1_)?country(orregion)?"),
    ("location.latitude", r"(address1_)?latitude"),
    ("location.longitude", r"(address1_)?longitude"),
    ("location.timezone", r"time_?zone"),
    ("properties.birthday", r"birth_?(date|day)|date_?of_?birth"),
)


def suggest(columns: Iterable[str]) -> dict[str, Any]:
    """Propose a mapping document from column names as Customer Insights and Dataverse use them."""
    suggestion: dict[str, Any] = {}
    left = list(columns)
    for target, pattern in _USUAL_NAMES:
        column = next((name for name in left if re.fullmatch(pattern, name.strip(), re.IGNORECASE)), None)
        if column is not None:
            left.remove(column)
            _place(suggestion, target, column)
    return suggestion


def _place(suggestion: dict[str, Any], target: str, column: str) -> None:
    group, _, name = target.rpartition(".")
    value: Any = {"column": column, "type": "date"} if group == "properties" else column
    (suggestion.setdefault(group, {}) if group else suggestion)[name] = value
