"""Accuracy on clean and on corrupted images of the students of a study: a table of docs/results.md.

    python recipes/robustness.py runs/cifar10_students/vit-cnn --data FOLDER --rows scratch cakd-without-views cakd

Judges the runs of a pair, as `compare` has them in ROW/SEED, on every n-th validation image: clean, and under eight
corruptions at five severities (what `evaluate --corruptions` does with all images). What was judged already is not
judged again.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from crossdistill.data import EvalLoader, ImageData, open_data
from crossdistill.evaluation.accuracy import evaluate
from crossdistill.evaluation.corruptions import CORRUPTIONS, SEVERITIES, CorruptedBatches
from crossdistill.models import load_student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", type=Path, help="folder of a pair within that of a study")
    parser.add_argument("--data", required=True, help="what the students were trained on")
    parser.add_argument("--rows", nargs="+", required=True)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    folders = {}
    for row in arguments.rows:
        finished = sorted(arguments.pair.glob(f"{row}/*/summary.json"), key=lambda file: int(file.parent.name))
        if not finished:
            parser.error(f"{arguments.pair} has no finished run of {row}")
        folders[row] = [file.parent for file in finished]
    kept = f"corrupted-{arguments.images}.json"
    missing = [folder for runs in folders.values() for folder in runs if not (folder / kept).exists()]
    if missing:
        for folder, top1 in _judge(missing, open_data(arguments.data), arguments.images).items():
            (folder / kept).write_text(json.dumps(top1))
    print("| row | clean top-1 % of each seed | mean | corrupted top-1 % of each seed | mean | spread | lost |")
    print("|---|---|---|---|---|---|---|")
    for row, runs in folders.items():
        judged = [json.loads((folder / kept).read_text()) for folder in runs]
        clean, corrupted = ([top1[kind] for top1 in judged] for kind in ("clean", "corrupted"))
        cells = (
            row,
            _each(clean),
            f"{statistics.mean(clean):.2f}",
            _each(corrupted),
            f"{statistics.mean(corrupted):.2f}",
            f"{statistics.stdev(corrupted):.2f}" if len(corrupted) > 1 else "",
            f"{statistics.mean(clean) - statistics.mean(corrupted):.2f}",
        )
        print(f"| {' | '.join(cells)} |")


def _judge(folders: list[Path], data: ImageData, images: int) -> dict[Path, dict[str, float]]:
    """By run folder: top-1 in percent on clean images, and its mean over corruptions and severities."""
    models = {folder: load_student(folder) for folder in folders}
    # One student under several methods, so one size for all of them.
    image_size = next(iter(models.values())).image_size
    # Spread over the set, which may be sorted by class.
    chosen = data.validation.subset(torch.linspace(0, len(data.validation) - 1, images).long())
    batches = list(EvalLoader(chosen, image_size=image_size, batch_size=250, device="cpu", workers=0))
    clean = {folder: evaluate(model, batches)["top1"] for folder, model in models.items()}
    corrupted: dict[Path, list[float]] = {folder: [] for folder in folders}
    # Corrupting costs more than small models do, so it is done once for all of them.
    for name, severity in track(list(itertools.product(CORRUPTIONS, SEVERITIES)), console=Console(stderr=True)):
        changed = list(CorruptedBatches(batches, name, severity))
        for folder, model in models.items():
            corrupted[folder].append(evaluate(model, changed)["top1"])
    return {folder: {"clean": clean[folder], "corrupted": statistics.mean(corrupted[folder])} for folder in folders}


def _each(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
