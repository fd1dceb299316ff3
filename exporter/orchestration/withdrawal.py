"""Whether a person took back what a run stands on. A run asks before every batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from exporter import telemetry
from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection
from exporter.definitions.definition import is_same_document
from exporter.errors import RunCanceled
from exporter.runs.run import Run
from exporter.runs.run_store import RunStore

FRESH_S = 0.3  # how old the answer may be when a batch leaves


class Withdrawal:
    """Looks whether a run may go on."""

    def __init__(self, catalog: Catalog, runs: RunStore) -> None:
        self._catalog, self._runs = catalog, runs

    def connection_of(self, run: Run) -> Connection:
        """Return the connection that the run was planned with.

        Raises RunCanceled if it was removed.
        """
        connection = self._catalog.connection(run.connection)
        if connection is None or not is_same_document(connection, run.connection_created_at):
            raise RunCanceled("the connection was removed")
        return connection

    def check(self, run: Run) -> None:
        """Raise RunCanceled where a person took back what the run stands on."""
        export = self._catalog.export(run.export)
        if export is None or not is_same_document(export, run.export_created_at):
            raise RunCanceled("the export was removed")
        if export.paused or export.connection != run.connection:
            raise RunCanceled("the export was paused or given another connection")
        if self.connection_of(run).consent is None:
            raise RunCanceled(
                "nobody has agreed that data of this connection leaves for Klaviyo",
                hint="Agree first.",
            )
        why = self._runs.why_cancelled(run.run_id)
        if why is not None:
            raise RunCanceled(why)


class Watch:
    """Looks beside the sending: three reads before every batch would hold up the pace."""

    def __init__(
        self,
        look: Callable[[], None],
        beside: ThreadPoolExecutor,
        clock: Callable[[], float],
    ) -> None:
        """look: raises where the run must stop. beside: a pool with a thread for it."""
        self._look, self._beside, self._clock = look, beside, clock
        self._looked_at = -math.inf
        self._looking: tuple[float, Future[None]] | None = None

    def check(self) -> None:
        """Raise what a look found. Waits only where the last look began more than FRESH_S ago."""
        now = self._clock()
        if self._looking and self._looking[1].done():
            self._finish()
        if not self._looking and now - self._looked_at > FRESH_S / 2:
            self._begin(now)
        if now - self._looked_at > FRESH_S:
            self._finish()
        if now - self._looked_at > FRESH_S:  # that look took too long itself
            self._begin(now)
            self._finish()

    def _begin(self, now: float) -> None:
        self._looking = now, self._beside.submit(telemetry.carrying(self._look))

    def _finish(self) -> None:
        if self._looking:
            (began_at, looking), self._looking = self._looking, None
            looking.result()
            self._looked_at = began_at
