"""Draws docs/images/cakd_projectors.png: `python docs/images/cakd_projectors.py`."""

from pathlib import Path

from diagram import DATA, LOSS, NEW, STUDENT, TEACHER, Box, LossArrow, draw

BOXES: dict[str, Box] = {
    "images": (0.1, 4.9, 1.1, "images", DATA),
    "view": (0.1, 1.7, 1.1, "view (7)", DATA),
    "teacher": (1.9, 4.9, 2.3, "teacher, up to the\nlast attention", TEACHER),
    "rest t": (5.2, 5.65, 2.1, "rest of the last\nblock, norm", TEACHER),
    "h t": (11.2, 5.65, 1.6, "tokens $h_T$", TEACHER),
    "qkv t": (5.2, 4.4, 2.1, "$Q_T$, $K_T$, $V_T$", TEACHER),
    "h s": (1.9, 1.7, 2.3, "student, up to the\nmap $h_S$", STUDENT),
    "pca": (5.2, 3.1, 2.1, "three 3x3\nconvolutions (1)", NEW),
    "gl": (5.2, 1.7, 2.1, "a linear layer for\neach 4x4 block (5)", NEW),
    "rest": (5.2, 0.3, 2.1, "student's\nlast stages, head", STUDENT),
    "cross": (8.2, 3.1, 2.1, "half of $Q_S K_S V_S$\nreplaced (3)", NEW),
    "attention t": (11.2, 4.4, 1.6, "attention,\nGram", TEACHER),
    "attention": (11.2, 3.1, 1.6, "attention,\nGram", LOSS),
    "tokens": (11.2, 1.7, 1.6, "tokens $h'_S$", LOSS),
    "critic": (14.2, 3.6, 1.4, "critic (8)", NEW),
    "labels": (11.2, 0.3, 1.6, "labels", LOSS),
}
ARROWS = [
    ("images", "teacher"),
    ("teacher", "qkv t"),
    ("teacher", "rest t"),
    ("rest t", "h t"),
    ("view", "h s"),
    ("h s", "pca"),
    ("h s", "gl"),
    ("h s", "rest"),
    ("pca", "cross"),
    ("qkv t", "cross"),
    ("cross", "attention"),
    ("qkv t", "attention t"),
    ("gl", "tokens"),
    ("tokens", "critic"),
    ("h t", "critic"),
    ("rest", "labels"),
]
LOSSES: list[LossArrow] = [
    ((12.0, 4.33), (12.0, 4.07), 0.0, "L (4)", (12.1, 4.13)),
    ((12.9, 5.9), (12.9, 2.3), -0.3, "L (6)", (12.9, 4.0)),
    ((14.9, 3.53), (12.9, 1.95), -0.3, "L (9)", (14.3, 2.2)),
    ((0.65, 4.83), (0.65, 2.68), 0.0, "colour,\nhidden\npatches", (0.75, 3.4)),
]

if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"), (15.8, 6.7), BOXES, ARROWS, LOSSES)
