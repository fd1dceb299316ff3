"""The files of this computer that are one snapshot, and what model.json says about them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from exporter.errors import ConfigError
from exporter.reading.dialect import Dialect
from exporter.reading.source import PartitionSource
from exporter.snapshots.model_json import parse_table, table_with_file
from exporter.snapshots.paths import DATA_SUFFIXES, MODEL_NAME, NotASnapshot, parse_blob_name
from exporter.storage.blob_names import check_name
from exporter.storage.local_folder import LocalFiles


def data_files(paths: Sequence[Path]) -> list[Path]:
    """Give the files named, and the data files directly in the folders named, each once.

    Raises ConfigError.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(filter(_is_data_file, path.iterdir()))
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"There is no file {path}.", hint="Check the path.")
    if not files:
        raise ConfigError(
            "The folder holds no data files.", hint=f"Only {', '.join(DATA_SUFFIXES)} are read."
        )
    return [_readable(file) for file in dict.fromkeys(file.resolve() for file in files)]


def dialect_of(file: Path) -> Dialect:
    """Give what model.json says about a file.

    That is the model.json where Customer Insights puts it, else the one beside the file. In the
    latter the table has the name of the folder, as in storage, or of the file, or else a partition
    of the file's name.
    """
    path, beside = file.as_posix().lstrip("/"), file.with_name(MODEL_NAME)
    table_of_file = re.sub(r"(_\d+)?(\.csv)?\.\w+$", "", file.name)
    places = [(beside, file.parent.name), (beside, table_of_file)]
    with contextlib.suppress(NotASnapshot):
        ref = parse_blob_name(path)
        if ref.model:
            places.insert(0, (Path(file.anchor) / ref.model, ref.segment))
    for model, table in places:
        if model.is_file() and (found := parse_table(model.read_bytes(), table)):
            return found.dialect_of(path)
    if beside.is_file() and (found := table_with_file(beside.read_bytes(), file.name)):
        return found.dialect_of(path)
    return Dialect()


def source_of(file: Path) -> PartitionSource:
    """Give a file as a partition to read."""
    files = LocalFiles([file])
    [blob] = files.list("")
    return PartitionSource(
        name=blob.name,
        open=lambda: files.open(blob.name, etag=blob.etag),
        dialect=dialect_of(file),
    )


def _is_data_file(file: Path) -> bool:
    # macOS leaves ._a.csv beside a.csv on other systems' disks.
    return file.name.lower().endswith(DATA_SUFFIXES) and not file.name.startswith(".")


def _readable(file: Path) -> Path:
    try:
        check_name(file.name)
    except ValueError as exc:
        hint = "Give it a short name without backslash, control characters, or a dot at either end."
        raise ConfigError(f"{file} cannot be read under this name.", hint=hint) from exc
    return file
