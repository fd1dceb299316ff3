"""Connections and exports as people manage them: what is saved, what is refused, what is said."""

from __future__ import annotations

import json
import threading
from typing import Any

import duckdb
import pytest
from pydantic import SecretStr

from exporter.cli.wording import plan_as_text
from exporter.definitions import consent
from exporter.definitions.connection import Connection
from exporter.definitions.export import Export
from exporter.errors import (
    ConfigError,
    Conflict,
    EditConflict,
    ExporterError,
    Invalid,
    NotAllowed,
    Transient,
    Unknown,
)
from exporter.management.forms import (
    ConnectionForm,
    ExportForm,
    NewConnectionForm,
    NewExportForm,
    parse,
)
from exporter.management.management import Management
from exporter.management.views import ConnectionView
from exporter.orchestration.dispatcher import Exporter
from exporter.runs.run import Status
from exporter.snapshots.manifest import Manifest
from exporter.storage.local_folder import FolderStore
from sandbox.klaviyo import FULL_KEY
from sandbox.klaviyo.settings import READONLY_KEY
from tests.journeys.world import FOLDER, LIST, SEGMENT, World, as_csv, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    VIEWER,
    WorldSecrets,
    add_export,
    connect,
    connection_document,
    export_document,
    managed,
)


@pytest.fixture
def management(world: World) -> Management:
    return managed(world)


def text_of_everything(world: World) -> str:
    return "".join(text for _, text in world.text_of_state())


def arrive(world: World) -> None:
    """A snapshot of three people, complete, that nobody was told of."""
    world.put(FOLDER + "a.csv", as_csv(people(3)))
    world.clock.move(300)


# Connections


def test_a_given_key_goes_to_the_vault_and_nowhere_else(
    world: World, management: Management
) -> None:
    view = connect(management)
    assert view.details is not None
    assert world.secrets[view.details.secret] == FULL_KEY
    assert FULL_KEY not in text_of_everything(world)
    assert FULL_KEY not in management.connection(ADMIN, view.id).model_dump_json()


def test_connect_shows_account_scopes_clock_and_revision(
    world: World, management: Management
) -> None:
    view = connect(management)
    assert view.details is not None
    check = view.details.check
    assert check is not None
    assert (check.ok, check.account_id, check.account_name) == (
        True,
        "SANDBX",
        "Sandbox Organization",
    )
    assert check.scopes == dict.fromkeys(
        ("accounts:read", "lists:read", "profiles:read", "lists:write", "profiles:write"), True
    )
    assert check.revision == "2026-07-15"
    assert check.clock_skew_s is not None


def test_probing_writes_nothing(world: World, management: Management) -> None:
    before = len(world.klaviyo.account.lists)
    connect(management)
    assert (len(world.klaviyo.account.lists), world.accepted_rows()) == (before, 0)


def test_a_key_without_write_scopes_is_said_to_lack_them(
    world: World, management: Management
) -> None:
    view = connect(management, key=READONLY_KEY)
    assert view.details is not None
    assert view.details.check is not None
    assert not view.details.check.ok
    assert "lists:write" in view.details.check.message
    assert view.details.check.scopes["profiles:write"] is None


def test_a_refused_key_is_not_saved(world: World, management: Management) -> None:
    secrets = dict(world.secrets)
    with pytest.raises(Invalid) as caught:
        connect(management, key="pk_wrong")
    assert [problem.field for problem in caught.value.problems] == ["key"]
    assert (management.connections(ADMIN), world.secrets) == ([], secrets)
    assert "pk_wrong" not in caught.value.message + caught.value.hint


def test_a_secret_that_is_not_there_is_named(management: Management) -> None:
    with pytest.raises(Invalid) as caught:
        connect(management, key=None, secret="not-there")
    assert [problem.field for problem in caught.value.problems] == ["secret"]


