"""What leaves the customer's storage, or is read by many, names nobody.

Logs, errors, run documents, reports.

rejected.csv, duplicates.csv and the plans hold people's data; they are what the container's access
rules are for.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from exporter.errors import ExporterError
from exporter.runs.run import Status
from sandbox.klaviyo import FULL_KEY
from sandbox.klaviyo.messages import Refused, error
from tests.journeys.world import FOLDER, World, as_csv

MAPPING = {
    "email": "EMail",
    "first_name": "FirstName",
    "phone_number": "Phone",
    "properties": {"note": "Note"},
}
HEADER = ("EMail", "FirstName", "Phone", "Note")
KEYS = (FULL_KEY, "pk_wrong_and_secret")
SECRETS = ("zebulon", "leaky", "40721000", "0721 000", "private note", *KEYS)


def _people(count: int) -> list[tuple[str, str, str, str]]:
    return [
        (f"leaky{n}@zebulon.example.com", f"Zebulon{n}", f"+4072100{n:04d}", f"private note {n}")
        for n in range(count)
    ]


BAD = [
    ("leaky.zebulon", "Zebulon", "", ""),
    ("mailto:leaky@zebulon.example.com", "Zebulon", "", ""),
    ("leaky+sync-fail@zebulon.example.com", "Zebulon", "0721 000 001", ""),
    ("leaky+async-fail@zebulon.example.com", "Zebulon", "0721 000 002", ""),
    ("leaky+async-fail-null@zebulon.example.com", "Zebulon", "+40721000", ""),
    ("leaky0@zebulon.example.com", "Zebulon", "Zebulon", "private note"),
    ("LEAKY1@zebulon.example.com", 'Zebulon "Z', "", ""),
]


def _good(world: World) -> None:
    _deliver(world)


def _bad_rows(world: World) -> None:
    _deliver(world, as_csv([*_people(20), *BAD], HEADER) + "leaky@zebulon.example.com,Zebulon\n")


def _broken_quotes(world: World) -> None:
    _deliver(
        world,
        as_csv(_people(20), HEADER)
        + '"leaky@zebulon.example.com,Zebulon,+40721000111,private note\n',
    )


def _no_header(world: World) -> None:
    _deliver(world, as_csv(_people(20), HEADER).partition("\n")[2])


def _wrong_columns(world: World) -> None:
    world.register(mapping={**MAPPING, "last_name": "Surname"})
    _arrive(world)


def _typed_nonsense(world: World) -> None:
    kinds = ("number", "boolean", "date", "list")
    world.register(
        mapping={
            "email": "EMail",
            "properties": {each: {"column": "Note", "type": each} for each in kinds},
        }
    )
    _arrive(world)


def _unreadable(world: World) -> None:
    _deliver(
        world, as_csv(_people(20), HEADER).encode() + b"\x00\xff leaky@zebulon.example.com" * 50
    )


def _changing(world: World) -> None:
    world.register(mapping=MAPPING)
    world.drop(FOLDER + "a.csv", as_csv(_people(20), HEADER))
    world.deliver(until=lambda: bool(world.runs()))
    world.drop(FOLDER + "a.csv", as_csv(_people(21), HEADER))
    world.deliver()


def _wrong_key(world: World) -> None:
    world.secrets["klaviyo-key"] = KEYS[1]
    _deliver(world)


def _unsendable_key(world: World) -> None:
    world.secrets["klaviyo-key"] = f"{KEYS[1]}\nX-Other: header"
    _deliver(world)


def _down(world: World) -> None:
    world.url = "http://127.0.0.1:1"
    _deliver(world)


def _refused_with_quotes(world: World) -> None:
    """Klaviyo repeats what it was sent: addresses, numbers and even the key."""
    detail = f"leaky3@zebulon.example.com, +40721000003, 0721 000 003 and {FULL_KEY} are no good"
    pointers = (
        "/data/attributes/profiles/data/3/attributes/leaky@zebulon.example.com",
        "/data/attributes/profiles",
    )
    errors = [error(400, detail, detail, detail, pointer=pointer) for pointer in pointers]
    errors[0]["id"] = "leaky3@zebulon.example.com"
    create = world.klaviyo.account.jobs.accept
    refused = []

    def accept(batch: Any, **options: Any) -> Any:
        if len(refused) < 3:
            refused.append(batch)
            raise Refused(400, errors[len(refused) % 2 :])
        return create(batch, **options)

    world.patch.setattr(world.klaviyo.account.jobs, "accept", accept)
    _deliver(world)


def _faulty(world: World) -> None:
    for kind in (
        "drop_before",
        "drop_after",
        "truncate",
        "non_json",
        "html_403",
        "throttle",
        "status",
    ):
        for match in ("GET /api/lists", "POST", "GET /api/profile-bulk-import-jobs$"):
            world.fault(kind, match=match)
    _deliver(world)


def _failing_jobs(world: World) -> None:
    world.settings(
        unique=["phone_number"], async_checks=["identifier", "size", "email", "phone_number"]
    )
    _deliver(world, as_csv([*_people(20), *BAD], HEADER))


def _poison(world: World) -> None:
    def broken(_: object) -> object:
        raise RuntimeError("a defect of ours")

    world.engine = world.again(open_klaviyo=broken)
    _deliver(world)


def _by_external_id(world: World) -> None:
    world.register(mapping={"external_id": "Note", "phone_number": "Phone", "phone_region": "RO"})
    _arrive(world, as_csv([*_people(20), *BAD], HEADER))


def _by_phone(world: World) -> None:
    world.register(
        mapping={"phone_number": "Phone", "phone_region": "RO", "identifier": "phone_number"}
    )
    _arrive(world, as_csv([*_people(20), *BAD], HEADER))


def _deliver(world: World, content: str | bytes = "") -> None:
    world.register(mapping=MAPPING)
    _arrive(world, content)


def _arrive(world: World, content: str | bytes = "") -> None:
    world.drop(FOLDER + "a.csv", content or as_csv(_people(20), HEADER))
    world.deliver()


SCENES: list[Callable[[World], None]] = [
    *(
        _good,
        _bad_rows,
        _broken_quotes,
        _no_header,
        _wrong_columns,
        _typed_nonsense,
        _unreadable,
        _changing,
    ),
    *(_wrong_key, _unsendable_key, _down, _refused_with_quotes, _faulty, _failing_jobs, _poison),
    *(_by_external_id, _by_phone),
]


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[ExporterError]:
    """Every error of ours that is made, raised or not."""
    made: list[ExporterError] = []
    original = ExporterError.__init__

    def remember(self: ExporterError, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(ExporterError, "__init__", remember)
    return made


@pytest.fixture
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every logger at its most talkative, whatever was made quiet before."""
    names = [
        "",
        "exporter",
        "urllib3",
        "urllib3.connectionpool",
        "azure",
        "duckdb",
        "requests",
        "asyncio",
    ]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    caplog.handler.setLevel(logging.DEBUG)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("small_batches", "everything_is_logged")
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__.strip("_"))
def test_nobody_is_named(
    world: World,
    scene: Callable[[World], None],
    errors: list[ExporterError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene(world)
    for run in world.runs():
        assert not run.status.is_open
    said = [
        *((f"log of {record.name}", _all_of(record)) for record in caplog.records),
        *((f"a {type(each).__name__}", text) for each in errors for text in _texts(each)),
        *(("what handle raised", text) for each in world.errors for text in _texts(each)),
        *world.text_of_state(),
    ]
    assert said
    for where, text in said:
        if "/exports/" in where or "/plan-" in where:
            continue
        for secret in SECRETS:
            assert secret not in text.lower(), f"{where}: {text[:2000]}"


def test_the_scenes_do_hold_somebody(world: World) -> None:
    """Else the test above would prove nothing."""
    _bad_rows(world)
    assert world.run().status is Status.WARNINGS
    assert any("zebulon" in email for email in world.emails())
    assert any("zebulon" in row["identifier"] for row in world.rows_of("rejected.csv"))


def _all_of(record: logging.LogRecord) -> str:
    lines = [record.getMessage(), *(repr(value) for value in record.__dict__.values())]
    if record.exc_info:
        lines += traceback.format_exception(*record.exc_info)
    return "\n".join(lines)


def _texts(exc: BaseException | None) -> Iterator[str]:
    """Of an error and of all that it came from, also what a traceback would leave out."""
    seen: set[int] = set()
    todo = [exc]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield f"{one!s}\n{one!r}\n{getattr(one, 'hint', '')}\n{one.__dict__!r}"
        yield "".join(traceback.format_exception(one))
        todo += [one.__cause__, one.__context__]
