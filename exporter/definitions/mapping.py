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

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from phonenumbers import SUPPORTED_REGIONS
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from exporter.errors import MappingError
from exporter.names import comparable
from exporter.reading import dialect
from exporter.reading.dialect import Culture

IDENTIFIERS = ("email", "phone_number", "external_id")
ATTRIBUTES = (*IDENTIFIERS, "first_name", "last_name", "organization", "title", "image", "locale")
LOCATION = (
    "address1", "address2", "city", "region", "zip", "country", "latitude", "longitude", "timezone",
)  # fmt: skip
MANY_NAMES, LONGEST_NAME = 50, 100  # of columns, in a sentence: a file may have thousands of them


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
    """The mapping as a person writes it. At least the identifier's column is needed, as in the built-in connector.

    A blank where a column should be named means the same as no key.
    """

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
    phone_region: str | None = None
    newest_by: str | None = None
    culture: str | None = None  # of the dates and numbers in CSV files; else that of model.json

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, document: Any) -> Any:
        return _without_blanks(document)

    @field_validator("location", mode="before")
    @classmethod
    def _location_without_blanks(cls, location: Any) -> Any:
        return _without_blanks(location)

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
        return {
            name: {"column": rule} if isinstance(rule, str) else rule
            for name, rule in properties.items()
        }

    @field_validator("properties")
    @classmethod
    def _sendable_names(
        cls, properties: dict[str, PropertyRule] | Literal["*"]
    ) -> dict[str, PropertyRule] | Literal["*"]:
        for name in properties if isinstance(properties, dict) else ():
            if not name.strip() or name.startswith("$"):
                raise ValueError(
                    f"{name!r}: Klaviyo keeps names that begin with $ for itself; choose another"
                )
            if name != printable(name):
                raise ValueError(f"{name!r} holds a control character")
        return properties

    @field_validator("phone_region")
    @classmethod
    def _known_region(cls, region: str | None) -> str | None:
        if region is not None and region not in SUPPORTED_REGIONS:
            raise ValueError(f"{region!r} is no ISO 3166 code of a country, such as US, GB or DE")
        return region

    @field_validator("culture")
    @classmethod
    def _known_culture(cls, culture: str | None) -> str | None:
        if culture is not None and not dialect.is_culture(culture):
            raise ValueError(f"{culture!r} is no name of a culture, such as en-US, en-GB or de-DE")
        return culture

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
    culture: Culture = dialect.UNKNOWN


def parse_mapping(document: Any) -> MappingDocument:
    """Check a mapping document. Raises MappingError, which names each wrong key."""
    if not isinstance(document, dict):
        raise MappingError(
            f"the mapping is wrong: mapping: {_MESSAGES['dict_type']}",
            hint="Write email: and a column.",
        )
    try:
        return MappingDocument.model_validate(document)
    except ValidationError as exc:
        raise MappingError(
            f"the mapping is wrong: {'; '.join(_problems(exc))}", hint="Correct these keys."
        ) from None


def _problems(error: ValidationError) -> list[str]:
    """A sentence a key. Of the two forms that `properties` may have, "*" is not missed where rules are wrong."""
    found = error.errors(include_input=False, include_url=False)
    rules_are_wrong = any(
        one["loc"][:1] == ("properties",) and len(one["loc"]) > 2 for one in found
    )
    return [
        f"{'.'.join(_keys(one['loc'])) or 'mapping'}: {_MESSAGES.get(one['type'], one['msg'])}".replace(
            _PREFIX, ""
        )
        for one in found
        if not (
            rules_are_wrong and one["type"] == "literal_error" and one["loc"][0] == "properties"
        )
    ]


_PREFIX = "Value error, "  # pydantic's, before our own words
_MESSAGES = {
    "dict_type": "should be names and the columns that fill them",
    "extra_forbidden": "there is no such key",
    "invalid_key": "keys are texts",
    "missing": "is missing",
    "model_type": "should be the name of a column, or {column, type, empty}",
}


