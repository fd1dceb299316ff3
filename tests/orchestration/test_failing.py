"""What cannot succeed ends as Failed, and says what happened and what to do."""

from __future__ import annotations

import gzip
import shutil
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from pydantic import SecretStr

from exporter.definitions.catalog import Catalog
from exporter.errors import ConfigError, DocumentUnreadable, Transient
from exporter.orchestration.health import FRESH_S as HEALTH_S
from exporter.orchestration.timer import STALE_AFTER
from exporter.runs.notices import Notice
from exporter.runs.run import Status
from exporter.runs.run_store import encode_listed
from exporter.sending.journal import Journal
from exporter.settings import StepLimits
from exporter.storage.local_folder import FolderStore
from exporter.storage.messages import decode_message
from sandbox.klaviyo.settings import READ_SCOPES
from sandbox.snapshots import Snapshot
from tests.journeys.world import FOLDER, JOBS, World, as_csv, assert_ended, people

GET_LIST = r"GET /api/lists/\w+$"


def _export(world: World, **options: object) -> None:
    world.register(**options)  # type: ignore[arg-type]
    world.drop_people("a.csv", people(30))
    world.deliver()


def test_an_unknown_list(world: World) -> None:
    _export(world, list_id="GONE99")
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert "GONE99" in run.message
    assert "list" in run.hint.lower()
    assert world.job_requests() == 0


@pytest.mark.parametrize("status", [401, 400])
def test_a_refused_key(world: World, status: int) -> None:
    world.settings(refused_key_status=status)
    world.secrets["klaviyo-key"] = "pk_wrong"
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert "key" in run.message
    assert "pk_wrong" not in run.message + run.hint
    assert world.job_requests() == 0


@pytest.mark.parametrize("key", ["", "pk_with a blank", "pk_ü"])
def test_a_key_that_no_header_can_carry(world: World, key: str) -> None:
    world.secrets["klaviyo-key"] = key
    _export(world)
    assert_ended(world, Status.FAILED)


def test_a_secret_that_does_not_exist(world: World) -> None:
    _export(world, secret="nobody-stored-it")
    run = assert_ended(world, Status.FAILED)
    assert "nobody-stored-it" in run.message


@pytest.mark.parametrize("missing", ["lists:read", "lists:write", "profiles:write"])
def test_a_scope_that_the_key_lacks(world: World, missing: str) -> None:
    scopes = (READ_SCOPES | {"lists:write", "profiles:write"}) - {missing}
    world.settings(keys={"pk_custom": sorted(scopes)})
    world.secrets["klaviyo-key"] = "pk_custom"
    _export(world)
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert missing in run.message
    assert "scope" in run.hint.lower()
    assert world.emails() == set()


def test_a_retired_api_revision(world: World) -> None:
    world.settings(oldest_revision="2026-10-15")
    world.client_options["revision"] = "2026-07-15"
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert "revision" in run.message
    assert "KLAVIYO_REVISION" in run.hint


def test_a_retired_revision_falls_forward_where_the_setting_allows_it(world: World) -> None:
    world.settings(oldest_revision="2026-10-15")
    world.client_options |= {"revision": "2026-07-15", "fall_forward": True}
    _export(world)
    assert_ended(world, Status.SUCCESSFUL)


def test_a_column_of_the_mapping_that_the_snapshot_lacks(world: World) -> None:
    _export(world, mapping={"email": "Courriel"})
    run = assert_ended(world, Status.FAILED)
    assert "Courriel" in run.message
    assert "The columns are 'EMail'," in run.hint


def test_a_missing_column_is_said_without_quoting_a_person(world: World) -> None:
    """A file without a header looks as if its first row held the columns' names."""
    world.register(mapping={"email": "Courriel", "first_name": "Prénom"})
    world.drop(
        FOLDER + "a.csv", "anna.tester@example.com,Annabella\nbert.tester@example.com,Berthold\n"
    )
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    for text in (run.message, run.hint, *(text for _, text in world.text_of_state())):
        assert "tester@" not in text
        assert "Annabella" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.csv.gz", gzip.compress(as_csv(people(5000)).encode())[:-200]),
        ("no-gzip.csv.gz", b"\x1f\x8b" + bytes(range(256)) * 20),
        ("no-parquet.parquet", b"PAR1" + bytes(range(256)) * 20),
        ("binary.csv", bytes(range(256)) * 20),
    ],
)
def test_a_file_that_cannot_be_read(world: World, name: str, content: bytes) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    world.drop(FOLDER + name, content)
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert name in run.message
    assert world.job_requests() == 0, "nothing is sent of a snapshot that cannot be read in full"


