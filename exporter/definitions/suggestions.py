"""Suggests a mapping from the names and data types of columns. A person checks it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from exporter.definitions.mapping import ValueType, printable

_USUAL_NAMES: tuple[tuple[str, str], ...] = (
    ("email", r"e?mail(address)?1?|primaryemail(address)?"),
    ("phone_number", r"(tele)?phone(number)?1?|mobile(phone)?(number)?1?|primaryphone(number)?"),
    ("first_name", r"(first|given)name"),
    ("last_name", r"(last|family)name|surname"),
    ("organization", r"company(name)?|organi[sz]ation(name)?"),
    ("title", r"jobtitle"),
    ("image", r"(profile)?image(url)?"),
    ("locale", r"locale|language(code)?"),
    ("location.address1", r"(address1)?(line1|street(address)?)|address(line)?1"),
    ("location.address2", r"(address1)?line2|address(line)?2"),
    ("location.city", r"(address1)?city"),
    ("location.region", r"(address1)?(stateorprovince|state|region|county|province)"),
    ("location.zip", r"(address1)?(postalcode|postcode|zip(code)?)"),
    ("location.country", r"(address1)?country((or)?region)?"),
    ("location.latitude", r"(address1)?latitude"),
    ("location.longitude", r"(address1)?longitude"),
    ("location.timezone", r"timezone"),
    ("properties.birthday", r"birth(date|day)|dateofbirth"),
)


# The data types of the Common Data Model that are not text.
_VALUE_TYPES = {
    **dict.fromkeys(("int64", "double", "decimal"), ValueType.NUMBER),
    **dict.fromkeys(("date", "datetime", "datetimeoffset"), ValueType.DATE),
    "boolean": ValueType.BOOLEAN,
}


def suggest(
    columns: Iterable[str], types: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Propose a mapping document from column names as Customer Insights and Dataverse use them.

    types: the data types of model.json by column. Numbers, dates and booleans become properties.
    """
    suggestion: dict[str, Any] = {}
    left = list(columns)
    for target, pattern in _USUAL_NAMES:
        column = next((name for name in left if re.fullmatch(pattern, _letters(name))), None)
        if column is not None:
            left.remove(column)
            _place(suggestion, target, column)
    for column in left:
        value_type = _VALUE_TYPES.get(types.get(column, "").casefold())
        name = printable(column).lstrip("$")
        if value_type and name.strip():
            properties = suggestion.setdefault("properties", {})
            properties.setdefault(name, {"column": column, "type": str(value_type)})
    return suggestion


def _letters(name: str) -> str:
    """Give the name without case, blanks and punctuation: E-mail, e_mail and EMail are alike."""
    return re.sub(r"[\W_]", "", name).casefold()


def _place(suggestion: dict[str, Any], target: str, column: str) -> None:
    group, _, name = target.rpartition(".")
    value: Any = {"column": column, "type": "date"} if group == "properties" else column
    (suggestion.setdefault(group, {}) if group else suggestion)[name] = value
