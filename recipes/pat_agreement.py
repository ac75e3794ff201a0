"""Whether PAT's prompted teacher stays a teacher: the figure of docs/methods/pat.md.

    python recipes/pat_agreement.py
    python recipes/pat_agreement.py --students runs/cifar10_students --teachers runs/cifar10

A CNN teaches a ViT with the settings of `SETTINGS` and prompts at every stage, one seed: the quickstart's second pair
on fashion-mini, and with `--students` (the output of recipes/cifar10_students.py, for its images) the pair of that
study on CIFAR-10 too. Draws how many validation images the prompted teacher answers as the clean one does, over
training, and prints a Markdown table of the ends. Runs that are there are not run again.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from cifar10_students import VIT, cifar10_recipe
from crossdistill.quickstart import PAIRS
from fashion_students import fashion_recipe
from matplotlib.axes import Axes
from tables import run_missing

from crossdistill.options import TrainingOptions

SETTINGS: dict[str, dict[str, Any]] = {
    "released": {"variant": "released"},
    "default": {},
}
EVALUATE_EVERY = {"Fashion-MNIST": 3, "CIFAR-10": 2}
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pat_agreement.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/pat_agreement"))
    parser.add_argument("--students", type=Path, help="where recipes/cifar10_students.py wrote")
    parser.add_argument("--teachers", type=Path, default=Path("runs/cifar10"))
    arguments = parser.parse_args()
    recipes: dict[str, Callable[..., TrainingOptions]] = {"Fashion-MNIST": partial(fashion_recipe, PAIRS["cnn-vit"])}
    if arguments.students:
        teacher = arguments.teachers / "cnn" / "student.safetensors"
        recipes["CIFAR-10"] = partial(cifar10_recipe, VIT, str(teacher), str(arguments.students / "data"))
    figure, axes = plt.subplots(1, len(recipes), figsize=(5 * len(recipes), 3), layout="constrained", squeeze=False)
    print("| images | setting | prompted teacher agrees with the clean one % | its top-1 % | student's top-1 % |")
    print("|---|---|---|---|---|")
    for axis, (data, recipe) in zip(axes[0], recipes.items(), strict=True):
        for name, hyperparameters in SETTINGS.items():
            output = arguments.output / (name if data == "Fashion-MNIST" else f"cifar10-{name}")
            changed = partial(recipe, hyperparameters={"prompt_stages": [1, 2, 3, 4]} | hyperparameters)
            summary = run_missing(changed, "pat", output, 0, evaluate_every=EVALUATE_EVERY[data])
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


def _draw(axis: Axes, name: str, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    epochs = [0, *(line["epoch"] for line in evaluations)]
    # Before training every beta is 0: the prompted teacher is the clean one.
    axis.plot(epochs, [100, *(line["prompted_teacher_agreement"] for line in evaluations)], marker=".", label=name)


if __name__ == "__main__":
    main()
