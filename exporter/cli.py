"""The command line: `python -m exporter ...`. Another front door onto service.py; `local.py` for a laptop.

Exit codes: 0 ok, 1 failed, 2 misused. Reports go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from exporter import forgetting, local, reading, reports
from exporter.catalog import Export
from exporter.errors import ConfigError, ExporterError
from exporter.klaviyo import BASE_URL, REVISION, Klaviyo
from exporter.mapping import MappingDocument, parse_mapping
from exporter.mapping import suggest as mapping_suggestion
from exporter.planning import PartitionSource, make_plan
from exporter.plans import PlanReader
from exporter.runs import Status
from exporter.service import Exporter, Limits
from exporter.store import FolderSnapshots

app = typer.Typer(
    help="Makes a Klaviyo list equal to a Customer Insights segment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True, highlight=False)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files, or a folder of them: one snapshot.")]
Email = Annotated[str, typer.Option("--email", metavar="COLUMN", help="The column with the e-mail address.")]
MappingFile = Annotated[Path | None, typer.Option("--mapping", help="A YAML file: Klaviyo attribute: source column.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LOCAL_LIMITS = Limits(settle_s=0, step_s=86_400, lease_s=12)


@app.command()
def push(
    files: Files,
    list_id: Annotated[str, typer.Option("--list", metavar="ID", help="The Klaviyo list to fill.")],
    email: Email = "",
    mapping: MappingFile = None,
    state: Annotated[Path, typer.Option(help="Where runs are kept; the same again takes up a run.")] = Path(
        ".exporter"
    ),
    as_json: Json = False,
) -> None:
    """Send FILE... to a Klaviyo list, from this computer. The key comes from KLAVIYO_API_KEY.

    Example: KLAVIYO_API_KEY=pk_... python -m exporter push vips.csv --list Y6nRLr --email EMail
    """
    document = _mapping(email, mapping)
    key = _key_of_environment()
    with _progress_bar() as progress:
        exporter, run = local.push(
            local.data_files(files),
            list_id=list_id,
            mapping=document,
            key=key,
            state=state,
            base_url=os.environ.get("KLAVIYO_BASE_URL", BASE_URL),
            revision=os.environ.get("KLAVIYO_REVISION", REVISION),
            limits=LOCAL_LIMITS,
            progress=progress,
        )
    found = exporter.store.read(run.folder + "report.json")
    assert found is not None
    _print(json.loads(found.data), reports.as_text, as_json)
    print(f"Files       {state / run.folder}", file=sys.stderr)
    if run.status not in (Status.SUCCESSFUL, Status.WARNINGS):
        raise typer.Exit(1)


@app.command()
def plan(
    what: Annotated[list[str], typer.Argument(metavar="EXPORT|FILE...", help="An export's id, or files.")],
    email: Email = "",
    mapping: MappingFile = None,
    as_json: Json = False,
) -> None:
    """Read, check and batch, and say what a run would do. Sends nothing, changes nothing.

    Example: python -m exporter plan vips.csv --email EMail
    """
    with tempfile.TemporaryDirectory() as name, _progress_bar() as progress:
        folder = Path(name)
        if len(what) == 1 and not Path(what[0]).exists() and not (email or mapping):
            exporter = _cloud()
            planned = exporter.dry_run(_export(exporter, what[0]), folder)
        else:
            document = _mapping(email, mapping)
            sources = [_local_source(file) for file in local.data_files([Path(file) for file in what])]
            planned = make_plan(sources, document, folder, progress=lambda rows: progress("plan", rows, 0))
        reader = PlanReader(planned, folder, list_id="LIST", memory_mb=LOCAL_LIMITS.memory_mb)
        summary = reports.plan_summary(planned, [json.loads(text) for text in reader.sample(3)])
        reader.close()
    _print(summary, reports.plan_as_text, as_json)


@app.command()
def suggest(file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of the segment.")]) -> None:
    """Propose a mapping from the column names of FILE, to be looked at and edited.

    Example: python -m exporter suggest vips.csv > mapping.yaml
    """
    source = _local_source(local.data_files([file])[0])
    with tempfile.TemporaryDirectory() as folder:
        columns = reading.read_partition(source.open(), folder=Path(folder), name=source.name).columns
    print(f"# columns: {', '.join(' '.join(column.split()) for column in columns)}")
    print(yaml.safe_dump(mapping_suggestion(columns), sort_keys=False, allow_unicode=True), end="")


# On a deployed app's state: the same settings as the app's (docs/configuration.md), and the role of a data contributor.


@app.command()
def exports(as_json: Json = False) -> None:
    """List the exports. Example: python -m exporter exports"""
    listed = [json.loads(export.model_dump_json(by_alias=True)) for export in _cloud().catalog.exports()]
    _print_rows(listed, ("id", "name", "connection", "list_id", "paused"), as_json)


@app.command()
def connections(as_json: Json = False) -> None:
    """List the connections. Example: python -m exporter connections"""
    listed = [json.loads(one.model_dump_json(by_alias=True)) for one in _cloud().catalog.connections()]
    _print_rows(listed, ("id", "name", "secret", "consent"), as_json)


@app.command()
def run(export: Annotated[str, typer.Argument(metavar="EXPORT")], as_json: Json = False) -> None:
    """Start a run on the newest snapshots; the app does the work. Example: python -m exporter run high-value"""
    exporter = _cloud()
    started = exporter.start(_export(exporter, export), because="demand")
    _print({"run": started.run_id, "status": str(started.status)}, lambda document: document["run"], as_json)


@app.command()
def runs(export: Annotated[str, typer.Argument(metavar="EXPORT")], as_json: Json = False) -> None:
    """List the runs of an export, newest first. Example: python -m exporter runs high-value"""
    listed = [
        {
            "run": one.run_id,
            "status": str(one.status),
            "created": one.created_at.isoformat(timespec="seconds"),
            "delivered": one.counts.delivered,
            "rejected": sum(one.counts.rejected.values()),
            "message": one.message,
        }
        for one in _cloud().runs(export)
    ]
    _print_rows(listed, ("run", "status", "created", "delivered", "rejected", "message"), as_json)


@app.command()
def report(run_id: Annotated[str, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Print the report of a run. Example: python -m exporter report high-value/20260824T1433Z-1a2b3c4d5e"""
    found = _cloud().store.read(f"runs/{run_id}/report.json")
    if found is None:
        raise ConfigError(f"there is no report of {run_id}", hint="List the runs of its export; an open run has none.")
    _print(json.loads(found.data), reports.as_text, as_json)


