"""Exports as people manage them: what is saved, refused and said; what a run would do."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.cli.wording import plan_as_text
from exporter.errors import (
    Conflict,
    Invalid,
    NotAllowed,
    Transient,
)
from exporter.management.forms import (
    ExportForm,
    NewExportForm,
    parse,
)
from exporter.management.management import Management
from exporter.runs.run import Status
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import FOLDER, LIST, SEGMENT, World, as_csv, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    add_export,
    arrive,
    connect,
    export_document,
    managed,
    text_of_everything,
)


def change(world: World, name: str, old: str, new: str) -> None:
    """Change a document by hand."""
    found = world.engine.store.read(name)
    assert found is not None
    changed = found.data.replace(old.encode(), new.encode())
    world.engine.store.replace(name, changed, etag=found.etag)


def test_saving_an_export_does_not_run_it(world: World, management: Management) -> None:
    connect(management)
    arrive(world)
    view = add_export(management)
    assert (view.status, view.refreshed, world.messages()) == ("Not started", None, 0)


def test_an_export_shows_the_columns_of_the_original(world: World, management: Management) -> None:
    connect(management, used_by="contributors")
    add_export(management, CONTRIBUTOR)
    world.drop_people("a.csv", people(3))
    world.deliver()
    [view] = management.as_(VIEWER).exports()
    assert (view.name, view.connection_name, view.type, view.status) == (
        *("High value", "Main account", "klaviyo", "Successful"),
    )
    assert view.refreshed == world.run("high-value").finished_at
    assert view.created is not None
    assert (view.created.by, view.changed) == ("Cem", view.created)
    assert view.may == []
    assert "run_export" in management.as_(CONTRIBUTOR).export("high-value").may
    assert view.schedule_text


def test_refreshed_is_when_it_last_delivered_however_often_it_was_skipped_since(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    delivered = world.run("high-value")
    for day in range(1, 9):
        document = delivered.model_copy(
            update={
                "run_id": f"high-value/2027010{day}T060000Z-skipped",
                "status": Status.SKIPPED,
                "created_at": world.now(),
                "finished_at": world.now(),
            }
        )
        world.engine.store.create(
            document.folder + "run.json", document.model_dump_json(by_alias=True).encode()
        )
    view = management.as_(VIEWER).export("high-value")
    assert (view.status, view.refreshed) == ("Skipped", delivered.finished_at)


@pytest.mark.parametrize(
    "recorded", [True, False], ids=["as recorded", "of earlier, looked for in the newest runs"]
)
def test_refreshed_is_when_it_last_delivered_however_often_it_failed_since(
    world: World, management: Management, recorded: bool
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    delivered = world.run("high-value").finished_at
    if not recorded:
        world.engine.store.delete("refreshed/high-value.json")
    world.settings(revoke=[FULL_KEY])
    for number in range(8 if recorded else 3):
        world.clock.move(90)
        world.drop_people("a.csv", people(4 + number))
        world.deliver()
    view = management.as_(VIEWER).export("high-value")
    assert (view.status, view.refreshed) == ("Failed", delivered)


def test_a_delivery_whose_closer_died_is_noted_by_the_timer(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    run = world.run("high-value")
    world.engine.store.delete("refreshed/high-value.json")
    world.engine.runs.list_as_open(run)  # as it is when a run has just closed
    world.engine.timer.tick()
    assert world.engine.runs.refreshed("high-value") == run.finished_at


def test_a_list_that_klaviyo_does_not_have_is_refused(management: Management) -> None:
    connect(management)
    with pytest.raises(Invalid, match="list_id: Main account has no list NOLIST"):
        add_export(management, list_id="NOLIST")
    assert management.as_(ADMIN).exports() == []


def test_what_should_be_known_is_said_after_saving(world: World, management: Management) -> None:
    connect(management, agreed=False)
    world.klaviyo.call(
        "POST",
        "/_sandbox/lists",
        {"id": LIST, "name": "L", "flows": [{"id": "F1", "name": "Welcome"}]},
    )
    arrive(world)
    add_export(management, name="First", mapping={"email": "EMail"})
    view = add_export(management, mapping={"email": "Mail"}, segments=[SEGMENT, "Ghosts"])
    said = "\n".join(view.warnings)
    for part in (
        "agreed",
        "Welcome",
        "double opt-in",
        "filled by First",
        "Ghosts has arrived",
        "no column 'Mail'",
    ):
        assert part in said, part


@pytest.mark.parametrize("status", [503, 429, 400, 401])
def test_what_klaviyo_does_not_tell_keeps_no_export_from_being_saved(
    world: World, management: Management, status: int
) -> None:
    connect(management)
    world.fault("status", match=r"GET /api/lists/\w+/flow-triggers", status=status, times=None)
    made = add_export(management)
    assert any(
        "not known whether joining the list starts a flow" in warning for warning in made.warnings
    )
    form = parse(ExportForm, export_document(max_profiles=5))
    changed = management.as_(ADMIN).edit_export(made.id, form, etag=made.etag)
    assert changed.etag == management.as_(ADMIN).export(made.id).etag


def test_storage_that_does_not_answer_keeps_no_export_from_being_saved(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(prefix: str) -> Any:
        raise Transient("storage does not answer")

    connect(management)
    monkeypatch.setattr(world.engine.snapshots, "list", away)
    made = add_export(management)
    assert (
        "It is not known whether snapshots have arrived: storage does not answer." in made.warnings
    )
    assert management.as_(ADMIN).export(made.id).etag == made.etag


def test_an_export_that_is_answered_with_an_error_is_not_saved(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise Transient("storage does not answer")

    connect(management)
    made = add_export(management)
    before = text_of_everything(world)
    monkeypatch.setattr(world.engine.store, "folders", away)  # of runs, for the answer
    form = parse(ExportForm, export_document(max_profiles=5))
    with pytest.raises(Transient):
        management.as_(ADMIN).edit_export(made.id, form, etag=made.etag)
    with pytest.raises(Transient):
        add_export(management, name="Another")
    with pytest.raises(Transient):
        management.as_(ADMIN).duplicate_export(made.id)
    assert text_of_everything(world) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": " "}, "name"),
        ({"connection": "No Id"}, "connection"),
        ({"list_id": "no-id!"}, "list_id"),
        ({"segments": []}, "segments"),
        ({"segments": ["A", "a"]}, "segments"),
        ({"segments": "A"}, "segments"),
        ({"segments": ["A", "x" * 501]}, "segments.1"),
        ({"segments": ["a\x1b[2J"]}, "segments.0"),
        ({"segments": ["a\nb"]}, "segments.0"),
        ({"mapping": {}}, "mapping"),
        ({"mapping": {"email": "EMail", "shoe": "Size"}}, "mapping.shoe"),
        ({"mapping": 3}, "mapping"),
        ({"schedule": {"on": "whenever"}}, "schedule.on"),
        ({"max_profiles": 0}, "max_profiles"),
        ({"max_profiles": "many"}, "max_profiles"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_of_an_export_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(NewExportForm, export_document(**changes))
    assert [problem.field for problem in caught.value.problems] == [field]


def test_a_connection_that_is_not_there_is_named(management: Management) -> None:
    with pytest.raises(Invalid, match="connection: there is no connection main-account"):
        add_export(management)


def test_a_copy_is_paused_and_of_another_name(management: Management) -> None:
    connect(management)
    add_export(management)
    first, second = (management.as_(ADMIN).duplicate_export("high-value") for _ in range(2))
    assert (first.id, first.name, first.paused) == ("high-value-copy", "High value (copy)", True)
    assert second.name == "High value (copy 2)"


@pytest.mark.parametrize("how", ["pause", "detach", "remove"])
def test_withdrawing_an_export_stops_its_open_run(
    world: World, management: Management, how: str
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(50))
    world.deliver(until=lambda: bool(world.runs("high-value")))
    match how:
        case "pause":
            management.as_(ADMIN).pause_export("high-value", paused=True)
        case "detach":
            management.as_(ADMIN).detach_export("high-value")
        case _:
            management.as_(ADMIN).remove_export(
                "high-value", etag=management.as_(ADMIN).export("high-value").etag
            )
    world.deliver()
    assert (world.run("high-value").status, world.accepted_rows()) == (Status.CANCELED, 0)


@pytest.mark.parametrize("how", ["pause", "detach"])
def test_what_is_withdrawn_starts_neither_on_arrival_nor_on_demand(
    world: World, management: Management, how: str
) -> None:
    connect(management)
    add_export(management)
    if how == "pause":
        management.as_(ADMIN).pause_export("high-value", paused=True)
    else:
        management.as_(ADMIN).detach_export("high-value")
    world.drop_people("a.csv", people(3))
    world.deliver()
    with pytest.raises(Conflict):
        management.as_(ADMIN).run_export("high-value")
    assert world.runs("high-value") == []


def test_plan_shows_what_a_run_would_do_and_sends_nothing(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    summary = management.as_(ADMIN).plan_export("high-value")
    assert (summary["profiles"], world.runs("high-value"), world.accepted_rows()) == (3, [], 0)
    assert [sample["attributes"]["email"] for sample in summary["samples"]] == ["p***"] * 3


def test_plan_shows_values_to_those_who_ask_and_may_read_rows(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    summary = management.as_(ADMIN).plan_export("high-value", show_values=True)
    assert [sample["attributes"]["email"] for sample in summary["samples"]] == [
        email for email, _ in people(3)
    ]
    with pytest.raises(NotAllowed):
        management.as_(VIEWER).plan_export("high-value", show_values=True)


def test_plan_says_that_a_run_would_fail_and_what_to_do(
    world: World, management: Management
) -> None:
    connect(management)
    export = add_export(management, max_profiles=2)
    arrive(world)
    summary = management.as_(ADMIN).plan_export(export.id)
    management.as_(ADMIN).run_export(export.id)
    world.deliver()
    run = world.runs(export.id)[0]
    assert (summary["message"], summary["hint"]) == (run.message, run.hint)
    assert "3 profiles to send are more than the export's maximum of 2" in summary["message"]
    assert plan_as_text(summary).startswith(f"Would fail  {run.message}\nDo          {run.hint}\n")


@pytest.mark.parametrize(
    ("obstacle", "says"),
    [
        ("no row is good", "none of 3 rows could be delivered"),
        ("no consent", "nobody has agreed"),
        ("no key", "secret"),
        ("key refused", "key"),
        ("list gone", "does not exist in this Klaviyo account"),
        ("detached", "detached"),
    ],
)
def test_plan_says_what_would_keep_a_run_from_sending_anything(
    world: World, management: Management, obstacle: str, says: str
) -> None:
    connect(management)
    add_export(management)
    app = management.as_(ADMIN)
    if obstacle == "no row is good":
        world.put(FOLDER + "a.csv", as_csv([("nobody", "A")] * 3))
        world.clock.move(300)
    else:
        arrive(world)
    match obstacle:
        case "no consent":
            app.withdraw("main-account")
        case "no key":
            world.secrets.clear()
        case "key refused":
            world.settings(revoke=[FULL_KEY])
        case "list gone":
            change(world, "exports/high-value.json", LIST, "GONE99")
        case "detached":
            app.detach_export("high-value")
    summary = app.plan_export("high-value")
    assert (says in summary["message"], bool(summary["hint"])) == (True, True), summary["message"]


def test_plan_is_made_while_klaviyo_does_not_answer(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    world.fault("status", status=503, times=None)
    assert management.as_(ADMIN).plan_export("high-value")["message"] == ""


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (0, "about 3 new people; the account has room for 7"),
        (2, "about 1 new person; the account has room for 7"),
        (3, "about 0 new people; the account has room for 7"),
    ],
)
def test_plan_says_how_many_people_are_new_and_for_how_many_there_is_room(
    world: World, management: Management, known: int, told: str
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    for email, _ in people(known):
        profile = {"data": {"type": "profile", "attributes": {"email": email}}}
        world.klaviyo.call("POST", "/api/profile-import", profile)
    world.settings(billing_used=93, billing_max=100)
    summary = management.as_(ADMIN).plan_export("high-value")
    assert (summary["new_people"], summary["room"], summary["account"]) == (3 - known, 7, told)
    assert f"Account     {told}\n" in plan_as_text(summary)


def test_plan_of_many_people_looks_up_a_hundred_of_them(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.put(f"segments/{SEGMENT}/a.csv", as_csv(people(5_000)))
    world.clock.move(3_600)
    before = world.stats()["requests"]["GET /api/profiles"]
    summary = management.as_(ADMIN).plan_export("high-value")
    assert summary["new_people"] == 5_000
    assert world.stats()["requests"]["GET /api/profiles"] == before + 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_plan_does_without_what_klaviyo_does_not_tell(
    world: World, management: Management, status: int
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    world.fault("status", match="GET /api/billing-usage", status=status, times=None)
    summary = management.as_(ADMIN).plan_export("high-value")
    assert (summary["profiles"], summary["room"], summary["account"]) == (3, None, "")
    assert "Account" not in plan_as_text(summary)


def test_plan_does_without_a_key(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    world.secrets.clear()
    assert management.as_(ADMIN).plan_export("high-value")["room"] is None


def test_plan_of_an_empty_snapshot_says_so(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.put(f"segments/{SEGMENT}/a.csv", as_csv([]))
    world.clock.move(3_600)
    assert "the snapshot is empty" in management.as_(ADMIN).plan_export("high-value")["message"]
    world.put(f"segments/{SEGMENT}/b.csv", as_csv(people(1)))
    world.clock.move(3_600)
    assert management.as_(ADMIN).plan_export("high-value")["message"] == ""


@pytest.mark.usefixtures("small_batches")
def test_plan_keeps_the_pace_of_the_apps_share(world: World) -> None:
    world.restart(pacer_share=0.01)  # one a minute
    shared = managed(world)
    connect(shared)
    add_export(shared)
    world.put(f"segments/{SEGMENT}/a.csv", as_csv(people(30)))
    world.clock.move(3_600)
    summary = shared.as_(ADMIN).plan_export("high-value")
    assert (summary["jobs"], round(summary["seconds_at_klaviyos_pace"])) == (3, 120)
