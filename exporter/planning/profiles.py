"""A mapped row as Klaviyo takes it: the SQL that turns staged values into the JSON of a bulk import job.

Staged values are columns f0, f1, ... in the order of the mapping's fields: text, or ready JSON for typed properties;
NULL where the cell is empty. Empty cells are left out of the body: Klaviyo ignores nulls in a bulk import, and
elsewhere they clear fields by accident. Source: Klaviyo's OpenAPI file, revision 2026-07-15, bulk import. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress
from operator import not_

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import Empty, ValueType
from exporter.sql import literal

SHORT_PROFILE_BYTES = 400  # 10,000 of these are well below the bytes that a batch may have

_OPEN = '{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":['
_PROFILE = '{"type":"profile","attributes":{'
_GROUPS = ("", "location", "properties")  # in the order in which a profile holds them
_SHELL = _PROFILE + '}},"location":{},"properties":{},"meta":{"patch_properties":{"unset":[]}}'


def envelope(list_id: str) -> tuple[str, str]:
    """What stands before and after the profiles in the body of a job that fills one list."""
    lists = {"lists": {"data": [{"type": "list", "id": list_id}]}}
    relationships = json.dumps(lists, separators=(",", ":"))
    return _OPEN, f']}}}},"relationships":{relationships}}}}}'


def profile(fields: Sequence[MappedField]) -> str:
    """SQL: one profile of the body, from a staged row that is sent."""
    return (
        f"CASE WHEN unusual_profile IS NULL THEN {_usual_profile(fields)} ELSE unusual_profile END"
    )


def _usual_profile(fields: Sequence[MappedField]) -> str:
    """SQL: a profile as it nearly always is, see `measures`: a flat row of texts, where a NULL takes its key with it.

    Each member brings the comma before it, and what comes first in an object is there. Nested in the order of its
    objects, with texts escaped, the same costs three times as much.
    """
    first = fields[0]
    parts = [literal(f'{_PROFILE}{_key(first)}"'), "f0", literal('"')]
    for group in _GROUPS:
        positions = _positions(fields, group)
        for position in positions:
            opens = group and position == positions[0]
            before = (f",{json.dumps(group)}:{{" if opens else ",") + _key(fields[position])
            parts += [_quoted(fields[position], position, before)] if position else []
        if group and positions:
            parts.append(f"CASE WHEN f{positions[0]} IS NOT NULL THEN '}}' END")
    return f"concat({', '.join(parts)}, '}}', {_unset(fields)}, '}}')"


def unusual_profile(fields: Sequence[MappedField]) -> str:
    """SQL: the profile of a row that is not as usual, see `measures`; else NULL. Needs `dropped`, see `_unset`."""
    groups = (_group(fields, group) for group in _GROUPS[1:])
    attributes = _joined(chain(_members(fields, ""), *groups))
    return f"CASE WHEN NOT is_usual THEN concat({literal(_PROFILE)}, {attributes}, '}}', {_unset(fields)}, '}}') END"


def profile_size(fields: Sequence[MappedField]) -> str:
    """SQL: an upper bound of the profile's bytes in the body, exact but for profiles that are short.

    These, which fill no batch by their size, are not built for it, but reckoned with all keys. Needs `value_bytes`.
    """
    keys = sum(len(f',{_key(field)}""'.encode()) for field in fields)
    unset = sum(
        len(json.dumps(field.name).encode()) + 1 for field in fields if field.empty is Empty.CLEAR
    )
    bound = f"{len(_SHELL) + keys + unset} + value_bytes"
    return f"CASE WHEN {bound} <= {SHORT_PROFILE_BYTES} THEN {bound} ELSE strlen({profile(fields)}) END"


def measures(fields: Sequence[MappedField]) -> str:
    """SQL: `value_bytes`, what the row's values take as JSON, and `is_usual`, whether a profile is easily made of them.

    It is when no text needs escaping, and no nested object is without its first member but has others.
    """
    columns = [f"f{position}" for position in range(len(fields))]
    is_text = [field.type is ValueType.STRING for field in fields]
    texts = f"concat({', '.join(['NULL', *compress(columns, is_text)])})"
    ready = f"concat({', '.join(['NULL', *compress(columns, map(not_, is_text))])})"
    begin = "".join(
        f" AND (f{first} IS NOT NULL OR coalesce({', '.join(f'f{other}' for other in others)}) IS NULL)"
        for first, *others in filter(None, (_positions(fields, group) for group in _GROUPS[1:]))
        if others
    )
    return (
        f"strlen(to_json({texts})) AS json_bytes, json_bytes + strlen({ready}) AS value_bytes,"
        f" json_bytes = strlen({texts}) + 2{begin} AS is_usual"
    )


def _positions(fields: Sequence[MappedField], group: str) -> list[int]:
    return [position for position, field in enumerate(fields) if field.group == group]


def _members(fields: Sequence[MappedField], group: str) -> Iterator[str]:
    """SQL: each field of a group as "key":value, NULL where it is empty."""
    for position in _positions(fields, group):
        is_text = fields[position].type is ValueType.STRING
        value = f"to_json(f{position})" if is_text else f"f{position}"
        yield f"{literal(_key(fields[position]))} || {value}"


def _group(fields: Sequence[MappedField], group: str) -> Iterator[str]:
    """SQL: a nested object, NULL where all of it is empty."""
    values = ", ".join(f"f{position}" for position in _positions(fields, group))
    if values:
        opening, members = literal(json.dumps(group) + ":{"), _joined(_members(fields, group))
        yield f"CASE WHEN coalesce({values}) IS NOT NULL THEN concat({opening}, {members}, '}}') END"


def _quoted(field: MappedField, position: int, before: str) -> str:
    """SQL: what stands before a value, and the value, whose text needs no escaping; NULL where it is empty."""
    if field.type is not ValueType.STRING:
        return f"{literal(before)} || f{position}"
    return f"{literal(before + chr(34))} || f{position} || {literal(chr(34))}"


def _unset(fields: Sequence[MappedField]) -> str:
    """SQL: the instruction to remove the custom properties whose cells are empty and mean "clear".

    A cell that is not empty but could not be read clears nothing.
    """
    names = [
        f"CASE WHEN f{position} IS NULL AND NOT {_is_dropped(field)}"
        f" THEN {literal(json.dumps(field.name, ensure_ascii=False))} END"
        for position, field in enumerate(fields)
        if field.empty is Empty.CLEAR
    ]
    if not names:
        return "''"
    unset = literal(',"meta":{"patch_properties":{"unset":[')
    return f"coalesce({unset} || nullif({_joined(names)}, '') || ']}}}}', '')"


def _is_dropped(field: MappedField) -> str:
    return f"contains(concat(chr(31), dropped, chr(31)), concat(chr(31), {literal(field.name)}, chr(31)))"


def _joined(members: Iterable[str]) -> str:
    return f"concat_ws(',', {', '.join(members)})"  # skips NULLs


def _key(field: MappedField) -> str:
    return json.dumps(field.name, ensure_ascii=False) + ":"
