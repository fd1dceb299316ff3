"""Ask the person at the terminal: for a yes, or for a Klaviyo key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from exporter.cli.printing import say
from exporter.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import SecretStr

MAX_KEY_CHARACTERS = 1_000


def confirm(question: str, *, yes: bool = False) -> None:
    """Go on after a yes, or end with code 1. Raises ConfigError where nobody can answer."""
    if yes:
        return
    # Typer's own question would leave a blank on standard output.
    typer.echo(f"{question} [y/N]: ", err=True, nl=False)
    answer = sys.stdin.readline()
    if not answer:
        raise ConfigError(
            "Nobody answered the question. Nothing was changed.",
            hint="Answer y, or add --yes (for `agree`: --version).",
        )
    if answer.strip().lower() not in ("y", "yes"):
        say("Nothing was changed.")
        raise typer.Exit(1)


def read_key(*, from_stdin: bool) -> SecretStr:
    """Read a Klaviyo key, typed without echo or piped in.

    It is never an argument: other users of the computer can see those.
    """
    from pydantic import SecretStr

    if from_stdin:
        key = sys.stdin.read(MAX_KEY_CHARACTERS).strip()
    elif sys.stdin.isatty():
        key = str(typer.prompt("Klaviyo private key", hide_input=True, err=True)).strip()
    else:
        key = ""
    if not key:
        raise ConfigError(
            "No key was given.", hint="Type it at the prompt, or pipe it in with --key-stdin."
        )
    return SecretStr(key)
