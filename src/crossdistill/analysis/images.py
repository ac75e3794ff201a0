"""The images that models are looked at with."""

from collections.abc import Iterable

import torch

from crossdistill.data import ImageSource
from crossdistill.staged import StagedModel

# The same images for every pair, so that numbers can be compared.
_SEED = 0


def choose_images(source: ImageSource, count: int) -> ImageSource:
    """A fixed random choice, in the order of the source; all of them where there are no more."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(_SEED))
    return source.subset(order[:count].sort().values)


def common_size(models: Iterable[StagedModel]) -> tuple[int, int]:
    """The (height, width) from which no model has to enlarge images that another sees larger."""
    heights, widths = zip(*(model.image_size for model in models), strict=True)
    return max(heights), max(widths)
