"""No batch leaves later than 0.3 s after a person's word.

What Klaviyo has taken by then is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from exporter.definitions.connection import Connection
from exporter.definitions.definition import Change
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from exporter.orchestration.run_step import LOOK_S
from exporter.orchestration.withdrawal import FRESH_S
from exporter.runs.run import Status
from exporter.sending.limits import SendLimits
from exporter.storage.local_folder import FolderSnapshots
from tests.journeys.world import CONNECTION, EXPORT, World, assert_ended, people

pytestmark = pytest.mark.usefixtures("small_batches")


def _cancel(world: World) -> None:
    world.engine.runs.cancel(world.run().run_id)


def _remove_connection(world: World) -> None:
    world.engine.store.delete(f"connections/{CONNECTION}.json")


def _withdraw_consent(world: World) -> None:
    connection = world.engine.catalog.connection(CONNECTION)
    assert connection is not None
    world.engine.catalog.save(connection.model_copy(update={"consent": None}))


def _pause(world: World) -> None:
    _change_export(world, paused=True)


def _remove_export(world: World) -> None:
    world.engine.store.delete(f"exports/{EXPORT}.json")


def _give_other_connection(world: World) -> None:
    world.register("another", connection="other")
    _change_export(world, connection="other")


def _change_export(world: World, **changes: Any) -> None:
    export = world.engine.catalog.export(EXPORT)
    assert export is not None
    world.engine.catalog.save(export.model_copy(update=changes))


STOPS = [
    _cancel,
    _remove_connection,
    _withdraw_consent,
    _pause,
    _remove_export,
    _give_other_connection,
]


class _StopAt:
    """A client that lets a person act while its n-th import is under way.

    Every import takes `seconds`: by default so
        long that the next batch is the first that must not go.
    """

    def __init__(
        self, world: World, at: int, act: Callable[[World], None], *, seconds: float = 0.31
    ) -> None:
        self.world, self.at, self.act, self.sent, self.seconds = world, at, act, 0, seconds
        self.acted_at = self.last_at = 0.0

    def __call__(self, key: Any) -> Any:
        client = self.world.client(key)
        start_import = client.start_import

        def counted(body: bytes) -> Any:
            self.sent += 1
            self.last_at = self.world.clock.now
            if self.sent == self.at:
                self.acted_at = self.last_at
                self.act(self.world)
            answer = start_import(body)
            self.world.clock.move(self.seconds)
            return answer

        client.start_import = counted  # type: ignore[method-assign]
        return client


@pytest.mark.parametrize("act", STOPS)
def test_a_run_is_stopped_before_its_next_batch(world: World, act: Callable[[World], None]) -> None:
    world.restart(send=SendLimits(in_flight=1))
    world.register()
    stop = _StopAt(world, 3, act)
    world.engine = world.again(open_klaviyo=stop)
    world.drop_people("a.csv", people(100))
    world.deliver()
    assert stop.sent == 3
    run = assert_ended(world, Status.CANCELED)
    assert run.message
    report = world.report()
    assert (report["rows"], report["jobs"]) == (100, 3), "the report says how far the run came"


@pytest.mark.parametrize("act", STOPS)
def test_no_batch_leaves_later_than_0_3_s_after_the_withdrawal(
    world: World, act: Callable[[World], None]
) -> None:
    world.restart(send=SendLimits(in_flight=1))
    world.register()
    stop = _StopAt(world, 25, act, seconds=0.1)
    world.engine = world.again(open_klaviyo=stop)
    world.drop_people("a.csv", people(1_000))
    world.deliver()
    assert_ended(world, Status.CANCELED)
    assert stop.sent >= 25
    assert stop.last_at - stop.acted_at <= FRESH_S


@pytest.mark.parametrize("act", STOPS[:3])
def test_a_run_is_stopped_before_it_begins(world: World, act: Callable[[World], None]) -> None:
    world.register()
    world.drop_people("a.csv", people(100))
    world.deliver(until=lambda: bool(world.runs()))
    act(world)
    world.deliver()
    assert_ended(world, Status.CANCELED)
    assert world.job_requests() == 0


class _Opening(FolderSnapshots):
    """Snapshots of slow storage: a person acts while the n-th file is read."""

    def __init__(self, world: World, at: int, act: Callable[[World], None]) -> None:
        super().__init__(world.container)
        self.world, self.at, self.act, self.opened = world, at, act, 0

    def open(self, name: str, *, etag: str) -> Iterator[bytes]:
        self.opened += 1
        if self.opened == self.at:
            self.act(self.world)
        self.world.clock.move(LOOK_S + 0.1)
        return super().open(name, etag=etag)


@pytest.mark.parametrize("act", STOPS)
def test_a_run_is_stopped_while_it_is_planned(world: World, act: Callable[[World], None]) -> None:
    world.register()
    opening = _Opening(world, 3, act)
    world.engine = world.again(snapshots=opening)
    for number in range(10):
        world.drop_people(f"{number}.csv", people(3, first=3 * number))
    world.deliver()
    assert_ended(world, Status.CANCELED)
    assert opening.opened == 3, "the other files are not read"
    assert world.job_requests() == 0


def test_cancelling_twice_is_fine(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    _cancel(world)
    _cancel(world)
    world.deliver()
    assert_ended(world, Status.CANCELED)


def test_cancelling_a_run_that_is_over_changes_nothing(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver()
    before = world.run()
    _cancel(world)
    world.engine.timer.tick()
    world.deliver()
    assert world.run() == before


def test_a_paused_export_starts_no_run(world: World) -> None:
    world.register()
    _pause(world)
    world.drop_people("a.csv", people(5))
    world.deliver()
    assert world.runs() == []


def test_a_changed_mapping_ends_the_open_run_and_starts_a_new_one(world: World) -> None:
    """Started again by hand while the old one is sending on another instance."""
    world.restart(send=SendLimits(in_flight=1))
    world.register()

    def change(world: World) -> None:
        _change_export(world, mapping=parse_mapping({"email": "EMail", "last_name": "FirstName"}))
        export = world.engine.catalog.export(EXPORT)
        assert export is not None
        world.engine.starter.start(export)

    stop = _StopAt(world, 3, change)
    world.engine = world.again(open_klaviyo=stop)
    world.drop_people("a.csv", people(100))
    world.deliver()
    old, new = world.runs()
    assert_ended(world, Status.CANCELED, run=old)
    assert_ended(world, Status.SUCCESSFUL, delivered=100, run=new)
    assert stop.sent == 3 + 10
    assert world.errors == []


def test_starting_after_the_connection_was_changed_makes_a_new_run_over_the_new_one(
    world: World,
) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    world.clock.move(1)
    export = world.register(connection="other")
    again = world.engine.starter.start(export)
    assert again.connection == "other"
    world.deliver()
    old, new = world.runs()
    assert_ended(world, Status.CANCELED, run=old)
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=new)


def _created(world: World, by: str = "a test") -> Change:
    return Change(by=by, at=world.now())


@pytest.mark.parametrize("kind", [Export, Connection])
def test_a_run_does_not_go_on_for_another_that_took_the_id_of_what_was_removed(
    world: World, kind: type[Export] | type[Connection]
) -> None:
    world.restart(send=SendLimits(in_flight=1))

    def make_anew(world: World) -> None:
        world.clock.move(1)
        document_id = EXPORT if kind is Export else CONNECTION
        removed, etag = world.engine.catalog.find(kind, document_id) or pytest.fail("gone")
        world.engine.catalog.remove(kind, document_id, etag=etag)
        changes = {"list_id": "LIST02"} if kind is Export else {}
        world.engine.catalog.save(
            removed.model_copy(update={"created": _created(world), **changes})
        )

    _born(world)
    stop = _StopAt(world, 3, make_anew)
    world.engine = world.again(open_klaviyo=stop)
    world.drop_people("a.csv", people(100))
    world.deliver()
    assert stop.sent == 3
    run = assert_ended(world, Status.CANCELED)
    assert "removed" in run.message


def test_a_run_goes_on_when_its_export_and_connection_were_edited(world: World) -> None:
    world.restart(send=SendLimits(in_flight=1))

    def edit(world: World) -> None:
        _change_export(world, changed=_created(world, "another"), name="Other")
        connection = world.engine.catalog.connection(CONNECTION)
        assert connection is not None
        world.engine.catalog.save(
            connection.model_copy(update={"changed": _created(world, "another")})
        )

    _born(world)
    world.engine = world.again(open_klaviyo=_StopAt(world, 3, edit))
    world.drop_people("a.csv", people(100))
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=100)


def test_a_run_written_before_it_knew_when_its_export_was_created_goes_on(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    _born(world)
    assert world.run().export_created_at is None
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)


def test_starting_an_export_that_took_an_id_makes_a_new_run(world: World) -> None:
    export = _born(world)
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    world.clock.move(1)
    anew = export.model_copy(update={"created": _created(world)})
    world.engine.catalog.save(anew)
    world.engine.starter.start(anew)
    world.deliver()
    assert [run.status for run in world.runs()] == [Status.CANCELED, Status.SUCCESSFUL]


def _born(world: World) -> Export:
    """An export and a connection that people made by the app, which notes when."""
    export = world.register()
    connection = world.engine.catalog.connection(CONNECTION)
    assert connection is not None
    made = {"created": _created(world), "changed": _created(world)}
    world.engine.catalog.save(connection.model_copy(update=made))
    world.engine.catalog.save(export.model_copy(update=made))
    return export.model_copy(update=made)


def test_starting_again_after_cancelling_makes_a_new_run(world: World) -> None:
    export = world.register()
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    _cancel(world)
    world.clock.move(1)
    again = world.engine.starter.start(export)
    assert again.run_id != world.runs()[0].run_id
    world.deliver()
    old, new = world.runs()
    assert_ended(world, Status.CANCELED, run=old)
    assert_ended(world, Status.SUCCESSFUL, delivered=5, run=new)
