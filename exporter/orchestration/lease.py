"""Leases on Klaviyo accounts: the quota is the account's, so runs over one account take turns.

    leases/accounts/{account}.json    owner, generation, expires_at, used rate windows
    leases/{connection}.json          the same, where the connection's account is not known

Taking over an expired lease raises `generation` by one. The holder renews its lease from a thread
of its own and calls `held.check()` before each effect. Behind it stands the journal: an append at a
position that has moved on fails, should a holder be too slow to notice that it lost its lease.
Clocks of instances may differ by less than the margin. A lease that expires later than one taken
now is ignored: some clock was wrong.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.definitions.catalog import Catalog
from exporter.errors import (
    AlreadyThere,
    DocumentUnreadable,
    ExporterError,
    LeaseHeld,
    StoreMoved,
)
from exporter.runs.run import Run
from exporter.storage.protocols import Document, Store

logger = logging.getLogger(__name__)

LEASE_S = 60.0  # how long a dead holder keeps others out
MARGIN = 1 / 6  # a holder stops when this part is left: clocks differ, and a request is under way


class Lease(BaseModel):
    """The document."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    owner: str  # the run and the instance that hold it
    generation: int
    expires_at: float  # epoch seconds
    pacer: dict[str, Any] = Field(default_factory=dict)


class HeldLease:
    """A lease that this instance holds. Safe for threads."""

    def __init__(
        self,
        store: Store,
        name: str,
        lease: Lease,
        etag: str,
        *,
        lasts_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._name, self._clock = store, name, clock
        self._lease, self._etag = lease, etag
        self.lasts_s = lasts_s
        self._lock = threading.Lock()
        self._lost = False

    @property
    def pacer(self) -> dict[str, Any]:
        """The used rate windows that the holder before left behind."""
        return self._lease.pacer

    def check(self) -> None:
        """Raise LeaseHeld unless the lease is ours for a while yet."""
        if self._lost or self._clock() > self._lease.expires_at - self.lasts_s * MARGIN:
            raise LeaseHeld(
                "the lease of this account was lost to another instance or ran out",
                retry_after_s=5,
            )

    def renew(self, pacer: dict[str, Any] | None = None) -> None:
        """Extend the lease, and keep the rate windows for the next holder.

        Raises LeaseHeld if it is lost.
        """
        with self._lock:
            self._write(self.lasts_s, pacer)

    def release(self, pacer: dict[str, Any]) -> None:
        """Give the lease back, with the rate windows used so far."""
        try:
            with self._lock:
                self._write(0, pacer)
        except ExporterError as exc:  # it runs out by itself; the step's result must not be lost
            logger.info("lease not given back", extra={"cause": type(exc).__name__})

    def _write(self, seconds: float, pacer: dict[str, Any] | None) -> None:
        update = {
            "expires_at": self._clock() + seconds,
            "pacer": self._lease.pacer if pacer is None else pacer,
        }
        lease = self._lease.model_copy(update=update)
        try:
            self._etag = self._store.replace(self._name, _encode(lease), etag=self._etag)
        except StoreMoved:
            self._lost = True
            raise LeaseHeld("another instance took this account over", retry_after_s=5) from None
        self._lease = lease


class AccountLeases:
    """The leases on the accounts of runs. Safe to share: it keeps nothing in memory."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        *,
        instance: str,
        clock: Callable[[], float],
        lasts_s: float = LEASE_S,
    ) -> None:
        """instance: this instance's name, for people who read the lease."""
        self._store, self._catalog, self._clock = store, catalog, clock
        self._instance, self._lasts_s = instance, lasts_s

    def take(self, run: Run) -> HeldLease:
        """Take the lease on a run's account. Raises LeaseHeld with the seconds to wait."""
        owner = f"{run.run_id} on {self._instance}"
        return take(
            self._store, self._name_of(run), owner, clock=self._clock, lasts_s=self._lasts_s
        )

    def is_held_for(self, run: Run) -> bool:
        """Say whether some instance holds the lease on a run's account."""
        name = self._name_of(run)
        return is_held(self._store, name, now=self._clock(), lasts_s=self._lasts_s)

    def _name_of(self, run: Run) -> str:
        try:
            connection = self._catalog.connection(run.connection)
        except DocumentUnreadable:  # the step says so
            connection = None
        account = connection.check.account_id if connection and connection.check else ""
        return lease_name(run.connection, account)


def lease_name(connection: str, account: str) -> str:
    """Return the name of the lease on a connection's account; account: "" where it is not known."""
    if _ACCOUNT.fullmatch(account):
        return f"leases/accounts/{account}.json"
    return f"leases/{connection}.json"


_ACCOUNT = re.compile(r"[A-Za-z0-9]{1,40}")  # Klaviyo's ids have six; others become no blob's name


def take(
    store: Store,
    name: str,
    owner: str,
    *,
    clock: Callable[[], float],
    lasts_s: float = LEASE_S,
) -> HeldLease:
    """Take a lease. Raises LeaseHeld with the seconds to wait."""
    current = store.read(name)
    before = _parse(current)
    now = clock()
    if before and _is_valid(before, now, lasts_s):
        raise LeaseHeld(
            "another run is at work: runs of one Klaviyo account take turns",
            retry_after_s=min(max(before.expires_at - now, 1), 15),
        )
    lease = Lease(
        owner=owner,
        generation=before.generation + 1 if before else 1,
        expires_at=now + lasts_s,
        pacer=before.pacer if before else {},
    )
    data = _encode(lease)
    try:
        etag = _write(store, name, data, current)
    except (AlreadyThere, StoreMoved):
        raise LeaseHeld("another instance was faster", retry_after_s=2) from None
    return HeldLease(store, name, lease, etag, lasts_s=lasts_s, clock=clock)


def _write(store: Store, name: str, data: bytes, current: Document | None) -> str:
    if current is None:
        return store.create(name, data)
    return store.replace(name, data, etag=current.etag)


def is_held(store: Store, name: str, *, now: float, lasts_s: float = LEASE_S) -> bool:
    """Say whether some instance holds a lease."""
    lease = _parse(store.read(name))
    return lease is not None and _is_valid(lease, now, lasts_s)


def _is_valid(lease: Lease, now: float, lasts_s: float) -> bool:
    """Say whether a lease counts.

    One from a clock far ahead would block its account for as long.
    """
    return now < lease.expires_at <= now + max(lasts_s, LEASE_S) * (1 + MARGIN)


@contextlib.contextmanager
def kept(held: HeldLease, *, pacer: Callable[[], dict[str, Any]]) -> Iterator[HeldLease]:
    """Renew a lease from a thread while the block runs.

    Then release it with the rate windows used.
    """
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(held, pacer, done), name="lease", daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        done.set()
        keeper.join()
        held.release(pacer())


def _keep(held: HeldLease, pacer: Callable[[], dict[str, Any]], done: threading.Event) -> None:
    while not done.wait(held.lasts_s / 4):
        try:
            held.renew(pacer())
        except LeaseHeld:
            return  # `check` tells the worker
        except ExporterError as exc:
            logger.warning("lease not renewed, trying again", extra={"cause": type(exc).__name__})


def _parse(document: Document | None) -> Lease | None:
    """A damaged lease counts as none: it would block its account for ever."""
    if document is None:
        return None
    try:
        return Lease.model_validate_json(document.data)
    except ValidationError:
        return None


def _encode(lease: Lease) -> bytes:
    return lease.model_dump_json(by_alias=True).encode()
