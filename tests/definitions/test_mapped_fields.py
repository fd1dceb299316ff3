"""Which column of a snapshot fills which attribute."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.definitions.mapped_fields import resolve
from exporter.definitions.mapping import ATTRIBUTES, LOCATION, parse_mapping
from exporter.errors import MappingError
from exporter.reading.column_headers import unique_names

COLUMNS = ["CustomerId", "FirstName", "EMail", "Telephone", "City", "LoyaltyTier", "LifetimeValue"]


def filled(document: dict[str, Any], columns: list[str]) -> dict[str, str]:
    """Which column fills which attribute."""
    fields = resolve(parse_mapping(document), columns).fields
    return {f"{one.group}.{one.name}".strip("."): columns[one.column] for one in fields}


def test_email_alone_is_enough():
    assert filled({"email": "EMail"}, COLUMNS) == {"email": "EMail"}


def test_every_attribute_can_be_mapped():
    columns = [name.upper() for name in (*ATTRIBUTES, *LOCATION)]
    document: dict[str, Any] = {name: name.upper() for name in ATTRIBUTES}
    document["location"] = {name: name.upper() for name in LOCATION}
    assert filled(document, columns) == {
        **{name: name.upper() for name in ATTRIBUTES},
        **{f"location.{name}": name.upper() for name in LOCATION},
    }


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [
        ("EMail", ["email", "EMail", "EMAIL"], 1),
        ("e mail", [" E  Mail "], 0),
        ("E  Mail", ["E Mail"], 0),
        ("Prénom", ["Pre\u0301nom"], 0),
        ("STRASSE", ["straße"], 0),
        ("a'\"b", ["a'\"b"], 0),
    ],
)
def test_column_is_found_by_its_name_else_without_case_and_blanks(
    wanted: str, columns: list[str], found: int
):
    assert resolve(parse_mapping({"email": wanted}), columns).fields[0].column == found


@pytest.mark.parametrize(
    ("wanted", "columns", "candidates"),
    [
        ("Email", ["email", "EMail"], "'email', 'EMail'"),
        ("EMAIL", ["Id", "email", "EMail", "Email"], "'email', 'EMail', 'Email'"),
        ("E mail", ["E  Mail", "e mail "], "'E  Mail', 'e mail '"),
        ("PRÉNOM", ["Pr\u00e9nom", "Pre\u0301nom"], "'Pr\u00e9nom', 'Pre\u0301nom'"),
        ("EMAIL", ["EMail\u200b", "EMail"], "'EMail\\u200b', 'EMail'"),
    ],
)
@pytest.mark.parametrize(
    "mapping",
    [
        {"email": "?"},
        {"email": "Id", "location": {"city": "?"}},
        {"email": "Id", "properties": {"tier": "?"}},
        {"email": "Id", "newest_by": "?"},
    ],
)
def test_name_that_fits_several_columns_is_refused_with_all_of_them(
    wanted: str, columns: list[str], candidates: str, mapping: dict[str, Any]
):
    document = json.loads(json.dumps(mapping).replace("?", wanted))
    columns = columns if "Id" in columns else ["Id", *columns]
    with pytest.raises(MappingError) as caught:
        resolve(parse_mapping(document), columns, file="vips.csv")
    what = f"{wanted!r} fits {candidates}"
    assert caught.value.message == f"vips.csv has several columns of the same name: {what}"
    assert "exactly" in caught.value.hint


def test_name_that_several_columns_bear_is_refused():
    columns, repeated = unique_names(["EMail", "City", "EMail"])
    with pytest.raises(MappingError, match="'EMail' fits several columns 'EMail'"):
        resolve(parse_mapping({"email": "EMail"}), columns, repeated=repeated)
    resolved = resolve(parse_mapping({"email": "EMail_2", "title": "City"}), columns)
    assert [one.column for one in resolved.fields] == [2, 1]


def test_error_names_the_file_and_the_columns_that_it_has():
    with pytest.raises(MappingError) as caught:
        resolve(parse_mapping({"email": "Mail"}), ["EMail", "City"], file="vips.csv")
    assert caught.value.message == "vips.csv has no column 'Mail'"
    assert caught.value.hint == "Correct the mapping. The columns are 'EMail', 'City'."


def test_columns_that_are_not_there_are_all_named_with_those_that_are():
    document = parse_mapping(
        {
            "email": "Mail",
            "location": {"city": "Town"},
            "properties": {"a": "Nope", "b": "Nope"},
            "newest_by": "When",
        }
    )
    with pytest.raises(MappingError) as caught:
        resolve(document, ["EMail", "City"])
    assert caught.value.message == "the snapshot has no column 'Mail', 'Town', 'Nope', 'When'"
    assert "'EMail', 'City'" in caught.value.hint


def test_of_thousands_of_columns_the_first_are_named_and_the_others_counted():
    document = parse_mapping(
        {"email": "EMail", "properties": {f"p{n}": f"Nope{n}" for n in range(80)}}
    )
    with pytest.raises(MappingError) as caught:
        resolve(document, [f"c{n}" + "x" * 500 for n in range(4_096)])
    assert "'c49" in caught.value.hint
    assert "'c50" not in caught.value.hint
    assert caught.value.hint.endswith("x…' and 4,046 more.")
    assert caught.value.message.endswith("'Nope48' and 31 more")
    assert len(caught.value.hint) < 6_000


def test_newest_by_is_found_and_needs_no_attribute():
    resolved = resolve(
        parse_mapping({"email": "EMail", "newest_by": "customer_modifiedon"}),
        ["EMail", "Customer_ModifiedOn"],
    )
    assert resolved.newest_by == 1
    assert [one.name for one in resolved.fields] == ["email"]


def test_named_columns_are_each_named_once():
    document = parse_mapping(
        {
            "email": "E",
            "first_name": "F",
            "location": {"city": "C"},
            "properties": {"a": "F", "b": "B"},
            "newest_by": "M",
        }
    )
    assert document.named_columns() == ("E", "F", "C", "B", "M")


def test_star_sends_every_column_that_nothing_else_takes():
    document = {"email": "EMail", "location": {"city": "City"}, "properties": "*"}
    assert filled(document, COLUMNS) == {
        "email": "EMail",
        "location.city": "City",
        **{
            f"properties.{name}": name
            for name in ("CustomerId", "FirstName", "Telephone", "LoyaltyTier", "LifetimeValue")
        },
    }


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["$source", "a"], ["source", "a"]),
        (["$$x", " $y "], ["x", "y"]),
        (["$a", "a", "$$a"], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_2", "a_2_2"]),
        (["", " ", "$"], ["column_2", "column_3", "column_4"]),
        (["a\0b", "c\x1fd\n", "\ud800"], ["ab", "cd", "column_4"]),
        (["A", "a"], ["A", "a"]),  # Klaviyo tells them apart
        (["it's", 'say "x"', "ä;ö"], ["it's", 'say "x"', "ä;ö"]),
    ],
)
def test_star_gives_names_that_klaviyo_takes_each_once(columns: list[str], names: list[str]):
    resolved = resolve(parse_mapping({"email": "EMail", "properties": "*"}), ["EMail", *columns])
    assert [one.name for one in resolved.fields[1:]] == names
    assert [one.column for one in resolved.fields[1:]] == list(range(1, len(columns) + 1))


@given(st.lists(st.text(max_size=5) | st.sampled_from(["$", "$a", "a", "a_2", " a"]), max_size=8))
def test_star_loses_no_column_and_repeats_no_name(columns: list[str]):
    resolved = resolve(
        parse_mapping({"email": "the e-mail", "properties": "*"}), ["the e-mail", *columns]
    )
    names = [one.name for one in resolved.fields[1:]]
    assert len(set(names)) == len(names) == len(columns)
    for name in names:
        assert name.strip() == name != ""
        assert not name.startswith("$")
        name.encode()
