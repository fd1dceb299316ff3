"""The triggers: decorator, one call, return.

Everything they call is in `exporter`, which knows nothing of Functions.

on_blob    a blob arrived                 -> note it
on_step    a message of the work queue    -> take one step further, queue the next
on_poison  a message that failed 5 times  -> close its run as Failed
on_tick    every few minutes              -> start what is due, nudge what stopped
health     GET /api/health                -> is everything we need within reach?
api        any other path under /api      -> the HTTP API
"""

from __future__ import annotations

import json
import logging
import os

import azure.functions as func
import azurefunctions.extensions.bindings.blob as blob

from exporter import wiring
from exporter.errors import ExporterError
from exporter.logs import discreet, show_fields
from exporter.orchestration.health import is_ok
from exporter.storage.messages import decode_message

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
show_fields()
logger = logging.getLogger(__name__)


@app.blob_trigger(
    arg_name="client",
    path="%SNAPSHOTS_CONTAINER%/{name}",
    connection=wiring.SNAPSHOTS_CONNECTION,
    # Event Grid is the only source on Flex Consumption. Nothing sends its events from a laptop's
    # storage.
    source=func.BlobSource(os.environ.get("SNAPSHOTS_SOURCE") or func.BlobSource.EVENT_GRID),
)
@discreet
def on_blob(client: blob.BlobClient) -> None:
    """The SDK type holds no content: an InputStream would cost four times the blob in memory."""
    wiring.engine().arrivals.on_blob_arrived(client.blob_name)


@app.queue_trigger(
    arg_name="message", queue_name="%STEPS_QUEUE%", connection=wiring.STATE_CONNECTION
)
@discreet
def on_step(message: func.QueueMessage) -> None:
    wiring.engine().dispatcher.handle(
        decode_message(message.get_body()), redelivered=(message.dequeue_count or 1) > 1
    )


@app.queue_trigger(
    arg_name="message", queue_name="%STEPS_QUEUE%-poison", connection=wiring.STATE_CONNECTION
)
@discreet
def on_poison(message: func.QueueMessage) -> None:
    wiring.engine().dispatcher.close_poisoned(decode_message(message.get_body()))


@app.timer_trigger(arg_name="tick", schedule="%TICK_SCHEDULE%")
@discreet
def on_tick(tick: func.TimerRequest) -> None:  # noqa: ARG001 - the name is the binding's
    """What is due is worked out from saved state, so a late or missed tick changes nothing."""
    wiring.engine().timer.tick()


@app.route("health", methods=["GET"])
@discreet
def health(req: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001
    try:
        checks = wiring.engine().health.check()
    except ExporterError as exc:
        checks = {"settings": f"{exc.message}. {exc.hint}".strip()}
    status = 200 if all(map(is_ok, checks.values())) else 503
    return func.HttpResponse(json.dumps(checks), status_code=status, mimetype="application/json")


@app.route("{*path}")
@discreet
def api(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """FastAPI is imported with the first request, so that the other triggers do not pay for it."""
    answer: func.HttpResponse = func.AsgiMiddleware(wiring.api()).main(req, context)  # type: ignore[no-untyped-call]
    return answer
