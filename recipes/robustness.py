"""Accuracy on clean and on corrupted images of the students of a study: a table of docs/results.md.

    python recipes/robustness.py runs/cifar10_students/vit-cnn --data FOLDER --methods scratch cakd-without-views cakd

Judges the run folders METHOD-SEED in the study's folder, on every n-th validation image: clean, and under eight
corruptions at five severities (what `evaluate --corruptions` does with all images). What was judged already is not
judged again.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from tables import summaries

from crossdistill.data import EvalLoader, ImageData, open_data
from crossdistill.train.evaluate import corrupted_top1, evaluate
from crossdistill.weights import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of the run folders")
    parser.add_argument("--data", required=True, help="what the students were trained on")
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    data = open_data(arguments.data)
    print("| method | clean top-1 % of each seed | mean | corrupted top-1 % of each seed | mean | spread | lost |")
    print("|---|---|---|---|---|---|---|")
    for method in arguments.methods:
        seeds = sorted(summaries(arguments.study, method))
        if not seeds:
            parser.error(f"{arguments.study} has no finished run of {method}")
        judged = [_judge(arguments.study / f"{method}-{seed}", data, arguments.images) for seed in seeds]
        clean, corrupted = ([top1[kind] for top1 in judged] for kind in ("clean", "corrupted"))
        cells = (
            method,
            _each(clean),
            f"{statistics.mean(clean):.2f}",
            _each(corrupted),
            f"{statistics.mean(corrupted):.2f}",
            f"{statistics.stdev(corrupted):.2f}" if len(corrupted) > 1 else "",
            f"{statistics.mean(clean) - statistics.mean(corrupted):.2f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def _judge(folder: Path, data: ImageData, images: int) -> dict[str, float]:
    """Top-1 in percent on clean images, and its mean over corruptions and severities, kept in the run's folder."""
    kept = folder / f"corrupted-{images}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    model = load_model(folder)
    # Spread over the set, which may be sorted by class.
    chosen = data.validation.subset(torch.linspace(0, len(data.validation) - 1, images).long())
    batches = EvalLoader(chosen, image_size=model.image_size, batch_size=250, device="cpu", workers=0)
    clean = evaluate(model, batches)["top1"]
    corrupted = statistics.mean(statistics.mean(values) for values in corrupted_top1(model, batches).values())
    kept.write_text(json.dumps({"clean": clean, "corrupted": corrupted}))
    return {"clean": clean, "corrupted": corrupted}


def _each(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
