"""What the timer does, by saved state alone: late, missed and doubled ticks, restarts and crashes change nothing.

    start what is due        schedules/{export}.json    up to where its schedule is done with, and what is being started
    look for missed events   arrivals.json              once an hour: snapshots that nobody told of
    look after runs          open/{export}/{run}        an index of runs that are open, or whose end was not tidied up
    send notices             outbox/                    see notices.py
    once a day, in portions  housekeeping.json          see retention.py; and segments that no snapshot arrives of

A moment that is due is claimed with the manifest that it is for, by a conditional write, before the run is started on
that manifest: of any number of instances, and after a crash between the two, there is one run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.definitions.export import Export
from exporter.definitions.schedule import Schedule
from exporter.errors import DocumentUnreadable, ExporterError, NoSnapshot, StoreMoved
from exporter.logs import cause_of
from exporter.runs import retention
from exporter.runs.notices import Notice
from exporter.runs.run import RunName, Status
from exporter.runs.run_store import OPEN_RUNS, Listed
from exporter.snapshots.manifest import Manifest
from exporter.snapshots.paths import parse_blob_name
from exporter.storage.protocols import Document, Store, parse_document

if TYPE_CHECKING:
    from exporter.orchestration.dispatcher import Exporter

logger = logging.getLogger(__name__)

HOUSEKEEPING, ARRIVALS = "housekeeping.json", "arrivals.json"
BETWEEN_LOOKS = timedelta(hours=1)
LOOK_BACK = timedelta(hours=1)  # for when an export was saved: many ticks
QUIET = "quiet-"  # and the last snapshot's time: what a notice of segments that are silent since is about
MANIFESTS = 20  # of an export's newest runs are looked at, at most, for when its segments were last exported


def tick(exporter: Exporter, now: datetime) -> None:
    """Do all of it; what fails does not keep the rest from being done. Raises the first error at the end."""
    errors: list[Exception] = []
    parts: tuple[Callable[[Exporter, datetime], None], ...] = (
        *(start_due, look_for_missed, look_after_runs, send_notices, keep_house),
    )
    for part in parts:
        try:
            part(exporter, now)
        except Exception as exc:  # noqa: BLE001 - raised again when the other parts had their turn
            logger.error(
                "part of a tick failed", extra={"phase": part.__name__, "cause": cause_of(exc)}
            )
            errors.append(exc)
    if errors:
        raise errors[0]


# Schedules


class Claim(BaseModel):
    """A moment that some instance is starting a run for; without a manifest, why there is nothing to run on."""

    due: datetime  # the first of those that passed since
    at: datetime  # when it was claimed: every moment up to here is done with it
    manifest: Manifest | None = None
    message: str = ""
    hint: str = ""


class Timetable(BaseModel):
    """How far an export's schedule is done with."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    schedule: Schedule  # that this is about; another one begins anew
    since: datetime  # when it began to count: saving an export never runs it
    done: datetime  # every moment up to here
    claim: Claim | None = None
    skipped: str = ""  # the run that the last of these moments was skipped with, if it was


def start_due(exporter: Exporter, now: datetime) -> None:
    """Start the runs that are due. An export that cannot be started does not keep the others from their times."""
    active = set()
    for export in exporter.catalog.exports():
        if not (export.is_active and export.schedule.is_active):
            continue
        active.add(_name(export.id))
        try:
            _start_if_due(exporter, export, now)
        except StoreMoved:
            continue  # another instance is at it
        except ExporterError as exc:
            logger.error("export not started", extra={"export": export.id, "cause": cause_of(exc)})
    for name in exporter.store.names("schedules/"):
        if (
            name not in active
        ):  # paused, switched off or gone: moments that pass meanwhile are not made up for
            exporter.store.delete(name)