def _keys(loc: tuple[int | str, ...]) -> Iterator[str]:
    """The keys on the way to the error, without pydantic's own words for the forms of `properties`."""
    for depth, part in enumerate(loc):
        if part != "[key]" and not (depth == 1 and loc[0] == "properties"):
            yield str(part)


def resolve(
    mapping: MappingDocument,
    columns: Sequence[str],
    *,
    may_show: bool = True,
    culture: str | None = None,
) -> ResolvedMapping:
    """Find the mapping's columns in a snapshot: by exact name, else without regard to case and the number of blanks.

    culture: of the snapshot's dates and numbers.
    Raises MappingError, which names the missing columns and those that are there; the latter only if they `may_show`,
    since what was merely taken for a header may be a row.
    """
    positions = _Positions(columns)
    fields = [*_attributes(mapping, positions), *_location(mapping, positions)]
    fields += _properties(mapping, positions, used={field.column for field in fields})
    newest_by = positions.find(mapping.newest_by) if mapping.newest_by else None
    if positions.missing:
        raise MappingError(
            f"the snapshot has no column {_listed(positions.missing)}",
            hint=f"Correct the export's mapping; the columns are {_listed(columns)}."
            if may_show
            else "Correct the export's mapping. What the first line holds shows: python -m exporter suggest FILE",
        )
    return ResolvedMapping(
        fields=tuple(fields),
        identifier=mapping.identified_by,
        phone_region=mapping.phone_region,
        newest_by=newest_by,
        culture=dialect.culture_of(culture),
    )


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence that a person reads: the first of many, each cut."""
    shown = [
        repr(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…")
        for name in names[:MANY_NAMES]
    ]
    more = f" and {len(names) - MANY_NAMES:,} more" if len(names) > MANY_NAMES else ""
    return ", ".join(shown) + more


class _Positions:
    """Finds columns and remembers the ones that are not there."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self.missing: list[str] = []

    def find(self, name: str) -> int:
        for key in (str, comparable):
            for position, column in enumerate(self.columns):
                if key(column) == key(name):
                    return position
        if name not in self.missing:
            self.missing.append(name)
        return -1


def _attributes(mapping: MappingDocument, positions: _Positions) -> Iterator[MappedField]:
    """The identifier first: it is what no profile lacks."""
    for name in sorted(ATTRIBUTES, key=lambda name: name != mapping.identified_by):
        if column := getattr(mapping, name):
            yield MappedField(group="", name=name, column=positions.find(column))


def _location(mapping: MappingDocument, positions: _Positions) -> Iterator[MappedField]:
    for name, column in mapping.location.items():
        yield MappedField(group="location", name=name, column=positions.find(column))


def _properties(
    mapping: MappingDocument, positions: _Positions, *, used: set[int]
) -> Iterator[MappedField]:
    if mapping.properties == "*":
        others = [position for position in range(len(positions.columns)) if position not in used]
        for position, name in zip(others, _property_names(positions.columns, others), strict=True):
            yield MappedField(group="properties", name=name, column=position)
        return
    for name, rule in mapping.properties.items():
        position = positions.find(rule.column)
        yield MappedField(
            group="properties", name=name, column=position, type=rule.type, empty=rule.empty
        )


def _property_names(columns: Sequence[str], chosen: Sequence[int]) -> list[str]:
    """What columns are called as custom properties: without leading $, never empty, each different."""
    names: list[str] = []
    for position in chosen:
        name = printable(columns[position]).strip().lstrip("$").strip() or f"column_{position + 1}"
        unique, number = name, 2
        while unique in names:
            unique, number = f"{name}_{number}", number + 1
        names.append(unique)
    return names


def printable(name: str) -> str:
    """The name without control characters and halves of characters."""
    return "".join(one for one in name if unicodedata.category(one) not in ("Cc", "Cs"))


def _without_blanks(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {
        key: value for key, value in document.items() if not isinstance(value, str) or value.strip()
    }
