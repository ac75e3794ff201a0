"""How good a model is: accuracy, agreement, corrupted images, and what its representation is worth."""

from crossdistill.evaluation.accuracy import HEADLINES, check_classes, empty_logits, evaluate, headline, predict
from crossdistill.evaluation.corruptions import corrupted_top1
from crossdistill.evaluation.probes import Probe, knn_answers, linear_answers, represent

__all__ = [
    "HEADLINES",
    "Probe",
    "check_classes",
    "corrupted_top1",
    "empty_logits",
    "evaluate",
    "headline",
    "knn_answers",
    "linear_answers",
    "predict",
    "represent",
]
