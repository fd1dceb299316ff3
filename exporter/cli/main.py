"""The command line: `python -m exporter ...`. Another front door onto service.py and management.py.

laptop.py        push, plan, suggest, forget
connections.py   connections ..., lists
exports.py       exports ..., segments
runs.py          run, runs, report, cancel, whoami
shared.py        what they have in common

Exit codes: 0 ok, 1 failed, 2 misused. Reports go to standard output, progress, questions and errors to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import typer

from exporter.cli import connections, exports, files, runs
from exporter.cli.options import errors
from exporter.errors import ConfigError, ExporterError, Invalid, Unknown
from exporter.logs import kind_and_place

MISUSE = (ConfigError, Invalid, Unknown)
CTRL_C = 130  # what typer makes of it

app = typer.Typer(
    help="Makes a Klaviyo list equal to a Customer Insights segment.",
    no_args_is_help=True,
    add_completion=sys.argv[0]
    == "exporter",  # scripts/exporter; of `python -m exporter` a shell would complete "python"
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(files.push)
app.command()(files.plan)
app.command()(files.suggest)

# On a deployed app: over its API (--app), or on its store with the same settings as its own (docs/configuration.md).
app.add_typer(connections.group, name="connections")
app.add_typer(exports.group, name="exports")
app.command()(connections.lists)
app.command()(exports.segments)
app.command()(runs.run)
app.command()(runs.runs)
app.command()(runs.report)
app.command()(runs.cancel)
app.command()(runs.whoami)
app.command()(files.forget)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; errors become a sentence and what to do. args: those of the process if None."""
    logging.getLogger().addHandler(logging.NullHandler())  # the report says it all
    try:
        code = int(app(args, standalone_mode=False) or 0)
        return _interrupted() if code == CTRL_C else code
    except ExporterError as exc:
        if isinstance(exc, Invalid):
            for problem in exc.problems:
                errors.print(
                    f"Error: {problem.field}: {problem.message}", style="red", markup=False
                )
        else:
            errors.print(f"Error: {exc.message}", style="red", markup=False)
        if exc.hint:
            errors.print(f"Do: {exc.hint}", markup=False)
        return 2 if isinstance(exc, MISUSE) else 1
    except typer.Abort:
        return _interrupted()
    except Exception as exc:
        if hasattr(exc, "show") and hasattr(
            exc, "exit_code"
        ):  # click's own: a wrong option, a missing argument
            exc.show()
            return 2
        if os.environ.get("EXPORTER_DEBUG"):
            raise
        message, hint = _unforeseen(exc)
        errors.print(f"Error: {message}", style="red", markup=False)
        errors.print(f"Do: {hint}", markup=False)
        return 1


def _interrupted() -> int:
    errors.print("Interrupted.")
    return 1


def _unforeseen(exc: Exception) -> tuple[str, str]:
    """What went wrong and what to do, without the error's own words: they may hold a row or a key."""
    if isinstance(exc, OSError) and exc.filename and exc.strerror:
        return (
            f"{exc.filename}: {exc.strerror}",
            "Check the path, its permissions and the free space there.",
        )
    message = f"a defect of the exporter: {kind_and_place(exc)}"
    return (
        message,
        "Open an issue with this line. EXPORTER_DEBUG=1 shows more, which may hold data of persons.",
    )
