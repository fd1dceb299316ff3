"""A function app with one of each trigger, for tests of what runs it.

Every run leaves a line in the file LOG. What a blob or a message says is what the function does:
"fail", "sleep 2", "crash once"; anything else succeeds.
"""

import asyncio
import json
import os
import time
from pathlib import Path

import azure.functions as func
import azurefunctions.extensions.bindings.blob as blob

app = func.FunctionApp()


def note(function: str, **fields: object) -> None:
    """Append what happened to the log, in one write so that threads and processes do not mix."""
    line = (
        json.dumps({"function": function, "pid": os.getpid(), "at": time.time(), **fields}) + "\n"
    )
    with open(os.environ["LOG"], "a") as log:
        log.write(line)


def obey(text: str, tries: int | None = None) -> None:
    command, _, argument = text.partition(" ")
    if command == "fail":
        raise RuntimeError("told to fail")
    if command == "sleep":
        time.sleep(float(argument))
    if command == "crash" and not (crashed := Path(os.environ["LOG"] + ".crashed")).exists():
        crashed.touch()
        os._exit(9)


@app.blob_trigger(
    arg_name="client",
    path="%SNAPSHOTS_CONTAINER%/{name}",
    connection="SnapshotsStorage",
    source=func.BlobSource.EVENT_GRID,
)
def on_blob(client: blob.BlobClient) -> None:
    text = client.download_blob(encoding="utf-8").readall()
    note("on_blob", name=client.blob_name, container=client.container_name, text=text)
    obey(text)
    note("on_blob done", name=client.blob_name)


@app.blob_trigger(
    arg_name="stream", path="streams/in/{region}/{name}.csv", connection="SnapshotsStorage"
)
def on_stream(stream: func.InputStream) -> None:
    note(
        "on_stream",
        name=stream.name,
        uri=stream.uri,
        length=stream.length,
        text=stream.read().decode(),
    )


@app.queue_trigger(arg_name="message", queue_name="%STEPS_QUEUE%", connection="AzureWebJobsStorage")
def step(message: func.QueueMessage, context: func.Context) -> None:
    text = message.get_body().decode()
    note(
        "step",
        id=message.id,
        text=text,
        tries=message.dequeue_count,
        inserted=str(message.insertion_time),
        pop_receipt=message.pop_receipt,
        invocation=context.invocation_id,
    )
    obey(text)
    print("functions may print")
    note("step done", id=message.id, text=text)


@app.queue_trigger(
    arg_name="message", queue_name="%STEPS_QUEUE%-poison", connection="AzureWebJobsStorage"
)
def poisoned(message: func.QueueMessage) -> None:
    note("poisoned", text=message.get_body().decode())


@app.queue_trigger(arg_name="message", queue_name="async-steps", connection="AzureWebJobsStorage")
async def async_step(message: func.QueueMessage) -> None:
    note("async_step", text=message.get_body().decode())
    await asyncio.sleep(0.3)
    note("async_step done", text=message.get_body().decode())


@app.timer_trigger(arg_name="timer", schedule="%TICK_SCHEDULE%")
def tick(timer: func.TimerRequest) -> None:
    note("tick", past_due=timer.past_due, status=timer.schedule_status)
    time.sleep(float(os.environ.get("TICK_SECONDS", "0")))
    note("tick done")


@app.route("health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def health(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(json.dumps({"ok": True}), mimetype="application/json")


@app.route("items/{id:int}", methods=["GET", "PUT"])
def item(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(f"item {req.route_params['id']}")


@app.route("fail")
def fail(req: func.HttpRequest) -> func.HttpResponse:
    raise RuntimeError("told to fail")


@app.route("{*path}")
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    """Say what arrived, and set two cookies."""
    await asyncio.sleep(0)
    arrived = {
        "method": req.method,
        "url": req.url,
        "headers": dict(req.headers),
        "params": dict(req.params),
        "route_params": dict(req.route_params),
        "body_bytes": len(req.get_body()),
    }
    response = func.HttpResponse(json.dumps(arrived), status_code=201, mimetype="application/json")
    response.headers.add("Set-Cookie", "a=1; Path=/; HttpOnly")
    response.headers.add("Set-Cookie", "b=2; SameSite=Lax")
    return response
