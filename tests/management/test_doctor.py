"""The doctor: each thing is broken in turn, and its line says so, with the one thing to do."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Any, NamedTuple

import pytest

from exporter.errors import Transient
from exporter.klaviyo.base_url import REVISION
from exporter.management import api_keys
from exporter.management.doctor import examine, revision_check
from exporter.management.management import Management
from exporter.management.views import ExaminedView
from exporter.storage.local_folder import FolderSnapshots, FolderStore
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import World, as_csv, people
from tests.management.managing import ADMIN, CONTRIBUTOR, VIEWER, add_export, connect, managed

MAIN = "connection main-account"


@pytest.fixture
def well(world: World, management: Management) -> World:
    """A world in which all is well: a connection, an export that has run, a timer that ticks.

    The world's clock is not that of the machine, by which the stand-in dates its answers.
    """
    world.patch.setattr(api_keys, "SKEW_S", math.inf)
    connect(management)
    add_export(management)
    world.engine.timer.tick()
    world.drop_people("a.csv", people(3))
    world.deliver()
    return world


def lines(world: World, actor: Any = ADMIN, **changes: Any) -> dict[str, ExaminedView]:
    found = managed(world, **changes).as_(actor).doctor()
    assert len({each.part for each in found}) == len(found)
    return {each.part: each for each in found}


def test_where_all_is_well_each_line_is_ok(well: World) -> None:
    found = lines(well)
    assert {part: line for part, line in found.items() if line.state != "ok"} == {}
    assert set(found) == {
        "state",
        "snapshots",
        "events",
        "timer",
        "runs",
        "disk",
        "versions",
        "revision",
        "exports",
        "connections",
        f"{MAIN}: key",
        f"{MAIN}: lists",
        f"{MAIN}: consent",
    }


def _refuse(*_: object, **__: object) -> Any:
    raise Transient("storage refuses", hint="Give the role.")


def _unwritable(world: World) -> None:
    world.patch.setattr(FolderStore, "create", _refuse)


def _unlisted(world: World) -> None:
    world.patch.setattr(FolderSnapshots, "list", _refuse)


def _no_events(world: World) -> None:
    world.clock.move(60)
    world.put("segments/HighValue.csv", as_csv(people(3, first=3)))
    for _ in range(4):
        world.clock.move(3_600)
        world.engine.timer.tick()
        world.deliver()


def _no_timer(world: World) -> None:
    world.clock.move(3 * 3_600)


def _stuck(world: World) -> None:
    world.drop_people("a.csv", people(5))
    world.deliver(until=lambda: len(world.runs("high-value")) == 2)
    world.clock.move(2 * 3_600)


def _full_disk(world: World) -> None:
    free = NamedTuple("free", [("free", int)])(1_000_000)
    world.patch.setattr("shutil.disk_usage", lambda _: free)


def _no_disk(world: World) -> None:
    def gone(_: object) -> None:
        raise OSError(2, "No such file or directory")

    world.patch.setattr("shutil.disk_usage", gone)


def _revoked(world: World) -> None:
    world.settings(revoke=[FULL_KEY])


def _fewer_scopes(world: World) -> None:
    world.settings(keys={FULL_KEY: ["accounts:read", "lists:read"]})


def _wrong_clock(world: World) -> None:
    world.patch.setattr(api_keys, "SKEW_S", 120)


def _other_account(world: World) -> None:
    found = world.engine.catalog.connection("main-account")
    assert found is not None
    assert found.check is not None
    check = found.check.model_copy(update={"account_id": "OTHER1"})
    world.engine.catalog.save(found.model_copy(update={"check": check}))


def _no_secret(world: World) -> None:
    for name in list(world.secrets):
        del world.secrets[name]


def _no_list(world: World) -> None:
    export = world.engine.catalog.export("high-value")
    assert export is not None
    world.engine.catalog.save(export.model_copy(update={"list_id": "GONE01"}))


def _no_consent(world: World) -> None:
    managed(world).as_(ADMIN).withdraw("main-account")


def _paused(world: World) -> None:
    managed(world).as_(ADMIN).pause_export("high-value", paused=True)


def _damaged_export(world: World) -> None:
    _damage(world, "exports/high-value.json")


def _damaged_connection(world: World) -> None:
    _damage(world, "connections/main-account.json")


def _damage(world: World, name: str) -> None:
    found = world.engine.store.read(name)
    assert found is not None
    world.engine.store.replace(name, b"{", etag=found.etag)


def _late_revision(world: World) -> None:
    """Klaviyo retires it in some weeks: the world's clock is in August 2026."""
    world.client_options["revision"] = "2025-01-15"