@app.command()
def cancel(run_id: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Stop a run before its next batch. Example: python -m exporter cancel high-value/20260824T1433Z-1a2b3c4d5e"""
    exporter = _cloud()
    if exporter.run(run_id) is None:
        raise ConfigError(f"there is no run {run_id}", hint="List the runs of its export.")
    exporter.cancel(run_id)


@app.command()
def forget(
    known_by: Annotated[
        list[str], typer.Argument(metavar="EMAIL...", help="The person's address, and telephone number or external id.")
    ],
    state: Annotated[Path | None, typer.Option(help="Where `push` keeps runs, instead of a deployed app's.")] = None,
    klaviyo: Annotated[bool, typer.Option("--klaviyo", help="Have Klaviyo delete the profile, too. For good.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before Klaviyo is.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a person everywhere the exporter keeps them. Harmless to repeat.

    With --klaviyo the keys need the scope data-privacy:write. Erase the person in Customer Insights first: the next
    snapshot would bring them back. Example: python -m exporter forget ada@example.com
    """
    addresses = [each for each in known_by if "@" in each]
    if klaviyo and not addresses:
        raise ConfigError("Klaviyo finds people by their address", hint="Give the e-mail address, too.")
    exporter = _cloud() if state is None else local.on_folder(state)
    if klaviyo and not (yes or typer.confirm("Klaviyo deletes the profile and its history for good. Go on?")):
        raise typer.Exit(1)
    erasure = forgetting.forget(exporter, known_by)
    asked: list[str] = []
    try:
        for connection in exporter.catalog.connections() if klaviyo else ():
            _ask_klaviyo(_key_of_environment() if state else exporter.key_of(connection), addresses)
            asked.append(connection.id)
    finally:
        _print({**erasure.to_json(), "klaviyo_asked": asked}, reports.erasure_as_text, as_json)
    if not erasure.is_complete:
        raise typer.Exit(1)


def _ask_klaviyo(key: SecretStr, addresses: list[str]) -> None:
    """Ask for the deletion of these people in one account."""
    base_url, revision = os.environ.get("KLAVIYO_BASE_URL", BASE_URL), os.environ.get("KLAVIYO_REVISION", REVISION)
    with Klaviyo(key, base_url=base_url, revision=revision) as client:
        for address in addresses:
            client.ask_for_deletion(address)


def _key_of_environment() -> SecretStr:
    key = os.environ.get("KLAVIYO_API_KEY", "")
    if not key:
        raise ConfigError("no key: KLAVIYO_API_KEY is not set", hint="Set it to a private key of the Klaviyo account.")
    return SecretStr(key)


def _cloud() -> Exporter:
    from exporter import wiring

    return wiring.cloud()


def _export(exporter: Exporter, export_id: str) -> Export:
    found = exporter.catalog.export(export_id)
    if found is None:
        raise ConfigError(f"there is no file and no export {export_id}", hint="python -m exporter exports lists them.")
    return found


def _print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console(highlight=False).print(table)


def _local_source(file: Path) -> PartitionSource:
    snapshots = FolderSnapshots(file.parent)
    etag = next(snapshots.list(file.name)).etag
    return PartitionSource(name=str(file), open=lambda: snapshots.open(file.name, etag=etag))


def _mapping(email: str, file: Path | None) -> MappingDocument:
    if file is None and not email:
        raise ConfigError("no column for the e-mail address", hint="Give --email COLUMN or --mapping FILE.yaml.")
    document: dict[str, Any] = {}
    if file is not None:
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as exc:
            raise ConfigError(f"{file} cannot be read: {type(exc).__name__}", hint="Give a YAML file.") from exc
        if not isinstance(document, dict):
            raise ConfigError(f"{file} is no mapping", hint="Write lines such as `email: EMail`.")
    return parse_mapping({**document, **({"email": email} if email else {})})


def _print(document: dict[str, Any], as_text: Callable[[dict[str, Any]], str], as_json: bool) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=1) if as_json else as_text(document))


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error; nothing where that is no terminal."""
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=None)
            bar.update(tasks[phase], completed=done, total=total or None)

        yield show


def main() -> int:
    """Run the command line; errors of ours become a sentence and what to do."""
    logging.getLogger().addHandler(logging.NullHandler())  # the report says it all
    try:
        return int(app(standalone_mode=False) or 0)
    except ExporterError as exc:
        errors.print(f"Error: {exc.message}", style="red", markup=False)
        if exc.hint:
            errors.print(f"Do: {exc.hint}", markup=False)
        return 2 if isinstance(exc, ConfigError) else 1
    except typer.Abort:
        errors.print("Interrupted. What Klaviyo took is recorded: the same command goes on from there.")
        return 1
    except Exception as exc:
        if hasattr(exc, "show") and hasattr(exc, "exit_code"):  # click's own: a wrong option, a missing argument
            exc.show()
            return 2
        raise
