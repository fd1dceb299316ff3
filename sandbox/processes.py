"""Start stand-ins as child processes and be sure that none outlives its parent."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# To find what hangs: a slow machine needs a minute for what takes a fast one two seconds.
READY_S, GRACE_S = 300.0, 60.0
popen = subprocess.Popen  # the tests fork instead, without the second that importing takes


def die_with_parent() -> None:
    """Ask Linux to end this child when its parent dies, however it dies.

    Elsewhere the parent's cleanup must do.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    ready_s: float = READY_S,
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """Run `command` until the block ends; yield the process and the JSON line it printed.

    It prints that line when it is ready.

    Its standard error goes to `log`. Raises RuntimeError with the end of that log if it does not
    get ready.
    """
    with log.open("ab") as errors:
        process = popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
    try:
        yield process, _read_ready_line(process, log=log, command=command, ready_s=ready_s)
    finally:
        stop(process)


def sandbox_command(*args: str) -> list[str]:
    """The command line of `python -m sandbox ...` with this interpreter."""
    return [sys.executable, "-m", "sandbox", *args]


def stop(process: subprocess.Popen[bytes], *, grace_s: float = GRACE_S) -> None:
    """End a child: politely, then for certain."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read_ready_line(
    process: subprocess.Popen[bytes], *, log: Path, command: Sequence[str], ready_s: float
) -> dict[str, Any]:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    deadline = time.monotonic() + ready_s
    received = b""
    while b"\n" not in received:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} did not get ready: {tail}")
        received += process.stdout.read() or b""
        time.sleep(0.02)
    line: dict[str, Any] = json.loads(received.split(b"\n", 1)[0])
    return line
