"""The routes: each is one call of management, which decides what an answer holds and who may ask.

A version of a connection or export has an ETag. Whoever changes or removes one must show the
version that they saw (If-Match). Long lists come in pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from exporter import VERSION
from exporter.errors import ExporterError, Invalid
from exporter.http import problems
from exporter.http.guard import CUSTOM, READING, Guard
from exporter.management import forms, views
from exporter.management.forms import (
    ConnectionForm,
    ConsentForm,
    ExportForm,
    KeyForm,
    ListForm,
    NewConnectionForm,
    NewExportForm,
    PersonForm,
)
from exporter.management.management import Management
from exporter.management.roles import Action, Actor
from exporter.management.views import MAX_PAGE, NO_CURSOR, PAGE

PREFIX = "/api"  # host.json's routePrefix
# Of rows in one answer: the functions host holds the whole answer in memory.
MAX_ROWS_BYTES = 50_000_000
# Azure's front end ends a request after 230 s, whatever functionTimeout says (2026-11):
# https://learn.microsoft.com/azure/azure-functions/functions-scale#timeout
# The app's own end comes earlier by the time that the answer and a cold start may take.
ANSWER_S = 200.0
# FastAPI's own telemetry would record addresses with their queries, and the texts of exceptions.
# telemetry.py sends ours.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
NO_VERSION = "the version that you saw is missing: send its ETag as If-Match"

DESCRIPTION = f"""\
Connections, exports and runs of the segment exporter. Errors are problem details (RFC 9457).

