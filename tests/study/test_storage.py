"""Addresses of databases, and those that do not answer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossdistill.errors import UserError
from study.helpers import Runs, searched

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://anna:s3cret@127.0.0.1:1/pets", "postgresql://anna:***@127.0.0.1:1/pets cannot be used ("),
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


# A real database: CROSSDISTILL_TEST_POSTGRES=postgresql://user:password@host/database, where tables may be made.
POSTGRES = os.environ.get("CROSSDISTILL_TEST_POSTGRES", "")
# The command, with a shorter time until a silent worker counts as killed.
WORKER = (
    "import sys; from crossdistill.study import storage; storage.HEARTBEAT_SECONDS, storage.GRACE_SECONDS = 1, 3; "
    "from crossdistill.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.skipif(not POSTGRES, reason="CROSSDISTILL_TEST_POSTGRES names no PostgreSQL")
def test_workers_on_postgres_share_a_search_and_one_takes_up_what_a_killed_one_left(
    image_folder: Path, tmp_path: Path
) -> None:
    study = f"test-{os.getpid()}-{time.time_ns()}"
    recipe = ["--epochs", "30", "--batch_size", "12", "--image_size", "32", "--workers", "0", "--accelerator", "cpu"]
    command = [sys.executable, "-c", WORKER, "tune", "--method", "scratch", "--student", "test_resnet", *recipe]
    command += ["--data", str(image_folder), "--output", str(tmp_path / "search"), "--storage", POSTGRES]
    command += ["--study", study, "--trials", "4"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    workers = [subprocess.Popen(command, env=unbuffered, **pipes) for _ in range(2)]
    try:
        assert workers[0].stdout is not None
        for line in workers[0].stdout:
            if line.startswith("trial ") and "top-1" not in line:
                number = line.split()[1]
                break
        wait_for(tmp_path / "search" / "trials" / number / "checkpoints")
        workers[0].send_signal(signal.SIGKILL)
        out, _ = workers[1].communicate(timeout=240)
        assert workers[1].returncode == 0, out
    finally:
        for worker in workers:
            worker.kill()
        storage = optuna.storages.RDBStorage(POSTGRES.replace("postgresql://", "postgresql+psycopg://"))
        trials = optuna.load_study(study_name=study, storage=storage).get_trials()
        optuna.delete_study(study_name=study, storage=storage)
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") + states.count("PRUNED") == 4, out
    assert states.count("FAIL") == 1 and states[int(number)] == "FAIL", out
    (again,) = (trial for trial in trials if trial.system_attrs.get("retry_history"))
    assert again.system_attrs["retry_history"] == [int(number)]
    assert again.params == trials[int(number)].params
    assert f"taken up as trial {again.number}" in (tmp_path / "search" / "trials.csv").read_text()


def wait_for(checkpoints: Path) -> None:
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob("*")):
        assert time.monotonic() < deadline, f"no checkpoint in {checkpoints}"
        time.sleep(0.1)
