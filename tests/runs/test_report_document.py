"""What the report says beside its numbers.

Which rows, as examples by line, and how the files were read.
"""

from __future__ import annotations

import pytest

from exporter.cli.wording import report_as_text
from exporter.runs.run import Phase, Status
from tests.journeys.world import FOLDER, World, as_csv, assert_ended, people

pytestmark = pytest.mark.usefixtures("small_batches")

HOUR = 3_600
BAD = {
    1: "nobody",
    2: "x+sync-fail@example.com",
    **{n: f"y{n}+async-fail@example.com" for n in (13, 14, 15, 16)},
}


def test_report_shows_the_first_rows_of_each_reason_klaviyos_included(world: World) -> None:
    world.register()
    world.drop_people("a.csv", [*people(20, planted=BAD), ("P0@example.com", "Again")])
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=14)
    report = world.report()
    file = FOLDER + "a.csv"
    assert report["examples"] == {
        "email_malformed": [f"{file}:3"],
        "refused_by_klaviyo": [f"{file}:4"],
        "failed_in_klaviyo": [f"{file}:15", f"{file}:16", f"{file}:17"],
        "duplicate": [f"{file}:2"],
    }
    text = report_as_text(report)
    for reason in ("email_malformed", "refused_by_klaviyo", "failed_in_klaviyo"):
        assert f"  e.g. {report['examples'][reason][0]}" in text


def test_rows_of_a_job_that_klaviyo_lost_are_shown(world: World) -> None:
    world.settings(job_seconds=30 * HOUR)
    world.register()
    world.drop_people("a.csv", people(10))  # one job: of two either may be accepted first
    world.deliver()
    assert world.report()["examples"] == {
        "job_lost": [f"{FOLDER}a.csv:{line}" for line in (2, 3, 4)]
    }


def test_a_run_that_ends_early_shows_what_klaviyo_refused_before(world: World) -> None:
    world.settings(job_seconds=HOUR)
    world.register()
    world.drop_people("a.csv", people(20, planted={2: BAD[2]}))
    world.deliver(until=lambda: bool(world.runs()) and world.run().phase is Phase.CONFIRM)
    world.engine.runs.cancel(world.run().run_id)
    world.clock.move(60)
    world.deliver()
    assert_ended(world, Status.CANCELED)
    assert world.report()["examples"] == {"refused_by_klaviyo": [f"{FOLDER}a.csv:4"]}


def test_cells_left_out_are_a_warning_and_shown_by_line(world: World) -> None:
    world.register(mapping={"email": "EMail", "phone_number": "Phone"})
    rows = [(email, "call me") for email, _ in people(5)]
    world.drop(FOLDER + "a.csv", as_csv(rows, header=("EMail", "Phone")))
    world.deliver()
    run = assert_ended(world, Status.WARNINGS, delivered=5)
    assert "5 of phone_number" in run.message
    report = world.report()
    assert report["cells_left_out_examples"] == {
        "phone_number": [f"{FOLDER}a.csv:{line}" for line in (2, 3, 4)]
    }
    assert (
        "5  left out of phone_number: no such phone number can exist"
        f"  e.g. {FOLDER}a.csv:2," in report_as_text(report)
    )
    lines = world.rows_of("left_out.csv")
    assert [(row["line"], row["attribute"]) for row in lines] == [
        (str(line), "phone_number") for line in range(2, 7)
    ]


def test_report_says_how_each_file_was_read(world: World) -> None:
    world.register(mapping={"email": "column_1"})
    world.put(FOLDER + "a.csv", "ada@example.com;Ada\n")
    world.put(FOLDER + "b.csv", "bo@example.com\tB\u00f6\n".encode("utf-16"))
    world.engine.arrivals.on_blob_arrived(FOLDER + "a.csv")
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=2)
    names = ("name", "rows", "delimiter", "encoding", "columns")
    report = world.report()
    assert [[file[name] for name in names] for file in report["files"]] == [
        [FOLDER + "a.csv", 1, ";", "utf-8", ["column_1", "column_2"]],
        [FOLDER + "b.csv", 1, "\t", "utf-16-le", ["column_1", "column_2"]],
    ]
    header = (
        "The first line holds an address, so it is a row; "
        "the columns are called column_1 and so on."
    )
    assert [file["header"] for file in report["files"]] == [header, header]
    text = report_as_text(report)
    assert (
        f"File        {FOLDER}a.csv: 1 row. {header} Delimiter semicolon, encoding utf-8.\n" in text
    )
    assert "Delimiter tab, encoding utf-16-le.\n" in text


def test_text_tells_of_the_first_files_and_how_many_more_there_are(world: World) -> None:
    world.register()
    for number in range(8):
        world.put(f"{FOLDER}{number}.csv", as_csv(people(1, first=number)))
    world.engine.arrivals.on_blob_arrived(FOLDER + "0.csv")
    world.deliver()
    text = report_as_text(world.report())
    assert (text.count("File  "), "and 3 more\n" in text, len(world.report()["files"])) == (
        5,
        True,
        8,
    )
