"""A deployed app over its HTTP API (docs/openapi.json): methods, values and errors as on its store.

The token says who asks; the app decides what they may do.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
import urllib3
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from exporter.definitions.definition import ID_PATTERN
from exporter.errors import (
    ConfigError,
    ExporterError,
    Invalid,
    NotAllowed,
    Problem,
    Transient,
    Unknown,
    name_of,
)
from exporter.management.app import Rows, WithExports
from exporter.management.forms import ConnectionForm, ExportForm, NewConnectionForm, NewExportForm
from exporter.management.views import (
    MAX_PAGE,
    PAGE,
    ActorView,
    AttentionView,
    AuditView,
    ConnectionView,
    ConsentView,
    ExaminedView,
    ExportView,
    LeftAsideView,
    ListView,
    Page,
    RunView,
    SegmentView,
    StartedView,
    SuggestionView,
    WhyView,
)
from exporter.runs.run import RUN_ID

# Azure ends a request after 230 s (2026-11):
# https://learn.microsoft.com/azure/azure-functions/functions-scale#timeout
CONNECT_S, ANSWER_S = 15, 240  # the second is also for a whole answer
MAX_ANSWER_BYTES = 64_000_000  # the app's own are at most 50 MB, a list of rows
PIECE_BYTES = 65_536
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CUSTOM = {"X-Exporter": "1"}  # the API wants it: no page of another site can send it
SIGN_IN = (
    "Sign in with `az login` as somebody with a role in this app, or set EXPORTER_TOKEN to a token."
)

Value = TypeVar("Value")


class RemoteApp:
    """The app at an address, used by the person whose token it is."""

    def __init__(
        self,
        url: str,
        token: Callable[[], SecretStr],
        *,
        page: int = MAX_PAGE,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """token: asked once, with the first request. page: items of a list asked for at once.

        Raises ConfigError for an address that a token must not be sent to.
        """
        if not _is_safe(url):
            raise ConfigError(
                "The app's address must begin with https://.",
                hint="Give --app https://YOUR-APP...",
            )
        self._page, self._max_answer_bytes, self._clock = page, max_answer_bytes, clock
        self._url, self._token = url.rstrip("/") + "/api", token
        self._session = requests.Session()
        self._session.headers.update(CUSTOM)
        # Not a mere header: requests would replace it by what a .netrc has.
        self._session.auth = self._sign
        self._given: SecretStr | None = None

    def close(self) -> None:
        self._session.close()

    def whoami(self) -> ActorView:
        return self._ask(ActorView, "GET", "/me")

    def changes(self, *, limit: int = PAGE, cursor: str = "") -> Page[AuditView]:
        params = {"limit": limit, "cursor": cursor}
        return self._ask(Page[AuditView], "GET", "/audit", params=params)

    def consent_text(self) -> ConsentView:
        return self._ask(ConsentView, "GET", "/consent")

    def connections(self) -> list[ConnectionView]:
        return self._all(ConnectionView, "/connections")

    def connection(self, connection_id: str) -> ConnectionView:
        return self._ask(ConnectionView, "GET", _connection(connection_id))

    def create_connection(self, form: NewConnectionForm) -> ConnectionView:
        body = _body(form)
        if form.key:
            body["key"] = form.key.get_secret_value()
        return self._ask(ConnectionView, "POST", "/connections", body)

    def edit_connection(
        self, connection_id: str, form: ConnectionForm, *, etag: str
    ) -> ConnectionView:
        return self._ask(ConnectionView, "PUT", _connection(connection_id), _body(form), etag=etag)

    def check_connection(self, connection_id: str) -> ConnectionView:
        return self._ask(ConnectionView, "POST", _connection(connection_id) + "/check")

    def rotate_key(self, connection_id: str, key: SecretStr) -> ConnectionView:
        body = {"key": key.get_secret_value()}
        return self._ask(ConnectionView, "PUT", _connection(connection_id) + "/key", body)

    def agree(self, connection_id: str, version: str) -> ConnectionView:
        return self._ask(
            ConnectionView, "PUT", _connection(connection_id) + "/consent", {"version": version}
        )

    def withdraw(self, connection_id: str) -> ConnectionView:
        return self._ask(ConnectionView, "DELETE", _connection(connection_id) + "/consent")

    def remove_connection(
        self, connection_id: str, *, etag: str, exports: WithExports, delete_secret: bool
    ) -> None:
        query = {"exports": exports, "delete_secret": str(delete_secret).lower()}
        self._send("DELETE", _connection(connection_id), etag=etag, params=query).close()

    def lists(self, connection_id: str) -> list[ListView]:
        return self._all(ListView, _connection(connection_id) + "/lists")

    def create_list(self, connection_id: str, name: str) -> ListView:
        return self._ask(ListView, "POST", _connection(connection_id) + "/lists", {"name": name})

    def segments(self) -> list[SegmentView]:
        return self._all(SegmentView, "/segments")

    def suggest_mapping(self, segment: str) -> SuggestionView:
        return self._ask(SuggestionView, "GET", "/suggestion", params={"segment": segment})

    def exports(self) -> list[ExportView]:
        return self._all(ExportView, "/exports")

    def export(self, export_id: str) -> ExportView:
        return self._ask(ExportView, "GET", _export(export_id))

    def create_export(self, form: NewExportForm) -> ExportView:
        return self._ask(ExportView, "POST", "/exports", _body(form))

    def edit_export(self, export_id: str, form: ExportForm, *, etag: str) -> ExportView:
        return self._ask(ExportView, "PUT", _export(export_id), _body(form), etag=etag)

    def duplicate_export(self, export_id: str) -> ExportView:
        return self._ask(ExportView, "POST", _export(export_id) + "/duplicate")

    def detach_export(self, export_id: str) -> ExportView:
        return self._ask(ExportView, "POST", _export(export_id) + "/detach")

    def pause_export(self, export_id: str, *, paused: bool) -> ExportView:
        return self._ask(
            ExportView, "POST", _export(export_id) + ("/pause" if paused else "/resume")
        )

    def remove_export(self, export_id: str, *, etag: str) -> None:
        self._send("DELETE", _export(export_id), etag=etag).close()

    def plan_export(self, export_id: str, *, show_values: bool = False) -> dict[str, Any]:
        params = {"show_values": "true"} if show_values else {}
        return self._ask(dict[str, Any], "POST", _export(export_id) + "/plan", params=params)

    def run_export(self, export_id: str) -> RunView:
        return self._ask(RunView, "POST", _export(export_id) + "/runs")

    def run_all(self) -> list[StartedView]:
        return self._ask(list[StartedView], "POST", "/runs")

    def runs(self, export_id: str, *, limit: int = PAGE, cursor: str = "") -> Page[RunView]:
        return self._ask(
            Page[RunView],
            "GET",
            _export(export_id) + "/runs",
            params={"limit": limit, "cursor": cursor},
        )

    def run(self, run_id: str) -> RunView:
        return self._ask(RunView, "GET", _run(run_id))

    def report(self, run_id: str) -> dict[str, Any]:
        return self._ask(dict[str, Any], "GET", _run(run_id) + "/report")

    def rows(self, run_id: str, kind: Rows) -> Iterator[bytes]:
        return self._pieces(self._send("GET", _run(run_id) + f"/{kind}.csv"))

    def cancel_run(self, run_id: str) -> RunView:
        return self._ask(RunView, "POST", _run(run_id) + "/cancel")

    def doctor(self) -> list[ExaminedView]:
        return self._ask(list[ExaminedView], "GET", "/doctor")

    def attention(self) -> list[AttentionView]:
        return self._ask(list[AttentionView], "GET", "/attention")

    def why(self, identifier: str) -> list[WhyView]:
        return self._ask(list[WhyView], "POST", "/why", {"identifier": identifier})

    def left_aside(self) -> list[LeftAsideView]:
        return self._all(LeftAsideView, "/left-aside")

    # Asking

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._given is None:
            self._given = self._token()
        request.headers["Authorization"] = f"Bearer {self._given.get_secret_value()}"
        return request

    def _ask(
        self, kind: type[Value], method: str, path: str, body: Any = None, **options: Any
    ) -> Value:
        """Send a request and read its answer."""
        content = b"".join(self._pieces(self._send(method, path, body, **options)))
        try:
            return TypeAdapter(kind).validate_json(content)
        except ValidationError as exc:
            raise ExporterError(
                "The app's answer cannot be read.",
                hint="Use the command line of the version that is deployed.",
            ) from exc

    def _all(self, kind: type[Value], path: str) -> list[Value]:
        """Ask for all pages of a list."""
        found, cursor = list[Value](), ""
        while True:
            params = {"limit": self._page, "cursor": cursor}
            page = self._ask(Page[kind], "GET", path, params=params)  # type: ignore[valid-type]
            found += page.items
            if not page.next:
                return found
            cursor = page.next

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        etag: str = "",
        params: dict[str, Any] | None = None,
    ) -> requests.Response:
        """Send a request and give its answer, to be read. Raises the error that the app told of."""
        try:
            answer = self._session.request(
                method,
                self._url + path,
                json=body,
                params=params,
                headers={"If-Match": f'"{etag}"'} if etag else None,
                timeout=(CONNECT_S, ANSWER_S),
                allow_redirects=False,  # to a page for signing in: of no use here
                stream=True,
            )
        except requests.RequestException as exc:
            raise Transient(
                f"{self._url} does not answer ({type(exc).__name__}).",
                hint="Check the address, and try again.",
            ) from exc
        if answer.ok and not answer.is_redirect:
            return answer
        raise _error(answer, b"".join(self._pieces(answer)))

    def _pieces(self, answer: requests.Response) -> Iterator[bytes]:
        """Give the body of an answer as it comes, unless it is too long or takes too long."""
        size, deadline = 0, self._clock() + ANSWER_S
        try:
            with answer:
                while piece := answer.raw.read1(PIECE_BYTES, decode_content=True):
                    size += len(piece)
                    if size > self._max_answer_bytes or self._clock() > deadline:
                        raise ExporterError(
                            "The app's answer has no end.", hint="Check the app's address."
                        )
                    yield piece
        except (OSError, urllib3.exceptions.HTTPError) as exc:
            raise Transient(
                f"The app's answer broke off ({type(exc).__name__}).", hint="Try again."
            ) from exc


def user_token(client_id: str) -> SecretStr:
    """Get the token of who is signed in here, for the app's registration. Raises ConfigError."""
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import AzureCliCredential, ChainedTokenCredential, DefaultAzureCredential

    if not client_id:
        hint = (
            'Run: export AUTH_CLIENT_ID="$(azd env get-value AUTH_CLIENT_ID)". '
            "Or set EXPORTER_TOKEN to a token."
        )
        raise ConfigError("The application that people sign in to is not known.", hint=hint)
    scope = f"api://{client_id}/.default"
    # The Azure CLI's own first: it is a person's, and the app's registration knows it.
    with ChainedTokenCredential(
        AzureCliCredential(), DefaultAzureCredential(exclude_cli_credential=True)
    ) as found:
        try:
            return SecretStr(found.get_token(scope).token)
        except ClientAuthenticationError as exc:
            raise ConfigError("Nobody is signed in.", hint=SIGN_IN) from exc


