"""model.json: what Customer Insights says of the files it wrote. Read leniently; nothing in it is needed.

Specification: Common Data Model folder metadata (2020-04-03). No public model.json written by a Customer Insights
export is known, so every key may be absent, spelled in another case, or a string where a boolean is meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from exporter.names import comparable, positions_of
from exporter.reading.dialect import DELIMITERS, Dialect, is_culture

MAX_MODEL_BYTES = 32_000_000  # ours: a model of 1,000 tables with 300 columns each is about 20 MB


@dataclass(frozen=True)
class TableModel:
    """One table of model.json: its columns, the data types of those that have one, each partition's dialect by path."""

    columns: tuple[str, ...]
    types: Mapping[str, str]
    partitions: Mapping[str, Dialect]
    culture: str | None = None

    def named_in(self, prefix: str) -> frozenset[str]:
        """File names of the partitions that lie directly in the folder `prefix`."""
        places = (path.rpartition("/") for path in self.partitions)
        return frozenset(
            name
            for *folder, name in places
            if name and comparable("".join(folder)) == comparable(prefix)
        )

    def is_about(self, prefix: str) -> bool:
        """Whether the refresh that wrote the folder `prefix` wrote this, as far as it tells: no other's files only."""
        return not self.partitions or bool(self.named_in(prefix))

    def dialect_of(self, path: str) -> Dialect:
        """A partition's dialect: its own entry, else that of another (an older run's), else the columns only."""
        if (own := self._by_path.get(comparable(path))) is not None:
            return own
        others = list(self.partitions.values())
        return others[-1] if others else Dialect(columns=self.columns or None, culture=self.culture)

    @cached_property
    def _by_path(self) -> Mapping[str, Dialect]:
        return {comparable(path): dialect for path, dialect in self.partitions.items()}


def parse_table(data: bytes, table: str, *, container: str = "") -> TableModel | None:
    """Find `table` in a model.json. None when it is not there, or when the text cannot be understood.

    Partition locations are full addresses; what counts is the path inside the container, whose name is cut off.
    """
    try:
        root = json.loads(data.decode(json.detect_encoding(data), errors="replace"))
    except (ValueError, RecursionError):
        return None
    entities = [*_dicts(_get(root, "entities")), *_dicts(_get(root, "tables"))]
    names = [_text(_get(entity, "name")) for entity in entities]
    found = positions_of(table, names)
    if len({names[position] for position in found}) != 1:  # none, or several that differ in form
        return None
    culture = _text(_get(root, "culture"))
    return _table(entities[found[0]], container, culture if is_culture(culture) else None)


def _table(entity: Mapping[str, Any], container: str, culture: str | None) -> TableModel:
    attributes = _dicts(_get(entity, "attributes"))
    names = [_text(_get(attribute, "name")) for attribute in attributes]
    types = {
        name: _text(_get(attribute, "dataType"))
        for name, attribute in zip(names, attributes, strict=True)
    }
    columns = tuple(names) if all(names) else ()
    partitions = {}
    for partition in _dicts(_get(entity, "partitions")):
        if path := _path(_get(partition, "location"), container):
            partitions[path] = _dialect(_get(partition, "fileFormatSettings"), columns, culture)
    return TableModel(
        columns, {name: kind for name, kind in types.items() if kind}, partitions, culture
    )


def _dialect(settings: Any, columns: tuple[str, ...], culture: str | None) -> Dialect:
    delimiter = _get(settings, "delimiter")
    if isinstance(delimiter, str):
        delimiter = DELIMITERS.get(delimiter.casefold(), delimiter).encode(errors="ignore").decode()
    return Dialect(
        columns=columns or None,
        # Absent means false in the Common Data Model, but Spark and others write headers all the same:
        # what is not said is decided by looking at the file.
        has_header=_boolean(_get(settings, "columnHeaders")),
        delimiter=delimiter if isinstance(delimiter, str) and len(delimiter) == 1 else None,
        encoding=_text(_get(settings, "encoding")) or None,
        quoting=not _text(_get(settings, "quoteStyle")).casefold().endswith("none"),
        culture=culture,
    )


def _path(location: Any, container: str) -> str | None:
    try:
        path = unquote(urlsplit(_text(location)).path).lstrip("/")  # drops ?snapshot=...
    except ValueError:
        return None
    # Azurite and other path-style addresses put the account's name first.
    first, _, rest = path.partition("/")
    for name, _, inside in ((first, "", rest), rest.partition("/")):
        if container and comparable(name) == comparable(container):
            return inside
    return path


def _text(value: Any) -> str:
    """A value as text that can be stored, "" for none. JSON can hold halves of characters, which UTF-8 cannot."""
    return (
        str(value).strip().encode(errors="replace").decode()
        if isinstance(value, str | int | float)
        else ""
    )


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(_text(value).casefold())


def _get(mapping: Any, key: str) -> Any:
    """The value of a key, without regard to its case."""
    if not isinstance(mapping, Mapping):
        return None
    if key in mapping:
        return mapping[key]
    return next(
        (value for name, value in mapping.items() if str(name).casefold() == key.casefold()), None
    )


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
