"""A staged row as Klaviyo takes it: the SQL that makes the JSON of a bulk import job.

Staged values are columns f0, f1, ... in the order of the mapping's fields: text, or ready JSON for
typed properties; NULL if the cell is empty. Empty cells are left out of the body: Klaviyo ignores
nulls in a bulk import, and elsewhere they clear fields by accident.
Source: Klaviyo's OpenAPI file, revision 2026-07-15, bulk import.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import CLEARING
from exporter.planning import row_rules
from exporter.sql import literal

SHORT_PROFILE_BYTES = 400  # 10,000 of these are well below the bytes that a batch may have

_OPEN = '{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":['
_PROFILE = '{"type":"profile","attributes":{'
_GROUPS = ("", "location", "properties")  # in the order in which a profile holds them
_MARK = "chr(127)"
_SHELL = _PROFILE + '}},"location":{},"properties":{},"meta":{"patch_properties":{"unset":[]}}'


def envelope(list_id: str) -> tuple[str, str]:
    """Give what stands before and after the profiles in the body of a job that fills one list."""
    lists = {"lists": {"data": [{"type": "list", "id": list_id}]}}
    relationships = json.dumps(lists, separators=(",", ":"))
    return _OPEN, f']}}}},"relationships":{relationships}}}}}'


def profile(fields: Sequence[MappedField]) -> str:
    """SQL: one profile of the body, from a staged row that is sent."""
    usual = _usual_profile(fields)
    return f"CASE WHEN unusual_profile IS NULL THEN {usual} ELSE unusual_profile END"


def _usual_profile(fields: Sequence[MappedField]) -> str:
    """SQL: a profile as it nearly always is: a flat row of texts. See `measures`.

    Each member brings the comma before it, and a NULL takes its key with it; the first member of an
    object is always there. Nested in the order of its objects, with texts escaped, the same would
    cost three times as much.
    """
    first = fields[0]
    parts = [literal(f'{_PROFILE}{_key(first)}"'), "f0", literal('"')]
    for group in _GROUPS:
        positions = _positions(fields, group)
        for position in positions:
            if position == 0:
                continue
            opens = group and position == positions[0]
            before = f",{json.dumps(group)}:{{" if opens else ","
            parts.append(_member(fields[position], position, before))
        if group and positions:
            parts.append(f"CASE WHEN f{positions[0]} IS NOT NULL THEN '}}' END")
    return f"concat({', '.join(parts)}, '}}', {_unset(fields)}, '}}')"


def unusual_profile(fields: Sequence[MappedField]) -> str:
    """SQL: the profile of a row that is not as usual, see `measures`; else NULL.

    Needs `dropped`, see `_unset`.
    """
    return f"CASE WHEN NOT is_usual THEN {any_profile(fields)} END"


def any_profile(fields: Sequence[MappedField]) -> str:
    """SQL: the profile of any row. Needs `dropped`, see `_unset`."""
    members = [*_members(fields, "")]
    for group in _GROUPS[1:]:
        members += _object(fields, group)
    return f"concat({literal(_PROFILE)}, {_joined(members)}, '}}', {_unset(fields)}, '}}')"


def without(rows: str, fields: Sequence[MappedField], omitted: Collection[str]) -> str:
    """SQL: staged rows whose profiles lack the attributes of these paths.

    Such an attribute keeps its value in Klaviyo, also where an empty cell would clear it.
    """
    names, cells = "", []
    for place, field in enumerate(fields):
        chosen = [one.name for one in field.unbundled() if one.path in omitted]
        if chosen:
            names += "".join(f", {literal(name)}" for name in chosen)
            is_bundle = field.members is not None
            left = _without_members(place, chosen) if is_bundle else "CAST(NULL AS VARCHAR)"
            cells.append(f"{left} AS f{place}")
    if not cells:
        return rows
    dropped = f"concat_ws(chr(31), dropped{names}) AS dropped"
    emptied = f"SELECT * REPLACE ({', '.join(cells)}, {dropped}) FROM ({rows})"
    return f"SELECT * REPLACE ({any_profile(fields)} AS unusual_profile) FROM ({emptied})"


def _without_members(place: int, names: Sequence[str]) -> str:
    """SQL: the value of a bundle without some of its properties."""
    patch = literal(json.dumps(dict.fromkeys(names), ensure_ascii=False))
    rest = f"json_merge_patch('{{' || f{place} || '}}', {patch})::VARCHAR"
    return f"nullif(substr({rest}, 2, length({rest}) - 2), '')"


def values_by_path(fields: Sequence[MappedField]) -> dict[str, str]:
    """SQL: for each attribute's path, what tells its value from NULL; of single fields, itself."""
    values = {}
    for place, field in enumerate(fields):
        values[field.path] = f"f{place}"
        for one in field.unbundled() if field.members is not None else ():
            pointer = "/" + one.name.replace("~", "~0").replace("/", "~1")
            values[one.path] = f"json_extract('{{' || f{place} || '}}', {literal(pointer)})"
    return values


def profile_size(fields: Sequence[MappedField]) -> str:
    """SQL: an upper bound of the profile's bytes in the body, exact if the profile is not short.

    Short ones fill no batch by their size. They are not built for it, but reckoned with all keys.
    Needs `value_bytes`.
    """
    keys = sum(len(f',{_key(field)}""'.encode()) for field in fields if field.members is None)
    cleared = (field for field in fields if field.empty in CLEARING)
    unset = sum(len(json.dumps(field.name).encode()) + 1 for field in cleared)
    bound = f"{len(_SHELL) + keys + unset} + value_bytes"
    exact = f"strlen({profile(fields)})"
    return f"CASE WHEN {bound} <= {SHORT_PROFILE_BYTES} THEN {bound} ELSE {exact} END"


