"""Staged values become the JSON that Klaviyo takes, whatever they hold."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import CLEARING, Empty, ValueType
from exporter.klaviyo.limits import MAX_BATCH_BYTES, MAX_BATCH_PROFILES
from exporter.planning import profiles
from tests.planning.planned import strict_json

database = duckdb.connect()


FIELDS = [
    MappedField(group="", name="email", column=0),
    MappedField(group="", name="first_name", column=1),
    MappedField(group="location", name="city", column=2),
    MappedField(group="location", name="zip", column=3),
    MappedField(group="properties", name="tier", column=4, empty=Empty.CLEAR),
    MappedField(
        group="properties", name="value", column=5, type=ValueType.NUMBER, empty=Empty.CLEAR
    ),
]


def profile(
    fields: list[MappedField], values: list[str | None], *, dropped: str | None = None
) -> tuple[str, int]:
    """The profile, and the size that was planned for it."""
    columns = ", ".join(
        f"${position + 1}::VARCHAR AS f{position}" for position in range(len(fields))
    )
    values_sql = f"SELECT {columns}, ${len(fields) + 1}::VARCHAR AS dropped"
    measured = f"SELECT *, {profiles.measures(fields)} FROM ({values_sql})"
    row = f"(SELECT *, {profiles.unusual_profile(fields)} AS unusual_profile FROM ({measured}))"
    found = database.execute(
        f"SELECT {profiles.profile(fields)}, {profiles.profile_size(fields)} FROM {row}",
        [*values, dropped],
    ).fetchone()
    assert found
    return found


@pytest.mark.parametrize(
    ("values", "attributes", "unset"),
    [
        (["a@b.co", "Ada", "Bern", "1", "gold", "5"],
         {"email": "a@b.co", "first_name": "Ada", "location": {"city": "Bern", "zip": "1"},
          "properties": {"tier": "gold", "value": 5}}, None),
        (["a@b.co", None, None, None, None, None], {"email": "a@b.co"}, ["tier", "value"]),
        (["a@b.co", None, None, "1", "gold", None],
         {"email": "a@b.co", "location": {"zip": "1"}, "properties": {"tier": "gold"}}, ["value"]),
        (["a@b.co", 'A"\\\n\t\x01\u2028é€😀', None, None, "x", "0"],
         {"email": "a@b.co", "first_name": 'A"\\\n\t\x01\u2028é€😀',
          "properties": {"tier": "x", "value": 0}}, None),
    ],
)  # fmt: skip
def test_profile_holds_what_is_there_and_unsets_beside_its_attributes(values, attributes, unset):
    wanted: dict[str, Any] = {"type": "profile", "attributes": attributes}
    if unset:
        wanted["meta"] = {"patch_properties": {"unset": unset}}
    text, size = profile(FIELDS, values)
    assert strict_json(text) == wanted
    assert "null" not in text
    assert len(text.encode()) <= size


def test_cell_that_could_not_be_read_clears_nothing():
    text, _ = profile(
        FIELDS, ["a@b.co", None, None, None, None, None], dropped="phone_number\x1fvalue"
    )
    assert strict_json(text)["meta"] == {"patch_properties": {"unset": ["tier"]}}


# Without NUL: no mapping has a name with control characters.
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
) | st.sampled_from(
    [
        "'",
        "''",
        '"',
        '\\"',
        "\\",
        "}",
        "{",
        "{0}",
        "%s",
        "$1",
        "f0",
        "');--",
        '","x":1,"',
        "\u2028",
        "a'||'b",
        "\x1f",
    ]
)
cells = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=80, deadline=None)
@given(
    names=st.lists(names, min_size=1, max_size=5, unique=True),
    values=st.lists(cells, min_size=5, max_size=5),
    empties=st.lists(st.sampled_from(Empty), min_size=5, max_size=5),
    email=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
@example(
    names=["'}]}}; DROP TABLE rows; --"], values=["'"] * 5, empties=[Empty.CLEAR] * 5, email="'"
)
def test_names_and_cells_arrive_as_they_are_and_never_as_sql_or_json(names, values, empties, email):
    fields = [MappedField(group="", name="email", column=0)]
    fields += [
        MappedField(group="properties", name=name, column=1, empty=empty)
        for name, empty in zip(names, empties, strict=False)
    ]
    text, size = profile(fields, [email, *values[: len(names)]])
    found = strict_json(text)
    given_values = dict(zip(names, values, strict=False))
    kept = {name: value for name, value in given_values.items() if value is not None}
    assert found["attributes"] == {"email": email, **({"properties": kept} if kept else {})}
    unset = [
        field.name for field in fields[1:] if field.empty in CLEARING and field.name not in kept
    ]
    assert found.get("meta", {}).get("patch_properties", {}).get("unset", []) == unset
    length = len(text.encode())
    cleared = sum(field.empty in CLEARING for field in fields)
    slack = 60 + (60 + sum(6 * len(name) + 8 for name in names) if cleared else 0)
    assert length <= size <= max(length + slack, profiles.SHORT_PROFILE_BYTES)


def test_the_size_of_a_profile_that_is_not_short_is_exact_however_many_cells_are_empty():
    fields = [MappedField(group="", name="email", column=0)]
    fields += [
        MappedField(group="properties", name=f"property {number}", column=1) for number in range(50)
    ]
    text, size = profile(fields, ["a@b.co", *["x" * 20] * 10, *[None] * 40])
    assert len(text) > profiles.SHORT_PROFILE_BYTES
    assert len(text) <= size <= len(text) + 60


def test_short_profiles_fill_a_batch_by_their_number():
    assert MAX_BATCH_PROFILES * profiles.SHORT_PROFILE_BYTES < MAX_BATCH_BYTES * 0.95


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example('"]}')
@example("'")
def test_envelope_names_one_list(list_id: str):
    before, after = profiles.envelope(list_id)
    assert strict_json(before + after) == {
        "data": {
            "type": "profile-bulk-import-job",
            "attributes": {"profiles": {"data": []}},
            "relationships": {"lists": {"data": [{"type": "list", "id": list_id}]}},
        }
    }
