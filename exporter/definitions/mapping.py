"""Which source column becomes which Klaviyo attribute, and what an empty cell means.

The same document stands in an export and in `--mapping FILE.yaml`:

    email: EMail
    first_name: FirstName
    location: {city: City, country: Country}
    properties:
      tier: LoyaltyTier
      value: {column: LifetimeValue, type: number, empty: clear}

or `properties: "*"` for every other column. `mapped_fields` finds the columns in a snapshot.
Source of the attributes: Klaviyo's OpenAPI file, revision 2026-07-15, schema of the bulk import's
profiles. Pure.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal, Self

from phonenumbers import SUPPORTED_REGIONS
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from exporter.errors import MappingError, plain_words
from exporter.reading.dialect import is_culture
from exporter.reading.text_encoding import is_encoding

IDENTIFIERS = ("email", "phone_number", "external_id")
ATTRIBUTES = (*IDENTIFIERS, "first_name", "last_name", "organization", "title", "image", "locale")
LOCATION = (
    "address1",
    "address2",
    "city",
    "region",
    "zip",
    "country",
    "latitude",
    "longitude",
    "timezone",
)


class ValueType(StrEnum):
    """How a custom property's cells are read. All other attributes are sent as text."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"  # sent as ISO 8601
    LIST = "list"  # split on ";", as Customer Insights joins ids


class Empty(StrEnum):
    """What an empty cell means: keep the profile's value, or remove it."""

    IGNORE = "ignore"
    CLEAR = "clear"  # but not if the column is blank in every row
    CLEAR_ALL = "clear_all"  # even then


CLEARING = (Empty.CLEAR, Empty.CLEAR_ALL)


class PropertyRule(BaseModel):
    """The column that fills a custom property, and how its cells are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(min_length=1)
    type: ValueType = ValueType.STRING
    empty: Empty = Empty.IGNORE


class MappingDocument(BaseModel):
    """The mapping as a person writes it. It names at least the column of the identifier.

    A blank instead of a column's name means the same as no key.
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
    culture: str | None = None  # of dates and numbers in CSV files; else the one of model.json
    encoding: str | None = None  # of CSV files; else that of model.json, else UTF-8

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
            known = ", ".join(LOCATION)
            raise ValueError(f"unknown: {', '.join(unknown)}. Klaviyo knows {known}")
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
                    f"{name!r} must not be blank or begin with $. Klaviyo reserves such names"
                )
            if name != printable(name):
                raise ValueError(f"{name!r} must not hold control characters")
        return properties

    @field_validator("phone_region")
    @classmethod
    def _known_region(cls, region: str | None) -> str | None:
        if region is not None and region not in SUPPORTED_REGIONS:
            raise ValueError(f"{region!r} must be an ISO 3166 country code, such as US, GB or DE")
        return region

    @field_validator("culture")
    @classmethod
    def _known_culture(cls, culture: str | None) -> str | None:
        if culture is not None and not is_culture(culture):
            raise ValueError(f"{culture!r} must be a culture, such as en-US, en-GB or de-DE")
        return culture

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str | None) -> str | None:
        if encoding is not None and not is_encoding(encoding):
            raise ValueError(f"{encoding!r} must be an encoding, such as utf-8 or windows-1252")
        return encoding

    @model_validator(mode="after")
    def _has_identifier(self) -> Self:
        if self.identifier and not getattr(self, self.identifier):
            raise ValueError(f"identifier is {self.identifier}, but no column is mapped to it")
        if not any(getattr(self, name) for name in IDENTIFIERS):
            raise ValueError("map a column to email (or phone_number or external_id)")
        return self

    @property
    def identified_by(self) -> str:
        """The attribute that tells profiles apart: the chosen one, else the first mapped one."""
        return self.identifier or next(name for name in IDENTIFIERS if getattr(self, name))

    def named_columns(self) -> tuple[str, ...]:
        """Give every source column that the mapping names, once."""
        columns = [value for name in ATTRIBUTES if (value := getattr(self, name))]
        columns += self.location.values()
        if isinstance(self.properties, dict):
            columns += [rule.column for rule in self.properties.values()]
        if self.newest_by:
            columns.append(self.newest_by)
        return tuple(dict.fromkeys(columns))


def parse_mapping(document: Any) -> MappingDocument:
    """Check a mapping document. Raises MappingError, which names each wrong key."""
    if not isinstance(document, dict):
        raise MappingError(
            f"the mapping is wrong: mapping: {_MESSAGES['dict_type']}",
            hint="Write email: and the name of a column.",
        )
    try:
        return MappingDocument.model_validate(document)
    except ValidationError as exc:
        raise MappingError(
            f"the mapping is wrong: {'; '.join(_problems(exc))}", hint="Correct these keys."
        ) from None


_MESSAGES = {
    "dict_type": "must be pairs of a name and a column",
    "extra_forbidden": "there is no such key",
    "invalid_key": "keys must be text",
    "missing": "is missing",
    "model_type": "must be the name of a column, or {column, type, empty}",
}

# A null in a bulk import is passed over; to clear an attribute is a call for each profile.
_ONLY_A_COLUMN = (
    "must be the name of a column. Only properties have type and empty: Klaviyo's bulk import"
    " cannot remove an attribute"
)


def _problems(error: ValidationError) -> Iterator[str]:
    """Give a sentence for each wrong key."""
    found = error.errors(include_input=False, include_url=False)
    has_wrong_rules = any(
        one["loc"][:1] == ("properties",) and len(one["loc"]) > 2 for one in found
    )
    for one in found:
        is_about_star = one["type"] == "literal_error" and one["loc"][0] == "properties"
        if is_about_star and has_wrong_rules:
            continue  # properties were given as rules, so nobody meant "*"
        key = ".".join(_keys(one["loc"])) or "mapping"
        message = _MESSAGES.get(one["type"]) or plain_words(one["msg"])
        if one["type"] == "string_type" and one["loc"][0] in (*ATTRIBUTES, "location"):
            message = _ONLY_A_COLUMN
        if one["type"] == "extra_forbidden":
            message += _did_you_mean(one["loc"])
        yield f"{key}: {message}"


def _did_you_mean(loc: tuple[int | str, ...]) -> str:
    """Suggest the key that a person may have meant; "" if none is like it."""
    known = PropertyRule.model_fields if loc[0] == "properties" else MappingDocument.model_fields
    near = difflib.get_close_matches(str(loc[-1]).lower(), known, n=1)
    return f". Did you mean {near[0]}?" if near else ""


def _keys(loc: tuple[int | str, ...]) -> Iterator[str]:
    """Give the keys that lead to an error, without pydantic's names for the forms of properties."""
    for depth, part in enumerate(loc):
        if part != "[key]" and not (depth == 1 and loc[0] == "properties"):
            yield str(part)


def printable(name: str) -> str:
    """Give the name without control characters and halves of characters."""
    return "".join(one for one in name if unicodedata.category(one) not in ("Cc", "Cs"))


def _without_blanks(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {
        key: value for key, value in document.items() if not isinstance(value, str) or value.strip()
    }