@pytest.mark.parametrize("content", ["", "EMail,FirstName\n", "\n\n"])
def test_an_empty_snapshot(world: World, content: str) -> None:
    world.register()
    world.drop(FOLDER + "a.csv", content)
    world.deliver()
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert "empty" in run.message or "no rows" in run.message, run.message


def test_a_snapshot_in_which_no_row_can_be_sent(world: World) -> None:
    world.register()
    world.drop_people("a.csv", [("nobody", "A"), ("", "B")])
    world.deliver()
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert f"report {run.run_id} --rows rejected" in run.hint
    assert world.report()["rejected"] == 2
    assert len(world.rows_of("rejected.csv")) == 2


def test_an_incomplete_snapshot_is_waited_for_and_then_fails(world: World) -> None:
    snapshot = Snapshot(rows=30, partitions=3)
    world.register()
    names = world.drop_snapshot(snapshot, notify=False)
    (world.container / names[1]).unlink()
    began = world.clock.now
    for name in (names[0], names[2]):
        world.engine.arrivals.on_blob_arrived(name)
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "incomplete" in run.message
    assert 3_600 <= world.clock.now - began < 3_600 + 600
    assert world.job_requests() == 0


def test_a_lost_partition_that_comes_after_the_failure_makes_a_run(world: World) -> None:
    snapshot = Snapshot(rows=30, partitions=3)
    world.register()
    names = world.drop_snapshot(snapshot, notify=False)
    lost = (world.container / names[1]).read_bytes()
    (world.container / names[1]).unlink()
    world.engine.arrivals.on_blob_arrived(names[0])
    world.deliver()
    world.drop(names[1], lost)
    world.deliver()
    failed, second = world.runs()
    assert (failed.status, second.status) == (Status.FAILED, Status.SUCCESSFUL)
    assert len(world.emails()) == 30


# Nothing is retried for ever


def test_klaviyo_down_for_good_ends_the_run_within_hours_and_requests_within_reason(
    world: World,
) -> None:
    world.register()
    world.fault("status", match=".", status=503, times=None)
    began = world.clock.now
    world.drop_people("a.csv", people(30))
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert "gave up" in run.message
    assert world.clock.now - began < 4 * 3_600
    assert sum(world.stats()["requests"].values()) < 6 * (StepLimits().setbacks + 2)


def test_imports_down_for_good_end_the_run(world: World) -> None:
    world.fault("status", status=503, times=None)
    _export(world)
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert "gave up" in run.message
    assert world.job_requests() < 6 * (StepLimits().setbacks + 2)
    assert world.report()["rows"] == 30, "the report says how far the run came"


def test_a_vault_that_never_answers_ends_the_run(world: World) -> None:
    def unreachable(_: str) -> object:
        raise Transient("the vault could not be reached", hint="Check KEY_VAULT_URL.")

    world.engine = world.again(read_secret=unreachable)
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert "vault" in run.message


def test_a_vault_that_comes_back_is_waited_for(world: World) -> None:
    tries = []

    def slow_to_start(name: str) -> object:
        tries.append(name)
        if len(tries) < StepLimits().setbacks:
            raise Transient("the vault could not be reached")
        return world.read_secret(name)

    world.engine = world.again(read_secret=slow_to_start)
    _export(world)
    assert_ended(world, Status.SUCCESSFUL, delivered=30)


def test_a_poison_message_closes_its_run(world: World) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("a defect of ours")

    world.engine = world.again(open_klaviyo=broken)
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert len(world.errors) == 5
    assert [message["do"] for message in world.poisoned] == ["step"]
    assert "the step plan failed repeatedly: RuntimeError in attempt.py" in run.message
    assert "test_failing.py" not in run.message, "the way through our own code"
    assert "a defect of ours" not in run.message, "its text may quote anything"
    assert "Report it" in run.hint


