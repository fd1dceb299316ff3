"""A small local host for Azure Functions: `python -m sandbox host --app DIR --port N`.

It stands in for Core Tools, which cannot be had everywhere. It reads the app's own metadata,
listens to its containers, queues, schedules and routes, and runs the functions in this process,
with the guarantees of the real host: everything at least once, five tries, then the poison queue;
timers in one host at a time. Two hosts may share storage.

    app.py       function_app.py, host.json and settings -> App
    runner.py    runs a function, sync or async, within functionTimeout
    blobs.py     queues.py     timers.py     routes.py      one trigger each
    storage.py   clients, and the host's own records and locks
    ncrontab.py  schedules
    serve.py     the command line; starts all of it, and stops without losing what runs

Source: Microsoft Learn, "Azure Functions developer guide" and the pages of each trigger (2026-11).
"""

from sandbox.host.serve import main

__all__ = ["main"]
