"""An export's maximum of profiles: a plan with more is not sent."""

from __future__ import annotations

import pytest

from exporter.definitions.export import Export
from exporter.runs.run import Status
from tests.journeys.world import World, assert_ended, people


def _register(world: World, most: int | None) -> Export:
    export = world.register().model_copy(update={"max_profiles": most})
    world.engine.catalog.save(export)
    return export


def test_a_plan_over_the_maximum_fails_before_anything_is_sent_and_says_what_to_do(
    world: World,
) -> None:
    _register(world, 1_000)
    world.drop_people("a.csv", [*people(1_234), ("no address", "Nobody")])
    world.deliver()
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert "1,234 profiles" in run.message
    assert "maximum of 1,000" in run.message
    assert "raise the export's maximum" in run.hint
    assert world.job_requests() == 0
    assert world.emails() == set()
    assert world.report()["rows"] == 1_235
    assert world.rejected_emails() == ["no address"], "the lists of rows are there all the same"


@pytest.mark.parametrize("most", [None, 5, 6])
def test_a_plan_up_to_the_maximum_is_sent(world: World, most: int | None) -> None:
    """Rows that are rejected or give way to another do not count."""
    _register(world, most)
    world.drop_people("a.csv", [*people(5), ("no address", "Nobody"), people(1)[0]])
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=5)


def test_a_maximum_that_is_changed_meanwhile_holds_for_the_next_run(world: World) -> None:
    _register(world, 10)
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    export = _register(world, 3)
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=5)
    again = world.engine.starter.start(export)
    world.deliver()
    assert_ended(world, Status.FAILED, delivered=0, run=world.engine.runs.run(again.run_id))


def test_starting_again_with_a_higher_maximum_does_not_wait_for_the_run_that_is_open(
    world: World,
) -> None:
    _register(world, 3)
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: bool(world.runs()))
    world.clock.move(3_600)
    again = world.engine.starter.start(_register(world, 10))
    world.deliver()
    assert [run.status for run in world.runs()] == [Status.CANCELED, Status.SUCCESSFUL]
    assert world.runs()[-1].run_id == again.run_id


@pytest.mark.parametrize("most", [0, -1, "many", 1.5])
def test_a_maximum_is_a_number_from_one(world: World, most: object) -> None:
    document = world.register().model_dump() | {"max_profiles": most}
    with pytest.raises(ValueError, match="max_profiles"):
        Export.model_validate(document)
