"""Plans go when a run closes; one person is erased everywhere, in a folder and in a container."""

from __future__ import annotations

import csv
import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import ConfigError, Transient
from exporter.management.erasure import Erasure
from exporter.runs.run import Phase, Status
from exporter.sending.journal import Journal
from exporter.storage.azure_blobs import BlobStore
from exporter.storage.local_folder import FolderStore
from exporter.storage.protocols import Store
from tests.journeys.world import World, assert_ended, people
from tests.management.managing import forget_in_world

ADA = "ada@private.example"
REJECTED = {
    2: "none",
    3: f"mailto:{ADA}",
    4: f"x{ADA}!",
    5: f"{ADA}.au!",
    6: f"Ada <{ADA.upper()}>",
}


@pytest.fixture(params=["folder", pytest.param("blob", marks=pytest.mark.azurite)])
def store(request: pytest.FixtureRequest, world: World) -> Iterator[Store]:
    """The world's exporter works on this store."""
    found: Store = (
        FolderStore(world.folder / "state")
        if request.param == "folder"
        else BlobStore(request.getfixturevalue("container"))
    )
    world.engine = world.again(store=found)
    return found


def deliver_ada(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(12, planted={**REJECTED, 7: f"{ADA[:3]}+sync-fail{ADA[3:]}"}))
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=6)


def content(store: Store, tmp_path: Path) -> str:
    """Everything in the store, as text."""
    texts = []
    for name in store.names(""):
        if name.endswith((".csv", ".parquet")):
            store.download(name, tmp_path / "file")
            texts.append((tmp_path / "file").read_bytes().decode(errors="replace"))
        elif found := store.read(name):
            texts.append(found.data.decode(errors="replace"))
    return "\n".join(texts)


# Retention


def test_a_closed_run_keeps_its_report_and_lists_and_no_plan(world: World, store: Store) -> None:
    deliver_ada(world)
    folder = world.run().folder
    kept = {name.removeprefix(folder) for name in store.names(folder)}
    assert kept == {"run.json", "journal.jsonl", "report.json", "rejected.csv", "duplicates.csv"}
    assert list((world.folder / "work").glob("*/*")) == []


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELED])
def test_a_run_that_ends_early_leaves_no_plan_either(world: World, status: Status) -> None:
    world.register()
    world.fault("status", status=404 if status is Status.FAILED else 503, times=None)
    world.drop_people("a.csv", people(12, planted={3: "none"}))
    world.deliver(until=lambda: bool(world.runs()) and world.run().phase is Phase.SEND)
    world.engine.runs.cancel(world.run().run_id, why="cancelled by a person")
    world.deliver()
    run = assert_ended(world, status)
    assert [name for name in world.engine.store.names(run.folder) if "/plan-" in name] == []
    assert [row["reason"] for row in world.rows_of("rejected.csv")] == ["placeholder"]


def test_a_plan_that_storage_would_not_delete_goes_with_the_next_delivery(world: World) -> None:
    world.register()
    world.drop_people("a.csv", people(5))
    store = world.engine.store
    delete, world_is_bad = store.delete, [True]

    def refusing(name: str, *, etag: str | None = None) -> None:
        if world_is_bad:
            raise Transient("storage is not available")
        delete(name, etag=etag)

    world.patch.setattr(store, "delete", refusing)
    world.deliver()
    run = assert_ended(world, Status.SUCCESSFUL, delivered=5)
    assert any("/plan-" in name for name in store.names(run.folder))
    world_is_bad.clear()
    world.engine.dispatcher.handle(
        {"do": "step", "run": run.run_id, "step": run.step}, redelivered=True
    )
    assert not any("/plan-" in name for name in store.names(run.folder))


# One person


def test_a_person_is_erased_and_the_numbers_still_add_up(
    world: World, store: Store, tmp_path: Path
) -> None:
    deliver_ada(world)
    run = world.run()
    before = world.rows_of("rejected.csv")
    assert ADA in content(store, tmp_path).lower()
    erasure = forget_in_world(world, [f" {ADA.upper()} "])
    assert erasure.is_complete
    assert erasure.erased == [(run.folder + "rejected.csv", "identifiers blanked: 2")]
    after = world.rows_of("rejected.csv")
    assert [row["identifier"] for row in after if row["identifier"] != "(erased)"] == [
        row["identifier"] for row in before if row["line"] not in ("5", "8")
    ]
    assert [(row["source"], row["line"], row["reason"]) for row in after] == [
        (row["source"], row["line"], row["reason"]) for row in before
    ]
    assert f"x{ADA}" in content(store, tmp_path), "others with a similar address stay"


