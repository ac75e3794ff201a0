"""Draws docs/images/fbt_assistant.png: `python docs/images/fbt_assistant.py`."""

from pathlib import Path

from diagram import DATA, LOSS, NEW, STUDENT, TEACHER, Box, LossArrow, draw

BOXES: dict[str, Box] = {
    "images": (0.1, 1.9, 1.1, "images", DATA),
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
# From each source to its learner; the one that skips the assistant goes around it.
LOSSES: list[LossArrow] = [
    ((10.95, 3.55), (10.95, 2.85), 0.0, "L(t, f)", (11.1, 3.13)),
    ((10.95, 1.85), (10.95, 1.15), 0.0, "L(f, s)", (11.1, 1.43)),
    ((11.8, 4.0), (11.8, 0.6), -0.5, "L(t, s)", (12.75, 2.3)),
]

if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"), (13.4, 4.7), BOXES, ARROWS, LOSSES)
