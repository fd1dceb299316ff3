"""`python -m exporter push`: send files of this computer to a Klaviyo list, without Azure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.options import Email, Encoding, Json, MappingFile
from exporter.cli.printing import print_document, say
from exporter.cli.progress import show_progress

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Files, or a folder of them: one snapshot.")
]
List = Annotated[
    str, typer.Option("--list", metavar="LIST", help="The Klaviyo list to fill, by ID or name.")
]
StateFolder = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="Keep runs here. An open run goes on.")
]
KeepRows = Annotated[
    bool,
    typer.Option("--keep-rejected-rows", help="Put each rejected row itself into rejected.csv."),
]


def push(
    files: Files,
    wanted_list: List,
    email: Email = "",
    mapping: MappingFile = None,
    encoding: Encoding = "",
    state: StateFolder = Path(".exporter"),
    keep_rejected_rows: KeepRows = False,
    as_json: Json = False,
) -> None:
    """Send FILE... to a Klaviyo list, from this computer. The key comes from KLAVIYO_API_KEY.

    Example: KLAVIYO_API_KEY=pk_... python -m exporter push vips.csv --list Y6nRLr --email EMail
    """
    from exporter.cli import local_backend
    from exporter.cli.snapshot_files import data_files
    from exporter.cli.wording import report_as_text
    from exporter.cli.yaml_files import read_mapping
    from exporter.runs.run import DELIVERED

    document = read_mapping(email, mapping, encoding=encoding)
    export = local_backend.export_to(
        local_backend.find_list(wanted_list), document, keep_rejected_rows=keep_rejected_rows
    )
    key = local_backend.EnvironmentSecrets().read(local_backend.CONNECTION)
    try:
        with show_progress() as progress:
            report, run = local_backend.push(
                data_files(files),
                export,
                key=key,
                klaviyo=local_backend.klaviyo_of(os.environ),
                state=state,
                limits=local_backend.limits_of(os.environ),
                progress=progress,
                tell=say,
            )
    except KeyboardInterrupt:
        say("Interrupted. What Klaviyo accepted is recorded: the same command goes on from there.")
        raise typer.Exit(1) from None
    say(f"Files       {state / run.folder}")
    print_document(report, report_as_text, as_json)
    if run.status not in DELIVERED:
        raise typer.Exit(1)
