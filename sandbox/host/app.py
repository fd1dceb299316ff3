"""Read a function app as the real host does: its functions, triggers, host.json and settings."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import azure.functions as func

from sandbox.host.ncrontab import Schedule, ScheduleError
from sandbox.host.waiting import now

logger = logging.getLogger(__name__)

TRIGGERS = ("blobTrigger", "httpTrigger", "queueTrigger", "timerTrigger")
HOST_STORAGE = "AzureWebJobsStorage"
PLACEHOLDER = re.compile(r"%([^%]+)%")
TIMESPAN = re.compile(r"(?:(\d+)\.)?(\d+):(\d+):(\d+(?:\.\d+)?)")


class AppError(Exception):
    """The app cannot run here; `problems` says why, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function of the app. `trigger` holds its trigger's fields with every %NAME% replaced."""

    name: str
    trigger: Mapping[str, Any]
    call: Callable[..., Any]
    annotation: type | None  # of the trigger's parameter
    wants_context: bool
    has_return: bool

    @property
    def type(self) -> str:
        return str(self.trigger["type"])

    @property
    def id(self) -> str:
        """The name under which the real host keeps its records."""
        return f"Host.Functions.{self.name}"

    @property
    def connection(self) -> str:
        return self.trigger.get("connection") or HOST_STORAGE

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.call)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """host.json extensions.queues, with the host's defaults."""

    batch_size: int = 16
    new_batch_threshold: int = 8
    max_polling_s: float = 2  # the real host's value in development; a minute in Azure
    visibility_timeout_s: float = 0
    max_dequeue_count: int = 5
    base64: bool = True

    @classmethod
    def parse(cls, queues: Mapping[str, Any]) -> QueueSettings:
        batch_size = int(queues.get("batchSize", cls().batch_size))
        return cls(
            batch_size=batch_size,
            new_batch_threshold=int(queues.get("newBatchThreshold", batch_size // 2)),
            max_polling_s=parse_timespan(queues.get("maxPollingInterval", "00:00:02")),
            visibility_timeout_s=parse_timespan(queues.get("visibilityTimeout", "00:00:00")),
            max_dequeue_count=int(queues.get("maxDequeueCount", cls().max_dequeue_count)),
            base64=str(queues.get("messageEncoding", "base64")).lower() == "base64",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What host.json says, with the host's defaults."""

    route_prefix: str = "api"
    function_timeout_s: float | None = 30 * 60  # None: no limit
    queues: QueueSettings = field(default_factory=QueueSettings)
    max_blobs_at_once: int = 8 * (os.cpu_count() or 1)
    poison_blob_threshold: int = 5

    @classmethod
    def read(cls, path: Path) -> HostSettings:
        document = json.loads(path.read_text("utf-8"))
        extensions = document.get("extensions", {})
        blobs = extensions.get("blobs", {})
        timeout = str(document.get("functionTimeout", "00:30:00"))
        return cls(
            route_prefix=extensions.get("http", {})
            .get("routePrefix", cls().route_prefix)
            .strip("/"),
            function_timeout_s=None if timeout == "-1" else parse_timespan(timeout),
            queues=QueueSettings.parse(extensions.get("queues", {})),
            max_blobs_at_once=int(blobs.get("maxDegreeOfParallelism", cls().max_blobs_at_once)),
            poison_blob_threshold=int(
                blobs.get("poisonBlobThreshold", cls().poison_blob_threshold)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    directory: Path
    functions: tuple[Function, ...]
    settings: HostSettings

    def triggered_by(self, trigger: str) -> list[Function]:
        return [function for function in self.functions if function.type == trigger]


def load_app(directory: Path) -> App:
    """Import function_app.py, read its metadata and host.json.

    Raises AppError with everything that is wrong.

    Settings are taken from the environment, which the app shares with us.
    """
    settings = HostSettings.read(directory / "host.json")
    functions = []
    problems = []
    for indexed in _import_app(directory).get_functions():  # works once per app object
        try:
            function = _function(indexed)
        except ValueError as error:
            problems.append(f"function {indexed.get_function_name()!r} does not load: {error}")
            continue
        if indexed.get_settings_dict("retry_policy"):
            logger.warning("%s: this host does not apply its retry policy", function.name)
        if not _is_disabled(function.name):
            functions.append(function)
    if any(function.type != "httpTrigger" for function in functions) and not has_connection(
        HOST_STORAGE, "blob"
    ):
        problems.append(f"the host itself needs storage: the setting {HOST_STORAGE} is missing")
    if problems:
        raise AppError(problems)
    return App(directory=directory, functions=tuple(functions), settings=settings)


def load_settings(path: Path) -> None:
    """Add the `Values` of a file like local.settings.json to what the environment does not set."""
    for name, value in json.loads(path.read_text("utf-8")).get("Values", {}).items():
        os.environ.setdefault(name, str(value))


def has_connection(name: str, service: str) -> bool:
    """Say whether the settings describe connection `name` for `service` ("blob" or "queue")."""
    return any(setting in os.environ for setting in connection_settings(name, service))


def connection_settings(name: str, service: str) -> tuple[str, ...]:
    """The settings that may describe a connection, the strongest first."""
    settings = (name, f"{name}__{service}ServiceUri")
    return (*settings, f"{name}__accountName") if name == HOST_STORAGE else settings


def parse_timespan(text: str) -> float:
    """Seconds in a .NET TimeSpan: "00:30:00", "1.02:00:00"."""
    match = TIMESPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time span like 00:00:30")
    days, hours, minutes, seconds = match.groups()
    return int(days or 0) * 86_400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def resolve(text: str) -> str:
    """Replace every %NAME% by the setting NAME. Raises ValueError for one that is not set."""

    def setting(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(
                f"{match[0]} in {text!r} cannot be resolved: there is no setting {match[1]}"
            )
        return os.environ[match[1]]

    return PLACEHOLDER.sub(setting, text)


def _import_app(directory: Path) -> Any:
    sys.path.insert(0, str(directory))
    module = importlib.import_module("function_app")
    apps = [value for value in vars(module).values() if isinstance(value, func.FunctionRegister)]
    if len(apps) != 1:
        raise AppError([f"function_app.py must define one function app; it defines {len(apps)}"])
    return apps[0]


def _function(indexed: Any) -> Function:
    """Check one function's bindings and resolve its trigger. Raises ValueError."""
    name = indexed.get_function_name()
    bindings = [json.loads(raw) for raw in indexed.get_raw_bindings()]
    triggers = [binding for binding in bindings if binding["type"] in TRIGGERS]
    if len(triggers) != 1:
        found = ", ".join(binding["type"] for binding in bindings)
        raise ValueError(
            f"this host knows the triggers {', '.join(TRIGGERS)}; the function has {found}"
        )
    [trigger] = triggers
    others = [
        b["type"]
        for b in bindings
        if b is not trigger and (b["type"], b["name"]) != ("http", "$return")
    ]
    if others:
        raise ValueError(
            f"this host knows no bindings besides triggers; the function has {', '.join(others)}"
        )
    trigger = {
        key: resolve(value) if isinstance(value, str) else value for key, value in trigger.items()
    }
    call = indexed.get_user_function()
    function = Function(
        name=name,
        trigger=trigger,
        call=call,
        annotation=typing.get_type_hints(call).get(trigger["name"]),
        wants_context="context" in inspect.signature(call).parameters,
        has_return=trigger["type"] == "httpTrigger",
    )
    if problems := list(_trigger_problems(function)):
        raise ValueError("; ".join(problems))
    return function


def _trigger_problems(function: Function) -> Iterator[str]:
    match function.type:
        case "timerTrigger":
            try:
                Schedule.parse(function.trigger["schedule"]).next_after(now())
            except ScheduleError as error:
                yield str(error)
        case "blobTrigger":
            for service in ("blob", "queue"):  # the queue is for what failed too often
                yield from _connection_problems(function.connection, service)
        case "queueTrigger":
            yield from _connection_problems(function.connection, "queue")


def _connection_problems(name: str, service: str) -> Iterator[str]:
    if not has_connection(name, service):
        settings = " or ".join(connection_settings(name, service))
        yield f"connection {name!r} is not set for {service}s: set {settings}"


def _is_disabled(name: str) -> bool:
    settings = (f"AzureWebJobs.{name}.Disabled", f"AzureWebJobs_{name}_Disabled")
    return any(os.environ.get(setting, "").lower() in ("1", "true") for setting in settings)
