"""Draws docs/images/pat_prompts.png: `python docs/images/pat_prompts.py`."""

from pathlib import Path

from diagram import DATA, LOSS, NEW, STUDENT, TEACHER, Box, LossArrow, draw

BOXES: dict[str, Box] = {
    "images": (0.1, 3.3, 1.1, "images", DATA),
    "clean": (2.0, 5.6, 4.9, "teacher, as it is", TEACHER),
    "t": (12.3, 5.6, 1.5, "logits $t$", TEACHER),
    "prompts": (2.0, 3.7, 1.9, "a prompt at each\nstage's entry (3)", NEW),
    "stages": (4.7, 3.7, 2.2, "teacher's stages\n(the same modules)", TEACHER),
    "features": (8.9, 3.7, 2.0, "features $F'_i$,\nstandardised", LOSS),
    "t'": (12.3, 3.7, 1.5, "logits $t'$", LOSS),
    "student": (2.0, 0.9, 1.9, "student's stages\n$F_1$ ... $F_4$", STUDENT),
    "regions": (4.7, 1.6, 2.2, "attention over all\nstages' regions (1)", NEW),
    "aligned": (8.9, 1.6, 2.0, "aligned $A_i$ (2)", LOSS),
    "head": (4.7, 0.2, 2.2, "student's head", STUDENT),
    "s": (12.3, 0.2, 1.5, "logits $s$", LOSS),
}
ARROWS = [
    ("images", "clean"),
    ("images", "prompts"),
    ("images", "student"),
    ("clean", "t"),
    ("prompts", "stages"),
    ("stages", "features"),
    ("features", "t'"),
    ("student", "regions"),
    ("student", "head"),
    ("regions", "aligned"),
    ("head", "s"),
]
LOSSES: list[LossArrow] = [
    ((9.9, 3.63), (9.9, 2.57), 0.0, "HCL (5)", (10.0, 3.0)),
    ((13.05, 5.53), (13.05, 4.67), 0.0, "KD", (13.15, 5.03)),
    ((13.88, 6.05), (13.88, 0.65), -0.35, "KD", (14.95, 3.3)),
    ((8.83, 2.5), (3.2, 3.62), -0.1, "gap of the last step (4)", (5.4, 3.1)),
]

if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"), (15.5, 6.7), BOXES, ARROWS, LOSSES)
