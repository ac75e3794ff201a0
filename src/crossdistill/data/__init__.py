"""Data sets, augmentation and loaders."""

from crossdistill.data.datasets import ImageData, open_data
from crossdistill.data.images import read_image, to_input
from crossdistill.data.loaders import Batch, EvalLoader, TrainLoader
from crossdistill.data.mixup import Mixer
from crossdistill.data.sources import FileSource, ImageSource, TensorSource

__all__ = [
    "Batch",
    "EvalLoader",
    "FileSource",
    "ImageData",
    "ImageSource",
    "Mixer",
    "TensorSource",
    "TrainLoader",
    "open_data",
    "read_image",
    "to_input",
]
