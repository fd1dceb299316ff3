"""Connections and lists as people manage them: what is saved, what is refused, what is said."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from exporter.definitions import consent
from exporter.definitions.connection import Connection
from exporter.errors import (
    Conflict,
    EditConflict,
    Invalid,
    Transient,
)
from exporter.management.forms import (
    ConnectionForm,
    NewConnectionForm,
    parse,
)
from exporter.management.management import Management
from exporter.management.views import ConnectionView
from exporter.runs.run import Status
from exporter.storage.local_folder import FolderStore
from sandbox.klaviyo import FULL_KEY
from sandbox.klaviyo.settings import READONLY_KEY
from tests.journeys.world import LIST, World, people
from tests.management.managing import (
    ADMIN,
    CONTRIBUTOR,
    WorldSecrets,
    add_export,
    arrive,
    connect,
    connection_document,
    managed,
    text_of_everything,
)


def test_a_given_key_goes_to_the_vault_and_nowhere_else(
    world: World, management: Management
) -> None:
    view = connect(management)
    assert view.details is not None
    assert world.secrets[view.details.secret] == FULL_KEY
    assert FULL_KEY not in text_of_everything(world)
    assert FULL_KEY not in management.as_(ADMIN).connection(view.id).model_dump_json()


def test_a_check_warns_of_an_api_revision_that_klaviyo_will_retire(
    world: World, management: Management
) -> None:
    """It goes by the date: Klaviyo's answers say nothing of it."""
    world.client_options["revision"] = "2025-01-15"
    view = connect(management)
    assert view.details is not None
    check = view.details.check
    assert check is not None
    assert check.ok
    assert "retires the API revision 2025-01-15 on 2027-01-15" in check.message
    assert "Upgrade" in check.hint


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
    assert check.revision == "2026-10-15"
    assert check.clock_skew_s is not None


def test_a_check_says_for_how_many_people_there_is_room_where_the_key_may_know(
    world: World, management: Management
) -> None:
    world.settings(billing_used=93, billing_max=100)
    view = connect(management)
    assert view.details is not None
    assert view.details.check is not None
    assert view.details.check.room == 7
    world.fault("status", match="GET /api/billing-usage", status=403)
    view = management.as_(ADMIN).check_connection(view.id)
    assert view.details is not None
    assert view.details.check is not None
    assert (view.details.check.ok, view.details.check.room) == (True, None)


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
    assert (management.as_(ADMIN).connections(), world.secrets) == ([], secrets)
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


def test_sharing_can_be_changed_without_losing_exports(management: Management) -> None:
    view = connect(management)
    add_export(management)
    form = parse(ConnectionForm, {"name": "Main account", "used_by": "contributors"})
    assert view.details is not None
    changed = management.as_(ADMIN).edit_connection(view.id, form, etag=view.details.etag)
    assert changed.details is not None
    assert (changed.details.used_by, changed.details.exports) == ("contributors", ["high-value"])
    assert management.as_(CONTRIBUTOR).detach_export("high-value").connection is None


def test_a_new_key_takes_the_place_of_the_old_one(world: World, management: Management) -> None:
    view = connect(management)
    assert view.details is not None
    world.settings(keys={"pk_new": "full"})
    management.as_(ADMIN).rotate_key(view.id, SecretStr("pk_new"))
    assert world.secrets[view.details.secret] == "pk_new"
    assert "pk_new" not in text_of_everything(world)


def test_a_new_key_that_is_refused_leaves_the_old_one(world: World, management: Management) -> None:
    view = connect(management)
    before = dict(world.secrets)
    with pytest.raises(Invalid):
        management.as_(ADMIN).rotate_key(view.id, SecretStr("pk_wrong"))
    assert world.secrets == before


