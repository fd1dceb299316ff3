"""A lease on a Klaviyo account: its quota is the account's, so runs over it take turns, by whatever connection.

    leases/accounts/{account}.json    owner, generation, expires_at, and the account's used rate windows
    leases/{connection}.json          the same, where the connection's account is not known

Taking over an expired lease raises `generation` by one. The holder keeps it alive from a thread of its own and looks
at `held.check()` before each effect; the journal's append position is the fence behind it, should a holder be so slow
that it does not notice. Clocks of instances may differ by less than the margin: what ends later than a lease taken now
could is none.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.errors import AlreadyThere, ExporterError, LeaseHeld, StoreMoved
from exporter.storage.protocols import Document, Store

logger = logging.getLogger(__name__)

LEASE_S = 60.0  # how long a dead holder keeps others out
MARGIN = (
    1 / 6
)  # a holder stops with this part of its lease left: clock skew, and a request under way


class Lease(BaseModel):
    """The document."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    owner: str
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
        self._store, self._name, self._lease, self._etag, self._clock = (
            store,
            name,
            lease,
            etag,
            clock,
        )
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
                "the lease of this account was lost to another instance or ran out", retry_after_s=5
            )

    def renew(self, pacer: dict[str, Any] | None = None) -> None:
        """Put the end further off; keep the rate windows for whoever comes next. Raises LeaseHeld when it is lost."""
        with self._lock:
            self._write(self.lasts_s, pacer)

    def release(self, pacer: dict[str, Any]) -> None:
        """Give the lease back, with the rate windows used so far."""
        try:
            with self._lock:
                self._write(0, pacer)
        except (
            ExporterError
        ) as exc:  # it runs out by itself; what the step came to must not be lost over it
            logger.info("lease not given back", extra={"cause": type(exc).__name__})

    def _write(self, seconds: float, pacer: dict[str, Any] | None) -> None:
        update = {
            "expires_at": self._clock() + seconds,
            "pacer": self._lease.pacer if pacer is None else pacer,
        }
        lease = self._lease.model_copy(update=update)
        try:
            self._etag = self._store.replace(
                self._name, lease.model_dump_json(by_alias=True).encode(), etag=self._etag
            )
        except StoreMoved:
            self._lost = True
            raise LeaseHeld("another instance took this account over", retry_after_s=5) from None
        self._lease = lease


def lease_name(connection: str, account: str) -> str:
    """The name of the lease on a connection's account; "" where that is not known."""
    return (
        f"leases/accounts/{account}.json"
        if _ACCOUNT.fullmatch(account)
        else f"leases/{connection}.json"
    )


_ACCOUNT = re.compile(
    r"[A-Za-z0-9]{1,40}"
)  # Klaviyo's ids have six; what is no name of a blob is not made one


def take(
    store: Store, name: str, owner: str, *, clock: Callable[[], float], lasts_s: float = LEASE_S
) -> HeldLease:
    """Take a lease, or raise LeaseHeld with the time to wait for it."""
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
    data = lease.model_dump_json(by_alias=True).encode()
    try:
        etag = store.replace(name, data, etag=current.etag) if current else store.create(name, data)
    except (AlreadyThere, StoreMoved):
        raise LeaseHeld("another instance was faster", retry_after_s=2) from None
    return HeldLease(store, name, lease, etag, lasts_s=lasts_s, clock=clock)


def is_held(store: Store, name: str, *, now: float, lasts_s: float = LEASE_S) -> bool:
    """Whether some instance holds a lease at the moment."""
    lease = _parse(store.read(name))
    return lease is not None and _is_valid(lease, now, lasts_s)


def _is_valid(lease: Lease, now: float, lasts_s: float) -> bool:
    """Whether a lease counts. One that a clock far ahead wrote would block its account for as long as that."""
    return now < lease.expires_at <= now + max(lasts_s, LEASE_S) * (1 + MARGIN)


@contextlib.contextmanager
def kept(held: HeldLease, *, pacer: Callable[[], dict[str, Any]]) -> Iterator[HeldLease]:
    """Renew a lease from a thread while the block runs; release it at the end with the rate windows used."""
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
    """A lease that cannot be read counts as none: it would otherwise block its account for ever."""
    if document is None:
        return None
    try:
        return Lease.model_validate_json(document.data)
    except ValidationError:
        return None
