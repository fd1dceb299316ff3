"""Which characters may stand between columns."""

from __future__ import annotations

import pytest

from exporter.errors import SnapshotUnreadable
from exporter.reading.dialect import Dialect
from tests.reading.outcomes import as_csv, read


@pytest.mark.parametrize("delimiter", [",,", '"', "\n", "a", "1", " ", "é", "\0"])
def test_delimiter_that_cannot_work_is_refused(delimiter: str):
    with pytest.raises(SnapshotUnreadable, match="delimiter"):
        read(b"a,b\n1,2\n", declared=Dialect(delimiter=delimiter))


@pytest.mark.parametrize(
    "delimiter", [",", ";", "\t", "|", "^", "~", ":", "#", "\x01", "\x1f", "_", "\\", "'", "."]
)
def test_delimiter_of_any_punctuation_is_taken(delimiter: str):
    rows = [("a", "b", "c"), ("1", ' "2"', "3"), ("", 'x"y', "")]
    data = as_csv(rows, delimiter=delimiter).encode()
    assert read(data, declared=Dialect(delimiter=delimiter)).values == rows[1:]
