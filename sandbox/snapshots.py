"""Make a segment snapshot of synthetic people as Customer Insights would export it, and know what should come of it.

    Snapshot(rows=1000, partitions=3, bad={Kind.EMAIL_NO_AT: 2})
      .files()              path and bytes of every file; write_snapshot() puts them in a folder or a container
      .planted()            the bad rows: file, line, kind, and what a correct exporter makes of each
      .expected_profiles()  what a correct exporter delivers

Person `n` is a function of the seed and `n` alone. So nothing is stored: any part can be made again, two snapshots
overlap as their numbers do (`first`), and memory stays the same for ten rows and ten million.
Nobody here exists: addresses end in example.com, .org or .net. Phone numbers are only plausible, so send none.
"""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import functools
import hashlib
import itertools
import json
import sys
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar
from urllib.parse import quote as url_quote

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

T = TypeVar("T")


class Column(StrEnum):
    """The columns of our Customer table, named as Microsoft's samples name them."""

    CUSTOMER_ID = "CustomerId"
    FIRST_NAME = "FirstName"
    LAST_NAME = "LastName"
    EMAIL = "EMail"
    TELEPHONE = "Telephone"
    CITY = "City"
    COUNTRY = "Country"
    DATE_OF_BIRTH = "DateOfBirth"
    LOYALTY_TIER = "LoyaltyTier"
    LIFETIME_VALUE = "LifetimeValue"


class Layout(StrEnum):
    """Where an export puts its files; see `Snapshot.path`."""

    DATED = "dated"
    DATED_NO_MODEL = "dated-no-model"
    UNDATED = "undated"
    MAPPED = "mapped"
    SINGLE = "single"


class Kind(StrEnum):
    """What can be wrong with a row."""

    EMAIL_NO_AT = "email-no-at"
    EMAIL_MAILTO = "email-mailto"
    EMAIL_EXCLAMATION = "email-exclamation"
    EMAIL_DIGIT_IN_TLD = "email-digit-in-tld"
    EMAIL_SPACE = "email-space"
    EMAIL_TOO_LONG = "email-too-long"
    EMAIL_BLANK = "email-blank"
    EMAIL_PLACEHOLDER = "email-placeholder"
    DUPLICATE = "duplicate"
    DUPLICATE_ACROSS = "duplicate-across"
    BAD_PHONE = "bad-phone"
    RAGGED_SHORT = "ragged-short"
    RAGGED_LONG = "ragged-long"
    UNTERMINATED_QUOTE = "unterminated-quote"
    STRAY_QUOTE = "stray-quote"
    BARE_CR = "bare-cr"
    NUL_BYTE = "nul-byte"
    INVALID_UTF8 = "invalid-utf8"
    RECORD_TOO_LONG = "record-too-long"
    PROFILE_TOO_LARGE = "profile-too-large"  # where the first name is sent
    EXTERNAL_ID_TOO_LONG = "external-id-too-long"  # where CustomerId identifies the profile
    KLAVIYO_ASYNC = "klaviyo-async"
    KLAVIYO_SYNC = "klaviyo-sync"


class Outcome(StrEnum):
    """What a correct exporter makes of a planted row."""

    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    WITHOUT_PHONE = "delivered-without-phone"
    REFUSED = "refused-by-klaviyo"
    IMPORT_ERROR = "import-error"


OUTCOMES = {
    Kind.DUPLICATE: Outcome.DUPLICATE,
    Kind.DUPLICATE_ACROSS: Outcome.DUPLICATE,
    Kind.BAD_PHONE: Outcome.WITHOUT_PHONE,
    Kind.KLAVIYO_SYNC: Outcome.REFUSED,
    Kind.KLAVIYO_ASYNC: Outcome.IMPORT_ERROR,
}  # every other kind is rejected before anything is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedRow:
    """A bad row. `line` is where it starts in its file; the first line, the header if there is one, is 1.

    `record` counts the same way but takes a row with line breaks in it as one, which is how DuckDB counts.
    A duplicate says where the row stands that it repeats: same data, but the CustomerId and the address's case.
    """

    path: str
    partition: int
    line: int
    record: int
    kind: Kind
    outcome: Outcome
    email: str | None
    repeats: tuple[str, int] | None = None


class ExpectedProfile(NamedTuple):
    """What should reach Klaviyo: address in lower case, phone as E.164, None where the cell is blank or left out.

    For the extra columns see `extra_cell`.
    """

    customer_id: str | None
    first_name: str | None
    last_name: str | None
    email: str | None
    phone_number: str | None
    city: str | None
    country: str | None
    date_of_birth: str | None
    loyalty_tier: str | None
    lifetime_value: str | None


class Writer(Protocol):
    def write(self, path: str, chunks: Iterable[bytes]) -> None: ...