Sign in with Microsoft Entra. A request that changes something needs the header `{CUSTOM.title()}`
with any value. The table of roles says who may call an operation: `x-action` names its row."""


def _actor(request: Request) -> Actor:
    """Return who asks. The guard put it there; without the guard the request fails."""
    actor: Actor = request.state.actor
    return actor


def _if_match(if_match: Annotated[str | None, Header()] = None) -> str:
    etag = (if_match or "").strip()
    if not etag or etag == "*":
        raise HTTPException(428, NO_VERSION)
    return etag.strip('"')


Who = Annotated[Actor, Depends(_actor)]
Etag = Annotated[str, Depends(_if_match)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str, Query(max_length=6_000, description="`next` of the previous page")]


def create_app(
    management: Callable[[], Management],
    *,
    is_trusted: Callable[[], bool],
    max_rows_bytes: int = MAX_ROWS_BYTES,
    answer_s: float = ANSWER_S,
) -> ASGIApp:
    """Make the API behind its guard. management: opened by the first request that needs it."""
    api = build(management, max_rows_bytes=max_rows_bytes, answer_s=answer_s)
    return Guard(api, is_trusted=is_trusted)


def build(
    management: Callable[[], Management],
    *,
    max_rows_bytes: int = MAX_ROWS_BYTES,
    answer_s: float = ANSWER_S,
) -> FastAPI:
    """Make the API without its guard, for its OpenAPI document. Served so, every request fails."""
    app = FastAPI(
        telemetry=NO_TELEMETRY,
        title="Segment exporter",
        version=VERSION,
        description=DESCRIPTION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
        responses={
            "default": {
                "description": "A problem",
                "content": {problems.MEDIA_TYPE: {"schema": _PROBLEM}},
            }
        },
    )
    app.add_exception_handler(ExporterError, _own_error)
    app.add_exception_handler(RequestValidationError, _wrong_request)
    app.add_exception_handler(HTTPException, _http_error)
    # The guard logs it: starlette raises it again after this answer.
    app.add_exception_handler(Exception, lambda *_: problems.unknown())
    _add_routes(app, management, max_rows_bytes, answer_s)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        components = document["components"]
        problem = problems.ProblemDocument.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        components["schemas"] |= {**problem.pop("$defs"), "Problem": problem}
        components["securitySchemes"] = {"entra": _ENTRA}
        document["security"] = [{"entra": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


_CUSTOM = {
    "name": CUSTOM.title(),
    "in": "header",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_ENTRA = {
    "type": "http",
    "scheme": "bearer",
    "description": "Microsoft Entra, by App Service authentication",
}

# FastAPI only knows models of bodies in application/json; `openapi` adds this one.
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def _own_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, ExporterError)
    return problems.of_error(exc)


def _wrong_request(_: Request, exc: Exception) -> Response:
    """Answer a request that does not fit its form: name fields, not values, as one may be a key."""
    assert isinstance(exc, RequestValidationError)
    found = exc.errors()
    if any(each["type"] == "json_invalid" for each in found):
        return problems.answer(400, "the body is not JSON", hint="Send a JSON object.")
    fields = forms.problems({**each, "loc": each["loc"][1:]} for each in found)
    detail = "; ".join(f"{each.field}: {each.message}" for each in fields)
    return problems.answer(422, detail, kind="invalid", problems=fields)


def _http_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    made = problems.answer(exc.status_code, str(exc.detail))
    for name, value in (exc.headers or {}).items():
        made.headers[name] = value
    return made


def _add_routes(
    app: FastAPI, management: Callable[[], Management], max_rows_bytes: int, answer_s: float
) -> None:
    def route(method: str, path: str, action: Action, **options: Any) -> Callable[[Any], Any]:
        """Make a route. Tests and the OpenAPI document show the action that it asks for."""
        extra: dict[str, Any] = {"x-action": action.name.lower()}
        if method not in READING:
            extra["parameters"] = [_CUSTOM]
        return app.api_route(PREFIX + path, methods=[method], openapi_extra=extra, **options)

    _add_connections(route, management)
    _add_exports(route, management, answer_s)
    _add_runs(route, management, max_rows_bytes)
    _add_rest(route, management, answer_s)


Router = Callable[..., Callable[[Any], Any]]


def _add_connections(route: Router, management: Callable[[], Management]) -> None:
    @route("GET", "/connections", Action.SEE_CONNECTIONS)
    def list_connections(
        who: Who, limit: Limit = PAGE, cursor: Cursor = ""
    ) -> views.Page[views.ConnectionView]:
        """List the connections that you may use, by name."""
        return _page(management().as_(who).connections(), limit, cursor)

    @route("POST", "/connections", Action.CREATE_CONNECTION, status_code=201)
    def create_connection(
        who: Who, form: NewConnectionForm, response: Response
    ) -> views.ConnectionView:
        """Create a connection. The key is tried, put into the vault and never shown again."""
        return _saved_connection(
            management().as_(who).create_connection(form), response, is_new=True
        )

    @route("GET", "/connections/{connection_id}", Action.SEE_CONNECTIONS)
    def read_connection(who: Who, connection_id: str, response: Response) -> views.ConnectionView:
        """Show one connection, with details for administrators."""
        return _saved_connection(management().as_(who).connection(connection_id), response)

    @route("PUT", "/connections/{connection_id}", Action.EDIT_CONNECTION)
    def edit_connection(
        who: Who, connection_id: str, form: ConnectionForm, etag: Etag, response: Response
    ) -> views.ConnectionView:
        """Replace the settings of a connection."""
        return _saved_connection(
            management().as_(who).edit_connection(connection_id, form, etag=etag), response
        )

    @route("DELETE", "/connections/{connection_id}", Action.REMOVE_CONNECTION, status_code=204)
    def remove_connection(
        who: Who,
        connection_id: str,
        etag: Etag,
        exports: Annotated[Literal["refuse", "detach", "remove"], Query()] = "refuse",
        delete_secret: Annotated[bool, Query()] = False,
    ) -> None:
        """Remove a connection. Choose what happens to its exports and its key. Open runs stop."""
        management().as_(who).remove_connection(
            connection_id, etag=etag, exports=exports, delete_secret=delete_secret
        )

    @route("POST", "/connections/{connection_id}/check", Action.CHECK_CONNECTION)
    def check_connection(who: Who, connection_id: str, response: Response) -> views.ConnectionView:
        """Try the key in Klaviyo: account, scopes, clock, revision. The result is kept."""
        return _saved_connection(management().as_(who).check_connection(connection_id), response)

    @route("PUT", "/connections/{connection_id}/key", Action.ROTATE_KEY)
    def rotate_key(
        who: Who, connection_id: str, form: KeyForm, response: Response
    ) -> views.ConnectionView:
        """Replace the key by a new one of the same account."""
        return _saved_connection(
            management().as_(who).rotate_key(connection_id, form.key), response
        )

    @route("PUT", "/connections/{connection_id}/consent", Action.CONSENT)
    def agree(
        who: Who, connection_id: str, form: ConsentForm, response: Response
    ) -> views.ConnectionView:
        """Agree to send data to Klaviyo, by the version of the text that you read."""
        return _saved_connection(management().as_(who).agree(connection_id, form.version), response)

    @route("DELETE", "/connections/{connection_id}/consent", Action.CONSENT)
    def withdraw(who: Who, connection_id: str, response: Response) -> views.ConnectionView:
        """Withdraw the consent. Open runs stop."""
        return _saved_connection(management().as_(who).withdraw(connection_id), response)

    @route("GET", "/connections/{connection_id}/lists", Action.SEE_LISTS)
    def list_lists(
        who: Who, connection_id: str, limit: Limit = PAGE, cursor: Cursor = ""
    ) -> views.Page[views.ListView]:
        """List the lists of the connection's Klaviyo account, by name."""
        return _page(management().as_(who).lists(connection_id), limit, cursor)

    @route("POST", "/connections/{connection_id}/lists", Action.CREATE_LIST, status_code=201)
    def create_list(who: Who, connection_id: str, form: ListForm) -> views.ListView:
        """Create a list in the connection's Klaviyo account."""
        return management().as_(who).create_list(connection_id, form.name)


