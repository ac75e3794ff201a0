"""A run that is asked to stop while other processes decode its images."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_its_processes_ends_a_run_without_a_traceback(
    number: int, image_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "crossdistill", "train", "--data", str(image_folder), "--student", "test_resnet"]
    command += ["--image_size", "32", "--output", str(tmp_path / "run"), "--epochs", "10000", "--batch_size", "4"]
    command += ["--cache_images", "false", "--log_every", "5", "--workers", "2", "--accelerator", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "step 10/" in line:
            break
    os.killpg(process.pid, number)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in rest and "--resume true" in rest