class FolderWriter:
    """Writes below a folder; blob paths become sub-folders."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.writelines(chunks)


class ContainerWriter:
    """Writes to a blob container, replacing what is there."""

    def __init__(self, container: ContainerClient) -> None:
        self._container = container

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        self._container.upload_blob(path, chunks, overwrite=True)


# --- people ---------------------------------------------------------------------------------------------------

FIRST_NAMES = (
    *(
        "Ada",
        "Ana",
        "Andrei",
        "Åsa",
        "Béla",
        "Björn",
        "Carlos",
        "Chloë",
        "Đorđe",
        "Elena",
        "Emma",
        "Fatima",
    ),
    *(
        "François",
        "Grace",
        "Hannah",
        "Ioana",
        "Ivo",
        "James",
        "João",
        "Jürgen",
        "Karen",
        "Lea",
        "Liam",
    ),
    *(
        "Łukasz",
        "Maria",
        "Mei",
        "Mihai",
        "Noah",
        "Nuño",
        "Olivia",
        "Otto",
        "Paul",
        "Quentin",
        "Radu",
        "René",
    ),
    *(
        "Siobhán",
        "Sofia",
        "Søren",
        "Ștefan",
        "Tom",
        "Uma",
        "Václav",
        "William",
        "Xenia",
        "Yara",
        "Zoë",
    ),
    *("Žofia", "Ελένη", "Ольга", "美咲"),
)
RARE_FIRST_NAMES = ('Noah "Noe"', "Anne, Marie", "")
LAST_NAMES = (
    *(
        "Ackermann",
        "Brown",
        "Côté",
        "D'Angelo",
        "Dvořák",
        "Esposito",
        "Fernández",
        "García",
        "Grøn",
    ),
    *(
        "Hughes",
        "Ionescu",
        "Jensen",
        "Johnson",
        "Kovács",
        "Kral",
        "Lind",
        "López",
        "Müller",
        "Nagy",
    ),
    *(
        "Nguyễn",
        "Novák",
        "O'Neill",
        "Öberg",
        "Peeters",
        "Petrović",
        "Popescu",
        "Quinn",
        "Rossi",
        "Roth",
    ),
    *(
        "Șerban",
        "Silva",
        "Smith",
        "Strauß",
        "Tan",
        "Țurcanu",
        "Ünal",
        "van Dijk",
        "Weiß",
        "Wójcik",
        "Yıldız",
    ),
    *("Young", "Zieliński", "Παππάς", "Иванова", "佐藤"),
)
RARE_LAST_NAMES = ("Smith, Jr.", 'von "Und" Zu', "")
TIERS = ("Basic", "Basic", "Basic", "Silver", "Silver", "Gold", "Gold", "Platinum", "")
DOMAINS = ("@example.com", "@example.com", "@example.org", "@example.net")
SEPARATORS = (".", ".", ".", "_", "-", "+news.")


class Place(NamedTuple):
    city: str
    country: str
    country_code: str
    phone_prefixes: tuple[str, ...]  # ten; six more digits make a valid number


def _ten(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{digit}" for digit in range(10))


AMERICAN_PREFIXES = ("2122", "3052", "3122", "4042", "4152", "5032", "6022", "6172", "7022", "7132")
PLACES = (
    Place("București", "RO", "+40", _ten("72")),
    Place("Cluj-Napoca", "RO", "+40", _ten("74")),
    Place("London", "GB", "+44", _ten("740")),
    Place("Leeds", "GB", "+44", _ten("741")),
    Place("New York", "US", "+1", AMERICAN_PREFIXES),
    Place("Austin", "US", "+1", AMERICAN_PREFIXES),
    Place("Berlin", "DE", "+49", _ten("1511")),
    Place("Köln", "DE", "+49", _ten("1511")),
    Place("Lyon", "FR", "+33", _ten("61")),
    Place("Málaga", "ES", "+34", _ten("61")),
    Place("Łódź", "PL", "+48", _ten("60")),
    Place("Göteborg", "SE", "+46", _ten("70")),
)
RARE_PLACES = (
    Place("Malmö, Skåne", "SE", "+46", _ten("70")),
    Place("Bern\nAltstadt", "CH", "+41", _ten("79")),
    Place('"Big" Apple', "US", "+1", AMERICAN_PREFIXES),
    Place("", "RO", "+40", _ten("72")),
)

BLOCK = 4096  # people drawn at once
WHEEL = 1 << 16  # every table has this many slots, so that two random bytes pick one
SERIALS = 10_000_000  # phone numbers repeat after so many people
SERIAL_STEP = 7_368_787  # has no factor in common with SERIALS, so each serial comes once
THREE_DIGITS = tuple(f"{number:03d}" for number in range(1000))


def _wheel(common: Sequence[T], rare: Sequence[T] = (), *, one_in: int = 256) -> tuple[T, ...]:
    """Spread `common` over all slots, and give one slot in `one_in` to one of `rare`, each equally often."""
    slots = list(itertools.islice(itertools.cycle(common), WHEEL))
    if rare:
        slots[::one_in] = itertools.islice(itertools.cycle(rare), len(slots[::one_in]))
    return tuple(slots)


def _stem(first_name: str) -> str:
    """The part of an address that comes from a name: ASCII letters only."""
    letters = unicodedata.normalize(
        "NFKD", first_name.lower().translate(str.maketrans("łøđ", "lod"))
    )
    return "".join(letter for letter in letters if "a" <= letter <= "z") or "member"


class _Tables:
    """What a person is put together from: one wheel for each thing drawn, limited to what `encoding` can write."""

    def __init__(self, encoding: str) -> None:
        def writable(text: str) -> bool:
            return text.encode(encoding, errors="ignore").decode(encoding) == text

        common = [name for name in FIRST_NAMES if writable(name)]
        self.first_names = _wheel(common, RARE_FIRST_NAMES)
        self.last_names = _wheel([name for name in LAST_NAMES if writable(name)], RARE_LAST_NAMES)
        places = _wheel([place for place in PLACES if writable(place.city)], RARE_PLACES)
        self.cities = tuple(place.city for place in places)
        self.countries = tuple(place.country for place in places)
        self.phone_plans = tuple(self._phone_plan(place, slot) for slot, place in enumerate(places))
        self.stems = tuple(
            (stem.capitalize() if slot % 101 == 0 else stem)
            + SEPARATORS[slot // 64 % len(SEPARATORS)]
            for slot, stem in enumerate(_stem(name) for name in self.first_names)
        )
        self.domains = _wheel(DOMAINS)
        self.tiers = _wheel(TIERS)
        oldest = date(1940, 1, 1)
        self.birthdays = tuple(
            "" if slot % 5 < 2 else (oldest + timedelta(days=slot % 24_837)).isoformat()
            for slot in range(WHEEL)
        )
        self.values = tuple(
            "" if slot % 9 == 0 else f"{(slot / WHEEL) ** 4 * 9000:.2f}" for slot in range(WHEEL)
        )

    @staticmethod
    def _phone_plan(place: Place, slot: int) -> tuple[tuple[str, ...], str] | None:
        """Prefixes and the gap between groups of digits; one number in four is missing, one in eight has gaps."""
        if slot // 64 % 4 == 0:
            return None
        gap = " " if slot // 512 % 8 == 0 else ""
        return tuple(
            f"{place.country_code}{gap}{prefix}{gap}" for prefix in place.phone_prefixes
        ), gap


@functools.cache
def _tables(encoding: str) -> _Tables:
    return _Tables(encoding)


class _Draws(NamedTuple):
    """Random material for people of one block: `ids` in hex, then one number below WHEEL each."""

    ids: str
    name: array[int]
    surname: array[int]
    place: array[int]
    birthday: array[int]
    tier: array[int]
    value: array[int]


@functools.lru_cache(maxsize=4)
def _draw(seed: int, block: int) -> _Draws:
    count = len(_Draws._fields) - 1
    # A hash and not `random`: it gives the same bytes for ever, and many at once.
    material = hashlib.shake_128(f"{seed}/{block}".encode()).digest(BLOCK * (16 + 2 * count))
    numbers = array("H", material[BLOCK * 16 :])
    return _Draws(
        material[: BLOCK * 16].hex(),
        *(numbers[BLOCK * item : BLOCK * (item + 1)] for item in range(count)),
    )


@dataclass(frozen=True, slots=True)
class _People:
    """People numbered `start` to `stop` of one seed, all within one block, as lists of cells."""

    seed: int
    start: int
    stop: int
    tables: _Tables
    changed_every: int

    def cells(self, column: Column) -> list[str]:
        return _CELLS[column](self)

    def _pick(self, wheel: Sequence[T], item: str) -> Iterator[T]:
        return map(wheel.__getitem__, self._numbers(item))

    def _numbers(self, item: str) -> array[int]:
        numbers: array[int] = getattr(_draw(self.seed, self.start // BLOCK), item)
        begin = self.start % BLOCK
        return numbers[begin : begin + self.stop - self.start]

    def customer_ids(self) -> list[str]:
        ids = _draw(self.seed, self.start // BLOCK).ids
        begin = self.start % BLOCK * 32
        return [ids[at : at + 32] for at in range(begin, begin + 32 * (self.stop - self.start), 32)]

    def first_names(self) -> list[str]:
        return list(self._pick(self.tables.first_names, "name"))

    def last_names(self) -> list[str]:
        names = list(self._pick(self.tables.last_names, "surname"))
        if self.changed_every:
            for index in range(-self.start % self.changed_every, len(names), self.changed_every):
                names[index] += "-Newman"
        return names

    def emails(self) -> list[str]:
        """Unique: the person's number stands between a separator and the domain."""
        stems, domains = (
            self._pick(self.tables.stems, "name"),
            self._pick(self.tables.domains, "surname"),
        )
        numbers = range(self.start, self.stop)
        return [
            f"{stem}{number}{domain}"
            for stem, number, domain in zip(stems, numbers, domains, strict=True)
        ]

    def telephones(self) -> list[str]:
        plans, numbers = self._pick(self.tables.phone_plans, "place"), range(self.start, self.stop)
        return [
            _telephone(plan, number) if plan else ""
            for plan, number in zip(plans, numbers, strict=True)
        ]

    def cities(self) -> list[str]:
        return list(self._pick(self.tables.cities, "place"))

    def countries(self) -> list[str]:
        return list(self._pick(self.tables.countries, "place"))

    def birthdays(self) -> list[str]:
        return list(self._pick(self.tables.birthdays, "birthday"))

    def tiers(self) -> list[str]:
        return list(self._pick(self.tables.tiers, "tier"))

    def values(self) -> list[str]:
        return list(self._pick(self.tables.values, "value"))


