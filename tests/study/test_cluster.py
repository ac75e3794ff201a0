"""Studies on a Ray cluster."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crossdistill.errors import UserError
from crossdistill.study.cluster import Cluster
from study.conftest import quiet

pytest.importorskip("ray")


def test_what_is_no_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="^--cluster 10.0.0.1:6379: give auto, local or ray://HOST:10001"):
        Cluster("10.0.0.1:6379")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="^--cluster auto: there is no Ray cluster that answers"):
        Cluster("auto")([], None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_whose_worker_dies_goes_on_at_another(
    small: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker finds the tests' own modules nowhere; it needs none.
    recipe = small["recipe"] | {"epochs": 30, "checkpoint_every": 1, "log_every": 1}
    study = small | {"recipe": recipe, "rows": {"scratch": None}}
    alone = quiet(study, tmp_path / "alone")
    begun = tmp_path / "cluster" / "pair" / "scratch" / "0" / "checkpoints"
    killed = threading.Event()

    def kill() -> None:
        while not (begun.is_dir() and any(begun.iterdir())):
            time.sleep(0.05)
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                named = process.read_bytes()
            except OSError:
                continue
            if b"ray::_make" in named:
                os.kill(int(process.parent.name), signal.SIGKILL)
                killed.set()

    threading.Thread(target=kill, daemon=True).start()
    on_cluster = quiet(study, tmp_path / "cluster", engine=Cluster("local"))
    assert killed.is_set() and not on_cluster.failed
    for seed in (0, 1):
        one, other = (tmp_path / where / "pair" / "scratch" / str(seed) for where in ("alone", "cluster"))
        assert torch.equal(*(load_file(run / "student.safetensors")["fc.weight"] for run in (one, other)))
    assert alone.results.pairs[0].rows[0].mean == on_cluster.results.pairs[0].rows[0].mean
