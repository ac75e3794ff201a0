"""Numbers that any program can make again: inputs of the values that other implementations gave."""

import torch
from torch import Tensor


def wave(rows: int, columns: int, phase: float, scale: float = 1.0) -> Tensor:
    """scale * sin(n^1.5 + phase), n counted row by row, in float64."""
    n = torch.arange(rows * columns, dtype=torch.float64)
    return (scale * torch.sin(n**1.5 + phase)).reshape(rows, columns)


# Logits of five images and seven classes, and their labels.
STUDENT_LOGITS, TEACHER_LOGITS = wave(5, 7, 0.0, 3.0), wave(5, 7, 1.0, 5.0)
LABELS = torch.tensor([3, 0, 6, 2, 3])
# Pooled vectors of five images, of different widths.
STUDENT_POOLED, TEACHER_POOLED = wave(5, 4, 0.5), wave(5, 9, 2.0)
