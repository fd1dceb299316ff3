"""What needs attention, what is left aside, and why a person is not in a list."""

from __future__ import annotations

import pytest

from exporter.errors import NotAllowed
from exporter.management.management import Management
from exporter.management.views import AttentionView
from exporter.runs.run import Status
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import FOLDER, SEGMENT, World, as_csv, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    add_export,
    arrive,
    connect,
    managed,
)

SCHEDULE = {"on": "schedule", "times": ["06:00"], "time_zone": "Europe/Bucharest"}


def told(found: list[AttentionView]) -> list[tuple[str, str]]:
    return [(each.severity, each.about) for each in found]


# Attention


def test_where_all_is_well_nothing_needs_attention(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3, planted={1: "nobody"}))
    world.deliver()
    assert world.run("high-value").status is Status.WARNINGS, "most segments have a bad row"
    assert management.as_(ADMIN).attention() == []


def test_what_does_not_run_needs_attention_with_the_command_that_mends_it(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management, name="Paused", paused=True)
    add_export(management, name="Alone", connection=None)
    add_export(management, name="Waiting", segments=["Nobody"])
    world.drop_people("a.csv", people(3))
    found = management.as_(ADMIN).attention()
    assert [(each.about, each.problem, each.hint) for each in found] == [
        (
            "exports/alone",
            "It has no connection, so it does not run.",
            "exports edit alone --connection ID",
        ),
        ("exports/paused", "It is paused.", "exports resume paused"),
        (
            "exports/waiting",
            "No snapshot of Nobody has arrived.",
            "segments lists those that have.",
        ),
    ]


