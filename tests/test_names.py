"""Names that differ in case, blanks or Unicode form only."""

from __future__ import annotations

import pytest

from exporter.names import comparable, positions_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("EMail", "email"),
        ("E  Mail ", "e mail"),
        ("E\u00a0Mail", "E Mail"),
        ("Pr\u00e9nom", "PRE\u0301NOM"),
        ("Straße", "STRASSE"),
        ("\ufeffEMail", "EMail\u200b"),
        ("\u1e9b\u0323", "\u1e9b\u0323".upper()),
    ],
)
def test_names_of_one_form_are_equal(one: str, other: str):
    assert comparable(one) == comparable(other)
    assert comparable(comparable(one)) == comparable(one)


@pytest.mark.parametrize(("one", "other"), [("EMail", "E-Mail"), ("E Mail", "EMail"), ("e", "é")])
def test_other_names_stay_apart(one: str, other: str):
    assert comparable(one) != comparable(other)


@pytest.mark.parametrize(
    ("name", "positions"),
    [("EMail", [1]), ("email", [0]), ("EMAIL", [0, 1, 2]), (" email ", [0, 1, 2]), ("mail", [])],
)
def test_exact_name_wins_over_all_that_fit(name: str, positions: list[int]):
    assert positions_of(name, ["email", "EMail", "Email", "City"]) == positions
