"""Two processes on gloo: the same training as one, and exact resume."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import TINY_VIT, metrics, tiny_options
from safetensors.torch import load_file
from torch.testing import assert_close

from crossdistill.options import MethodOptions, ModelOptions
from crossdistill.train.run_folder import RunFolder


def launch(folder: Path, name: str, options: object, processes: int, *flags: str) -> Path:
    """Run the command as a user would, in as many processes as asked for."""
    output = folder / name
    recipe = folder / f"{name}.yaml"
    RunFolder(folder / f"recipe-of-{name}").create(options)  # type: ignore[arg-type]
    values = yaml.safe_load((folder / f"recipe-of-{name}" / "recipe.yaml").read_text())
    recipe.write_text(yaml.safe_dump(values | {"output": str(output), "devices": processes}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "crossdistill", "distill", "--config", str(recipe), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.mark.parametrize("method", ["kd", "ofa"])
def test_two_processes_equal_one(method: str, image_folder: Path, tmp_path: Path) -> None:
    # A ViT has no batch norm, so the gradient of the global batch is the mean of the two halves' gradients.
    options = tiny_options(
        image_folder,
        tmp_path / "unused",
        student=ModelOptions("vit_tiny_patch16_224", TINY_VIT),
        teacher=ModelOptions("test_resnet"),
        method=MethodOptions(method),
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


def test_two_processes_with_batch_norm_resume_exactly(image_folder: Path, tmp_path: Path) -> None:
    options = tiny_options(image_folder, tmp_path / "unused", checkpoint_every=3, epochs=2)
    whole = launch(tmp_path, "whole", options, processes=2)
    broken = launch(tmp_path, "broken", options, processes=2)
    # Undo the second epoch: what is left is a run that was killed after the first checkpoint of the second.
    (broken / "student.safetensors").unlink()
    (broken / "summary.json").unlink()
    resumed = launch(tmp_path, "broken", options, 2, "--resume", "true")
    for name, tensor in load_file(whole / "student.safetensors").items():
        assert_close(load_file(resumed / "student.safetensors")[name], tensor, rtol=0, atol=0)
