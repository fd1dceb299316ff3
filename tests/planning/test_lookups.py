"""Cells that Python judges change nothing for the other rows."""

from __future__ import annotations

from tests.planning.planned import planned


def test_rows_keep_their_order_however_many_phones_the_library_must_judge():
    """A join that takes the smaller table first would give the rows in another order."""
    lines = [
        f"u{n}@x.co,{f'(0722) {n // 1000:03} {n % 1000:03}' if n % 3 else f'+40722{n:06}'}"
        for n in range(30_000)
    ]
    file = "EMail,Phone\n" + "\n".join(lines)
    with planned(
        {"1.csv": file}, {"email": "EMail", "phone_number": "Phone", "phone_region": "RO"}
    ) as found:
        sent = found.attributes()
        assert [profile["email"] for profile in sent] == [f"u{n}@x.co" for n in range(30_000)]
        assert all(profile["phone_number"].startswith("+40722") for profile in sent)