def test_a_defect_in_ending_a_run_is_known_to_whoever_closes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = FolderStore.create

    def broken(store: FolderStore, name: str, data: bytes) -> str:
        if name.endswith("report.json") and len(world.errors) < 5:
            raise RuntimeError("a defect of ours")
        return create(store, name, data)

    monkeypatch.setattr(FolderStore, "create", broken)
    _export(world, list_id="GONE99")
    run = assert_ended(world, Status.FAILED)
    assert "the step plan failed repeatedly: RuntimeError in attempt.py" in run.message


def test_a_run_that_ends_early_ends_though_the_disk_is_too_full_for_its_lists_of_rows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "undelivered.csv":
            raise OSError(28, "No space")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    world.fault("status", status=403, times=None)
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert world.errors == []
    assert "scope" in run.hint.lower()


def test_a_poison_message_of_a_run_whose_instances_died_says_so(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(3))
    world.deliver(until=lambda: bool(world.runs()))
    world.engine.dispatcher.close_poisoned(world.queue.take() or {})
    run = assert_ended(world, Status.FAILED)
    assert "killed" in run.message
    assert "MEMORY_MB" in run.hint


def test_an_unexpected_error_of_an_earlier_phase_is_not_taken_for_that_of_a_later_one(
    world: World,
) -> None:
    fails = [True, False]

    def at_first(key: SecretStr) -> object:
        if fails.pop(0):
            raise RuntimeError("a defect of ours")
        return world.client(key)

    world.register()
    world.engine = world.again(open_klaviyo=at_first)
    world.drop_people("a.csv", people(3))
    world.deliver(until=lambda: world.job_requests() > 0)
    assert len(world.errors) == 1
    assert world.run().unexpected == ""


def test_a_plan_that_fills_the_disk_ends_the_run_with_the_limit_and_the_way_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("exporter.orchestration.run_step.make_plan", full)
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert world.errors == []
    assert "MB of" not in run.message  # how much it takes is not known
    assert "planning the snapshot takes more of local disk" in run.message
    assert "DISK_MB" in run.hint


def test_a_snapshot_too_large_for_the_disk_fails_at_once_and_leaves_nothing_there(
    world: World,
) -> None:
    world.restart(disk_mb=0.01)
    world.register()
    world.drop_people("a.csv", people(500))
    world.deliver()
    run = assert_ended(world, Status.FAILED)
    assert run.setbacks == 0
    assert "MB of local disk" in run.message
    assert "DISK_MB" in run.hint
    assert world.job_requests() == 0


