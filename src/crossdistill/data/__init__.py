"""Data sets, augmentation and loaders."""

from crossdistill.data.datasets import ImageData, ValidationData, open_data, open_validation
from crossdistill.data.fingerprint import fingerprint
from crossdistill.data.holdout import first_of_each_class, hold_out
from crossdistill.data.images import read_image, to_input
from crossdistill.data.loaders import Batch, EvalLoader, TrainLoader
from crossdistill.data.mixup import Mixer
from crossdistill.data.sources import NO_LABEL, DatasetSource, FileSource, ImageSource, TensorSource

__all__ = [
    "NO_LABEL",
    "Batch",
    "DatasetSource",
    "EvalLoader",
    "FileSource",
    "ImageData",
    "ImageSource",
    "Mixer",
    "TensorSource",
    "TrainLoader",
    "ValidationData",
    "fingerprint",
    "first_of_each_class",
    "hold_out",
    "open_data",
    "open_validation",
    "read_image",
    "to_input",
]
