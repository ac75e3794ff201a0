"""Boxes and arrows, for the diagrams beside this file."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STUDENT, TEACHER, NEW, LOSS, DATA = "#d9ead3", "#fdf0d5", "#cfe2f3", "#f4e1ec", "#eeeeee"
LOSS_ARROW = "#a0306a"
HEIGHT = 0.9

# Left edge, bottom, width, text, colour; all are of one height.
Box = tuple[float, float, float, str, str]
# From and to in the figure's units, bend, label, place of the label.
LossArrow = tuple[tuple[float, float], tuple[float, float], float, str, tuple[float, float]]


def draw(
    path: Path,
    size: tuple[float, float],
    boxes: dict[str, Box],
    arrows: Sequence[tuple[str, str]],
    losses: Sequence[LossArrow] = (),
) -> None:
    """Draw boxes, arrows from the right side of one to the left side of another, and dashed arrows of losses."""
    width, height = size
    figure, axes = plt.subplots(figsize=size, dpi=110)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    for x, y, box_width, text, color in boxes.values():
        axes.add_patch(
            FancyBboxPatch((x, y), box_width, HEIGHT, boxstyle="round,pad=0.05", facecolor=color, edgecolor="#333333")
        )
        axes.text(x + box_width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=10)
    for source, target in arrows:
        (x, y, box_width, *_), (to_x, to_y, *_) = boxes[source], boxes[target]
        axes.add_patch(
            FancyArrowPatch(
                (x + box_width + 0.07, y + HEIGHT / 2),
                (to_x - 0.07, to_y + HEIGHT / 2),
                arrowstyle="-|>",
                mutation_scale=13,
                color="#333333",
            )
        )
    for start, end, bend, label, at in losses:
        axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle="-|>",
                mutation_scale=13,
                linestyle="--",
                connectionstyle=f"arc3,rad={bend}",
                color=LOSS_ARROW,
            )
        )
        axes.text(*at, label, fontsize=10, color=LOSS_ARROW)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
