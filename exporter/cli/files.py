"""`python -m exporter push`, `plan`, `suggest`, `forget`: with files of this computer, or with an app's store."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml

from exporter.cli import local_backend
from exporter.cli.options import (
    AppUrl,
    Email,
    Json,
    MappingFile,
    as_json_document,
    confirm,
    errors,
    print_document,
    progress_bar,
    read_mapping,
    using,
)
from exporter.cli.wording import erasure_as_text, plan_as_text, report_as_text
from exporter.definitions.export import LIST_ID_PATTERN
from exporter.definitions.suggestions import suggest as mapping_suggestion
from exporter.errors import ConfigError, ExporterError, Unknown
from exporter.klaviyo.client import Klaviyo
from exporter.management import erasure as forgetting
from exporter.management.exports import SAMPLES
from exporter.orchestration.engine import Engine
from exporter.planning import emails, phones
from exporter.planning.planner import make_plan
from exporter.planning.request_bodies import PlanReader
from exporter.planning.summary import plan_summary
from exporter.reading.source import PartitionSource, read_columns
from exporter.runs.run import Status
from exporter.settings import StepLimits, setting
from exporter.storage.local_folder import LocalFiles

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Files, or a folder of them: one snapshot.")
]
LOCAL_LIMITS = StepLimits(settle_s=0, step_s=86_400, lease_s=12, setbacks=4)  # somebody waits


def push(
    files: Files,
    list_id: Annotated[str, typer.Option("--list", metavar="ID", help="The Klaviyo list to fill.")],
    email: Email = "",
    mapping: MappingFile = None,
    state: Annotated[
        Path, typer.Option(help="Where runs are kept; the same again takes up a run.")
    ] = Path(".exporter"),
    keep_rejected_rows: Annotated[
        bool,
        typer.Option(
            "--keep-rejected-rows", help="Put rejected rows themselves into rejected.csv."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Send FILE... to a Klaviyo list, from this computer. The key comes from KLAVIYO_API_KEY.

    Example: KLAVIYO_API_KEY=pk_... python -m exporter push vips.csv --list Y6nRLr --email EMail
    """
    if not re.fullmatch(LIST_ID_PATTERN, list_id):  # not repeated: it may be a key
        hint = "Give the id alone, such as Y6nRLr; it follows /list/ in the list's address."
        raise ConfigError("--list is no list's id", hint=hint)
    document = read_mapping(email, mapping)
    key = local_backend.EnvironmentSecrets().read(local_backend.CONNECTION)
    try:
        with progress_bar() as progress:
            engine, run = local_backend.push(
                local_backend.data_files(files),
                list_id=list_id,
                mapping=document,
                keep_rejected_rows=keep_rejected_rows,
                key=key,
                state=state,
                base_url=setting("KLAVIYO_BASE_URL", os.environ),
                revision=setting("KLAVIYO_REVISION", os.environ),
                limits=_limits(),
                progress=progress,
                tell=lambda sentence: errors.print(sentence, markup=False),
            )
    except KeyboardInterrupt:
        errors.print(
            "Interrupted. What Klaviyo took is recorded: the same command goes on from there."
        )
        raise typer.Exit(1) from None
    found = engine.store.read(run.folder + "report.json")
    assert found is not None
    print_document(json.loads(found.data), report_as_text, as_json)
    print(f"Files       {state / run.folder}", file=sys.stderr)
    if run.status not in (Status.SUCCESSFUL, Status.WARNINGS):
        raise typer.Exit(1)


def plan(
    what: Annotated[
        list[str], typer.Argument(metavar="EXPORT|FILE...", help="An export's id, or files.")
    ],
    email: Email = "",
    mapping: MappingFile = None,
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Show the first profiles as they are, not masked.")
    ] = False,
    app: AppUrl = "",
    as_json: Json = False,
) -> None:
    """Read, check and batch, and say what a run would do. Sends nothing, changes nothing.

    Example: python -m exporter plan vips.csv --email EMail
    """
    if len(what) == 1 and not Path(what[0]).exists() and not (email or mapping):
        with using(app) as it:
            try:
                summary = it.plan_export(what[0], show_values=show_values)
            except Unknown as exc:
                hint = "python -m exporter exports lists them."
                raise ConfigError(f"there is no file and no export {what[0]}", hint=hint) from exc
        print_document(summary, plan_as_text, as_json)
        return
    document = read_mapping(email, mapping)
    sources = [
        _local_source(file) for file in local_backend.data_files([Path(file) for file in what])
    ]
    with tempfile.TemporaryDirectory() as name, progress_bar() as progress:
        folder, limits = Path(name), _limits()
        planned = make_plan(
            sources,
            document,
            folder,
            limits=limits.plan,
            progress=lambda rows: progress("plan", rows, 0),
        )
        reader = PlanReader(planned, folder, list_id="LIST", memory_mb=limits.plan.memory_mb)
        summary = plan_summary(planned, reader.sample(SAMPLES), show_values=show_values)
        reader.close()
    print_document(summary, plan_as_text, as_json)


