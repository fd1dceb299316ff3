"""The mapping document: what a person may write, and what is said when it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.definitions.mapping import (
    Empty,
    PropertyRule,
    ValueType,
    parse_mapping,
)
from exporter.errors import MappingError


def test_properties_have_a_short_and_a_long_form():
    document = parse_mapping(
        {
            "email": "EMail",
            "properties": {
                "tier": "LoyaltyTier",
                "value": {"column": "LifetimeValue", "type": "number", "empty": "clear"},
                "city": {"column": "City"},
            },
        }
    )
    assert document.properties == {
        "tier": PropertyRule(column="LoyaltyTier", type=ValueType.STRING, empty=Empty.IGNORE),
        "value": PropertyRule(column="LifetimeValue", type=ValueType.NUMBER, empty=Empty.CLEAR),
        "city": PropertyRule(column="City"),
    }


def test_document_comes_back_from_json_as_it_was():
    document = parse_mapping(
        {"email": "E", "location": {"city": "C"}, "properties": {"a": "A"}, "newest_by": "M"}
    )
    assert parse_mapping(json.loads(document.model_dump_json())) == document
    everything = parse_mapping({"email": "E", "properties": "*"})
    assert parse_mapping(json.loads(everything.model_dump_json())) == everything


def test_blank_where_a_column_should_be_is_the_same_as_no_key():
    document = {
        "email": "E",
        "first_name": "",
        "phone_region": " ",
        "newest_by": "",
        "location": {"city": " "},
    }
    assert parse_mapping(document) == parse_mapping({"email": "E"})


@pytest.mark.parametrize(
    ("document", "identifier"),
    [
        ({"email": "E"}, "email"),
        ({"email": "E", "phone_number": "P", "external_id": "X"}, "email"),
        ({"phone_number": "P", "external_id": "X"}, "phone_number"),
        ({"external_id": "X"}, "external_id"),
        ({"email": "E", "external_id": "X", "identifier": "external_id"}, "external_id"),
        ({"email": "E", "phone_number": "P", "identifier": "phone_number"}, "phone_number"),
    ],
)
def test_profiles_are_told_apart_by_email_unless_another_identifier_is_chosen(document, identifier):
    assert parse_mapping(document).identified_by == identifier


@pytest.mark.parametrize(
    ("document", "keys"),
    [
        (None, ["mapping"]),
        ([], ["mapping"]),
        ("email: EMail", ["mapping"]),
        ({}, ["mapping"]),
        ({"first_name": "F"}, ["mapping"]),
        ({"email": ""}, ["mapping"]),
        ({"email": "  "}, ["mapping"]),
        ({"email": 5}, ["email"]),
        ({"email": ["E"]}, ["email"]),
        ({"emial": "E", "email": "E"}, ["emial"]),
        ({"$email": "E", "email": "E"}, ["$email"]),
        ({5: "E", "email": "E"}, ["5"]),
        ({"email": "E", "first_name": {}, "title": 7}, ["first_name", "title"]),
        ({"email": "E", "location": "City"}, ["location"]),
        ({"email": "E", "location": {"town": "T"}}, ["location"]),
        ({"email": "E", "location": {"city": 5, "zip": None}}, ["location.city", "location.zip"]),
        ({"email": "E", "properties": "all"}, ["properties"]),
        ({"email": "E", "properties": None}, ["properties"]),
        ({"email": "E", "properties": ["A"]}, ["properties"]),
        ({"email": "E", "properties": {"a": None}}, ["properties.a"]),
        ({"email": "E", "properties": {"a": ""}}, ["properties.a.column"]),
        ({"email": "E", "properties": {"a": {}}}, ["properties.a.column"]),
        (
            {"email": "E", "properties": {"a": {"column": "A", "type": "int"}}},
            ["properties.a.type"],
        ),
        (
            {"email": "E", "properties": {"a": {"column": "A", "empty": "null"}}},
            ["properties.a.empty"],
        ),
        (
            {"email": "E", "properties": {"a": {"column": "A", "format": "x"}}},
            ["properties.a.format"],
        ),
        (
            {"email": "E", "properties": {"a": 1, "b": {"column": 2}}},
            ["properties.a", "properties.b.column"],
        ),
        ({"email": "E", "properties": {7: "A"}}, ["properties.7"]),
        ({"email": "E", "properties": {"$a": "A"}}, ["properties"]),
        ({"email": "E", "properties": {"": "A"}}, ["properties"]),
        ({"email": "E", "properties": {" ": "A"}}, ["properties"]),
        ({"email": "E", "properties": {"a\0b": "A"}}, ["properties"]),
        ({"email": "E", "properties": {"a\x1fb": "A"}}, ["properties"]),
        ({"email": "E", "properties": {"a\ud800": "A"}}, ["properties"]),
        ({"email": "E", "identifier": "customer_id"}, ["identifier"]),
        ({"email": "E", "identifier": "phone_number"}, ["mapping"]),
        ({"email": "E", "phone_region": "de"}, ["phone_region"]),
        ({"email": "E", "culture": "British"}, ["culture"]),
        ({"email": "E", "phone_region": "UK"}, ["phone_region"]),
        ({"email": "E", "phone_region": "Romania"}, ["phone_region"]),
        ({"email": "E", "newest_by": 5}, ["newest_by"]),
    ],
)
def test_every_wrong_key_is_named(document: Any, keys: list[str]):
    with pytest.raises(MappingError) as caught:
        parse_mapping(document)
    message = caught.value.message.removeprefix("the mapping is wrong: ")
    assert (
        list(
            dict.fromkeys(
                problem.partition(": ")[0] for problem in message.split("; ") if ": " in problem
            )
        )
        == keys
    )
    assert caught.value.hint
    assert "PropertyRule" not in message
    assert "Value error" not in message


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("*"),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["email", "location", "properties", "column", "type", "identifier"])
                | st.text(max_size=4),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_document_is_a_mapping_or_a_mapping_error(document: Any):
    try:
        parsed = parse_mapping(document)
    except MappingError:
        return
    assert parsed.identified_by
    assert parsed.named_columns()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"emial": "Mail", "email": "EMail"}, "emial: there is no such key. Did you mean email?"),
        (
            {"email": "EMail", "properties": {"tier": {"column": "Tier", "typ": "number"}}},
            "properties.tier.typ: there is no such key. Did you mean type?",
        ),
        ({"email": "EMail", "zzz": "Z"}, "zzz: there is no such key"),
    ],
)
def test_an_unknown_key_names_the_one_that_is_like_it(document: Any, says: str) -> None:
    with pytest.raises(MappingError) as caught:
        parse_mapping(document)
    assert caught.value.message.endswith(says)


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"first_name": {"column": "Name", "empty": "clear"}}, "first_name"),
        ({"location": {"city": {"column": "City", "empty": "clear"}}}, "location.city"),
    ],
)
def test_rule_for_a_standard_attribute_is_refused_with_the_reason(document, key):
    with pytest.raises(MappingError, match=f"{key}: .*bulk import cannot remove an attribute"):
        parse_mapping({"email": "EMail", **document})