def _is_safe(url: str) -> bool:
    """Tell whether a token may be sent there: over https, or no further than this machine."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "http":
            return parts.hostname in LOOPBACK
        return parts.scheme == "https" and bool(parts.hostname)
    except ValueError:
        return False


def _body(form: BaseModel) -> dict[str, Any]:
    """Write a form as JSON. A key is masked in it."""
    body = form.model_dump(mode="json", exclude_none=True)
    if isinstance(form, ExportForm):
        body["connection"] = form.connection  # None: detached
    return body


def _connection(connection_id: str) -> str:
    return f"/connections/{_id(connection_id, 'connection')}"


def _export(export_id: str) -> str:
    return f"/exports/{_id(export_id, 'export')}"


def _id(given: str, kind: str) -> str:
    """Give an ID as part of a path. Anything else is not sent: it might mean another path."""
    if not re.fullmatch(ID_PATTERN, given):
        raise Unknown(f"there is no {kind} {given[:200]}", hint=f"Look at the list of {kind}s.")
    return given


def _run(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise Unknown(f"there is no run {run_id[:200]}", hint="Look at the runs of its export.")
    export_id, _, name = run_id.partition("/")
    return f"{_export(export_id)}/runs/{quote(name)}"


def _classes() -> dict[str, type[ExporterError]]:
    """Give our errors by the names that problem documents have for them."""
    found, waiting = dict[str, type[ExporterError]](), [ExporterError]
    while waiting:
        kind = waiting.pop()
        found[name_of(kind)] = kind
        waiting += kind.__subclasses__()
    return found


def _error(answer: requests.Response, content: bytes) -> ExporterError:
    """Give what the app, or the platform before it, said."""
    try:
        document = json.loads(content)
        detail, hint = str(document["detail"]), str(document.get("hint", ""))
        name = str(document["type"]).rpartition("/")[2]
        problems = [
            Problem(str(each["field"]), str(each["message"]))
            for each in document.get("problems", ())
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return _error_of_platform(answer)
    if problems:
        return Invalid(*problems, hint=hint)
    if kind := _classes().get(name):
        error = kind(detail)
        error.hint = hint
        return error
    if answer.status_code == requests.codes.unauthorized:
        return ConfigError(detail, hint=hint)
    if answer.status_code == requests.codes.not_found:
        return Unknown(detail, hint=hint or "Check the app's address and version.")
    return ExporterError(detail, hint=hint)


def _error_of_platform(answer: requests.Response) -> ExporterError:
    """Read an answer that is not a problem document: it is not the app's own."""
    status = answer.status_code
    if status == requests.codes.unauthorized or answer.is_redirect:
        return ConfigError("The app does not know who you are.", hint=SIGN_IN)
    if status == requests.codes.forbidden:
        return NotAllowed("The app does not let you in.")
    if status == requests.codes.not_found:
        return ConfigError(
            "There is no segment exporter at this address.", hint="Check the app's address."
        )
    if status == requests.codes.too_many_requests or status >= requests.codes.server_error:
        return Transient(f"The app could not answer ({status}).", hint="Try again in a minute.")
    return ExporterError(
        f"The app answered with an unexpected status ({status}).", hint="Check the app's address."
    )