def test_forgetting_twice_finds_nothing_more(world: World, store: Store) -> None:
    deliver_ada(world)
    forget_in_world(world, [ADA])
    assert forget_in_world(world, [ADA]).to_json() == {
        "complete": True,
        "erased": [],
        "open_runs": [],
        "left": [],
    }


def test_plans_that_outlived_their_run_are_deleted(
    world: World, store: Store, tmp_path: Path
) -> None:
    deliver_ada(world)
    run = world.run()
    staged = tmp_path / "rows-00000.parquet"
    staged.write_bytes(ADA.encode())
    store.upload(run.folder + "plan-0a1b2c3d/rows-00000.parquet", staged)
    local = world.engine.plans.folder(run, "plan-0a1b2c3d")
    local.mkdir(parents=True)
    (local / "rows-00000.parquet").write_bytes(ADA.encode())
    erased = dict(forget_in_world(world, [ADA]).erased)
    assert erased[f"{run.folder}plan-*"] == "1 files with everybody's staged rows deleted"
    assert "work folder" in erased
    assert not local.exists()
    assert ADA not in content(store, tmp_path).replace(f"x{ADA}", "").replace(f"{ADA}.au!", "")


def test_an_open_run_is_left_alone_and_named(world: World, store: Store) -> None:
    world.register()
    world.drop_people("a.csv", people(12, planted=REJECTED))
    world.deliver(until=lambda: bool(world.runs()) and world.run().phase is Phase.CONFIRM)
    erasure = forget_in_world(world, [ADA])
    assert (erasure.is_complete, erasure.open_runs) == (False, [world.run().run_id])
    world.deliver()
    assert_ended(world, Status.WARNINGS, delivered=7)
    assert forget_in_world(world, [ADA]).is_complete


def test_a_document_that_names_the_person_is_named(world: World) -> None:
    """A connection names who agreed to it; only a person can say what should be there instead."""
    world.register()
    found = world.engine.store.read("connections/main.json")
    assert found is not None
    document = json.loads(found.data)
    document["consent"]["by"] = ADA
    world.engine.store.replace(
        "connections/main.json", json.dumps(document).encode(), etag=found.etag
    )
    assert forget_in_world(world, [ADA]).left == ["connections/main.json"]


@pytest.mark.parametrize(
    ("identifier", "cell", "theirs"),
    [
        ("+49 30 2312511", "'+49302312511", True),
        ("+49302312511", "49 (30) 231-25-11", True),
        ("+49302312511", "'+493023125110", False),
        ("C-1007", "c-1007", True),
        ("C-1007", "C-10071", False),
        ("7", "17", False),
        (ADA, f"'={ADA}", True),
        (ADA, f"{ADA};bo@private.example", True),
        (ADA, f"not{ADA}", False),
        (ADA, f"{ADA}.org", False),
        ("ada@bücher.example", "'=ADA@xn--bcher-kva.example", True),
        ("ada@xn--bcher-kva.example", "mailto:ada@bu\u0308cher.example", True),
        ("ada@bücher.example", "ada@bucher.example", False),
        ("ada@bücher.example", "éada@bücher.example", False),
        ("+49302312511", "0049302312511", True),
        ("+49302312511", "030 2312511", True),
        ("+49302312511", "030/2312511", True),
        ("+49302312511", "tel:+49302312511", True),
        ("+49302312511", "+49 (0)30 2312511", True),
        ("+49302312511", "(030) 2312511 / 0171 1234567", True),
        ("+49302312511", "01149302312511", True),
        ("+49302312511", "+41302312511", False),
        ("+49302312511", "ada302312511@private.example", False),
        ("+49302312511", "C-302312511", False),
        ("tel:0049 30 2312511", "30-231-2511", True),
        ("030 2312511", "+49302312511", True),
        ("0302312511", "0302312511", True),
        ("+7 495 123-45-67", "8 (495) 123 45 67", True),
    ],
)
def test_identifiers_are_compared_as_people_write_them(
    world: World, identifier: str, cell: str, theirs: bool
) -> None:
    """Numbers without country code are of the export's phone region."""
    assert bool(forget_in(world, identifier, cell).erased) is theirs


