"""The database: what it may touch, and that each connection is set up alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from exporter.sql import open_database
from tests.waiting import LIMIT_S


def test_database_reads_and_writes_in_its_folder_only(tmp_path: Path):
    folder = tmp_path / "it's here"
    outside = tmp_path / "outside.csv"
    outside.write_text("secret\n")
    database = open_database(folder, memory_mb=64)
    inside = str(folder / "x.parquet").replace("'", "''")
    database.execute(f"COPY (SELECT 1 AS one) TO '{inside}' (FORMAT parquet)")
    assert database.execute(f"FROM read_parquet('{inside}')").fetchall() == [(1,)]
    for query in (
        f"FROM read_csv('{outside}')",
        f"COPY (SELECT 1) TO '{tmp_path}/y.csv'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '9GB'",
        f"ATTACH '{tmp_path}/z.db'",
    ):
        with pytest.raises(duckdb.Error):
            database.execute(query)
    database.close()


def test_every_connection_has_the_settings(tmp_path: Path):
    """A plain SET would hold for the first connection only, and pieces are staged by others."""
    names = ("TimeZone", "disable_parquet_prefetching", "enable_external_file_cache", "threads")
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    database = open_database(tmp_path, memory_mb=64)
    assert database.cursor().execute(query).fetchall() == [("UTC", True, False, 1)]
    database.close()


def test_moments_are_utc_wherever_the_computer_stands(tmp_path: Path):
    """In a process of its own, because a process learns its time zone once."""
    program = """
import sys
from pathlib import Path
from exporter.definitions.mapping import parse_mapping
from exporter.planning.planner import make_plan
from exporter.reading.source import PartitionSource
from exporter.planning.request_bodies import PlanReader
rule = {"column": "At", "type": "date"}
source = PartitionSource(name="1.csv", open=lambda: [b"EMail,At\\na@x.co,2026-07-01T12:00:00Z\\n"])
mapping = parse_mapping({"email": "EMail", "properties": {"at": rule}})
plan = make_plan([source], mapping, Path(sys.argv[1]))
print(PlanReader(plan, Path(sys.argv[1]), list_id="L", memory_mb=64).sample(1)[0])
"""
    environment = {**os.environ, "TZ": "America/New_York", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(tmp_path / "plan")]
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S
    ).stdout
    assert json.loads(said)["attributes"]["properties"] == {"at": "2026-07-01T12:00:00Z"}
