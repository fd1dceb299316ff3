"""The columns of a snapshot's rows."""

from __future__ import annotations

from enum import StrEnum


class Column(StrEnum):
    """The columns of our Customer table, named as Microsoft's samples name them."""

    CUSTOMER_ID = "CustomerId"
    FIRST_NAME = "FirstName"
    LAST_NAME = "LastName"
    EMAIL = "EMail"
    TELEPHONE = "Telephone"
    CITY = "City"
    COUNTRY = "Country"
    DATE_OF_BIRTH = "DateOfBirth"
    LOYALTY_TIER = "LoyaltyTier"
    LIFETIME_VALUE = "LifetimeValue"


DATA_TYPES = {
    Column.DATE_OF_BIRTH: "date",
    Column.LIFETIME_VALUE: "decimal",
}  # the others are strings
MAY_NEED_QUOTES = frozenset({Column.FIRST_NAME, Column.LAST_NAME, Column.CITY, Column.COUNTRY})


def extra_cell(customer_id: str, number: int, length: int) -> str:
    """What column Extra{number} holds for a customer."""
    return (f"{number}-" + customer_id * (length // len(customer_id) + 1))[:length]
