"""Models: from a name and a weights file to a `StagedModel`, and back to a file."""

from crossdistill.models.build import build_model, load_student
from crossdistill.models.class_map import read_class_map
from crossdistill.models.fingerprint import weights_fingerprint
from crossdistill.models.stem import lower_stem_stride, stem_advice, stem_stride, suggested_stem_stride
from crossdistill.models.weights import load_weights, read_weights, save_model, weights_file

__all__ = [
    "build_model",
    "load_student",
    "load_weights",
    "lower_stem_stride",
    "read_class_map",
    "read_weights",
    "save_model",
    "stem_advice",
    "stem_stride",
    "suggested_stem_stride",
    "weights_file",
    "weights_fingerprint",
]
