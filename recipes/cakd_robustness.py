"""Accuracy on clean and on corrupted images, of CAKD with and without its views: a table of docs/results.md.

    python recipes/cakd_robustness.py --seeds 0 1 2

The quickstart's ViT teaches its CNN on fashion-mini with scratch, CAKD without views and CAKD. All are judged on the
first `--images` validation images: clean, and under eight corruptions at five severities (what
`evaluate --corruptions` does with all of them). Runs that are there are not run again.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fashion_students import fashion_recipe
from tables import run_missing

from crossdistill.data import EvalLoader, open_data
from crossdistill.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedBatches
from crossdistill.quickstart import PAIRS
from crossdistill.train.evaluate import evaluate
from crossdistill.weights import load_model

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch": ("scratch", {}),
    "cakd-no-views": ("cakd", {"view_probability": 0.0}),
    "cakd": ("cakd", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("runs/cakd_robustness"))
    arguments = parser.parse_args()
    print("| | clean top-1 % of each seed | mean | corrupted top-1 % of each seed | mean | spread |")
    print("|---|---|---|---|---|---|")
    for name, (method, hyperparameters) in SETTINGS.items():
        clean, corrupted = [], []
        for seed in arguments.seeds:
            folder = arguments.output / f"{name}-{seed}"
            changed = partial(fashion_recipe, PAIRS["vit-cnn"], hyperparameters=hyperparameters)
            run_missing(changed, method, folder, seed)
            top1 = _judge(folder, arguments.images)
            clean.append(top1.pop("clean"))
            corrupted.append(statistics.mean(top1.values()))
        spread = f"{statistics.stdev(corrupted):.2f}" if len(corrupted) > 1 else ""
        cells = (name, _each(clean), f"{statistics.mean(clean):.2f}", _each(corrupted))
        print(f"| {' | '.join(cells)} | {statistics.mean(corrupted):.2f} | {spread} |", flush=True)


def _judge(folder: Path, images: int) -> dict[str, float]:
    """Top-1 in percent on clean images and under each corruption and severity, kept in the run's folder."""
    kept = folder / f"corrupted-{images}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    model = load_model(folder)
    chosen = open_data("fashion-mini").validation.subset(torch.arange(images))
    batches = EvalLoader(chosen, image_size=model.image_size, batch_size=250, device="cpu", workers=0)
    top1 = {"clean": evaluate(model, batches)["top1"]}
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            top1[f"{name}-{severity}"] = evaluate(model, CorruptedBatches(batches, name, severity))["top1"]
    kept.write_text(json.dumps(top1))
    return top1


def _each(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
