"""A mapping's columns found in a snapshot: which position fills which Klaviyo attribute. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from exporter.definitions.mapping import (
    ATTRIBUTES,
    IDENTIFIERS,
    Empty,
    MappingDocument,
    ValueType,
    printable,
)
from exporter.errors import MappingError
from exporter.names import positions_of
from exporter.reading.dialect import UNKNOWN, Culture, culture_of

MANY_NAMES, LONGEST_NAME = 50, 100  # of columns, in a sentence: a file may have thousands of them


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedField:
    """One Klaviyo attribute and the position of the source column that fills it.

    group: "" for a profile attribute, else "location" or "properties".
    members: of a bundle, see `bundle`: names of properties and their columns.
    """

    group: Literal["", "location", "properties"]
    name: str
    column: int
    type: ValueType = ValueType.STRING
    empty: Empty = Empty.IGNORE
    members: tuple[tuple[str, int], ...] | None = None

    @property
    def path(self) -> str:
        """Where the attribute is in a profile, as Klaviyo's pointers end: "location/city"."""
        return f"{self.group}/{self.name}" if self.group else self.name

    @property
    def identifies(self) -> bool:
        """Whether Klaviyo may find a profile by the attribute."""
        return self.group == "" and self.name in IDENTIFIERS

    @property
    def is_text(self) -> bool:
        """Whether its values are texts, and not ready JSON."""
        return self.type is ValueType.STRING and self.members is None

    @property
    def may_be_bundled(self) -> bool:
        """Whether nobody asks for its values one by one."""
        return self.group == "properties" and self.is_text and self.empty is Empty.IGNORE

    def unbundled(self) -> Iterator[MappedField]:
        """Give the properties of a bundle, or the field itself."""
        if self.members is None:
            yield self
        for name, column in self.members or ():
            yield MappedField(group="properties", name=name, column=column)


def bundle(fields: Sequence[MappedField]) -> MappedField:
    """Make one field of many text properties.

    Its value is a list of members as JSON has them: "a":"x","b":"y". A thousand fields would cost
    DuckDB half a gigabyte for a single row, and seconds to plan each statement.
    """
    members = tuple((field.name, field.column) for field in fields)
    return MappedField(
        group="properties",
        name="*",
        column=members[0][1] if members else 0,
        members=members,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedMapping:
    """A mapping whose columns were found in one partition."""

    fields: tuple[MappedField, ...]
    identifier: str
    phone_region: str | None = None
    newest_by: int | None = None
    culture: Culture = UNKNOWN


def resolve(
    mapping: MappingDocument,
    columns: Sequence[str],
    *,
    file: str = "the snapshot",
    repeated: Collection[str] = (),
    may_show: bool = True,
    culture: str | None = None,
    nameless: bool = False,
) -> ResolvedMapping:
    """Find the mapping's columns in a file: by exact name, else by one that differs in form only.

    file: for messages. repeated: names that several columns of the file bear.
    culture: of the file's dates and numbers. nameless: neither the file nor a model.json names its
    columns, so that they are counted.
    Raises MappingError, for names that are not there and for names that fit several columns. It
    lists the columns that are there only if they `may_show`: what was merely taken for a header
    may be a person's data.
    """
    found = _Columns(columns, repeated)
    fields = [*_attributes(mapping, found), *_location(mapping, found)]
    fields += _properties(mapping, found, used={field.column for field in fields})
    newest_by = found.position(mapping.newest_by) if mapping.newest_by else None
    if found.ambiguous:
        candidates = "; ".join(f"{name!r} fits {fits}" for name, fits in found.ambiguous.items())
        raise MappingError(
            f"{file} has several columns of the same name: {candidates}",
            hint="Name the column in the mapping exactly as the file does."
            " Rename columns in the file if their names are equal.",
        )
    if found.missing:
        raise MappingError(
            f"{file} has no column {_listed(found.missing)}",
            hint=_hint_on_missing(columns, may_show=may_show, nameless=nameless),
        )
    return ResolvedMapping(
        fields=tuple(fields),
        identifier=mapping.identified_by,
        phone_region=mapping.phone_region,
        newest_by=newest_by,
        culture=culture_of(culture),
    )


def _hint_on_missing(columns: Sequence[str], *, may_show: bool, nameless: bool) -> str:
    if nameless:
        return (
            "Its first line holds no names, and no model.json in the container names this file. "
            "Put the model.json that locates it there, or count the columns in the mapping: "
            "column_1, column_2."
        )
    if not may_show:
        return (
            "Correct the mapping. To see what the first line holds, run: "
            "python -m exporter suggest FILE"
        )
    return f"Correct the mapping. The columns are {_listed(columns)}."


class _Columns:
    """Finds columns by name, and remembers the names that fit none of them, or several."""

    def __init__(self, names: Sequence[str], repeated: Collection[str]) -> None:
        self.names = names
        self.missing: list[str] = []
        self.ambiguous: dict[str, str] = {}
        self._repeated = repeated

    def position(self, name: str) -> int:
        found = positions_of(name, self.names)
        if not found:
            if name not in self.missing:
                self.missing.append(name)
            return -1
        fitting = [self.names[position] for position in found]
        if len(fitting) > 1:
            self.ambiguous[name] = _listed(fitting)
        elif fitting[0] in self._repeated:
            self.ambiguous[name] = f"several columns {fitting[0]!r}"
        return found[0]


def _attributes(mapping: MappingDocument, columns: _Columns) -> Iterator[MappedField]:
    """Give the profile's attributes, the identifier first: every profile has one."""
    for name in sorted(ATTRIBUTES, key=lambda name: name != mapping.identified_by):
        if column := getattr(mapping, name):
            yield MappedField(group="", name=name, column=columns.position(column))


def _location(mapping: MappingDocument, columns: _Columns) -> Iterator[MappedField]:
    for name, column in mapping.location.items():
        yield MappedField(group="location", name=name, column=columns.position(column))


def _properties(
    mapping: MappingDocument, columns: _Columns, *, used: set[int]
) -> Iterator[MappedField]:
    if mapping.properties == "*":
        others = [position for position in range(len(columns.names)) if position not in used]
        names = _property_names(columns.names, others)
        for position, name in zip(others, names, strict=True):
            yield MappedField(group="properties", name=name, column=position)
        return
    for name, rule in mapping.properties.items():
        position = columns.position(rule.column)
        yield MappedField(
            group="properties", name=name, column=position, type=rule.type, empty=rule.empty
        )


def _property_names(columns: Sequence[str], chosen: Sequence[int]) -> list[str]:
    """Name columns as custom properties: without leading $, never empty, each different."""
    names: list[str] = []
    for position in chosen:
        name = printable(columns[position]).strip().lstrip("$").strip() or f"column_{position + 1}"
        unique, number = name, 2
        while unique in names:
            unique, number = f"{name}_{number}", number + 1
        names.append(unique)
    return names


def _listed(names: Sequence[str]) -> str:
    """List names in a sentence: only the first of many, and long ones cut."""
    shown = [_cut(name) for name in names[:MANY_NAMES]]
    more = f" and {len(names) - MANY_NAMES:,} more" if len(names) > MANY_NAMES else ""
    return ", ".join(shown) + more


def _cut(name: str) -> str:
    return repr(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…")
