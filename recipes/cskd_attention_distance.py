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
from torch import Tensor

from crossdistill.analysis.attention_distance import AttentionDistances, grid_distances
from crossdistill.data import Batch
from crossdistill.methods.cskd import CSKD
from crossdistill.options import MethodOptions
from crossdistill.staged import Outputs, StagedModel
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

    _watched: AttentionDistances | None = None

    @torch.no_grad()
    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        # Made once, because it checks every layer; the recipe has no moving average, so the model stays the same.
        self._watched = self._watched or AttentionDistances(model)
        # One more pass: the outputs are there already.
        _, distances = self._watched(batch.images)
        by_layer = {f"distance_{k}": heads.mean(dim=1) for k, heads in enumerate(distances.values(), start=1)}
        return super().validation_metrics(batch, model, outputs) | by_layer


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
        axis.axhline(100 * grid_distances(GRID).mean().item(), color="grey", linestyle=":", label="to all alike")
        axis.set_title(f"layer {layer.removeprefix('distance_')}")
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("attention distance, % of the side")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
