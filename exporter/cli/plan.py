"""`python -m exporter plan` and `suggest`: look at files or segments before anything is sent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.backends import open_app
from exporter.cli.options import AppUrl, Email, Encoding, Json, MappingFile
from exporter.cli.printing import as_json_document, print_document
from exporter.cli.progress import show_progress
from exporter.errors import ConfigError, Unknown

if TYPE_CHECKING:
    from exporter.definitions.mapping import MappingDocument


def plan(
    what: Annotated[
        list[str], typer.Argument(metavar="EXPORT|FILE...", help="An export's ID, or files.")
    ],
    email: Email = "",
    mapping: MappingFile = None,
    encoding: Encoding = "",
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Show the first profiles without masking them.")
    ] = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Say what a run or a push would do. Nothing is sent or changed. Exit code 1 if it would fail.

    Example: python -m exporter plan vips.csv --email EMail
    """
    from exporter.cli.wording import plan_as_text
    from exporter.cli.yaml_files import read_mapping

    has_mapping = bool(email or mapping or encoding)
    is_export = len(what) == 1 and not Path(what[0]).exists() and not has_mapping
    if is_export:
        with open_app(app) as it:
            try:
                summary = it.plan_export(what[0], show_values=show_values)
            except Unknown as exc:
                hint = "python -m exporter exports lists the exports."
                raise ConfigError(f"There is no file and no export {what[0]}.", hint=hint) from exc
    else:
        files = [Path(file) for file in what]
        document = read_mapping(email, mapping, encoding=encoding)
        summary = _plan_files(files, document, show_values=show_values)
    print_document(summary, plan_as_text, as_json)
    if summary["message"]:
        raise typer.Exit(1)


def _plan_files(
    paths: list[Path], mapping: MappingDocument, *, show_values: bool
) -> dict[str, Any]:
    from exporter.cli import local_backend
    from exporter.cli.snapshot_files import data_files, source_of
    from exporter.management.exports import SAMPLES
    from exporter.planning.planner import make_plan
    from exporter.planning.request_bodies import PlanReader
    from exporter.planning.summary import plan_summary

    sources = [source_of(file) for file in data_files(paths)]
    limits = local_backend.limits_of(os.environ).plan
    with tempfile.TemporaryDirectory() as name, show_progress() as progress:
        folder = Path(name)
        planned = make_plan(
            sources,
            mapping,
            folder,
            limits=limits,
            progress=lambda rows: progress("plan", rows, 0),
        )
        reader = PlanReader(planned, folder, list_id="LIST", memory_mb=limits.memory_mb)
        try:
            return plan_summary(
                planned,
                reader.sample(SAMPLES),
                show_values=show_values,
                new_people=local_backend.new_people(reader),
            )
        finally:
            reader.close()


def suggest(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A file of the segment.")
    ] = None,
    segment: Annotated[
        str, typer.Option(metavar="NAME", help="A segment in storage, instead of a file.")
    ] = "",
    app: AppUrl = "",
) -> None:
    """Propose a mapping from the column names of FILE. Check it before you use it.

    Example: python -m exporter suggest vips.csv > mapping.yaml
    """
    from exporter.cli.yaml_files import dump_yaml

    if (file is None) == (not segment):
        raise ConfigError("Exactly one source is needed.", hint="Give a file, or --segment NAME.")
    if file is None:
        with open_app(app) as it:
            found = as_json_document(it.suggest_mapping(segment))
        columns, mapping = found["columns"], found["mapping"]
    else:
        columns, mapping = _suggest_for(file)
    print(f"# columns: {', '.join(' '.join(column.split()) for column in columns)}")
    print(dump_yaml(mapping), end="")


def _suggest_for(path: Path) -> tuple[list[str], dict[str, Any]]:
    from exporter.cli.snapshot_files import data_files, source_of
    from exporter.definitions.suggestions import suggest as mapping_for
    from exporter.reading.source import read_columns

    for file in data_files([path]):
        if columns := list(read_columns(source_of(file))):
            return columns, mapping_for(columns)
    return [], mapping_for([])
