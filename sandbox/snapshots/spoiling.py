"""How each kind of bad row is made from a good one."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.snapshots.columns import Column
from sandbox.snapshots.kinds import Kind

PLACEHOLDERS = ("none", "n/a", "NULL", "-", "unknown")
BAD_PHONES = ("+40 12", "call me", "+999 555 000 111 222 333", "0000000000", "12345")
TOO_LONG = 24_000_000  # characters; the exporter's limit for a record is 16 MB

# "+async-fail" and "+sync-fail" are the words that the stand-in Klaviyo knows.
SPOIL_EMAIL: dict[Kind, Callable[[str, int], str]] = {
    Kind.EMAIL_NO_AT: lambda email, _: email.replace("@", "."),
    Kind.EMAIL_MAILTO: lambda email, _: f"mailto:{email}",
    Kind.EMAIL_EXCLAMATION: lambda email, _: email.replace("@", "!@"),
    Kind.EMAIL_DIGIT_IN_TLD: lambda email, _: f"{email}1",
    Kind.EMAIL_SPACE: lambda email, _: email.replace("@", " x@"),
    Kind.EMAIL_TOO_LONG: lambda email, _: "x" * 90 + email,
    Kind.EMAIL_BLANK: lambda _email, _: "",
    Kind.EMAIL_PLACEHOLDER: lambda _, number: PLACEHOLDERS[number % len(PLACEHOLDERS)],
    Kind.DUPLICATE: lambda email, _: email.upper(),
    Kind.DUPLICATE_ACROSS: lambda email, _: email.upper(),
    Kind.KLAVIYO_ASYNC: lambda email, _: email.replace("@", "+async-fail@"),
    Kind.KLAVIYO_SYNC: lambda email, _: "refused-by-klaviyo." + email.replace("@", "+sync-fail@"),
}
SPOIL_CELLS: dict[Kind, Callable[[list[str]], list[str]]] = {
    Kind.RAGGED_SHORT: lambda cells: cells[: max(1, len(cells) - 2)],
    Kind.RAGGED_LONG: lambda cells: [*cells, "surplus"],
    Kind.NUL_BYTE: lambda cells: [*cells[:-1], cells[-1] + "\0"],
    # Byte FF, once the file is encoded with "surrogateescape".
    Kind.INVALID_UTF8: lambda cells: [*cells[:-1], cells[-1] + "\udcff"],
}
# Once the cells are quoted, to the last one.
SPOIL_LAST: dict[Kind, Callable[[str], str]] = {
    Kind.UNTERMINATED_QUOTE: lambda cell: '"' + cell.replace('"', ""),
    Kind.STRAY_QUOTE: lambda cell: '"' + cell.replace('"', "") + '"x',
    Kind.BARE_CR: lambda cell: cell.replace('"', "") + "\rx",
    Kind.RECORD_TOO_LONG: lambda cell: cell.replace('"', "") + "x" * TOO_LONG,
}
NEEDED_COLUMNS = {
    Column.EMAIL: frozenset(SPOIL_EMAIL),
    Column.TELEPHONE: frozenset({Kind.BAD_PHONE}),
    Column.FIRST_NAME: frozenset({Kind.PROFILE_TOO_LARGE}),
    Column.CUSTOMER_ID: frozenset({Kind.EXTERNAL_ID_TOO_LONG}),
}


def spoiled(cells: dict[Column, str], kind: Kind, number: int) -> dict[Column, str]:
    """Spoil the cells of a good row as a kind says; `number` varies how."""
    made = dict(cells)
    if kind in SPOIL_EMAIL:
        made[Column.EMAIL] = SPOIL_EMAIL[kind](made[Column.EMAIL], number)
    if kind is Kind.BAD_PHONE:
        made[Column.TELEPHONE] = BAD_PHONES[number % len(BAD_PHONES)]
    if kind is Kind.PROFILE_TOO_LARGE:
        made[Column.FIRST_NAME] = "x" * 110_000
    if kind is Kind.EXTERNAL_ID_TOO_LONG:
        made[Column.CUSTOMER_ID] *= 9
    return made
