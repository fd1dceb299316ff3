"""A plan is made where the local disk has room for it, and leaves little of it there."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from exporter.errors import DiskTooSmall, LeaseHeld
from exporter.planning.disk_space import (
    FLEX_CONSUMPTION_MB,
    SHARE_OF_PLANS,
    DiskSpace,
    expected_bytes,
)
from exporter.planning.planner import PlanLimits
from exporter.planning.request_bodies import LocalPieces, PlanReader
from exporter.reading.source import PartitionSource
from tests.planning.planned import planned

CSV_BYTES_A_ROW = 113  # of ten columns, as the sandbox makes them


@dataclass(frozen=True)
class Part:
    name: str
    size_bytes: int


def part(size: float, name: str = "a.csv") -> Part:
    return Part(name, round(size))


def read_whole(watch, folder: Path, *, read: int, staged: int) -> None:
    source = watch.source(PartitionSource(name="a.csv", open=lambda: [b"x" * read]))
    assert sum(map(len, source.open())) == read
    file = folder / "rows-00000.parquet"
    file.write_bytes(b"x" * staged)
    watch.finished_file(file)


def test_ten_million_rows_of_ten_columns_are_expected_to_fit_an_instance():
    expected = expected_bytes([part(10_000_000 * CSV_BYTES_A_ROW)])
    assert expected.likely < FLEX_CONSUMPTION_MB * 1e6 * SHARE_OF_PLANS


def test_a_parquet_file_is_expected_whole_beside_its_rows():
    sizes = [part(90e6, "a.parquet"), part(50e6, "b.parquet")]
    assert expected_bytes(sizes).besides > 90e6
    assert expected_bytes(sizes).least > 90e6


def test_a_gzip_file_is_expected_to_take_more_than_its_size(tmp_path: Path):
    assert expected_bytes([part(1e8, "a.csv.gz")]).likely > 1e8 > expected_bytes([part(1e8)]).likely


def test_what_can_never_fit_is_refused_before_it_is_read_with_the_limit_and_the_way_out(
    tmp_path: Path,
):
    space = DiskSpace(tmp_path, limit_mb=8)
    with pytest.raises(DiskTooSmall) as refused, space.reserved([part(9e6, "a.parquet")]):
        raise AssertionError("begun")
    assert "plans may take 7 MB" in refused.value.message
    assert "WORK_FOLDER" in refused.value.hint
    assert "DISK_MB" in refused.value.hint


def test_what_will_not_fit_ends_with_the_first_pieces(tmp_path: Path):
    space = DiskSpace(tmp_path, limit_mb=8)
    with pytest.raises(DiskTooSmall, match="about 14 MB"), space.reserved([part(20e6)]) as watch:
        read_whole(watch, tmp_path, read=2_000_000, staged=600_000)


def test_a_large_file_of_which_few_columns_are_mapped_is_planned(tmp_path: Path):
    space = DiskSpace(tmp_path, limit_mb=32)
    with space.reserved([part(60e6)]) as watch:
        read_whole(watch, tmp_path, read=4_000_000, staged=10_000)


def test_a_file_that_is_written_again_counts_once(tmp_path: Path):
    space = DiskSpace(tmp_path, limit_mb=8)
    with space.reserved([part(8e6)]) as watch:
        for _ in range(20):
            read_whole(watch, tmp_path, read=400_000, staged=100_000)


def test_a_plan_waits_while_another_takes_what_it_needs(tmp_path: Path):
    space = DiskSpace(tmp_path, limit_mb=8)
    with space.reserved([part(8e6)]):
        with pytest.raises(LeaseHeld), space.reserved([part(8e6)]):
            raise AssertionError("begun")
        with space.reserved([part(0.5e6)]):
            pass
    with space.reserved([part(8e6)]):
        pass


def test_what_was_measured_replaces_what_was_expected(tmp_path: Path):
    space = DiskSpace(tmp_path, limit_mb=8)
    with space.reserved([part(8e6)]) as watch:
        read_whole(watch, tmp_path, read=8_000_000, staged=50_000)
        with space.reserved([part(1.5e6)]):
            pass


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        duckdb.IOException("Could not write to /p/ada@x.com: No space left on device"),
        duckdb.OutOfMemoryException("failed to offload; see max_temp_directory_size"),
    ],
)
def test_a_disk_that_fills_in_the_middle_is_the_same_error(tmp_path: Path, full: Exception):
    space = DiskSpace(tmp_path, limit_mb=8)
    with pytest.raises(DiskTooSmall) as refused, space.reserved([part(10)]):
        raise full
    assert "ada" not in refused.value.message
    with space.reserved([part(8e6)]):
        pass  # its room is free again


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path):
    space = DiskSpace(tmp_path, limit_mb=8)
    with pytest.raises(OSError, match="Input"), space.reserved([part(10)]):
        raise OSError(errno.EIO, "Input/output error")


def test_a_disk_smaller_than_its_setting_counts(tmp_path: Path):
    assert DiskSpace(tmp_path, limit_mb=1e7).room_bytes() == pytest.approx(
        DiskSpace(tmp_path).room_bytes(), rel=0.05
    )


def test_a_plan_is_sent_with_few_of_its_pieces_on_the_disk(tmp_path: Path):
    rows = "EMail\n" + "\n".join(f"u{n}@x.co" if n % 9 else "none" for n in range(2_000))
    limits = PlanLimits(batch_profiles=150, piece_bytes=1_000)
    with planned({"1.csv": rows}, {"email": "EMail"}, limits=limits) as found:
        assert len(found.plan.pieces) > 20
        whole = [found.reader.body(batch) for batch in found.plan.batches]
        places = [found.places(batch) for batch in found.plan.batches]
        stored = {p.name: p.read_bytes() for p in found.folder.glob("rows-*.parquet")}
        for name in stored:
            (found.folder / name).unlink()
        here: list[int] = []

        def fetch(piece: int) -> None:
            path = found.folder / f"rows-{piece:05d}.parquet"
            path.write_bytes(stored[path.name])
            here.append(len(list(found.folder.glob("rows-*.parquet"))))

        pieces = LocalPieces(found.folder, fetch, most=4)
        reader = PlanReader(found.plan, found.folder, list_id="Y6nRLr", memory_mb=64, pieces=pieces)
        few = type(found)(found.plan, found.folder)
        few.__dict__["reader"] = reader
        assert [reader.body(batch) for batch in found.plan.batches] == whole
        assert [few.places(batch) for batch in found.plan.batches] == places
        widest = max(len(batch.spans) for batch in found.plan.batches)
        assert max(here) <= max(4, widest) < len(found.plan.pieces) / 2
        reader.close()


def test_a_plan_that_fills_the_disk_is_no_defect_whoever_makes_it():
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(DiskTooSmall, match="disk is full"),
        planned({"1.csv": "EMail\na@x.co\n"}, {"email": "EMail"}, progress=full),
    ):
        raise AssertionError("planned")