def _add_exports(route: Router, management: Callable[[], Management], answer_s: float) -> None:
    @route("GET", "/exports", Action.SEE_EXPORTS)
    def list_exports(
        who: Who, limit: Limit = PAGE, cursor: Cursor = ""
    ) -> views.Page[views.ExportView]:
        """List every export with its status, by name."""
        return _page(management().as_(who).exports(), limit, cursor)

    @route("POST", "/exports", Action.CREATE_EXPORT, status_code=201)
    def create_export(who: Who, form: NewExportForm, response: Response) -> views.ExportView:
        """Create an export. Creating does not run it."""
        return _saved_export(management().as_(who).create_export(form), response, is_new=True)

    @route("GET", "/exports/{export_id}", Action.SEE_EXPORTS)
    def read_export(who: Who, export_id: str, response: Response) -> views.ExportView:
        """Show one export."""
        return _saved_export(management().as_(who).export(export_id), response)

    @route("PUT", "/exports/{export_id}", Action.EDIT_EXPORT)
    def edit_export(
        who: Who, export_id: str, form: ExportForm, etag: Etag, response: Response
    ) -> views.ExportView:
        """Replace the settings of an export."""
        return _saved_export(
            management().as_(who).edit_export(export_id, form, etag=etag), response
        )

    @route("DELETE", "/exports/{export_id}", Action.REMOVE_EXPORT, status_code=204)
    def remove_export(who: Who, export_id: str, etag: Etag) -> None:
        """Remove an export. Its open run stops; its history stays."""
        management().as_(who).remove_export(export_id, etag=etag)

    @route("POST", "/exports/{export_id}/duplicate", Action.CREATE_EXPORT, status_code=201)
    def duplicate_export(who: Who, export_id: str, response: Response) -> views.ExportView:
        """Create a paused copy."""
        return _saved_export(
            management().as_(who).duplicate_export(export_id), response, is_new=True
        )

    @route("POST", "/exports/{export_id}/detach", Action.DETACH_EXPORT)
    def detach_export(who: Who, export_id: str, response: Response) -> views.ExportView:
        """Take the export off its connection."""
        return _saved_export(management().as_(who).detach_export(export_id), response)

    @route("POST", "/exports/{export_id}/pause", Action.EDIT_EXPORT)
    def pause_export(who: Who, export_id: str, response: Response) -> views.ExportView:
        """Pause the export. Its open run stops."""
        return _saved_export(management().as_(who).pause_export(export_id, paused=True), response)

    @route("POST", "/exports/{export_id}/resume", Action.EDIT_EXPORT)
    def resume_export(who: Who, export_id: str, response: Response) -> views.ExportView:
        """Let a paused export run again."""
        return _saved_export(management().as_(who).pause_export(export_id, paused=False), response)

    @route("POST", "/exports/{export_id}/plan", Action.PLAN_EXPORT)
    def plan_export(who: Who, export_id: str, *, show_values: bool = False) -> dict[str, Any]:
        """Say what a run would do now. Sends and changes nothing.

        It takes as long as reading the snapshot, and ends with a problem after 200 s. The values of
        the first profiles are masked, unless somebody who may read rows asks for them.
        """
        return (
            management().as_(who).plan_export(export_id, show_values=show_values, within_s=answer_s)
        )


