"""The segments found in storage: their members, their age, the mapping that they suggest."""

from __future__ import annotations

import json

import duckdb
import pytest

from exporter.errors import (
    ExporterError,
)
from exporter.management.access import ManagementLimits
from exporter.management.forms import (
    ExportForm,
    parse,
)
from exporter.management.management import Management
from tests.journeys.world import FOLDER, SEGMENT, World, as_csv, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    add_export,
    arrive,
    connect,
    export_document,
    managed,
)


def test_segments_show_age_and_members(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    world.put("segments/Other.csv", as_csv(people(1)))
    world.clock.move(60)
    found = {view.name: view for view in management.as_(VIEWER).segments()}
    assert (found[SEGMENT].members, found["Other"].members) == (3, 1)
    assert found["Other"].age_s == pytest.approx(60, abs=1)


def members_of(management: Management) -> dict[str, int | None]:
    return {view.name: view.members for view in management.as_(VIEWER).segments()}


def test_members_are_those_of_the_segment_not_of_the_export_that_took_it_up(
    world: World, management: Management
) -> None:
    """Several segments of one export, and one that it was edited to."""
    connect(management)
    view = add_export(management, segments=[SEGMENT, "Second"])
    world.put("segments/Second/a.csv", as_csv(people(2, first=10)))
    world.drop_people("a.csv", people(5))
    world.deliver()
    world.put("segments/Other.csv", as_csv(people(1)))
    form = parse(ExportForm, export_document(segments=["Other"]))
    management.as_(ADMIN).edit_export(
        view.id, form, etag=management.as_(ADMIN).export(view.id).etag
    )
    assert members_of(management) == {SEGMENT: 5, "Second": 2, "Other": 1}


def test_members_are_those_of_the_newest_snapshot(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(5))
    world.deliver()
    assert members_of(management) == {SEGMENT: 5}
    world.put(FOLDER + "a.csv", as_csv(people(4)))
    world.put(FOLDER + "b.csv", as_csv(people(3)))
    assert members_of(management) == {SEGMENT: 7}


def read_again(name: str, *, etag: str) -> None:
    pytest.fail(f"{name} is read again")


def test_what_a_run_has_counted_is_not_read_again(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", [*people(3), *people(1), ("nobody", "X")])
    world.deliver()
    world.patch.setattr(world.engine.snapshots, "open", read_again)
    assert members_of(management) == {SEGMENT: 5}, "rows, whatever became of them"


def test_what_was_counted_for_one_look_is_not_read_again_for_the_next(
    world: World, management: Management
) -> None:
    arrive(world)
    assert members_of(management) == {SEGMENT: 3}
    world.patch.setattr(world.engine.snapshots, "open", read_again)
    assert members_of(management) == {SEGMENT: 3}


def test_large_segments_are_not_counted_before_a_run_reads_them(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    world.put("segments/Small.csv", as_csv(people(1)))
    management = managed(world, limits=ManagementLimits(counted_bytes=60))
    assert members_of(management) == {SEGMENT: None, "Small": 1}
    management.as_(ADMIN).run_export("high-value")
    world.deliver()
    assert members_of(management) == {SEGMENT: 3, "Small": 1}


def test_a_segment_that_cannot_be_read_has_no_members_and_keeps_nobody_from_the_others(
    world: World, management: Management
) -> None:
    arrive(world)
    world.put("segments/Broken.parquet", b"no parquet")
    assert members_of(management) == {"Broken": None, SEGMENT: 3}


def test_two_destinations_with_a_segment_of_one_name_are_two_segments(
    world: World, management: Management
) -> None:
    for destination, count in (("A", 2), ("B", 4)):
        world.put(
            f"CustomerInsights_1/{destination}/Seg/2026/08/24/1433/Seg_1.csv", as_csv(people(count))
        )
    world.clock.move(3_600)
    assert members_of(management) == {"A/Seg": 2, "B/Seg": 4}
    assert management.as_(ADMIN).suggest_mapping("B/Seg").columns == ["EMail", "FirstName"]


def test_members_of_a_document_that_cannot_be_read_are_counted_anew(
    world: World, management: Management
) -> None:
    arrive(world)
    world.engine.store.create("members.json", b"{")
    assert members_of(management) == members_of(management) == {SEGMENT: 3}


def test_mapping_is_suggested_from_the_newest_snapshot(
    world: World, management: Management
) -> None:
    arrive(world)
    found = management.as_(CONTRIBUTOR).suggest_mapping(SEGMENT)
    assert found.columns == ["EMail", "FirstName"]
    assert found.mapping == {"email": "EMail", "first_name": "FirstName"}
    with pytest.raises(ExporterError, match="no snapshot"):
        management.as_(ADMIN).suggest_mapping("Ghosts")


def test_columns_of_a_parquet_snapshot_are_known_and_so_are_those_behind_an_empty_file(
    world: World, management: Management
) -> None:
    connect(management)
    file = world.folder / "people.parquet"
    duckdb.sql(
        f"COPY (SELECT 'ada@example.com' AS EMail, 'Ada' AS FirstName) TO '{file}' (FORMAT parquet)"
    )
    world.put(FOLDER + "a.csv", "")
    world.put(FOLDER + "b.parquet", file.read_bytes())
    world.clock.move(3_600)
    assert management.as_(ADMIN).suggest_mapping(SEGMENT).columns == ["EMail", "FirstName"]
    assert not any("newest snapshot" in warning for warning in add_export(management).warnings)
    wrong = add_export(management, name="Wrong", mapping={"email": "Mail"})
    assert any("no column 'Mail'" in warning for warning in wrong.warnings)


def test_suggestion_takes_up_the_data_types_of_the_model(
    world: World, management: Management
) -> None:
    root = "CustomerInsights_1/Export/"
    attributes = [{"name": "EMail", "dataType": "string"}, {"name": "Points", "dataType": "int64"}]
    model = {
        "name": "x",
        "version": "1.0",
        "entities": [{"name": SEGMENT, "attributes": attributes}],
    }
    world.put(root + "model.json", json.dumps(model))
    world.put(f"{root}{SEGMENT}/2026/08/24/1433/{SEGMENT}_1.csv", "EMail,Points\na@example.com,5\n")
    world.clock.move(3_600)
    found = management.as_(CONTRIBUTOR).suggest_mapping(SEGMENT)
    assert found.mapping == {
        "email": "EMail",
        "properties": {"Points": {"column": "Points", "type": "number"}},
    }
