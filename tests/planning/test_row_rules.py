"""The rules that a row must meet: what is sent for a cell, or why the row is not."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.definitions.mapping import parse_mapping
from exporter.planning import row_rules
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.reading.source import PartitionSource
from exporter.rejection_reasons import MESSAGES, RejectReason
from exporter.sql import literal

REASONS = {reason.value for reason in RejectReason}
database = duckdb.connect()


def fates(cells: list[str], mapping: dict[str, Any], folder: Path) -> list[Any]:
    """What becomes of each cell of a column `it`: as it is sent, or the reason against the row."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["it", "position"])
    writer.writerows([cell, str(position)] for position, cell in enumerate(cells))
    source = PartitionSource(name="cells", open=lambda: [file.getvalue().encode()])
    document = parse_mapping(
        {**mapping, "properties": {"position": {"column": "position", "type": "number"}}}
    )
    plan = make_plan([source], document, folder)
    assert plan.adds_up()
    found: list[Any] = [None] * len(cells)
    reader = PlanReader(plan, folder, list_id="L", memory_mb=64)
    for batch in plan.batches:
        for profile in json.loads(reader.body(batch))["data"]["attributes"]["profiles"]["data"]:
            attributes = profile["attributes"]
            found[attributes["properties"]["position"]] = attributes[document.identified_by]
    reader.close()
    lines, line = {}, 2
    for position, cell in enumerate(cells):
        lines[line] = position
        line += 1 + cell.count("\n")
    with (folder / "rejected.csv").open(newline="", encoding="utf-8") as rejected:
        for row in csv.DictReader(rejected):
            found[lines[int(row["line"])]] = row["reason"]
    return found


