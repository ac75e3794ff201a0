"""Options of the data: which images, how they are loaded, and what is done to them."""

from dataclasses import dataclass, field
from typing import Literal

from crossdistill.options.facts import FREE_ON_RESUME
from crossdistill.options.values import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    PositiveShare,
    Seed,
    Share,
    ShareBelowOne,
)


@dataclass
class DataOptions:
    """The data, and what is done to the images."""

    data: str = ""
    """an image folder with train/ and val/ (or test/), the name of a built-in set, the dotted path of a function
    that gives two data sets and the class names, or, for methods that need no labels, any folder of images."""
    images_per_class: PositiveInt | None = None
    """train on the first so many training images of each class; default: on all."""
    held_out: ShareBelowOne = 0.0
    """share of the training images, the same of every class, that is validated on instead of the validation images;
    for choosing settings. Of images without labels: a twentieth, unless said otherwise."""
    data_seed: Seed | None = None
    """of order, augmentation and mixing; default: the seed."""
    on_bad_image: Literal["stop", "skip"] = field(default="stop", metadata=FREE_ON_RESUME)
    """what a file that cannot be decoded does: stop before training, or be skipped and counted."""
    # Not free on resume: kept images are augmented on the device, by other draws than those of the workers.
    cache_images: Literal["auto", "true", "false"] = "auto"
    """keep decoded images in memory as bytes; auto: where they are small enough."""
    workers: NonNegativeInt = field(default=2, metadata=FREE_ON_RESUME)
    """processes that decode and augment images that are not kept in memory."""
    crop: Literal["resized", "shifted", "none"] = "resized"
    """training crop: a random resized crop, a shifted crop after padding by an eighth, or none."""
    crop_scale: PositiveShare = 0.35
    """least area of the random resized crop."""
    flip: Share = 0.5
    """probability of a horizontal flip."""
    color_jitter: NonNegativeFloat = 0.0
    """strength of colour jitter."""
    rand_augment: str | None = None
    """RandAugment policy in timm's notation, for example rand-m9-mstd0.5-inc1."""
    random_erasing: Share = 0.0
    """probability that a rectangle is erased."""
    repeated_augmentation: PositiveInt = 1
    """views of an image within one epoch's batches; an epoch keeps its length."""
    label_smoothing: Share = 0.0
    """share of a label that is spread over all classes."""
    mixup: NonNegativeFloat = 0.0
    """alpha of mixup; 0 is off."""
    cutmix: NonNegativeFloat = 0.0
    """alpha of CutMix; 0 is off; with mixup, one of the two is drawn for a batch."""