def _start_if_due(exporter: Exporter, export: Export, now: datetime) -> None:
    table, etag = _timetable(exporter.store, export, now)
    if table.claim is None:
        due = export.schedule.next_after(table.done)
        if due is None or due > now:
            return
        table = table.model_copy(update={"claim": _claim(exporter, export, due, now)})
        etag = exporter.store.replace(_name(export.id), _encode(table), etag=etag)
    assert table.claim is not None
    claim = table.claim
    if claim.manifest:
        run = exporter.start_on(
            export,
            claim.manifest,
            because="schedule",
            due_at=claim.due,
            skipped_before=table.skipped,
        )
    else:
        run = exporter.skip(
            export, claim.due, message=claim.message, hint=claim.hint, before=table.skipped
        )
    skipped = run.run_id if run.status is Status.SKIPPED else ""
    done = table.model_copy(update={"done": claim.at, "claim": None, "skipped": skipped})
    exporter.store.replace(_name(export.id), _encode(done), etag=etag)


def _claim(exporter: Exporter, export: Export, due: datetime, now: datetime) -> Claim:
    connection = exporter.catalog.connection(export.connection) if export.connection else None
    # A run without them would be canceled, at every moment anew.
    if connection is None:
        return Claim(
            due=due,
            at=now,
            message="the connection was removed",
            hint="Give the export another one.",
        )
    if connection.consent is None:
        message = "nobody has agreed that data of this connection leaves for Klaviyo"
        return Claim(due=due, at=now, message=message, hint="Agree first.")
    try:
        return Claim(due=due, at=now, manifest=exporter.settling.freeze_newest(export))
    except NoSnapshot as exc:
        return Claim(due=due, at=now, message=exc.message, hint=exc.hint)


def _timetable(store: Store, export: Export, now: datetime) -> tuple[Timetable, str]:
    """The export's timetable; a new one where there is none, or one of another schedule. Raises StoreMoved."""
    found = store.read(_name(export.id))
    table = _parse(found)
    if found and table and table.schedule == export.schedule:
        return table, found.etag
    since = _saved_at(export, now)
    table = Timetable(schedule=export.schedule, since=since, done=since)
    if found:
        return table, store.replace(_name(export.id), _encode(table), etag=found.etag)
    return table, store.create(_name(export.id), _encode(table))


def _saved_at(export: Export, now: datetime) -> datetime:
    """When an export that is new to the timer was saved: its times count from then.

    A change of long ago is not why it is new: a person put a document back by hand, or took "paused" out of it.
    """
    saved = export.changed.at if export.changed else now
    is_recent = saved.tzinfo is not None and now - LOOK_BACK < saved < now
    return saved if is_recent else now


def _parse(found: Document | None) -> Timetable | None:
    """One that cannot be read counts as none: it would otherwise keep its export from ever running."""
    try:
        return Timetable.model_validate_json(found.data) if found else None
    except ValidationError:
        return None


def _name(export_id: str) -> str:
    return f"schedules/{export_id}.json"


# Missed events