LONG = "a" * 64 + "@" + "b" * 31 + ".com"  # 100 characters
EMAILS = {
    # taken as they are, trimmed, or in lower case
    "ada@example.com": "ada@example.com",
    "Ada.Popescu@Example.COM": "ada.popescu@example.com",
    "  ada@spaces.com\t": "ada@spaces.com",
    "\u00a0ada@nbsp.com\u00a0": "ada@nbsp.com",
    "\nada@break.com\n": "ada@break.com",
    "a_b%c+d-e.f@g-h.i.museum": "a_b%c+d-e.f@g-h.i.museum",
    "1@2.co": "1@2.co",
    "-@x--y.co": "-@x--y.co",
    LONG: LONG,
    # domains that are not ASCII
    "ada@bücher.example": "ada@xn--bcher-kva.example",
    " ADA@BÜCHER.de ": "ada@xn--bcher-kva.de",
    "ada@bu\u0308cher.net": "ada@xn--bcher-kva.net",
    "ada@例え.jp": "ada@xn--r8jz45g.jp",
    "ada@ｅｘａｍｐｌｅ.org": "ada@example.org",
    "ada@example。info": "ada@example.info",
    # marks that nobody sees: off at both ends, inside they cost the row
    "\ufeffada@bom.com": "ada@bom.com",
    "ada@bom-behind.com\ufeff": "ada@bom-behind.com",
    "\u200e\u2068ada@direction.com\u2069\u200f": "ada@direction.com",
    "\u200bada@zero.com\u200d\u2060": "ada@zero.com",
    "\u202f\u3000\x85ADA@blanks.com\u2007\u205f": "ada@blanks.com",
    "\u00ad \u200b\tada@bücher.at\u200b\u00a0": "ada@xn--bcher-kva.at",
    "ada@zero\u200bwidth.com": "email_invisible",
    "ada@soft\u00adhyphen.com": "email_invisible",
    "ada@b\u200düch.de": "email_invisible",
    "ada\u00a0lovelace@example.com": "email_invisible",
    "ada\ufeff@example.com": "email_invisible",
    "a\u202eda@example.com": "email_invisible",
    "ada@exam\ufe0fple.com": "email_invisible",
    "\u200b\ufeff": "no_identifier",
    # letters that folding would turn into somebody else's address
    "\u212aim@example.com": "email_local_part",
    "K\u0130m@example.com": "email_local_part",
    "\u017fue@example.com": "email_local_part",
    "\uff41da@example.com": "email_local_part",
    "\u212aim@EXAMPLE.com": "email_local_part",
    "kim@\u212aelvin.com": "kim@kelvin.com",  # domains are the same for every browser
    "ada@пример.рф": "ada@xn--e1afmkfd.xn--p1ai",
    "ada@straße.de": "ada@xn--strae-oqa.de",  # another domain than strasse.de
    "ada@" + "ü" * 80 + ".de": "email_domain",
    "ada@ü..de": "email_domain",
    # what RFC 5321 allows and Klaviyo may refuse
    "ada!@example.com": "ada!@example.com",
    "O'Neill@Example.com": "o'neill@example.com",
    "a/da@example.com": "a/da@example.com",
    "#$%&'*+/=?^_`{|}~-.!@example.com": "#$%&'*+/=?^_`{|}~-.!@example.com",
    '"ada"@example.com': '"ada"@example.com',
    '"ada@home"@example.com': '"ada@home"@example.com',
    '"a..\\"da"@example.com': '"a..\\"da"@example.com',
    "ada@example.xn--p1ai": "ada@example.xn--p1ai",
    # nobody's
    "": "no_identifier",
    " \t\u00a0 ": "no_identifier",
    "none": "placeholder",
    "N/A": "placeholder",
    " n/a ": "placeholder",
    "NULL": "placeholder",
    "-": "placeholder",
    "#N/A": "placeholder",
    "None@None.com": "placeholder",
    "noemail@noemail.com": "placeholder",
    # refused by Klaviyo in public logs
    "mailto:ada@example.com": "email_mailto",
    "MAILTO:ada@example.com?subject=x": "email_mailto",
    "ada@example.c0m": "email_domain",
    "ada@example.123": "email_domain",
    # too long
    "a" + LONG: "email_too_long",
    "a" * 65 + "@example.com": "email_local_part",
    "ada@" + "b" * 63 + ".com": "ada@" + "b" * 63 + ".com",
    "ada@" + "b" * 64 + ".com": "email_domain",
    "a" * 100_000 + "@example.com": "email_too_long",
    "ü" * 100_000 + "@example.com": "email_too_long",
    # blanks inside
    "ada popescu@example.com": "email_space",
    "ada@ example.com": "email_space",
    "ada@example.com bob@example.com": "email_space",
    "ada\n@example.com": "email_space",
    "ada@example.com;\tbob@example.com": "email_space",
    # the part before the @
    ".ada@example.com": "email_local_part",
    "ada.@example.com": "email_local_part",
    "a..da@example.com": "email_local_part",
    "<ada@example.com": "email_local_part",
    '"ada@example.com': "email_local_part",
    '"a"da"@example.com': "email_local_part",
    'a"d"a@example.com': "email_local_part",
    "ädа@example.com": "email_local_part",
    "a,da@example.com": "email_local_part",
    # the part after it
    "ada@example": "email_domain",
    "ada@localhost": "email_domain",
    "ada@.com": "email_domain",
    "ada@example.": "email_domain",
    "ada@example..com": "email_domain",
    "ada@-example.com": "email_domain",
    "ada@example-.com": "email_domain",
    "ada@exa_mple.com": "email_domain",
    "ada@127.0.0.1": "email_domain",
    "ada@[127.0.0.1]": "email_domain",
    "ada@example.c": "email_domain",
    "ada@example.com>": "email_domain",
    "ada@example.com.": "email_domain",
    "ada@example.com,bob": "email_domain",
    # no address
    "ada": "email_malformed",
    "ada.example.com": "email_malformed",
    "@example.com": "email_malformed",
    "ada@": "email_malformed",
    "@": "email_malformed",
    "ada@bob@example.com": "email_malformed",
    "ada＠example.com": "email_malformed",
    "nan": "email_malformed",
    "40722000001": "email_malformed",
}


@pytest.fixture(scope="module")
def email_fates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cells = list(EMAILS)
    return dict(
        zip(
            cells,
            fates(cells, {"email": "it"}, tmp_path_factory.mktemp("emails") / "plan"),
            strict=True,
        )
    )


@pytest.mark.parametrize("cell", EMAILS, ids=lambda cell: repr(cell)[:40])
def test_email_is_sent_in_one_form_or_rejected_with_a_reason(
    cell: str, email_fates: dict[str, Any]
):
    assert email_fates[cell] == EMAILS[cell]


def test_every_placeholder_is_rejected_in_any_case(tmp_path: Path):
    cells = [cell for text in row_rules.PLACEHOLDERS for cell in (text, text.upper(), f" {text} ")]
    assert set(fates(cells, {"email": "it"}, tmp_path / "plan")) == {"placeholder"}


