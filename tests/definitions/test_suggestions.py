"""A first mapping, suggested from names and data types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.definitions.mapped_fields import resolve
from exporter.definitions.mapping import (
    MappingDocument,
    parse_mapping,
)
from exporter.definitions.suggestions import suggest

COLUMNS = ["CustomerId", "FirstName", "EMail", "Telephone", "City", "LoyaltyTier", "LifetimeValue"]


@pytest.mark.parametrize(
    ("columns", "suggestion"),
    [
        (
            COLUMNS,
            {
                "email": "EMail",
                "phone_number": "Telephone",
                "first_name": "FirstName",
                "location": {"city": "City"},
            },
        ),
        (
            [
                "EMailAddress1",
                "Telephone1",
                "FirstName",
                "LastName",
                "JobTitle",
                "Address1_Line1",
                "Address1_Line2",
                "Address1_City",
                "Address1_StateOrProvince",
                "Address1_PostalCode",
                "Address1_Country",
                "BirthDate",
            ],
            {
                "email": "EMailAddress1",
                "phone_number": "Telephone1",
                "first_name": "FirstName",
                "last_name": "LastName",
                "title": "JobTitle",
                "location": {
                    "address1": "Address1_Line1",
                    "address2": "Address1_Line2",
                    "city": "Address1_City",
                    "region": "Address1_StateOrProvince",
                    "zip": "Address1_PostalCode",
                    "country": "Address1_Country",
                },
                "properties": {"birthday": {"column": "BirthDate", "type": "date"}},
            },
        ),
        (
            [
                "emailaddress1",
                "mobilephone",
                "givenname",
                "surname",
                "companyname",
                "address1_latitude",
                "address1_longitude",
            ],
            {
                "email": "emailaddress1",
                "phone_number": "mobilephone",
                "first_name": "givenname",
                "last_name": "surname",
                "organization": "companyname",
                "location": {"latitude": "address1_latitude", "longitude": "address1_longitude"},
            },
        ),
        (
            [
                " E-Mail ",
                "Phone Number",
                "First Name",
                "last_name",
                "Street Address",
                "Postal Code",
                "Date of Birth",
            ],
            {
                "email": " E-Mail ",
                "phone_number": "Phone Number",
                "first_name": "First Name",
                "last_name": "last_name",
                "location": {"address1": "Street Address", "zip": "Postal Code"},
                "properties": {"birthday": {"column": "Date of Birth", "type": "date"}},
            },
        ),
        (
            [
                "primaryEmail",
                "primaryPhone",
                "PostCode",
                "StreetAddress",
                "State",
                "DateOfBirth",
                "Locale",
            ],
            {
                "email": "primaryEmail",
                "phone_number": "primaryPhone",
                "locale": "Locale",
                "location": {"address1": "StreetAddress", "region": "State", "zip": "PostCode"},
                "properties": {"birthday": {"column": "DateOfBirth", "type": "date"}},
            },
        ),
        # each attribute once, the first column wins
        (["EMail", "EMailAddress1"], {"email": "EMail"}),
        (["CustomerId", "", " ", "Emailed", "Telephone2", "Address2_City", "Gender"], {}),
        ([], {}),
    ],
)
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
        unique=True,  # as columns are once a file is read
    )
)
def test_suggestion_is_a_mapping_that_fits_wherever_it_has_an_identifier(columns: list[str]):
    suggestion = suggest(columns)
    if "email" in suggestion or "phone_number" in suggestion:
        document = parse_mapping(suggestion)
        assert isinstance(document, MappingDocument)
        resolve(document, columns)
