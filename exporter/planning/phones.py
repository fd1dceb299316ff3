"""Phone numbers to E.164, through Google's libphonenumber data (phonenumberslite).

The library takes about 13 microseconds a number; a million of them would cost more than everything
else together. So numbers that are E.164 already, but for blanks and punctuation, are recognised by
one regular expression made from the library's own data. Only the rest goes through the library,
once for each distinct text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import phonenumbers
from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    PhoneMetadata,
    PhoneNumberFormat,
    ValidationResult,
)

# What people put between digits; a slash may join two numbers, so it is left to the library.
PUNCTUATION = " ().-\u00a0"
MAX_DIGITS = 15  # ITU-T E.164; the library knows longer ones, which only work in their country


def to_e164(text: str, region: str | None) -> str | None:
    """Give the number in E.164, or None if no such number can exist.

    region: the country of numbers without a country code.
    """
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    # is_possible_number would also take numbers without an area code: nobody abroad can call them.
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return None
    e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    return e164 if len(e164) <= MAX_DIGITS + 1 else None


def digits_pattern(text: str, region: str | None) -> str | None:
    """Give a pattern for the digits of a number however people write it; None if it is not one.

    With its country code or without, what is dialled before that from abroad (00, 011), and what
    stands before it at home, mostly a zero. Longer and shorter numbers do not match.
    """
    text = text.strip().lower().removeprefix("tel:").strip()
    try:
        number = phonenumbers.parse("+" + text[2:] if text.startswith("00") else text, region)
    except phonenumbers.NumberParseException:
        return None
    code = number.country_code or 0
    country = phonenumbers.region_code_for_country_code(code)
    at_home = phonenumbers.ndd_prefix_for_region(country, True) or "0"
    return rf"(?:(?:0\d{{0,3}})?{code})?(?:0*|{at_home}){number.national_number}"


@lru_cache(maxsize=1)
def e164_pattern() -> str:
    """Give a pattern for numbers that `to_e164` would return unchanged.

    These are: +, country code, possible length. Numbers whose national part begins like something
    that the library strips (mostly trunk prefixes) are left to it. Countries with the same rest
    share it: an automaton with a branch for each would be too large to be fast.
    """
    codes_by_rest: dict[str, list[str]] = {}
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        metadata = _metadata(code, regions[0])
        if metadata and metadata.general_desc:
            stripped = _first_digits(metadata.national_prefix_for_parsing or "")
            first = "".join(digit for digit in "123456789" if digit not in stripped)
            longest = MAX_DIGITS - len(str(code))
            possible = metadata.general_desc.possible_length
            lengths = sorted(length for length in possible if 1 < length <= longest)
            if first and lengths:
                rest = f"[{first}](?:{'|'.join(_digits(lengths))})"
                codes_by_rest.setdefault(rest, []).append(str(code))
    branches = (f"(?:{'|'.join(codes)}){rest}" for rest, codes in codes_by_rest.items())
    return rf"\+(?:{'|'.join(branches)})"


def _digits(lengths: Sequence[int]) -> Iterator[str]:
    """Give patterns of what follows the first digit; neighbouring lengths as one range."""
    runs: list[list[int]] = []
    for length in lengths:
        if runs and length == runs[-1][-1] + 1:
            runs[-1].append(length)
        else:
            runs.append([length])
    for run in runs:
        yield f"[0-9]{{{run[0] - 1},{run[-1] - 1}}}"


def _first_digits(pattern: str) -> set[str]:
    """Give the digits that a match of one of the library's patterns can begin with.

    The patterns know digits, sets of digits, groups, alternatives and repetition.
    """
    atoms = re.findall(r"\(\?:|\\d|\[[^]]*\]|\{[^}]*\}|.", pattern)

    def alternatives() -> tuple[set[str], bool]:
        digits, can_be_empty = branch()
        while atoms and atoms.pop(0) == "|":
            more, empty = branch()
            digits, can_be_empty = digits | more, can_be_empty or empty
        return digits, can_be_empty

    def branch() -> tuple[set[str], bool]:
        digits: set[str] = set()
        at_start = True
        while atoms and atoms[0] not in ("|", ")"):
            atom = atoms.pop(0)
            if atom in ("(", "(?:"):
                more, may_be_left_out = alternatives()
            else:
                more = {digit for digit in "0123456789" if re.fullmatch(atom, digit)}
                may_be_left_out = atom == "$"
            if atoms and atoms[0][0] in "?*+{":
                may_be_left_out = atoms.pop(0)[:2] in ("?", "*", "{0") or may_be_left_out
            digits |= more if at_start else set()
            at_start = at_start and may_be_left_out
        return digits, at_start

    return alternatives()[0]


def _metadata(code: int, region: str) -> PhoneMetadata | None:
    if region == "001":
        return PhoneMetadata.metadata_for_nongeo_region(code, None)
    return PhoneMetadata.metadata_for_region(region, None)
