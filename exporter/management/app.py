"""An app as one person uses it: straight on its store, or over HTTP (remote.py). The command line knows no difference.

The methods are those of management.py, whose docstrings say what each does and raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

from pydantic import SecretStr

from exporter.management.forms import ConnectionForm, ExportForm, NewConnectionForm, NewExportForm
from exporter.management.management import PAGE, Management
from exporter.management.roles import Actor
from exporter.management.views import (
    ActorView,
    ConnectionView,
    ConsentView,
    ExportView,
    ListView,
    Page,
    RunView,
    SegmentView,
    StartedView,
    SuggestionView,
)

WithExports = Literal["refuse", "detach", "remove"]
Rows = Literal["rejected", "duplicates"]


class App(Protocol):
    """What a person can do."""

    def whoami(self) -> ActorView: ...
    def consent_text(self) -> ConsentView: ...

    def connections(self) -> list[ConnectionView]: ...
    def connection(self, connection_id: str) -> ConnectionView: ...
    def create_connection(self, form: NewConnectionForm) -> ConnectionView: ...
    def edit_connection(
        self, connection_id: str, form: ConnectionForm, *, etag: str
    ) -> ConnectionView: ...
    def check_connection(self, connection_id: str) -> ConnectionView: ...
    def rotate_key(self, connection_id: str, key: SecretStr) -> ConnectionView: ...
    def agree(self, connection_id: str, version: str) -> ConnectionView: ...
    def withdraw(self, connection_id: str) -> ConnectionView: ...
    def remove_connection(
        self, connection_id: str, *, etag: str, exports: WithExports, delete_secret: bool
    ) -> None: ...
    def lists(self, connection_id: str) -> list[ListView]: ...
    def create_list(self, connection_id: str, name: str) -> ListView: ...

    def segments(self) -> list[SegmentView]: ...
    def suggest_mapping(self, segment: str) -> SuggestionView: ...

    def exports(self) -> list[ExportView]: ...
    def export(self, export_id: str) -> ExportView: ...
    def create_export(self, form: NewExportForm) -> ExportView: ...
    def edit_export(self, export_id: str, form: ExportForm, *, etag: str) -> ExportView: ...
    def duplicate_export(self, export_id: str) -> ExportView: ...
    def detach_export(self, export_id: str) -> ExportView: ...
    def pause_export(self, export_id: str, *, paused: bool) -> ExportView: ...
    def remove_export(self, export_id: str, *, etag: str) -> None: ...
    def plan_export(self, export_id: str, *, show_values: bool = False) -> dict[str, Any]: ...

    def run_export(self, export_id: str) -> RunView: ...
    def run_all(self) -> list[StartedView]: ...
    def runs(self, export_id: str, *, limit: int = PAGE, cursor: str = "") -> Page[RunView]: ...
    def run(self, run_id: str) -> RunView: ...
    def report(self, run_id: str) -> dict[str, Any]: ...
    def rows(self, run_id: str, kind: Rows) -> Iterator[bytes]: ...
    def cancel_run(self, run_id: str) -> RunView: ...


class LocalApp:
    """A Management as one actor uses it."""

    def __init__(self, management: Management, actor: Actor) -> None:
        self._management, self._actor = management, actor

    def whoami(self) -> ActorView:
        return self._management.whoami(self._actor)

    def consent_text(self) -> ConsentView:
        return self._management.consent_text(self._actor)

    def connections(self) -> list[ConnectionView]:
        return self._management.connections(self._actor)

    def connection(self, connection_id: str) -> ConnectionView:
        return self._management.connection(self._actor, connection_id)

    def create_connection(self, form: NewConnectionForm) -> ConnectionView:
        return self._management.create_connection(self._actor, form)

    def edit_connection(
        self, connection_id: str, form: ConnectionForm, *, etag: str
    ) -> ConnectionView:
        return self._management.edit_connection(self._actor, connection_id, form, etag=etag)

    def check_connection(self, connection_id: str) -> ConnectionView:
        return self._management.check_connection(self._actor, connection_id)

    def rotate_key(self, connection_id: str, key: SecretStr) -> ConnectionView:
        return self._management.rotate_key(self._actor, connection_id, key)

    def agree(self, connection_id: str, version: str) -> ConnectionView:
        return self._management.agree(self._actor, connection_id, version)

    def withdraw(self, connection_id: str) -> ConnectionView:
        return self._management.withdraw(self._actor, connection_id)

    def remove_connection(
        self, connection_id: str, *, etag: str, exports: WithExports, delete_secret: bool
    ) -> None:
        self._management.remove_connection(
            self._actor, connection_id, etag=etag, exports=exports, delete_secret=delete_secret
        )

    def lists(self, connection_id: str) -> list[ListView]:
        return self._management.lists(self._actor, connection_id)

    def create_list(self, connection_id: str, name: str) -> ListView:
        return self._management.create_list(self._actor, connection_id, name)

    def segments(self) -> list[SegmentView]:
        return self._management.segments(self._actor)

    def suggest_mapping(self, segment: str) -> SuggestionView:
        return self._management.suggest_mapping(self._actor, segment)

    def exports(self) -> list[ExportView]:
        return self._management.exports(self._actor)

    def export(self, export_id: str) -> ExportView:
        return self._management.export(self._actor, export_id)

    def create_export(self, form: NewExportForm) -> ExportView:
        return self._management.create_export(self._actor, form)

    def edit_export(self, export_id: str, form: ExportForm, *, etag: str) -> ExportView:
        return self._management.edit_export(self._actor, export_id, form, etag=etag)

    def duplicate_export(self, export_id: str) -> ExportView:
        return self._management.duplicate_export(self._actor, export_id)

    def detach_export(self, export_id: str) -> ExportView:
        return self._management.detach_export(self._actor, export_id)

    def pause_export(self, export_id: str, *, paused: bool) -> ExportView:
        return self._management.pause_export(self._actor, export_id, paused=paused)

    def remove_export(self, export_id: str, *, etag: str) -> None:
        self._management.remove_export(self._actor, export_id, etag=etag)

    def plan_export(self, export_id: str, *, show_values: bool = False) -> dict[str, Any]:
        return self._management.plan_export(self._actor, export_id, show_values=show_values)

    def run_export(self, export_id: str) -> RunView:
        return self._management.run_export(self._actor, export_id)

    def run_all(self) -> list[StartedView]:
        return self._management.run_all(self._actor)

    def runs(self, export_id: str, *, limit: int = PAGE, cursor: str = "") -> Page[RunView]:
        return self._management.runs(self._actor, export_id, limit=limit, cursor=cursor)

    def run(self, run_id: str) -> RunView:
        return self._management.run(self._actor, run_id)

    def report(self, run_id: str) -> dict[str, Any]:
        return self._management.report(self._actor, run_id)

    def rows(self, run_id: str, kind: Rows) -> Iterator[bytes]:
        return self._management.rows(self._actor, run_id, kind)

    def cancel_run(self, run_id: str) -> RunView:
        return self._management.cancel_run(self._actor, run_id)
