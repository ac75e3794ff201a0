"""Every option as typed data, one file per owner: what the command line parses and `recipe.yaml` records.

A field, its meaning and its range stand together; facts about a field are its metadata. Nothing here imports torch, so
that `crossdistill distill --help` answers at once.
"""

from crossdistill.options.cache import CacheOptions
from crossdistill.options.data import DataOptions
from crossdistill.options.detection import DetectionOptions
from crossdistill.options.devices import DeviceOptions
from crossdistill.options.optimization import OptimizationOptions
from crossdistill.options.pair import MethodOptions, ModelOptions, PairOptions
from crossdistill.options.reporting import ReportingOptions
from crossdistill.options.training import PARTS, TrainingOptions
from crossdistill.options.values import check_ranges, height_and_width, type_in_words

__all__ = [
    "PARTS",
    "CacheOptions",
    "DataOptions",
    "DetectionOptions",
    "DeviceOptions",
    "MethodOptions",
    "ModelOptions",
    "OptimizationOptions",
    "PairOptions",
    "ReportingOptions",
    "TrainingOptions",
    "check_ranges",
    "height_and_width",
    "type_in_words",
]