def _telephone(plan: tuple[tuple[str, ...], str], number: int) -> str:
    prefixes, gap = plan
    serial = number * SERIAL_STEP % SERIALS
    first, rest = divmod(serial, 1_000_000)
    return f"{prefixes[first]}{THREE_DIGITS[rest // 1000]}{gap}{THREE_DIGITS[rest % 1000]}"


_CELLS: dict[Column, Callable[[_People], list[str]]] = {
    Column.CUSTOMER_ID: _People.customer_ids,
    Column.FIRST_NAME: _People.first_names,
    Column.LAST_NAME: _People.last_names,
    Column.EMAIL: _People.emails,
    Column.TELEPHONE: _People.telephones,
    Column.CITY: _People.cities,
    Column.COUNTRY: _People.countries,
    Column.DATE_OF_BIRTH: _People.birthdays,
    Column.LOYALTY_TIER: _People.tiers,
    Column.LIFETIME_VALUE: _People.values,
}

# --- bad rows -------------------------------------------------------------------------------------------------

PLACEHOLDERS = ("none", "n/a", "NULL", "-", "unknown")
BAD_PHONES = ("+40 12", "call me", "+999 555 000 111 222 333", "0000000000", "12345")

# "+async-fail" and "+sync-fail" are the words that the stand-in Klaviyo knows.
_SPOIL_EMAIL: dict[Kind, Callable[[str, int], str]] = {
    Kind.EMAIL_NO_AT: lambda email, _: email.replace("@", "."),
    Kind.EMAIL_MAILTO: lambda email, _: f"mailto:{email}",
    Kind.EMAIL_EXCLAMATION: lambda email, _: email.replace("@", "!@"),
    Kind.EMAIL_DIGIT_IN_TLD: lambda email, _: f"{email}1",
    Kind.EMAIL_SPACE: lambda email, _: email.replace("@", " x@"),
    Kind.EMAIL_TOO_LONG: lambda email, _: "x" * 90 + email,
    Kind.EMAIL_BLANK: lambda _email, _: "",
    Kind.EMAIL_PLACEHOLDER: lambda _, number: PLACEHOLDERS[number % len(PLACEHOLDERS)],
    Kind.DUPLICATE: lambda email, _: email.upper(),
    Kind.DUPLICATE_ACROSS: lambda email, _: email.upper(),
    Kind.KLAVIYO_ASYNC: lambda email, _: email.replace("@", "+async-fail@"),
    Kind.KLAVIYO_SYNC: lambda email, _: "refused-by-klaviyo." + email.replace("@", "+sync-fail@"),
}
_SPOIL_CELLS: dict[Kind, Callable[[list[str]], list[str]]] = {
    Kind.RAGGED_SHORT: lambda cells: cells[: max(1, len(cells) - 2)],
    Kind.RAGGED_LONG: lambda cells: [*cells, "surplus"],
    Kind.NUL_BYTE: lambda cells: [*cells[:-1], cells[-1] + "\0"],
    Kind.INVALID_UTF8: lambda cells: [
        *cells[:-1],
        cells[-1] + "\udcff",
    ],  # byte FF once `chunks` has encoded it
}


