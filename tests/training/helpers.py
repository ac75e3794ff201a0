"""A training run that takes a second."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.training import distill

TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}


def tiny_options(data: Path, output: Path, **changes: Any) -> TrainingOptions:
    """Five steps an epoch, two epochs; an untrained ViT teaches a CNN."""
    values: dict[str, Any] = {
        "output": str(output),
        "data": str(data),
        "student": ModelOptions("test_resnet"),
        "teacher": ModelOptions("vit_tiny_patch16_224", TINY_VIT),
        "allow_weak_teacher": True,
        "method": MethodOptions("kd"),
        "image_size": 32,
        "epochs": 2,
        "batch_size": 12,
        "log_every": 2,
        "accelerator": "cpu",
        "crop": "shifted",
        "workers": 0,
    }
    return TrainingOptions(**(values | changes))


def quiet_run(options: TrainingOptions) -> dict[str, Any]:
    return distill(options, Console(quiet=True))


def metrics(output: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "seconds")} for line in lines]
