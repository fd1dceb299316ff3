"""The mapping document: what a person may write, what is said when it is wrong, and which column fills what."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.definitions.mapping import (
    ATTRIBUTES,
    LOCATION,
    Empty,
    MappingDocument,
    PropertyRule,
    ValueType,
    parse_mapping,
    resolve,
)
from exporter.definitions.suggestions import suggest
from exporter.errors import MappingError

COLUMNS = ["CustomerId", "FirstName", "EMail", "Telephone", "City", "LoyaltyTier", "LifetimeValue"]


def filled(document: dict[str, Any], columns: list[str]) -> dict[str, str]:
    """Which column fills which attribute."""
    fields = resolve(parse_mapping(document), columns).fields
    return {f"{one.group}.{one.name}".strip("."): columns[one.column] for one in fields}


# The document


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


# Against the columns of a snapshot


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [
        ("EMail", ["email", "EMail", "EMAIL"], 1),
        ("email", ["EMail", "Email"], 0),
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


# A first mapping


@pytest.mark.parametrize(
    ("columns", "suggestion"),
    [
        (
            COLUMNS,
            {"email": "EMail", "phone_number": "Telephone", "first_name": "FirstName", "location": {"city": "City"}},
        ),
        (
            ["EMailAddress1", "Telephone1", "FirstName", "LastName", "JobTitle", "Address1_Line1", "Address1_Line2",
             "Address1_City", "Address1_StateOrProvince", "Address1_PostalCode", "Address1_Country", "BirthDate"],
            {"email": "EMailAddress1", "phone_number": "Telephone1", "first_name": "FirstName",
             "last_name": "LastName", "title": "JobTitle",
             "location": {"address1": "Address1_Line1", "address2": "Address1_Line2", "city": "Address1_City",
                          "region": "Address1_StateOrProvince", "zip": "Address1_PostalCode",
                          "country": "Address1_Country"},
             "properties": {"birthday": {"column": "BirthDate", "type": "date"}}},
        ),
        (
            ["emailaddress1", "mobilephone", "givenname", "surname", "companyname", "address1_latitude",
             "address1_longitude"],
            {"email": "emailaddress1", "phone_number": "mobilephone", "first_name": "givenname",
             "last_name": "surname", "organization": "companyname",
             "location": {"latitude": "address1_latitude", "longitude": "address1_longitude"}},
        ),
        (
            [" E-Mail ", "Phone Number", "First Name", "last_name", "Street Address", "Postal Code", "Date of Birth"],
            {"email": " E-Mail ", "phone_number": "Phone Number", "first_name": "First Name",
             "last_name": "last_name", "location": {"address1": "Street Address", "zip": "Postal Code"},
             "properties": {"birthday": {"column": "Date of Birth", "type": "date"}}},
        ),
        (
            ["primaryEmail", "primaryPhone", "PostCode", "StreetAddress", "State", "DateOfBirth", "Locale"],
            {"email": "primaryEmail", "phone_number": "primaryPhone", "locale": "Locale",
             "location": {"address1": "StreetAddress", "region": "State", "zip": "PostCode"},
             "properties": {"birthday": {"column": "DateOfBirth", "type": "date"}}},
        ),
        (["EMail", "EMailAddress1"], {"email": "EMail"}),  # each attribute once, the first column wins
        (["CustomerId", "", " ", "Emailed", "Telephone2", "Address2_City", "Gender"], {}),
        ([], {}),
    ],
)  # fmt: skip
def test_mapping_is_suggested_from_usual_names(columns: list[str], suggestion: dict[str, Any]):
    assert suggest(columns) == suggestion


def test_columns_that_the_model_says_are_no_text_are_suggested_as_properties():
    types = {
        "EMail": "string",
        "Points": "int64",
        "Spent": "Decimal",
        "Since": "dateTime",
        "Vip": "boolean",
    }
    types |= {"Note": "string"}
    suggestion = suggest(
        [*types, "$Score", "Unheard"], {**types, "$Score": "double", "Unheard": "unclassified"}
    )
    assert suggestion == {
        "email": "EMail",
        "properties": {
            "Points": {"column": "Points", "type": "number"},
            "Spent": {"column": "Spent", "type": "number"},
            "Since": {"column": "Since", "type": "date"},
            "Vip": {"column": "Vip", "type": "boolean"},
            "Score": {"column": "$Score", "type": "number"},
        },
    }
    resolve(parse_mapping(suggestion), [*types, "$Score", "Unheard"])


@given(
    st.lists(
        st.sampled_from(["EMail", "Phone", "City", "BirthDate", "x"]) | st.text(max_size=8),
        max_size=8,
    )
)
def test_suggestion_is_a_mapping_that_fits_wherever_it_has_an_identifier(columns: list[str]):
    suggestion = suggest(columns)
    if "email" in suggestion or "phone_number" in suggestion:
        document = parse_mapping(suggestion)
        assert isinstance(document, MappingDocument)
        resolve(document, columns)
