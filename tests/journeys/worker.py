"""Drive Microsoft's own worker library with the messages that the host sends, in a child process.

    with running_worker(app_directory, env=settings, log=path) as worker:
        worker.functions                       what the worker told the host about each function
        worker.invoke("on_blob", blob_input("client", "SnapshotsStorage", "snapshots", "a.csv"))

The library is the package azure-functions-runtime, for Python 3.13 and newer; it runs one app per
process. The host's messages are protobuf; between us and the child they are lines of their JSON
form. No package holds their definition, so MESSAGES below names the fields that this library reads
and writes. Their numbers never leave the child. Source:
https://github.com/Azure/azure-functions-language-worker-protobuf (FunctionRpc.proto, 2026-11).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PATIENCE_S = 300
TO_HOST = "to the host: "  # before each line that the host would get

Json = dict[str, Any]


class WorkerError(Exception):
    """The worker refused the app or could not be talked to; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Input:
    """A trigger's parameter, its data and what the host says about them, in protobuf's JSON."""

    parameter: str
    data: Json
    metadata: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an invocation ended.

    `returned` is None or typed data: {"http": {...}}, {"string": ...}.
    """

    succeeded: bool
    error: str
    returned: Json | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFunction:
    """What the worker tells the host about a function."""

    name: str
    id: str
    bindings: list[Json]

    @property
    def trigger(self) -> Json:
        return next(binding for binding in self.bindings if binding["type"].endswith("Trigger"))


# What the host sends for each trigger


def blob_input(parameter: str, connection: str, container: str, name: str) -> Input:
    """For an SDK type, the host sends only where the blob is."""
    where = {"Connection": connection, "ContainerName": container, "BlobName": name}
    data = {
        "version": "1.0",
        "source": "AzureStorageBlobs",
        "content_type": "application/json",
        "content": _base64(json.dumps(where).encode()),
    }
    return Input(
        parameter, {"model_binding_data": data}, {"BlobTrigger": {"string": f"{container}/{name}"}}
    )


def blob_content_input(parameter: str, content: bytes, name: str) -> Input:
    """For func.InputStream, the host sends the whole blob; `name` begins with its container."""
    return Input(parameter, {"bytes": _base64(content)}, {"BlobTrigger": {"string": name}})


def queue_input(parameter: str, body: str, *, dequeue_count: int = 1) -> Input:
    metadata = {
        "Id": {"string": str(uuid.uuid4())},
        "DequeueCount": {"json": str(dequeue_count)},
        "PopReceipt": {"string": "receipt"},
        "InsertionTime": {"json": '"2026-11-23T12:00:00+00:00"'},
        "ExpirationTime": {"json": '"2026-11-30T12:00:00+00:00"'},
        "NextVisibleTime": {"json": '"2026-11-23T12:10:00+00:00"'},
    }
    return Input(parameter, {"string": body}, metadata)


def timer_input(parameter: str, *, past_due: bool = False) -> Input:
    status = {
        "Last": "2026-11-23T12:00:00+00:00",
        "Next": "2026-11-23T12:05:00+00:00",
        "LastUpdated": "2026-11-23T12:00:00+00:00",
    }
    timer = {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": status, "IsPastDue": past_due}
    return Input(parameter, {"json": json.dumps(timer)}, {})


def http_input(
    parameter: str,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    route_params: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Input:
    request = {
        "method": method,
        "url": url,
        "headers": {name.lower(): value for name, value in (headers or {}).items()},
        "query": dict(query or {}),
        "params": dict(route_params or {}),
        "body": {"bytes": _base64(body)},
    }
    return Input(parameter, {"http": request}, {})


def http_body(outcome: Outcome) -> bytes:
    """The body of the answer that an HTTP function returned."""
    assert outcome.returned is not None, outcome.error
    return base64.b64decode(outcome.returned["http"]["body"]["bytes"])


# Our side of the pipe


class Worker:
    """A child process that has loaded one app."""

    def __init__(self, process: subprocess.Popen[str], app: Path, log: Path) -> None:
        self._process = process
        self._log = log
        begun = self._ask(
            worker_init_request={"function_app_directory": str(app), "host_version": "4.1040.0"}
        )
        self.version = str(begun["worker_metadata"]["worker_version"])
        self.python = str(begun["worker_metadata"]["runtime_version"])
        metadata = self._ask(functions_metadata_request={"function_app_directory": str(app)})
        self.functions = [
            IndexedFunction(
                name=function["name"],
                id=function["function_id"],
                bindings=[json.loads(binding) for binding in function["raw_bindings"]],
            )
            for function in metadata.get("function_metadata_results", [])
        ]
        for function in self.functions:
            self._ask(
                function_load_request={
                    "function_id": function.id,
                    "metadata": {"name": function.name},
                }
            )

    def lines(self) -> list[str]:
        """Return what the child has logged so far."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def invoke(self, name: str, given: Input) -> Outcome:
        """Run a function once, as the host does."""
        [function] = [function for function in self.functions if function.name == name]
        request = {
            "invocation_id": str(uuid.uuid4()),
            "function_id": function.id,
            "input_data": [{"name": given.parameter, "data": given.data}],
            "trigger_metadata": dict(given.metadata),
            "trace_context": {
                "trace_parent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            },
        }
        answer = self._exchange({"invocation_request": request})
        status = answer["result"]
        return Outcome(
            succeeded=status.get("status") == "Success",
            error=status.get("exception", {}).get("message", ""),
            returned=answer.get("return_value"),
        )

    def _ask(self, **message: Json) -> Json:
        """Send a message; raise WorkerError unless its answer is a success."""
        answer = self._exchange(message)
        status = answer["result"]
        if status.get("status") != "Success":
            error = status.get("exception", {})
            raise WorkerError(f"{error.get('message')}\n{error.get('stack_trace')}")
        return answer

    def _exchange(self, message: Json) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        overdue = threading.Timer(PATIENCE_S, self._process.kill)
        overdue.start()
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            overdue.cancel()
        if not line:
            raise WorkerError(f"the worker process ended:\n{self._log.read_text()[-3000:]}")
        answer: Json = json.loads(line)
        return answer


@contextlib.contextmanager
def running_worker(
    app: Path, *, env: Mapping[str, str], log: Path, python: Path = Path(sys.executable)
) -> Iterator[Worker]:
    """Load `app` in a worker of its own, with `env` added to the environment, logging to `log`.

    Raises WorkerError when the worker refuses the app.
    """
    app = app.resolve()
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [str(python), "-P", __file__, str(app)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=app,
            env={**os.environ, **env},
        )
    with process:
        try:
            yield Worker(process, app, log)
        finally:
            process.kill()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# The child's side: the messages, and the loop that hands them to the library

STRINGS = "map string"
MESSAGES: dict[str, dict[str, str]] = {
    "WorkerInitRequest": {
        "host_version": "string",
        "capabilities": STRINGS,
        "function_app_directory": "string",
    },
    "WorkerInitResponse": {
        "worker_version": "string",
        "capabilities": STRINGS,
        "result": "StatusResult",
        "worker_metadata": "WorkerMetadata",
    },
    "WorkerMetadata": {
        "runtime_name": "string",
        "runtime_version": "string",
        "worker_version": "string",
        "worker_bitness": "string",
        "custom_properties": STRINGS,
    },
    "StatusResult": {
        "status": "enum Failure Success Cancelled",
        "result": "string",
        "exception": "RpcException",
    },
    "RpcException": {"source": "string", "stack_trace": "string", "message": "string"},
    "FunctionsMetadataRequest": {"function_app_directory": "string"},
    "FunctionMetadataResponse": {
        "function_metadata_results": "repeated RpcFunctionMetadata",
        "result": "StatusResult",
        "use_default_metadata_indexing": "bool",
    },
    "RpcFunctionMetadata": {
        "name": "string",
        "directory": "string",
        "script_file": "string",
        "entry_point": "string",
        "bindings": "map BindingInfo",
        "is_proxy": "bool",
        "language": "string",
        "raw_bindings": "repeated string",
        "function_id": "string",
        "managed_dependency_enabled": "bool",
        "retry_options": "RpcRetryOptions",
        "properties": STRINGS,
    },
    "BindingInfo": {
        "type": "string",
        "direction": "enum in out inout",
        "data_type": "enum undefined string binary stream",
        "properties": STRINGS,
    },
    "RpcRetryOptions": {
        "max_retry_count": "int32",
        "retry_strategy": "enum exponential_backoff fixed_delay",
        "delay_interval": "google.protobuf.Duration",
        "minimum_interval": "google.protobuf.Duration",
        "maximum_interval": "google.protobuf.Duration",
    },
    "FunctionLoadRequest": {"function_id": "string", "metadata": "RpcFunctionMetadata"},
    "FunctionLoadResponse": {"function_id": "string", "result": "StatusResult"},
    "InvocationRequest": {
        "invocation_id": "string",
        "function_id": "string",
        "input_data": "repeated ParameterBinding",
        "trigger_metadata": "map TypedData",
        "trace_context": "RpcTraceContext",
        "retry_context": "RetryContext",
    },
    "RpcTraceContext": {"trace_parent": "string", "trace_state": "string", "attributes": STRINGS},
    "RetryContext": {
        "retry_count": "int32",
        "max_retry_count": "int32",
        "exception": "RpcException",
    },
    "InvocationResponse": {
        "invocation_id": "string",
        "output_data": "repeated ParameterBinding",
        "return_value": "TypedData",
        "result": "StatusResult",
    },
    "ParameterBinding": {"name": "string", "data": "oneof rpc_data TypedData"},
    "TypedData": {
        "string": "oneof data string",
        "json": "oneof data string",
        "bytes": "oneof data bytes",
        "stream": "oneof data bytes",
        "http": "oneof data RpcHttp",
        "int": "oneof data sint64",
        "double": "oneof data double",
        "model_binding_data": "oneof data ModelBindingData",
    },
    "ModelBindingData": {
        "version": "string",
        "source": "string",
        "content_type": "string",
        "content": "bytes",
    },
    "RpcHttp": {
        "method": "string",
        "url": "string",
        "headers": STRINGS,
        "body": "TypedData",
        "params": STRINGS,
        "status_code": "string",
        "query": STRINGS,
        "enable_content_negotiation": "bool",
        "cookies": "repeated RpcHttpCookie",
    },
    "RpcHttpCookie": {
        "name": "string",
        "value": "string",
        "domain": "NullableString",
        "path": "NullableString",
        "expires": "NullableTimestamp",
        "secure": "NullableBool",
        "http_only": "NullableBool",
        "same_site": "enum None Lax Strict ExplicitNone",
        "max_age": "NullableDouble",
    },
    "NullableString": {"value": "oneof string string"},
    "NullableDouble": {"value": "oneof double double"},
    "NullableBool": {"value": "oneof bool bool"},
    "NullableTimestamp": {"value": "oneof timestamp google.protobuf.Timestamp"},
}
REQUESTS = {
    "worker_init_request": "WorkerInitRequest",
    "functions_metadata_request": "FunctionsMetadataRequest",
    "function_load_request": "FunctionLoadRequest",
    "invocation_request": "InvocationRequest",
}


def message_classes() -> SimpleNamespace:
    """Make protobuf classes of MESSAGES, under the names that the generated module has."""
    from google.protobuf import (
        descriptor_pb2,
        descriptor_pool,
        duration_pb2,
        message_factory,
        timestamp_pb2,
    )

    file = descriptor_pb2.FileDescriptorProto(
        name="FunctionRpc.proto", package="rpc", syntax="proto3"
    )
    file.dependency.extend([duration_pb2.DESCRIPTOR.name, timestamp_pb2.DESCRIPTOR.name])
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            _add_field(message, field, number, kind)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return SimpleNamespace(
        {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"rpc.{name}"))
            for name in MESSAGES
        }
    )


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    """Add one field to a message's descriptor.

    `kind` is a type, perhaps after map, repeated, oneof NAME or enum.
    """
    words = kind.split()
    field = message.field.add(name=name, number=number, label="LABEL_OPTIONAL")
    match words:
        case ["enum", *values]:
            enum = message.enum_type.add(name=name.title().replace("_", ""))
            for value, label in enumerate(values):
                enum.value.add(name=label, number=value)
            field.type, field.type_name = "TYPE_ENUM", enum.name
            return
        case ["map", of]:
            entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
            entry.options.map_entry = True
            _add_field(entry, "key", 1, "string")
            _add_field(entry, "value", 2, of)
            field.label, of = "LABEL_REPEATED", f".rpc.{message.name}.{entry.name}"
        case ["repeated", of]:
            field.label = "LABEL_REPEATED"
        case ["oneof", group, of]:
            if group not in [oneof.name for oneof in message.oneof_decl]:
                message.oneof_decl.add(name=group)
            field.oneof_index = [oneof.name for oneof in message.oneof_decl].index(group)
        case [of]:
            pass
    if of in ("string", "bytes", "bool", "int32", "sint64", "double"):
        field.type = f"TYPE_{of.upper()}"
    else:
        qualified = of if of.startswith(".") else f".{of}" if "." in of else f".rpc.{of}"
        field.type, field.type_name = "TYPE_MESSAGE", qualified