def suggest(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A file of the segment.")
    ] = None,
    segment: Annotated[
        str, typer.Option(metavar="NAME", help="A segment in storage, instead of a file.")
    ] = "",
    app: AppUrl = "",
) -> None:
    """Propose a mapping from the column names of FILE, to be looked at and edited.

    Example: python -m exporter suggest vips.csv > mapping.yaml
    """
    if (file is None) == (not segment):
        raise ConfigError("one file, or --segment", hint="Give either.")
    if file is None:
        with using(app) as it:
            found = as_json_document(it.suggest_mapping(segment))
        columns, mapping = found["columns"], found["mapping"]
    else:
        of_each = (read_columns(_local_source(each)) for each in local_backend.data_files([file]))
        columns = next(filter(None, of_each), ())
        mapping = mapping_suggestion(columns)
    print(f"# columns: {', '.join(' '.join(column.split()) for column in columns)}")
    print(yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True), end="")


def forget(
    known_by: Annotated[
        list[str],
        typer.Argument(
            metavar="EMAIL...", help="The person's address, and telephone number or external id."
        ),
    ],
    state: Annotated[
        Path | None, typer.Option(help="Where `push` keeps runs, instead of a deployed app's.")
    ] = None,
    klaviyo: Annotated[
        bool, typer.Option("--klaviyo", help="Have Klaviyo delete the profile, too. For good.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before Klaviyo is.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a person everywhere the exporter keeps them. Harmless to repeat.

    With --klaviyo the keys need the scope data-privacy:write; Klaviyo finds people by address, or by a telephone
    number that begins with +. Erase the person in Customer Insights first: the next snapshot would bring them back.

    Example: python -m exporter forget ada@example.com
    """
    people = _as_klaviyo_knows(known_by)
    if klaviyo and not people:
        hint = "Give the e-mail address, or the telephone number beginning with +."
        raise ConfigError("Klaviyo finds people by address or telephone number", hint=hint)
    if state is None and os.environ.get("EXPORTER_APP"):
        hint = "Unset EXPORTER_APP and give the app's settings, or --state."
        raise ConfigError("forget works on the store itself, not through the app", hint=hint)
    engine = _cloud_store() if state is None else local_backend.on_folder(state)
    if klaviyo:
        confirm("Klaviyo deletes the profile and its history for good. Go on?", yes=yes)
    erasure = forgetting.forget(engine.store, engine.runs, engine.plans, known_by)
    asked: list[str] = []
    failed: list[dict[str, str]] = []
    for connection_id in engine.catalog.connection_ids() if klaviyo else ():
        errors = _ask_klaviyo(engine, connection_id, people)
        failed += [
            {"connection": connection_id, "message": message, "hint": hint}
            for message, hint in errors
        ]
        asked += [] if errors else [connection_id]
    document = {**erasure.to_json(), "klaviyo_asked": asked, "klaviyo_failed": failed}
    print_document(document, erasure_as_text, as_json)
    if failed or not erasure.is_complete:
        raise typer.Exit(1)


def _as_klaviyo_knows(known_by: list[str]) -> list[dict[str, str]]:
    """What Klaviyo finds the person by, as it was sent. Digits without + may be another's number: they are left out."""
    people = []
    for each in known_by:
        number = each.strip().lower().removeprefix("tel:").strip()
        if "@" in each:
            people.append({"email": emails.to_ascii(each) or each.strip().lower()})
        elif number.startswith("+") and (e164 := phones.to_e164(number, None)):
            people.append({"phone_number": e164})
    return people


def _ask_klaviyo(
    engine: Engine, connection_id: str, people: list[dict[str, str]]
) -> list[tuple[str, str]]:
    """Ask for the deletion of these people in one account. What failed of it, with what to do; no failure ends it."""
    base_url, revision = (
        setting("KLAVIYO_BASE_URL", os.environ),
        setting("KLAVIYO_REVISION", os.environ),
    )
    failed: dict[tuple[str, str], None] = {}  # each once, in order
    try:
        connection = engine.catalog.connection(connection_id)
        if connection is None:
            raise Unknown(f"there is no connection {connection_id}")
        with Klaviyo(
            engine.read_secret(connection.secret), base_url=base_url, revision=revision
        ) as client:
            for person in people:
                try:
                    client.ask_for_deletion(**person)
                except ExporterError as exc:
                    failed[exc.message, exc.hint] = None
    except ExporterError as exc:
        failed[exc.message, exc.hint] = None
    return list(failed)


def _limits() -> StepLimits:
    """Those of a laptop, with what the environment says of them."""
    share, plan = setting("KLAVIYO_SHARE", os.environ), setting("MEMORY_MB", os.environ)
    return dataclasses.replace(LOCAL_LIMITS, pacer_share=share, plan=plan)


def _cloud_store() -> Engine:
    from exporter import wiring

    try:
        return wiring.engine()
    except ConfigError as exc:
        hint = f"For what `push` keeps on this computer, name its folder: --state .exporter. Else: {exc.hint}"
        raise ConfigError(exc.message, hint=hint) from exc


def _local_source(file: Path) -> PartitionSource:
    files = LocalFiles([file])
    [blob] = files.list("")
    return PartitionSource(
        name=blob.name,
        open=lambda: files.open(blob.name, etag=blob.etag),
        dialect=local_backend.dialect_of(file),
    )
