"""A weights file run by PyTorch as it is: what the teacher and the student are measured as, to compare with."""

from pathlib import Path

import numpy as np
import torch

from crossdistill.export.backend import Runtime
from crossdistill.export.description import Description
from crossdistill.models import load_student


def open_weights(path: Path, threads: int | None = None) -> Runtime:
    """A file that `save_model` wrote, as `Backend.open` opens those of other formats."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_student(path)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images)).logits.numpy()

    description = Description(model.name, model.image_size, model.card.classes or [])
    return Runtime(run, f"torch {torch.__version__}", description)
