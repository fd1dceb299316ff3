"""What people see of connections, exports, segments and runs: the same in API and CLI. Pure.

Nothing here holds a key or a row. Times are aware, in UTC.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from exporter.definitions.connection import Check, Connection, Consent
from exporter.definitions.definition import Change
from exporter.definitions.export import Export
from exporter.definitions.mapping import MappingDocument
from exporter.definitions.schedule import Schedule
from exporter.errors import DocumentUnreadable, Invalid, Problem
from exporter.klaviyo.responses import KlaviyoList
from exporter.management.roles import Action, Actor, may
from exporter.runs.run import DELIVERED as DELIVERED
from exporter.runs.run import Counts, Phase, Run, Status
from exporter.sending.delivery import Delivery

PAGE, MAX_PAGE = 50, 200  # items of a page: unless somebody says otherwise, and at most
NO_CURSOR = Problem("cursor", "is not a valid cursor; use the `next` value of the previous page")
DAMAGED = "Damaged"  # the status of what cannot be read
NOT_STARTED = "Not started"  # of an export without a run: Customer Insights' own word

_CONNECTION_ACTIONS = (
    Action.READ_CONNECTION,
    Action.EDIT_CONNECTION,
    Action.CHECK_CONNECTION,
    Action.ROTATE_KEY,
    Action.CONSENT,
    Action.REMOVE_CONNECTION,
    Action.SEE_LISTS,
    Action.CREATE_LIST,
)
EXPORT_ACTIONS = (
    Action.EDIT_EXPORT,
    Action.CREATE_EXPORT,
    Action.DETACH_EXPORT,
    Action.REMOVE_EXPORT,
    Action.RUN_EXPORT,
    Action.PLAN_EXPORT,
    Action.READ_ROWS,
    Action.CANCEL_RUN,
)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class ConnectionDetails(_View):
    """What administrators see of a connection. exports: the ids of the exports that use it."""

    used_by: str
    secret: str  # its name
    consent: Consent | None
    check: Check | None
    created: Change | None
    changed: Change | None
    exports: list[str]
    etag: str


class ConnectionView(_View):
    """A connection. may: the names of the actions that the person who asks may do on it.

    problem: why its document cannot be read; then only its id is known.
    """

    id: str
    name: str
    type: str
    may: list[str]
    details: ConnectionDetails | None = None
    problem: str = ""


class ListView(_View):
    """A Klaviyo list. flows: those that joining it starts; None where the key may not see them."""

    id: str
    name: str
    opt_in_process: str
    flows: list[str] | None


class SegmentView(_View):
    """A segment found in storage, by its newest snapshot. name: what an export calls it.

    members: the snapshot's rows; None for a large snapshot that no run has read yet.
    """

    name: str
    newest_at: datetime
    age_s: float
    files: int
    size_bytes: int
    members: int | None


class RunView(_View):
    """A run.

    counts: None for a run that ended before its files were read. accepted: profiles that Klaviyo
    accepted. confirmed: those of them that Klaviyo says it imported. unknown: those whose result
    Klaviyo has not told. phase_at: when it entered its phase. waits_for, waits_until: of an open
    run, until it is tried again. problem: why the run's document cannot be read; then little is
    known.
    """

    id: str
    export: str
    export_name: str
    because: str
    status: str
    phase: str
    is_open: bool
    list_id: str
    snapshots: list[str]
    exported_at: datetime
    created_at: datetime
    started_at: datetime | None
    sent_at: datetime | None
    finished_at: datetime | None
    counts: Counts | None
    message: str
    hint: str
    accepted: int | None = None
    confirmed: int | None = None
    unknown: int | None = None
    phase_at: datetime | None = None
    waits_for: str = ""
    waits_until: datetime | None = None
    problem: str = ""


class ExportView(_View):
    """An export: the columns that Customer Insights shows for its own, and the rest.

    status: of its last run, else "Not started". refreshed: when a run last delivered. next_run_at:
    the next moment of its schedule; None if it waits for snapshots or does not run. warnings: what
    somebody who has just saved it should know. problem: why its document cannot be read; then only
    its id is known, and it does not run.
    """

    id: str
    name: str
    connection: str | None
    connection_name: str | None  # None: detached, or the connection is gone
    type: str
    status: str
    schedule: Schedule
    schedule_text: str
    refreshed: datetime | None
    next_run_at: datetime | None = None
    created: Change | None
    changed: Change | None
    may: list[str]
    paused: bool
    list_id: str
    list_name: str
    segments: list[str]
    mapping: MappingDocument | None  # None only where the document cannot be read
    max_profiles: int | None
    keep_rejected_rows: bool
    reconcile: bool
    last_run: RunView | None
    warnings: list[str]
    etag: str
    problem: str = ""


class StartedView(_View):
    """What happened to one export in "run all": its run, or why it was not started."""

    export: str
    run: RunView | None
    problem: str = ""


class ActorView(_View):
    """The person who asks. may: the names of the actions that the role allows at all.

    Some of them may be allowed only over connections that are shared with contributors.
    """

    id: str
    name: str
    role: str
    may: list[str] = []


class ConsentView(_View):
    """The text to agree to. version: what somebody who agrees must name."""

    version: str
    text: str


class SuggestionView(_View):
    """A segment's columns, and a mapping document proposed from their names."""

    columns: list[str]
    mapping: dict[str, Any]


