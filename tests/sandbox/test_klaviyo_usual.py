"""The quick reading of a job gives what the close one gives, or leaves it alone."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from sandbox.klaviyo.batches import Batch, read_batch, read_closely
from sandbox.klaviyo.checks import LOCATION_FIELDS, TEXT_FIELDS
from sandbox.klaviyo.messages import Refused
from sandbox.klaviyo.planted import Planted
from sandbox.klaviyo.profiles import Profiles
from sandbox.klaviyo.settings import Settings
from sandbox.klaviyo.usual import read_usual

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)
emails = st.sampled_from(
    ["a@b.co", "B@b.co", "c.d@e.org", "bad", "a+async-fail@b.co", "a+sync-fail@b.co", "é@b.co"]
)
phones = st.sampled_from(["+4915112345678", "+12025550100", "0151", ""])
good = st.fixed_dictionaries(
    {"email": emails},
    optional={
        "phone_number": st.none() | phones,
        "external_id": st.none() | st.text(max_size=3),
        "location": st.none()
        | st.dictionaries(st.sampled_from(sorted(LOCATION_FIELDS)), values, max_size=2),
        "properties": st.none() | st.dictionaries(st.text(max_size=3), values, max_size=2),
        **{
            name: st.none() | st.text(max_size=3)
            for name in TEXT_FIELDS - {"email", "phone_number", "external_id"}
        },
    },
)
odd = st.dictionaries(
    st.sampled_from(["email", "location", "properties", "title", "nonsense"]), values, max_size=3
)
profiles = st.builds(
    lambda attributes, more: {"type": "profile", "attributes": attributes, **more},
    good | good | good | odd,
    st.just({})
    | st.just({})
    | st.sampled_from([{"id": "x"}, {"meta": None}, {"type": "list"}, {"links": {}}]),
)
settings = st.builds(
    lambda unique, max_bytes: Settings(unique=frozenset(unique), max_profile_bytes=max_bytes),
    st.sets(st.sampled_from(["phone_number", "external_id"])),
    st.sampled_from([100_000, 250]),
)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.too_slow])  # slow machines
@given(st.lists(profiles, max_size=4), settings, st.booleans())
def test_both_readings_give_the_same_account_or_the_same_refusal(
    rows: list[dict[str, Any]], settings: Settings, ascii_only: bool
) -> None:
    body = _body(rows, ascii_only)
    event("quick" if read_usual(body, settings, Planted()) else "close")
    assert _account_of(read_batch, body, settings) == _account_of(read_closely, body, settings)


@pytest.mark.parametrize(
    "damage",
    [
        (b'"x"', b'"\xff"'),
        (b'"x"', b'"\\ud800"'),
        (b'"x"', b"01"),
        (b'"x"', b"NaN"),
        (b'"x"', b"1e999"),
        (b'"x"', b"-"),
        (b'"x"', b"1."),
        (b'"x"', b"truth"),
        (b'"x"', b'"a\tb"'),
        (b'"x"', b'"\\q"'),
        (b'"x"', b"[1,]"),
        (b'"x"', b"{1:2}"),
        (b'"x"', b"1" * 400),
        (b'"x"', b"[" * 2000 + b"]" * 2000),
        (b'"x"', b'"x" '),
        (b'"x"', b'"x"}'),
        (b'"x"', b'"\\ud83d\\ude00"'),
        (b'"x"', b'"\xed\xa0\x80"'),
        (b'"p":', b'"p":1,"p":'),
    ],
)
def test_what_is_no_json_is_refused_by_both(damage: tuple[bytes, bytes]) -> None:
    body = _body(
        [{"type": "profile", "attributes": {"email": "a@b.co", "properties": {"p": "x"}}}]
    ).replace(*damage)
    settings = Settings()
    assert _account_of(read_batch, body, settings) == _account_of(read_closely, body, settings)


def test_a_usual_job_is_read_quickly() -> None:
    rows = [
        {
            "type": "profile",
            "attributes": {"email": f"p{n}@example.com", "location": {"city": "Köln"}},
        }
        for n in range(10)
    ]
    assert read_usual(_body(rows), Settings(), Planted()) is not None


def _body(rows: list[dict[str, Any]], ascii_only: bool = False) -> bytes:
    data = {
        "type": "profile-bulk-import-job",
        "attributes": {"profiles": {"data": rows}},
        "relationships": {"lists": {"data": [{"type": "list", "id": "L1"}]}},
    }
    return json.dumps({"data": data}, ensure_ascii=ascii_only, separators=(",", ":")).encode()


def _account_of(read: Any, body: bytes, settings: Settings) -> Any:
    """What an empty account knows after a job, or the refusal's words."""
    try:
        batch: Batch = read(body, settings, Planted())
    except Refused as refused:
        return [(each["detail"], each["source"]) for each in refused.errors]
    account = Profiles()
    numbers, conflicts = account.import_rows(
        batch.rows, now=1.0, skip=batch.import_errors, unique=settings.unique
    )
    errors = {row: each["attributes"]["detail"] for row, each in batch.import_errors.items()}
    return (
        batch.list_ids,
        numbers,
        {row: str(conflict) for row, conflict in conflicts.items()},
        errors,
        [account.attributes(number) for number in account.numbers()],
        [account.find("phone_number", phone) for phone in ("+4915112345678", "+12025550100")],
    )