def test_a_file_left_aside_under_a_segments_name_needs_attention(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.put(f"Feed/{SEGMENT}/part-00000-c000.csv", as_csv(people(1)))
    world.put(f"Feed/{SEGMENT}/part-00001-c000.csv", as_csv(people(1)))
    world.put("Feed/Other/part-00000-c000.csv", as_csv(people(1)))
    [found] = management.as_(VIEWER).attention()
    assert (found.severity, found.about) == ("error", "exports/high-value")
    assert f"and 1 more bears the name of {SEGMENT}" in found.problem
    assert "segments/SEGMENT.csv" in found.hint


def test_failed_runs_and_keys_that_do_not_work_need_attention(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.settings(revoke=[FULL_KEY])
    world.drop_people("a.csv", people(3))
    world.deliver()
    management.as_(ADMIN).check_connection("main-account")
    run = world.run("high-value")
    found = management.as_(ADMIN).attention()
    assert told(found) == [("error", "connections/main-account"), ("error", "exports/high-value")]
    assert found[1].problem == f"The last run failed: {run.message}"
    assert (found[1].hint, found[1].run) == (run.hint, run.run_id)
    assert told(management.as_(VIEWER).attention()) == [("error", "exports/high-value")]


def test_warnings_come_after_errors_and_open_runs_that_are_put_off_are_among_them(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.fault("status", status=503, times=None)
    world.drop_people("a.csv", people(3))
    world.deliver(
        until=lambda: bool(world.runs("high-value")) and world.run("high-value").setbacks > 0
    )
    add_export(management, name="A detached one", connection=None)
    found = management.as_(ADMIN).attention()
    assert told(found) == [("warning", "exports/a-detached-one"), ("warning", "exports/high-value")]
    assert found[1].problem == f"The open run waits: {world.run('high-value').message}"


def test_damaged_documents_and_what_the_app_lacks_need_attention(
    world: World, broken: Management
) -> None:
    found = world.engine.store.read("exports/high-value.json")
    assert found is not None
    world.engine.store.replace("exports/high-value.json", b"{", etag=found.etag)
    arrive(world)
    unwell = managed(world, check_health=lambda: {"state": "ok", "vault": "it does not answer"})
    assert told(unwell.as_(ADMIN).attention()) == [
        ("error", "app/vault"),
        ("error", "connections/hand-made"),
        ("error", "exports/a"),
        ("error", "exports/high-value"),
    ]


def test_missing_consent_needs_attention_where_an_export_waits_for_it(
    world: World, management: Management
) -> None:
    connect(management, agreed=False)
    arrive(world)
    assert management.as_(ADMIN).attention() == []
    add_export(management)
    [found] = management.as_(ADMIN).attention()
    assert (found.about, "agreed" in found.problem) == ("connections/main-account", True)


def test_an_export_shows_its_next_run_and_its_last_result(
    world: World, management: Management
) -> None:
    connect(management)
    view = add_export(management, schedule=SCHEDULE)
    assert view.next_run_at is not None
    assert view.next_run_at > world.now()
    assert (view.next_run_at.hour, view.next_run_at.minute) == (3, 0), "UTC in summer"
    assert management.as_(ADMIN).pause_export(view.id, paused=True).next_run_at is None
    assert add_export(management, name="On arrival").next_run_at is None


# Left aside


def test_what_is_left_aside_for_its_layout_is_listed_and_told_by_segment(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.put(FOLDER + "a.csv", as_csv(people(1)))
    world.put("Feed/model.json", "{}")
    world.put(f"Feed/{SEGMENT}/part-00000-c000.csv", as_csv(people(1)))
    world.put("Feed/notes.txt", "x")
    found = management.as_(VIEWER).left_aside()
    assert [(each.name, each.segment) for each in found] == [
        (f"Feed/{SEGMENT}/part-00000-c000.csv", SEGMENT),
        ("Feed/notes.txt", None),
    ]
    assert "No layout" in found[0].why


# One person


def test_a_person_who_was_left_out_is_told_where_and_why(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(4, planted={2: "Ada@@example.com"}))
    world.deliver()
    run = world.run("high-value")
    [why] = management.as_(ADMIN).why(" ada@@example.com ")
    assert (why.run, why.outcome, why.source, why.line) == (
        run.run_id,
        "left out",
        FOLDER + "a.csv",
        4,
    )
    assert why.reason
    assert why.message


def test_a_person_who_was_delivered_is_told_so_and_one_who_is_not_there_too(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(25))
    world.deliver()
    app = management.as_(ADMIN)
    assert [(each.outcome, each.status) for each in app.why("P7@example.com")] == [
        ("delivered", "Successful")
    ]
    assert [each.outcome for each in app.why("nobody@example.com")] == ["not in the snapshot"]
    assert world.runs("high-value")[0].status is Status.SUCCESSFUL


def test_a_person_is_not_said_to_be_delivered_by_a_run_that_was_not(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: world.accepted_rows() > 0)
    management.as_(ADMIN).cancel_run(world.run("high-value").run_id)
    world.deliver()
    [why] = management.as_(ADMIN).why("p2@example.com")
    assert (why.outcome, why.status) == ("unknown", "Canceled")
    world.put(FOLDER + "a.csv", as_csv(people(1)))
    [why] = management.as_(ADMIN).why("p2@example.com")
    assert (why.outcome, "read again" in why.message) == ("unknown", True)


def test_a_person_whose_row_klaviyo_may_not_have_imported_is_not_said_to_be_delivered(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(5))
    world.deliver()
    run = world.run("high-value")
    name = run.folder + "rejected.csv"
    found = world.engine.store.read(name)
    assert found is not None
    row = b'"","","","unconfirmed","import job 1",""\n'
    world.engine.store.replace(name, found.data + row, etag=found.etag)
    [why] = management.as_(ADMIN).why("p2@example.com")
    assert (why.outcome, "not known" in why.message) == ("unknown", True)


def test_a_person_who_was_left_out_is_found_when_the_rows_of_the_run_are_past_their_time(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(4, planted={2: "ada@@example.com"}))
    world.deliver()
    name = world.run("high-value").folder + "rejected.csv"
    found = world.engine.store.read(name)
    assert found is not None
    world.engine.store.delete(name, etag=found.etag)
    [why] = management.as_(ADMIN).why("ada@@example.com")
    assert (why.outcome, why.line) == ("left out", 4)


def test_where_another_column_identifies_people_their_address_is_found_as_well(
    world: World, management: Management
) -> None:
    connect(management)
    mapping = {"email": "EMail", "external_id": "FirstName", "identifier": "external_id"}
    add_export(management, mapping=mapping)
    world.drop_people("a.csv", people(4))
    world.deliver()
    assert [each.outcome for each in management.as_(ADMIN).why("P2@example.com")] == ["delivered"]
    assert [each.outcome for each in management.as_(ADMIN).why("no@example.com")] == [
        "not in the snapshot"
    ]


def test_what_is_said_of_a_person_holds_no_identifier(world: World, management: Management) -> None:
    connect(management)
    add_export(management, keep_rejected_rows=True)
    world.drop_people("a.csv", people(4, planted={2: "ada@@example.com"}))
    world.deliver()
    app = management.as_(ADMIN)
    for person in ("ada@@example.com", "p1@example.com", "nobody@example.com"):
        assert "@" not in "".join(each.model_dump_json() for each in app.why(person))


def test_earlier_runs_that_left_the_person_out_are_listed_newest_first(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    for address in ("ada@@example.com", "ada@@example.com", "other@example.com"):
        world.clock.move(90)
        world.drop_people("a.csv", [*people(3), (address, "Ada")])
        world.deliver()
    runs = [run.run_id for run in world.runs("high-value")]
    found = management.as_(ADMIN).why("ada@@example.com")
    assert [(each.run, each.outcome) for each in found] == [
        (runs[2], "not in the snapshot"),
        (runs[1], "left out"),
        (runs[0], "left out"),
    ]


def test_who_may_not_read_rows_is_told_nothing_of_a_person(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(4, planted={2: "ada@@example.com"}))
    world.deliver()
    with pytest.raises(NotAllowed):
        management.as_(VIEWER).why("ada@@example.com")
    assert management.as_(CONTRIBUTOR).why("ada@@example.com") == []
