"""The parts that move runs along, put together. Who needs a part gets that part, not the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr

from exporter.definitions.catalog import Catalog
from exporter.orchestration import self_test
from exporter.orchestration.arrivals import Arrivals
from exporter.orchestration.attempt import Attempt
from exporter.orchestration.cleanup import Cleanup
from exporter.orchestration.dispatcher import Dispatcher
from exporter.orchestration.due_schedules import DueSchedules, Timetables
from exporter.orchestration.health import Check, Health
from exporter.orchestration.lease import AccountLeases
from exporter.orchestration.missed_arrivals import MissedArrivals
from exporter.orchestration.run_step import Collaborators, Klaviyo
from exporter.orchestration.start_run import RunStarter
from exporter.orchestration.timer import Timer
from exporter.orchestration.withdrawal import Withdrawal
from exporter.orchestration.work_places import WorkPlaces
from exporter.planning.disk_space import DiskSpace
from exporter.runs.notices import Notice, Notices
from exporter.runs.plan_store import PlanStore
from exporter.runs.run_store import RunStore
from exporter.settings import StepLimits
from exporter.snapshots.container import SnapshotContainer
from exporter.storage.protocols import Snapshots, Store, WorkQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What triggers, management and the command line take their parts from."""

    store: Store
    snapshots: Snapshots
    catalog: Catalog
    container: SnapshotContainer
    runs: RunStore
    plans: PlanStore
    notices: Notices
    starter: RunStarter
    arrivals: Arrivals
    dispatcher: Dispatcher
    timer: Timer
    health: Health
    deep_checks: Mapping[str, Check]
    read_secret: Callable[[str], SecretStr]
    limits: StepLimits


def build_engine(
    *,
    store: Store,
    snapshots: Snapshots,
    queue: WorkQueue,
    read_secret: Callable[[str], SecretStr],
    open_klaviyo: Callable[[SecretStr], Klaviyo],
    work: Path,
    container_name: str = "",
    instance: str = "this instance",
    notify: Callable[[Notice], None] | None = None,
    checks: Mapping[str, Check] = MappingProxyType({}),
    deep_checks: Mapping[str, Check] = MappingProxyType({}),
    limits: StepLimits = StepLimits(),
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Engine:
    """Put the parts together.

    read_secret: a secret's value by its name. open_klaviyo: a client for a key. work: a folder for
    plans in use. container_name: the snapshots container's, as model.json may spell it out.
    instance: for people who read leases. notify: sends a notice; None for no notices. checks: what
    else the health check asks. deep_checks: what only the doctor looks at besides. progress: told
    (phase, profiles done, of how many; 0 = not known yet).
    """

    def now() -> datetime:
        return datetime.fromtimestamp(clock(), UTC)

    catalog = Catalog(store)
    container = SnapshotContainer(
        snapshots,
        name=container_name,
        settle_s=limits.settle_s,
        patience_s=limits.patience_s,
        now=now,
    )
    notices = Notices(store, notify)
    plans = PlanStore(store, work=work)
    runs = RunStore(store, plans, notices, now=now)
    starter = RunStarter(container, runs, queue, now=now)
    arrivals = Arrivals(container, catalog, runs, starter, queue, now=now, setbacks=limits.setbacks)
    leases = AccountLeases(store, catalog, instance=instance, clock=clock, lasts_s=limits.lease_s)
    collaborators = Collaborators(
        store=store,
        container=container,
        runs=runs,
        plans=plans,
        withdrawal=Withdrawal(catalog, runs),
        places=WorkPlaces(clock=clock),
        disk=DiskSpace(work, limit_mb=limits.disk_mb),
        read_secret=read_secret,
        open_klaviyo=open_klaviyo,
        limits=limits,
        now=now,
        clock=clock,
        sleep=sleep,
        progress=progress,
    )
    attempt = Attempt(collaborators, leases, catalog, container, starter)
    timetables = Timetables(store)
    missed = MissedArrivals(store, container, catalog, arrivals, timetables)
    timer = Timer(
        DueSchedules(timetables, catalog, container, starter),
        missed,
        runs,
        leases,
        queue,
        notices,
        Cleanup(
            store,
            catalog,
            container,
            runs,
            notices,
            timetables,
            runs_kept_days=limits.runs_kept_days,
            rejected_kept_days=limits.rejected_kept_days,
            no_snapshot_days=limits.no_snapshot_days,
        ),
        now=now,
    )
    all_checks: dict[str, Check] = {"state": store.ping, "snapshots": snapshots.ping, **checks}
    all_checks["events"] = lambda: missed.remark(now())
    return Engine(
        store=store,
        snapshots=snapshots,
        catalog=catalog,
        container=container,
        runs=runs,
        plans=plans,
        notices=notices,
        starter=starter,
        arrivals=arrivals,
        dispatcher=Dispatcher(arrivals, attempt, runs, queue),
        timer=timer,
        health=Health(all_checks, clock=clock),
        deep_checks={
            "state": lambda: self_test.write_and_read(store),
            "snapshots": lambda: self_test.list_snapshots(snapshots),
            "timer": lambda: missed.last_tick(now()),
            "runs": timer.stuck_runs,
            "disk": lambda: self_test.free_disk(work),
            "versions": self_test.versions,
            **deep_checks,
        },
        read_secret=read_secret,
        limits=limits,
    )
