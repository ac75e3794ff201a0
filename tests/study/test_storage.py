"""Addresses of databases, and those that do not answer."""

from pathlib import Path

import pytest

from crossdistill.errors import UserError
from study.helpers import Runs, searched

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://anna:s3cret@127.0.0.1:1/pets", "postgresql://anna:***@127.0.0.1:1/pets does not answer"),
        ("mysql://anna:s3cret@127.0.0.1/pets", "mysql://anna:***@127.0.0.1/pets: give an address"),
        ("s3cret", "give an address such as postgresql://"),
    ],
)
def test_a_database_that_is_not_there_is_told_without_its_password(
    address: str, told: str, runs: Runs, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refusal:
        searched(tmp_path / "search", storage=address)
    assert told in str(refusal.value)
    assert "s3cret" not in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "search").exists()


def test_a_damaged_file_is_told_in_one_line(runs: Runs, tmp_path: Path) -> None:
    searched(tmp_path, trials=1)
    (tmp_path / "search.db").write_bytes(b"nothing that can be read" * 100)
    with pytest.raises(UserError, match="not a database") as refusal:
        searched(tmp_path, trials=2)
    assert "\n" not in str(refusal.value)
