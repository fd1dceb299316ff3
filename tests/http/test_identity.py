"""Who asks: exactly one good header of the platform counts, and only where the platform is on."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.http.identity import CLIENT_MARKER, MARKER, actor_of, is_platform_trusted
from exporter.management.roles import Actor, Role
from tests.http.asking import OID, encoded, principal

ADA = Actor(id="a-1", name="Ada", role=Role.ADMIN)
CLAIMS = [
    {"typ": OID, "val": "a-1"},
    {"typ": "name", "val": "Ada"},
    {"typ": "roles", "val": "Admin"},
]


def with_claims(*claims: Any, **changes: Any) -> str:
    return encoded(
        {
            "auth_typ": "aad",
            "claims": list(claims),
            "role_typ": "roles",
            "name_typ": "name",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("environ", "setting", "trusted"),
    [
        ({MARKER: "True"}, True, True),
        ({MARKER: "True"}, False, False),
        ({MARKER: "False"}, True, False),
        ({}, True, False),
        ({MARKER: ""}, True, False),
        # Where the flag is missing: the registration that the deployment made.
        ({CLIENT_MARKER: "ours"}, True, True),
        ({CLIENT_MARKER: "OURS"}, True, True),
        ({CLIENT_MARKER: "ours"}, False, False),
        ({CLIENT_MARKER: "another"}, True, False),
        ({CLIENT_MARKER: ""}, True, False),
        ({CLIENT_MARKER: "ours", MARKER: "False"}, True, False),
    ],
)
def test_the_header_counts_only_where_setting_and_platform_agree(
    environ: dict[str, str], setting: bool, trusted: bool
) -> None:
    assert is_platform_trusted(environ, trust=setting, client_id="ours") is trusted


def test_a_registration_that_nobody_set_up_is_no_mark() -> None:
    assert not is_platform_trusted({CLIENT_MARKER: ""}, trust=True, client_id="")
    assert not is_platform_trusted({CLIENT_MARKER: "another"}, trust=True)


def test_a_good_header_is_somebody() -> None:
    assert actor_of([principal(ADA)]) == ADA


def test_of_several_roles_the_highest_counts() -> None:
    roles = [{"typ": "roles", "val": value} for value in ("Viewer", "Contributor", "Somebody")]
    found = actor_of([with_claims(CLAIMS[0], *roles)])
    assert found is not None
    assert found.role is Role.CONTRIBUTOR


@pytest.mark.parametrize(
    "kind", ["roles", "http://schemas.microsoft.com/ws/2008/06/identity/claims/role", "custom"]
)
def test_roles_come_from_role_claims(kind: str) -> None:
    found = actor_of([with_claims(CLAIMS[0], {"typ": kind, "val": "Viewer"}, role_typ=kind)])
    assert found is not None
    assert found.role is Role.VIEWER


@pytest.mark.parametrize("value", ["admin", "ADMIN", " Admin", "Admin,Viewer", "", "Owner"])
def test_a_role_of_another_name_is_none(value: str) -> None:
    found = actor_of([with_claims(CLAIMS[0], {"typ": "roles", "val": value})])
    assert found == Actor(id="a-1", name="a-1", role=None)


def test_a_claim_of_another_kind_is_no_role() -> None:
    found = actor_of([with_claims(*CLAIMS[:2], {"typ": "groups", "val": "Admin"})])
    assert found == Actor(id="a-1", name="Ada", role=None)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["rubbish"],
        ["{}"],
        [encoded([])],
        [encoded(None)],
        [encoded({})],
        [encoded({"auth_typ": "aad"})],
        [encoded({"auth_typ": "aad", "claims": "Admin"})],
        [encoded({"auth_typ": "aad", "claims": {"typ": OID, "val": "a"}})],
        [with_claims(*CLAIMS[1:])],  # nobody in particular
        [with_claims(*CLAIMS, auth_typ="facebook")],
        [with_claims(*CLAIMS, auth_typ=None)],
        [with_claims({"typ": OID, "val": 7}, *CLAIMS[1:])],
        [with_claims({"typ": OID, "val": " \n"}, *CLAIMS[1:])],
        [base64.b64encode(b"\xff\xfe").decode()],
        [base64.b64encode(b"[" * 40_000).decode()],
        [principal(ADA) + ", " + principal(ADA)],
        [principal(ADA), principal(ADA)],
        [principal(ADA) * 1_000],
    ],
)
def test_anything_else_is_nobody(headers: list[str]) -> None:
    assert actor_of(headers) is None


@given(st.lists(st.text() | st.binary().map(lambda b: base64.b64encode(b).decode()), max_size=2))
def test_rubbish_never_raises(headers: list[str]) -> None:
    assert actor_of(headers) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_odd_claims_never_raise(claims: Any) -> None:
    found = actor_of(
        [encoded({"auth_typ": "aad", "claims": claims, "role_typ": claims, "name_typ": claims})]
    )
    assert found is None or found.role is None


def test_a_name_cannot_break_a_line() -> None:
    found = actor_of([with_claims(CLAIMS[0], {"typ": "name", "val": "A\nd\x1ba" + "x" * 500})])
    assert found is not None
    assert found.name == ("Ada" + "x" * 500)[:120]