@pytest.mark.parametrize(
    "error", [duckdb.IOException("Could not write file /p/ada@x.com"), OSError(5, "Input/output")]
)
def test_a_disk_that_fails_is_waited_for_and_then_said(
    world: World, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("exporter.orchestration.run_step.make_plan", full)
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert world.errors == []
    assert "the local disk could not be used" in run.message
    assert "ada" not in run.message
    assert "WORK_FOLDER" in run.hint


def test_a_poison_message_of_a_run_that_is_closed_changes_nothing(world: World) -> None:
    _export(world)
    before, report = world.run(), world.report()
    world.engine.dispatcher.close_poisoned({"do": "step", "run": before.run_id, "step": 0})
    assert (world.run(), world.report()) == (before, report)


@pytest.mark.parametrize(
    "message",
    [
        *({}, {"do": "dance"}, {"do": "step"}, {"do": "step", "run": "x", "step": "1"}),
        {"do": "step", "run": "../x", "step": 1},
    ],
)
def test_a_message_that_nobody_understands_is_dropped(
    world: World, message: dict[str, str]
) -> None:
    world.engine.dispatcher.handle(message)
    world.engine.dispatcher.close_poisoned(message)
    assert world.messages() == 0


def test_a_step_of_a_run_that_is_gone_is_dropped(world: World) -> None:
    world.engine.dispatcher.handle({"do": "step", "run": "vips/none", "step": 0})
    world.engine.dispatcher.close_poisoned({"do": "step", "run": "vips/none", "step": 0})
    assert world.messages() == 0


def test_an_outage_of_the_snapshots_storage_loses_no_snapshot(world: World) -> None:
    """Longer than five tries of the host last."""
    failures = 8
    listed = world.engine.snapshots.list

    class Flaky:
        def __getattr__(self, name: str) -> object:
            return getattr(world.again().snapshots, name)

        def list(self, prefix: str) -> object:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise Transient("the container of snapshots: storage is not available")
            return listed(prefix)

    world.engine = world.again(snapshots=Flaky())
    _export(world)
    assert_ended(world, Status.SUCCESSFUL, delivered=30)


def test_an_export_document_that_cannot_be_read_stops_no_other_export(world: World) -> None:
    world.engine.store.create("exports/aaa-broken.json", b'{"id": "aaa-broken"}')
    world.register(segments=["HighValue"])
    world.drop_people("a.csv", people(3))
    world.deliver()
    world.engine.timer.tick()
    assert_ended(world, Status.SUCCESSFUL, delivered=3)
    with pytest.raises(ConfigError):
        world.engine.catalog.export("aaa-broken")


@pytest.mark.parametrize("share", ["not a pacer", {"schema": 99}, {"sent_ms": "soon"}])
def test_rate_windows_that_cannot_be_read_count_as_unused(world: World, share: object) -> None:
    """Written by another version, or by hand: a connection must not be blocked by it for ever."""
    import json

    lease = {"schema": 1, "owner": "x", "generation": 3, "expires_at": 0, "pacer": share}
    world.engine.store.create("leases/main.json", json.dumps(lease).encode())
    _export(world)
    assert_ended(world, Status.SUCCESSFUL, delivered=30)


def test_planning_ends_itself_before_the_platform_does(world: World) -> None:
    """A slow store: the chunks of the snapshot come in over an hour."""
    opened = world.engine.snapshots.open

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(world.again().snapshots, name)

        def open(self, name: str, *, etag: str) -> object:
            for chunk in opened(name, etag=etag):
                world.clock.move(1_500)
                yield chunk

    world.engine = world.again(snapshots=Slow())
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert "could not be planned in time" in run.message
    assert "STEP_SECONDS" in run.hint
    assert world.job_requests() == 0


@pytest.mark.parametrize(
    ("rule", "advice"),
    [
        ({"kind": "status", "status": 503}, "status.klaviyo.com"),
        ({"kind": "drop_before"}, "status.klaviyo.com"),
        ({"kind": "throttle"}, "KLAVIYO_SHARE"),
    ],
    ids=["503", "dropped", "429"],
)
def test_what_klaviyo_must_mend_is_not_asked_of_people(
    world: World, rule: dict[str, object], advice: str
) -> None:
    world.restart(setbacks=1)
    world.fault(match=JOBS, times=None, **rule)  # type: ignore[arg-type]
    _export(world)
    run = assert_ended(world, Status.FAILED)
    assert advice in run.hint
    assert "Mend" not in run.hint


def test_a_pause_of_half_an_hour_keeps_no_function_waiting(world: World) -> None:
    world.fault("throttle", match=JOBS, retry_after=1_800)
    handle, lasted = world.engine.dispatcher.handle, []

    def timed(*args: object, **options: object) -> None:
        began = world.clock.now
        handle(*args, **options)  # type: ignore[arg-type]
        lasted.append(world.clock.now - began)

    world.patch.setattr(world.engine.dispatcher, "handle", timed)
    _export(world)
    assert_ended(world, Status.SUCCESSFUL, delivered=30)
    assert max(lasted) < 60
    assert world.job_requests(429) == 1, "nobody asks before Klaviyo's time has come"


def test_a_pause_of_half_an_hour_for_ever_ends_the_run(world: World) -> None:
    world.restart(setbacks=2)
    world.fault("throttle", match=JOBS, times=None, retry_after=1_800)
    _export(world)
    assert_ended(world, Status.FAILED)


def test_steps_that_end_before_their_retries_do_are_not_repeated_for_ever(world: World) -> None:
    """With a step shorter than the retries of a request, no attempt ever gives up by itself."""
    world.restart(step_s=10)
    world.fault("status", status=503, times=None)
    _export(world)
    run = assert_ended(world, Status.FAILED, delivered=0)
    assert "gave up" in run.message


def test_health_is_looked_up_once_for_many_who_ask(world: World) -> None:
    """Anybody may ask, and each look reads a secret."""
    looked: list[float] = []
    engine = world.again(checks={"vault": lambda: looked.append(world.clock())})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: engine.health.check(), range(40)))
    assert (answers, len(looked)) == (
        [{"state": "ok", "snapshots": "ok", "vault": "ok", "events": "ok"}] * 40,
        1,
    )
    world.clock.move(HEALTH_S)
    world.container.rename(world.folder / "elsewhere")
    assert engine.health.check()["snapshots"] != "ok"
    assert len(looked) == 2