def measures(fields: Sequence[MappedField]) -> str:
    """SQL: `value_bytes` and `is_usual`.

    value_bytes: what the row's values take as JSON. is_usual: no text needs escaping, and no nested
    object is without its first member but has others.
    """
    texts, ready = ["NULL"], ["NULL"]
    for position, field in enumerate(fields):
        if field.members is None:
            (texts if field.is_text else ready).append(f"f{position}")
    text, json_text = f"concat({', '.join(texts)})", f"concat({', '.join(ready)})"
    bundles = (place for place, field in enumerate(fields) if field.members is not None)
    bundled_bytes = "".join(f" + coalesce(strlen(f{place}), 0)" for place in bundles)
    conditions = [f"json_bytes = strlen({text}) + 2"]
    for group in _GROUPS[1:]:
        positions = _positions(fields, group)
        if len(positions) > 1:
            others = ", ".join(f"f{position}" for position in positions[1:])
            conditions.append(f"(f{positions[0]} IS NOT NULL OR coalesce({others}) IS NULL)")
    return (
        f"strlen(to_json({text})) AS json_bytes,"
        f" json_bytes + strlen({json_text}){bundled_bytes} AS value_bytes,"
        f" {' AND '.join(conditions)} AS is_usual"
    )


def _positions(fields: Sequence[MappedField], group: str) -> list[int]:
    return [position for position, field in enumerate(fields) if field.group == group]


def _members(fields: Sequence[MappedField], group: str) -> Iterator[str]:
    """SQL: each field of a group as "key":value, NULL if it is empty."""
    for position in _positions(fields, group):
        if fields[position].members is not None:
            yield f"f{position}"
            continue
        value = f"to_json(f{position})" if fields[position].is_text else f"f{position}"
        yield f"{literal(_key(fields[position]))} || {value}"


def _object(fields: Sequence[MappedField], group: str) -> Iterator[str]:
    """SQL: a nested object, NULL if all of it is empty."""
    values = ", ".join(f"f{position}" for position in _positions(fields, group))
    if values:
        opening, members = literal(json.dumps(group) + ":{"), _joined(_members(fields, group))
        filled = f"concat({opening}, {members}, '}}')"
        yield f"CASE WHEN coalesce({values}) IS NOT NULL THEN {filled} END"


def _member(field: MappedField, position: int, before: str) -> str:
    """SQL: a key and its value, whose text needs no escaping; NULL if it is empty."""
    if field.members is not None:
        return f"{literal(before)} || f{position}"
    before += _key(field)
    if not field.is_text:
        return f"{literal(before)} || f{position}"
    return f"{literal(before + chr(34))} || f{position} || {literal(chr(34))}"


def _unset(fields: Sequence[MappedField]) -> str:
    """SQL: the instruction to remove the custom properties whose cells are empty and mean "clear".

    A cell that is not empty but could not be read clears nothing.
    """
    names = []
    for position, field in enumerate(fields):
        if field.empty in CLEARING:
            name = literal(json.dumps(field.name, ensure_ascii=False))
            names.append(f"CASE WHEN {is_cleared(position, field)} THEN {name} END")
    if not names:
        return "''"
    unset = literal(',"meta":{"patch_properties":{"unset":[')
    return f"coalesce({unset} || nullif({_joined(names)}, '') || ']}}}}', '')"


def is_cleared(position: int, field: MappedField) -> str:
    """SQL: whether an empty cell removes the value: one that could not be read does not."""
    name = f"concat(chr(31), {literal(field.name)}, chr(31))"
    is_dropped = f"contains(concat(chr(31), dropped, chr(31)), {name})"
    return f"f{position} IS NULL AND NOT {is_dropped}"


def joined_cells(cells: Iterable[str]) -> str:
    """SQL: all cells of a row, each behind a mark that JSON does not escape."""
    return f"concat_ws({_MARK}, '', {', '.join(cells)}, '.')"


def bundled(members: Sequence[tuple[str, str]], joined: str) -> str:
    """SQL: the value of a bundle, from names and cells of its properties; NULL if all are blank.

    joined: see `joined_cells`. It tells that no text needs escaping and none begins with a blank,
    as in nearly all rows. Else each cell is looked at, in a list: it is slow, but for DuckDB a
    single expression.
    """
    if not members:
        return "NULL::VARCHAR"
    keys = [json.dumps(name, ensure_ascii=False) + ":" for name, _ in members]
    blanks = "".join(f"\\x{{{ord(one):x}}}" for one in row_rules.BLANKS)
    odd = literal(rf'["\\\x00-\x1f]|\x7f[{blanks}\x7f]')
    between = '",'  # each key closes the text before it
    plain = ", ".join(
        f"{literal(between + key + chr(34))} || {cell}"
        for key, (_, cell) in zip(keys, members, strict=True)
    )
    cells = ", ".join(cell for _, cell in members)
    member = f"[{', '.join(literal(key) for key in keys)}][i] || to_json(cell)"
    any_texts = (
        f"array_to_string(list_transform([{cells}], lambda cell, i:"
        f" CASE WHEN {row_rules.blank_to_null('cell')} IS NOT NULL THEN {member} END), ',')"
    )
    return (
        f"CASE WHEN regexp_matches({joined}, {odd}) THEN nullif({any_texts}, '')"
        f" WHEN coalesce({cells}) IS NOT NULL THEN substr(concat({plain}, chr(34)), 3) END"
    )


def _joined(members: Iterable[str]) -> str:
    return f"concat_ws(',', {', '.join(members)})"  # skips NULLs


def _key(field: MappedField) -> str:
    return json.dumps(field.name, ensure_ascii=False) + ":"