def _add_runs(route: Router, management: Callable[[], Management], max_rows_bytes: int) -> None:
    @route("POST", "/runs", Action.RUN_EXPORT, status_code=202)
    def run_all(who: Who) -> list[views.StartedView]:
        """Run every export with an active schedule."""
        return management().as_(who).run_all()

    @route("POST", "/exports/{export_id}/runs", Action.RUN_EXPORT, status_code=202)
    def run_export(who: Who, export_id: str, response: Response) -> views.RunView:
        """Run an export on the newest snapshots."""
        run = management().as_(who).run_export(export_id)
        response.headers["Location"] = f"{PREFIX}/exports/{run.id.replace('/', '/runs/')}"
        return run

    @route("GET", "/exports/{export_id}/runs", Action.SEE_RUNS)
    def list_runs(
        who: Who, export_id: str, limit: Limit = PAGE, cursor: Cursor = ""
    ) -> views.Page[views.RunView]:
        """List the runs of an export, newest first."""
        return management().as_(who).runs(export_id, limit=limit, cursor=cursor)

    @route("GET", "/exports/{export_id}/runs/{run}", Action.SEE_RUNS)
    def read_run(who: Who, export_id: str, run: str) -> views.RunView:
        """Show one run."""
        return management().as_(who).run(f"{export_id}/{run}")

    @route("GET", "/exports/{export_id}/runs/{run}/report", Action.SEE_RUNS)
    def read_report(who: Who, export_id: str, run: str) -> dict[str, Any]:
        """Show the report of a run that is over."""
        return management().as_(who).report(f"{export_id}/{run}")

    @route(
        "GET", "/exports/{export_id}/runs/{run}/{kind}.csv", Action.READ_ROWS, response_class=_Csv
    )
    def read_rows(
        who: Who, export_id: str, run: str, kind: Literal["rejected", "duplicates", "left_out"]
    ) -> Response:
        """Download the rows that were not delivered, which name people, or the duplicate rows."""
        rows = management().as_(who).rows(f"{export_id}/{run}", kind, max_bytes=max_rows_bytes)
        return _Csv(rows, headers={"Content-Disposition": f'attachment; filename="{kind}.csv"'})

    @route("POST", "/exports/{export_id}/runs/{run}/cancel", Action.CANCEL_RUN, status_code=202)
    def cancel_run(who: Who, export_id: str, run: str) -> views.RunView:
        """Stop a run: no batch leaves later than 0.3 s from now."""
        return management().as_(who).cancel_run(f"{export_id}/{run}")