# Documents that cannot be read, and messages that are none


def test_a_run_that_cannot_be_read_stops_neither_the_timer_nor_other_runs(world: World) -> None:
    """Damaged, edited by hand, or of another version.

    Whatever is the matter, it is the matter of this run alone.
    """
    export = world.register()
    store = world.engine.store
    for name, data in (
        ("20260101T0000Z-0000000000", b'{"schema":2}'),
        ("20990101T0000Z-ffffffffff", b"\xff{"),
    ):
        store.create(f"runs/vips/{name}/run.json", data)
        store.create(f"open/vips/{name}", encode_listed(world.now()))
    notices: list[Notice] = []
    world.engine = world.again(notify=notices.append)
    world.drop_people("a.csv", people(3))
    world.deliver(until=lambda: bool(world.runs()))
    world.queue.take()
    world.clock.move(STALE_AFTER.total_seconds() + 1)
    world.engine.timer.tick()
    world.deliver()
    assert_ended(world, Status.SUCCESSFUL, delivered=3)
    assert store.read("housekeeping.json") is not None
    world.engine.starter.start(export)
    world.secrets.clear()
    world.deliver()
    world.engine.timer.tick()
    assert [notice.kind for notice in notices] == ["failed"]
    assert len(list(store.names("open/"))) == 2, "a person may want to restore them"


def test_an_entry_of_open_runs_that_cannot_be_read_stops_no_other(world: World) -> None:
    world.engine.store.create("open/vips/20260101T0000Z-0000000000", b"what?")
    world.engine.timer.tick()


def test_what_is_wrong_with_a_document_is_said_without_quoting_it(world: World) -> None:
    store = world.engine.store
    store.create("runs/vips/x/run.json", b'{"run_id": ["ada@example.com"]}')
    store.create("runs/vips/x/journal.jsonl", b'{"ada@example.com": 1}\n')
    for read in (lambda: world.engine.runs.run("vips/x"), lambda: Journal(store, "runs/vips/x/")):
        with pytest.raises(DocumentUnreadable) as caught:
            read()
        assert caught.value.message.startswith("runs/vips/x/")
        assert "ada@" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["run.json", "journal.jsonl", "plan.json"])
def test_a_poison_message_is_done_with_whatever_is_damaged(world: World, name: str) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("a defect of ours")

    world.register()
    world.drop_people("a.csv", people(3))
    world.deliver(until=lambda: world.job_requests() > 0)
    run, store = world.run(), world.engine.store
    path = f"{run.plan}/plan.json" if name == "plan.json" else name
    (world.folder / "state" / run.folder / path).write_bytes(b"damaged")
    world.engine = world.again(open_klaviyo=broken, work="another-machine")
    world.engine.dispatcher.close_poisoned({"do": "step", "run": run.run_id, "step": run.step})
    if name != "run.json":
        assert world.run().status is Status.FAILED
        assert store.read(run.folder + "report.json") is not None


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b"null", b"{", b"[" * 100_000])
def test_a_message_that_is_no_object_of_json_is_dropped(world: World, body: bytes) -> None:
    world.engine.dispatcher.handle(decode_message(body))
    world.engine.dispatcher.close_poisoned(decode_message(body))
    assert world.messages() == 0


def test_storage_that_refuses_a_document_of_an_export_is_not_taken_for_its_absence(
    world: World,
) -> None:
    """Else the snapshot would be forgotten, as one that no export wants."""
    world.register()

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(world.engine.store, name)

        def read(self, name: str) -> object:
            raise ConfigError("storage refuses access")

    with pytest.raises(ConfigError):
        list(Catalog(Refusing()).exports())  # type: ignore[arg-type]
