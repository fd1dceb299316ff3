"""Every command, on the store and over the API: what it does, what it says, who may."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import SecretStr

from exporter import VERSION
from exporter.cli import main as cli
from exporter.cli.printing import print_rows
from exporter.cli.remote_backend import RemoteApp
from exporter.cli.runs import wait_for
from exporter.definitions import consent
from exporter.management.management import ActorsApp, Management
from exporter.management.roles import Action, may
from exporter.settings import from_env
from sandbox.klaviyo import FULL_KEY
from sandbox.klaviyo.settings import READONLY_KEY
from tests.cli.conftest import CommandLine, Said
from tests.journeys.world import LIST, SEGMENT, World, people
from tests.management.managing import ADMIN, CONTRIBUTOR, NOBODY, VIEWER, add_export, connect
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
MAIN, EXPORT = "main-account", "high-value"
OPTIONS = ("--connection", MAIN, "--list", LIST, "--segment", SEGMENT, "--email", "EMail")


@pytest.fixture
def peopled(world: World, management: Management) -> World:
    """A connection, an export, and a run that delivered and rejected."""
    connect(management, used_by="contributors")
    add_export(management)
    world.drop_people("a.csv", people(3, planted={1: "nobody"}))
    world.deliver()
    management.as_(ADMIN).exports()  # what a first look keeps is kept before the tests look
    return world


@pytest.fixture
def delivering(peopled: World) -> Iterator[None]:
    """The app, which works its queue while the command line waits."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.05):
            peopled.deliver()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


def commands() -> dict[str, typer.models.CommandInfo]:
    """Every command by its words."""
    found = {
        str(each.name or getattr(each.callback, "__name__", "")): each
        for each in cli.app.registered_commands
    }
    for group in cli.app.registered_groups:
        assert group.typer_instance is not None
        for each in group.typer_instance.registered_commands:
            found[f"{group.name} {each.name or getattr(each.callback, '__name__', '')}"] = each
    return found


# Connections


def test_a_connection_is_made_from_a_piped_key_agreed_to_changed_and_removed(
    world: World, both: CommandLine
) -> None:
    made = both.ok(
        "connections", "create", "Main account", "--key-stdin", "--json", typed=f"{FULL_KEY}\n"
    ).document
    assert (made["id"], made["consent"], made["check"]["ok"]) == (MAIN, None, True)
    assert world.secrets[made["secret"]] == FULL_KEY

    refused = both("connections", "agree", MAIN, typed="n\n")
    assert (refused.code, "outside your subscription" in refused.err) == (1, True)
    assert both.ok("connections", "show", MAIN, "--json").document["consent"] is None
    agreed = both.ok("connections", "agree", MAIN, "--json", typed="y\n").document
    assert agreed["consent"]["version"] == consent.VERSION

    both.ok("connections", "edit", MAIN, "--used-by", "contributors")
    changed = both.ok("connections", "show", MAIN, "--json").document
    assert (changed["name"], changed["used_by"]) == ("Main account", "contributors")
    assert both.ok("connections", "connect", MAIN).out.count("Sandbox Organization") == 1
    both.ok("connections", "rotate-key", MAIN, "--key-stdin", typed=FULL_KEY)
    assert both.ok("connections", "withdraw", MAIN, "--yes", "--json").document["consent"] is None

    asked = both("connections", "remove", MAIN, "--delete-secret", typed="n\n")
    assert (asked.code, "delete its key" in asked.err, len(world.secrets)) == (1, True, 2)
    both.ok("connections", "remove", MAIN, "--delete-secret", typed="y\n")
    assert both.ok("connections", "--json").document == []
    assert made["secret"] not in world.secrets


def test_a_key_is_shown_nowhere_and_is_no_option(world: World, both: CommandLine) -> None:
    said = [
        both("connections", "create", "A", "--key-stdin", typed=FULL_KEY),
        both("connections", "create", "B", "--key-stdin", typed="pk_wrong_0123"),
        both("connections", "rotate-key", "a", "--key-stdin", typed="pk_wrong_0123"),
        both("connections", "show", "a"),
        both("connections", "list", "--json"),
    ]
    assert [each.code for each in said] == [0, 2, 2, 0, 0]
    assert not any("pk_" in each.out + each.err for each in said)
    assert FULL_KEY not in "".join(text for _, text in world.text_of_state())
    assert both("connections", "create", "C", "--key", FULL_KEY).code == 2


