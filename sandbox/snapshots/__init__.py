"""Make a segment snapshot of synthetic people as Customer Insights would export it.

It also says what should come of it:

    Snapshot(rows=1000, partitions=3, bad={Kind.EMAIL_NO_AT: 2})
      .files()              path and bytes of every file; write_snapshot() writes them
      .planted()            the bad rows: file, line, kind, and what an exporter makes of each
      .expected_profiles()  what a correct exporter delivers

Nobody here exists: addresses end in example.com, .org or .net. Phone numbers are only plausible,
so send none.

    spec.py      what can be chosen           snapshot.py  files, bad rows, expected profiles
    words.py     names, towns                 layouts.py   paths and model.json
    people.py    person n of a seed           writing.py   to a folder or a container
    columns.py   kinds.py                     command.py   the command line
    flaws.py     where bad rows stand         spoiling.py  how they are made
    rows.py      rows as text
"""

from sandbox.snapshots.columns import Column, extra_cell
from sandbox.snapshots.command import main
from sandbox.snapshots.kinds import OUTCOMES, Kind, Outcome
from sandbox.snapshots.snapshot import ExpectedProfile, PlantedRow, Snapshot
from sandbox.snapshots.spec import Layout
from sandbox.snapshots.writing import ContainerWriter, FolderWriter, write_snapshot

__all__ = [
    "OUTCOMES",
    "Column",
    "ContainerWriter",
    "ExpectedProfile",
    "FolderWriter",
    "Kind",
    "Layout",
    "Outcome",
    "PlantedRow",
    "Snapshot",
    "extra_cell",
    "main",
    "write_snapshot",
]