def test_a_key_of_another_account_is_refused(world: World, management: Management) -> None:
    view = connect(management)
    known, etag = world.engine.catalog.find(Connection, view.id) or pytest.fail("no connection")
    assert known.check is not None
    other = known.model_copy(
        update={"check": known.check.model_copy(update={"account_id": "OTHER1"})}
    )
    world.engine.catalog.replace(other, etag=etag)
    with pytest.raises(Invalid, match="account SANDBX, not OTHER1"):
        management.as_(ADMIN).rotate_key(view.id, SecretStr(FULL_KEY))


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
    assert account_of(management.as_(ADMIN).check_connection(view.id)) == (False, *KNOWN)


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
    management.as_(ADMIN).check_connection(view.id)
    with pytest.raises(Invalid, match="key: may belong to another account than SANDBX"):
        management.as_(ADMIN).rotate_key(view.id, SecretStr("pk_blind"))
    assert world.secrets == before


def test_a_key_of_another_account_is_refused_after_the_old_one_was_revoked(
    world: World, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = connect(management)
    before = dict(world.secrets)
    world.settings(revoke=[FULL_KEY], keys={"pk_other": "full"})
    management.as_(ADMIN).check_connection(view.id)
    monkeypatch.setattr("sandbox.klaviyo.resources.ACCOUNT_ID", "OTHER1")
    with pytest.raises(Invalid, match="key: belongs to the account OTHER1, not SANDBX"):
        management.as_(ADMIN).rotate_key(view.id, SecretStr("pk_other"))
    assert world.secrets == before
    world.secrets.update(dict.fromkeys(before, "pk_other"))  # by hand
    checked = management.as_(ADMIN).check_connection(view.id)
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
            management.as_(ADMIN).edit_connection(view.id, form, etag=seen)
        return world.client(key)

    slow = managed(world, open_klaviyo=client).as_(ADMIN)
    key = () if how == "check_connection" else (SecretStr("pk_new"),)
    with pytest.raises(EditConflict, match="another secret"):
        getattr(slow, how)(view.id, *key)
    assert "pk_new" not in world.secrets.values()


def test_a_bad_check_is_kept_and_shown(world: World, management: Management) -> None:
    view = connect(management)
    world.settings(revoke=[FULL_KEY])
    checked = management.as_(ADMIN).check_connection(view.id)
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
        management.as_(ADMIN).agree(view.id, "2020-01-01")


def test_without_consent_nothing_is_started_or_sent(world: World, management: Management) -> None:
    connect(management, agreed=False)
    add_export(management)
    arrive(world)
    with pytest.raises(Conflict, match="agreed"):
        management.as_(ADMIN).run_export("high-value")
    world.drop_people("b.csv", people(3))
    world.deliver()
    assert (world.run("high-value").status, world.accepted_rows()) == (Status.CANCELED, 0)


def test_withdrawn_consent_stops_an_open_run(world: World, management: Management) -> None:
    connect(management)
    add_export(management)
    world.drop_people("a.csv", people(50))
    world.deliver(until=lambda: bool(world.runs("high-value")))
    management.as_(ADMIN).withdraw("main-account")
    world.deliver()
    assert (world.run("high-value").status, world.accepted_rows()) == (Status.CANCELED, 0)


def test_a_connection_in_use_is_not_removed(management: Management) -> None:
    view = connect(management)
    add_export(management)
    assert view.details is not None
    with pytest.raises(Conflict, match="high-value"):
        management.as_(ADMIN).remove_connection(view.id, etag=view.details.etag)
    assert management.as_(ADMIN).connection(view.id)


@pytest.mark.parametrize(("exports", "left"), [("detach", [None]), ("remove", [])])
@pytest.mark.parametrize("delete_secret", [True, False])
def test_a_connection_is_removed_with_its_exports_and_key_as_chosen(
    world: World, management: Management, exports: Any, left: list[None], delete_secret: bool
) -> None:
    view = connect(management)
    add_export(management)
    assert view.details is not None
    management.as_(ADMIN).remove_connection(
        view.id, etag=view.details.etag, exports=exports, delete_secret=delete_secret
    )
    assert management.as_(ADMIN).connections() == []
    assert [one.connection for one in management.as_(ADMIN).exports()] == left
    assert (view.details.secret in world.secrets) is not delete_secret


def test_a_key_that_another_connection_uses_is_not_deleted(
    world: World, management: Management
) -> None:
    first = connect(management, key=None, secret="klaviyo-key")
    connect(management, name="Second", key=None, secret="klaviyo-key")
    assert first.details is not None
    before = text_of_everything(world)
    with pytest.raises(Conflict, match="klaviyo-key is also used by Second"):
        management.as_(ADMIN).remove_connection(
            first.id, etag=first.details.etag, delete_secret=True
        )
    assert text_of_everything(world) == before
    management.as_(ADMIN).remove_connection(first.id, etag=first.details.etag)
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
            management.as_(ADMIN).remove_connection(
                view.id, etag=view.details.etag, exports=exports, delete_secret=True
            )
    assert caught.value.hint.startswith("Wait. Main account still exists, but without consent")
    world.deliver()
    assert (world.run("high-value").status, world.accepted_rows()) == (Status.CANCELED, 0)
    left = management.as_(ADMIN).connection(view.id).details
    assert left is not None
    assert left.consent is None
    management.as_(ADMIN).remove_connection(
        view.id, etag=left.etag, exports=exports, delete_secret=True
    )
    assert (management.as_(ADMIN).connections(), view.details.secret in world.secrets) == (
        [],
        False,
    )
    assert [one.connection for one in management.as_(ADMIN).exports()] == (
        [None] if exports == "detach" else []
    )


def test_a_connection_that_changes_meanwhile_keeps_its_exports(
    world: World, management: Management
) -> None:
    view = connect(management)
    add_export(management)
    assert view.details is not None
    management.as_(ADMIN).withdraw(view.id)
    with pytest.raises(EditConflict):
        management.as_(ADMIN).remove_connection(
            view.id, etag=view.details.etag, exports="remove", delete_secret=True
        )
    assert [one.connection for one in management.as_(ADMIN).exports()] == [view.id]
    assert view.details.secret in world.secrets


def test_lists_show_opt_in_and_the_flows_that_joining_starts(
    world: World, management: Management
) -> None:
    connect(management)
    flows = [{"id": "F1", "name": "Welcome"}, {"id": "F2", "name": "Old", "status": "draft"}]
    world.klaviyo.call(
        "POST", "/_sandbox/lists", {"id": "LIST02", "name": "With flow", "flows": flows}
    )
    found = {view.id: view for view in management.as_(ADMIN).lists("main-account")}
    assert (found[LIST].flows, found["LIST02"].flows) == ([], ["Welcome"])
    assert found[LIST].opt_in_process == "double_opt_in"


def test_a_key_that_may_not_see_flows_shows_lists_without(
    world: World, management: Management
) -> None:
    scopes = ["accounts:read", "lists:read", "lists:write", "profiles:read", "profiles:write"]
    world.settings(keys={"pk_no_flows": scopes})
    connect(management, key="pk_no_flows")
    assert [view.flows for view in management.as_(ADMIN).lists("main-account")] == [None]
    assert any("lacks flows:read" in warning for warning in add_export(management).warnings)


def test_all_pages_of_lists_are_read(world: World, management: Management) -> None:
    connect(management)
    for number in range(25):
        world.klaviyo.call(
            "POST", "/_sandbox/lists", {"id": f"X{number:05}", "name": f"List {number:02}"}
        )
    assert len(management.as_(ADMIN).lists("main-account")) == 26


def test_a_list_is_created_once(management: Management) -> None:
    connect(management)
    made = management.as_(ADMIN).create_list("main-account", "VIPs")
    assert made.id in {view.id for view in management.as_(ADMIN).lists("main-account")}
    with pytest.raises(Conflict, match=made.id):
        management.as_(ADMIN).create_list("main-account", "VIPs")
