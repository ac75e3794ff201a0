"""Draws docs/images/fbt_assistant.png: `python docs/images/fbt_assistant.py`."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STUDENT, TEACHER, NEW, LOSS = "#d9ead3", "#fdf0d5", "#cfe2f3", "#f4e1ec"
# Left edge, bottom, width, text, colour; all are of one height.
BOXES = {
    "images": (0.1, 1.9, 1.1, "images", "#eeeeee"),
    "t front": (1.9, 3.6, 2.2, "teacher's stages 1-3", TEACHER),
    "t tail": (7.2, 3.6, 2.4, "teacher's stage 4, head", TEACHER),
    "block": (4.7, 1.9, 1.9, "patch embedding,\nSwin block", NEW),
    "f tail": (7.2, 1.9, 2.4, "teacher's stage 4, head\n(the same modules)", TEACHER),
    "s front": (1.9, 0.2, 2.2, "student's stages 1-3", STUDENT),
    "s tail": (7.2, 0.2, 2.4, "student's stage 4, head", STUDENT),
    "t": (10.2, 3.6, 1.5, "$f_t$, $p_t$", LOSS),
    "f": (10.2, 1.9, 1.5, "$f_f$, $p_f$", LOSS),
    "s": (10.2, 0.2, 1.5, "$f_s$, $p_s$", LOSS),
}
ARROWS = [
    ("images", "t front"),
    ("images", "s front"),
    ("t front", "t tail"),
    ("s front", "block"),
    ("s front", "s tail"),
    ("block", "f tail"),
    ("t tail", "t"),
    ("f tail", "f"),
    ("s tail", "s"),
]
HEIGHT = 0.9


def main() -> None:
    figure, axes = plt.subplots(figsize=(13.5, 4.8), dpi=110)
    axes.set(xlim=(0, 13.4), ylim=(0, 4.7))
    axes.axis("off")
    for x, y, width, text, color in BOXES.values():
        axes.add_patch(
            FancyBboxPatch((x, y), width, HEIGHT, boxstyle="round,pad=0.05", facecolor=color, edgecolor="#333333")
        )
        axes.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=10)
    for source, target in ARROWS:
        (x, y, width, *_), (to_x, to_y, *_) = BOXES[source], BOXES[target]
        axes.add_patch(
            FancyArrowPatch(
                (x + width + 0.07, y + HEIGHT / 2),
                (to_x - 0.07, to_y + HEIGHT / 2),
                arrowstyle="-|>",
                mutation_scale=13,
                color="#333333",
            )
        )
    # From each source to its learner; the one that skips the assistant goes around it.
    for start, end, bend, label, at in (
        (3.55, 2.85, 0.0, "L(t, f)", (11.1, 3.13)),
        (1.85, 1.15, 0.0, "L(f, s)", (11.1, 1.43)),
        (4.0, 0.6, -0.5, "L(t, s)", (12.75, 2.3)),
    ):
        x = 10.95 if not bend else 11.8
        axes.add_patch(
            FancyArrowPatch(
                (x, start),
                (x, end),
                arrowstyle="-|>",
                mutation_scale=13,
                linestyle="--",
                connectionstyle=f"arc3,rad={bend}",
                color="#a0306a",
            )
        )
        axes.text(*at, label, fontsize=10, color="#a0306a")
    figure.savefig(Path(__file__).with_suffix(".png"), bbox_inches="tight")


if __name__ == "__main__":
    main()
