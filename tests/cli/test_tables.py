"""How tables are printed, to a terminal and to anything else."""

import pytest
from rich.table import Table

from crossdistill.cli.tables import show

LONG = "a_name_that_is_longer_than_the_terminal_is_wide " * 4


def table() -> Table:
    made = Table("first", "second")
    made.add_row(LONG, "end")
    return made


def test_a_row_is_one_line_and_whole_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    show("above", table())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "above" and all(line == line.rstrip() for line in lines)
    (row,) = [line for line in lines if "a_name" in line]
    assert LONG.strip() in row and "end" in row


def test_a_terminal_gets_its_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(table())
    assert all(len(line) < 100 for line in capsys.readouterr().out.splitlines())
