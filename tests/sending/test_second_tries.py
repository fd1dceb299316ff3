"""What Klaviyo refuses of a person is left out, and the person is sent once more."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.cli.wording import report_as_text
from exporter.planning.planner import PlanLimits
from exporter.runs.run import Status
from tests.journeys.world import FOLDER, JOBS, World, as_csv, assert_ended

MAPPING = {
    "email": "EMail",
    "phone_number": "Phone",
    "external_id": "Id",
    "location": {"city": "City"},
    "properties": {"tier": "Tier"},
}
HEADER = ("EMail", "Phone", "Id", "City", "Tier")
POINTER = "/data/attributes/profiles/data/{row}/attributes/"
DUPLICATE = {"code": "duplicate_profile", "title": "Conflict.", "detail": "It is taken."}


def phone(number: int) -> str:
    return f"+1212555{number:04d}"


def drop(world: World, count: int) -> None:
    world.register(mapping=MAPPING)
    rows = [
        (f"p{number}@example.com", phone(number), f"id-{number}", "Bonn", "gold")
        for number in range(count)
    ]
    world.drop(f"{FOLDER}a.csv", as_csv(rows, HEADER))


def plant(world: World, number: int, attribute: str = "", **rule: Any) -> None:
    """Let Klaviyo refuse a person for as long as the attribute is there."""
    where = {attribute.partition("/")[0]: "."} if attribute else {}
    where["email"] = f"^p{number}@"
    error = {"source": {"pointer": f"{POINTER}{attribute}"}, **rule.pop("error", {})}
    world.klaviyo.planted.add([{"where": where, "error": error, **rule}])


def lacking(world: World) -> list[tuple[str, str]]:
    return [(row["line"], row["attribute"]) for row in world.rows_of("left_out.csv")]


def has_phone(world: World, number: int) -> bool:
    return "phone_number" in world.members()[f"p{number}@example.com"]


@pytest.fixture(params=["import_error", "refused"])
def outcome(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_phone_number_of_another_profile_keeps_nobody_out_of_the_list(world: World) -> None:
    body = {"data": {"type": "profile", "attributes": {"email": "z@z.com"}}}
    body["data"]["attributes"]["phone_number"] = phone(3)  # type: ignore[index]
    assert world.klaviyo.call("POST", "/api/profile-import", body).status == 201
    drop(world, 10)
    world.deliver()
    run = assert_ended(world, Status.WARNINGS, delivered=10)
    assert "1 of phone_number" in run.message
    assert "Klaviyo refused it" in run.message
    assert lacking(world) == [("5", "phone_number")]
    [row] = world.rows_of("left_out.csv")
    assert row["source"] == f"{FOLDER}a.csv"
    assert "another profile" in row["message"]
    assert phone(3) not in row["message"]
    assert world.rows_of("rejected.csv") == []
    assert [has_phone(world, number) for number in range(10)] == [n != 3 for n in range(10)]
    report = world.report()
    assert report["attributes_refused"] == {"phone_number": 1}
    assert report["attributes_refused_examples"] == {"phone_number": [f"{FOLDER}a.csv:5"]}
    told = f"1  delivered without phone_number: Klaviyo refused it  e.g. {FOLDER}a.csv:5"
    assert told in report_as_text(report)


@pytest.mark.parametrize(
    ("attribute", "status"),
    [
        ("phone_number", 400),
        ("phone_number", 409),
        ("external_id", 400),
        ("location/city", 400),
        ("properties/tier", 422),
    ],
)
def test_whatever_attribute_is_named_is_left_out_and_nothing_else(
    world: World, outcome: str, attribute: str, status: int
) -> None:
    plant(world, 4, attribute, outcome=outcome, status=status)
    if "/" in attribute:  # the rule sees the group, which would be there still
        world.klaviyo.planted.clear()
        plant(world, 4, attribute, outcome=outcome, status=status, times=1)
    drop(world, 10)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=10)
    group, _, name = attribute.partition("/")
    assert lacking(world) == [("6", name or group)]
    sent = world.members()["p4@example.com"]
    others = world.members()["p5@example.com"]
    if name:
        assert name in others[group]
        assert name not in (sent.get(group) or {})
    else:
        assert {key for key, value in others.items() if value and not sent.get(key)} == {group}


def test_a_row_that_fails_again_is_rejected_and_lacks_nothing(world: World, outcome: str) -> None:
    plant(world, 4, outcome=outcome, error={"detail": "This person is unwelcome."})
    drop(world, 10)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=9)
    assert world.rejected_emails() == ["p4@example.com"]
    assert lacking_file_is_missing(world)
    assert world.report()["attributes_refused"] == {}
    assert world.job_requests() == {"import_error": 2, "refused": 3}[outcome]


def lacking_file_is_missing(world: World) -> bool:
    return world.engine.runs._store.read(world.run().folder + "left_out.csv") is None


def test_an_address_that_is_refused_is_the_row_s_end_at_once(world: World, outcome: str) -> None:
    error = {"detail": "Invalid email address"}
    plant(world, 4, "email", outcome=outcome, error=error)
    drop(world, 10)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=9)
    assert world.rejected_emails() == ["p4@example.com"]
    assert world.job_requests() == {"import_error": 1, "refused": 2}[outcome]


@pytest.mark.parametrize(
    "error",
    [
        {**DUPLICATE, "source": {"pointer": POINTER.rstrip("/").removesuffix("/attributes")}},
        {**DUPLICATE, "source": {"pointer": f"{POINTER}email"}},
        {**DUPLICATE, "source": {}},
        {**DUPLICATE, "source": None},
        {"code": None, "title": None, "detail": None, "source": {}},
        {"code": "invalid", "detail": "The phone number cannot be reached.", "source": {}},
    ],
    ids=["row", "email", "no pointer", "no source", "no words", "words"],
)
def test_a_conflict_that_names_no_attribute_costs_the_secondary_identifiers(
    world: World, outcome: str, error: dict[str, Any]
) -> None:
    where = {"email": "^p4@", "phone_number": "."}
    world.klaviyo.planted.add([{"where": where, "outcome": outcome, "error": error}])
    drop(world, 10)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=10)
    is_phone_only = "phone" in (error["detail"] or "")
    attributes = ["phone_number"] if is_phone_only else ["phone_number", "external_id"]
    assert lacking(world) == [("6", each) for each in attributes]
    assert world.members()["p4@example.com"].get("properties") == {"tier": "gold"}


def test_rows_of_one_batch_are_sent_once_more_together(world: World) -> None:
    for number in range(0, 40, 4):
        plant(world, number, "phone_number", error=DUPLICATE)
    world.restart(plan=PlanLimits(batch_profiles=20))
    drop(world, 40)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=40)
    assert world.job_requests() == 4
    assert world.accepted_rows() == 50
    assert len(lacking(world)) == 10


def test_second_tries_among_refused_and_failed_rows_keep_the_places_right(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=10))
    for number in (1, 5, 12, 28):
        plant(world, number, "phone_number", error=DUPLICATE)
    for number in (3, 17):
        plant(world, number, "phone_number", outcome="refused", status=409, error=DUPLICATE)
    for number in (0, 6, 13):
        plant(world, number, "email", outcome="refused")
    for number in (2, 7, 29):
        plant(world, number, "email")
    for number in (8, 14):  # fails again, for another reason
        plant(world, number, "phone_number", error=DUPLICATE)
        plant(world, number, error={"detail": "Unwelcome."})
    drop(world, 30)
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=22)
    rejected = {int(row["line"]) - 2 for row in world.rows_of("rejected.csv")}
    assert rejected == {0, 6, 13, 2, 7, 29, 8, 14}
    assert {int(line) - 2 for line, _ in lacking(world)} == {1, 5, 12, 28, 3, 17}
    assert all(has_phone(world, n) == (n not in {1, 5, 12, 28, 3, 17}) for n in _delivered(world))


def _delivered(world: World) -> list[int]:
    return [int(email[1:].partition("@")[0]) for email in world.members()]


def test_second_tries_survive_a_restart_wherever_it_happens(world: World) -> None:
    world.restart(plan=PlanLimits(batch_profiles=10), step_s=2)
    for number in range(0, 30, 3):
        plant(world, number, "phone_number", error=DUPLICATE)
    world.settings(limits=True)
    drop(world, 30)
    steps = 0
    while message := world.next_message():
        world.hand_over(message, world.again())
        steps += 1
        assert steps < 300
    assert_ended(world, Status.WARNINGS, delivered=30)
    assert len(lacking(world)) == 10


def test_a_number_that_two_rows_of_a_file_share_costs_the_second_its_number_only(
    world: World,
) -> None:
    world.register(mapping={"email": "EMail", "phone_number": "Phone"})
    rows = [("a@example.com", phone(1)), ("b@example.com", phone(1)), ("c@example.com", "")]
    world.drop(f"{FOLDER}a.csv", as_csv(rows, ("EMail", "Phone")))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=3)
    assert world.emails() == {"a@example.com", "b@example.com", "c@example.com"}


def test_a_refusal_about_the_account_is_found_beside_phone_numbers_too(world: World) -> None:
    world.fault("status", match=JOBS, status=400, detail="The account is closed.", times=None)
    drop(world, 400)
    world.deliver()
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert "The account is closed." in run.message
    assert world.rows_of("rejected.csv") == []
    assert world.job_requests() <= 30


def test_a_refused_property_keeps_its_value_where_empty_cells_clear(
    world: World, outcome: str
) -> None:
    body = {
        "data": {
            "type": "profile",
            "attributes": {"email": "p4@example.com", "properties": {"tier": "silver"}},
        }
    }
    world.klaviyo.call("POST", "/api/profile-import", body)
    plant(world, 4, "properties/tier", outcome=outcome, times=1)
    tier = {"column": "Tier", "empty": "clear"}
    world.register(mapping={"email": "EMail", "properties": {"tier": tier, "city": "City"}})
    rows = [(f"p{number}@example.com", 'Bo"nn', "gold") for number in range(6)]
    world.drop(f"{FOLDER}a.csv", as_csv(rows, ("EMail", "City", "Tier")))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=6)
    members = world.members()
    assert members["p4@example.com"]["properties"] == {"tier": "silver", "city": 'Bo"nn'}
    assert members["p5@example.com"]["properties"] == {"tier": "gold", "city": 'Bo"nn'}


def test_identifiers_that_tell_profiles_apart_are_never_left_out(
    world: World, outcome: str
) -> None:
    plant(world, 4, "external_id", outcome=outcome, error=DUPLICATE)
    world.register(mapping={"identifier": "external_id", "email": "EMail", "external_id": "Id"})
    rows = [(f"p{number}@example.com", f"id-{number}") for number in range(6)]
    world.drop(f"{FOLDER}a.csv", as_csv(rows, ("EMail", "Id")))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=6)
    assert lacking(world) == [("6", "email")]
