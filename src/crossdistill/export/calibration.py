"""The images that an int8 form is calibrated with."""

import numpy as np

from crossdistill.data import EvalLoader, ImageSource, draws
from crossdistill.errors import UserError


def calibration_images(train: ImageSource, image_size: tuple[int, int], count: int, seed: int) -> list[np.ndarray]:
    """Training images as for evaluation: a random choice, the same for the same seed.

    Args:
        train: the training images of the data set; validation images would make the judgement kinder than it should be.
        image_size: (height, width) that the student sees.
        count: how many.
        seed: of the choice.

    Returns:
        (1, 3, H, W) float32 in [0, 1], each.

    Raises:
        UserError: there are none.
    """
    if not len(train):
        raise UserError("--int8 needs training images to calibrate with, and the data have none: leave --int8 out")
    chosen = draws.permutation(len(train), seed, 0, draws.SUBSET)[:count]
    loader = EvalLoader(
        train.subset(chosen), image_size=image_size, batch_size=1, device="cpu", workers=0, cache_images="false"
    )
    return [batch.images.numpy() for batch in loader]
