"""What model.json says about the files that Customer Insights wrote. Optional, and read leniently.

Specification: Common Data Model folder metadata (2020-04-03). No public model.json of a Customer
Insights export is known, so any key may be absent, in another case, or a string instead of a
boolean.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from exporter.names import comparable, positions_of
from exporter.reading.dialect import DELIMITERS, Dialect, is_culture

MAX_MODEL_BYTES = 32_000_000  # ours: a model of 1,000 tables with 300 columns each is about 20 MB


@dataclass(frozen=True)
class TableModel:
    """One table of model.json: columns, their data types, and each partition's dialect by path."""

    columns: tuple[str, ...]
    types: Mapping[str, str]
    partitions: Mapping[str, Dialect]
    culture: str | None = None

    def named_in(self, prefix: str) -> frozenset[str]:
        """Return the names of the partitions that are directly in the folder `prefix`.

        prefix: of a snapshot. Where that is its only blob, the one name is "".
        """
        wanted, names = comparable(prefix), set()
        for path in self.partitions:
            if comparable(path) == wanted:
                names.add("")
            folder, slash, name = path.rpartition("/")
            if name and comparable(folder + slash) == wanted:
                names.add(name)
        return frozenset(names)

    def is_about(self, prefix: str) -> bool:
        """Whether this can be from the refresh that wrote the folder `prefix`.

        It cannot if it lists only files of other folders.
        """
        return not self.partitions or bool(self.named_in(prefix))

    def dialect_of(self, path: str) -> Dialect:
        """Return how a partition is written, by the entry that is about it.

        That is the entry whose path has the longest common end with this one, the file's name at
        least: its own entry, or for instance the same partition of an older refresh. Where no entry
        has its name, or where several fit equally and differ, all entries stand in for it if they
        agree. Otherwise only the columns are known.
        """
        similar = self._with_longest_common_end(path)
        if any(each != similar[0] for each in similar) or not similar:
            similar = list(self.partitions.values())
        if similar and all(each == similar[0] for each in similar):
            return similar[0]
        return Dialect(columns=self.columns or None, culture=self.culture)

    def _with_longest_common_end(self, path: str) -> list[Dialect]:
        """Return the dialects of the entries that share most of the end of a path, if any do."""
        parts = _reversed_parts(path)
        most, found = 0, list[Dialect]()
        for known, dialect in self._by_file_name.get(parts[0], ()):
            shared = _shared(parts, known)
            if shared > most:
                most, found = shared, []
            if shared == most:
                found.append(dialect)
        return found

    @cached_property
    def _by_file_name(self) -> Mapping[str, list[tuple[list[str], Dialect]]]:
        entries: dict[str, list[tuple[list[str], Dialect]]] = {}
        for path, dialect in self.partitions.items():
            parts = _reversed_parts(path)
            entries.setdefault(parts[0], []).append((parts, dialect))
        return entries


def _reversed_parts(path: str) -> list[str]:
    return comparable(path).split("/")[::-1]


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Count the equal parts at the beginning of two sequences."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def parse_table(data: bytes, table: str, *, container: str = "") -> TableModel | None:
    """Find `table` in a model.json. None if it is not there, or if the text is not JSON.

    container: the container's name. Partition locations are full addresses; only the path inside
    the container counts.
    """
    return next(
        (_table(entity, container, culture) for entity, culture in _entities(data, named=table)),
        None,
    )


def table_of_blobs(
    data: bytes, names: Collection[str], *, container: str = ""
) -> TableModel | None:
    """Find the table of a model.json that has a partition at one of these blobs, by its location.

    names: blobs of the container. For a model.json that is not where the layout has it, or that
    calls the table something else.
    """
    wanted = {comparable(name) for name in names}
    for entity, culture in _entities(data):
        table = _table(entity, container, culture)
        if any(comparable(path) in wanted for path in table.partitions):
            return table
    return None


def table_with_file(data: bytes, file_name: str) -> TableModel | None:
    """Find the one table of a model.json that has a partition of this name, in whatever folder.

    For files that were copied to another place, where neither folder nor file bears a table's name.
    """
    wanted = comparable(file_name)
    tables = [_table(entity, "", culture) for entity, culture in _entities(data)]
    found = [
        table
        for table in tables
        if any(comparable(path.rpartition("/")[2]) == wanted for path in table.partitions)
    ]
    return found[0] if len(found) == 1 else None


def located_blobs(data: bytes, *, container: str = "") -> frozenset[str]:
    """Return the paths of all partitions that a model.json locates, as far as it can be read."""
    tables = (_table(entity, container, culture) for entity, culture in _entities(data))
    return frozenset(path for table in tables for path in table.partitions)


def _entities(
    data: bytes, *, named: str | None = None
) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Yield the entities of a model.json, all or those of a name, each with the culture."""
    try:
        root = json.loads(data.decode(json.detect_encoding(data), errors="replace"))
    except (ValueError, RecursionError):
        return
    culture = _text(_get(root, "culture"))
    entities = [*_dicts(_get(root, "entities")), *_dicts(_get(root, "tables"))]
    if named is not None:
        names = [_text(_get(entity, "name")) for entity in entities]
        found = positions_of(named, names)
        is_one = len({names[position] for position in found}) == 1  # else they differ in form
        entities = [entities[position] for position in found] if is_one else []
    for entity in entities:
        yield entity, culture if is_culture(culture) else None


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
        # An absent key means false in the Common Data Model, but Spark and others write headers
        # without it. So the file itself decides.
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
    """Return a value as text that can be stored, "" for none."""
    if not isinstance(value, str | int | float):
        return ""
    # JSON can hold halves of surrogate pairs, which UTF-8 cannot.
    return str(value).strip().encode(errors="replace").decode()


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(_text(value).casefold())


def _get(mapping: Any, key: str) -> Any:
    """Return the value of a key in any case; None if there is none."""
    if not isinstance(mapping, Mapping):
        return None
    if key in mapping:
        return mapping[key]
    for name, value in mapping.items():
        if str(name).casefold() == key.casefold():
            return value
    return None


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, Mapping)]
