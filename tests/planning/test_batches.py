"""Batches are filled to the limits."""

from __future__ import annotations

from tests.planning.planned import planned


def test_batches_are_as_full_as_the_limits_allow():
    file = "EMail\n" + "".join(f"user{n:05}@example.com\n" for n in range(25_000))
    with planned({"1.csv": file}) as found:
        assert [batch.profiles for batch in found.plan.batches] == [10_000, 10_000, 5_000]
    note = "x" * 2_000
    file = "EMail,Note\n" + "".join(f"user{n:05}@example.com,{note}\n" for n in range(5_000))
    with planned({"1.csv": file}, {"email": "EMail", "properties": {"note": "Note"}}) as found:
        sizes = [len(found.reader.body(batch)) for batch in found.plan.batches]
        assert all(4_200_000 < size <= 4_500_000 for size in sizes[:-1])
        assert sum(batch.profiles for batch in found.plan.batches) == 5_000