async def serve_library(app: Path, answers: int) -> None:
    """Hand each line of standard input to the library; write its answer to `answers`."""
    import azure_functions_runtime as library
    from google.protobuf import json_format

    protos = message_classes()
    sys.path.insert(0, str(app))
    # As the worker's process, around the library, does: what reaches the root is the host's, which
    # sends it to Application Insights. Here it goes into the log.
    to_host = logging.StreamHandler()
    to_host.setFormatter(logging.Formatter(f"{TO_HOST}%(message)s"))
    logging.getLogger().addHandler(to_host)
    logging.getLogger().setLevel(logging.INFO)
    library.start_threadpool_executor()
    for line in sys.stdin:
        [(name, body)] = json.loads(line).items()
        message = json_format.ParseDict(body, getattr(protos, REQUESTS[name])())
        properties = {"host": "127.0.0.1", "protos": protos}
        envelope = SimpleNamespace(
            request=SimpleNamespace(**{name: message}), properties=properties
        )
        answer = await getattr(library, name)(envelope)
        text = json.dumps(json_format.MessageToDict(answer, preserving_proto_field_name=True))
        os.write(answers, (text + "\n").encode())


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # functions may print
    asyncio.run(serve_library(Path(sys.argv[1]), answers))


if __name__ == "__main__":
    main()
