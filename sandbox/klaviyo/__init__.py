"""A stand-in for Klaviyo's REST API: accounts, profiles, lists and bulk import jobs.

    python -m sandbox klaviyo --port 8080 [--limits off] [--job-seconds 2]
                              [--key pk_x=lists:read,profiles:read] ...

prints {"url": "http://127.0.0.1:8080", "control": "http://127.0.0.1:8080/_sandbox"} when it is
ready. The keys `pk_sandbox_full` and `pk_sandbox_readonly` always exist. In a test:

    klaviyo = Klaviyo(Settings(limits=False), clock=clock)
    klaviyo.call("GET", "/api/lists").json()             # in process
    with serving(klaviyo) as url: ...                    # over HTTP, from a thread

`testing` has a clock to move by hand and bodies to send; `bench` measures what the stand-in costs.
Query parameters are held against Klaviyo's official document (documented.py). Where Klaviyo's
documentation is silent or contradicts itself, `settings.Settings` has a switch and says so.

What can be scripted, here or over the control routes:

    rows            e-mail addresses with "+sync-fail" in them refuse the job, those with
                    "+async-fail" become import errors; rules for any row: planted.py
    import errors   settings `error_pointers` ("none") and `original_payload` ("profile", "text",
                    "none"); any shape by a rule's `error`
    refusals        faults of kind "status": any status, code, title, detail and source, once or
                    for ever; refused rows with any status: planted.py
    waits           faults of kind "throttle": seconds in the header, as a date, in the text only
    networks        the other kinds of faults: faults.py
    revisions       setting `oldest_revision`: older ones fall forward in silence, or get 410 with
                    `X-Klaviyo-Revision-Fall-Forward-Opt-Out: 1`; setting `agent_hints`
    billing         settings `billing_used` and `billing_max`, scope usage:read
    keys            setting `keys`; `revoke` takes them away
    jobs            settings `job_seconds` and `job_fate`, or one job's fate: jobs.py

Control routes, without a key, JSON in and out:

    GET    /_sandbox/state               requests and statuses by endpoint, 429s, highest
                                         concurrency, job posts by second; jobs by status, rows
                                         accepted, completed and failed; profiles; members by list
    GET    /_sandbox/settings            the switches
    POST   /_sandbox/settings            {"job_seconds": 30, "keys": {"pk_new": ["lists:read"]},
                                          "revoke": ["pk_old"]}
    POST   /_sandbox/reset               an empty account, full counters, no faults, no rules;
                                         settings stay
    POST   /_sandbox/lists               {"id": "Y6nRLr", "name": "VIPs",
                                          "flows": [{"id": "F1", "name": "Hello"}]}
    GET    /_sandbox/lists/{id}          {"id", "name", "members": n, "first": [attributes, ...]}
    GET    /_sandbox/lists/{id}/digest   {"members": n, "digest": hex}, see `digest_of`
    POST   /_sandbox/jobs/{id}           {"fate": "normal" | "stuck" | "vanish" | "cancelled"},
                                         see jobs.py
    POST   /_sandbox/faults              [{"match": "POST /api/profile-bulk",
                                           "kind": "drop_after"}], see faults.py
    DELETE /_sandbox/faults
    POST   /_sandbox/rows                [{"where": {"email": "^ada@"},
                                           "error": {"code": "duplicate_profile"}}],
                                         see planted.py
    DELETE /_sandbox/rows

One account, kept in memory. Rate limit windows start at the first request (limits.py). Not here:
OAuth, segments, events, consent, suppression, secondary e-mail addresses.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal

from sandbox.klaviyo.api import Klaviyo
from sandbox.klaviyo.control import digest_of
from sandbox.klaviyo.messages import Request, Response
from sandbox.klaviyo.server import running, serving
from sandbox.klaviyo.settings import FULL_KEY, READONLY_KEY, Settings

__all__ = [
    "FULL_KEY",
    "READONLY_KEY",
    "Klaviyo",
    "Request",
    "Response",
    "Settings",
    "digest_of",
    "main",
    "serving",
]


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    settings = Settings(
        limits=options.limits == "klaviyo",
        job_seconds=options.job_seconds,
        bad_rows=options.bad_rows,
    )
    settings.change({"keys": dict(options.key)})
    gc.set_threshold(1_000_000, 20, 20)  # parsed bodies are large and free of cycles
    asyncio.run(_serve(Klaviyo(settings), options.port))
    return 0


async def _serve(klaviyo: Klaviyo, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(klaviyo, port=port) as url:
        print(json.dumps({"url": url, "control": f"{url}/_sandbox"}), flush=True)
        await stop.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sandbox klaviyo", description="A stand-in for Klaviyo's REST API."
    )
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument(
        "--limits", choices=("klaviyo", "off"), default="klaviyo", help="rate limits"
    )
    parser.add_argument(
        "--job-seconds", type=float, default=2.0, help="how long an import job takes"
    )
    parser.add_argument(
        "--bad-rows", choices=("all", "first", "none"), default="all", help="named in a 400"
    )
    parser.add_argument("--key", type=_key, action="append", default=[], metavar="KEY=SCOPE,SCOPE")
    return parser


def _key(text: str) -> tuple[str, list[str]]:
    key, _, scopes = text.partition("=")
    return key, [scope for scope in scopes.split(",") if scope]