class AuditView(_View):
    """One change: who did what to which object. before, after: the fields that differ."""

    at: datetime
    by: dict[str, str]
    action: str
    object: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    outcome: str = ""


class AttentionView(_View):
    """Something that needs attention. about: such as exports/vips or app/queue."""

    severity: Literal["error", "warning"]
    about: str
    name: str
    problem: str
    hint: str = ""
    run: str | None = None
    since: datetime | None = None


class ExaminedView(_View):
    """What looking at one part of the app came to. hint: the one thing to do, where there is."""

    part: str
    state: Literal["ok", "attention", "failed"]
    said: str = ""
    hint: str = ""


class WhyView(_View):
    """What became of one person in one run.

    outcome: "left out" (then source, line, column and reason say where and why), "delivered", "not
    in the snapshot", or "unknown".
    """

    run: str
    export: str
    created_at: datetime
    status: str
    outcome: str
    message: str
    source: str = ""
    line: int | None = None
    column: str = ""
    reason: str = ""


class LeftAsideView(_View):
    """A file that belongs to no snapshot. segment: of an export, whose name the path bears."""

    name: str
    why: str
    segment: str | None
    size_bytes: int
    modified_at: datetime


Item = TypeVar("Item")


class Page(_View, Generic[Item]):
    """Part of a long list. next: the `cursor` of the following part; None at the end."""

    items: list[Item]
    next: str | None


def check_limit(limit: int) -> int:
    """Return how many items a page may have. Raises Invalid."""
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(Problem("limit", f"must be from 1 to {MAX_PAGE}"))
    return limit


Named = TypeVar("Named", ConnectionView, ExportView, ListView, SegmentView, LeftAsideView)


def page_of(found: Sequence[Named], *, limit: int, cursor: str) -> Page[Named]:
    """Return the part of a list, by name, after a cursor. Raises ValueError for a bad cursor."""
    after = base64.urlsafe_b64decode(cursor).decode()
    if cursor and "\t" not in after:
        raise ValueError("not a cursor")
    left = sorted((view for view in found if _place(view) > after), key=_place)
    following = (
        base64.urlsafe_b64encode(_place(left[limit - 1]).encode()).decode()
        if len(left) > limit
        else None
    )
    return Page[Named](items=left[:limit], next=following)


def _place(view: ConnectionView | ExportView | ListView | SegmentView | LeftAsideView) -> str:
    """Sort pages by name, then by id. The tab sorts before other characters."""
    if isinstance(view, SegmentView | LeftAsideView):
        return f"{view.name.casefold()}\t{view.name}"
    return f"{view.name.casefold()}\t{view.id}"


def connection_view(
    actor: Actor, connection: Connection, *, etag: str, exports: Sequence[str] | None
) -> ConnectionView:
    """Show a connection. exports: the ids of those that use it; None leaves the details out."""
    shared = is_shared(connection)
    details = None
    if exports is not None:
        kept = connection.model_dump(include={"used_by", "secret"})
        details = ConnectionDetails(
            **kept,
            consent=connection.consent,
            check=connection.check,
            created=connection.created,
            changed=connection.changed,
            exports=list(exports),
            etag=etag.strip('"'),
        )
    allowed = [
        action.name.lower() for action in _CONNECTION_ACTIONS if may(actor, action, shared=shared)
    ]
    return ConnectionView(
        id=connection.id, name=connection.name, type=connection.type, may=allowed, details=details
    )


