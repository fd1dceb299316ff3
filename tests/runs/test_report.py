"""What a dry run and a report say, and what they keep to themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from exporter.cli.wording import plan_as_text
from exporter.planning.summary import plan_summary
from tests.planning.planned import planned

VIPS = (
    "EMail,Email2,FullName,Points,Active\nada@example.com,grace@example.com,Ada Lovelace,5,true\n"
)


def dry_run(
    files: Mapping[str, str], mapping: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    with planned(files, mapping) as found:
        return plan_summary(found.plan, found.reader.sample(3), **options)


def test_values_are_masked_whatever_their_columns_are_called() -> None:
    typed = {
        "points": {"column": "Points", "type": "number"},
        "active": {"column": "Active", "type": "boolean"},
    }
    for properties in ("*", {"full": "FullName", "other": "Email2", **typed}):
        mapping = {"email": "EMail", "location": {"city": "FullName"}, "properties": properties}
        summary = dry_run({"vips.csv": VIPS}, mapping)
        text = json.dumps(summary) + plan_as_text(summary)
        for value in ("ada@", "grace", "@example", "Ada ", "Lovelace"):
            assert value not in text, properties
    [sample] = summary["samples"]
    assert sample["attributes"]["location"] == {"city": "A***"}
    assert sample["attributes"]["properties"] == {
        "full": "A***",
        "other": "g***",
        "points": "5***",
        "active": True,
    }


def test_values_are_shown_to_those_who_ask() -> None:
    summary = dry_run({"vips.csv": VIPS}, {"email": "EMail", "properties": "*"}, show_values=True)
    [sample] = summary["samples"]
    assert sample["attributes"]["email"] == "ada@example.com"
    assert sample["attributes"]["properties"]["Email2"] == "grace@example.com"
    assert "grace@example.com" in plan_as_text(summary)


def test_dry_run_says_how_everything_was_read_and_what_is_left_out() -> None:
    rows = "".join(f"p{number}@example.com,X,twelve\n" for number in range(4))
    mapping = {
        "email": "EMail",
        "properties": {"points": {"column": "Points", "type": "number", "empty": "clear"}},
    }
    files = {
        "empty.csv": "",
        "vips.csv": f"EMail,City,Points\nnone,Oslo,1\n{rows}P0@example.com,Y,2\n",
    }
    summary = dry_run(files, mapping)
    assert (summary["rows"], summary["profiles"], summary["duplicates"], summary["rejected"]) == (
        6,
        4,
        1,
        1,
    )
    assert (summary["jobs"], summary["adds_up"], summary["identifier"]) == (1, True, "email")
    assert summary["mapping"] == [
        "email from EMail",
        "properties.points from Points as number, empty clears",
    ]
    read = [
        [file[each] for each in ("name", "rows", "header", "delimiter", "encoding")]
        for file in summary["files"]
    ]
    assert read == [
        ["empty.csv", 0, "The file is empty.", ",", "utf-8"],
        ["vips.csv", 6, "The first line holds the column names.", ",", "utf-8"],
    ]
    assert summary["examples"] == {"placeholder": ["vips.csv:2"], "duplicate": ["vips.csv:3"]}
    text = plan_as_text(summary)
    assert "Mapping     email from EMail\n" in text
    assert "e.g. vips.csv:2\n" in text
    assert (
        "vips.csv: 6 rows. The first line holds the column names. "
        "Delimiter comma, encoding utf-8.\n" in text
    )


def test_dry_run_says_how_dates_are_read_what_is_removed_and_what_is_doubtful() -> None:
    rows = "a@x.co,31/12/2026,1/2/2026,gold,\no'brien@x.co,,,,\nc@x.co,,soon,silver,\n"
    rules = {
        "born": {"column": "Born", "type": "date"},
        "seen": {"column": "Seen", "type": "date"},
        "tier": {"column": "Tier", "empty": "clear"},
        "note": {"column": "Note", "empty": "clear"},
    }
    mapping = {"email": "EMail", "properties": rules}
    text = plan_as_text(dry_run({"a.csv": f"EMail,Born,Seen,Tier,Note\n{rows}"}, mapping))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "dates of born have the day first: 1 date can only have the day first",
        "dates of seen are ambiguous: no date says whether the day or the month comes first, and"
        " there is no culture",
        "1 left out of seen: day and month of the date can be exchanged; give the mapping a"
        " culture, such as en-GB",
        "1 left out of seen: the cell is not a date",
        "1 empty cell removes tier from the profile",
        "note is blank in every row and removes nothing; `empty: clear_all` would",
        "1 address has characters that Klaviyo may refuse; it is sent last",
    ):
        assert any(each.startswith(line) for each in lines), (line, text)


@pytest.mark.parametrize(
    ("jobs", "share", "at_least", "at_most"),
    [
        (2, 1.0, 0, 0.1),
        (16, 1.0, 1, 2),
        (151, 1.0, 60, 61),
        (301, 1.0, 120, 122),
        (31, 0.1, 120, 122),
    ],
)
def test_dry_run_says_how_long_klaviyos_pace_takes(
    jobs: int, share: float, at_least: float, at_most: float
) -> None:
    with planned({"vips.csv": VIPS}, {"email": "EMail"}) as found:
        plan = found.plan.model_copy(update={"batches": found.plan.batches * jobs})
    summary = plan_summary(plan, [], share=share)
    assert at_least <= summary["seconds_at_klaviyos_pace"] <= at_most
