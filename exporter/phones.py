"""Phone numbers to E.164, through Google's libphonenumber data (phonenumberslite).

The library takes about 13 microseconds a number; a million of them would cost more than everything else together.
So numbers that are E.164 already but for blanks and punctuation are recognised by one regular expression made from
the library's own data, and only the rest goes through the library, once for each distinct text.
"""

from __future__ import annotations

from functools import lru_cache

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberFormat

PUNCTUATION = " ().-/\u00a0"  # what people put between digits; removed before the pattern is tried


def to_e164(text: str, region: str | None) -> str | None:
    """The number in E.164, or None when no such number can exist. `region`: of numbers without country code."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


@lru_cache(maxsize=1)
def e164_pattern() -> str:
    """A regular expression for numbers that `to_e164` would return unchanged: +, country code, possible length.

    Numbers whose national part begins with the country's trunk prefix are left to the library, which may strip it.
    """
    codes = []
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        if metadata := _metadata(code, regions[0]):
            lengths = [n for n in metadata.general_desc.possible_length if n > 1]  # type: ignore[union-attr]
            trunk = metadata.national_prefix or "0"
            bodies = "|".join(f"[0-9]{{{length - 1}}}" for length in sorted(lengths))
            first = "".join(digit for digit in "123456789" if digit != trunk[0])
            codes.append(f"{code}[{first}](?:{bodies})")
    return rf"\+(?:{'|'.join(codes)})"


def _metadata(code: int, region: str) -> PhoneMetadata | None:
    if region == "001":
        return PhoneMetadata.metadata_for_nongeo_region(code, None)
    return PhoneMetadata.metadata_for_region(region, None)
