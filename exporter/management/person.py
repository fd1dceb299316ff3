"""A person, by what they are known by: found in texts and in cells of rows. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from exporter.errors import ConfigError
from exporter.planning import emails, phones


class Person:
    """A person, by what they are known by. addresses: in every spelling that is the same one."""

    def __init__(self, identifiers: Sequence[str]) -> None:
        given = [each.strip().lower() for each in identifiers if each.strip()]
        if not given:
            raise ConfigError("no person was named", hint="Name at least one person.")
        self.addresses = {
            spelling for each in identifiers if "@" in each for spelling in emails.spellings(each)
        }
        self._addresses = re.compile("|".join(map(_address, self.addresses)) or NEVER)
        self._others = [each for each in given if "@" not in each]
        cells = {
            form
            for each in self._others
            for form in (each, each.replace('"', '""'), json.dumps(each, ensure_ascii=False)[1:-1])
        }
        self._cells = re.compile("|".join(map(_cell, cells)) or NEVER)
        self._numbers = lru_cache(self._numbers_in)

    def is_named_in(self, text: str) -> bool:
        """Tell whether a text holds one of the person's addresses.

        "Ada <ADA@example.com>" holds ada@example.com, but xada@example.com does not.
        """
        return self._addresses.search(_plain(text)) is not None

    def is_in(self, cell: str, region: str | None) -> bool:
        """Tell whether a cell, or a cell of the row that it holds, names the person.

        Telephone numbers are found however they are written, see `phones.digits_pattern`. It is
        better to blank one row too many than to leave one because somebody typed "tel:" or left out
        the country code. region: of numbers without a country code.
        """
        text, numbers = _plain(cell), self._numbers(region)
        runs = (part for run in _TELEPHONE.findall(text) for part in {run, *run.split("/")})
        return (
            self._addresses.search(text) is not None
            or self._cells.search(text) is not None
            or any(numbers.fullmatch(re.sub(r"\D", "", run)) for run in runs)
        )

    def _numbers_in(self, region: str | None) -> re.Pattern[str]:
        """Make a pattern of the digits of the person's telephone numbers.

        What is not a telephone number by the rules counts with the digits that were given.
        """
        given = [
            each
            for each in self._others
            if _TELEPHONE.fullmatch(each.removeprefix("tel:").lstrip("+( "))
        ]
        patterns = (
            phones.digits_pattern(each, region) or re.sub(r"\D", "", each) for each in given
        )
        return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or NEVER)


NEVER = r"(?!)"
_TELEPHONE = re.compile(r"(?<![\w@-])\d[\d ().\-/\u00a0]{4,}\d(?![\w@])")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _address(address: str) -> str:
    return rf"(?<![\w.%+-]){re.escape(_plain(address))}(?![\w-]|\.\w)"


def _cell(identifier: str) -> str:
    """Make a pattern of a whole cell, of a row with any separator or of JSON.

    The cell may begin with the quote that keeps a spreadsheet from calculating it.
    """
    return rf"(?:^|[,;|\t\r\n\"'])\s*{re.escape(_plain(identifier))}\s*(?:$|[,;|\t\r\n\"])"
