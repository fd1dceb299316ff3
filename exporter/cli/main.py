"""The command line: `python -m exporter ...`, or `segment-exporter ...` once installed.

push.py, plan.py, forget.py     push; plan and suggest; forget
connections.py                  connections ..., lists
exports.py, applying.py         exports ..., segments; exports from a file
runs.py                         run, runs, report, cancel, whoami
attention.py                    status, doctor, why, audit
backends.py                     what a command works on: local_backend.py, remote_backend.py, or
                                the app's own store

Exit codes: 0 ok, 1 failed, 2 misused. Reports go to standard output; progress, questions and
errors to standard error.

`--help` and each Tab import the modules of the commands. So these import at the top only what is
quick to import, and everything else inside the functions that need it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from exporter import VERSION
from exporter.cli import attention, connections, exports, forget, plan, push, runs
from exporter.cli.printing import say
from exporter.errors import ConfigError, ExporterError, Invalid, Unknown, plain_words
from exporter.logs import kind_and_place

MISUSE = (ConfigError, Invalid, Unknown)
CTRL_C = 130  # what typer makes of it
OUTPUT_FAILED = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# A shell completes one word; of `python -m exporter` it would complete "python".
ONE_WORD = ("exporter", "segment-exporter")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=Path(sys.argv[0]).name in ONE_WORD,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(push.push)
app.command()(plan.plan)
app.command()(plan.suggest)
app.add_typer(connections.group, name="connections")
app.add_typer(exports.group, name="exports")
app.command()(connections.lists)
app.command()(exports.segments)
app.command()(runs.run)
app.command()(runs.runs)
app.command()(runs.report)
app.command()(runs.cancel)
app.command()(attention.status)
app.command()(attention.doctor)
app.command()(attention.why)
app.command()(attention.audit)
app.command()(runs.whoami)
app.command()(forget.forget)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"segment-exporter {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Makes a Klaviyo list equal to a Customer Insights segment."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; an error becomes a sentence and what to do."""
    logging.getLogger().addHandler(logging.NullHandler())  # the report says it all
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that it does not have is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # who read the output has heard enough, such as `head`
        _drop_output()
        return 1
    except OSError as exc:
        _drop_output()
        _say_error(
            f"The output cannot be written: {exc.strerror}.", "Free space, or print elsewhere."
        )
        return 1
    return code


def _run(args: Sequence[str] | None) -> int:
    try:
        code = int(app(args, standalone_mode=False) or 0)
        return _interrupted() if code == CTRL_C else code
    except ExporterError as exc:
        return _refused(exc)
    except typer.Abort:
        return _interrupted()
    except Exception as exc:
        if isinstance(exc, OSError) and not exc.filename and exc.errno in OUTPUT_FAILED:
            raise  # standard output: files have names
        if hasattr(exc, "show") and hasattr(exc, "exit_code"):
            if hasattr(exc, "message"):
                exc.message = plain_words(exc.message)
            exc.show()  # click's own: a wrong option, a missing argument
            return 2
        if os.environ.get("EXPORTER_DEBUG"):
            raise
        _say_error(*_unforeseen(exc))
        return 1


def _drop_output() -> None:
    """Let Python end without another try to write what is left."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(error: ExporterError) -> int:
    if isinstance(error, Invalid):
        for problem in error.problems:
            _say_error(f"{problem.field}: {problem.message}")
    else:
        _say_error(error.message)
    if error.hint:
        say(f"Do: {error.hint}")
    return 2 if isinstance(error, MISUSE) else 1


def _interrupted() -> int:
    say("Interrupted.")
    return 1


def _say_error(message: str, hint: str = "") -> None:
    say(f"Error: {message}", style="red")
    if hint:
        say(f"Do: {hint}")


def _unforeseen(exc: Exception) -> tuple[str, str]:
    """Say what went wrong and what to do, without its words: they may hold personal data."""
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        message = f"The Python package {exc.name} is not installed."
        return message, f"{sys.executable} -m pip install -r requirements-exporter.txt"
    if isinstance(exc, OSError) and exc.filename and exc.strerror:
        hint = "Check the path, its permissions and the free space there."
        return f"{exc.filename}: {exc.strerror}", hint
    return (
        f"A defect of the exporter: {kind_and_place(exc)}",
        "Open an issue with this line. EXPORTER_DEBUG=1 shows more, which may be personal data.",
    )
