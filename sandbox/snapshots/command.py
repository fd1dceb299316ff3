"""`python -m sandbox snapshot`"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from sandbox.snapshots.columns import Column
from sandbox.snapshots.kinds import Kind
from sandbox.snapshots.snapshot import Snapshot
from sandbox.snapshots.spec import ENCODINGS, Layout
from sandbox.snapshots.writing import FolderWriter, write_snapshot

LINE_ENDINGS = {"lf": "\n", "crlf": "\r\n"}
EXAMPLE = (
    "python -m sandbox snapshot --rows 1000 --partitions 3 --bad email-no-at=2 --out /tmp/feed"
)


def main(argv: list[str]) -> int:
    parser = _parser()
    options = vars(parser.parse_args(argv))
    out, planted, expected = (options.pop(name) for name in ("out", "planted", "expected"))
    columns, bad = options.pop("columns"), options.pop("bad")
    options["line_ending"] = LINE_ENDINGS[options["line_ending"]]
    if columns:
        options["columns"] = dict(columns)
    try:
        snapshot = Snapshot(**options, bad=dict(bad or []))
        paths = write_snapshot(snapshot, FolderWriter(out))
    except ValueError as error:
        parser.error(str(error))
    if planted:
        _write_lines(planted, (dataclasses.asdict(row) for row in snapshot.planted()))
    if expected:
        _write_lines(expected, (profile._asdict() for profile in snapshot.expected_profiles()))
    print(json.dumps({"rows": snapshot.rows, "paths": paths}))
    return 0


def _column(text: str) -> tuple[Column, str]:
    name, _, header = text.partition("=")
    return Column(name), header or name


def _bad(text: str) -> tuple[Kind, int]:
    kind, _, count = text.partition("=")
    return Kind(kind), int(count)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox snapshot",
        description="Make a segment snapshot of synthetic people.",
        epilog=f"Example: {EXAMPLE}",
    )
    default = Snapshot(rows=0)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--partitions", type=int, default=default.partitions)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--first", type=int, default=default.first, help="number of the first person"
    )
    parser.add_argument(
        "--changed-every", type=int, default=0, metavar="K", help="change every K-th person's name"
    )
    parser.add_argument("--segment", default=default.segment)
    parser.add_argument("--destination", default=default.destination)
    parser.add_argument(
        "--exported-at", type=_moment, default=default.exported_at, metavar="ISO-TIME"
    )
    parser.add_argument(
        "--columns", type=_column, nargs="+", metavar="COLUMN[=HEADER]", help=", ".join(Column)
    )
    parser.add_argument(
        "--extra-columns", type=int, default=0, metavar="N", help="add Extra1 to ExtraN"
    )
    parser.add_argument(
        "--cell-length", type=int, default=default.cell_length, help="characters of an extra cell"
    )
    parser.add_argument(
        "--bad", type=_bad, nargs="+", action="extend", metavar="KIND=N", help=", ".join(Kind)
    )
    parser.add_argument("--layout", type=Layout, choices=list(Layout), default=default.layout)
    parser.add_argument("--no-header", dest="header", action="store_false")
    parser.add_argument("--delimiter", choices=[",", ";", "|", "\t"], default=default.delimiter)
    parser.add_argument("--encoding", choices=list(ENCODINGS), default=default.encoding)
    parser.add_argument("--line-ending", choices=list(LINE_ENDINGS), default="lf")
    parser.add_argument("--no-format-settings", dest="format_settings", action="store_false")
    parser.add_argument(
        "--container-url",
        default=default.container_url,
        help="what model.json's locations start with",
    )
    parser.add_argument(
        "--planted",
        type=Path,
        metavar="FILE",
        help="write the bad rows there, one JSON object a line",
    )
    parser.add_argument(
        "--expected", type=Path, metavar="FILE", help="write what a correct exporter delivers there"
    )
    return parser


def _write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
