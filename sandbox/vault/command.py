"""`python -m sandbox vault`"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from sandbox.vault.server import serving
from sandbox.vault.stored_secrets import NAME


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with serving(port=options.port, cert_dir=options.cert_dir) as running:
        for name, value in options.secret:
            running.vault.set_secret(name, value)
        print(running.ready_line(), flush=True)
        stopped.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox vault",
        description="Serve Key Vault and the identity endpoint; "
        "print their addresses as one JSON line.",
        epilog="Example: python -m sandbox vault --port 8443 --secret klaviyo-key=pk_test",
    )
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument(
        "--cert-dir", type=Path, help="where the certificates go; default: a temporary folder"
    )
    parser.add_argument(
        "--secret",
        type=_secret,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="have this secret at once",
    )
    return parser


def _secret(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(
            "give NAME=VALUE, with letters, digits and hyphens in NAME"
        )
    return name, value
