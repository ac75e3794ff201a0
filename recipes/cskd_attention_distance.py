"""How far a ViT looks while CSKD teaches it, with and without fusion: the figure of docs/methods/cskd.md.

    python recipes/cskd_attention_distance.py

Trains the ViT of the study `ablations-cskd` on fashion-mini three times (local answers that fade, local answers
throughout, no spatial term) and measures, on all validation images, the attention distance of every layer: the mean
distance between a patch and the patches that it attends to, weighted by the attention, over patches, heads and images
(Dosovitskiy et al., ICLR 2021, figure 7), here in percent of the image's side. A dotted line shows what attention to
all patches alike would give. Runs that are there are not run again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.methods.cskd import CSKD
from crossdistill.options import MethodOptions
from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.attention import is_attention, project
from crossdistill.study import read_study
from crossdistill.study.engines import finish
from crossdistill.study.files import asset

SETTINGS: dict[str, dict[str, Any]] = {
    "fusion": {},
    "no fusion": {"fusion": False},
    "no spatial term": {"spatial_weight": 0.0},
}
EVALUATE_EVERY = 3
GRID = (4, 4)
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "cskd_attention_distance.png"


class WatchedCSKD(CSKD):
    """CSKD whose evaluations also hold the attention distance of every layer of the student."""

    @torch.no_grad()
    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        distances: dict[str, Tensor] = {}

        def measure(name: str) -> Any:
            def hook(attention: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                distances[name] = attention_distance(attention, arguments[0], model.stages[-1].size)

            return hook

        layers = [module for module in model.modules() if is_attention(module)]
        hooks = [layer.register_forward_pre_hook(measure(f"distance_{k}")) for k, layer in enumerate(layers, start=1)]
        try:
            # One more pass: the outputs are there already.
            model(batch.images)
            return super().validation_metrics(batch, model, outputs) | distances
        finally:
            for hook in hooks:
                hook.remove()


def attention_distance(attention: nn.Module, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,) mean distance from a patch to what it attends to, as a share of the image's side.

    Args:
        attention: a module with plain softmax attention.
        tokens: (B, N, C) what it is given, prefix tokens first.
        size: (H, W) of the grid of patches.
    """
    queries, keys, _ = project(attention, tokens)
    patches = size[0] * size[1]
    logits = (queries @ keys.mT)[..., -patches:, -patches:] / queries.shape[-1] ** 0.5
    return (logits.softmax(dim=-1) * distances(size).to(tokens)).sum(dim=-1).mean(dim=(1, 2))


def distances(size: tuple[int, int]) -> Tensor:
    """(H * W, H * W) from every patch of a grid to every other, as shares of the image's side."""
    rows, columns = torch.meshgrid(torch.arange(size[0]) / size[0], torch.arange(size[1]) / size[1], indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1)
    return torch.cdist(places, places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/attention_distance"))
    arguments = parser.parse_args()
    curves = {}
    study = read_study("ablations-cskd")
    for name, hyperparameters in SETTINGS.items():
        output = arguments.output / name.replace(" ", "_")
        options = study.options("cnn-distilled-vit", study.rows["full"])
        options.teacher_weights = asset(options.teacher_weights)
        options.method = MethodOptions("cskd_attention_distance.WatchedCSKD", hyperparameters)
        options.output, options.evaluate_every = str(output), EVALUATE_EVERY
        finish(options, Console(quiet=True))
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        curves[name] = [line for line in lines if "distance_1" in line]
    _draw(curves)


def _draw(curves: dict[str, list[dict[str, Any]]]) -> None:
    layers = [key for key in next(iter(curves.values()))[0] if key.startswith("distance_")]
    figure, axes = plt.subplots(1, len(layers), figsize=(2.2 * len(layers), 2.9), sharey=True, layout="constrained")
    for axis, layer in zip(axes, layers, strict=True):
        for name, lines in curves.items():
            axis.plot([line["epoch"] for line in lines], [line[layer] for line in lines], label=name)
        axis.axhline(100 * distances(GRID).mean().item(), color="grey", linestyle=":", label="to all alike")
        axis.set_title(f"layer {layer.removeprefix('distance_')}")
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("attention distance, % of the side")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