class Arrivals(BaseModel):
    """When the container was last looked through."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    looked_at: datetime


def look_for_missed(exporter: Exporter, now: datetime) -> None:
    """Queue a look at each newest snapshot that no run was made of, long after it arrived: its events were lost.

    Once an hour. What arrived before its export was saved does not count: saving an export never runs it. A look at a
    snapshot that was not missed after all comes to nothing.
    """
    try:
        if not _claim_look(exporter.store, now):
            return
    except StoreMoved:
        return  # another instance is at it
    waiting = [
        (export, since)
        for export in exporter.catalog.exports()
        if (since := _waits_since(exporter, export))
    ]
    segments = [segment for export, _ in waiting for segment in export.segments]
    found = exporter.settling.arrived(segments) if waiting else []
    settled_by_now = now - timedelta(seconds=exporter.limits.patience_s)
    missed = {}
    for export, since in waiting:
        for segment in export.segments:
            newest = next((each for each in found if each.ref.is_of(segment)), None)
            if newest is None or not since <= newest.last.modified_at <= settled_by_now:
                continue
            if not exporter.settling.has_run(export, newest.ref, since=newest.last.modified_at):
                missed[newest.last.name] = newest.ref.segment
    for blob_name, segment in missed.items():
        logger.warning("snapshot missed", extra={"segment": segment})
        exporter.settling.look_at(blob_name)


def _waits_since(exporter: Exporter, export: Export) -> datetime | None:
    """Since when an export waits for snapshots to arrive; None when it does not. Storage tells times by the second."""
    table = _parse(exporter.store.read(_name(export.id)))
    if table is None or not export.is_active or export.schedule.on != "arrival":
        return None
    saved = export.changed.at if export.changed else table.since
    return max(table.since, saved if saved.tzinfo else table.since).replace(microsecond=0)


def _claim_look(store: Store, now: datetime) -> bool:
    """Whether an hour has passed since the last look; then it begins anew. Raises StoreMoved."""
    found = store.read(ARRIVALS)
    data = _encode(Arrivals(looked_at=now))
    if found is None:
        store.create(ARRIVALS, data)
        return True
    with contextlib.suppress(ValidationError):
        if now - Arrivals.model_validate_json(found.data).looked_at < BETWEEN_LOOKS:
            return False
    store.replace(ARRIVALS, data, etag=found.etag)
    return True


# Runs


def look_after_runs(exporter: Exporter, now: datetime) -> None:
    """Give open runs that lost their message a new one; tidy up after closed ones whose closer did not get to it."""
    for name in exporter.store.names(OPEN_RUNS):
        run_id = name.removeprefix(OPEN_RUNS)
        try:
            _look_after(exporter, run_id, now)
        except DocumentUnreadable as exc:
            logger.error("run not looked after", extra={"run_id": run_id, "cause": exc.message})


def _look_after(exporter: Exporter, run_id: str, now: datetime) -> None:
    run = exporter.run(run_id)
    if run is None:
        _drop_if_old(exporter.store, OPEN_RUNS + run_id, now)
    elif not run.status.is_open:
        exporter.records.tidy(run)
    else:
        exporter.nudge(run, now)


def _drop_if_old(store: Store, name: str, now: datetime) -> None:
    """Delete an entry without a run, unless it is so young that the run may be about to be written."""
    found = store.read(name)
    if found and parse_document(Listed, name, found.data).at < now - timedelta(hours=1):
        store.delete(name, etag=found.etag)


# Notices


def send_notices(exporter: Exporter, now: datetime) -> None:
    exporter.notices.deliver(now)


# Once a day


class Housekeeping(BaseModel):
    """The last day whose round is done."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    done: date


def keep_house(exporter: Exporter, now: datetime) -> None:
    """Do the day's round, or a portion of it. Two instances that do the same do no harm."""
    store, today = exporter.store, now.date()
    found = store.read(HOUSEKEEPING)
    if found:
        with contextlib.suppress(ValidationError):
            if Housekeeping.model_validate_json(found.data).done == today:
                return
    exports = {export.id: export for export in exporter.catalog.exports()}
    left = retention.PORTION
    for export_id in sorted({*exports, *store.folders("runs/"), *store.folders("notices/")}):
        try:
            left -= _clear_out(exporter, export_id, now, most=left)
            quiet = _tell_if_quiet(exporter, exports.get(export_id), now)
            _drop_notices(exporter, export_id, quiet)
        except ExporterError as exc:  # for this one, again tomorrow
            logger.error("housekeeping failed", extra={"export": export_id, "cause": cause_of(exc)})
        if left <= 0:
            return  # the next tick goes on
    data = _encode(Housekeeping(done=today))
    with contextlib.suppress(StoreMoved):  # another instance was faster
        store.replace(HOUSEKEEPING, data, etag=found.etag) if found else store.create(
            HOUSEKEEPING, data
        )


def _clear_out(exporter: Exporter, export_id: str, now: datetime, *, most: int) -> int:
    """Delete what is past its time. The number of blobs."""
    deleted = retention.clear_out(
        exporter.store,
        export_id,
        now=now,
        runs_kept=timedelta(days=exporter.limits.runs_kept_days),
        rejected_kept=timedelta(days=exporter.limits.rejected_kept_days),
        most=most,
        read_run=exporter.records.readable,
    )
    if deleted:
        logger.info(
            "cleared out", extra={"export": export_id, "outcome": f"{deleted} blobs deleted"}
        )
    return deleted


