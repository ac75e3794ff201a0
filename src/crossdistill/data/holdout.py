"""Parts of the training images: fewer of each class, and some to choose by instead of the validation images."""

from dataclasses import replace

import torch

from crossdistill.data import draws
from crossdistill.data.datasets import ImageData
from crossdistill.errors import UserError, check_range

# Not the seed of a run, so that all runs on a data set are chosen by the same images.
SEED = 0


def first_of_each_class(data: ImageData, count: int) -> ImageData:
    """Train on the first images of each class only; the validation images stay.

    Args:
        data: the data set.
        count: of each class, at least 1.

    Returns:
        The data set with another `train`, which keeps the order of the images, and their names.

    Raises:
        UserError: a class has fewer training images, or the images have no labels.
    """
    if not data.labelled:
        raise UserError(f"--images_per_class {count}: {data.name} has no labels: leave it out")
    labels = data.train.labels
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, name in enumerate(data.classes):
        of_class = (labels == label).nonzero().flatten()
        if len(of_class) < count:
            raise UserError(f"--images_per_class {count}: class '{name}' has {len(of_class)} training images")
        chosen[of_class[:count]] = True
    return replace(data, train=data.train.subset(chosen.nonzero().flatten()))


def hold_out(data: ImageData, share: float, seed: int = SEED) -> ImageData:
    """Validate on a stratified share of the training images, and train on the rest.

    The choice is a function of the labels of the training images, the share and the seed: the same on every machine.

    Args:
        data: the data set; its own validation images are not in the outcome.
        share: of each class that is held out, above 0 and below 1; rounded to whole images, but at least one is held
            out and at least one is left.
        seed: of the choice.

    Returns:
        The data set with other `train` and `validation`; both keep the order of the training images, and their names.
        Images without labels count as one class.

    Raises:
        UserError: the share is not between 0 and 1, or a class has a single training image.
    """
    check_range(above=0, below=1, held_out=share)
    if not data.labelled and len(data.train) == 1:
        raise UserError(f"{data.name} has one image: there is none to hold out")
    labels = data.train.labels
    held = torch.zeros(len(labels), dtype=torch.bool)
    order = draws.permutation(len(labels), seed, 0, draws.HOLD_OUT)
    # A class without any training image is not among them: there is nothing to share out.
    for label, count in zip(*(part.tolist() for part in labels.unique(return_counts=True)), strict=True):
        if count == 1:
            raise UserError(
                f"--held_out {share:g}: class '{data.classes[label]}' has one training image, which cannot be on both "
                "sides: add some, or leave the class out"
            )
        of_class = order[labels[order] == label]
        held[of_class[: min(max(round(share * count), 1), count - 1)]] = True
    return replace(
        data,
        train=data.train.subset((~held).nonzero().flatten()),
        validation=data.train.subset(held.nonzero().flatten()),
    )
