"""Tables on terminals of any width."""

from __future__ import annotations

import pytest

from exporter.cli.printing import print_rows

ROW = {
    "run": "push-y6nrlr-2b7c/20261201T0314Z-0e58b0fbf9",
    "outcome": "left out",
    "message": "the cell does not hold an e-mail address",
    "where": "/tmp/try/p.csv:5, column EMail",
}


@pytest.mark.parametrize("width", [*range(60, 100, 3), 200])
def test_no_word_of_a_table_is_cut(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_rows([ROW], tuple(ROW), as_json=False)
    printed = capsys.readouterr().out
    words = [word for cell in ROW.values() for word in cell.split()]
    assert [word for word in words if word not in printed] == []
    assert max(map(len, printed.splitlines())) <= width
