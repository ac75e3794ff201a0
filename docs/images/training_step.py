"""Draws docs/images/training_step.png: `python docs/images/training_step.py`."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BOXES = {
    "loader": (0.2, 3.0, 1.9, 1.0, "TrainLoader\nimages in [0, 1],\nlabels, indices", "#e8eef7"),
    "mixer": (2.6, 3.0, 1.7, 1.0, "Mixer\nsmoothing,\nmixup, CutMix", "#e8eef7"),
    "teacher": (5.3, 4.1, 2.6, 1.0, "teacher: StagedModel\nfrozen, eval mode", "#fdf0d5"),
    "student": (5.3, 1.9, 2.6, 1.0, "student: StagedModel\ntrained", "#d9ead3"),
    "method": (8.9, 3.0, 2.2, 1.0, "the method's equation\non logits, features\n+ its own modules", "#d9ead3"),
    "terms": (11.9, 3.0, 1.9, 1.0, "named, weighted\nloss terms", "#f4e1ec"),
    "step": (11.9, 0.25, 1.9, 1.0, "sum, backward,\nclip, optimiser,\nmoving average", "#e8eef7"),
    "critic": (8.9, 0.25, 2.2, 1.0, "critic (if any)\nown optimiser", "#f4e1ec"),
}
ARROWS = [
    ("loader", "mixer", "", 0.0),
    ("mixer", "teacher", "", 0.0),
    ("mixer", "student", "", 0.0),
    ("teacher", "method", "", 0.0),
    ("student", "method", "", 0.0),
    ("method", "terms", "", 0.0),
    ("terms", "step", "", 0.0),
    ("method", "critic", "real, fake", 0.0),
]


def main() -> None:
    figure, axes = plt.subplots(figsize=(14, 5.6), dpi=110)
    axes.set(xlim=(0, 14), ylim=(0, 5.7))
    axes.axis("off")
    axes.add_patch(
        FancyBboxPatch(
            (4.9, 1.65), 6.5, 3.85, boxstyle="round,pad=0.1", fill=False, linestyle="--", edgecolor="#666666"
        )
    )
    axes.text(5.0, 5.25, "Distiller.forward(images, labels)", fontsize=11, color="#444444")
    for x, y, width, height, text, color in BOXES.values():
        axes.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.05", facecolor=color, edgecolor="#333333")
        )
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10.5)
    for source, target, label, bend in ARROWS:
        start, end = _ends(BOXES[source][:4], BOXES[target][:4])
        axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=14, connectionstyle=f"arc3,rad={bend}", color="#333333"
            )
        )
        if label:
            middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
            axes.text(
                middle[0], middle[1] + 0.12, label, fontsize=9, ha="center", color="#555555", backgroundcolor="white"
            )
    figure.savefig(Path(__file__).with_suffix(".png"), bbox_inches="tight")


def _ends(
    source: tuple[float, float, float, float], target: tuple[float, float, float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves one box and meets another: sides where they lie side by side, else top and bottom."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = source, target
    if x2 > x1 + w1:
        return (x1 + w1 + 0.05, y1 + h1 / 2), (x2 - 0.08, y2 + h2 / 2)
    down = y2 < y1
    return (x1 + w1 / 2, y1 - 0.05 if down else y1 + h1), (x2 + w2 / 2, y2 + h2 + 0.08 if down else y2)


if __name__ == "__main__":
    main()
