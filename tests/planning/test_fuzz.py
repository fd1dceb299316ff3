"""The fuzzer of `make fuzz` in its short form, and that it finds what it looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.planning.row_lists import RejectedRows
from scripts import fuzz
from tests.waiting import LIMIT_S


def test_damaged_snapshots_are_accounted_for_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.fuzz(seed=7, seconds=LIMIT_S, cases=60) == 0, capsys.readouterr().out


def test_a_row_that_is_lost_is_found_and_its_file_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Breaks the exporter: what reading leaves out is no longer told."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def forgetful(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(RejectedRows, "add", forgetful)
    assert fuzz.fuzz(seed=7, seconds=LIMIT_S, cases=200) == 1
    assert "AssertionError" in (told := capsys.readouterr().out)
    assert "failed in snapshot" in told
    assert list(tmp_path.glob("fuzz-7-*"))