def _tell_if_quiet(exporter: Exporter, export: Export | None, now: datetime) -> set[str]:
    """Raise a notice, once, for segments of an active export that had no new snapshot for too long.

    What the notices are about: one for all segments that are silent since the same moment.
    """
    days = exporter.limits.no_snapshot_days
    table = _parse(exporter.store.read(_name(export.id))) if export and days else None
    if export is None or table is None:
        return set()
    long_ago = now - timedelta(days=days)
    silent: dict[str, list[str]] = {}
    for segment, last in _last_snapshots(
        exporter, export, table.since, now=now, long_ago=long_ago
    ).items():
        if last <= long_ago:
            silent.setdefault(f"{last:%Y%m%dT%H%M%SZ}", []).append(segment)
    for since, segments in silent.items():
        moment = datetime.strptime(since, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        exporter.notices.add(
            Notice(
                kind="quiet",
                export=export.id,
                export_name=export.name,
                about=QUIET + since,
                message=f"no new snapshot of {', '.join(segments)} since {moment:%Y-%m-%d %H:%M} UTC",
                hint="Look at the export's status in Customer Insights. If it ran there, look at the app's events.",
                created_at=now,
            )
        )
    return {QUIET + since for since in silent}


def _drop_notices(exporter: Exporter, export_id: str, quiet: set[str]) -> None:
    """A notice goes with its run, or with the snapshot that ends the quiet."""
    runs = set(exporter.store.folders(f"runs/{export_id}/"))
    for about in exporter.notices.abouts(export_id):
        if about not in quiet and about not in runs:
            exporter.notices.remove(export_id, about)


def _last_snapshots(
    exporter: Exporter, export: Export, since: datetime, *, now: datetime, long_ago: datetime
) -> dict[str, datetime]:
    """When the newest snapshot of each segment that a run was made for was exported, or `since` if that is later."""
    changed = (
        export.changed.at if export.changed else since
    )  # a segment may have been added by then
    never = max(since, changed) if changed.tzinfo and changed < now else since
    last = _exported(export, _newest_manifests(exporter, export))
    is_quiet = any(last.get(segment, never) <= long_ago for segment in export.segments)
    if (
        is_quiet and export.schedule.on == "schedule"
    ):  # there may be newer ones that no run was due for yet
        with contextlib.suppress(NoSnapshot):
            arrived = _exported(export, [exporter.settling.freeze_newest(export)])
            last |= {
                segment: max(moment, last.get(segment, moment))
                for segment, moment in arrived.items()
            }
    return {
        segment: max(since, last[segment]) if segment in last else never
        for segment in export.segments
    }


def _newest_manifests(exporter: Exporter, export: Export) -> Iterator[Manifest]:
    """Those of the newest runs, until every segment is in one: that of an incomplete snapshot holds no others."""
    by_digest = {
        found.digest: (found.at, name)
        for name in exporter.store.folders(f"runs/{export.id}/")
        if (found := RunName.parse(name)) and not found.is_skipped
    }
    newest_first = sorted(by_digest.values(), reverse=True)
    missing = set(export.segments)
    for minute, name in newest_first[:MANIFESTS]:
        if not missing and minute < newest_first[0][0]:
            return
        if run := exporter.run(f"{export.id}/{name}"):
            missing -= set(_exported(export, [run.manifest]))
            yield run.manifest


def _exported(export: Export, manifests: Iterable[Manifest]) -> dict[str, datetime]:
    """When the newest snapshot of each segment in these manifests was exported."""
    newest: dict[str, datetime] = {}
    for manifest in manifests:
        for ref in {parse_blob_name(part.name) for part in manifest.partitions}:
            moment = manifest.exported.get(ref.prefix, manifest.exported_at)
            for segment in export.segments:
                if ref.is_of(segment):
                    newest[segment] = max(moment, newest.get(segment, moment))
    return newest


def _encode(document: BaseModel) -> bytes:
    return document.model_dump_json(by_alias=True).encode()