PHONES = {
    "+40722000001": "+40722000001",
    " +40 722-000.002 ": "+40722000002",
    "+40 (722) 000 003": "+40722000003",
    "+40\u00a0722000004": "+40722000004",
    "+40 (0)722 000 005": "+40722000005",
    "0722000006": "+40722000006",
    "0040722000007": "+40722000007",
    "tel:+40722000008": "+40722000008",
    "+40722000009 ext. 12": "+40722000009",
    "＋４０７２２０００010": "+40722000010",
    "+16502530000": "+16502530000",
    "+4915112345678": "+4915112345678",
    "": "no_identifier",
    "  ": "no_identifier",
    "-": "phone_impossible",
    "n/a": "phone_impossible",
    "call me": "phone_impossible",
    "+40": "phone_impossible",
    "+40 12": "phone_impossible",
    "12345": "phone_impossible",
    "+999 555 000 111": "phone_impossible",
    "+1 253 0000": "phone_impossible",  # without its area code
    "+40722000001234567": "phone_impossible",
    "+81 12345678901234567": "phone_impossible",  # possible in Japan, longer than E.164
    "+40722000011/+40722000012": "phone_impossible",  # two: which one?
    "9" * 1_000_000: "phone_impossible",
    "ada@example.com": "phone_impossible",
}


def test_phone_identifies_as_e164_or_is_rejected(tmp_path: Path):
    mapping = {"phone_number": "it", "phone_region": "RO"}
    assert dict(zip(PHONES, fates(list(PHONES), mapping, tmp_path / "plan"), strict=True)) == PHONES


EXTERNAL_IDS = {
    "C-1": "C-1",
    " C-2\t": "C-2",
    "\ufeffC-3\u200e": "C-3",
    "C\u200b-4": "C\u200b-4",
    "\u212a-5": "\u212a-5",  # another one than K-5
    "c-1": "c-1",  # another one than C-1
    "é ñ": "é ñ",
    "x" * 255: "x" * 255,
    "x" * 256: "external_id_too_long",
    "": "no_identifier",
    "\u00a0": "no_identifier",
}


def test_external_id_identifies_as_it_is_written(tmp_path: Path):
    found = fates(list(EXTERNAL_IDS), {"external_id": "it"}, tmp_path / "plan")
    assert dict(zip(EXTERNAL_IDS, found, strict=True)) == EXTERNAL_IDS


def test_every_reason_has_a_message():
    assert set(MESSAGES) == set(RejectReason)
    assert all(MESSAGES.values())


# No text becomes SQL


@given(st.text())
def test_literal_gives_back_any_text_or_refuses_it(text: str):
    try:
        quoted = literal(text)
    except ValueError:
        assert "\0" in text
        return
    assert "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert database.execute(f"SELECT {quoted}").fetchall() == [(text,)]


address_parts = st.lists(
    st.sampled_from(
        [
            "a",
            "B",
            "7",
            ".",
            "..",
            "-",
            "_",
            "+",
            "%",
            "@",
            " ",
            "!",
            "'",
            "com",
            "mailto:",
            "é",
            "x" * 60,
        ]
    ),
    max_size=9,
).map("".join)


@settings(max_examples=8, deadline=None)
@given(st.lists(address_parts, min_size=50, max_size=100))
def test_address_passes_only_in_the_form_that_klaviyo_is_known_to_take(emails: list[str]):
    is_usual = row_rules.is_usual_email("cell")
    value = row_rules.normalized_email("cell", is_usual)
    reason = row_rules.email_reason(value, is_usual)
    judged = f"SELECT cell, {value}, {reason} FROM (SELECT unnest($cells) AS cell)"
    for row in database.execute(judged, {"cells": emails}).fetchall():
        check_judgement(*row)


def check_judgement(email: str, value: str | None, reason: str | None) -> None:
    stripped = email.strip(row_rules.BLANKS).lower()
    segments_filter = r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}"
    if reason is None:
        assert value == stripped
        assert value is not None
        assert re.fullmatch(segments_filter, value)
        assert len(value) <= 100
        assert ".." not in value
    else:
        assert reason in REASONS
        plain = re.fullmatch(r"[a-z0-9_%+]+(\.[a-z0-9_%+]+)*@([a-z0-9]+\.)+[a-z]{2,}", stripped)
        assert not (plain and len(stripped) <= 63) or stripped in row_rules.PLACEHOLDERS


@given(st.text(st.sampled_from(" \t\r\n\u00a0!~zé\u3000\u200b\ufeff"), max_size=5))
def test_blank_cells_are_null_and_others_stay_as_they_are(cell: str):
    found = database.execute(
        f"SELECT {row_rules.blank_to_null('$cell')}", {"cell": cell}
    ).fetchone()
    assert found == (cell if cell.strip(row_rules.BLANKS) else None,)
