"""A laptop's queue, worked as the host works its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from exporter.cli import local_backend
from exporter.definitions.mapping import parse_mapping
from exporter.errors import ConfigError
from exporter.runs.run import Run, Status
from exporter.storage.local_folder import LocalFiles

ROOT = Path(__file__).parents[2]


def _push(tmp_path: Path) -> Run:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file in files:
        file.write_text(f"EMail\n{file.stem}@example.com\n")
    mapping = parse_mapping({"email": "EMail"})
    _, run = local_backend.push(
        files,
        local_backend.export_to("LIST01", mapping, keep_rejected_rows=False),
        key=SecretStr("pk_x"),
        klaviyo=local_backend.klaviyo_of({"KLAVIYO_BASE_URL": "http://127.0.0.1:9"}),
        state=tmp_path / "state",
        limits=local_backend.LIMITS,
        progress=lambda *_: None,
        tell=lambda _: None,
    )
    return run


def test_a_run_that_fails_for_an_unknown_reason_is_closed_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("ada@example.com")

    monkeypatch.setattr("exporter.orchestration.run_step.make_plan", broken)
    monkeypatch.setattr("exporter.klaviyo.client.Klaviyo.find_list", lambda *_, **__: None)
    run = _push(tmp_path)
    assert run.status is Status.FAILED
    assert "KeyError in" in run.message
    assert "ada" not in run.message


@pytest.mark.parametrize(("names", "words"), [(["a.csv", "b.csv"], "gone"), (["b.csv"], "changed")])
def test_files_deleted_while_they_are_read_fail_the_run_and_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], words: str
) -> None:
    opened = LocalFiles.open

    def deleted(files: LocalFiles, name: str, *, etag: str) -> Iterator[bytes]:
        for each in names:
            (tmp_path / each).unlink(missing_ok=True)
        return opened(files, name, etag=etag)

    monkeypatch.setattr("exporter.storage.local_folder.LocalFiles.open", deleted)
    monkeypatch.setattr("exporter.klaviyo.client.Klaviyo.find_list", lambda *_, **__: None)
    monkeypatch.setattr("time.sleep", lambda _: None)
    run = _push(tmp_path)
    assert run.status is Status.FAILED
    assert words in run.message


def test_a_file_deleted_before_the_run_has_begun_is_not_left_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "exporter.cli.local_backend._make", lambda state: (tmp_path / "b.csv").unlink() or state
    )
    with pytest.raises(ConfigError, match="deleted"):
        _push(tmp_path)


def test_what_a_person_must_mend_leaves_the_run_open_to_be_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ConfigError("the folder cannot be written to")

    monkeypatch.setattr("exporter.orchestration.lease.take", refused)
    with pytest.raises(ConfigError):
        _push(tmp_path)
    [document] = (tmp_path / "state").glob("runs/*/*/run.json")
    assert json.loads(document.read_text())["status"] == Status.QUEUED


def test_a_message_is_tried_as_often_as_by_the_host() -> None:
    host = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))
    assert host["extensions"]["queues"]["maxDequeueCount"] == local_backend.TRIES
