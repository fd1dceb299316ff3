"""Notices.

Who should hear of something hears of it once, whatever dies, and nothing that is private is in it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from exporter.definitions.definition import Change
from exporter.definitions.schedule import Schedule
from exporter.errors import ConfigError, Transient
from exporter.orchestration.engine import Engine
from exporter.runs.notices import GIVE_UP_AFTER, Notice, Webhook, slack_message, teams_message
from exporter.runs.run import Status
from exporter.snapshots.paths import parse_blob_name
from sandbox.klaviyo import FULL_KEY
from tests.journeys.killing import Killed, Killer, mortal
from tests.journeys.world import FOLDER, World, as_csv, assert_ended, people
from tests.runs.webhook import Hook, serving

DAY = 86_400


@pytest.fixture(scope="module")
def served_hook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hook, Path]]:
    with serving(tmp_path_factory.mktemp("hook")) as hook:
        yield hook


@pytest.fixture
def hook(served_hook: tuple[Hook, Path], monkeypatch: pytest.MonkeyPatch) -> Hook:
    hook, certificate = served_hook
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    url = hook.url
    hook.__init__()  # type: ignore[misc]
    hook.url = url
    return hook


@pytest.fixture
def told(world: World, hook: Hook) -> World:
    """A world whose exporter posts notices."""
    world.engine = _telling(world, hook)
    return world


def _telling(world: World, hook: Hook, **parts: Any) -> Engine:
    return world.again(notify=_webhook(hook), **parts)


def _webhook(hook: Hook) -> Webhook:
    return Webhook(lambda: SecretStr(hook.url))


def _fail(world: World) -> None:
    """A run fails, for its key was refused."""
    world.secrets["klaviyo-key"] = "pk_" + "refused"
    world.register()
    world.drop_people("a.csv", people(5))
    world.deliver()
    assert_ended(world, Status.FAILED)


def _tick(world: World, times: int = 1, *, every_s: float = 300) -> None:
    for _ in range(times):
        world.engine.timer.tick()
        world.clock.move(every_s)


# What is told


def test_a_failed_run_is_told_once_with_what_to_do(told: World, hook: Hook) -> None:
    told.register(segments=["HighValue"], mapping={"email": "NoSuchColumn"})
    told.drop_people("a.csv", people(5))
    told.deliver()
    run = assert_ended(told, Status.FAILED)
    assert hook.posts == [], "the timer sends"
    _tick(told, 3)
    [text] = hook.texts
    for said in ("Run failed", "Export vips", run.run_id, "Failed", run.message, run.hint):
        assert said in text


def test_a_refused_key_is_told_as_such(told: World, hook: Hook) -> None:
    _fail(told)
    _tick(told, 2)
    [text] = hook.texts
    assert text.startswith("Klaviyo refused the key")
    assert told.run().hint in text


def test_an_incomplete_snapshot_is_told(told: World, hook: Hook) -> None:
    told.register()
    told.engine.starter.record_failed(
        _export(told),
        told.engine.container.freeze([]),
        message="the snapshot is incomplete",
        hint="Look there.",
    )
    _tick(told, 2)
    assert ["the snapshot is incomplete" in text for text in hook.texts] == [True]


@pytest.mark.parametrize("status", [Status.SUCCESSFUL, Status.SKIPPED, Status.CANCELED])
def test_other_ends_are_not_told(told: World, hook: Hook, status: Status) -> None:
    export = told.register()
    told.drop_people("a.csv", people(5))
    told.deliver(until=lambda: bool(told.runs()))
    if status is Status.CANCELED:
        told.engine.runs.cancel(told.run().run_id)
    told.deliver()
    if status is Status.SKIPPED:
        told.engine.starter.record_skipped(export, told.now(), message="nothing new")
    assert status in {run.status for run in told.runs()}
    _tick(told, 2)
    assert hook.posts == []


def test_nothing_private_is_told_logged_or_kept(
    told: World, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="exporter")
    hook.status = 500
    _fail(told)
    _tick(told, 3)
    hook.status = 202
    _tick(told, 3, every_s=DAY / 4)
    told.engine.notices.deliver(told.now())
    for text in hook.texts:
        assert "pk_" not in text
        assert "@" not in text
    for private in ("sig=not-for-logs", FULL_KEY, "pk_refused", "@example.com"):
        assert private not in caplog.text
        assert all(private not in text for name, text in told.text_of_state() if "notices" in name)


def test_without_a_webhook_nothing_is_kept_for_later(world: World, hook: Hook) -> None:
    _fail(world)
    _tick(world)
    world.engine = _telling(world, hook)
    world.engine.dispatcher.handle(
        {"do": "step", "run": world.run().run_id, "step": 0}
    )  # a message that comes late
    _tick(world, 2)
    assert hook.posts == []
    assert (
        list(world.engine.store.names("notices/"))
        == list(world.engine.store.names("outbox/"))
        == []
    )


# That it arrives


@pytest.mark.parametrize("status", [500, 429, 404, 301, 0])
def test_a_notice_that_was_not_taken_is_posted_again_until_it_is(
    told: World, hook: Hook, status: int
) -> None:
    hook.status, hook.location = status, hook.url if status == 301 else ""
    _fail(told)
    _tick(told, 2)
    tried = len(hook.posts)
    assert tried == 2
    run = told.run()
    assert_ended(told, Status.FAILED)
    hook.status, hook.location = 200, ""
    _tick(told, 5)
    assert len(hook.posts) == tried + 1
    assert told.run() == run, "notices change no run"


def test_a_webhook_that_is_down_for_days_is_asked_less_and_less_often_and_then_no_more(
    told: World, hook: Hook
) -> None:
    hook.status = 503
    _fail(told)
    hours = int(GIVE_UP_AFTER / timedelta(hours=1))
    _tick(told, 12)
    first_hour = len(hook.posts)
    assert first_hour <= 6
    _tick(told, 2 * hours, every_s=1_800)
    assert first_hour < len(hook.posts) <= first_hour + hours + 1
    before = len(hook.posts)
    _tick(told, 24, every_s=3_600)
    assert len(hook.posts) == before
    assert list(told.engine.store.names("outbox/")) == []


def test_a_webhook_that_is_down_is_asked_once_a_tick_however_many_notices_wait(
    told: World, hook: Hook
) -> None:
    hook.status = 503
    _fail(told)
    for name in ("b.csv", "c.csv"):
        told.clock.move(60)
        told.drop_people(name, people(5))
        told.deliver()
    _tick(told)
    assert len(hook.posts) == 1
    hook.status = 200
    _tick(told, 5)
    assert len(set(map(json.dumps, hook.posts))) == 3


def test_one_notice_that_is_not_taken_does_not_keep_the_others(told: World, hook: Hook) -> None:
    hook.status = 400
    _fail(told)
    _tick(told)
    told.drop_people("b.csv", people(6))
    told.deliver()
    hook.status = 200
    _tick(told, 5)
    assert len(set(map(json.dumps, hook.posts))) == 2


@pytest.mark.parametrize("dies_at", range(1, 22))
def test_whatever_dies_between_the_end_of_a_run_and_its_notice_it_is_told(
    told: World, hook: Hook, dies_at: int
) -> None:
    """A notice comes twice at most, and that only when the answer to its post was lost."""
    told.secrets["klaviyo-key"] = "pk_" + "refused"
    told.register()
    told.drop_people("a.csv", people(5))
    told.deliver(until=lambda: bool(told.runs()))
    killed = mortal(told, Killer(dies_at), notify=_webhook(hook))
    with contextlib.suppress(Killed):
        told.deliver(engine=killed)
        killed.timer.tick()
    told.clock.move(200_000)  # a dead holder's lease runs out
    for _ in range(4):
        _tick(told)
        told.deliver()
    assert_ended(told, Status.FAILED)
    assert 1 <= len(hook.posts) <= 2, dies_at
    assert len(set(hook.texts)) == 1


def test_two_instances_that_tick_together_post_once(told: World, hook: Hook) -> None:
    _fail(told)
    exporters = [_telling(told, hook) for _ in range(4)]
    together = threading.Barrier(len(exporters))
    hook.delay_s = 0.1

    def tick(engine: Engine) -> None:
        together.wait()
        engine.timer.tick()

    with ThreadPoolExecutor(len(exporters)) as threads:
        list(threads.map(tick, exporters))
    assert len(hook.posts) == 1


# Exports that hear nothing


def _export(world: World) -> Any:
    export = world.engine.catalog.export("vips")
    assert export is not None
    return export


@pytest.mark.parametrize(
    "schedule", [Schedule(), Schedule(on="schedule", times=["03:00"])], ids=["arrival", "schedule"]
)
def test_an_export_without_a_new_snapshot_for_days_is_told_once_for_each_drought(
    told: World, hook: Hook, schedule: Schedule
) -> None:
    told.register(schedule=schedule)

    def days(number: int) -> None:
        for _ in range(number):
            _tick(told, every_s=DAY)
            told.deliver()

    days(7)
    assert hook.posts == []
    days(10)
    assert len(hook.posts) == 1
    assert "No new snapshot" in hook.texts[0]
    assert "HighValue" in hook.texts[0]
    told.drop_people("a.csv", people(5))
    told.deliver()
    days(7)
    assert len(hook.posts) == 1
    days(10)
    assert len(hook.posts) == 2
    assert list(told.engine.notices.abouts("vips")) != []
    told.drop_people("b.csv", people(6))
    told.deliver()
    days(2)
    assert list(told.engine.notices.abouts("vips")) == [], "the drought is over"


@pytest.mark.parametrize(
    "schedule", [Schedule(), Schedule(on="schedule", times=["03:00"])], ids=["arrival", "schedule"]
)
@pytest.mark.parametrize("dated", [True, False], ids=["dated", "by hand"])
def test_a_segment_that_stops_is_told_of_though_another_of_the_export_goes_on(
    told: World, hook: Hook, schedule: Schedule, dated: bool
) -> None:
    told.register(segments=["Goes", "Stops"], schedule=schedule)

    def arrives(segment: str, day: int) -> None:
        folder = (
            f"CI/Feed/{segment}/{told.now():%Y/%m/%d/%H%M}/" if dated else f"segments/{segment}/"
        )
        told.drop(f"{folder}{segment}_1.csv", as_csv(people(3 + day)))

    for day in range(20):
        arrives("Goes", day)
        if day < 5:
            arrives("Stops", day)
        for _ in range(2):
            told.deliver()
            _tick(told, every_s=DAY / 2)
    [text] = hook.texts
    assert "no new snapshot of Stops since" in text
    arrives("Stops", 30)
    told.deliver()
    _tick(told, 2, every_s=DAY)
    assert len(hook.posts) == 1
    assert list(told.engine.notices.abouts("vips")) == []


def test_segments_that_stop_at_different_times_are_told_of_apart_and_once(
    told: World, hook: Hook
) -> None:
    told.register(segments=["A", "B"])
    for day in range(20):
        for segment, last in (("A", 3), ("B", 6)):
            if day <= last:
                told.drop(f"segments/{segment}.csv", as_csv(people(3 + day)))
        told.deliver()
        _tick(told, every_s=DAY)
    assert [("of A since" in text, "of B since" in text) for text in hook.texts] == [
        (True, False),
        (False, True),
    ]


def test_a_segment_that_was_added_to_an_export_is_given_its_time(told: World, hook: Hook) -> None:
    export = told.register()
    for day in range(25):
        if day == 10:
            more = {"segments": ["HighValue", "New"], "changed": Change(by="a test", at=told.now())}
            told.engine.catalog.save(export.model_copy(update=more))
        told.drop_people("a.csv", people(3 + day))
        told.deliver()
        _tick(told, every_s=DAY)
        assert bool(hook.posts) == (day > 18), day
    assert len(hook.posts) == 1
    assert "of New since" in hook.texts[0]


def test_a_snapshot_that_is_incomplete_makes_no_other_segment_silent(
    told: World, hook: Hook
) -> None:
    told.register(segments=["A", "B"])
    _tick(told, every_s=8 * DAY)
    told.drop("segments/B.csv", as_csv(people(3)))
    told.deliver()
    told.clock.move(DAY)
    ref = parse_blob_name(told.put("segments/A.csv", as_csv(people(4))))
    told.engine.starter.record_failed(
        _export(told),
        told.engine.container.freeze([ref]),
        message="the snapshot is incomplete",
        hint="Look there.",
    )
    _tick(told, 2, every_s=DAY)
    assert [text for text in hook.texts if "No new snapshot" in text] == []


@pytest.mark.parametrize("how", ["paused", "demand", "off", "never"])
def test_an_export_that_expects_nothing_is_not_told_of(told: World, hook: Hook, how: str) -> None:
    if how == "never":
        told.restart(no_snapshot_days=0)
        told.engine = _telling(told, hook)
    export = told.register(
        schedule=Schedule.model_validate({"on": how if how in ("demand", "off") else "arrival"})
    )
    told.engine.catalog.save(export.model_copy(update={"paused": how == "paused"}))
    _tick(told, 20, every_s=DAY)
    assert hook.posts == []


def test_a_schedule_that_is_seldom_due_is_not_told_of_while_snapshots_arrive(
    told: World, hook: Hook
) -> None:
    told.register(schedule=Schedule(on="schedule", cron="0 3 1 1 *"))
    for day in range(20):
        told.put(FOLDER + "a.csv", as_csv(people(5 + day)))
        told.clock.move(3_600)
        _tick(told, every_s=DAY)
    assert hook.posts == []


# The messages


def a_notice(**changes: Any) -> Notice:
    told: dict[str, Any] = {
        "kind": "failed",
        "export": "vips",
        "export_name": "VIPs <https://evil.example|click> & [more](https://evil.example)",
        "about": "1",
        "run": "vips/20260921T0900Z-0123456789",
        "status": "Failed",
        "message": "the mapping names a column that is not there",
        "hint": "Correct the mapping.",
        "created_at": "2026-09-21T09:00:00Z",
    }
    return Notice.model_validate(told | changes)


def test_slack_reads_no_link_out_of_a_name() -> None:
    assert slack_message(a_notice()) == {
        "text": "*Run failed*\n"
        "Export: VIPs &lt;https://evil.example|click&gt; &amp; [more](https://evil.example)\n"
        "Run: vips/20260921T0900Z-0123456789\n"
        "Status: Failed\n"
        "What: the mapping names a column that is not there\n"
        "Do: Correct the mapping."
    }


def test_teams_gets_one_adaptive_card_whose_names_are_plain_text() -> None:
    message = teams_message(a_notice())
    assert message["type"] == "message"
    [attachment] = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    title, *lines = card["body"]
    assert title["text"] == "Run failed"
    assert {line["type"] for line in lines} == {"RichTextBlock"}
    assert [line["inlines"][0]["text"] for line in lines] == [
        "Export: ",
        "Run: ",
        "Status: ",
        "What: ",
        "Do: ",
    ]


@pytest.mark.parametrize("sign", ["x", "é", "表"])
def test_a_card_of_long_texts_is_small_enough_for_teams(sign: str) -> None:
    """However it counts.

    Its limit is 28 KB, and it has been seen to count two bytes for each character of the JSON.
    """
    message = teams_message(
        a_notice(message="What happened: " + sign * 100_000, hint=sign * 100_000)
    )
    assert len(json.dumps(message)) < 14_000
    assert "What happened: " in json.dumps(message)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://hooks.example/x",
        "ftp://hooks.example",
        "hooks.example",
        "https://",
        "https://[",
        "file:///etc/x",
    ],
)
def test_only_https_addresses_are_posted_to(address: str) -> None:
    with pytest.raises(ConfigError, match="no https address") as error:
        Webhook(lambda: SecretStr(address))(a_notice())
    assert "hooks.example" not in error.value.message + error.value.hint


def test_a_webhook_without_a_certificate_that_is_trusted_gets_nothing(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(Transient, match="SSLError"):
        Webhook(lambda: SecretStr(hook.url))(a_notice())
    assert hook.posts == []


def test_a_webhook_that_does_not_answer_is_left_in_time(hook: Hook) -> None:
    hook.delay_s = 0.5
    post = Webhook(lambda: SecretStr(hook.url), timeout_s=(10.0, 0.1))
    with pytest.raises(Transient, match="ReadTimeout") as error:
        post(a_notice())
    assert "sig=" not in str(error.value)
    assert error.value.__suppress_context__