def export_view(
    actor: Actor,
    export: Export,
    *,
    etag: str,
    connection: Connection | None,
    runs: Sequence[Run],
    refreshed: datetime | None = None,
    now: datetime,
    warnings: Sequence[str] = (),
) -> ExportView:
    """Show an export. connection: the export's own; None if it is detached or gone.

    runs: its newest ones. refreshed: when a run last delivered; None to look for it in `runs`.
    """
    shared = export.connection is None or (connection is not None and is_shared(connection))
    last = max(runs, key=lambda run: run.created_at, default=None)
    delivered = [run.finished_at for run in runs if run.status in DELIVERED]
    return ExportView(
        id=export.id,
        name=export.name,
        connection=export.connection,
        connection_name=connection.name if connection else None,
        type="klaviyo",
        status=str(last.status) if last else NOT_STARTED,
        schedule=export.schedule,
        schedule_text=export.schedule.describe(),
        next_run_at=export.schedule.next_after(now) if export.is_active else None,
        refreshed=refreshed or max((moment for moment in delivered if moment), default=None),
        created=export.created,
        changed=export.changed,
        may=[action.name.lower() for action in EXPORT_ACTIONS if may(actor, action, shared=shared)],
        paused=export.paused,
        list_id=export.list_id,
        list_name=export.list_name,
        segments=export.segments,
        mapping=export.mapping,
        max_profiles=export.max_profiles,
        keep_rejected_rows=export.keep_rejected_rows,
        reconcile=export.reconcile,
        last_run=run_view(last) if last else None,
        warnings=list(warnings),
        etag=etag.strip('"'),
    )


def damaged_connection_view(connection_id: str, problem: DocumentUnreadable) -> ConnectionView:
    """Show a connection whose document cannot be read."""
    return ConnectionView(
        id=connection_id,
        name=connection_id,
        type="klaviyo",
        may=[],
        problem=f"{problem.message}. {problem.hint}",
    )


def damaged_export_view(export_id: str, problem: DocumentUnreadable) -> ExportView:
    """Show an export whose document cannot be read."""
    return ExportView(
        id=export_id,
        name=export_id,
        connection=None,
        connection_name=None,
        type="klaviyo",
        status=DAMAGED,
        schedule=Schedule(on="off"),
        schedule_text="",
        refreshed=None,
        created=None,
        changed=None,
        may=[],
        paused=False,
        list_id="",
        list_name="",
        segments=[],
        mapping=None,
        max_profiles=None,
        keep_rejected_rows=False,
        reconcile=False,
        last_run=None,
        warnings=[],
        etag="",
        problem=f"{problem.message}. {problem.hint}",
    )


def saved(view: ExportView, etag: str) -> ExportView:
    """Complete a view that was made before saving its export, so that nothing fails afterwards."""
    return view.model_copy(update={"etag": etag.strip('"')})


def run_view(run: Run, *, delivery: Delivery | None = None) -> RunView:
    """Show a run. delivery: what became of an open run's batches so far."""
    counts = run.counts if run.is_counted or run.status.is_open else None
    accepted = confirmed = unknown = None
    if run.is_counted and delivery:
        accepted, confirmed = delivery.accepted_profiles, delivery.confirmed_profiles()
        unknown = max(accepted - confirmed - delivery.failed_profiles(), 0)
    elif run.is_counted:
        accepted, confirmed = run.counts.accepted, run.counts.delivered
        unknown = run.counts.unknown
    return RunView(
        id=run.run_id,
        export=run.export,
        export_name=run.export_name,
        because=run.because,
        status=str(run.status),
        phase=str(run.phase),
        is_open=run.status.is_open,
        list_id=run.list_id,
        snapshots=run.manifest.snapshots,
        exported_at=run.manifest.exported_at,
        created_at=run.created_at,
        started_at=run.started_at,
        sent_at=run.sent_at,
        finished_at=run.finished_at,
        counts=counts,
        message=run.message,
        hint=run.hint,
        phase_at=run.phase_at,
        waits_for=_waits_for(run),
        waits_until=run.waits_until,
        accepted=accepted,
        confirmed=confirmed,
        unknown=unknown,
    )


def _waits_for(run: Run) -> str:
    if run.message or not run.status.is_open:
        return run.message if run.status.is_open else ""
    if run.status is Status.QUEUED:
        return "its turn"
    if run.phase is Phase.CONFIRM:
        return "Klaviyo, which imports what it accepted"
    if run.phase is Phase.FINISH:
        return "Klaviyo's count of the list"
    return ""


def damaged_run_view(run_id: str, *, at: datetime, problem: DocumentUnreadable) -> RunView:
    """Show a run whose document cannot be read. at: when it was created, as far as is known."""
    export_id = run_id.partition("/")[0]
    return RunView(
        id=run_id,
        export=export_id,
        export_name=export_id,
        because="",
        status=DAMAGED,
        phase="",
        is_open=False,
        list_id="",
        snapshots=[],
        exported_at=at,
        created_at=at,
        started_at=None,
        sent_at=None,
        finished_at=None,
        counts=None,
        message=problem.message,
        hint=problem.hint,
        problem=problem.message,
    )


def list_view(found: KlaviyoList) -> ListView:
    flows = None if found.flows is None else list(found.flows)
    return ListView(id=found.id, name=found.name, opt_in_process=found.opt_in_process, flows=flows)


def is_shared(connection: Connection) -> bool:
    """Tell whether contributors may use a connection."""
    return connection.used_by == "contributors"
