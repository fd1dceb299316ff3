"""No secret and no personal data reach logs, spans or metrics, whether runs succeed or fail."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr

from exporter.errors import ExporterError, Transient
from exporter.klaviyo.client import Klaviyo
from exporter.logs import UnexpectedError, discreet
from exporter.storage.local_folder import FolderStore
from exporter.storage.protocols import Document
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import EXPORT, FOLDER, REVISION, World, as_csv
from tests.telemetry.seen import Seen

pytestmark = pytest.mark.usefixtures("small_batches")

MAPPING = {
    "email": "EMail",
    "first_name": "FirstName",
    "phone_number": "Telephone",
    "location": {"city": "City"},
    "properties": {"note": "Note", "value": {"column": "Value", "type": "number"}},
}
HEADER = ("EMail", "FirstName", "Telephone", "City", "Note", "Value")
OTHER_KEY = "pk_another_0123456789abcdef"
# Parts of every cell, so that a part of a cell is found too. None of them is a word of ours, and
# the digits are so many that no time, port or random id holds them by chance.
TRACES = (
    "quillon",
    "ludmilla",
    "+4930",
    "30231250",
    "zwettl",
    "hazelnut",
    "8123498765",
    FULL_KEY,
    OTHER_KEY,
    "Klaviyo-API-Key",
)


def persons(count: int = 25, **planted: str) -> list[Sequence[str]]:
    rows = [
        (
            f"quillon{n}@private.example",
            f"Ludmilla{n}",
            f"+4930231250{n:02}",
            "Zwettl",
            f"hazelnut {n}",
            f"8123498765.{n}",
        )
        for n in range(count)
    ]
    odd = [
        (address, "Ludmilla", "+49 30231250 xx", "Zwettl", "hazelnut", "8123498765,5,5")
        for address in planted.values()
    ]
    return [*rows, *odd]


def drop(
    world: World, rows: Sequence[Sequence[str]], *, tail: bytes = b"", name: str = "a.csv"
) -> None:
    world.engine.arrivals.on_blob_arrived(
        world.put(FOLDER + name, as_csv(rows, HEADER).encode() + tail)
    )


def well(world: World) -> None:
    drop(world, persons())


def rows_that_are_refused_at_once(world: World) -> None:
    drop(
        world,
        persons(a="quillon+sync-fail@private.example", b="quillon+async-fail@private.example"),
    )


def rows_that_nobody_names(world: World) -> None:
    world.settings(bad_rows="none")
    drop(
        world,
        persons(a="quillon+sync-fail@private.example", b="quillon+async-fail-null@private.example"),
    )


def rows_that_we_reject(world: World) -> None:
    bad = {
        "a": "quillon",
        "b": "mailto:quillon@private.example",
        "c": "quillon @private.example",
        "d": "QUILLON@x",
    }
    drop(world, persons(**bad, e="quillon1@private.example", f="quillon" * 20 + "@private.example"))


def a_damaged_file(world: World) -> None:
    drop(
        world,
        persons(),
        tail=b'quillon@private.example,"Ludmilla\nquillon\x00,\xff\xfe,Zwettl,hazelnut,'
        b'8123498765\n"x"y',
    )


def a_file_that_is_no_table(world: World) -> None:
    world.engine.arrivals.on_blob_arrived(
        world.put(FOLDER + "a.csv", b'{"EMail": "quillon@private.example", "Note": "hazelnut"}')
    )


def a_file_without_the_columns(world: World) -> None:
    world.engine.arrivals.on_blob_arrived(
        world.put(FOLDER + "a.csv", as_csv([("quillon@private.example", "hazelnut")], ("A", "B")))
    )


def a_file_without_header(world: World) -> None:
    world.engine.arrivals.on_blob_arrived(
        world.put(FOLDER + "a.csv", as_csv(persons()[1:], persons()[0]))
    )


def a_key_that_is_refused(world: World) -> None:
    world.secrets["klaviyo-key"] = OTHER_KEY
    drop(world, persons())


def a_key_without_scopes(world: World) -> None:
    world.fault("status", status=403, times=None)
    drop(world, persons())


def an_edge_that_refuses(world: World) -> None:
    world.fault("html_403", match=".", times=None)
    drop(world, persons())


def servers_that_fail(world: World) -> None:
    world.fault("status", status=503, times=8)
    world.fault("throttle", retry_after=1, times=4)
    drop(world, persons())


def connections_that_break(world: World) -> None:
    world.fault("drop_after", times=2)
    world.fault("truncate", times=2)
    world.fault("drop_before", match="GET .*import-errors", times=1)
    drop(world, persons(a="quillon+async-fail@private.example"))


def a_defect_of_ours(world: World) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("quillon@private.example", "hazelnut")

    world.patch.setattr("exporter.planning.request_bodies.PlanReader.body", broken)
    drop(world, persons())


WAYS: list[Callable[[World], None]] = [
    *(
        well,
        rows_that_are_refused_at_once,
        rows_that_nobody_names,
        rows_that_we_reject,
        a_damaged_file,
    ),
    *(
        a_file_that_is_no_table,
        a_file_without_the_columns,
        a_file_without_header,
        a_key_that_is_refused,
    ),
    *(
        a_key_without_scopes,
        an_edge_that_refuses,
        servers_that_fail,
        connections_that_break,
        a_defect_of_ours,
    ),
]


def found_in(text: str) -> list[str]:
    return [trace for trace in TRACES if trace.lower() in text.lower()]


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_nothing_of_a_person_and_no_key_is_told(
    world: World, seen: Seen, way: Callable[[World], None]
) -> None:
    world.register(mapping=MAPPING)
    way(world)
    world.deliver()
    told = seen.text()
    assert world.run().run_id in told, "the run was watched"
    assert found_in(told) == []
    [run] = world.runs()
    documents = [
        world.engine.store.read(run.folder + name)
        for name in ("run.json", "report.json", "journal.jsonl")
    ]
    written = b"".join(document.data for document in documents if document).decode()
    assert found_in(written) == []


def test_a_defects_text_ends_at_the_trigger(world: World) -> None:
    """The host logs what a trigger raises, and what that was raised from."""
    world.register(mapping=MAPPING)
    a_defect_of_ours(world)
    world.deliver(until=lambda: bool(world.errors))
    [caught, *_] = world.errors

    @discreet
    def trigger() -> None:
        raise caught

    with pytest.raises(
        UnexpectedError, match=r"KeyError in .*dispatcher\.py:\d+ < .*sender\.py:\d+"
    ) as raised:
        trigger()
    assert found_in("".join(traceback.format_exception(raised.value))) == []
    assert raised.value.__context__ is None


def test_our_own_errors_leave_the_trigger_without_what_caused_them() -> None:
    @discreet
    def trigger() -> None:
        try:
            int("quillon@private.example")
        except ValueError as exc:
            raise Transient("storage is not available") from exc

    with pytest.raises(ExporterError, match="storage is not available") as raised:
        trigger()
    assert found_in("".join(traceback.format_exception(raised.value))) == []


class FailingStore(FolderStore):
    """Fails where its folder of one kind is read, because of an error that quotes an address."""

    def __init__(self, root: Path, fails_at: str) -> None:
        super().__init__(root)
        self._fails_at = fails_at

    def read(self, name: str) -> Document | None:
        self._check(name)
        return super().read(name)

    def folders(self, prefix: str) -> Iterator[str]:
        self._check(prefix)
        return super().folders(prefix)

    def _check(self, name: str) -> None:
        if not name.startswith(self._fails_at):
            return
        try:
            int("quillon@private.example")
        except ValueError as exc:
            raise Transient("storage is not available") from exc


@pytest.mark.parametrize(
    ("fails_at", "line"),
    [("schedules/", "export not started"), (f"runs/{EXPORT}/", "housekeeping failed")],
)
def test_what_the_timer_could_not_do_is_told_without_anothers_text(
    world: World, seen: Seen, fails_at: str, line: str
) -> None:
    world.register()
    engine = world.again(store=FailingStore(world.folder / "state", fails_at))
    with contextlib.suppress(Transient):  # of other parts that read the same
        engine.timer.tick()
    told = seen.text()
    assert f"{line} export={EXPORT} cause=storage is not available" in told
    assert found_in(told) == []


@pytest.mark.parametrize(
    "kind", ["status", "drop_before", "truncate", "html_403", "non_json", "throttle"]
)
def test_questions_about_an_address_are_told_without_it(
    world: World, seen: Seen, kind: str
) -> None:
    world.fault(kind, match="GET /api/profiles", times=None)
    with Klaviyo(
        SecretStr(FULL_KEY), base_url=world.url, revision=REVISION, sleep=world.clock.move
    ) as client:
        with pytest.raises(ExporterError) as raised:
            client.profiles_by_email(["quillon@private.example"])
        raised_text = "".join(traceback.format_exception(raised.value))
        client.ask_for_deletion(email="quillon@private.example")
    told = seen.text()
    assert kind == "drop_before" or "/api/profiles?..." in told, "urllib3's own lines were watched"
    assert found_in(told) == []
    assert (
        found_in(raised_text.replace('["quillon@private.example"]', "")) == []
    )  # the test's own line