# Once the cells are quoted, to the last one.
_SPOIL_LAST: dict[Kind, Callable[[str], str]] = {
    Kind.UNTERMINATED_QUOTE: lambda cell: '"' + cell.replace('"', ""),
    Kind.STRAY_QUOTE: lambda cell: '"' + cell.replace('"', "") + '"x',
    Kind.BARE_CR: lambda cell: cell.replace('"', "") + "\rx",
    Kind.RECORD_TOO_LONG: lambda cell: (
        cell.replace('"', "") + "x" * 24_000_000
    ),  # the exporter's limit is 16 MB
}


class _Flaw(NamedTuple):
    kind: Kind
    number: int  # counts from 0 within the kind
    original: int | None = None  # the row that a duplicate repeats


class _FlawPlanner:
    """Gives each bad row a place: seeded, one flaw a row, and no flaw in a row that a duplicate repeats."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._random = Random(f"{snapshot.seed}/flaws")
        self._flaws: dict[int, _Flaw] = {}
        self._originals: set[int] = set()

    def plan(self) -> dict[int, _Flaw]:
        self._end_partitions_with_open_quotes()
        for kind in Kind:
            if kind is not Kind.UNTERMINATED_QUOTE:
                for number in range(self._snapshot.bad.get(kind, 0)):
                    self._place(kind, number)
        return self._flaws

    def _end_partitions_with_open_quotes(self) -> None:
        """An open quote swallows what follows it, so it stands in a partition's last row, as in a cut-off file."""
        parts = [part for part in self._snapshot.bounds() if part]
        count = self._snapshot.bad.get(Kind.UNTERMINATED_QUOTE, 0)
        if count > len(parts):
            raise ValueError(
                f"{Kind.UNTERMINATED_QUOTE} needs a partition each: {len(parts)} of them, {count} wanted"
            )
        for number, part in enumerate(self._random.sample(parts, count)):
            self._flaws[part[-1]] = _Flaw(Kind.UNTERMINATED_QUOTE, number)

    def _place(self, kind: Kind, number: int) -> None:
        for _ in range(1000):
            row = self._random.randrange(self._snapshot.rows)
            if row in self._flaws or row in self._originals:
                continue
            if kind not in (Kind.DUPLICATE, Kind.DUPLICATE_ACROSS):
                self._flaws[row] = _Flaw(kind, number)
                return
            original = self._original_of(row, across=kind is Kind.DUPLICATE_ACROSS)
            if original is not None and original not in self._flaws:
                self._originals.add(original)
                self._flaws[row] = _Flaw(kind, number, original)
                return
        raise ValueError(
            f"no room for {kind} in {self._snapshot.rows} rows of {self._snapshot.partitions} partitions"
        )

    def _original_of(self, row: int, *, across: bool) -> int | None:
        """An earlier row of the same partition, or of an earlier one."""
        part = next(part for part in self._snapshot.bounds() if row in part)
        candidates = range(part.start) if across else range(part.start, row)
        return self._random.choice(candidates) if candidates else None


