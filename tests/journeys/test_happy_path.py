"""From a blob to a list, when nothing goes wrong."""

from __future__ import annotations

import json

import pytest

from exporter.definitions.schedule import Schedule
from exporter.runs.run import Status
from sandbox.demo import MAPPING as DEMO_MAPPING
from sandbox.demo import differences
from sandbox.snapshots import Kind, Layout, Snapshot
from tests.journeys.world import FOLDER, SEGMENT, World, as_csv, assert_ended, people

BAD = {Kind.EMAIL_NO_AT: 2, Kind.DUPLICATE_ACROSS: 3, Kind.RAGGED_SHORT: 1, Kind.BAD_PHONE: 2}


def test_a_hand_dropped_file_fills_the_list(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(30))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=30)
    assert world.emails() == {email for email, _ in people(30)}
    assert world.members()["p7@example.com"]["first_name"] == "Name7"


@pytest.mark.usefixtures("small_batches")
def test_a_snapshot_of_several_partitions_arrives_in_full_with_every_bad_row_reported(
    world: World,
) -> None:
    snapshot = Snapshot(rows=300, partitions=4, seed=3, bad=BAD)
    world.register(mapping=DEMO_MAPPING)
    world.drop_snapshot(snapshot)
    world.deliver()
    run = assert_ended(world, Status.WARNINGS)
    assert differences(snapshot, iter(world.members().values())) == []
    report = world.report()
    assert (report["rows"], report["duplicates"], report["rejected"]) == (300, 3, 3)
    planted = {(row.path, str(row.line)) for row in snapshot.planted() if row.outcome == "rejected"}
    assert {(row["source"], row["line"]) for row in world.rows_of("rejected.csv")} == planted
    assert report["cells_left_out"] == {"phone_number": 2}
    assert run.counts.jobs == len({job.id for job in world.klaviyo.account.jobs}) == 30


@pytest.mark.parametrize("layout", [Layout.DATED_NO_MODEL, Layout.UNDATED, Layout.MAPPED])
def test_other_layouts_are_understood(world: World, layout: Layout) -> None:
    snapshot = Snapshot(rows=40, partitions=1 if layout is Layout.MAPPED else 2, layout=layout)
    segment = f"{snapshot.destination}/{SEGMENT}" if layout is Layout.MAPPED else SEGMENT
    world.register(mapping=DEMO_MAPPING, segments=[segment])
    world.drop_snapshot(snapshot)
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=40)
    assert differences(snapshot, iter(world.members().values())) == []


def test_an_empty_partition_among_others_does_no_harm(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(3))
    world.drop(FOLDER + "b.csv", "")
    world.drop_people("c.csv", people(3, first=3))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=6)


@pytest.mark.usefixtures("small_batches")
def test_several_segments_in_one_export_deliver_each_person_once(world: World) -> None:
    world.register(segments=["HighValue", "Loyal"])
    world.drop("segments/Loyal/a.csv", as_csv(people(25)))
    world.deliver()
    world.drop("segments/HighValue/a.csv", as_csv(people(25, first=15)))
    world.deliver()
    first, second = world.runs()
    assert (first.counts.delivered, second.counts.rows) == (25, 50)
    assert (second.counts.delivered, second.counts.duplicates) == (40, 10)
    assert world.emails() == {email for email, _ in people(40)}
    kept = {(row["source"], row["kept_source"]) for row in world.rows_of("duplicates.csv", second)}
    assert len(kept) == 1, "each duplicate names the row that was sent"


def test_two_exports_of_one_snapshot_each_fill_their_list(world: World) -> None:
    world.klaviyo.call("POST", "/_sandbox/lists", {"id": "LIST02"})
    world.register()
    world.register("others", list_id="LIST02", mapping={"email": "EMail"})
    world.drop_people("a.csv", people(5))
    world.deliver()
    for export in ("vips", "others"):
        assert_ended(world, Status.SUCCESSFUL, delivered=5, run=world.run(export))
    assert world.emails("LIST02") == world.emails()


def test_only_the_segment_of_an_export_starts_it(world: World) -> None:
    world.register()
    world.drop("segments/Other/a.csv", as_csv(people(3)))
    world.deliver()
    assert world.runs() == []


@pytest.mark.parametrize(
    "name",
    ["readme.txt", "model.json.bak", "a.csv", "other/place/b.csv", "segments/HighValue/a.xlsx"],
)
def test_a_blob_that_is_no_snapshot_is_ignored(world: World, name: str) -> None:
    world.register()
    world.drop(name, as_csv(people(3)))
    world.deliver()
    assert (world.runs(), world.errors, world.handled) == ([], [], 0)


def test_an_export_on_demand_or_on_schedule_is_not_started_by_arrival(world: World) -> None:
    world.register(schedule=Schedule(on="demand"))
    world.register("nightly", schedule=Schedule(on="cron", cron="0 3 * * *"))
    world.drop_people("a.csv", people(3))
    world.deliver()
    assert world.runs() == world.runs("nightly") == []


def test_the_run_document_is_plain_json_with_a_schema(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(3))
    world.deliver()
    document = json.loads(
        (world.folder / "state" / world.run().folder / "run.json").read_text(encoding="utf-8")
    )
    assert document["schema"] == 1
    assert document["status"] == "Successful"
    assert document["manifest"]["partitions"][0]["name"] == FOLDER + "a.csv"


def test_a_segment_without_a_snapshot_is_named_and_makes_a_warning(world: World) -> None:
    world.register(segments=[SEGMENT, "Newslettter"])
    world.drop_people("a.csv", people(5))
    world.deliver()
    run = assert_ended(world, Status.WARNINGS, delivered=5)
    assert "Newslettter" in run.message
    assert world.report()["missing_segments"] == ["Newslettter"]


def test_a_segment_that_is_named_twice_is_read_once(world: World) -> None:
    world.register(segments=[SEGMENT, f"Feed/{SEGMENT}"])
    world.drop(f"Feed/{SEGMENT}/2026/09/21/1300/a.csv", as_csv(people(5)))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert world.report()["rows"] == 5