@pytest.mark.parametrize(
    ("identifier", "row", "theirs"),
    [
        ("C-78", ",+40721000002,C-78", True),
        ("+40721000002", ",+40721000002,C-78", True),
        ("0721 000 002", ",+40721000002,C-78", False),
        ("c-78", 'none;" C-78 ";Ada', True),
        ("C-78", "\"open@example.com,'C-78", True),
        ("C-7", ",+40721000002,C-78", False),
        ("C,7", 'none,"C,7"', True),
        ('C"7', 'none,"C""7"', True),
        (
            "C-78",
            '{"type":"profile","attributes":{"email":"bo@example.com","external_id":"C-78"}}',
            True,
        ),
        (
            'C"7',
            '{"type":"profile","attributes":{"email":"bo@example.com","external_id":"C\\"7"}}',
            True,
        ),
        ("+40721000002", '{"type":"profile","attributes":{"phone_number":"+40721000002"}}', True),
        (
            "ada@bücher.example",
            '{"type":"profile","attributes":{"email":"ada@xn--bcher-kva.example"}}',
            True,
        ),
    ],
)
def test_a_kept_row_is_theirs_when_one_of_its_cells_is(
    world: World, identifier: str, row: str, theirs: bool
) -> None:
    assert bool(forget_in(world, identifier, "", row).erased) is theirs


def forget_in(world: World, identifier: str, *cells: str) -> Erasure:
    """Forget somebody where these are a rejected row's last cells."""
    world.register(mapping={"email": "EMail", "first_name": "FirstName", "phone_region": "DE"})
    world.drop_people("a.csv", people(5))
    world.deliver()
    file = world.folder / "rejected.csv"
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["source", "line", "column", "reason", "message", "identifier", "row"])
        writer.writerow(["a.csv", 7, "Telephone", "phone_impossible", "no such number", *cells])
    world.engine.store.upload(world.run().folder + "rejected.csv", file)
    return forget_in_world(world, [identifier])


@pytest.mark.parametrize("damage", [b"{broken", b'{"run_id": "ada@private.example"}', b"\xff"])
def test_a_damaged_run_is_named_and_keeps_nobody_elses_rows(
    world: World, store: Store, damage: bytes
) -> None:
    deliver_ada(world)
    first = world.run()
    found = store.read(first.folder + "run.json")
    assert found
    store.replace(first.folder + "run.json", damage, etag=found.etag)
    world.drop_people("b.csv", people(12, planted=REJECTED))
    world.deliver()
    erasure = forget_in_world(world, [ADA])
    assert erasure.left == [first.folder + "run.json"]
    lists = [name for name in store.names("runs/") if name.endswith("/rejected.csv")]
    assert (len(lists), sorted(name for name, _ in erasure.erased)) == (2, lists)


def test_what_a_damaged_document_holds_is_not_told(world: World) -> None:
    deliver_ada(world)
    store, folder = world.engine.store, world.run().folder
    for name in ("run.json", "journal.jsonl"):
        found = store.read(folder + name)
        assert found
        store.replace(folder + name, f'{{"kind": "{ADA}"}}\n'.encode(), etag=found.etag)
    run_id = folder.removeprefix("runs/").removesuffix("/")
    for read in (lambda: world.engine.runs.run(run_id), lambda: Journal(store, folder)):
        with pytest.raises(ConfigError, match="cannot be read") as raised:
            read()
        assert ADA not in "".join(traceback.format_exception(raised.value))


def test_nobody_is_refused(world: World) -> None:
    with pytest.raises(ConfigError):
        forget_in_world(world, [" "])


def test_nothing_is_told_of_whom_was_forgotten(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    deliver_ada(world)
    caplog.set_level("DEBUG")
    caplog.clear()
    erasure = forget_in_world(world, [ADA])
    assert ADA not in caplog.text.lower() + json.dumps(erasure.to_json()).lower()
