"""The manifest says what of a snapshot is not there, and reads documents that could not say it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from exporter.snapshots.manifest import Manifest, note_on_empty

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


def manifest(**changes: list[str]) -> Manifest:
    return Manifest(snapshots=["segments/VIPs.csv"], exported_at=AT, partitions=[], **changes)


@pytest.mark.parametrize(
    ("changes", "is_complete"),
    [({}, True), ({"missing": ["Leads"]}, False), ({"empty": ["segments/VIPs.csv"]}, False)],
)
def test_a_manifest_is_complete_unless_something_is_missing_or_empty(
    changes: dict[str, list[str]], is_complete: bool
) -> None:
    assert manifest(**changes).is_complete is is_complete
    assert Manifest.model_validate_json(manifest(**changes).model_dump_json()) == manifest(
        **changes
    )


def test_a_manifest_of_before_is_equal_to_one_of_now() -> None:
    document = manifest().model_dump(mode="json")
    del document["empty"]
    assert Manifest.model_validate(document) == manifest()


def test_a_note_names_some_of_the_empty_files() -> None:
    assert "a.csv stayed empty" in note_on_empty(["a.csv"])
    many = [f"{number}.csv" for number in range(10)]
    assert "0.csv, 1.csv, 2.csv and 7 more stayed empty" in note_on_empty(many)
