"""Whether PAT's prompted teacher stays a teacher: the figure of docs/methods/pat.md.

    python recipes/pat_agreement.py
    python recipes/pat_agreement.py --cifar10 cifar10

A CNN teaches a ViT with the settings of `SETTINGS` and prompts at every stage, one seed: a pair of the study
`ablations-pat` on fashion-mini, and with `--cifar10` (what `--data` takes, for the images of CIFAR-10) one of the study
`cifar10`, whose teacher lies in runs/cifar10/cnn. Draws how many validation images the prompted teacher answers as the
clean one does, over training, and prints a Markdown table of the ends. Runs that are there are not run again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console

from crossdistill.study import Study, read_study
from crossdistill.study.engines import finish
from crossdistill.study.files import asset

SETTINGS: dict[str, dict[str, Any]] = {
    "released": {"variant": "released"},
    "default": {},
}
# The pair of each study, and the epochs between two points of the figure.
PAIRS = {"Fashion-MNIST": ("cnn-distilled-vit", "full", 3), "CIFAR-10": ("cnn-vit", "pat", 2)}
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pat_agreement.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/pat_agreement"))
    parser.add_argument("--cifar10", help="where CIFAR-10 is, as --data takes it")
    arguments = parser.parse_args()
    studies = {"Fashion-MNIST": read_study("ablations-pat")}
    if arguments.cifar10:
        studies["CIFAR-10"] = read_study("cifar10").override({"data": arguments.cifar10})
    figure, axes = plt.subplots(1, len(studies), figsize=(5 * len(studies), 3), layout="constrained", squeeze=False)
    print("| images | setting | prompted teacher agrees with the clean one % | its top-1 % | student's top-1 % |")
    print("|---|---|---|---|---|")
    for axis, (data, study) in zip(axes[0], studies.items(), strict=True):
        for name, hyperparameters in SETTINGS.items():
            output = arguments.output / (name if data == "Fashion-MNIST" else f"cifar10-{name}")
            summary = _run(study, data, hyperparameters, output)
            _draw(axis, name, output)
            kinds = ("prompted_teacher_agreement", "prompted_teacher_top1", "top1")
            cells = (data, name, *(f"{summary[kind]:.1f}" for kind in kinds))
            print(f"| {' | '.join(cells)} |", flush=True)
        axis.set_title(data, fontsize="small")
        axis.set_xlabel("epoch")
        axis.set_ylabel("agreement with the clean teacher, %", fontsize="small")
        axis.set_ylim(top=100.2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize="small", loc="lower left")
    figure.savefig(FIGURE, dpi=130)


def _run(study: Study, data: str, hyperparameters: dict[str, Any], output: Path) -> dict[str, Any]:
    """The summary of a run, which is made unless it is there."""
    pair, row, evaluate_every = PAIRS[data]
    options = study.options(pair, study.rows[row])
    options.teacher_weights = asset(options.teacher_weights)
    options.method.kwargs |= {"prompt_stages": [1, 2, 3, 4]} | hyperparameters
    options.output, options.evaluate_every = str(output), evaluate_every
    return finish(options, Console(quiet=True))


def _draw(axis: Axes, name: str, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    epochs = [0, *(line["epoch"] for line in evaluations)]
    # Before training every beta is 0: the prompted teacher is the clean one.
    axis.plot(epochs, [100, *(line["prompted_teacher_agreement"] for line in evaluations)], marker=".", label=name)


if __name__ == "__main__":
    main()