def test_a_key_at_the_terminal_is_typed_without_echo(
    line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("getpass.getpass", lambda *_, **__: FULL_KEY)  # there is no terminal here
    monkeypatch.setattr("io.StringIO", Terminal)
    assert "Sandbox Organization" in line.ok("connections", "create", "A").out


def test_a_secret_that_is_there_can_be_named(both: CommandLine) -> None:
    made = both.ok(
        "connections", "create", "A", "--secret", "klaviyo-key", "--id", "mine", "--json"
    ).document
    assert (made["id"], made["secret"]) == ("mine", "klaviyo-key")


def test_connect_of_a_key_without_scopes_fails_and_says_which(
    world: World, both: CommandLine
) -> None:
    both.ok("connections", "create", "A", "--secret", "klaviyo-key")
    world.secrets["klaviyo-key"] = READONLY_KEY
    said = both("connections", "connect", "a")
    assert (said.code, "lists:write" in said.out, "reate a new key" in said.out) == (1, True, True)
    made = both("connections", "create", "B", "--secret", "klaviyo-key")
    assert (made.code, "lists:write" in made.out) == (1, True)
    edited = both("connections", "edit", "a", "--secret", "klaviyo-key")
    assert (edited.code, "lists:write" in edited.out) == (1, True)


def test_a_connection_in_use_is_removed_with_its_exports_only_when_asked(
    peopled: World, both: CommandLine
) -> None:
    refused = both("connections", "remove", MAIN, "--yes")
    assert (refused.code, EXPORT in refused.err) == (1, True)
    both.ok("connections", "remove", MAIN, "--yes", "--exports", "detach")
    assert both.ok("exports", "--json").document[0]["connection"] is None


def test_lists_are_shown_and_made(peopled: World, both: CommandLine) -> None:
    made = both.ok("lists", MAIN, "--create", "VIPs", "--json").document
    assert both.ok("lists", MAIN).out.count(made[0]["id"]) == 1


# Exports


def test_an_export_is_made_by_list_name_changed_and_removed(
    peopled: World, both: CommandLine
) -> None:
    both.ok("lists", MAIN, "--create", "My VIPs")
    options = ("--connection", MAIN, "--list", "my vips", "--segment", SEGMENT, "--email", "EMail")
    made = both.ok(
        "exports", "create", "VIPs", *options, "--at", "18:30", "--day", "monday", "--json"
    ).document
    assert (made["id"], made["list_name"], made["paused"]) == ("vips", "My VIPs", False)
    assert (
        made["schedule"] | {"on": "schedule", "times": ["18:30"], "days": ["monday"]}
        == made["schedule"]
    )
    assert peopled.runs("vips") == []

    both.ok("exports", "edit", "vips", "--time-zone", "Europe/Bucharest", "--max-profiles", "10")
    both.ok("exports", "edit", "vips", "--name", "Best", "--email", "Mail")
    seen = both.ok("exports", "show", "vips", "--json").document
    assert (seen["name"], seen["max_profiles"], seen["mapping"]["email"]) == ("Best", 10, "Mail")
    assert (seen["schedule"]["times"], seen["schedule"]["time_zone"]) == (
        ["18:30"],
        "Europe/Bucharest",
    )
    both.ok("exports", "edit", "vips", "--cron", "0 6 * * 1", "--max-profiles", "0")
    seen = both.ok("exports", "show", "vips", "--json").document
    assert (seen["schedule"]["times"], seen["schedule"]["cron"], seen["max_profiles"]) == (
        [],
        "0 6 * * 1",
        None,
    )

    both.ok("exports", "edit", "vips", "--keep-rejected-rows", "--reconcile")
    seen = both.ok("exports", "edit", "vips", "--no-reconcile", "--json").document
    assert (seen["keep_rejected_rows"], seen["reconcile"]) == (True, False)

    assert both.ok("exports", "pause", "vips", "--json").document["paused"] is True
    assert both.ok("exports", "resume", "vips", "--json").document["paused"] is False
    assert both.ok("exports", "detach", "vips", "--json").document["connection"] is None
    assert both.ok("exports", "duplicate", "vips", "--json").document["name"] == "Best (copy)"
    both.ok("exports", "remove", "vips", "--yes")
    assert [each["id"] for each in both.ok("exports", "--json").document] == ["best-copy", EXPORT]


def test_every_page_of_a_list_is_shown(peopled: World, line: CommandLine, url: str) -> None:
    for number in range(4):
        line.ok("exports", "duplicate", EXPORT)
        line.ok("lists", MAIN, "--create", f"List {number}")
    everything = [
        line.ok(*command, "--json").document for command in (("exports",), ("lists", MAIN))
    ]
    remote = RemoteApp(url, lambda: SecretStr("ada"), page=2)
    with contextlib.closing(remote):
        exports = [{"schema": 1, **view.model_dump(mode="json")} for view in remote.exports()]
        lists = [view.model_dump(mode="json") for view in remote.lists(MAIN)]
    assert (len(exports), len(lists)) == (5, 5)
    assert [exports, lists] == everything


def test_what_somebody_who_saves_should_know_is_said(peopled: World, both: CommandLine) -> None:
    said = both.ok("exports", "create", "Again", *OPTIONS)
    assert "also filled by High value" in said.err


def test_editing_keeps_what_email_does_not_change(peopled: World, both: CommandLine) -> None:
    both.ok("exports", "edit", EXPORT, "--email", "Mail")
    assert (
        both.ok("exports", "show", EXPORT, "--json").document["mapping"]["first_name"]
        == "FirstName"
    )


SCHEDULES: dict[str, tuple[str, ...]] = {
    "arrival": ("--on", "arrival"),
    "times": ("--at", "06:00", "--day", "monday", "--time-zone", "Europe/Bucharest"),
    "cron": ("--cron", "0 6 * * 1"),
    "demand": ("--on", "demand"),
    "off": ("--on", "off"),
}


@pytest.mark.parametrize("after", SCHEDULES)
@pytest.mark.parametrize("before", SCHEDULES)
def test_every_schedule_can_be_changed_to_every_other(
    world: World, management: Management, line: CommandLine, before: str, after: str
) -> None:
    connect(management)
    line.ok("exports", "create", "High value", *OPTIONS, *SCHEDULES[before])
    if before == after:
        assert line("exports", "edit", EXPORT, *SCHEDULES[after]).code == 2  # nothing to change
        return
    changed = line.ok("exports", "edit", EXPORT, *SCHEDULES[after], "--json").document["schedule"]
    timed = before if after == "off" else after  # kept for later
    assert (changed["on"], changed["times"], changed["days"], changed["cron"]) == (
        "schedule" if after in ("times", "cron") else after,
        ["06:00"] if timed == "times" else [],
        ["monday"] if timed == "times" else [],
        "0 6 * * 1" if timed == "cron" else None,
    )
    if after == "off" and timed in ("times", "cron"):
        back = line.ok("exports", "edit", EXPORT, "--on", "schedule", "--json").document["schedule"]
        assert back == {**changed, "on": "schedule"}


# Runs


def test_a_run_is_started_watched_and_cancelled(peopled: World, both: CommandLine) -> None:
    peopled.drop_people("b.csv", people(5))
    peopled.deliver()
    started = both.ok("run", EXPORT, "--json").document
    listed = both.ok("runs", EXPORT, "--limit", "1", "--json").document
    assert [(one["run"], one["status"]) for one in listed] == [(started["run"], "Queued")]
    both.ok("cancel", started["run"])
    unfinished = both.ok("report", started["run"])
    assert re.search(r"Status +Queued \(open\)\nPhase +Reading\n", unfinished.out), unfinished
    assert re.search(r"Began +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", unfinished.out)
    assert both.ok("report", started["run"], "--json").document["is_open"] is True
    peopled.deliver()
    assert both.ok("report", started["run"], "--json").document["status"] == "Canceled"
    over = both("cancel", started["run"])
    assert (over.code, "is over" in over.err) == (1, True)


def test_a_run_that_is_waited_for_ends_with_its_report(
    peopled: World, both: CommandLine, delivering: None
) -> None:
    said = both.ok("run", EXPORT, "--wait")
    assert ("Confirmed   2" in said.out, "Rejected    1" in said.out) == (True, True), said


def test_the_bar_of_a_run_that_is_waited_for_has_a_total(
    peopled: World, management: Management
) -> None:
    shown: list[tuple[str, int, int]] = []
    app = management.as_(ADMIN)

    def wait(seconds: float) -> None:
        assert seconds > 0
        peopled.deliver(until=lambda: len(peopled.klaviyo.account.jobs) > len(shown))

    ended = wait_for(app, app.run_export(EXPORT), show=lambda *args: shown.append(args), sleep=wait)
    assert not ended.is_open
    assert ("send", 2, 2) in shown, shown
    assert all(not done for phase, done, _ in shown if phase == "confirm"), "none is known yet"


def test_run_all_starts_what_has_a_schedule_and_says_what_does_not(
    peopled: World, both: CommandLine
) -> None:
    both.ok(
        "exports", "create", "No segment", *OPTIONS[:4], "--segment", "Nowhere", "--email", "EMail"
    )
    said = both("run", "--all", "--json")
    assert said.code == 1
    assert [(one["export"], bool(one["run"]), bool(one["problem"])) for one in said.document] == [
        (EXPORT, True, False),
        ("no-segment", False, True),
    ]


def test_rows_that_were_not_delivered_can_be_read(
    peopled: World, both: CommandLine, tmp_path: Path
) -> None:
    run = both.ok("runs", EXPORT, "--json").document[0]["run"]
    said = both.ok("report", run, "--rows", "rejected")
    assert "nobody" in said.out


def test_a_mapping_is_suggested_from_a_segment_in_storage(
    peopled: World, both: CommandLine
) -> None:
    assert both.ok("suggest", "--segment", SEGMENT).out == (
        "# columns: EMail, FirstName\nemail: EMail\nfirst_name: FirstName\n"
    )


def test_an_encoding_given_at_the_command_line_is_that_of_the_files(
    line: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "vips.csv"
    file.write_bytes("EMail,Name\nada@example.com,Łuczak\n".encode("cp1250"))
    (tmp_path / "mapping.yaml").write_text("email: EMail\nlast_name: Name\nencoding: cp1252\n")
    args = ("plan", file, "--mapping", tmp_path / "mapping.yaml", "--show-values", "--json")
    [sample] = line.ok(*args, "--encoding", "windows-1250").document["samples"]
    assert sample["attributes"]["last_name"] == "Łuczak"
    assert "windows-1250x" in line(*args, "--encoding", "windows-1250x").err


# Both doors


READING = (
    ("connections",),
    ("connections", "--json"),
    ("connections", "show", MAIN),
    ("connections", "show", MAIN, "--json"),
    ("lists", MAIN, "--json"),
    ("exports",),
    ("exports", "list", "--json"),
    ("exports", "show", EXPORT),
    ("exports", "dump"),
    ("segments",),
    ("segments", "--json"),
    ("plan", EXPORT),
    ("plan", EXPORT, "--json"),
    ("plan", EXPORT, "--show-values"),
    ("runs", EXPORT),
    ("suggest", "--segment", SEGMENT),
    ("connections", "show", "nowhere"),
    ("exports", "show", "no/where"),
    ("runs", "nowhere"),
    ("report", "a/b"),
    ("report", ".."),
    ("plan", "nothing"),
    ("suggest", "--segment", "Nowhere"),
    ("exports", "edit", EXPORT, "--at", "25:00"),
    ("exports", "edit", EXPORT, "--list", "No such list"),
    ("connections", "edit", MAIN, "--used-by", "everybody"),
    ("connections", "agree", MAIN, "--version", "1999"),
    ("connections", "remove", MAIN, "--yes"),
)


def test_both_doors_say_the_same(peopled: World, line: CommandLine, url: str) -> None:
    for args in READING:
        line.through("")
        here = line(*args)
        line.through(url)
        assert line(*args) == here, args
        assert here.out or here.err


def test_tables_keep_ids_whole_moments_short_and_empty_columns_out(
    peopled: World, line: CommandLine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = line.ok("runs", EXPORT, "--json").document[0]["run"]
    assert run in line.ok("runs", EXPORT).out
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", line.ok("exports", "show", EXPORT).out)
    line.through(url)
    line.be("cem")
    assert line.ok("connections").out.split() == ["id", "name", MAIN, "Main", "account"]


def test_the_table_of_exports_has_the_columns_of_the_original_and_fits(
    peopled: World, line: CommandLine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    line.through(url)
    table = line.ok("exports").out
    heads = table.splitlines()[0].split()
    assert heads == [
        *(
            "id",
            "name",
            "connection",
            "type",
            "list",
            "status",
            "schedule",
            "refreshed",
            "created",
            "changed",
            "may",
        )
    ]
    for part in (
        EXPORT,
        MAIN,
        "klaviyo",
        LIST,
        "Completed",
        "warnings",
        "Ada",
        f"{peopled.now():%Y-%m-%d}",
        "all",
    ):
        assert part in table.split(), table
    assert max(map(len, table.splitlines())) <= 120
    line.be("vio")
    assert line.ok("exports").out.splitlines()[1].split()[-1] == "see"


def test_tables_leave_out_what_is_least_needed_on_a_narrow_terminal(
    peopled: World, line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = line.ok("runs", EXPORT, "--json").document[0]["run"]
    table = line.ok("exports").out
    heads = table.splitlines()[0].split()
    assert {"id", "name", "list", "status", "schedule"} <= set(heads)
    assert "type" not in heads
    assert {"Completed", "warnings", EXPORT} <= set(table.split()), "no word is broken"
    runs = line.ok("runs", EXPORT).out
    assert (run in runs, "accepted" in runs) == (True, True)
    assert max(map(len, (table + runs).splitlines())) <= 80


def test_status_lists_what_needs_attention_and_what_to_do(
    peopled: World, both: CommandLine
) -> None:
    assert "Nothing needs attention (1 export)." in both.ok("status").out
    both.ok("exports", "create", "Paused", *OPTIONS[:4], "--segment", "No", "--email", "EMail")
    both.ok("exports", "pause", "paused")
    both.ok("exports", "create", "Waiting", *OPTIONS[:4], "--segment", "No", "--email", "EMail")
    both.ok("connections", "withdraw", MAIN, "--yes")
    said = both("status", "--json")
    assert said.code == 1
    assert [(each["about"], each["problem"]) for each in said.document] == [
        (f"connections/{MAIN}", "Nobody has agreed yet: nothing is sent."),
        ("exports/paused", "It is paused."),
        ("exports/waiting", "No snapshot of No has arrived."),
    ]
    assert f"connection {MAIN}" in both("status").out
    assert f"connections agree {MAIN}" in both("status").out


def test_doctor_tells_of_each_part_and_ends_with_1_where_one_failed(
    peopled: World, both: CommandLine
) -> None:
    peopled.patch.setattr("exporter.management.api_keys.SKEW_S", math.inf)  # a world of its own
    peopled.engine.timer.tick()
    said = both.ok("doctor", "--json")
    assert {each["state"] for each in said.document} == {"ok"}, said
    assert "segment-exporter" in both.ok("doctor").out
    both.ok("exports", "pause", EXPORT)
    assert f"exports resume {EXPORT}" in both.ok("doctor").out, "attention alone is no failure"
    both.ok("connections", "withdraw", MAIN, "--yes")
    said = both("doctor", "--json")
    assert said.code == 1
    [failed] = [each for each in said.document if each["state"] == "failed"]
    assert (failed["part"], failed["hint"]) == (
        f"connection {MAIN}: consent",
        f"connections agree {MAIN}",
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"KEY_VAULT_URL": "https://vault.example", "SETTLE_SECONDS": "soon"}],
)
def test_doctor_tells_of_settings_that_are_wrong(
    line: CommandLine, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    monkeypatch.setattr("exporter.wiring.management", lambda: from_env(settings))
    said = line("doctor", "--json")
    assert said.code == 1
    [only] = said.document
    assert (only["part"], only["state"], only["said"] != "") == ("settings", "failed", True)
    assert "app settings" in only["hint"]


def test_why_says_where_a_person_was_left_out_or_that_they_were_delivered(
    peopled: World, both: CommandLine
) -> None:
    [left_out] = both.ok("why", "nobody", "--json").document
    assert (left_out["outcome"], left_out["line"]) == ("left out", 3)
    table = both.ok("why", "nobody").out
    assert (f"{SEGMENT}/" in table, ":3" in table, "nobody" in table) == (True, True, False)
    assert both.ok("why", "P2@Example.com", "--json").document[0]["outcome"] == "delivered"


def test_files_left_aside_are_listed_with_why(peopled: World, both: CommandLine) -> None:
    name = f"Feed/{SEGMENT}/part-00000-c000.csv"
    peopled.put(name, "EMail\n")
    [found] = both.ok("segments", "--left-aside", "--json").document
    assert (found["name"], found["segment"]) == (name, SEGMENT)
    assert {name, SEGMENT} <= set(both.ok("segments", "--left-aside").out.split())


def test_audit_lists_changes_newest_first(peopled: World, both: CommandLine) -> None:
    both.ok("exports", "edit", EXPORT, "--name", "Best")
    both.ok("exports", "pause", EXPORT)
    newest, before = both.ok("audit", "--limit", "2", "--json").document
    assert (newest["object"], newest["after"]) == (f"exports/{EXPORT}", {"paused": True})
    assert before["after"]["name"] == "Best"
    assert both.ok("audit", "--limit", "2").out.count(f"exports/{EXPORT}") == 2


def test_what_a_terminal_would_act_on_is_not_printed(
    world: World, management: Management, line: CommandLine
) -> None:
    connect(management)
    world.klaviyo.call("POST", "/_sandbox/lists", {"id": "EVIL01", "name": "[red]a\x1b[2Jb"})
    shown = line.ok("lists", MAIN).out
    assert ("[red]a [2Jb" in shown, "\x1b" in shown) == (True, False)


def test_a_refused_role_is_told_before_a_key_is_asked_for(
    peopled: World, line: CommandLine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody_asks(**_: object) -> SecretStr:
        raise AssertionError("a key was asked for")

    monkeypatch.setattr("exporter.cli.connections.read_key", nobody_asks)
    line.through(url)
    line.be("cem")
    for args in (("create", "X"), ("rotate-key", MAIN)):
        said = line("connections", *args)
        assert (said.code, "the role Contributor may not" in said.err) == (1, True), said


# Wrong use


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("exports", "create", "X", "--connection", MAIN, "--list", LIST), "--email"),
        (("exports", "create", "X", "--email", "EMail"), "--connection"),
        (("exports", "create", "X", *OPTIONS, "--id", "Not an id"), "id:"),
        (("exports", "create", "high VALUE", *OPTIONS), "name: is taken"),
        (
            ("exports", "create", "X", *OPTIONS[2:], "--connection", "nowhere"),
            "no connection nowhere",
        ),
        (
            ("exports", "create", "X", *OPTIONS, "--list", "Nope"),
            "list: the account has no list Nope",
        ),
        (("exports", "create", "X", *OPTIONS, "--on", "sometimes"), "schedule.on"),
        (("exports", "create", "X", *OPTIONS, "--max-profiles", "-1"), "max_profiles"),
        (("exports", "create", "X", *OPTIONS, "--mapping", "nowhere.yaml"), "cannot be read"),
        (
            ("exports", "create", "X", *OPTIONS, "--at", "6"),
            "schedule.times.0: should be a time of day such as 06:00",
        ),
        (
            ("exports", "create", "X", *OPTIONS, "--id", "Ä"),
            "id: should be at most 64 small letters",
        ),
        (
            ("exports", "create", "X", *OPTIONS[:4], "--email", "EMail"),
            "segments: needs at least one",
        ),
        (("exports", "edit", EXPORT), "Nothing to change"),
        (("exports", "--json", "show", EXPORT), "behind show"),
        (("exports", "remove", EXPORT), "--yes"),
        (("exports", "apply", "-f", "nowhere.yaml"), "cannot be read"),
        (("connections", "--app", "https://a.example", "show", MAIN), "behind show"),
        (("connections", "create", "X"), "--key-stdin"),
        (("connections", "create", "X", "--secret", "s", "--key-stdin"), "one of them"),
        (("connections", "create", "X", "--secret", "nowhere"), "secret:"),
        (("connections", "edit", MAIN), "Nothing to change"),
        (("connections", "remove", MAIN, "--exports", "keep"), "refuse, detach or remove"),
        (("run",), "--all"),
        (("run", EXPORT, "--all"), "--all"),
        (("runs", EXPORT, "--limit", "0"), "must be greater than or equal to 1"),
        (("report", "a/b", "--rows", "good"), "rejected, duplicates or left_out"),
        (("suggest",), "--segment"),
        (("exports", "nonsense"), "nonsense"),
        (("exports", "--app", "http://elsewhere.example"), "https://"),
        (("exports", "--app", "elsewhere"), "https://"),
    ],
)
def test_misuse_ends_with_2_and_names_the_remedy(
    peopled: World, both: CommandLine, args: Any, says: str
) -> None:
    before = dict(peopled.text_of_state())
    said = both(*args)
    assert (said.code, says in said.err) == (2, True), said
    assert dict(peopled.text_of_state()) == before


def test_an_edit_that_somebody_else_was_faster_with_is_refused(
    peopled: World, both: CommandLine, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ActorsApp.lists

    def lists(self: ActorsApp, *args: Any) -> Any:
        """Meanwhile, another one pauses it."""
        management.as_(ADMIN).pause_export(EXPORT, paused=True)
        return real(self, *args)

    monkeypatch.setattr(ActorsApp, "lists", lists)
    said = both("exports", "edit", EXPORT, "--list", LIST, "--name", "Mine")
    assert (said.code, "somebody else" in said.err, "repeat your change" in said.err) == (
        1,
        True,
        True,
    ), said


def test_whoever_the_app_does_not_know_is_told_to_sign_in(line: CommandLine, url: str) -> None:
    line.through(url)
    line.be("stranger")
    said = line("exports")
    assert (said.code, "az login" in said.err) == (2, True)
    line.be("nil")
    said = line("exports")
    assert (said.code, "no role" in said.err) == (1, True)


def test_an_app_that_does_not_answer_is_said_to(line: CommandLine) -> None:
    said = line("exports", "--app", "http://127.0.0.1:9")
    assert (said.code, "does not answer" in said.err, "Traceback" in said.err) == (1, True, False)


def test_without_a_token_or_a_registration_the_remedy_is_named(
    line: CommandLine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.be("")
    monkeypatch.delenv("AUTH_CLIENT_ID", raising=False)
    said = line("exports", "--app", url)
    assert (said.code, "AUTH_CLIENT_ID" in said.err) == (2, True)


def test_on_the_store_the_azure_clis_user_is_written_down(
    line: CommandLine, management: Management, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = {"subscriptions": [{"isDefault": True, "user": {"name": "ann@contoso.example"}}]}
    (tmp_path / "azureProfile.json").write_text(json.dumps(profile), encoding="utf-8-sig")
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))
    line.ok("connections", "create", "A", "--secret", "klaviyo-key")
    newest = management.as_(ADMIN).changes().items[0]
    assert newest.by == {"id": "command-line", "name": "ann@contoso.example", "role": "Admin"}


# Who may

# command, with an option that makes it another act: its arguments, and the row of the table in
# roles.py, which docs/roles.md shows, that says who may.
WHO_MAY: dict[str, tuple[tuple[str, ...], Action]] = {
    "whoami": ((), Action.SEE_API),
    "status": ((), Action.SEE_EXPORTS),
    "doctor": ((), Action.SEE_HEALTH),
    "why": (("nobody",), Action.READ_ROWS),
    "audit": ((), Action.SEE_AUDIT),
    "connections list": ((), Action.SEE_CONNECTIONS),
    "connections show": ((MAIN,), Action.SEE_CONNECTIONS),
    "connections create": (("X", "--secret", "klaviyo-key"), Action.CREATE_CONNECTION),
    "connections edit": ((MAIN, "--name", "X"), Action.EDIT_CONNECTION),
    "connections agree": ((MAIN, "--version", consent.VERSION), Action.CONSENT),
    "connections withdraw": ((MAIN, "--yes"), Action.CONSENT),
    "connections connect": ((MAIN,), Action.CHECK_CONNECTION),
    "connections rotate-key": ((MAIN, "--key-stdin"), Action.ROTATE_KEY),
    "connections remove": ((MAIN, "--yes", "--exports", "detach"), Action.REMOVE_CONNECTION),
    "lists": ((MAIN,), Action.SEE_LISTS),
    "lists --create New": ((MAIN,), Action.CREATE_LIST),
    "segments": ((), Action.SEE_SEGMENTS),
    "segments --left-aside": ((), Action.SEE_SEGMENTS),
    "exports list": ((), Action.SEE_EXPORTS),
    "exports show": ((EXPORT,), Action.SEE_EXPORTS),
    "exports create": (("X", *OPTIONS), Action.CREATE_EXPORT),
    "exports edit": ((EXPORT, "--name", "X"), Action.EDIT_EXPORT),
    "exports duplicate": ((EXPORT,), Action.CREATE_EXPORT),
    "exports detach": ((EXPORT,), Action.DETACH_EXPORT),
    "exports pause": ((EXPORT,), Action.EDIT_EXPORT),
    "exports resume": ((EXPORT,), Action.EDIT_EXPORT),
    "exports remove": ((EXPORT, "--yes"), Action.REMOVE_EXPORT),
    "exports apply": (("-f", "{file}", "--yes"), Action.EDIT_EXPORT),
    "exports apply --yes": (("-f", "{creating}"), Action.CREATE_EXPORT),
    "exports apply --prune": (("-f", "{empty}", "--yes"), Action.REMOVE_EXPORT),
    "exports dump": ((), Action.SEE_EXPORTS),
    "run": ((EXPORT,), Action.RUN_EXPORT),
    "run --all": ((), Action.RUN_EXPORT),
    "runs": ((EXPORT,), Action.SEE_RUNS),
    "report": (("{run}",), Action.SEE_RUNS),
    "report --rows rejected": (("{run}",), Action.READ_ROWS),
    "cancel": (("{open}",), Action.CANCEL_RUN),
    "plan": ((EXPORT,), Action.PLAN_EXPORT),
    "suggest": (("--segment", SEGMENT), Action.SUGGEST_MAPPING),
}
ON_THIS_COMPUTER = {"push", "forget"}  # not through an app


def test_every_command_is_in_the_table() -> None:
    assert {words.partition(" --")[0] for words in WHO_MAY} | ON_THIS_COMPUTER == set(commands())


def _filled(peopled: World, line: CommandLine, folder: Path, args: tuple[str, ...]) -> list[str]:
    """Fill in a run that is over, an open one, and files that edit, create or remove an export."""
    places = {
        "run": peopled.runs(EXPORT)[-1].run_id,
        "open": line.ok("run", EXPORT, "--json").document["run"],
    }
    dumped = line.ok("exports", "dump").out
    new = dumped.replace(f"id: {EXPORT}", "id: another").replace("High value", "Another")
    files = {
        "file": dumped.replace("High value", "Renamed"),
        "creating": new,
        "empty": "exports: []\n",
    }
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
        places[name] = str(folder / f"{name}.yaml")
    return [arg.format(**places) for arg in args]


@pytest.mark.parametrize("command", WHO_MAY)
def test_who_may_use_a_command_is_what_the_roles_say(
    peopled: World, line: CommandLine, url: str, command: str, tmp_path: Path
) -> None:
    args, action = WHO_MAY[command]
    filled = _filled(peopled, line, tmp_path, args)
    line.through(url)
    for actor in (
        NOBODY,
        VIEWER,
        CONTRIBUTOR,
        ADMIN,
    ):  # whoever may comes last: it may be gone then
        is_allowed = may(actor, action, shared=True)
        if actor is CONTRIBUTOR and is_allowed:
            continue  # what Admin does next would be used up: asked in the next test
        line.be(actor.name.lower())
        before = _state(peopled)
        said = line(*command.split(), *filled, typed=FULL_KEY)
        _check(said, is_allowed, actor.name)
        if not is_allowed:
            assert _state(peopled) == before, actor


FOR_CONTRIBUTORS = [
    command for command, (_, action) in WHO_MAY.items() if may(CONTRIBUTOR, action, shared=True)
]


@pytest.mark.parametrize("command", FOR_CONTRIBUTORS)
def test_contributors_may_over_shared_connections_alone(
    peopled: World,
    management: Management,
    line: CommandLine,
    url: str,
    command: str,
    tmp_path: Path,
) -> None:
    args, action = WHO_MAY[command]
    filled = _filled(peopled, line, tmp_path, args)
    line.ok("connections", "edit", MAIN, "--used-by", "administrators")
    line.be("cem")
    before = _state(peopled)
    line.through(url)
    alone = line(*command.split(), *filled)
    if (
        command.startswith("exports apply") and "{empty}" not in args
    ):  # it does not even see the connection
        assert (alone.code, "You may use no connection with this ID" in alone.err) == (2, True), (
            alone
        )
    else:
        is_over_all = command in (
            "connections list",
            "run --all",
            "why",
        )  # over those that one may use
        _check(alone, is_over_all or may(CONTRIBUTOR, action, shared=False), "Cem, not shared")
    assert _state(peopled) == before
    line.through("")
    line.ok("connections", "edit", MAIN, "--used-by", "contributors")
    line.through(url)
    _check(line(*command.split(), *filled), True, "Cem, shared")


def _state(world: World) -> list[tuple[str, str]]:
    return [(name, text) for name, text in world.text_of_state() if "/audit/" not in name]


def _check(said: Said, is_allowed: bool, who: str) -> None:
    if is_allowed:
        assert said.code == 0, (who, said)
    else:
        assert (said.code, "Do: Ask an administrator" in said.err) == (1, True), (who, said)


# Help


def test_version_is_printed(line: CommandLine) -> None:
    assert line.ok("--version").out == f"segment-exporter {VERSION}\n"


SLOW = ("pydantic", "requests", "duckdb", "yaml", "azure", "phonenumbers", "exporter.management")


@pytest.mark.processes
def test_help_and_each_tab_are_quick() -> None:
    """Less than 0.4 s where `import typer` takes 0.1 s."""
    words = {"COMP_WORDS": "exporter exports re", "COMP_CWORD": "2"}
    tab = {**words, "_EXPORTER_COMPLETE": "complete_bash"}
    run = "import sys; sys.argv[0] = 'exporter'; from exporter.__main__ import main; {}"
    least = _cpu_s("import typer", {})
    for code, environment in (
        (run.format("sys.argv[1:] = ['--help']; main()"), {}),
        (run.format("sys.argv[1:] = ['exports', 'create', '--help']; main()"), {}),
        (run.format("main()"), tab),
    ):
        assert _cpu_s(code, environment) < 6 * least, code
    listed = f"print([name for name in sys.modules if name.startswith({SLOW})])"
    found = _python(run.format(f"import exporter.cli.main; {listed}"), {})
    assert found.stdout == "[]\n", found


def _cpu_s(code: str, environment: dict[str, str]) -> float:
    """The processor's time of a Python process, the best of three."""
    used = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert _python(code, environment).returncode == 0, code
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(used)


def _python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@pytest.mark.parametrize("command", ["", "connections", "exports", *commands()])
def test_help_of_every_command_shows_an_example(line: CommandLine, command: str) -> None:
    said = line.ok(*command.split(), "--help")
    assert ("Example: " in said.out) == bool(command)
    if command:
        assert f"python -m exporter {command}" in said.out


def test_page_names_every_command() -> None:
    page = (ROOT / "docs" / "how-to" / "command-line.md").read_text(encoding="utf-8")
    assert [
        command for command in commands() if f"`{command.rpartition(' ')[2]}`" not in page
    ] == []


@pytest.mark.processes
def test_completion_is_installed_for_the_script_alone(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "VENV": str(Path(sys.executable).parents[1]),
        "HOME": str(tmp_path),
    }
    options: dict[str, Any] = {
        "cwd": ROOT,
        "env": environment,
        "capture_output": True,
        "text": True,
        "timeout": LIMIT_S,
    }
    module = [sys.executable, "-m", "exporter"]
    refused = subprocess.run([*module, "--install-completion"], **options)
    assert (refused.returncode, "No such option" in refused.stderr, list(tmp_path.iterdir())) == (
        2,
        True,
        [],
    )
    assert "completion" not in subprocess.run([*module, "--help"], **options).stdout
    assert (
        "--install-completion"
        in subprocess.run([ROOT / "scripts" / "exporter", "--help"], **options).stdout
    )


@pytest.mark.processes
def test_script_completes_words_as_a_shell_asks() -> None:
    asked = {
        "COMP_WORDS": "exporter exports re",
        "COMP_CWORD": "2",
        "_EXPORTER_COMPLETE": "complete_bash",
    }
    environment = {**os.environ, **asked, "VENV": str(Path(sys.executable).parents[1])}
    script = ROOT / "scripts" / "exporter"
    done = subprocess.run(
        [script],
        cwd=ROOT / "docs",
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.stdout.split() == ["resume", "remove"], done


def test_a_row_that_fits_no_line_is_a_block(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = "push-a-list-with-a-long-name-f406/20261201T0229Z-e918a67826-2"
    row = {"run": run, "status": "Completed with warnings", "accepted": 2, "confirmed": 0}
    print_rows([row], ("run", "status", "accepted", "confirmed"), as_json=False)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        run,
        "  status     Completed with warnings",
        "  accepted   2",
        "  confirmed  0",
    ]


def test_do_names_the_command_with_its_run_and_connection(
    peopled: World, both: CommandLine
) -> None:
    [listed] = both.ok("runs", EXPORT, "--json").document
    hint = both.ok("report", listed["run"], "--json").document["hint"]
    assert f"`report {listed['run']} --rows rejected`" in hint
    peopled.settings(revoke=[FULL_KEY])
    peopled.clock.move(90)
    peopled.drop_people("a.csv", people(2))
    peopled.deliver()
    newest = both.ok("runs", EXPORT, "--limit", "1", "--json").document[0]
    assert newest["status"] == "Failed"
    assert f"`connections rotate-key {MAIN}`" in both.ok("report", newest["run"]).out
