"""Two processes on gloo: the same training as one, and exact resume."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TINY_VIT, metrics, tiny_options
from safetensors.torch import load_file
from torch.testing import assert_close

from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.training.checkpoint import latest_checkpoint


def launch(folder: Path, name: str, options: TrainingOptions, processes: int, *flags: str, kill: bool = False) -> Path:
    """Run the command as a user would, in as many processes as asked for; kill them all after the first checkpoint."""
    output = folder / name
    recipe = folder / f"{name}.yaml"
    values = dataclasses.asdict(options) | {"output": str(output), "devices": processes}
    recipe.write_text(yaml.safe_dump(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "crossdistill", "distill", "--config", str(recipe), *flags]
    with (folder / f"{name}.log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        if kill:
            while latest_checkpoint(output / "checkpoints") is None and process.poll() is None:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            code = process.wait(timeout=240)
            log.seek(0)
            assert code == 0, log.read()[-3000:]
    return output


# With more than one position in its last map, as CSKD needs.
CNN = ModelOptions("test_resnet", {"output_stride": 8})
VIT = ModelOptions("vit_tiny_patch16_224", TINY_VIT | {"embed_dim": 48})
# What CAKD draws at random, each process draws for itself.
NOTHING_DRAWN = {"replacement_probability": 0.0, "dropout": 0.0, "view_probability": 0.0, "critic_every": 2}


@pytest.mark.parametrize(
    ("teacher", "method"),
    [
        # Three processes a case, so one of them in every run of the tests.
        (CNN, MethodOptions("kd")),
        pytest.param(CNN, MethodOptions("ofa"), marks=pytest.mark.slow),
        pytest.param(CNN, MethodOptions("cskd"), marks=pytest.mark.slow),
        pytest.param(VIT, MethodOptions("cakd", NOTHING_DRAWN), marks=pytest.mark.slow),
        # The negatives of InfoNCE are those of all processes.
        pytest.param(CNN, MethodOptions("fbt"), marks=pytest.mark.slow),
        # And the images that are remembered, gathered as those are.
        pytest.param(CNN, MethodOptions("crd"), marks=pytest.mark.slow),
    ],
    ids=lambda value: value.name,
)
def test_two_processes_equal_one(
    teacher: ModelOptions, method: MethodOptions, image_folder: Path, tmp_path: Path
) -> None:
    # A ViT has no batch norm, so the gradient of the global batch is the mean of the two halves' gradients.
    options = tiny_options(
        image_folder,
        tmp_path / "unused",
        student=ModelOptions("vit_tiny_patch16_224", TINY_VIT),
        teacher=teacher,
        method=method,
        cutmix=1.0,
        mixup=0.5,
        random_erasing=0.5,
        max_steps=4,
        log_every=1,
        optimizer="sgd",
        learning_rate=0.1,
    )
    one = launch(tmp_path, "one", options, processes=1)
    two = launch(tmp_path, "two", options, processes=2)
    for single, double in zip(metrics(one), metrics(two), strict=True):
        for name, value in single.items():
            assert double[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
    single_state, double_state = load_file(one / "student.safetensors"), load_file(two / "student.safetensors")
    for name, tensor in single_state.items():
        assert_close(double_state[name], tensor, rtol=1e-3, atol=1e-5)
    assert json.loads((two / "summary.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_without_labels_every_parameter_takes_part(flat_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    # FitNet reads what comes before the last norm, which nothing but a head would reach.
    options = tiny_options(
        flat_folder,
        tmp_path / "unused",
        student=ModelOptions("vit_tiny_patch16_224", TINY_VIT),
        teacher=CNN,
        method=MethodOptions("fitnet", {"standardize_features": False}),
        held_out=0.2,
        max_steps=4,
        log_every=1,
        optimizer="sgd",
        learning_rate=0.1,
        probe_data=str(image_folder),
    )
    one, two = (launch(tmp_path, str(processes), options, processes) for processes in (1, 2))
    for single, double in zip(metrics(one), metrics(two), strict=True):
        assert single.keys() == double.keys()
        if single["kind"] == "train":
            assert double["loss"] == pytest.approx(single["loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_with_a_cache_equal_two_with_the_teacher(image_folder: Path, tmp_path: Path) -> None:
    options = tiny_options(image_folder, tmp_path / "unused", cutmix=1.0, accumulate=2, batch_size=24, epochs=2)
    whole = launch(tmp_path, "whole", options, processes=2)
    options.teacher_cache = str(tmp_path / "cache")
    filling = launch(tmp_path, "filling", options, 2, "--teacher_cache_fill", "true")
    cached = launch(tmp_path, "cached", options, processes=2)
    assert {path.name for path in (tmp_path / "cache" / "logits").iterdir()} == {
        f"epoch000{epoch}-part000-rank{rank}.safetensors" for epoch in range(2) for rank in range(2)
    }
    expected = load_file(whole / "student.safetensors")
    for run in (filling, cached):
        assert all(
            torch.equal(tensor, expected[name]) for name, tensor in load_file(run / "student.safetensors").items()
        )
        assert metrics(run) == metrics(whole)


@pytest.mark.slow
def test_two_processes_killed_and_resumed_equal_never_killed(image_folder: Path, tmp_path: Path) -> None:
    # Batch norm's statistics differ between the processes, and what PAT's prompts are told is each process's own.
    options = tiny_options(
        image_folder, tmp_path / "unused", method=MethodOptions("pat", {"width": 32}), checkpoint_every=2, epochs=6
    )
    whole = launch(tmp_path, "whole", options, processes=2)
    broken = launch(tmp_path, "broken", options, processes=2, kill=True)
    assert not (broken / "student.safetensors").exists()
    launch(tmp_path, "broken", options, 2, "--resume", "true")
    expected, resumed = load_file(whole / "student.safetensors"), load_file(broken / "student.safetensors")
    for name, tensor in expected.items():
        assert torch.equal(resumed[name], tensor), name
    assert metrics(whole) == metrics(broken)