def extra_cell(customer_id: str, number: int, length: int) -> str:
    """What column Extra{number} holds for a customer."""
    return (f"{number}-" + customer_id * (length // len(customer_id) + 1))[:length]


# --- snapshots ------------------------------------------------------------------------------------------------

ENCODINGS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "windows-1252"}
LINE_ENDINGS = {"lf": "\n", "crlf": "\r\n"}
DATA_TYPES = {
    Column.DATE_OF_BIRTH: "date",
    Column.LIFETIME_VALUE: "decimal",
}  # the others are strings
TEXTS = (Column.FIRST_NAME, Column.LAST_NAME, Column.CITY, Column.COUNTRY)  # may need quotes


class SnapshotFile(NamedTuple):
    path: str
    chunks: Iterator[bytes]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What to make. `columns` maps each column, in order, to its name in the file; Extra1, Extra2, ... come after them.

    `first` is the number of the first person: two snapshots of one seed share the people whose numbers they share.
    `changed_every=k` gives every k-th of them another last name. `exported_at` is written without its zone.
    Raises ValueError for what cannot be made, such as several partitions in a layout of one file.
    """

    rows: int
    partitions: int = 1
    seed: int = 1
    first: int = 0
    changed_every: int = 0
    segment: str = "HighValue"
    destination: str = "KlaviyoFeed"
    instance_id: str = "0f3c1a52-7d1e-4b0a-9c55-2f6a9b7e1d10"
    exported_at: datetime = datetime(2026, 3, 14, 6, 15, tzinfo=UTC)
    columns: Mapping[Column, str] = field(
        default_factory=lambda: {column: column.value for column in Column}
    )
    extra_columns: int = 0
    cell_length: int = 12  # of the extra columns
    bad: Mapping[Kind, int] = field(default_factory=dict)
    layout: Layout = Layout.DATED
    header: bool = True
    delimiter: str = ","
    encoding: str = "utf-8"
    line_ending: str = "\n"
    container_url: str = "https://examplestorage.blob.core.windows.net/klaviyo-feed"
    format_settings: bool = True  # whether model.json says how the files are written

    def __post_init__(self) -> None:
        if self.partitions < 1 or self.rows < 0:
            raise ValueError("a snapshot has at least one partition and no negative number of rows")
        if self.partitions > 1 and self.layout in (Layout.MAPPED, Layout.SINGLE):
            raise ValueError(f"layout {self.layout} is one file, so it has one partition")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding is one of {', '.join(ENCODINGS)}, not {self.encoding}")
        if Kind.INVALID_UTF8 in self.bad and not self.encoding.startswith("utf-8"):
            raise ValueError(f"{Kind.INVALID_UTF8} cannot be planted in {self.encoding}")
        if Kind.RAGGED_SHORT in self.bad and len(self.columns) == 1:
            raise ValueError(f"{Kind.RAGGED_SHORT} needs two columns")
        if self.extra_columns < 0 or self.cell_length < 1:
            raise ValueError(
                "there are no fewer than no extra columns, and their cells hold something"
            )
        needed = {
            Column.EMAIL: set(_SPOIL_EMAIL),
            Column.TELEPHONE: {Kind.BAD_PHONE},
            Column.FIRST_NAME: {Kind.PROFILE_TOO_LARGE},
            Column.CUSTOMER_ID: {Kind.EXTERNAL_ID_TOO_LONG},
        }
        for column, kinds in needed.items():
            if column not in self.columns and kinds & set(self.bad):
                raise ValueError(
                    f"the kinds {', '.join(sorted(kinds & set(self.bad)))} need column {column}"
                )

    def files(self) -> Iterator[SnapshotFile]:
        """Every file with its bytes, made while they are read; partitions in order, then model.json."""
        for partition, _ in enumerate(self.bounds(), start=1):
            yield SnapshotFile(self.path(partition), self.chunks(partition))
        if self.layout is Layout.DATED:
            yield SnapshotFile(self.model_path, iter([json.dumps(self.model(), indent=1).encode()]))

    def bounds(self) -> list[range]:
        """The rows of each partition, counted from 0 over the snapshot; as even as can be, some empty if need be."""
        share, rest = divmod(self.rows, self.partitions)
        starts = [share * part + min(part, rest) for part in range(self.partitions + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(starts)]

    @property
    def _destination_path(self) -> str:
        return f"CustomerInsights_{self.instance_id}/{self.destination}"

    @property
    def model_path(self) -> str:
        return f"{self._destination_path}/model.json"

    def path(self, partition: int) -> str:
        """Where partition 1, 2, ... is, container left out.

        Source: Microsoft Learn, "Export data to an Azure Blob Storage" (2026-07-16) for the dated layout, its text
        before 2020-08-13 for the undated one, and "Adobe Campaign Standard" (2024-11-06) for the mapped one.
        """
        name = f"{self.segment}_{partition}.csv"
        match self.layout:
            case Layout.DATED | Layout.DATED_NO_MODEL:
                return f"{self._destination_path}/{self.segment}/{self.exported_at:%Y/%m/%d/%H%M}/{name}"
            case Layout.UNDATED:
                return f"Dynamics365CustomerInsights/Export/{self.segment}/{name}"
            case Layout.MAPPED:
                return f"{self._destination_path}_{self.segment}_{int(self.exported_at.timestamp())}.csv"
            case Layout.SINGLE:
                return f"{self.segment}.csv"

    def model(self) -> dict[str, object]:
        """model.json, the Common Data Model's folder metadata, as Customer Insights is thought to write it."""
        types = {
            name: DATA_TYPES[column]
            for column, name in self.columns.items()
            if column in DATA_TYPES
        }
        attributes = [
            {"name": name, "dataType": types.get(name, "string")} for name in self._names()
        ]
        partitions = [
            self._partition_entry(partition) for partition in range(1, self.partitions + 1)
        ]
        entity = {
            "$type": "LocalEntity",
            "name": self.segment,
            "attributes": attributes,
            "partitions": partitions,
        }
        return {
            "application": "CustomerInsights",
            "name": self.destination,
            "version": "1.0",
            "modifiedTime": (self.exported_at + timedelta(minutes=2)).isoformat(),
            "entities": [entity],
        }

    def _partition_entry(self, partition: int) -> dict[str, object]:
        entry: dict[str, object] = {
            "name": f"{self.segment}_{partition}",
            "refreshTime": self.exported_at.isoformat(),
            "location": f"{self.container_url}/{url_quote(self.path(partition))}",
        }
        if self.format_settings:
            entry["fileFormatSettings"] = {
                "$type": "CsvFormatSettings",
                "columnHeaders": self.header,
                "delimiter": self.delimiter,
                "quoteStyle": "QuoteStyle.Csv",
                "csvStyle": "CsvStyle.QuoteAlways",
                "encoding": ENCODINGS[self.encoding],
            }
        return entry

    def chunks(self, partition: int) -> Iterator[bytes]:
        """The bytes of partition 1, 2, ..., in pieces of some hundred kilobytes."""
        encoder = codecs.getincrementalencoder(self.encoding)("surrogateescape")
        if self.header:
            yield encoder.encode(self._header() + self.line_ending)
        for _, texts in self._texts(self.bounds()[partition - 1]):
            yield encoder.encode(self.line_ending.join([*texts, ""]))

    def _header(self) -> str:
        return self.delimiter.join(map(self._quoted, self._names()))

    def _names(self) -> list[str]:
        return [
            *self.columns.values(),
            *(f"Extra{number}" for number in range(1, self.extra_columns + 1)),
        ]

    def planted(self) -> Iterator[PlantedRow]:
        """The bad rows, partition by partition; made by writing the partitions again to nowhere, to count lines."""
        originals = {flaw.original for flaw in self._flaws.values() if flaw.original is not None}
        places = dict(self._places(originals | self._flaws.keys()))
        for row, flaw in sorted(self._flaws.items()):
            partition, line = places[row]
            original = None if flaw.original is None else places[flaw.original]
            yield PlantedRow(
                path=self.path(partition),
                partition=partition,
                line=line,
                record=row - self.bounds()[partition - 1].start + (2 if self.header else 1),
                kind=flaw.kind,
                outcome=OUTCOMES.get(flaw.kind, Outcome.REJECTED),
                email=self._flawed_cells(row, flaw).get(Column.EMAIL),
                repeats=original and (self.path(original[0]), original[1]),
            )

    def expected_profiles(self) -> Iterator[ExpectedProfile]:
        """What a correct exporter delivers; of rows that repeat each other the last, here in the first one's place."""
        last = {
            flaw.original: row
            for row, flaw in sorted(self._flaws.items())
            if flaw.original is not None
        }
        for part in self.bounds():
            for span in self._spans(part):
                profiles = self._profiles(self._people(span))
                for row, profile in zip(span, profiles, strict=True):
                    flaw = self._flaws.get(row)
                    if row in last:
                        yield profile._replace(customer_id=self._customer_id(last[row]))
                    elif flaw is None:
                        yield profile
                    elif flaw.kind is Kind.BAD_PHONE:
                        yield profile._replace(phone_number=None)

    def _customer_id(self, row: int) -> str | None:
        """The only cell in which a duplicate differs from the row that it repeats, but for the address's case."""
        person = self._people(range(row, row + 1))
        return self._values(person, Column.CUSTOMER_ID)[0]

    def _profiles(self, people: _People) -> Iterator[ExpectedProfile]:
        cells = {column: self._values(people, column) for column in Column}
        cells[Column.EMAIL] = [email and email.lower() for email in cells[Column.EMAIL]]
        cells[Column.TELEPHONE] = [
            phone and phone.replace(" ", "") for phone in cells[Column.TELEPHONE]
        ]
        return map(ExpectedProfile._make, zip(*cells.values(), strict=True))

    def _values(self, people: _People, column: Column) -> list[str | None]:
        if column not in self.columns:
            return [None] * (people.stop - people.start)
        return [cell or None for cell in people.cells(column)]

    def _places(self, rows: set[int]) -> Iterator[tuple[int, tuple[int, int]]]:
        """Partition and line of each of `rows`; a row takes as many lines as it has line feeds, with its own end."""
        for partition, part in enumerate(self.bounds(), start=1):
            line = 2 if self.header else 1
            for span, texts in self._texts(part) if not rows.isdisjoint(part) else ():
                for row, text in zip(span, texts, strict=True):
                    if row in rows:
                        yield row, (partition, line)
                    line += 1 + text.count("\n")

    def _texts(self, part: range) -> Iterator[tuple[range, list[str]]]:
        """The rows as they are written, without line ends, some thousand at a time."""
        for span in self._spans(part):
            texts = self._good_texts(self._people(span))
            for row in self._flaws.keys() & span if self._flaws else ():
                texts[row - span.start] = self._flawed_text(row, self._flaws[row])
            yield span, texts

    def _good_texts(self, people: _People) -> list[str]:
        columns: list[Iterable[str]] = [people.cells(column) for column in self.columns]
        for index, column in enumerate(self.columns):
            if column in TEXTS:
                columns[index] = map(self._quoted, columns[index])
        columns += self._extra_cells(people)
        return list(map(self.delimiter.join, zip(*columns, strict=True)))

    def _extra_cells(self, people: _People) -> list[list[str]]:
        return [
            [
                extra_cell(customer_id, number, self.cell_length)
                for customer_id in people.customer_ids()
            ]
            for number in range(1, self.extra_columns + 1)
        ]

    def _flawed_text(self, row: int, flaw: _Flaw) -> str:
        extra = self._extra_cells(self._people(range(row, row + 1)))
        cells = [*self._flawed_cells(row, flaw).values(), *(column[0] for column in extra)]
        cells = _SPOIL_CELLS.get(flaw.kind, list)(cells)
        quoted = [self._quoted(cell) for cell in cells]
        if flaw.kind in _SPOIL_LAST:
            quoted[-1] = _SPOIL_LAST[flaw.kind](cells[-1])
        return self.delimiter.join(quoted)

    def _flawed_cells(self, row: int, flaw: _Flaw) -> dict[Column, str]:
        cells = self._cells(row)
        if flaw.original is not None:
            cells = {**self._cells(flaw.original), Column.CUSTOMER_ID: cells[Column.CUSTOMER_ID]}
        if flaw.kind in _SPOIL_EMAIL:
            cells[Column.EMAIL] = _SPOIL_EMAIL[flaw.kind](cells[Column.EMAIL], flaw.number)
        if flaw.kind is Kind.BAD_PHONE:
            cells[Column.TELEPHONE] = BAD_PHONES[flaw.number % len(BAD_PHONES)]
        if flaw.kind is Kind.PROFILE_TOO_LARGE:
            cells[Column.FIRST_NAME] = "x" * 110_000
        if flaw.kind is Kind.EXTERNAL_ID_TOO_LONG:
            cells[Column.CUSTOMER_ID] *= 9
        return cells

    def _cells(self, row: int) -> dict[Column, str]:
        people = self._people(range(row, row + 1))
        return {column: people.cells(column)[0] for column in self.columns}

    def _people(self, span: range) -> _People:
        start, stop = self.first + span.start, self.first + span.stop
        return _People(self.seed, start, stop, _tables(self.encoding), self.changed_every)

    def _spans(self, part: range) -> Iterator[range]:
        """Cut `part` where the people's blocks end."""
        start = part.start
        while start < part.stop:
            stop = min(part.stop, start + BLOCK - (self.first + start) % BLOCK)
            yield range(start, stop)
            start = stop

    @functools.cached_property
    def _flaws(self) -> dict[int, _Flaw]:
        return _FlawPlanner(self).plan()

    @functools.cached_property
    def _quoted(self) -> Callable[[str], str]:
        """Put quotes round a cell that needs them. It remembers its answers: names and cities come again and again."""
        special = {self.delimiter, '"', "\n", "\r"}

        def quoted(cell: str) -> str:
            return cell if special.isdisjoint(cell) else '"' + cell.replace('"', '""') + '"'

        return functools.lru_cache(maxsize=4096)(quoted)


def write_snapshot(snapshot: Snapshot, writer: Writer) -> list[str]:
    """Write all files of `snapshot`, model.json last; return their paths."""
    paths = []
    for file in snapshot.files():
        writer.write(file.path, file.chunks)
        paths.append(file.path)
    return paths


# --- command line ---------------------------------------------------------------------------------------------


def _column(text: str) -> tuple[Column, str]:
    name, _, header = text.partition("=")
    return Column(name), header or name


def _bad(text: str) -> tuple[Kind, int]:
    kind, _, count = text.partition("=")
    return Kind(kind), int(count)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox snapshot",
        description="Make a segment snapshot of synthetic people.",
        epilog="Example: python -m sandbox snapshot --rows 1000 --partitions 3 --bad email-no-at=2 --out /tmp/feed",
    )
    default = Snapshot(rows=0)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--partitions", type=int, default=default.partitions)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--first", type=int, default=default.first, help="number of the first person"
    )
    parser.add_argument(
        "--changed-every", type=int, default=0, metavar="K", help="change every K-th person's name"
    )
    parser.add_argument("--segment", default=default.segment)
    parser.add_argument("--destination", default=default.destination)
    parser.add_argument(
        "--exported-at", type=_moment, default=default.exported_at, metavar="ISO-TIME"
    )
    parser.add_argument(
        "--columns", type=_column, nargs="+", metavar="COLUMN[=HEADER]", help=", ".join(Column)
    )
    parser.add_argument(
        "--extra-columns", type=int, default=0, metavar="N", help="add Extra1 to ExtraN"
    )
    parser.add_argument(
        "--cell-length", type=int, default=default.cell_length, help="characters of an extra cell"
    )
    parser.add_argument(
        "--bad", type=_bad, nargs="+", action="extend", metavar="KIND=N", help=", ".join(Kind)
    )
    parser.add_argument("--layout", type=Layout, choices=list(Layout), default=default.layout)
    parser.add_argument("--no-header", dest="header", action="store_false")
    parser.add_argument("--delimiter", choices=[",", ";", "|", "\t"], default=default.delimiter)
    parser.add_argument("--encoding", choices=list(ENCODINGS), default=default.encoding)
    parser.add_argument("--line-ending", choices=list(LINE_ENDINGS), default="lf")
    parser.add_argument("--no-format-settings", dest="format_settings", action="store_false")
    parser.add_argument(
        "--container-url",
        default=default.container_url,
        help="what model.json's locations start with",
    )
    parser.add_argument(
        "--planted",
        type=Path,
        metavar="FILE",
        help="write the bad rows there, one JSON object a line",
    )
    parser.add_argument(
        "--expected", type=Path, metavar="FILE", help="write what a correct exporter delivers there"
    )
    return parser


def _write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def main(argv: list[str]) -> int:
    parser = _parser()
    options = vars(parser.parse_args(argv))
    out, planted, expected = (options.pop(name) for name in ("out", "planted", "expected"))
    columns, bad = options.pop("columns"), options.pop("bad")
    options["line_ending"] = LINE_ENDINGS[options["line_ending"]]
    if columns:
        options["columns"] = dict(columns)
    try:
        snapshot = Snapshot(**options, bad=dict(bad or []))
        paths = write_snapshot(snapshot, FolderWriter(out))
    except ValueError as error:
        parser.error(str(error))
    if planted:
        _write_lines(planted, (dataclasses.asdict(row) for row in snapshot.planted()))
    if expected:
        _write_lines(expected, (profile._asdict() for profile in snapshot.expected_profiles()))
    print(json.dumps({"rows": snapshot.rows, "paths": paths}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
