"""What holds for all of management: who may, ids, versions, damaged documents, recorded changes."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest

from exporter.definitions import consent
from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.errors import (
    ConfigError,
    Conflict,
    EditConflict,
    Invalid,
    NotAllowed,
    Unknown,
)
from exporter.management.connections import Connections
from exporter.management.exports import Exports
from exporter.management.forms import (
    ConnectionForm,
    ExportForm,
    parse,
)
from exporter.management.management import ActorsApp, Management
from exporter.management.roles import Actor, Role
from exporter.management.runs import Runs
from exporter.management.segments import Segments
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import World, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    add_export,
    connect,
    export_document,
    text_of_everything,
)


def test_names_of_connections_are_taken_once(management: Management) -> None:
    connect(management)
    with pytest.raises(Invalid, match="name: is taken"):
        connect(management, name="MAIN account")


def test_administrators_alone_may_use_a_connection_unless_it_is_shared(
    management: Management,
) -> None:
    connect(management)
    connect(management, name="Shared", used_by="contributors")
    assert [view.name for view in management.as_(CONTRIBUTOR).connections()] == ["Shared"]
    assert management.as_(CONTRIBUTOR).connections()[0].details is None
    with pytest.raises(NotAllowed):
        management.as_(CONTRIBUTOR).connection("main-account")


def test_a_connection_that_cannot_be_read_keeps_nothing_else_from_being_seen(
    broken: Management,
) -> None:
    damaged, other = broken.as_(ADMIN).connections()
    assert (damaged.id, other.id, other.problem) == ("hand-made", "main-account", "")
    assert "connections/hand-made.json cannot be read" in damaged.problem
    assert broken.as_(CONTRIBUTOR).connections() == []
    for actor in (ADMIN, CONTRIBUTOR, VIEWER):
        assert [(view.id, view.connection_name) for view in broken.as_(actor).exports()] == [
            ("a", None),
            ("high-value", "Main account"),
        ]
        assert broken.as_(actor).export("a").connection == "hand-made"
    assert broken.as_(CONTRIBUTOR).export("a").may == []
    with pytest.raises(ConfigError, match=r"connections/hand-made\.json cannot be read"):
        broken.as_(ADMIN).connection("hand-made")


def test_a_connection_that_cannot_be_read_keeps_no_other_from_being_made_or_removed(
    world: World, broken: Management
) -> None:
    assert connect(broken, name="Hand made").id == "hand-made-2"
    details = broken.as_(ADMIN).connection("main-account").details
    assert details is not None
    broken.as_(ADMIN).remove_connection(
        "main-account", etag=details.etag, exports="detach", delete_secret=True
    )
    assert details.secret not in world.secrets


def test_of_two_editors_at_once_one_is_told(management: Management) -> None:
    connect(management)
    etag = add_export(management).etag
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def edit(name: str) -> None:
        barrier.wait()
        try:
            management.as_(ADMIN).edit_export(
                "high-value", parse(ExportForm, export_document(name=name)), etag=etag
            )
            outcomes.append(name)
        except EditConflict:
            outcomes.append("told")

    threads = [threading.Thread(target=edit, args=(name,)) for name in ("One", "Two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1] == "told"
    assert management.as_(ADMIN).export("high-value").name == sorted(outcomes)[0]


def test_a_contributor_cannot_move_an_export_to_or_from_an_unshared_connection(
    management: Management,
) -> None:
    connect(management)
    connect(management, name="Shared", used_by="contributors")
    mine = add_export(management, CONTRIBUTOR, connection="shared")
    with pytest.raises(NotAllowed):
        management.as_(CONTRIBUTOR).edit_export(
            mine.id, parse(ExportForm, export_document()), etag=mine.etag
        )
    theirs = add_export(management, name="Theirs")
    form = parse(ExportForm, export_document(name="Theirs", connection="shared"))
    with pytest.raises(NotAllowed):
        management.as_(CONTRIBUTOR).edit_export(theirs.id, form, etag=theirs.etag)


def test_an_id_with_history_is_not_given_again(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    management.as_(ADMIN).remove_export(
        "high-value", etag=management.as_(ADMIN).export("high-value").etag
    )
    assert len(management.as_(VIEWER).runs("high-value").items) == 1
    assert add_export(management).id == "high-value-2"


@pytest.mark.parametrize("run_id", ["x", "../x/y", "a/b/c", "high-value/", "high-value/../x", ""])
def test_odd_run_ids_are_unknown(management: Management, run_id: str) -> None:
    app = management.as_(ADMIN)
    for ask in (app.run, app.report, app.cancel_run):
        with pytest.raises(Unknown):
            ask(run_id)


@pytest.mark.parametrize("odd", ["x", "../x", "a/b", "", "A", "x" * 200, "nul\0"])
def test_odd_ids_of_documents_are_unknown(management: Management, odd: str) -> None:
    app = management.as_(ADMIN)
    for ask in (app.export, app.connection, app.detach_export, app.run_export):
        with pytest.raises(Unknown):
            ask(odd)
    with pytest.raises(Unknown):
        management.as_(ADMIN).runs(odd)


def test_each_change_is_recorded_with_who_and_what(world: World, management: Management) -> None:
    view = connect(management)
    etag = add_export(management).etag
    world.clock.move(1)
    form = parse(ExportForm, export_document(max_profiles=10))
    management.as_(ADMIN).edit_export("high-value", form, etag=etag)
    newest, created, *_ = management.as_(ADMIN).changes().items
    assert (newest.action, newest.object, newest.by["name"]) == (
        "edit_export",
        "exports/high-value",
        "Ada",
    )
    assert newest.before is not None
    assert newest.after is not None
    assert (newest.before["max_profiles"], newest.after["max_profiles"]) == (None, 10)
    assert set(newest.after) == {"max_profiles", "changed"}
    assert (created.action, created.before) == ("create_export", None)
    assert [one.object for one in management.as_(ADMIN).changes().items[2:]] == [
        f"connections/{view.id}"
    ] * 2
    assert FULL_KEY not in text_of_everything(world)


def test_a_change_that_failed_is_recorded_as_such(world: World, management: Management) -> None:
    connect(management)
    with pytest.raises(Conflict):
        connect(management, name="Other", id="main-account")
    assert [one.outcome for one in management.as_(ADMIN).changes().items[:2]] == [
        "failed: Conflict",
        "",
    ]
    assert len([name for name in world.secrets if name.startswith("klaviyo-main-account")]) == 1


def test_the_record_is_paged(management: Management) -> None:
    connect(management)
    for number in range(4):
        add_export(management, name=f"Export {number}", paused=True)
    everything = [one.object for one in management.as_(ADMIN).changes().items]
    seen, cursor = [], ""
    for _ in range(4):
        page = management.as_(ADMIN).changes(limit=2, cursor=cursor)
        seen += [one.object for one in page.items]
        cursor = page.next or ""
        if not cursor:
            break
    assert seen == everything


def test_documents_of_earlier_still_load() -> None:
    Connection.model_validate(
        {
            "schema": 1,
            "id": "main",
            "name": "K",
            "secret": "k",
            "consent": {"by": "a", "at": "2026-11-23T09:00:00Z"},
        }
    )
    Export.model_validate(
        {
            "schema": 1,
            "id": "vips",
            "name": "V",
            "connection": "main",
            "list_id": "Y6nRLr",
            "segments": ["A"],
            "mapping": {"email": "EMail"},
            "schedule": {"on": "arrival"},
        }
    )


def test_no_part_of_the_app_hides_a_method_of_another() -> None:
    parts = (Connections, Exports, Runs, Segments)
    methods = [
        name
        for part in (*parts, ActorsApp)
        for name, value in vars(part).items()
        if inspect.isfunction(value) and not name.startswith("__")
    ]
    assert len(set(methods)) == len(methods)


def test_a_damaged_export_shows_in_the_list_as_damaged(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    add_export(management, name="Other")
    found = world.engine.store.read("exports/other.json")
    assert found is not None
    world.engine.store.replace("exports/other.json", b"{", etag=found.etag)
    for actor in (ADMIN, VIEWER):
        good, damaged = management.as_(actor).exports()
        assert (good.id, good.status, good.problem) == ("high-value", "Not started", "")
        assert (damaged.id, damaged.status, damaged.may) == ("other", "Damaged", [])
        assert "exports/other.json cannot be read" in damaged.problem


# Repeating


def state_and_record(world: World, management: Management) -> tuple[str, int]:
    return text_of_everything(world), len(management.as_(ADMIN).changes().items)


def test_repeating_an_edit_is_no_error_and_no_change(world: World, management: Management) -> None:
    connect(management)
    seen = add_export(management).etag
    form = parse(ExportForm, export_document(max_profiles=10))
    app = management.as_(ADMIN)
    changed = app.edit_export("high-value", form, etag=seen)
    world.clock.move(60)
    before = state_and_record(world, management)
    again = app.edit_export("high-value", form, etag=seen)
    assert (again.etag, again.changed, again.warnings) == (
        changed.etag,
        changed.changed,
        changed.warnings,
    )
    assert state_and_record(world, management) == before
    with pytest.raises(EditConflict):
        app.edit_export("high-value", parse(ExportForm, export_document()), etag=seen)


def test_repeating_an_edit_of_a_connection_is_no_error_and_no_change(
    world: World, management: Management
) -> None:
    view = connect(management)
    assert view.details is not None
    app, form = management.as_(ADMIN), parse(ConnectionForm, {"name": "Renamed"})
    changed = app.edit_connection(view.id, form, etag=view.details.etag)
    world.clock.move(60)
    before = state_and_record(world, management)
    assert app.edit_connection(view.id, form, etag=view.details.etag) == changed
    assert state_and_record(world, management) == before


@pytest.mark.parametrize("how", ["pause", "resume", "detach", "agree", "withdraw"])
def test_doing_the_same_twice_records_nothing_more(
    world: World, management: Management, how: str
) -> None:
    connect(management)
    add_export(management)
    app = management.as_(ADMIN)

    def change() -> Any:
        match how:
            case "pause" | "resume":
                return app.pause_export("high-value", paused=how == "pause")
            case "detach":
                return app.detach_export("high-value")
            case "agree":
                return app.agree("main-account", consent.VERSION)
        return app.withdraw("main-account")

    done = change()
    world.clock.move(60)
    before = state_and_record(world, management)
    assert change() == done
    assert state_and_record(world, management) == before


def test_another_person_who_agrees_is_recorded(world: World, management: Management) -> None:
    connect(management)
    other = management.as_(Actor(id="a-2", name="Bea", role=Role.ADMIN))
    details = other.agree("main-account", consent.VERSION).details
    assert details is not None
    assert details.consent is not None
    assert details.consent.by == "Bea"


def test_who_asks_is_told_what_their_role_allows(management: Management) -> None:
    assert "create_connection" in management.as_(ADMIN).whoami().may
    contributor = management.as_(CONTRIBUTOR).whoami().may
    assert ("create_export" in contributor, "create_connection" in contributor) == (True, False)
