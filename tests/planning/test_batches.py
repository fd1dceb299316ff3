"""Batches are filled to the limits."""

from __future__ import annotations

from exporter.planning.limits import PlanLimits
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


def test_addresses_that_klaviyo_may_refuse_are_sent_last_in_batches_of_their_own():
    file = "EMail\na!b@x.co\nc@x.co\no'brien@x.co\nd@x.co\nbad\nO'Brien@X.co\n"
    limits = PlanLimits(batch_profiles=2)
    with planned({"1.csv": file}, limits=limits) as found:
        batches = [
            [profile["attributes"]["email"] for profile in found.body(batch)]
            for batch in found.plan.batches
        ]
        assert batches == [["c@x.co", "d@x.co"], ["a!b@x.co", "o'brien@x.co"]]
        assert [batch.number for batch in found.plan.batches] == [0, 1]
        assert [found.places(batch) for batch in found.plan.batches] == [
            [("1.csv", 3), ("1.csv", 5)],
            [("1.csv", 2), ("1.csv", 7)],
        ]
        assert found.plan.doubtful == 2


def test_address_beside_another_identifier_is_doubtful_too():
    mapping = {"email": "EMail", "external_id": "Id", "identifier": "external_id"}
    file = "EMail,Id\no'brien@x.co,C-1\nb@x.co,C-2\n,C-3\n"
    with planned({"1.csv": file}, mapping) as found:
        sent = [
            [profile["attributes"]["external_id"] for profile in found.body(batch)]
            for batch in found.plan.batches
        ]
        assert sent == [["C-2", "C-3"], ["C-1"]]


def test_without_doubtful_addresses_batches_say_nothing_of_them():
    with planned({"1.csv": "EMail\na@x.co\n"}) as found:
        assert [batch.doubtful for batch in found.plan.batches] == [None]
        assert found.plan.doubtful == 0
