"""Phone numbers: the fast path gives what the library gives."""

from __future__ import annotations

import re

import duckdb
import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

from exporter.planning import phones
from exporter.planning.phones import e164_pattern, to_e164
from exporter.sql import literal

PATTERN = re.compile(e164_pattern())
CODES = sorted(COUNTRY_CODE_TO_REGION_CODE)


@pytest.mark.parametrize(
    ("text", "region", "e164"),
    [
        ("+40722000001", None, "+40722000001"),
        ("0722 000 001", "RO", "+40722000001"),
        ("0722 000 001", None, None),
        ("0040722000001", "RO", "+40722000001"),
        ("(650) 253-0000", "US", "+16502530000"),
        ("1-800-FLOWERS", "US", "+18003569377"),
        ("253-0000", "US", None),  # without area code: no one abroad can call it
        ("+44 (0)20 7946 0000", None, "+442079460000"),
        ("+39 06 698 83145", None, "+390669883145"),  # an Italian zero stays
        ("+52 55 1234 5678", None, "+525512345678"),
        ("+81 3 1234 5678", None, "+81312345678"),
        ("+81" + "1" * 17, None, None),  # longer than E.164
        ("+49" + "1" * 13, None, "+49" + "1" * 13),
        ("+49" + "1" * 14, None, None),
        ("+1" + "9" * 300, None, None),
        ("+999123456", None, None),
        ("", "RO", None),
        ("+", "RO", None),
        ("\ud800", "RO", None),
        ("0722\x00000001", "RO", None),
    ],
)
def test_number_is_e164_or_none(text: str, region: str | None, e164: str | None):
    assert to_e164(text, region) == e164


def test_result_stays_as_it_is_when_it_is_read_again():
    for text, region in [
        ("+4419 00 12345", None),
        ("8 (495) 123-45-67", "RU"),
        ("011 15 2345-6789", "AR"),
    ]:
        e164 = to_e164(text, region)
        assert e164
        assert to_e164(e164, None) == e164


national = st.text("0123456789", max_size=18)
numbers = st.builds("+{}{}".format, st.sampled_from(CODES), national)


@settings(max_examples=800, deadline=None)
@given(numbers)
@example("+441800201234567")  # 180020 is stripped
@example("+5491123456789")
@example("+861795112345678")
@example("+35215061234")
@example("+3788123456")  # San Marino: the library puts 0549 before it
@example("+672212345")
def test_what_the_fast_path_takes_the_library_leaves_unchanged(number: str):
    if PATTERN.fullmatch(number):
        assert to_e164(number, None) == number
        assert len(number) <= 16


def test_example_of_every_country_is_possible_and_most_take_the_fast_path():
    samples = [
        phonenumbers.example_number_for_non_geo_entity(code)
        if region == "001"
        else phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
        for code in CODES
        for region in COUNTRY_CODE_TO_REGION_CODE[code]
    ]
    known = [
        phonenumbers.format_number(one, phonenumbers.PhoneNumberFormat.E164)
        for one in samples
        if one
    ]
    assert [number for number in known if to_e164(number, None) != number] == []
    assert sum(PATTERN.fullmatch(number) is not None for number in known) > 0.9 * len(known)


@pytest.mark.parametrize(
    "number",
    [
        "+40722000001", "+447400123456", "+16502530000", "+4915112345678", "+33612345678",
        "+34612345678",
        "+48601234567", "+46701234567", "+41791234567", "+393123456789", "+919876543210",
        "+819012345678",
        "+5511961234567", "+61412345678", "+821012345678", "+573211234567", "+6591234567",
    ],
)  # fmt: skip
def test_usual_mobile_numbers_take_the_fast_path(number: str):
    assert PATTERN.fullmatch(number)
    assert to_e164(number, None) == number


punctuated = st.builds(
    lambda number, marks: "".join(
        mark + character for mark, character in zip(marks, number, strict=False)
    ),
    numbers,
    st.lists(
        st.sampled_from(["", "", "", "", " ", "-", ".", "(", ")", "\u00a0", ") ", " -"]),
        min_size=25,
        max_size=25,
    ),
)


@settings(max_examples=300, deadline=None)
@given(punctuated)
def test_punctuation_is_passed_over_as_the_library_passes_over_it(text: str):
    plain = text.translate({ord(mark): None for mark in phones.PUNCTUATION})
    if PATTERN.fullmatch(plain):
        assert to_e164(text, None) == plain


@settings(max_examples=5, deadline=None)
@given(st.lists(numbers, min_size=50, max_size=100))
def test_duckdb_matches_as_python_does(texts: list[str]):
    is_e164 = f"regexp_full_match(it, {literal(e164_pattern())})"
    query = f"SELECT {is_e164} FROM (SELECT unnest($texts) AS it)"
    found = duckdb.connect().execute(query, {"texts": texts}).fetchall()
    assert [matches for (matches,) in found] == [
        PATTERN.fullmatch(text) is not None for text in texts
    ]


@settings(max_examples=100)
@given(st.text(max_size=40), st.sampled_from([None, "RO", "US"]))
def test_no_text_raises(text: str, region: str | None):
    e164 = to_e164(text, region)
    assert e164 is None or re.fullmatch(r"\+[0-9]{2,15}", e164)


@pytest.mark.parametrize(
    ("pattern", "digits"),
    [
        ("", ""),
        ("0", "0"),
        ("06", "0"),
        ("0|180020", "01"),
        ("0?(?:(11|2(?:0|1))15)?", "012"),
        ("(?:0|90)(?:(1[245])(\\d{10}))?", "09"),
        ("([89]\\d{5})$", "89"),
        ("[0-258]x", "01258"),
        ("(?:(?:003)0?)|7", "07"),
        ("1{0,2}3", "13"),
        ("\\d", "0123456789"),
        (".5", "0123456789"),
    ],
)
def test_first_digits_of_a_pattern(pattern: str, digits: str):
    assert phones._first_digits(pattern) == set(digits)