def test_a_secret_that_is_there_is_used_by_name(management: Management) -> None:
    view = connect(management, key=None, secret="klaviyo-key")
    assert view.details is not None
    assert view.details.secret == "klaviyo-key"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"type": "mailchimp"}, "type"),
        ({"used_by": "everybody"}, "used_by"),
        ({"key": None}, "document"),
        ({"secret": "klaviyo-key"}, "document"),
        ({"key": None, "secret": "no/slash"}, "secret"),
        ({"id": "Not An Id"}, "id"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_of_a_connection_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(NewConnectionForm, connection_document(**changes))
    assert [problem.field for problem in caught.value.problems] == [field]
    assert caught.value.hint
    assert FULL_KEY not in caught.value.message


def test_names_of_connections_are_taken_once(management: Management) -> None:
    connect(management)
    with pytest.raises(Invalid, match="name: is taken"):
        connect(management, name="MAIN account")


def test_administrators_alone_may_use_a_connection_unless_it_is_shared(
    management: Management,
) -> None:
    connect(management)
    connect(management, name="Shared", used_by="contributors")
    assert [view.name for view in management.connections(CONTRIBUTOR)] == ["Shared"]
    assert management.connections(CONTRIBUTOR)[0].details is None
    with pytest.raises(NotAllowed):
        management.connection(CONTRIBUTOR, "main-account")


def test_sharing_can_be_changed_without_losing_exports(management: Management) -> None:
    view = connect(management)
    add_export(management)
    form = parse(ConnectionForm, {"name": "Main account", "used_by": "contributors"})
    assert view.details is not None
    changed = management.edit_connection(ADMIN, view.id, form, etag=view.details.etag)
    assert changed.details is not None
    assert (changed.details.used_by, changed.details.exports) == ("contributors", ["high-value"])
    assert management.detach_export(CONTRIBUTOR, "high-value").connection is None


def test_a_new_key_takes_the_place_of_the_old_one(world: World, management: Management) -> None:
    view = connect(management)
    assert view.details is not None
    world.settings(keys={"pk_new": "full"})
    management.rotate_key(ADMIN, view.id, SecretStr("pk_new"))
    assert world.secrets[view.details.secret] == "pk_new"
    assert "pk_new" not in text_of_everything(world)


def test_a_new_key_that_is_refused_leaves_the_old_one(world: World, management: Management) -> None:
    view = connect(management)
    before = dict(world.secrets)
    with pytest.raises(Invalid):
        management.rotate_key(ADMIN, view.id, SecretStr("pk_wrong"))
    assert world.secrets == before


def test_a_key_of_another_account_is_refused(world: World, management: Management) -> None:
    view = connect(management)
    known, etag = management.catalog.find(Connection, view.id) or pytest.fail("no connection")
    assert known.check is not None
    other = known.model_copy(
        update={"check": known.check.model_copy(update={"account_id": "OTHER1"})}
    )
    management.catalog.replace(other, etag=etag)
    with pytest.raises(Invalid, match="account SANDBX, not OTHER1"):
        management.rotate_key(ADMIN, view.id, SecretStr(FULL_KEY))


def account_of(view: ConnectionView) -> tuple[bool, str, str]:
    assert view.details is not None
    assert view.details.check is not None
    check = view.details.check
    return check.ok, check.account_id, check.account_name


KNOWN = ("SANDBX", "Sandbox Organization")


@pytest.mark.parametrize("how", ["revoked", "outage", "secret gone", "without accounts:read"])
def test_the_account_stays_known_whatever_came_of_the_last_check(
    world: World, management: Management, how: str
) -> None:
    view = connect(management, key=None, secret="klaviyo-key")
    match how:
        case "revoked":
            world.settings(revoke=[FULL_KEY])
        case "outage":
            world.fault("status", match="GET /api/accounts", status=503, times=1_000)
        case "secret gone":
            world.secrets.clear()
        case _:
            world.settings(
                keys={"pk_blind": ["lists:read", "lists:write", "profiles:read", "profiles:write"]}
            )
            world.secrets["klaviyo-key"] = "pk_blind"
    assert account_of(management.check_connection(ADMIN, view.id)) == (False, *KNOWN)


@pytest.mark.parametrize("was_revoked", [True, False])
def test_a_key_whose_account_cannot_be_told_takes_no_known_ones_place(
    world: World, management: Management, was_revoked: bool
) -> None:
    view = connect(management)
    before = dict(world.secrets)
    world.settings(
        keys={"pk_blind": ["lists:read", "lists:write", "profiles:read", "profiles:write"]}
    )
    world.settings(revoke=[FULL_KEY] if was_revoked else [])
    management.check_connection(ADMIN, view.id)
    with pytest.raises(Invalid, match="key: may be of another account than SANDBX"):
        management.rotate_key(ADMIN, view.id, SecretStr("pk_blind"))
    assert world.secrets == before


def test_a_key_of_another_account_is_refused_after_the_old_one_was_revoked(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = connect(management)
    before = dict(world.secrets)
    world.settings(revoke=[FULL_KEY], keys={"pk_other": "full"})
    management.check_connection(ADMIN, view.id)
    monkeypatch.setattr("sandbox.klaviyo.resources.ACCOUNT_ID", "OTHER1")
    with pytest.raises(Invalid, match="key: belongs to the account OTHER1, not SANDBX"):
        management.rotate_key(ADMIN, view.id, SecretStr("pk_other"))
    assert world.secrets == before
    world.secrets.update(dict.fromkeys(before, "pk_other"))  # by hand
    checked = management.check_connection(ADMIN, view.id)
    assert account_of(checked) == (False, *KNOWN)
    assert checked.details is not None
    assert checked.details.check is not None
    assert "OTHER1" in checked.details.check.message


@pytest.mark.parametrize("how", ["rotate_key", "check_connection"])
def test_what_is_tried_is_not_said_of_a_secret_that_somebody_else_put_there(
    world: World, management: Management, how: str
) -> None:
    view = connect(management)
    world.settings(keys={"pk_new": "full"})
    world.secrets["other"] = FULL_KEY
    form = parse(ConnectionForm, {"name": "Main account", "secret": "other"})
    assert view.details is not None
    etag = view.details.etag

    def client(key: SecretStr) -> Any:
        """Meanwhile, another one names another secret."""
        nonlocal etag
        if etag:
            seen, etag = etag, ""
            management.edit_connection(ADMIN, view.id, form, etag=seen)
        return world.client(key)

    slow = Management(
        world.exporter, secrets=WorldSecrets(world), klaviyo=client, clock=world.clock
    )
    key = () if how == "check_connection" else (SecretStr("pk_new"),)
    with pytest.raises(EditConflict, match="another secret"):
        getattr(slow, how)(ADMIN, view.id, *key)
    assert "pk_new" not in world.secrets.values()


def test_a_bad_check_is_kept_and_shown(world: World, management: Management) -> None:
    view = connect(management)
    world.settings(revoke=[FULL_KEY])
    checked = management.check_connection(ADMIN, view.id)
    assert checked.details is not None
    assert checked.details.check is not None
    assert not checked.details.check.ok
    assert "refused" in checked.details.check.message
    assert checked.details.check.hint


def test_consent_is_kept_with_who_when_and_what(world: World, management: Management) -> None:
    view = connect(management)
    assert view.details is not None
    given = view.details.consent
    assert given is not None
    assert (given.by, given.by_id, given.at, given.version) == (
        "Ada",
        "a-1",
        world.now(),
        consent.VERSION,
    )
    with pytest.raises(Invalid, match="version"):
        management.agree(ADMIN, view.id, "2020-01-01")


def test_without_consent_nothing_is_started_or_sent(world: World, management: Management) -> None:
    connect(management, agreed=False)
    add_export(management)
    arrive(world)
    with pytest.raises(Conflict, match="agreed"):
        management.run_export(ADMIN, "high-value")
    world.drop_people("b.csv", people(3))
    world.deliver()
    assert (world.run("high-value").status, world.accepted_rows()) == (Status.CANCELED, 0)


def test_withdrawn_consent_stops_an_open_run(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(50))
    world.deliver(until=lambda: bool(world.runs("high-value")))
    management.withdraw(ADMIN, "main-account")
    world.deliver()
    assert (world.run("high-value").status, world.accepted_rows()) == (Status.CANCELED, 0)


def test_a_connection_in_use_is_not_removed(management: Management) -> None:
    view = connect(management)
    add_export(management)
    assert view.details is not None
    with pytest.raises(Conflict, match="high-value"):
        management.remove_connection(ADMIN, view.id, etag=view.details.etag)
    assert management.connection(ADMIN, view.id)


@pytest.mark.parametrize(("exports", "left"), [("detach", [None]), ("remove", [])])
@pytest.mark.parametrize("delete_secret", [True, False])
def test_a_connection_is_removed_with_its_exports_and_key_as_chosen(
    world: World, management: Management, exports: Any, left: list[None], delete_secret: bool
) -> None:
    view = connect(management)
    add_export(management)
    assert view.details is not None
    management.remove_connection(
        ADMIN, view.id, etag=view.details.etag, exports=exports, delete_secret=delete_secret
    )
    assert management.connections(ADMIN) == []
    assert [one.connection for one in management.exports(ADMIN)] == left
    assert (view.details.secret in world.secrets) is not delete_secret


def test_a_key_that_another_connection_uses_is_not_deleted(
    world: World, management: Management
) -> None:
    first = connect(management, key=None, secret="klaviyo-key")
    connect(management, name="Second", key=None, secret="klaviyo-key")
    assert first.details is not None
    before = text_of_everything(world)
    with pytest.raises(Conflict, match="klaviyo-key is used by Second, too"):
        management.remove_connection(ADMIN, first.id, etag=first.details.etag, delete_secret=True)
    assert text_of_everything(world) == before
    management.remove_connection(ADMIN, first.id, etag=first.details.etag)
    assert "klaviyo-key" in world.secrets


@pytest.mark.parametrize("exports", ["detach", "remove"])
@pytest.mark.parametrize("failing", ["export", "vault", "connection"])
def test_a_removal_that_fails_half_way_sends_nothing_more_and_can_be_repeated(
    world: World,
    management: Management,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    exports: Any,
) -> None:
    view = connect(management)
    add_export(management)
    world.drop_people("a.csv", people(50))
    world.deliver(until=lambda: bool(world.runs("high-value")))
    assert view.details is not None

    def failing_for(prefix: str, real: Any) -> Any:
        def called(self: Any, name: str, *args: Any, **options: Any) -> Any:
            if name.startswith(prefix):
                raise Transient("it is away", hint="Wait.")
            return real(self, name, *args, **options)

        return called

    with monkeypatch.context() as patch:
        if failing == "vault":
            patch.setattr(WorldSecrets, "delete", failing_for("", None))
        elif failing == "connection":
            patch.setattr(FolderStore, "delete", failing_for("connections/", FolderStore.delete))
        else:
            patch.setattr(FolderStore, "delete", failing_for("exports/", FolderStore.delete))
            patch.setattr(FolderStore, "replace", failing_for("exports/", FolderStore.replace))
        with pytest.raises(Transient, match="it is away") as caught:
            management.remove_connection(
                ADMIN, view.id, etag=view.details.etag, exports=exports, delete_secret=True
            )
    assert caught.value.hint.startswith("Wait. Main account is still there, without consent")
    world.deliver()
    assert (world.run("high-value").status, world.accepted_rows()) == (Status.CANCELED, 0)
    left = management.connection(ADMIN, view.id).details
    assert left is not None
    assert left.consent is None
    management.remove_connection(
        ADMIN, view.id, etag=left.etag, exports=exports, delete_secret=True
    )
    assert (management.connections(ADMIN), view.details.secret in world.secrets) == ([], False)
    assert [one.connection for one in management.exports(ADMIN)] == (
        [None] if exports == "detach" else []
    )


def test_a_connection_that_changes_meanwhile_keeps_its_exports(
    world: World, management: Management
) -> None:
    view = connect(management)
    add_export(management)
    assert view.details is not None
    management.withdraw(ADMIN, view.id)
    with pytest.raises(EditConflict):
        management.remove_connection(
            ADMIN, view.id, etag=view.details.etag, exports="remove", delete_secret=True
        )
    assert [one.connection for one in management.exports(ADMIN)] == [view.id]
    assert view.details.secret in world.secrets


@pytest.fixture
def broken(world: World, management: Management) -> Management:
    """Of two connections with an export each, one was written by hand, and badly."""
    connect(management)
    connect(management, name="Hand made")
    add_export(management, name="A", connection="hand-made")
    add_export(management)
    name = "connections/hand-made.json"
    found = world.exporter.store.read(name)
    assert found is not None
    world.exporter.store.replace(name, b'{"id": "hand-made", "name"', etag=found.etag)
    return management


def test_a_connection_that_cannot_be_read_keeps_nothing_else_from_being_seen(
    broken: Management,
) -> None:
    assert [view.id for view in broken.connections(ADMIN)] == ["main-account"]
    for actor in (ADMIN, CONTRIBUTOR, VIEWER):
        assert [(view.id, view.connection_name) for view in broken.exports(actor)] == [
            ("a", None),
            ("high-value", "Main account"),
        ]
        assert broken.export(actor, "a").connection == "hand-made"
    assert broken.export(CONTRIBUTOR, "a").may == []
    with pytest.raises(ConfigError, match=r"connections/hand-made\.json cannot be read"):
        broken.connection(ADMIN, "hand-made")


def test_a_connection_that_cannot_be_read_keeps_no_other_from_being_made_or_removed(
    world: World, broken: Management
) -> None:
    assert connect(broken, name="Hand made").id == "hand-made-2"
    details = broken.connection(ADMIN, "main-account").details
    assert details is not None
    broken.remove_connection(
        ADMIN, "main-account", etag=details.etag, exports="detach", delete_secret=True
    )
    assert details.secret not in world.secrets


def test_run_all_starts_the_others_and_says_which_connection_cannot_be_read(
    world: World, broken: Management
) -> None:
    arrive(world)
    first, second = broken.run_all(ADMIN)
    assert (first.export, first.run, "cannot be read" in first.problem) == ("a", None, True)
    assert (second.export, second.run is not None, second.problem) == ("high-value", True, "")
    assert broken.run_all(CONTRIBUTOR) == []


def test_storage_that_fails_for_one_export_does_not_end_run_all(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(management)
    arrive(world)
    add_export(management, name="A")
    add_export(management)
    asked, real = [], management.catalog.connection

    def connection(connection_id: str) -> Connection | None:
        asked.append(connection_id)
        if len(asked) == 1:
            raise Transient("storage does not answer")
        return real(connection_id)

    monkeypatch.setattr(management.catalog, "connection", connection)
    first, second = management.run_all(ADMIN)
    assert (first.problem, second.run is not None) == ("storage does not answer.", True)


# Klaviyo's lists


def test_lists_show_opt_in_and_the_flows_that_joining_starts(
    world: World, management: Management
) -> None:
    connect(management)
    flows = [{"id": "F1", "name": "Welcome"}, {"id": "F2", "name": "Old", "status": "draft"}]
    world.klaviyo.call(
        "POST", "/_sandbox/lists", {"id": "LIST02", "name": "With flow", "flows": flows}
    )
    found = {view.id: view for view in management.lists(ADMIN, "main-account")}
    assert (found[LIST].flows, found["LIST02"].flows) == ([], ["Welcome"])
    assert found[LIST].opt_in_process == "double_opt_in"


def test_a_key_that_may_not_see_flows_shows_lists_without(
    world: World, management: Management
) -> None:
    scopes = ["accounts:read", "lists:read", "lists:write", "profiles:read", "profiles:write"]
    world.settings(keys={"pk_no_flows": scopes})
    connect(management, key="pk_no_flows")
    assert [view.flows for view in management.lists(ADMIN, "main-account")] == [None]
    assert any("lacks flows:read" in warning for warning in add_export(management).warnings)


def test_all_pages_of_lists_are_read(world: World, management: Management) -> None:
    connect(management)
    for number in range(25):
        world.klaviyo.call(
            "POST", "/_sandbox/lists", {"id": f"X{number:05}", "name": f"List {number:02}"}
        )
    assert len(management.lists(ADMIN, "main-account")) == 26


def test_a_list_is_created_once(management: Management) -> None:
    connect(management)
    made = management.create_list(ADMIN, "main-account", "VIPs")
    assert made.id in {view.id for view in management.lists(ADMIN, "main-account")}
    with pytest.raises(Conflict, match=made.id):
        management.create_list(ADMIN, "main-account", "VIPs")


# Exports


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
    [view] = management.exports(VIEWER)
    assert (view.name, view.connection_name, view.type, view.status) == (
        *("High value", "Main account", "klaviyo", "Successful"),
    )
    assert view.refreshed == world.run("high-value").finished_at
    assert view.created is not None
    assert (view.created.by, view.changed) == ("Cem", view.created)
    assert view.may == []
    assert "run_export" in management.export(CONTRIBUTOR, "high-value").may
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
        world.exporter.store.create(
            document.folder + "run.json", document.model_dump_json(by_alias=True).encode()
        )
    view = management.export(VIEWER, "high-value")
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
        world.exporter.store.delete("refreshed/high-value.json")
    world.settings(revoke=[FULL_KEY])
    for number in range(8 if recorded else 3):
        world.clock.move(90)
        world.drop_people("a.csv", people(4 + number))
        world.deliver()
    view = management.export(VIEWER, "high-value")
    assert (view.status, view.refreshed) == ("Failed", delivered)


def test_a_delivery_whose_closer_died_is_noted_by_the_timer(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    run = world.run("high-value")
    world.exporter.store.delete("refreshed/high-value.json")
    world.exporter.records.list_as_open(run)  # as it is when a run has just closed
    world.exporter.tick()
    assert world.exporter.records.refreshed("high-value") == run.finished_at


def test_a_list_that_klaviyo_does_not_have_is_refused(management: Management) -> None:
    connect(management)
    with pytest.raises(Invalid, match="list_id: Main account has no list NOLIST"):
        add_export(management, list_id="NOLIST")
    assert management.exports(ADMIN) == []


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
    assert any("starts a flow could not be found out" in warning for warning in made.warnings)
    form = parse(ExportForm, export_document(max_profiles=5))
    changed = management.edit_export(ADMIN, made.id, form, etag=made.etag)
    assert changed.etag == management.export(ADMIN, made.id).etag


def test_storage_that_does_not_answer_keeps_no_export_from_being_saved(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(prefix: str) -> Any:
        raise Transient("storage does not answer")

    connect(management)
    monkeypatch.setattr(world.exporter.snapshots, "list", away)
    made = add_export(management)
    assert (
        "Whether snapshots have arrived could not be found out: storage does not answer."
        in made.warnings
    )
    assert management.export(ADMIN, made.id).etag == made.etag


def test_an_export_that_is_answered_with_an_error_is_not_saved(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise Transient("storage does not answer")

    connect(management)
    made = add_export(management)
    before = text_of_everything(world)
    monkeypatch.setattr(world.exporter.store, "folders", away)  # of runs, for the answer
    form = parse(ExportForm, export_document(max_profiles=5))
    with pytest.raises(Transient):
        management.edit_export(ADMIN, made.id, form, etag=made.etag)
    with pytest.raises(Transient):
        add_export(management, name="Another")
    with pytest.raises(Transient):
        management.duplicate_export(ADMIN, made.id)
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


def test_of_two_editors_at_once_one_is_told(management: Management) -> None:
    connect(management)
    etag = add_export(management).etag
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def edit(name: str) -> None:
        barrier.wait()
        try:
            management.edit_export(
                ADMIN, "high-value", parse(ExportForm, export_document(name=name)), etag=etag
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
    assert management.export(ADMIN, "high-value").name == sorted(outcomes)[0]


def test_a_contributor_cannot_move_an_export_to_or_from_an_unshared_connection(
    management: Management,
) -> None:
    connect(management)
    connect(management, name="Shared", used_by="contributors")
    mine = add_export(management, CONTRIBUTOR, connection="shared")
    with pytest.raises(NotAllowed):
        management.edit_export(
            CONTRIBUTOR, mine.id, parse(ExportForm, export_document()), etag=mine.etag
        )
    theirs = add_export(management, name="Theirs")
    form = parse(ExportForm, export_document(name="Theirs", connection="shared"))
    with pytest.raises(NotAllowed):
        management.edit_export(CONTRIBUTOR, theirs.id, form, etag=theirs.etag)


def test_a_copy_is_paused_and_of_another_name(management: Management) -> None:
    connect(management)
    add_export(management)
    first, second = (management.duplicate_export(ADMIN, "high-value") for _ in range(2))
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
            management.pause_export(ADMIN, "high-value", paused=True)
        case "detach":
            management.detach_export(ADMIN, "high-value")
        case _:
            management.remove_export(
                ADMIN, "high-value", etag=management.export(ADMIN, "high-value").etag
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
        management.pause_export(ADMIN, "high-value", paused=True)
    else:
        management.detach_export(ADMIN, "high-value")
    world.drop_people("a.csv", people(3))
    world.deliver()
    with pytest.raises(Conflict):
        management.run_export(ADMIN, "high-value")
    assert world.runs("high-value") == []


def test_an_id_with_history_is_not_given_again(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    management.remove_export(ADMIN, "high-value", etag=management.export(ADMIN, "high-value").etag)
    assert len(management.runs(VIEWER, "high-value").items) == 1
    assert add_export(management).id == "high-value-2"


# Runs and segments


def test_run_all_takes_those_with_an_active_schedule(world: World, management: Management) -> None:
    connect(management)
    arrive(world)
    add_export(management)
    add_export(management, name="On demand", schedule={"on": "demand"})
    add_export(management, name="Paused", paused=True)
    add_export(management, name="Empty", segments=["Ghosts"])
    started = {one.export: one for one in management.run_all(ADMIN)}
    assert set(started) == {"high-value", "empty"}
    assert started["high-value"].run is not None
    assert started["empty"].run is None
    assert "no snapshot" in started["empty"].problem
    assert management.run_all(CONTRIBUTOR) == []


def test_run_all_goes_on_after_an_export_that_cannot_be_started(
    world: World, management: Management
) -> None:
    """One has no snapshot, the connection of another cannot be read, storage does not answer for the third."""
    connect(management)
    connect(management, name="Broken")
    arrive(world)
    add_export(management, name="A: empty", segments=["Ghosts"])
    add_export(management, name="B: broken", connection="broken")
    add_export(management, name="C: unlucky", segments=["Unlucky"])
    add_export(management, name="D: good")
    found = world.exporter.store.read("connections/broken.json")
    assert found is not None
    world.exporter.store.replace("connections/broken.json", b"{}", etag=found.etag)
    freeze = world.exporter.settling.freeze_newest

    def unlucky(export: Export) -> Manifest:
        if "Unlucky" in export.segments:
            raise Transient("the storage cannot answer")
        return freeze(export)

    world.patch.setattr(world.exporter.settling, "freeze_newest", unlucky)
    started = management.run_all(ADMIN)
    assert [(one.export[0], one.run is not None) for one in started] == [
        *(("a", False), ("b", False), ("c", False), ("d", True)),
    ]
    assert all(one.problem for one in started[:3])
    world.deliver()
    assert world.run("d-good").status is Status.SUCCESSFUL


def test_history_is_paged_newest_first(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    for number in range(5):
        world.clock.move(90)
        world.drop_people("a.csv", people(3 + number))
        world.deliver()
    seen, cursor = [], ""
    while True:
        page = management.runs(VIEWER, "high-value", limit=2, cursor=cursor)
        seen += [run.id for run in page.items]
        if page.next is None:
            break
        cursor = page.next
    assert seen == [run.run_id for run in reversed(world.runs("high-value"))]


def test_while_a_run_is_open_its_profiles_are_known_once_it_is_planned(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(25, planted={1: "nobody"}))
    world.deliver(until=lambda: world.accepted_rows() > 0)
    view = management.run(VIEWER, world.run("high-value").run_id)
    assert (view.is_open, view.accepted) == (True, 24)
    assert (view.counts.rows, view.counts.profiles, view.counts.delivered) == (25, 24, 0)


def test_report_and_rejected_rows_are_read(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3, planted={1: "nobody"}))
    world.deliver()
    run_id = world.run("high-value").run_id
    assert management.report(VIEWER, run_id)["rejected"] == 1
    assert b"nobody" in b"".join(management.rows(ADMIN, run_id, "rejected"))
    with pytest.raises(NotAllowed):
        management.rows(VIEWER, run_id, "rejected")


def test_a_run_is_cancelled_once(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    run = management.run_export(ADMIN, "high-value")
    management.cancel_run(ADMIN, run.id)
    world.deliver()
    assert management.run(VIEWER, run.id).status == "Canceled"
    with pytest.raises(Conflict, match="over"):
        management.cancel_run(ADMIN, run.id)


def test_plan_shows_what_a_run_would_do_and_sends_nothing(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    summary = management.plan_export(ADMIN, "high-value")
    assert (summary["profiles"], world.runs("high-value"), world.accepted_rows()) == (3, [], 0)
    assert [sample["attributes"]["email"] for sample in summary["samples"]] == ["p***"] * 3


def test_plan_shows_values_to_those_who_ask_and_may_read_rows(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    summary = management.plan_export(ADMIN, "high-value", show_values=True)
    assert [sample["attributes"]["email"] for sample in summary["samples"]] == [
        email for email, _ in people(3)
    ]
    with pytest.raises(NotAllowed):
        management.plan_export(VIEWER, "high-value", show_values=True)


def test_plan_says_that_a_run_would_fail_and_what_to_do(
    world: World, management: Management
) -> None:
    connect(management)
    export = add_export(management, max_profiles=2)
    arrive(world)
    summary = management.plan_export(ADMIN, export.id)
    management.run_export(ADMIN, export.id)
    world.deliver()
    run = world.runs(export.id)[0]
    assert (summary["message"], summary["hint"]) == (run.message, run.hint)
    assert "3 profiles to send are more than the export's maximum of 2" in summary["message"]
    assert plan_as_text(summary).startswith(f"Would fail  {run.message}\nDo          {run.hint}\n")


def test_plan_of_an_empty_snapshot_says_so(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.put(f"segments/{SEGMENT}/a.csv", as_csv([]))
    world.clock.move(3_600)
    assert "the snapshot is empty" in management.plan_export(ADMIN, "high-value")["message"]
    world.put(f"segments/{SEGMENT}/b.csv", as_csv(people(1)))
    world.clock.move(3_600)
    assert management.plan_export(ADMIN, "high-value")["message"] == ""


@pytest.mark.usefixtures("small_batches")
def test_plan_keeps_the_pace_of_the_apps_share(world: World) -> None:
    world.restart(pacer_share=0.01)  # one a minute
    shared = managed(world)
    connect(shared)
    add_export(shared)
    world.put(f"segments/{SEGMENT}/a.csv", as_csv(people(30)))
    world.clock.move(3_600)
    summary = shared.plan_export(ADMIN, "high-value")
    assert (summary["jobs"], round(summary["seconds_at_klaviyos_pace"])) == (3, 120)


def test_segments_show_age_and_members(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(3))
    world.deliver()
    world.put("segments/Other.csv", as_csv(people(1)))
    world.clock.move(60)
    found = {view.name: view for view in management.segments(VIEWER)}
    assert (found[SEGMENT].members, found["Other"].members) == (3, 1)
    assert found["Other"].age_s == pytest.approx(60, abs=1)


def members_of(management: Management) -> dict[str, int | None]:
    return {view.name: view.members for view in management.segments(VIEWER)}


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
    management.edit_export(ADMIN, view.id, form, etag=management.export(ADMIN, view.id).etag)
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


def test_what_a_run_has_counted_is_not_read_again(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", [*people(3), *people(1), ("nobody", "X")])
    world.deliver()
    world.patch.setattr(Exporter, "count_members", lambda *_: pytest.fail("read again"))
    assert members_of(management) == {SEGMENT: 5}, "rows, whatever became of them"


def test_what_was_counted_for_one_look_is_not_read_again_for_the_next(
    world: World, management: Management
) -> None:
    arrive(world)
    assert members_of(management) == {SEGMENT: 3}
    world.patch.setattr(Exporter, "count_members", lambda *_: pytest.fail("read again"))
    assert members_of(management) == {SEGMENT: 3}


def test_large_segments_are_not_counted_before_a_run_reads_them(
    world: World, management: Management
) -> None:
    connect(management)
    add_export(management)
    arrive(world)
    world.put("segments/Small.csv", as_csv(people(1)))
    world.patch.setattr("exporter.management.management.COUNTED_BYTES", 60)
    assert members_of(management) == {SEGMENT: None, "Small": 1}
    management.run_export(ADMIN, "high-value")
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
    assert management.suggest_mapping(ADMIN, "B/Seg").columns == ["EMail", "FirstName"]


def test_members_of_a_document_that_cannot_be_read_are_counted_anew(
    world: World, management: Management
) -> None:
    arrive(world)
    world.exporter.store.create("members.json", b"{")
    assert members_of(management) == members_of(management) == {SEGMENT: 3}


def test_mapping_is_suggested_from_the_newest_snapshot(
    world: World, management: Management
) -> None:
    arrive(world)
    found = management.suggest_mapping(CONTRIBUTOR, SEGMENT)
    assert found.columns == ["EMail", "FirstName"]
    assert found.mapping == {"email": "EMail", "first_name": "FirstName"}
    with pytest.raises(ExporterError, match="no snapshot"):
        management.suggest_mapping(ADMIN, "Ghosts")


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
    assert management.suggest_mapping(ADMIN, SEGMENT).columns == ["EMail", "FirstName"]
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
    found = management.suggest_mapping(CONTRIBUTOR, SEGMENT)
    assert found.mapping == {
        "email": "EMail",
        "properties": {"Points": {"column": "Points", "type": "number"}},
    }


@pytest.mark.parametrize("run_id", ["x", "../x/y", "a/b/c", "high-value/", "high-value/../x", ""])
def test_odd_run_ids_are_unknown(management: Management, run_id: str) -> None:
    for ask in (management.run, management.report, management.cancel_run):
        with pytest.raises(Unknown):
            ask(ADMIN, run_id)


@pytest.mark.parametrize("odd", ["x", "../x", "a/b", "", "A", "x" * 200, "nul\0"])
def test_odd_ids_of_documents_are_unknown(management: Management, odd: str) -> None:
    for ask in (
        management.export,
        management.connection,
        management.detach_export,
        management.run_export,
    ):
        with pytest.raises(Unknown):
            ask(ADMIN, odd)
    with pytest.raises(Unknown):
        management.runs(ADMIN, odd)


# The record of changes


def test_each_change_is_recorded_with_who_and_what(world: World, management: Management) -> None:
    view = connect(management)
    etag = add_export(management).etag
    world.clock.move(1)
    form = parse(ExportForm, export_document(max_profiles=10))
    management.edit_export(ADMIN, "high-value", form, etag=etag)
    newest, created, *_ = management.changes(ADMIN).items
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
    assert [one.object for one in management.changes(ADMIN).items[2:]] == [
        f"connections/{view.id}"
    ] * 2
    assert FULL_KEY not in text_of_everything(world)


def test_a_change_that_failed_is_recorded_as_such(world: World, management: Management) -> None:
    connect(management)
    with pytest.raises(Conflict):
        connect(management, name="Other", id="main-account")
    assert [one.outcome for one in management.changes(ADMIN).items[:2]] == ["failed: Conflict", ""]
    assert len([name for name in world.secrets if name.startswith("klaviyo-main-account")]) == 1


def test_the_record_is_paged(management: Management) -> None:
    connect(management)
    for number in range(4):
        add_export(management, name=f"Export {number}", paused=True)
    everything = [one.object for one in management.changes(ADMIN).items]
    seen, cursor = [], ""
    for _ in range(4):
        page = management.changes(ADMIN, limit=2, cursor=cursor)
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