@pytest.mark.parametrize(
    ("broken", "part", "state", "said", "hint"),
    [
        (_unwritable, "state", "failed", "storage refuses", "Give the role"),
        (_unlisted, "snapshots", "failed", "storage refuses", "Give the role"),
        (_no_events, "events", "attention", "found by the hourly look", "Event Grid"),
        (_no_timer, "timer", "failed", "has not run since", "Log stream"),
        (_stuck, "runs", "failed", "has not moved", "cancel high-value/"),
        (_full_disk, "disk", "attention", "1 MB are free", "Restart"),
        (_no_disk, "disk", "failed", "cannot be used", "WORK_FOLDER"),
        (_revoked, f"{MAIN}: key", "failed", "key", "ey"),
        (_fewer_scopes, f"{MAIN}: key", "failed", "the key lacks lists:write", "scope"),
        (_other_account, f"{MAIN}: key", "failed", "not OTHER1", "Put a key"),
        (_wrong_clock, f"{MAIN}: key", "attention", "clock and Klaviyo's differ", "times"),
        (_no_secret, f"{MAIN}: key", "failed", "does not exist in the vault", "Store the key"),
        (_late_revision, f"{MAIN}: key", "attention", "retires the API revision", "Upgrade"),
        (_no_list, f"{MAIN}: lists", "failed", "GONE01 of high-value", "exports edit high-value"),
        (_no_consent, f"{MAIN}: consent", "failed", "agreed", "connections agree main-account"),
        (_paused, "exports", "attention", "It is paused", "exports resume high-value"),
        (_damaged_export, "exports", "failed", "high-value", ""),
        (_damaged_connection, MAIN, "failed", "cannot be read", ""),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_what_is_broken_has_its_line(
    well: World, broken: Callable[[World], None], part: str, state: str, said: str, hint: str
) -> None:
    broken(well)
    line = lines(well)[part]
    assert (line.state, said in line.said, hint in line.hint) == (state, True, True), line


@pytest.mark.parametrize(
    ("revision", "fall_forward", "state", "said"),
    [
        (REVISION, False, "ok", "served until 2028-10-15"),
        ("2024-10-15", False, "attention", "Klaviyo retired the API revision 2024-10-15"),
        ("2024-10-15", True, "attention", "serves a newer revision than asked for"),
        ("2025-01-15", True, "attention", "Klaviyo retires the API revision 2025-01-15"),
    ],
)
def test_the_revision_is_told_of_before_and_after_klaviyo_retires_it(
    revision: str, fall_forward: bool, state: str, said: str
) -> None:
    found = revision_check(revision, date(2026, 12, 1), fall_forward=fall_forward)
    assert (found.state, said in found.said) == (state, True), found
    assert (found.hint != "") == (state != "ok")


def test_the_timer_of_a_new_app_has_not_run_yet(world: World) -> None:
    assert (lines(world)["timer"].state, lines(world)["exports"].state) == ("attention", "ok")


def test_a_run_whose_account_is_at_work_is_not_stuck(well: World) -> None:
    _stuck(well)
    well.patch.setattr(type(well.engine.timer._leases), "is_held_for", lambda *_: True)
    assert lines(well)["runs"].state == "ok"


def test_a_part_that_hangs_costs_its_time_and_the_others_answer() -> None:
    stuck = threading.Event()

    def hang() -> None:
        stuck.wait(60)

    began = time.monotonic()
    found = examine({"vault": hang, "state": lambda: None}, part_s=0.2)
    stuck.set()
    assert [(each.part, each.state) for each in found] == [("vault", "failed"), ("state", "ok")]
    assert time.monotonic() - began < 30
    assert found[0].hint


def test_where_the_store_is_away_the_lines_that_need_it_say_so(well: World) -> None:
    well.patch.setattr(FolderStore, "names", _refuse)
    well.patch.setattr(FolderStore, "read", _refuse)
    found = lines(well)
    for part in ("exports", "connections", "timer", "state"):
        assert (found[part].state, found[part].said) == ("failed", "storage refuses")
    assert found["versions"].state == "ok"


@pytest.mark.parametrize("actor", [VIEWER, CONTRIBUTOR], ids=lambda actor: actor.name)
def test_keys_and_connections_are_looked_at_for_administrators_alone(
    well: World, actor: Any
) -> None:
    found = lines(well, actor)
    assert [part for part in found if part.startswith("connection")] == []
    assert found["state"].state == "ok"


@pytest.mark.parametrize("broken", [lambda _: None, _revoked, _stuck, _no_list, _no_secret])
def test_nothing_of_it_names_a_person_or_holds_a_key(
    well: World, broken: Callable[[World], None]
) -> None:
    broken(well)
    text = "".join(line.model_dump_json() for line in lines(well).values())
    assert [secret for secret in (FULL_KEY, "pk_", "@", "Name1") if secret in text] == []


def test_what_it_wrote_to_try_the_store_is_gone_afterwards(well: World) -> None:
    lines(well)
    assert list(well.engine.store.names("doctor/")) == []
