"""`python -m sandbox WHAT ...`: start one stand-in, or the demo.

Every server takes `--port N` (0 = a free one), prints one JSON line with its address when it is
ready, and stops on SIGTERM or SIGINT.
"""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "klaviyo": ("sandbox.klaviyo", "Klaviyo's API"),
    "vault": ("sandbox.vault", "Key Vault and the identity endpoint"),
    "host": ("sandbox.host", "the functions host: runs function_app.py"),
    "snapshot": ("sandbox.snapshots", "make a segment snapshot of synthetic people"),
    "demo": ("sandbox.demo", "the whole app on these stand-ins, from blob to list"),
    "drop": ("sandbox.demo.dropping", "drop a file into the demo that stays, and see the list"),
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        print("usage: python -m sandbox WHAT [options]", file=sys.stderr)
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:10} {summary}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[argv[0]][0])
    return int(module.main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
