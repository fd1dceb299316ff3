"""When a snapshot is complete; and one snapshot makes one run, however its events come."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from exporter.cli.wording import report_as_text
from exporter.definitions.definition import Change
from exporter.definitions.schedule import Schedule
from exporter.errors import ConfigError, ExporterError, NoSnapshot, Transient
from exporter.runs.notices import Notice
from exporter.runs.run import Status
from exporter.runs.run_store import AGAIN_HINT
from exporter.snapshots.model_json import MAX_MODEL_BYTES
from exporter.storage.local_folder import FolderSnapshots
from exporter.storage.protocols import BlobInfo
from sandbox.snapshots import Snapshot
from tests.journeys.world import FOLDER, ON_ARRIVAL, SEGMENT, World, as_csv, assert_ended, people

HOUR = 3_600
FEED = "CustomerInsights_x/Feed/"
REFRESH, REFRESH_BEFORE = (f"{FEED}{SEGMENT}/2026/09/{day}/1300/" for day in (21, 20))
COLUMNS = ("EMail", "FirstName", "LastName")
ADA = "ada@example.com,Ada,Popescu\n"  # a file without header


def test_a_folder_is_read_only_when_it_has_been_quiet(world: World) -> None:
    world.register()
    began = world.clock.now
    world.drop_people("a.csv", people(5))
    world.deliver()
    assert world.run().created_at.timestamp() >= began + world.limits.settle_s


def test_partitions_that_arrive_minutes_apart_make_one_run(world: World) -> None:
    world.register()
    for number in range(4):
        world.drop_people(f"{number}.csv", people(5, first=5 * number))
        due = world.clock.now + 100
        world.deliver(until=lambda due=due: (world.queue.next_due() or due) >= due)
        world.clock.now = due
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=20)


def test_partitions_that_model_json_names_are_waited_for(world: World) -> None:
    """Half an hour of quiet passes between two partitions.

    Without model.json the first would have run alone.
    """
    snapshot = Snapshot(rows=30, partitions=2)
    world.register()
    files = {file.path: b"".join(file.chunks) for file in snapshot.files()}
    first, second, model = files
    world.put(model, files[model])
    world.drop(first, files[first])
    due = world.clock.now + HOUR / 2
    world.deliver(until=lambda: (world.queue.next_due() or due) >= due)
    assert world.runs() == []
    world.clock.now = due
    world.drop(second, files[second])
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=30)


def model(*folders: str, columns: Sequence[str] = COLUMNS) -> str:
    """A model.json that names one partition in each of these folders, and no header in them."""
    place = "https://examplestorage.blob.core.windows.net/klaviyo-feed/"
    partitions = [
        {"name": "1", "location": f"{place}{folder}{SEGMENT}_1.csv"} for folder in folders
    ]
    attributes = [{"name": name, "dataType": "string"} for name in columns]
    return json.dumps(
        {"entities": [{"name": SEGMENT, "attributes": attributes, "partitions": partitions}]}
    )


def pass_time(world: World, seconds: float) -> None:
    """Handle what is due until then, and no more."""
    end = world.clock.now + seconds
    world.deliver(until=lambda: (world.queue.next_due() or end) >= end)
    world.clock.now = end


def names_of(world: World) -> list[str | None]:
    return [attributes.get("first_name") for attributes in world.members().values()]


@pytest.mark.parametrize("is_first", [True, False])
def test_columns_that_model_json_names_are_right_whenever_it_comes(
    world: World, is_first: bool
) -> None:
    world.register()
    if is_first:
        world.drop(FEED + "model.json", model(REFRESH))
    world.drop(f"{REFRESH}{SEGMENT}_1.csv", ADA)
    pass_time(world, HOUR / 2)
    if not is_first:
        assert world.runs() == [], "nothing says yet what the columns are called"
        world.drop(FEED + "model.json", model(REFRESH))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=1)
    assert names_of(world) == ["Ada"]


def test_a_model_json_of_the_refresh_before_does_not_name_the_columns(world: World) -> None:
    world.register()
    world.drop(
        FEED + "model.json", model(REFRESH_BEFORE, columns=("EMail", "LastName", "FirstName"))
    )
    world.drop(f"{REFRESH}{SEGMENT}_1.csv", ADA)
    pass_time(world, HOUR / 2)
    assert world.runs() == []
    world.drop(FEED + "model.json", model(REFRESH_BEFORE, REFRESH))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=1)
    assert names_of(world) == ["Ada"]


def test_where_no_model_json_comes_in_time_the_run_fails_and_one_that_comes_later_starts_another(
    world: World,
) -> None:
    began = world.clock.now
    world.register()
    world.drop(FEED + "model.json", model(REFRESH_BEFORE))
    world.drop(f"{REFRESH}{SEGMENT}_1.csv", ADA)
    world.deliver()
    failed = assert_ended(world, Status.FAILED)
    assert failed.created_at.timestamp() >= began + world.limits.patience_s
    assert "EMail" in failed.message
    for _ in range(2):  # it is noticed twice, and says the same
        world.drop(FEED + "model.json", model(REFRESH_BEFORE, REFRESH))
        world.deliver()
    _, again = world.runs()
    assert_ended(world, Status.SUCCESSFUL, delivered=1, run=again)
    assert names_of(world) == ["Ada"]


@pytest.mark.parametrize(
    ("mapping", "content"),
    [
        ({"email": "EMail"}, "EMail,FirstName\nada@example.com,Ada\n"),
        ({"email": "column_1"}, ADA),
    ],
)
def test_files_that_need_no_model_json_do_not_wait_for_one(
    world: World, mapping: dict[str, str], content: str
) -> None:
    began = world.clock.now
    world.register(mapping=mapping)
    world.drop(f"{REFRESH}{SEGMENT}_1.csv", content)
    world.deliver()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=1)
    assert run.created_at.timestamp() == pytest.approx(began + world.limits.settle_s)


def test_a_model_json_makes_no_second_run_of_what_was_delivered(world: World) -> None:
    world.register()
    world.drop(f"{REFRESH}{SEGMENT}_1.csv", as_csv(people(5)))
    world.deliver()
    world.drop(FEED + "model.json", model(REFRESH, columns=("EMail", "FirstName")))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_a_file_rewritten_while_settling_is_read_as_it_is_in_the_end(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.clock.move(60)
    world.drop_people("a.csv", people(7, first=100))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=7)
    assert world.emails() == {email for email, _ in people(7, first=100)}


def test_a_late_partition_makes_a_new_run_of_the_whole_snapshot(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver()
    world.clock.move(HOUR)
    world.drop_people("b.csv", people(5, first=5))
    world.deliver()
    first, second = world.runs()
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=first)
    assert_ended(world, Status.SUCCESSFUL, delivered=10, run=second)


@pytest.mark.parametrize("seed", range(2))
def test_notices_that_come_twice_and_in_any_order_make_one_run(world: World, seed: int) -> None:
    snapshot = Snapshot(rows=40, partitions=4)
    world.register()
    names = world.drop_snapshot(snapshot, notify=False) * 3
    random.Random(seed).shuffle(names)
    for name in names:
        world.engine.arrivals.on_blob_arrived(name)
        world.clock.move(random.Random(seed).choice([0, 0, 90]))
    world.deliver()
    for name in names[:2]:
        world.engine.arrivals.on_blob_arrived(name)  # long afterwards
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=40)
    assert world.job_requests() == 1


def test_two_refreshes_at_once_each_run_and_the_newer_one_has_the_last_word(world: World) -> None:
    world.register()
    older, newer = (
        f"CustomerInsights_x/Feed/HighValue/2026/09/21/{hhmm}/HighValue_1.csv"
        for hhmm in ("1300", "1400")
    )
    world.put(older, as_csv([("p@example.com", "Old")]))
    world.put(newer, as_csv([("p@example.com", "New")]))
    for name in (older, newer):
        world.engine.arrivals.on_blob_arrived(name)
    world.deliver()
    assert [run.status for run in world.runs()] == [Status.SUCCESSFUL, Status.SUCCESSFUL]
    assert world.members()["p@example.com"]["first_name"] == "New"


def test_a_snapshot_noticed_after_a_newer_one_was_delivered_brings_no_old_values_back(
    world: World,
) -> None:
    world.register()
    older, newer = (
        f"CustomerInsights_x/Feed/HighValue/2026/09/21/{hhmm}/HighValue_1.csv"
        for hhmm in ("1300", "1400")
    )
    world.drop(newer, as_csv([("p@example.com", "New")]))
    world.deliver()
    world.drop(older, as_csv([("p@example.com", "Old")]))
    world.deliver()
    older_run = next(run for run in world.runs() if run.manifest.exported_at.hour == 13)
    assert_ended(world, Status.SKIPPED, run=older_run)
    assert world.members()["p@example.com"]["first_name"] == "New"


BECAUSE = ["arrival", "schedule", "demand"]
NIGHTLY = Schedule(on="schedule", times=["02:00"], time_zone="UTC")


class Meddler(FolderSnapshots):
    """Snapshots in which something happens before a file is opened, a number of times."""

    def __init__(self, world: World, happens: Callable[[str], object], *, times: int = 1) -> None:
        super().__init__(world.container)
        self.happens, self.times = happens, times

    def open(self, name: str, *, etag: str) -> Iterator[bytes]:
        if self.times:
            self.times -= 1
            self.happens(name)
        return super().open(name, etag=etag)


def start_meddled(
    world: World,
    because: str,
    happens: Callable[[str], object],
    *,
    times: int = 1,
    name: str = FOLDER + "a.csv",
) -> None:
    """Start a run of five people, under which something happens."""
    export = world.register(schedule=NIGHTLY if because == "schedule" else ON_ARRIVAL)
    if because == "schedule":
        world.engine.timer.tick()
        world.clock.move(24 * HOUR)
    world.put(name, as_csv(people(5)))
    world.clock.move(HOUR / 2)
    world.engine = world.again(snapshots=Meddler(world, happens, times=times))
    match because:
        case "arrival":
            world.engine.arrivals.on_blob_arrived(name)
        case "schedule":
            world.engine.timer.tick()
        case _:
            world.engine.starter.start(export)
    world.deliver()


@pytest.mark.parametrize("because", BECAUSE)
def test_a_partition_replaced_while_it_is_read_starts_over_with_the_new_one(
    world: World, because: str
) -> None:
    start_meddled(world, because, lambda name: world.put(name, as_csv(people(7, first=100))))
    first, second = world.runs()
    assert_ended(world, Status.SKIPPED, run=first)
    assert second.run_id in first.message
    assert_ended(world, Status.SUCCESSFUL, delivered=7, run=second)
    assert (second.because, second.due_at, second.restarts) == (because, first.due_at, 1)
    assert world.emails() == {email for email, _ in people(7, first=100)}
    assert second.created_at.timestamp() >= first.created_at.timestamp() + world.limits.settle_s, (
        "it waited for quiet"
    )


def test_one_that_arrives_anew_while_it_is_read_makes_one_new_run(world: World) -> None:
    start_meddled(world, "arrival", lambda _: world.drop_people("a.csv", people(7, first=100)))
    first, second = world.runs()
    assert_ended(world, Status.SKIPPED, run=first)
    assert_ended(world, Status.SUCCESSFUL, delivered=7, run=second)


@pytest.mark.parametrize("because", BECAUSE)
@pytest.mark.parametrize("name", [f"segments/{SEGMENT}.csv", FOLDER + "a.csv"])
@pytest.mark.parametrize("settles", [True, False])
def test_a_snapshot_that_changes_without_end_fails_at_last(
    world: World, because: str, name: str, settles: bool
) -> None:
    """If it settles in between, new runs follow. If it never settles, the run gives up."""
    sizes = itertools.count(7)  # file systems tell versions of one size apart by milliseconds only

    def change(name: str) -> None:
        world.put(name, as_csv(people(next(sizes))))
        if settles:
            world.clock.move(world.limits.settle_s)

    start_meddled(world, because, change, times=10_000, name=name)
    *before, last = sorted(world.runs(), key=lambda run: run.restarts)
    assert [run.status for run in before] == [Status.SKIPPED] * (3 if settles else 0)
    assert_ended(world, Status.FAILED, run=last)
    assert "changed while it was read" in last.message


@pytest.mark.parametrize("because", BECAUSE)
def test_a_snapshot_that_is_deleted_while_it_is_read_is_gone(world: World, because: str) -> None:
    start_meddled(world, because, lambda name: (world.container / name).unlink())
    run = assert_ended(world, Status.SKIPPED if because == "arrival" else Status.FAILED)
    assert "gone" in run.message


def test_a_snapshot_that_vanishes_while_settling_is_forgotten(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    (world.container / FOLDER / "a.csv").unlink()
    world.deliver()
    assert (world.runs(), world.errors) == ([], [])


# A snapshot that cannot be looked at


class Barred:
    """Snapshots that cannot be listed, for so many times."""

    def __init__(self, world: World, error: Exception, times: int = 10_000) -> None:
        self._snapshots, self._error, self._times = world.engine.snapshots, error, times

    def list(self, prefix: str) -> Iterator[Any]:
        self._times -= 1
        if self._times >= 0:
            raise self._error
        return iter(self._snapshots.list(prefix))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._snapshots, name)


REFUSED = ConfigError(
    "the container: storage refuses access (403)", hint="Give the app's identity the role."
)


@pytest.mark.parametrize("error", [REFUSED, Transient("the container: storage is not available")])
@pytest.mark.parametrize("layout", [FOLDER, "CustomerInsights_x/Feed/HighValue/2026/09/21/1300/"])
def test_a_snapshot_that_cannot_be_looked_at_is_a_failed_run_that_says_why(
    world: World, error: ExporterError, layout: str
) -> None:
    """One, however many partitions told of it, and a notice of it."""
    notices: list[Notice] = []
    world.register()
    world.engine = world.again(snapshots=Barred(world, error), notify=notices.append)
    for number in range(3):
        world.drop(f"{layout}HighValue_{number}.csv", as_csv(people(3)))
        world.clock.move(7)
    began = world.clock.now
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert error.message in run.message
    assert run.hint == (error.hint or AGAIN_HINT)
    assert (world.errors, world.poisoned) == ([], [])
    assert world.clock.now - began < HOUR
    world.again(notify=notices.append).timer.tick()
    assert [notice.run for notice in notices] == [run.run_id]


def test_a_snapshot_that_changed_and_cannot_be_looked_at_again_fails_the_run_and_says_why(
    world: World,
) -> None:
    class Shut(Meddler):
        """Nothing is listed any more once the file was replaced."""

        def list(self, prefix: str) -> Iterator[BlobInfo]:
            if not self.times:
                raise REFUSED
            return super().list(prefix)

    export = world.register()
    world.put(FOLDER + "a.csv", as_csv(people(5)))
    world.clock.move(HOUR / 2)
    shut = Shut(world, lambda name: world.put(name, as_csv(people(7))))
    world.engine = world.again(snapshots=shut)
    world.engine.starter.start(export)
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert (run.message, run.hint) == (REFUSED.message, REFUSED.hint)
    assert world.errors == []


def test_access_that_comes_minutes_later_loses_no_snapshot(world: World) -> None:
    """A new role takes some minutes to count."""
    world.register()
    world.engine = world.again(snapshots=Barred(world, REFUSED, times=8))
    world.drop_people("a.csv", people(3))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=3)


def test_a_run_after_the_mend_delivers_what_could_not_be_looked_at(world: World) -> None:
    export = world.register()
    barred = world.again(snapshots=Barred(world, REFUSED))
    world.drop_people("a.csv", people(3))
    world.deliver(engine=barred)
    world.engine.starter.start(export)
    world.deliver()
    failed, second = world.runs()
    assert (failed.status, second.status) == (Status.FAILED, Status.SUCCESSFUL)


def test_of_two_exports_the_one_that_cannot_be_started_keeps_not_the_other(world: World) -> None:
    class Unlucky:
        """A store that takes no run of one export."""

        def create(self, name: str, data: bytes) -> str:
            if name.startswith("runs/aaa/2") and b'"Queued"' in data:
                raise ConfigError("storage refuses access")
            return store.create(name, data)

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

    store = world.engine.store
    world.register("aaa")
    world.register()
    world.engine = world.again(store=Unlucky())
    world.drop_people("a.csv", people(3))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=3)
    assert_ended(world, Status.FAILED, run=world.run("aaa"))


def test_a_poison_message_about_a_snapshot_is_a_failed_run(world: World) -> None:
    world.register()
    world.engine = world.again(snapshots=Barred(world, RuntimeError("a defect of ours")))
    world.drop_people("a.csv", people(3))
    world.deliver()
    assert [message["do"] for message in world.poisoned] == ["settle"]
    assert_ended(world, Status.FAILED)
    world.engine.dispatcher.close_poisoned({"do": "settle", "blob": "notes.txt"})
    assert len(world.runs()) == 1


@pytest.mark.parametrize("blob", ["notes.txt", "", "../x"])
def test_a_look_at_what_is_no_snapshot_is_dropped(world: World, blob: str) -> None:
    world.engine.dispatcher.handle({"do": "settle", "blob": blob})
    assert world.messages() == 0


def test_a_model_json_too_large_to_be_read_is_left_aside_and_the_report_says_so(
    world: World,
) -> None:
    world.register()
    names = world.drop_snapshot(Snapshot(rows=10, partitions=2))
    [model] = [name for name in names if name.endswith("model.json")]
    world.put(model, (world.container / model).read_bytes() + b" " * MAX_MODEL_BYTES)
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=10)
    [note] = world.report()["notes"]
    assert f"model.json has over {MAX_MODEL_BYTES:,} bytes" in note
    assert note in report_as_text(world.report())


# Events that never came


def _hours(world: World, count: int) -> None:
    for _ in range(count):
        world.clock.move(HOUR)
        world.engine.timer.tick()
        world.deliver()


LAYOUTS = [FOLDER, "segments/HighValue.csv", "CustomerInsights_x/Feed/HighValue/2026/09/21/1300/"]


@pytest.mark.parametrize("place", LAYOUTS)
def test_a_snapshot_whose_events_were_lost_is_found_within_hours_and_runs_once(
    world: World, place: str
) -> None:
    world.register()
    world.engine.timer.tick()
    world.clock.move(60)
    world.put(place if place.endswith(".csv") else place + "HighValue_1.csv", as_csv(people(3)))
    _hours(world, 3)
    assert_ended(world, Status.SUCCESSFUL, delivered=3)
    handled = world.handled
    _hours(world, 10)
    assert (len(world.runs()), world.handled) == (1, handled), "looked at once, not every hour"


def test_how_many_exports_are_active_is_told_every_hour(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """By it an alert knows that runs are missing, and not only that there are none to begin."""
    with caplog.at_level("INFO", logger="exporter"):
        _hours(world, 1)
        export = world.register()
        _hours(world, 2)
        world.engine.catalog.save(export.model_copy(update={"paused": True}))
        _hours(world, 1)
    told = [vars(each)["exports"] for each in caplog.records if each.msg == "exports waiting"]
    assert told == [0, 1, 1, 0]


def test_what_no_event_told_of_is_named_in_the_run_and_counted_in_health(world: World) -> None:
    world.register()
    world.engine.timer.tick()
    world.drop_people("a.csv", people(3))
    world.deliver()
    assert (world.run().because, world.engine.health.check()["events"]) == ("arrival", "ok")
    world.clock.move(60)
    world.put("segments/HighValue.csv", as_csv(people(3, first=3)))
    _hours(world, 3)
    assert [run.because for run in world.runs()] == ["arrival", "hourly look"]
    assert world.engine.health.check()["events"].startswith("ok: 1 snapshots since yesterday")
    world.clock.move(2 * 86_400)
    assert world.engine.health.check()["events"] == "ok", "old news"


NO_HEADER = "ada@example.com,Ada\nbert@example.com,Bert\n"


def _model(*locations: str) -> str:
    attributes = [{"name": "EMail", "dataType": "string"}, {"name": "FirstName"}]
    partitions = [
        {"name": f"p{number}", "location": f"https://acct.blob.core.windows.net/{location}"}
        for number, location in enumerate(locations)
    ]
    entity = {"name": "Anything", "attributes": attributes, "partitions": partitions}
    return json.dumps({"name": "m", "version": "1.0", "entities": [entity]})


@pytest.mark.parametrize("place", LAYOUTS)
@pytest.mark.parametrize("model_comes_first", [True, False])
def test_a_model_elsewhere_is_found_by_the_locations_inside_the_own_container(
    world: World, place: str, model_comes_first: bool
) -> None:
    name = place if place.endswith(".csv") else place + "HighValue_1.csv"
    world.register()
    drops = [
        ("CustomerInsights_1/described/model.json", _model(f"klaviyo-feed/{name}")),
        (name, NO_HEADER),
    ]
    for each in drops if model_comes_first else drops[::-1]:
        world.drop(*each)
        world.deliver()
    run = world.runs()[-1]
    assert_ended(world, Status.SUCCESSFUL, delivered=2, run=run)
    assert world.emails() == {"ada@example.com", "bert@example.com"}


def test_a_model_elsewhere_names_the_partitions_that_are_waited_for(world: World) -> None:
    world.register()
    located = (f"klaviyo-feed/{FOLDER}a.csv", f"klaviyo-feed/{FOLDER}b.csv")
    world.drop("beside/model.json", _model(*located))
    world.drop(FOLDER + "a.csv", NO_HEADER)
    world.deliver(until=lambda: world.clock() > 60)
    assert world.runs() == []
    world.drop(FOLDER + "b.csv", "cy@example.com,Cy\n")
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=3)


@pytest.mark.parametrize("container", ["another-container", "klaviyo-feed-2"])
def test_a_model_of_another_container_names_no_file_and_the_error_says_so(
    world: World, container: str
) -> None:
    world.register()
    world.drop("beside/model.json", _model(f"{container}/{FOLDER}a.csv"))
    world.drop(FOLDER + "a.csv", NO_HEADER)
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "no model.json in the container names this file" in run.hint


def test_a_late_partition_whose_event_was_lost_makes_a_run_as_well(world: World) -> None:
    world.register()
    world.engine.timer.tick()
    world.drop_people("a.csv", people(3))
    world.deliver()
    world.clock.move(60)
    world.put(FOLDER + "b.csv", as_csv(people(3, first=3)))
    _hours(world, 3)
    assert [run.counts.delivered for run in world.runs()] == [3, 6]


def test_a_snapshot_that_was_there_before_its_export_is_not_missed(world: World) -> None:
    """Saving an export runs nothing, nor does giving it another segment, or resuming it."""
    world.put(FOLDER + "a.csv", as_csv(people(3)))
    world.put("segments/Other/a.csv", as_csv(people(3)))
    world.clock.move(60)
    export = world.register()
    _hours(world, 3)
    paused = export.model_copy(update={"paused": True})
    world.engine.catalog.save(paused)
    world.engine.timer.tick()
    world.put(FOLDER + "b.csv", as_csv(people(3)))
    world.clock.move(60)
    world.engine.catalog.save(export)
    _hours(world, 3)
    changed = Change(by="a person", at=world.now())
    world.engine.catalog.save(
        export.model_copy(update={"segments": ["HighValue", "Other"], "changed": changed})
    )
    _hours(world, 3)
    assert world.runs() == []


def test_a_snapshot_whose_look_failed_for_good_is_not_looked_at_every_hour(world: World) -> None:
    world.register()
    world.engine.timer.tick()
    world.clock.move(60)
    world.engine = world.again(snapshots=Barred(world, REFUSED))
    world.drop("segments/HighValue.csv", as_csv(people(3)))
    world.deliver()
    world.engine = world.again()
    handled = world.handled
    _hours(world, 5)
    assert_ended(world, Status.FAILED)
    assert world.handled == handled


def test_the_container_is_listed_once_an_hour_by_one_of_two_instances(world: World) -> None:
    world.register()
    listed: list[str] = []

    class Listed(Barred):
        def list(self, prefix: str) -> Iterator[Any]:
            listed.append(prefix)
            return super().list(prefix)

    instances = [world.again(snapshots=Listed(world, REFUSED, times=0)) for _ in range(2)]
    for _ in range(24):
        for engine in instances:
            engine.timer.tick()
        world.clock.move(300)
    assert listed == ["", ""]
    world.engine.store.delete("arrivals.json")
    world.engine.store.create("arrivals.json", b"what?")
    instances[0].timer.tick()
    assert listed == ["", "", ""]


SINGLE, MAPPED = f"segments/{SEGMENT}.csv", "CustomerInsights_x/Feed_HighValue_1790000000.csv"
DATED = REFRESH + "HighValue_1.csv"
UNDATED = "Export/HighValue/HighValue_1.csv"


def wait_for(world: World, seconds: float) -> None:
    """Let time pass, and handle the messages that become due."""
    until = world.clock.now + seconds
    world.deliver(until=lambda: (world.queue.next_due() or until) >= until)
    world.clock.now = until


@pytest.mark.parametrize("name", [SINGLE, MAPPED, DATED, UNDATED, FOLDER + "a.csv"])
def test_a_file_that_is_written_in_parts_is_read_when_it_stands_still(
    world: World, name: str
) -> None:
    world.register(segments=["Feed_HighValue" if name == MAPPED else SEGMENT])
    for content in ("", as_csv(people(3)), as_csv(people(6))):
        world.drop(name, content)
        wait_for(world, world.limits.settle_s / 2)
        assert world.runs() == []
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=6)


@pytest.mark.parametrize("name", [SINGLE, MAPPED, DATED, UNDATED, FOLDER + "a.csv"])
@pytest.mark.parametrize("content", ["", as_csv(people(3))])
def test_a_file_that_is_still_written_is_no_snapshot_for_a_run_on_demand(
    world: World, name: str, content: str
) -> None:
    export = world.register(segments=["Feed_HighValue" if name == MAPPED else SEGMENT])
    world.put(name, content)
    world.clock.move(world.limits.settle_s - 1)
    with pytest.raises(NoSnapshot):
        world.engine.starter.start(export)
    world.put(name, as_csv(people(6)))
    world.clock.move(world.limits.settle_s)
    world.engine.starter.start(export)
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=6)


def test_a_partition_that_gets_its_content_late_is_waited_for(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(3))
    world.drop(FOLDER + "b.csv", "")
    wait_for(world, 10 * world.limits.settle_s)
    assert world.runs() == []
    world.put(FOLDER + "b.csv", as_csv(people(3, first=3)))  # and its event was lost
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=6)


def test_a_partition_that_stays_empty_is_noted_and_the_snapshot_not_complete(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(3))
    world.drop(FOLDER + "b.csv", "")
    began = world.clock.now
    world.deliver()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=3)
    assert run.created_at.timestamp() >= began + world.limits.patience_s
    assert run.manifest.empty == [FOLDER + "b.csv"]
    assert not run.manifest.is_complete
    assert any("b.csv stayed empty" in note for note in world.report(run)["notes"])


def test_a_snapshot_of_nothing_but_an_empty_file_fails_only_after_all_patience(
    world: World,
) -> None:
    world.register()
    world.drop(SINGLE, "")
    wait_for(world, world.limits.patience_s - 1)
    assert world.runs() == []
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert run.manifest.empty == [SINGLE]
