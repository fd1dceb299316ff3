"""How a partition is written, as far as anything says so: its dialect, and its culture. Pure.

A culture such as en-GB or de-DE says how dates and numbers are written. model.json names one
("culture"), and then it governs how values are to be read (Common Data Model folder metadata,
2020-04-03). Source: Unicode CLDR 46, which .NET uses for its cultures; here is the little of it
that reading cells needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "\\t": "\t"}

# 5/8/1986 is May 8 in these, and where no culture is named: Customer Insights' default is en-US.
_MONTH_FIRST = re.compile("en|en-us|es-us|es-pr|fil|fil-ph")

# Languages that write 1,5; those that write 1.5; and the countries that differ from their language.
_COMMA = re.compile(
    "af|az|be|bg|bs|ca|cs|da|de|el|es|et|eu|fi|fo|fr|gl|hr|hu|hy|id|is|it|ka|kk|ky|lb|lt|lv|mk|nb"
    "|nl|nn|no|pl|pt|ro|ru|sk|sl|sq|sr|sv|tr|uk|uz|vi"
)
_POINT = re.compile("cy|en|fil|ga|he|hi|ja|ko|ms|mt|sw|ta|te|th|ur|zh")
_OTHERWISE = re.compile("de-(ch|li)|it-ch|en-za|es-(419|cu|do|gt|hn|mx|ni|pa|pe|pr|sv|us)")


# The Windows ("ANSI") code pages in which Excel saves CSV, by language; zh-Hant differs from zh.
# Source: Microsoft, National Language Support, "Code Page Identifiers".
_CODE_PAGES = {
    "cp1250": "bs|cs|hr|hu|pl|ro|sk|sl|sq|sr",
    "cp1251": "be|bg|kk|ky|mk|mn|ru|tg|tt|uk",
    "cp1252": "af|br|ca|cy|da|de|en|es|eu|fi|fil|fo|fr|ga|gl|id|is|it|lb|ms|nb|nl|nn|no|pt|sv|sw",
    "cp1253": "el",
    "cp1254": "az|tr|uz",
    "cp1255": "he",
    "cp1256": "ar|fa|ur",
    "cp1257": "et|lt|lv",
    "cp1258": "vi",
    "cp874": "th",
    "cp932": "ja",
    "cp949": "ko",
    "gbk": "zh",
}
_TRADITIONAL_CHINESE = re.compile("zh-(hant(-.+)?|tw|hk|mo)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a partition is written. None: nothing says so.

    quoting: a line end inside quotes is data. csvStyle makes no difference, see csv_grammar.
    culture: a name such as en-GB.
    """

    columns: tuple[str, ...] | None = None
    has_header: bool | None = None
    delimiter: str | None = None
    encoding: str | None = None
    quoting: bool = True
    culture: str | None = None


@dataclass(frozen=True, slots=True)
class Culture:
    """How dates and numbers are written.

    day_first: 5/8/1986 is August 5. decimal: the decimal sign; thousands may be grouped then.
    None where nothing says so: numbers are read with a decimal point, and ungrouped only.
    """

    day_first: bool = False
    decimal: str | None = None


UNKNOWN = Culture()


def is_culture(name: str) -> bool:
    """Tell whether this is the name of a culture, known or not."""
    return bool(re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*", name))


def culture_of(name: str | None) -> Culture:
    """Give what is known of a culture: nothing if the name is not a culture's."""
    if not name or not is_culture(name):
        return UNKNOWN
    key = name.replace("_", "-").casefold()
    language, _, rest = key.partition("-")
    place = f"{language}-{rest.rpartition('-')[2]}" if rest else language  # zh-Hans-CN: zh-CN
    is_known = _COMMA.fullmatch(language) or _POINT.fullmatch(language)
    has_comma = bool(_COMMA.fullmatch(language)) != bool(_OTHERWISE.fullmatch(place))
    return Culture(
        day_first=not _MONTH_FIRST.fullmatch(place),
        decimal=("," if has_comma else ".") if is_known else None,
    )


def code_page_of(name: str | None) -> str | None:
    """Give Python's name of the Windows code page of a culture; None where it is not known."""
    if not name or not is_culture(name):
        return None
    key = name.replace("_", "-").casefold()
    if _TRADITIONAL_CHINESE.fullmatch(key):
        return "cp950"
    language = key.partition("-")[0]
    found = (page for page, languages in _CODE_PAGES.items() if language in languages.split("|"))
    return next(found, None)