def _add_rest(route: Router, management: Callable[[], Management], answer_s: float) -> None:
    @route("GET", "/me", Action.SEE_API)
    def read_me(who: Who) -> views.ActorView:
        """Say who you are here."""
        return management().as_(who).whoami()

    @route("GET", "/consent", Action.SEE_API)
    def read_consent(who: Who) -> views.ConsentView:
        """Show the text that an administrator agrees to for each connection."""
        return management().as_(who).consent_text()

    @route("GET", "/segments", Action.SEE_SEGMENTS)
    def list_segments(
        who: Who, limit: Limit = PAGE, cursor: Cursor = ""
    ) -> views.Page[views.SegmentView]:
        """List the segments found in storage, by name."""
        return _page(management().as_(who).segments(), limit, cursor)

    @route("GET", "/left-aside", Action.SEE_SEGMENTS)
    def list_left_aside(
        who: Who, limit: Limit = PAGE, cursor: Cursor = ""
    ) -> views.Page[views.LeftAsideView]:
        """List the blobs that are in no snapshot for want of a known layout."""
        return _page(management().as_(who).left_aside(), limit, cursor)

    @route("GET", "/attention", Action.SEE_EXPORTS)
    def list_attention(who: Who) -> list[views.AttentionView]:
        """List what needs attention over all exports, connections and the app itself."""
        return management().as_(who).attention()

    @route("POST", "/why", Action.READ_ROWS)
    def find_person(who: Who, form: PersonForm) -> list[views.WhyView]:
        """Say in which runs a person was left out and why, or that they were delivered.

        It reads the newest snapshot of each export again, and ends with a problem after 200 s. It
        changes nothing; the person is in the body because addresses of requests are logged.
        """
        return management().as_(who).why(form.identifier, within_s=answer_s)

    @route("GET", "/suggestion", Action.SUGGEST_MAPPING)
    def suggest_mapping(
        who: Who, segment: Annotated[str, Query(min_length=1, max_length=500)]
    ) -> views.SuggestionView:
        """Suggest a mapping for a segment, from the names of its columns."""
        return management().as_(who).suggest_mapping(segment)

    @route("GET", "/status", Action.SEE_HEALTH)
    def read_status(who: Who) -> dict[str, str]:
        """Check each thing that the app needs: "ok", or what is wrong with it."""
        return management().as_(who).health()

    @route("GET", "/doctor", Action.SEE_HEALTH)
    def examine(who: Who) -> list[views.ExaminedView]:
        """Look at each part of the app from inside: what works, what does not, and what to do.

        Keys, lists and consent are looked at for administrators.
        """
        return management().as_(who).doctor()

    @route("GET", "/audit", Action.SEE_AUDIT)
    def list_changes(
        who: Who, limit: Limit = PAGE, cursor: Cursor = ""
    ) -> views.Page[views.AuditView]:
        """List the recorded changes, newest first."""
        return management().as_(who).changes(limit=limit, cursor=cursor)


def _page(found: Sequence[views.Named], limit: int, cursor: str) -> views.Page[views.Named]:
    try:
        return views.page_of(found, limit=limit, cursor=cursor)
    except ValueError:
        raise Invalid(NO_CURSOR) from None


class _Csv(StreamingResponse):
    media_type = "text/csv"


def _saved_connection(
    view: views.ConnectionView, response: Response, *, is_new: bool = False
) -> views.ConnectionView:
    if view.details:
        response.headers["ETag"] = f'"{view.details.etag}"'
    if is_new:
        response.headers["Location"] = f"{PREFIX}/connections/{view.id}"
    return view


def _saved_export(
    view: views.ExportView, response: Response, *, is_new: bool = False
) -> views.ExportView:
    response.headers["ETag"] = f'"{view.etag}"'
    if is_new:
        response.headers["Location"] = f"{PREFIX}/exports/{view.id}"
    return view
