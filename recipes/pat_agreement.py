"""Whether PAT's prompted teacher stays a teacher: the figure of docs/methods/pat.md.

    python recipes/pat_agreement.py

The quickstart's CNN teaches its ViT on fashion-mini with the settings of `SETTINGS` and prompts at every stage, one
seed. Draws how many validation images the prompted teacher answers as the clean one does, over training, and prints a
Markdown table of the ends. Runs that are there are not run again.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from fashion_students import fashion_recipe
from tables import run_missing

from crossdistill.quickstart import PAIRS

SETTINGS: dict[str, dict[str, Any]] = {
    "released": {"variant": "released"},
    "default": {},
}
EVALUATE_EVERY = 3
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pat_agreement.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/pat_agreement"))
    arguments = parser.parse_args()
    curves: dict[str, list[dict[str, Any]]] = {}
    summaries: dict[str, dict[str, Any]] = {}
    for name, hyperparameters in SETTINGS.items():
        output = arguments.output / name
        everywhere = {"prompt_stages": [1, 2, 3, 4]} | hyperparameters
        changed = partial(fashion_recipe, PAIRS["cnn-vit"], hyperparameters=everywhere)
        summaries[name] = run_missing(changed, "pat", output, 0, evaluate_every=EVALUATE_EVERY)
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        curves[name] = [line for line in lines if line["kind"] == "evaluation"]
    _draw(curves)
    print("| setting | prompted teacher agrees with the clean one % | its top-1 % | student's top-1 % | seconds |")
    print("|---|---|---|---|---|")
    for name, summary in summaries.items():
        prompted = (f"{summary[f'prompted_teacher_{key}']:.1f}" for key in ("agreement", "top1"))
        cells = (name, *prompted, f"{summary['top1']:.2f}")
        print(f"| {' | '.join(cells)} | {summary['seconds']:.0f} |")


def _draw(curves: dict[str, list[dict[str, Any]]]) -> None:
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    for name, lines in curves.items():
        epochs = [0, *(line["epoch"] for line in lines)]
        # Before training every beta is 0: the prompted teacher is the clean one.
        axis.plot(epochs, [100, *(line["prompted_teacher_agreement"] for line in lines)], marker=".", label=name)
    axis.set_xlabel("epoch")
    axis.set_ylabel("agreement with the clean teacher, %", fontsize="small")
    axis.set_ylim(top=100.2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small", loc="lower left")
    figure.savefig(FIGURE, dpi=130)


if __name__ == "__main__":
    main()
