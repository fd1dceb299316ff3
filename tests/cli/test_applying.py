"""Exports from a file: what is checked first, and that the file and what is there agree after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.cli import applying
from exporter.cli.applying import Kind
from exporter.errors import Invalid, Transient
from exporter.management.forms import NewExportForm, parse
from exporter.management.management import ActorsApp, Management
from tests.cli.conftest import CommandLine
from tests.journeys.world import LIST, SEGMENT, World
from tests.management.managing import ADMIN, add_export, connect, export_document

FILE = """
exports:
  - id: high-value
    name: High value customers
    connection: main-account
    list: VIPs
    segments: [HighValue]
    mapping:
      email: EMail
      location: {city: City}
      properties: {value: {column: LifetimeValue, type: number, empty: clear}}
    schedule: {on: schedule, times: [06:00, 18:30], days: [Monday], time_zone: Europe/Bucharest}
    max_profiles: 100000
  - name: Everybody
    connection: null
    list: LIST01
    segments: [All, More]
    mapping: {email: EMail, properties: "*"}
    schedule: {on: off}
    paused: true
"""


@pytest.fixture
def vips(world: World, management: Management) -> str:
    """A connection, and the id of a list called VIPs."""
    connect(management)
    return management.as_(ADMIN).create_list("main-account", "VIPs").id


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "exports.yaml"
    path.write_text(FILE)
    return path


def dumped(line: CommandLine) -> list[dict[str, Any]]:
    return list(yaml.safe_load(line.ok("exports", "dump").out)["exports"])


def test_a_file_is_shown_checked_applied_and_applied_again_without_a_change(
    vips: str, both: CommandLine, file: Path
) -> None:
    shown = both.ok("exports", "apply", "-f", file, "--dry-run")
    assert "+ create High value customers\n" in shown.out
    assert "    schedule.times: 06:00, 18:30\n" in shown.out
    assert both.ok("exports", "--json").document == []

    said = both.ok("exports", "apply", "-f", file, typed="y\n")
    assert (said.out, "2 changed" in said.err) == (shown.out, True)
    first, second = sorted(
        both.ok("exports", "--json").document, key=lambda each: each["id"], reverse=True
    )
    assert (first["id"], first["list_id"], first["max_profiles"], first["paused"]) == (
        *("high-value", vips, 100_000),
        False,
    )
    assert first["schedule"]["times"] == ["06:00", "18:30"]
    assert (second["id"], second["connection"], second["schedule"]["on"], second["paused"]) == (
        *("everybody", None, "off"),
        True,
    )

    again = both.ok("exports", "apply", "-f", file)
    assert again.out == "Nothing to change.\n"
    file.write_text(both.ok("exports", "dump").out)
    assert both.ok("exports", "apply", "-f", file, "--prune").out == "Nothing to change.\n"


def test_only_what_differs_is_shown_and_saved(vips: str, both: CommandLine, file: Path) -> None:
    both.ok("exports", "apply", "-f", file, "--yes")
    file.write_text(FILE.replace("city: City", "city: Town").replace("18:30", "19:00"))
    said = both.ok("exports", "apply", "-f", file, "--yes")
    assert said.out == (
        "~ edit High value customers (high-value)\n"
        "    mapping.location.city: City -> Town\n"
        "    schedule.times: 06:00, 18:30 -> 06:00, 19:00\n"
    )
    changes = both.ok("exports", "apply", "-f", file, "--json").document
    assert changes == []


def test_nothing_is_changed_unless_agreed(vips: str, both: CommandLine, file: Path) -> None:
    declined = both("exports", "apply", "-f", file, typed="n\n")
    unasked = both("exports", "apply", "-f", file)
    assert (declined.code, unasked.code, "--yes" in unasked.err) == (1, 2, True)
    assert both.ok("exports", "--json").document == []


def test_what_is_not_in_the_file_stays_unless_pruned(
    vips: str, both: CommandLine, management: Management, file: Path
) -> None:
    add_export(management, name="Old")
    assert "Old" not in both.ok("exports", "apply", "-f", file, "--yes").out
    said = both.ok("exports", "apply", "-f", file, "--prune", typed="y\n")
    assert ("- remove Old (old)" in said.out, "of which 1 are removed" in said.err) == (True, True)
    assert [each["id"] for each in both.ok("exports", "--json").document] == [
        "everybody",
        "high-value",
    ]


def test_a_name_that_pruning_frees_can_be_taken(
    vips: str, both: CommandLine, management: Management, file: Path
) -> None:
    add_export(management, name="High value customers", id="old")
    taken = both("exports", "apply", "-f", file, "--yes")
    assert (taken.code, "high-value.name: is taken" in taken.err) == (2, True)
    both.ok("exports", "apply", "-f", file, "--yes", "--prune")
    assert {each["id"] for each in dumped(both)} == {"everybody", "high-value"}


def test_paused_is_left_alone_where_the_file_does_not_say(
    vips: str, both: CommandLine, file: Path
) -> None:
    both.ok("exports", "apply", "-f", file, "--yes")
    both.ok("exports", "pause", "high-value")
    assert both.ok("exports", "apply", "-f", file, "--yes").out == "Nothing to change.\n"
    file.write_text(FILE.replace("paused: true", "paused: false"))
    both.ok("exports", "apply", "-f", file, "--yes")
    paused = {each["id"]: each["paused"] for each in both.ok("exports", "--json").document}
    assert paused == {"high-value": True, "everybody": False}


def test_pausing_and_settings_come_together(vips: str, both: CommandLine, file: Path) -> None:
    both.ok("exports", "apply", "-f", file, "--yes")
    file.write_text(
        FILE.replace("    max_profiles: 100000", "    paused: true").replace("[All, More]", "[All]")
    )
    both.ok("exports", "apply", "-f", file, "--yes")
    file.write_text(FILE.replace("100000", "7\n    paused: false"))
    both.ok("exports", "apply", "-f", file, "--yes")
    seen = both.ok("exports", "show", "high-value", "--json").document
    assert (seen["paused"], seen["max_profiles"]) == (False, 7)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("email: EMail\n", "mail: EMail\n", "high-value.mapping.mail: "),
        ("list: VIPs", "list: Nope", "high-value.list: the account has no list Nope"),
        ("list: VIPs", "list_id: VIPs", "high-value.list_id: is called list here"),
        ("    list: VIPs\n", "", "high-value.list: is missing"),
        (
            "connection: main-account",
            "connection: nowhere",
            "high-value.connection: You may use no connection",
        ),
        ("    connection: null\n", "", "Everybody.connection: is missing"),
        ("connection: main-account", "connection: [main-account]", "high-value.connection: "),
        ("[06:00, 18:30]", "[6 o'clock]", "high-value.schedule.times.0"),
        ("max_profiles: 100000", "max_profiles: many", "high-value.max_profiles"),
        ("segments: [All, More]", "segments: [All, all]", "Everybody.segments"),
        ("name: Everybody", "name: High value customers", "name: is taken"),
        ("name: Everybody", "id: high-value\n    name: Everybody", "is in the file twice"),
        ("name: Everybody", "nam: Everybody", "exports.2.nam: there is no such field"),
        ("id: high-value", "id: High Value", "High Value.id"),
        ("id: high-value", "id: high-value\n    id: other", "the key id is written twice"),
        ("list: LIST01", "list: no id", "Everybody.list"),
        ("exports:", "export:", "should hold the one key `exports:`"),
        ("exports:", "exports: [a]\nx:", "should hold the one key `exports:`"),
        ("mapping:\n", "mapping: [\n", "is not valid YAML at line"),
        (
            "  - id: high-value",
            "  - just words\n  - id: high-value",
            "exports.1: should be keys and values",
        ),
        ("id: high-value", "id: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_one_wrong_field_changes_nothing_and_is_named(
    world: World, vips: str, both: CommandLine, file: Path, old: str, new: str, says: str
) -> None:
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    before = dict(world.text_of_state())
    said = both("exports", "apply", "-f", file, "--yes")
    assert (said.code, says in said.err) == (2, True), said
    assert dict(world.text_of_state()) == before


def test_every_problem_of_every_export_is_named_at_a_time(
    vips: str, both: CommandLine, file: Path
) -> None:
    file.write_text(FILE.replace("VIPs", "Nope").replace("on: off", "on: never"))
    said = both("exports", "apply", "-f", file)
    assert ("high-value.list" in said.err, "Everybody.schedule.on" in said.err) == (True, True)


def test_two_lists_of_a_name_are_told_apart_by_id(
    world: World, vips: str, management: Management, both: CommandLine, file: Path
) -> None:
    world.klaviyo.call("POST", "/_sandbox/lists", {"id": "OTHER1", "name": "VIPs"})
    said = both("exports", "apply", "-f", file)
    assert (said.code, "OTHER1" in said.err, vips in said.err) == (2, True, True)
    file.write_text(FILE.replace("list: VIPs", "list: OTHER1"))
    both.ok("exports", "apply", "-f", file, "--yes")


def test_what_was_changed_before_a_failure_is_counted_and_the_rest_done_next_time(
    vips: str, both: CommandLine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ActorsApp.create_export

    def create(self: ActorsApp, form: NewExportForm) -> Any:
        if form.name == "Everybody":
            raise Transient("Klaviyo is away", hint="Try again.")
        return real(self, form)

    with monkeypatch.context() as patch:
        patch.setattr(ActorsApp, "create_export", create)
        said = both("exports", "apply", "-f", file, "--yes")
    assert (said.code, "1 of 2 were changed" in said.err) == (1, True), said
    assert both.ok("exports", "apply", "-f", file, "--yes").out.startswith("+ create Everybody\n")


def test_one_edit_that_one_may_not_make_stops_all_of_them(
    world: World, vips: str, management: Management, line: CommandLine, url: str, file: Path
) -> None:
    add_export(management, name="Administrators' own")
    connect(management, name="Shared", used_by="contributors")
    file.write_text(FILE.replace("main-account", "shared"))
    line.through(url)
    line.be("cem")
    before = dict(world.text_of_state())
    said = line("exports", "apply", "-f", file, "--prune", "--yes")
    assert (said.code, "You may not remove Administrators' own" in said.err) == (1, True), said
    assert dict(world.text_of_state()) == before
    line.ok("exports", "apply", "-f", file, "--yes")


def test_what_is_as_dumped_needs_no_klaviyo(
    world: World, vips: str, both: CommandLine, file: Path
) -> None:
    both.ok("exports", "apply", "-f", file, "--yes")
    file.write_text(both.ok("exports", "dump").out)
    world.secrets.clear()
    assert both.ok("exports", "apply", "-f", file).out == "Nothing to change.\n"


def test_some_exports_can_be_dumped(vips: str, both: CommandLine, file: Path) -> None:
    both.ok("exports", "apply", "-f", file, "--yes")
    assert both.ok("exports", "dump", "everybody").out == (
        "exports:\n- id: everybody\n  name: Everybody\n  connection: null\n  list: LIST01\n"
        "  segments:\n  - All\n  - More\n"
        "  mapping:\n    email: EMail\n    properties: '*'\n"
        "  schedule:\n    'on': 'off'\n  paused: true\n"
    )


# Any export that can be made can be dumped and applied again

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
    str.strip
)
MAPPINGS = st.fixed_dictionaries(
    {"email": TEXT},
    optional={
        "first_name": TEXT,
        "location": st.dictionaries(st.sampled_from(("city", "zip")), TEXT, max_size=2),
        "properties": st.one_of(
            st.just("*"),
            st.dictionaries(
                TEXT.filter(lambda name: not name.startswith("$")),
                st.fixed_dictionaries(
                    {"column": TEXT},
                    optional={
                        "type": st.sampled_from(("number", "date")),
                        "empty": st.sampled_from(("clear", "ignore")),
                    },
                ),
                max_size=3,
            ),
        ),
    },
)
SCHEDULES = st.sampled_from(
    (
        {"on": "arrival"},
        {"on": "demand"},
        {"on": "off", "times": ["18:30"]},
        {
            "on": "schedule",
            "times": ["06:00", "23:59"],
            "days": ["sunday"],
            "time_zone": "Asia/Tokyo",
        },
        {"on": "schedule", "cron": "*/5 0 1 * *"},
    )
)


@given(
    name=TEXT,
    segments=st.lists(TEXT, min_size=1, max_size=3, unique_by=str.casefold),
    mapping=MAPPINGS,
    schedule=SCHEDULES,
    max_profiles=st.none() | st.integers(1, 10**8),
    keep_rejected_rows=st.booleans(),
    reconcile=st.booleans(),
    paused=st.booleans(),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_whatever_is_dumped_is_what_is_there(management: Management, **drawn: Any) -> None:
    app = management.as_(ADMIN)
    document = {**drawn, "connection": None, "list_id": LIST}
    assert {*document, "id"} == set(NewExportForm.model_fields), "every field is drawn"
    try:
        form = parse(NewExportForm, document)
    except Invalid:
        return
    made = app.create_export(form)
    try:
        assert applying.plan(app, applying.read(applying.dump(app.exports())), prune=True) == []
        other = applying.read(applying.dump([made]))[0] | {
            "paused": not made.paused,
            "segments": ["Other"],
        }
        [edit] = applying.plan(app, [other])
        assert edit.kind is Kind.EDIT
        list(applying.apply(app, [edit]))
        assert applying.plan(app, [other]) == []
        saved = app.export(made.id)
        kept = set(NewExportForm.model_fields) - {"paused", "segments"}
        assert {name: getattr(saved, name) for name in kept} == {
            name: getattr(made, name) for name in kept
        }
        assert saved.paused is not made.paused
    finally:
        app.remove_export(made.id, etag=app.export(made.id).etag)


OTHER: dict[str, Any] = {
    "name": "Other",
    "connection": None,
    "list_id": "OTHER1",
    "segments": ["Other"],
    "mapping": {"phone_number": "Phone"},
    "schedule": {"on": "demand"},
    "max_profiles": 7,
    "keep_rejected_rows": True,
    "reconcile": True,
    "paused": True,
}


@pytest.mark.parametrize("field", sorted(set(NewExportForm.model_fields) - {"id"}))
def test_every_field_of_an_export_is_in_its_file(management: Management, field: str) -> None:
    connect(management)
    app = management.as_(ADMIN)
    app.create_export(parse(NewExportForm, export_document()))
    other = parse(NewExportForm, export_document(**{field: OTHER[field]}))
    changed = app.exports()[0].model_copy(update={field: getattr(other, field)})
    [document] = applying.read(applying.dump([changed]))
    if field == "list_id":  # without asking Klaviyo for it
        document["connection"] = None
    [edit] = applying.plan(app, [document])
    name = applying.LIST if field == "list_id" else field
    assert name in {path.partition(".")[0] for path, _, _ in edit.fields}


def test_documents_of_tests_are_like_those_of_files() -> None:
    assert {LIST, SEGMENT} <= {export_document()["list_id"], *export_document()["segments"]}


def test_a_field_with_a_slip_is_asked_back_about() -> None:
    document = {"name": "A", "segmnets": ["B"], "schedule": {"on": "demand", "time": ["06:00"]}}
    with pytest.raises(Invalid) as caught:
        parse(NewExportForm, document)
    said = {each.field: each.message for each in caught.value.problems}
    assert said["segmnets"] == "there is no such field. Did you mean segments?"
    assert said["schedule.time"] == "there is no such field. Did you mean times?"
    assert not any("Input should" in message for message in said.values())
