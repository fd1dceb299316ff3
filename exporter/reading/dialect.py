"""How dates and numbers are written in a culture such as en-GB or de-DE: the little that reading cells needs. Pure.

Source: Unicode CLDR 46, as .NET has it for its cultures; model.json names one of these ("culture"), and then it
governs how values are to be read (Common Data Model folder metadata, 2020-04-03).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# 5/8/1986 is May 8 in these, and where nothing says otherwise: en-US is Customer Insights' own default.
_MONTH_FIRST = re.compile("en|en-us|es-us|es-pr|fil|fil-ph")

# Languages that write 1,5 and those that write 1.5; and the countries that do otherwise than their language.
_COMMA = re.compile(
    "af|az|be|bg|bs|ca|cs|da|de|el|es|et|eu|fi|fo|fr|gl|hr|hu|hy|id|is|it|ka|kk|ky|lb|lt|lv|mk|nb|nl|nn|no|pl|pt|ro"
    "|ru|sk|sl|sq|sr|sv|tr|uk|uz|vi"
)
_POINT = re.compile("cy|en|fil|ga|he|hi|ja|ko|ms|mt|sw|ta|te|th|ur|zh")
_OTHERWISE = re.compile("de-(ch|li)|it-ch|en-za|es-(419|cu|do|gt|hn|mx|ni|pa|pe|pr|sv|us)")


@dataclass(frozen=True, slots=True)
class Culture:
    """day_first: 5/8/1986 is August 5. decimal: the decimal sign, where thousands may be grouped as well; None where
    nothing says so, and then numbers are read with a decimal point and ungrouped only.
    """

    day_first: bool = False
    decimal: str | None = None


UNKNOWN = Culture()


def is_culture(name: str) -> bool:
    """Whether this is the name of a culture, known or not."""
    return bool(re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*", name))


def culture_of(name: str | None) -> Culture:
    """What is known of a culture; nothing of one that has no proper name."""
    if not name or not is_culture(name):
        return UNKNOWN
    key = name.replace("_", "-").casefold()
    language, _, rest = key.partition("-")
    place = f"{language}-{rest.rpartition('-')[2]}" if rest else language  # zh-Hans-CN is in zh-CN
    is_known = _COMMA.fullmatch(language) or _POINT.fullmatch(language)
    has_comma = bool(_COMMA.fullmatch(language)) != bool(_OTHERWISE.fullmatch(place))
    return Culture(
        day_first=not _MONTH_FIRST.fullmatch(place),
        decimal=("," if has_comma else ".") if is_known else None,
    )


DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "\\t": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a partition is written, as far as anything says so. None: not said."""

    columns: tuple[str, ...] | None = None
    has_header: bool | None = None
    delimiter: str | None = None
    encoding: str | None = None
    quoting: bool = (
        True  # a line end inside quotes is data; csvStyle makes no difference, see reading
    )
    culture: str | None = None  # such as en-GB: how dates and numbers are written
